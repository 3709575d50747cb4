//! Which handlers of a queue take a message.

use std::collections::HashMap;

use crate::{
    address::Address,
    envelope,
    error::{Error, ErrorKind, Result},
    route::RouteInfo,
    topic::{Pattern, TopicMap},
};

/// A set of handlers of one queue, a bit for each, in registration order.
pub(crate) type HandlerSet = u64;

/// The most handlers on a queue: the bits of a [`HandlerSet`].
pub(crate) const MOST_HANDLERS: usize = HandlerSet::BITS as usize;

/// Which handlers of a queue take which address.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    exchanges: HashMap<&'static str, TopicMap<HandlerSet>>,
    /// Handlers that take what comes from any exchange.
    any: TopicMap<HandlerSet>,
}

impl RouteTable {
    pub(crate) fn add(&mut self, handler: usize, route: &RouteInfo) -> Result<()> {
        let wrong = |e| {
            Error::new(
                ErrorKind::InvalidName,
                format!("the key of {route} is not legal"),
            )
            .with_source(e)
        };
        let pattern = Pattern::new(route.pattern).map_err(wrong)?;
        let map = match route.exchange {
            "" => &mut self.any,
            exchange => self.exchanges.entry(exchange).or_default(),
        };
        map.insert(&pattern, 1 << handler);
        Ok(())
    }

    pub(crate) fn find(&self, exchange: &str, key: &str) -> HandlerSet {
        let mut set = 0;
        if let Some(map) = self.exchanges.get(exchange) {
            map.for_each_match(key, |handler| set |= handler);
        }
        if !self.any.is_empty() {
            self.any.for_each_match(key, |handler| set |= handler);
        }
        set
    }
}

/// Remembers the last answer: neighbours in a queue tend to have one address.
#[derive(Debug, Default)]
pub(crate) struct LastRoute(Option<(Address, Way)>);

/// What an address says about its messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) handlers: HandlerSet,
    /// Whether the event is inside of a CloudEvents document.
    pub(crate) structured: bool,
}

impl LastRoute {
    pub(crate) fn find(&mut self, table: &RouteTable, address: &Address) -> Way {
        match &self.0 {
            Some((last, way)) if last == address => *way,
            _ => {
                let way = Way {
                    handlers: table.find(address.exchange(), address.key()),
                    structured: envelope::is_structured(address.content_type()),
                };
                self.0 = Some((address.clone(), way));
                way
            }
        }
    }
}
