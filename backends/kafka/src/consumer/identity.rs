//! Which topic it is that has a name: one that is deleted and made again is another, whose offsets mean other records.
//!
//! Kafka's client goes on at the same offset and says nothing but a line for its developers, which is read here: with
//! the first metadata of a topic, and whenever its id changes.

use rdkafka::consumer::Consumer as _;
use smol_str::SmolStr;

use super::{Kind, Source, Thread};
use crate::{shared::lock, table::Fact};

/// The topic and the id that a line of the client's log is about.
pub(super) fn of_line(line: &str) -> Option<(SmolStr, SmolStr)> {
    let (before, id) = line.rsplit_once(" to ")?;
    let (before, _) = before.rsplit_once(" changed id from ")?;
    let (_, topic) = before.rsplit_once("Topic ")?;
    Some((topic.into(), id.into()))
}

impl Thread {
    /// Looks which topics they are that are read. A partition of another one than before is taken up anew.
    pub(super) fn identify(&mut self) {
        let met = std::mem::take(&mut *lock(&self.client.context().topics));
        if met.is_empty() && !self.is_unidentified {
            return;
        }
        self.is_unidentified = false;
        self.topic_ids.extend(met);
        let mut state = self.held.lock();
        let mut same = Vec::new();
        for lane in &mut self.lanes {
            let Some(id) = self.topic_ids.get(&lane.topic) else {
                continue;
            };
            let partition = state.partition(lane.generation);
            if !partition.is_some_and(|partition| partition.is_of(id)) {
                lane.is_lost = true;
            } else if let Source::Exchange(..) = lane.source {
                same.push((lane.topic.clone(), id.clone()));
            }
        }
        state.changes += 1;
        drop(state);
        same.dedup();
        self.note_topics(&same);
    }

    /// Notes which topics they are whose offsets stand in the bindings.
    fn note_topics(&self, topics: &[(SmolStr, SmolStr)]) {
        let (Kind::Durable { life }, Some(parts)) = (&self.kind, self.parts()) else {
            return;
        };
        let new = topics
            .iter()
            .filter(|(topic, id)| parts.topics.get(&**topic).is_none_or(|known| known != id))
            .map(|(topic, id)| Fact::topic(&self.queue, life, topic, id));
        let new: Vec<_> = new.collect();
        // Until it is stored, the commits say it.
        self.note(&new);
    }

    /// The id of a topic that is not the one that a partition was of.
    pub(super) fn another(&self, topic: &str, before: &str) -> Option<&SmolStr> {
        let id = self.topic_ids.get(topic);
        id.filter(|id| !before.is_empty() && **id != before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_topic() {
        let line =
            "[thrd:main]: Topic order.v1 changed id from AAAAAAAAAAAAAAAAAAAAAA to 5hz-o2+iR/G";
        let (topic, id) = of_line(line).unwrap();
        assert_eq!((&*topic, &*id), ("order.v1", "5hz-o2+iR/G"));
        for line in [
            "",
            "[thrd:main]: Topic order changed id from A",
            "Topic order to order",
            "[thrd:main]: Topic order partition count changed from 1 to 3",
        ] {
            assert_eq!(of_line(line), None, "{line}");
        }
    }
}
