//! Exchanges: which queues a key leads to.

use std::collections::{BTreeSet, HashMap};

use event_core::{Address, Binding, ExchangeName, Message, TopicMap};

/// Where a queue is in [`Queues`](crate::queues::Queues). A binding goes with its queue, so what an exchange
/// names is there.
pub(crate) type QueueIndex = usize;

#[derive(Debug, Default)]
pub(crate) struct Exchanges(HashMap<ExchangeName, TopicMap<QueueIndex>>);

impl Exchanges {
    pub(crate) fn declare(&mut self, exchange: &ExchangeName) {
        self.map(exchange);
    }

    fn map(&mut self, exchange: &ExchangeName) -> &mut TopicMap<QueueIndex> {
        self.0.entry(exchange.clone()).or_default()
    }

    pub(crate) fn bind(&mut self, binding: &Binding, queue: QueueIndex) {
        self.map(&binding.exchange).insert(&binding.pattern, queue);
    }

    pub(crate) fn unbind(&mut self, binding: &Binding, queue: QueueIndex) {
        if let Some(map) = self.0.get_mut(&binding.exchange) {
            map.remove(&binding.pattern, |bound| *bound == queue);
        }
    }

    pub(crate) fn unbind_all(&mut self, bindings: &BTreeSet<Binding>, queue: QueueIndex) {
        for binding in bindings {
            self.unbind(binding, queue);
        }
    }
}

/// Where the last message of a batch went: the next usually goes there too.
#[derive(Debug, Default)]
pub(crate) struct Route {
    from: Option<Address>,
    queues: Vec<QueueIndex>,
}

impl Route {
    /// The queues, each once.
    pub(crate) fn queues(&self) -> &[QueueIndex] {
        &self.queues
    }

    pub(crate) fn is_for(&self, message: &Message) -> bool {
        self.from.as_ref() == Some(message.address())
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
        self.from = Some(message.address().clone());
    }
}
