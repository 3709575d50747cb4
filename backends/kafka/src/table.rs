//! What stands in the topology topic: queues, their bindings, and where they begin.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, OnceLock},
};

use event_core::{Binding, ExchangeName, QueueName, TopicMap};
use serde::{Deserialize, Serialize};

/// The queues and bindings, as of a position in the topology topic. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// The offset of the next record of the topic.
    pub(crate) position: i64,
    queues: HashMap<QueueName, Arc<QueueEntry>>,
    exchanges: HashMap<ExchangeName, Arc<Bound>>,
}

/// What is known of a queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueueEntry {
    /// Those that were declared at the same time each began a life; the first in the topic is the one that counts.
    lives: BTreeMap<i64, (String, Arguments)>,
    /// What belongs to each life.
    parts: BTreeMap<String, Parts>,
}

/// What belongs to one life of a queue: from its declaration to its deletion.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    pub(crate) bindings: BTreeMap<Binding, Spans>,
    /// The delays, in milliseconds, for which it has topics.
    pub(crate) steps: Vec<u64>,
    /// How far it was in partitions, from time to time: for when committed offsets have expired.
    pub(crate) marks: BTreeMap<(String, i32), Mark>,
    /// The ids of the topics that its offsets are of.
    pub(crate) topics: BTreeMap<String, String>,
}

/// What a queue was declared with, and stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arguments {
    pub(crate) ordered: bool,
}

/// When a binding was there: from these offsets to those.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spans(pub(crate) Vec<Span>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    /// By partition. One that was added later is read from its beginning.
    pub(crate) since: Vec<i64>,
    /// By partition, when the binding was removed; of one that was added later, nothing is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Vec<i64>>,
}

/// How far a queue was in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) offset: i64,
    /// The id of the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) topic: Option<String>,
}

/// Which topic it is that has a name.
#[derive(Debug, Serialize, Deserialize)]
struct TopicId {
    id: String,
}

/// Who takes what of an exchange. Made when it is first asked for: a declaration of many bindings changes it often.
#[derive(Default)]
struct Bound(OnceLock<TopicMap<u32>>);

/// The key of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Queue {
        queue: QueueName,
        life: String,
    },
    Binding {
        queue: QueueName,
        life: String,
        binding: Binding,
    },
    Step {
        queue: QueueName,
        life: String,
        step: u64,
    },
    Mark {
        queue: QueueName,
        life: String,
        topic: String,
        partition: i32,
    },
    Topic {
        queue: QueueName,
        life: String,
        topic: String,
    },
    /// Says nothing. Its writing shows the broker's clock, and it stands at the end where a deletion might.
    Note,
}

impl Key {
    fn parse(text: &str) -> Option<Self> {
        if text == "note" {
            return Some(Self::Note);
        }
        let mut parts = text.splitn(4, '/');
        let (kind, queue) = (parts.next()?, QueueName::new(parts.next()?).ok()?);
        let (life, rest) = (parts.next()?.to_owned(), parts.next());
        Some(match (kind, rest) {
            ("queue", None) => Self::Queue { queue, life },
            ("binding", Some(rest)) => {
                let (exchange, pattern) = rest.split_once('/')?;
                let binding = Binding::new(exchange, pattern).ok()?;
                Self::Binding {
                    queue,
                    life,
                    binding,
                }
            }
            ("step", Some(step)) => {
                let step = step.parse().ok()?;
                Self::Step { queue, life, step }
            }
            ("topic", Some(topic)) => {
                let topic = topic.to_owned();
                Self::Topic { queue, life, topic }
            }
            ("mark", Some(rest)) => {
                let (topic, partition) = rest.rsplit_once('/')?;
                let (topic, partition) = (topic.to_owned(), partition.parse().ok()?);
                Self::Mark {
                    queue,
                    life,
                    topic,
                    partition,
                }
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue { queue, life } => write!(f, "queue/{queue}/{life}"),
            Self::Binding {
                queue,
                life,
                binding,
            } => {
                let Binding { exchange, pattern } = binding;
                write!(f, "binding/{queue}/{life}/{exchange}/{}", pattern.as_str())
            }
            Self::Step { queue, life, step } => write!(f, "step/{queue}/{life}/{step}"),
            Self::Mark {
                queue,
                life,
                topic,
                partition,
            } => {
                write!(f, "mark/{queue}/{life}/{topic}/{partition}")
            }
            Self::Topic { queue, life, topic } => write!(f, "topic/{queue}/{life}/{topic}"),
            Self::Note => f.write_str("note"),
        }
    }
}

/// A record of the topology topic: without a value it takes back what was said under its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) key: Key,
    pub(crate) value: Option<String>,
}

impl Fact {
    pub(crate) fn queue(queue: &QueueName, life: &str, arguments: Arguments) -> Self {
        let key = Key::Queue {
            queue: queue.clone(),
            life: life.to_owned(),
        };
        Self::of(key, &arguments)
    }

    pub(crate) fn binding(queue: &QueueName, life: &str, binding: Binding, spans: &Spans) -> Self {
        let key = Key::Binding {
            queue: queue.clone(),
            life: life.to_owned(),
            binding,
        };
        Self::of(key, spans)
    }

    pub(crate) fn step(queue: &QueueName, life: &str, step: u64) -> Self {
        let key = Key::Step {
            queue: queue.clone(),
            life: life.to_owned(),
            step,
        };
        Self::of(key, &serde_json::json!({}))
    }

    pub(crate) fn mark(
        queue: &QueueName,
        life: &str,
        topic: &str,
        partition: i32,
        mark: &Mark,
    ) -> Self {
        let key = Key::Mark {
            queue: queue.clone(),
            life: life.to_owned(),
            topic: topic.to_owned(),
            partition,
        };
        Self::of(key, mark)
    }

    pub(crate) fn topic(queue: &QueueName, life: &str, topic: &str, id: &str) -> Self {
        let key = Key::Topic {
            queue: queue.clone(),
            life: life.to_owned(),
            topic: topic.to_owned(),
        };
        Self::of(key, &TopicId { id: id.to_owned() })
    }

    pub(crate) fn note() -> Self {
        Self::of(Key::Note, &serde_json::json!({}))
    }

    pub(crate) fn no_longer(key: Key) -> Self {
        Self { key, value: None }
    }

    fn of(key: Key, value: &impl Serialize) -> Self {
        // Numbers and names always encode as JSON.
        let value = serde_json::to_string(value).unwrap_or_default();
        Self {
            key,
            value: Some(value),
        }
    }
}

impl Table {
    /// Takes in a record of the topic. What is not understood was written by a later version, and is left alone.
    pub(crate) fn take(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>) {
        self.position = offset + 1;
        let Some(key) = std::str::from_utf8(key).ok().and_then(Key::parse) else {
            return;
        };
        match key {
            Key::Note => {}
            Key::Queue { queue, life } => {
                let arguments = value.and_then(|value| serde_json::from_slice(value).ok());
                let entry = self.entry(&queue);
                entry.lives.retain(|_, (known, _)| *known != life);
                if let Some(arguments) = arguments {
                    entry.lives.insert(offset, (life, arguments));
                }
                let exchanges: Vec<_> = entry.exchanges().cloned().collect();
                if entry.lives.is_empty() && entry.parts.is_empty() {
                    self.queues.remove(&queue);
                }
                for exchange in exchanges {
                    self.exchanges.insert(exchange, Arc::default());
                }
            }
            Key::Binding {
                queue,
                life,
                binding,
            } => {
                let spans = value.and_then(|value| serde_json::from_slice(value).ok());
                let exchange = binding.exchange.clone();
                self.change(&queue, life, |parts| match spans {
                    Some(spans) => _ = parts.bindings.insert(binding, spans),
                    None => _ = parts.bindings.remove(&binding),
                });
                self.exchanges.insert(exchange, Arc::default());
            }
            Key::Step { queue, life, step } => self.change(&queue, life, |parts| {
                parts.steps.retain(|known| *known != step);
                if value.is_some() {
                    parts.steps.push(step);
                    parts.steps.sort_unstable();
                }
            }),
            Key::Topic { queue, life, topic } => {
                let id = value.and_then(|value| serde_json::from_slice::<TopicId>(value).ok());
                self.change(&queue, life, |parts| match id {
                    Some(TopicId { id }) => _ = parts.topics.insert(topic, id),
                    None => _ = parts.topics.remove(&topic),
                });
            }
            Key::Mark {
                queue,
                life,
                topic,
                partition,
            } => {
                let mark = value.and_then(|value| serde_json::from_slice::<Mark>(value).ok());
                self.change(&queue, life, |parts| match mark {
                    Some(mark) => _ = parts.marks.insert((topic, partition), mark),
                    None => _ = parts.marks.remove(&(topic, partition)),
                });
            }
        }
    }

    fn entry(&mut self, queue: &QueueName) -> &mut QueueEntry {
        Arc::make_mut(self.queues.entry(queue.clone()).or_default())
    }

    fn change(&mut self, queue: &QueueName, life: String, change: impl FnOnce(&mut Parts)) {
        let entry = self.entry(queue);
        let parts = entry.parts.entry(life.clone()).or_default();
        change(parts);
        if parts.is_empty() {
            entry.parts.remove(&life);
        }
        if entry.lives.is_empty() && entry.parts.is_empty() {
            self.queues.remove(queue);
        }
    }

    /// A queue that exists.
    pub(crate) fn queue(&self, queue: &str) -> Option<&Arc<QueueEntry>> {
        self.queues
            .get(queue)
            .filter(|entry| entry.life().is_some())
    }

    /// Another queue that exists, whose topics Kafka takes for those of this one: names that differ only in `.` and `_`
    /// are not both allowed.
    pub(crate) fn twin(&self, queue: &QueueName) -> Option<&QueueName> {
        let name = |queue: &QueueName| queue.replace('.', "_");
        let mut others = self.queues.iter();
        let is_twin = |(other, entry): &(&QueueName, &Arc<QueueEntry>)| {
            *other != queue && entry.life().is_some() && name(other) == name(queue)
        };
        others.find(is_twin).map(|(other, _)| other)
    }

    /// All that is left of a queue, whether or not it exists, to be taken back.
    pub(crate) fn remains(&self, queue: &QueueName) -> Vec<Key> {
        let Some(entry) = self.queues.get(queue) else {
            return Vec::new();
        };
        let name = || queue.clone();
        let mut keys = Vec::new();
        // First the lives: a queue that does not exist has no bindings, whatever else is said of it.
        for (life, _) in entry.lives.values() {
            let life = life.clone();
            keys.push(Key::Queue {
                queue: name(),
                life,
            });
        }
        for (life, parts) in &entry.parts {
            let life = || life.clone();
            keys.extend(parts.bindings.keys().map(|binding| Key::Binding {
                queue: name(),
                life: life(),
                binding: binding.clone(),
            }));
            keys.extend(parts.steps.iter().map(|step| Key::Step {
                queue: name(),
                life: life(),
                step: *step,
            }));
            keys.extend(parts.topics.keys().map(|topic| Key::Topic {
                queue: name(),
                life: life(),
                topic: topic.clone(),
            }));
            keys.extend(parts.marks.keys().map(|(topic, partition)| Key::Mark {
                queue: name(),
                life: life(),
                topic: topic.clone(),
                partition: *partition,
            }));
        }
        keys
    }

    /// How many queues take a message of this exchange.
    pub(crate) fn count(&self, exchange: &str, key: &str) -> u32 {
        let Some(bound) = self.exchanges.get(exchange) else {
            return 0;
        };
        let map = bound.0.get_or_init(|| self.map_of(exchange));
        let (mut first, mut others): (Option<u32>, Vec<u32>) = (None, Vec::new());
        map.for_each_match(key, |queue| match first {
            None => first = Some(*queue),
            Some(known) if known == *queue || others.contains(queue) => {}
            Some(_) => others.push(*queue),
        });
        u32::from(first.is_some()) + u32::try_from(others.len()).unwrap_or(u32::MAX)
    }

    fn map_of(&self, exchange: &str) -> TopicMap<u32> {
        let mut map = TopicMap::new();
        for (number, entry) in (0_u32..).zip(self.queues.values()) {
            for (binding, spans) in entry.parts().into_iter().flat_map(|parts| &parts.bindings) {
                if binding.exchange == *exchange && spans.is_open() {
                    map.insert(&binding.pattern, number);
                }
            }
        }
        map
    }
}

impl QueueEntry {
    /// The life that counts; nothing when the queue does not exist.
    pub(crate) fn life(&self) -> Option<&str> {
        self.lives.values().next().map(|(life, _)| life.as_str())
    }

    pub(crate) fn arguments(&self) -> Arguments {
        self.lives
            .values()
            .next()
            .map_or_else(Arguments::default, |(_, arguments)| *arguments)
    }

    /// What belongs to the life that counts.
    pub(crate) fn parts(&self) -> Option<&Parts> {
        self.parts.get(self.life()?)
    }

    /// The exchanges of all of its bindings.
    pub(crate) fn exchanges(&self) -> impl Iterator<Item = &ExchangeName> {
        self.parts
            .values()
            .flat_map(|parts| parts.bindings.keys().map(|binding| &binding.exchange))
    }
}

impl Parts {
    fn is_empty(&self) -> bool {
        self.bindings.is_empty()
            && self.steps.is_empty()
            && self.marks.is_empty()
            && self.topics.is_empty()
    }

    /// Whether a binding that is there begins after the end of its topic, which then is not the one that it was
    /// declared for.
    pub(crate) fn begins_after(&self, exchange: &str, partition: i32, end: i64) -> bool {
        let mut bindings = self.bindings.iter();
        bindings.any(|(binding, spans)| {
            binding.exchange == *exchange && spans.is_open() && spans.settled_from(partition) > end
        })
    }

    /// What has the bindings of a queue begin with the topic of an exchange, which was deleted and made again.
    pub(crate) fn renewed(
        &self,
        queue: &QueueName,
        life: &str,
        exchange: &ExchangeName,
    ) -> Vec<Fact> {
        let new = Spans::since(Vec::new());
        let open = self.bindings.iter().filter(|(binding, spans)| {
            binding.exchange == *exchange && spans.is_open() && **spans != new
        });
        open.map(|(binding, _)| Fact::binding(queue, life, binding.clone(), &new))
            .collect()
    }

    /// Where the queue begins in a partition of an exchange when nothing was committed yet.
    pub(crate) fn start(&self, exchange: &str, partition: i32) -> i64 {
        let bindings = self.bindings.iter();
        bindings
            .filter(|(binding, _)| binding.exchange == *exchange)
            .flat_map(|(_, spans)| &spans.0)
            .map(|span| at(&span.since, partition))
            .min()
            .unwrap_or(0)
    }
}

impl Spans {
    /// From these offsets on.
    pub(crate) fn since(ends: Vec<i64>) -> Self {
        Self::default().and_since(ends)
    }

    /// The same, and again from these offsets on.
    pub(crate) fn and_since(mut self, since: Vec<i64>) -> Self {
        self.0.push(Span { since, until: None });
        self
    }

    /// The same up to these offsets.
    pub(crate) fn and_until(mut self, ends: &[i64]) -> Self {
        for span in &mut self.0 {
            span.until.get_or_insert_with(|| ends.to_vec());
        }
        self
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.iter().any(|span| span.until.is_none())
    }

    /// Whether it was there when this record came.
    pub(crate) fn covers(&self, partition: i32, offset: i64) -> bool {
        self.0.iter().any(|span| {
            let until = span.until.as_ref();
            offset >= at(&span.since, partition)
                && until.is_none_or(|until| offset < at(until, partition))
        })
    }

    /// From which offset on nothing about it changes any more.
    pub(crate) fn settled_from(&self, partition: i32) -> i64 {
        let ends = self.0.iter().map(|span| {
            let until = span.until.as_ref().map_or(0, |until| at(until, partition));
            at(&span.since, partition).max(until)
        });
        ends.max().unwrap_or(0)
    }
}

/// The offset of a partition; a partition that was added later has its beginning.
fn at(offsets: &[i64], partition: i32) -> i64 {
    let place = usize::try_from(partition).unwrap_or(usize::MAX);
    offsets.get(place).copied().unwrap_or(0)
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bound").finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> QueueName {
        QueueName::new(text).unwrap()
    }

    fn binding(pattern: &str) -> Binding {
        Binding::new("order", pattern).unwrap()
    }

    fn table(facts: &[Fact]) -> Table {
        let mut table = Table::default();
        for (offset, fact) in (0..).zip(facts) {
            let value = fact.value.as_deref().map(str::as_bytes);
            table.take(offset, fact.key.to_string().as_bytes(), value);
        }
        table
    }

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let (queue, life) = (name("billing"), "a1".to_owned());
        for key in [
            Key::Note,
            Key::Queue {
                queue: queue.clone(),
                life: life.clone(),
            },
            Key::Binding {
                queue: queue.clone(),
                life: life.clone(),
                binding: binding("a/b.*.#"),
            },
            Key::Binding {
                queue: queue.clone(),
                life: life.clone(),
                binding: binding(""),
            },
            Key::Step {
                queue: queue.clone(),
                life: life.clone(),
                step: 100,
            },
            Key::Topic {
                queue: queue.clone(),
                life: life.clone(),
                topic: "order.v1".to_owned(),
            },
            Key::Mark {
                queue,
                life,
                topic: "order".to_owned(),
                partition: 3,
            },
        ] {
            assert_eq!(Key::parse(&key.to_string()), Some(key));
        }
        for text in [
            "",
            "queue",
            "queue/billing",
            "later/billing/a1",
            "step/billing/a1/x",
        ] {
            assert_eq!(Key::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_first_of_two_declarations_counts() {
        let queue = name("billing");
        let (one, two) = (Arguments { ordered: true }, Arguments { ordered: false });
        let mut facts = vec![
            Fact::queue(&queue, "a1", one),
            Fact::queue(&queue, "b2", two),
            Fact::binding(&queue, "b2", binding("#"), &Spans::since(vec![0])),
            Fact::binding(&queue, "a1", binding("order.#"), &Spans::since(vec![0])),
        ];
        let declared = table(&facts);
        let entry = declared.queue("billing").unwrap();
        assert_eq!((entry.life(), entry.arguments()), (Some("a1"), one));
        assert_eq!(declared.count("order", "order.v1"), 1);
        assert_eq!(declared.count("order", "other"), 0);
        facts.extend(declared.remains(&queue).into_iter().map(Fact::no_longer));
        let deleted = table(&facts);
        assert!(deleted.queue("billing").is_none() && deleted.queues.is_empty());
        assert_eq!(deleted.count("order", "order.v1"), 0);
    }

    #[test]
    fn a_queue_counts_once() {
        let (one, two) = (name("billing"), name("audit"));
        let spans = Spans::since(vec![0]);
        let table = table(&[
            Fact::queue(&one, "a", Arguments::default()),
            Fact::queue(&two, "b", Arguments::default()),
            Fact::binding(&one, "a", binding("#"), &spans),
            Fact::binding(&one, "a", binding("order.*"), &spans),
            Fact::binding(&two, "b", binding("order.v1"), &spans),
            Fact::binding(&two, "b", binding("closed"), &spans.clone().and_until(&[7])),
        ]);
        assert_eq!(table.count("order", "order.v1"), 2);
        assert_eq!(table.count("order", "closed"), 1);
        assert_eq!(table.count("elsewhere", "order.v1"), 0);
    }

    #[test]
    fn a_binding_has_its_time() {
        let spans = Spans::since(vec![5, 0])
            .and_until(&[9, 0])
            .and_since(vec![20, 4, 0]);
        let covered: Vec<_> = (0..24).filter(|offset| spans.covers(0, *offset)).collect();
        assert_eq!(covered, [5, 6, 7, 8, 20, 21, 22, 23]);
        assert!(spans.covers(3, 0) && spans.is_open());
        assert_eq!(spans.settled_from(0), 20);
        let closed = Spans::since(vec![5]).and_until(&[9]);
        assert!(!closed.covers(1, 0) && !closed.is_open());
    }
}
