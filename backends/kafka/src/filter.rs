//! Which records of a topic are a queue's.

use std::collections::{BTreeMap, HashMap};

use event_core::{Binding, ExchangeName, TopicMap};
use foldhash::fast::RandomState;
use smol_str::SmolStr;

use crate::table::Spans;

/// The bindings of a queue, to be asked about records.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    bindings: BTreeMap<Binding, Spans>,
    exchanges: HashMap<ExchangeName, TopicMap<Spans>>,
}

/// How many answers are remembered. Most exchanges have fewer keys.
const MOST: usize = 256;

/// What was answered for a partition.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// By key, with a hash that costs little: every record is looked for here.
    known: HashMap<SmolStr, bool, RandomState>,
    /// From which offset on bindings have neither beginnings nor ends. Nothing before it is remembered.
    settled: i64,
}

impl Answers {
    fn remember(&mut self, key: &str, matches: bool) {
        // Keys that never come again are not kept for ever.
        if self.known.len() == MOST {
            self.known.clear();
        }
        self.known.insert(key.into(), matches);
    }
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

    /// Nothing was asked yet.
    pub(crate) fn fresh_answers(&self, exchange: &str, partition: i32) -> Answers {
        let map = self.exchanges.get(exchange);
        let spans = map.into_iter().flat_map(|map| map.iter());
        let settled = spans.map(|(_, spans)| spans.settled_from(partition)).max();
        Answers {
            settled: settled.unwrap_or(0),
            ..Answers::default()
        }
    }

    /// Whether a record is the queue's.
    pub(crate) fn lets_in(
        &self,
        exchange: &str,
        partition: i32,
        offset: i64,
        key: &str,
        answers: &mut Answers,
    ) -> bool {
        let is_settled = offset >= answers.settled;
        if is_settled && let Some(matches) = answers.known.get(key) {
            return *matches;
        }
        let mut matches = false;
        if let Some(map) = self.exchanges.get(exchange) {
            map.for_each_match(key, |spans| matches |= spans.covers(partition, offset));
        }
        if is_settled {
            answers.remember(key, matches);
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
        let mut answers = filter.fresh_answers("order", 0);
        let mut asked = |offset, key| filter.lets_in("order", 0, offset, key, &mut answers);
        assert!(asked(4, "order.v1") && !asked(5, "order.v1") && !asked(9, "order.v1"));
        assert!(asked(10, "order.v1") && asked(11, "order.v1") && !asked(12, "other"));
        assert!(!asked(13, "other") && asked(14, "order.v2"));
        assert!(!filter.lets_in("elsewhere", 0, 99, "order.v1", &mut Answers::default()));
    }

    #[test]
    fn answers_are_remembered_for_some_keys_and_right_for_all() {
        let binding = Binding::new("order", "key.*.yes").unwrap();
        let filter = Filter::new(&BTreeMap::from([(binding, Spans::since(vec![0]))]));
        let mut answers = filter.fresh_answers("order", 0);
        for offset in 0..10 * MOST as i64 {
            let number = offset as usize % (3 * MOST);
            for (word, matches) in [("yes", true), ("no", false), ("yes", true)] {
                let key = format!("key.{number}.{word}");
                assert_eq!(
                    filter.lets_in("order", 0, offset, &key, &mut answers),
                    matches
                );
                assert!(answers.known.len() <= MOST);
            }
        }
    }
}
