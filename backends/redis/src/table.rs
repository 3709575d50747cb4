//! The binding table of an exchange as a publisher has it.

use std::collections::HashMap;

use event_core::{Pattern, TopicMap};
use redis::Value;
use smol_str::SmolStr;

use crate::{keys::ExchangeKeys, server::text};

/// How many routing keys are remembered with their queues; templates make keys without end.
const REMEMBERED: usize = 1_024;

/// A table and the token that the server knows it by.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) version: String,
    pub(crate) targets: Vec<Target>,
    patterns: TopicMap<u32>,
    remembered: HashMap<SmolStr, Box<[u32]>>,
}

/// Where the messages of a queue go.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) queue: String,
    pub(crate) key: String,
    /// The most entries, as the server has it: empty without a limit.
    pub(crate) limit: String,
}

impl Table {
    /// Reads what the scripts answer: a version, the queues with their limits, the bindings.
    pub(crate) fn read(keys: &ExchangeKeys, answer: &[Value]) -> Option<Self> {
        let [version, Value::Array(queues), Value::Array(bindings)] = answer else {
            return None;
        };
        let mut targets = Vec::with_capacity(queues.len() / 2);
        let mut places = HashMap::new();
        for pair in queues.chunks_exact(2) {
            let queue = text(&pair[0])?;
            places.insert(queue.clone(), u32::try_from(targets.len()).ok()?);
            targets.push(Target {
                key: keys.target(&queue),
                limit: text(&pair[1])?,
                queue,
            });
        }
        let mut patterns = TopicMap::new();
        for binding in bindings {
            let binding = text(binding)?;
            let (queue, pattern) = binding.split_once(' ')?;
            // A pattern that only a newer version understands is for newer publishers.
            if let (Some(place), Ok(pattern)) = (places.get(queue), Pattern::new(pattern)) {
                patterns.insert(&pattern, *place);
            }
        }
        Some(Self {
            version: text(version)?,
            targets,
            patterns,
            remembered: HashMap::new(),
        })
    }

    /// Which targets a routing key goes to, each once.
    pub(crate) fn matches(&mut self, key: &str) -> &[u32] {
        if !self.remembered.contains_key(key) {
            if self.remembered.len() >= REMEMBERED {
                self.remembered.clear();
            }
            let mut found = Vec::new();
            self.patterns
                .for_each_match(key, |target| found.push(*target));
            found.sort_unstable();
            found.dedup();
            self.remembered.insert(key.into(), found.into());
        }
        &self.remembered[key]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn a_queue_is_matched_once_however_many_bindings_match() {
        let keys = ExchangeKeys::new("p", "order");
        let answer = [
            bulk("v1"),
            Value::Array(["billing", "5", "audit", "", "~a", ""].map(bulk).to_vec()),
            Value::Array(
                [
                    "billing order.*",
                    "billing order.v1",
                    "audit #",
                    "~a x",
                    "gone #",
                ]
                .map(bulk)
                .to_vec(),
            ),
        ];
        let mut table = Table::read(&keys, &answer).unwrap();
        assert_eq!(table.version, "v1");
        for _ in 0..2 {
            assert_eq!(table.matches("order.v1"), [0, 1]);
            assert_eq!(table.matches("x"), [1, 2]);
        }
        let billing = &table.targets[0];
        assert_eq!(
            (billing.queue.as_str(), billing.limit.as_str()),
            ("billing", "5")
        );
        assert_eq!(billing.key, "p:{order}:stream:billing");
        assert_eq!(table.targets[2].key, "p:{order}:channel:~a");
        assert!(Table::read(&keys, &[bulk("v1")]).is_none());
    }
}
