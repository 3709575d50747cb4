//! Exchanges: which queues a key leads to.

use std::collections::{BTreeSet, HashMap};

use event_core::{Binding, ExchangeName, Message, RoutingKey, TopicMap};

/// The place of a queue in [`Queues`](crate::state::Queues). A binding goes with its queue, so a place that
/// an exchange knows is taken.
pub(crate) type Place = usize;

#[derive(Debug, Default)]
pub(crate) struct Exchanges(HashMap<ExchangeName, TopicMap<Place>>);

impl Exchanges {
    pub(crate) fn declare(&mut self, exchange: &ExchangeName) {
        self.map(exchange);
    }

    fn map(&mut self, exchange: &ExchangeName) -> &mut TopicMap<Place> {
        self.0.entry(exchange.clone()).or_insert_with(TopicMap::new)
    }

    pub(crate) fn bind(&mut self, binding: &Binding, queue: Place) {
        self.map(&binding.exchange).insert(&binding.pattern, queue);
    }

    pub(crate) fn unbind(&mut self, binding: &Binding, queue: Place) {
        if let Some(map) = self.0.get_mut(&binding.exchange) {
            map.remove(&binding.pattern, |bound| *bound == queue);
        }
    }

    pub(crate) fn unbind_all(&mut self, bindings: &BTreeSet<Binding>, queue: Place) {
        for binding in bindings {
            self.unbind(binding, queue);
        }
    }
}

/// Where the last message of a batch went: the next usually goes there too.
#[derive(Debug, Default)]
pub(crate) struct Route {
    from: Option<(ExchangeName, RoutingKey)>,
    queues: Vec<Place>,
}

impl Route {
    /// The queues, each once.
    pub(crate) fn queues(&self) -> &[Place] {
        &self.queues
    }

    pub(crate) fn is_for(&self, message: &Message) -> bool {
        matches!(&self.from, Some((exchange, key)) if key == message.key() && exchange == message.exchange())
    }

    /// Looks up where this message goes. Publishing declares the exchange.
    pub(crate) fn find(&mut self, message: &Message, exchanges: &mut Exchanges) {
        self.queues.clear();
        exchanges
            .map(message.exchange())
            .for_each_match(message.key(), |queue| self.queues.push(*queue));
        // A queue that several bindings lead to gets one copy.
        self.queues.sort_unstable();
        self.queues.dedup();
        self.from = Some((message.exchange().clone(), message.key().clone()));
    }
}
