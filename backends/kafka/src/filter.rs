//! Which records of a topic are a queue's.

use std::collections::{BTreeMap, HashMap};

use event_core::{Binding, ExchangeName, TopicMap};

use crate::table::Spans;

/// The bindings of a queue, to be asked about records.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    bindings: BTreeMap<Binding, Spans>,
    exchanges: HashMap<ExchangeName, TopicMap<Spans>>,
}

/// What was answered last for a partition: most records have the key of the one before.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    key: String,
    matches: bool,
    /// From which offset on bindings have neither beginnings nor ends. Nothing before it is remembered.
    settled: i64,
    known: bool,
}

impl Filter {
    pub(crate) fn new(bindings: &BTreeMap<Binding, Spans>) -> Self {
        let mut exchanges: HashMap<_, TopicMap<_>> = HashMap::new();
        for (binding, spans) in bindings {
            let map = exchanges.entry(binding.exchange.clone()).or_default();
            map.insert(&binding.pattern, spans.clone());
        }
        Self {
            bindings: bindings.clone(),
            exchanges,
        }
    }

    /// Whether it was made of these bindings.
    pub(crate) fn is_of(&self, bindings: &BTreeMap<Binding, Spans>) -> bool {
        self.bindings == *bindings
    }

    pub(crate) fn exchanges(&self) -> impl Iterator<Item = &ExchangeName> {
        self.exchanges.keys()
    }

    /// From which offset of a partition on bindings neither begin nor end.
    pub(crate) fn fresh_answer(&self, exchange: &str, partition: i32) -> Answer {
        let map = self.exchanges.get(exchange);
        let spans = map.into_iter().flat_map(|map| map.iter());
        let settled = spans.map(|(_, spans)| spans.settled_from(partition)).max();
        Answer {
            settled: settled.unwrap_or(0),
            ..Answer::default()
        }
    }

    /// Whether a record is the queue's.
    pub(crate) fn lets_in(
        &self,
        exchange: &str,
        partition: i32,
        offset: i64,
        key: &str,
        last: &mut Answer,
    ) -> bool {
        let is_settled = offset >= last.settled;
        if is_settled && last.known && last.key == key {
            return last.matches;
        }
        let mut matches = false;
        if let Some(map) = self.exchanges.get(exchange) {
            map.for_each_match(key, |spans| matches |= spans.covers(partition, offset));
        }
        if is_settled {
            last.known = true;
            last.matches = matches;
            last.key.clear();
            last.key.push_str(key);
        }
        matches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_let_in_by_the_bindings_of_its_time() {
        let binding = |pattern| Binding::new("order", pattern).unwrap();
        let bindings = BTreeMap::from([
            (binding("order.*"), Spans::since(vec![10])),
            (binding("order.v1"), Spans::since(vec![0]).and_until(&[5])),
        ]);
        let filter = Filter::new(&bindings);
        assert!(filter.is_of(&bindings));
        let mut last = filter.fresh_answer("order", 0);
        let mut asked = |offset, key| filter.lets_in("order", 0, offset, key, &mut last);
        assert!(asked(4, "order.v1") && !asked(5, "order.v1") && !asked(9, "order.v1"));
        assert!(asked(10, "order.v1") && asked(11, "order.v1") && !asked(12, "other"));
        assert!(!asked(13, "other") && asked(14, "order.v2"));
        assert!(!filter.lets_in("elsewhere", 0, 99, "order.v1", &mut Answer::default()));
    }
}
