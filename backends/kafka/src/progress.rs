//! How far a queue is in a partition: what a commit says beside its offset.
//!
//! The committed offset is the lowest that is not finished. Its metadata, a text of at most 4,096 bytes, says what is
//! finished above it, so that it is not repeated, and what may have been in the hands of a process that was not
//! heard of again.

use std::{collections::BTreeMap, fmt::Write};

use smol_str::SmolStr;

/// The most bytes of metadata that a broker takes by default (`offset.metadata.max.bytes`) are 4,096.
const MOST: usize = 4_000;

/// How far a queue is in a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The id that brokers give its topic: one that is deleted and made again is another. Empty while it is unknown.
    pub(crate) topic: SmolStr,
    /// The lowest offset that is not finished.
    pub(crate) offset: i64,
    /// What is finished above it: ranges without their ends, ascending.
    pub(crate) finished: Vec<(i64, i64)>,
    /// Below this, deliveries may be in somebody's hands.
    pub(crate) lent: i64,
    /// Below this, what is not finished may have ended a process.
    pub(crate) suspects: i64,
    /// How often what stands at an offset began to run alone without being settled afterwards.
    pub(crate) alone: BTreeMap<i64, u32>,
}

impl Progress {
    /// Nothing was done before this offset, and nothing after it.
    pub(crate) fn at(offset: i64) -> Self {
        Self {
            offset,
            lent: offset,
            suspects: offset,
            ..Self::default()
        }
    }

    /// The same of the topic with this id, as far as it is known.
    pub(crate) fn of(self, topic: Option<&str>) -> Self {
        Self {
            topic: topic.unwrap_or_default().into(),
            ..self
        }
    }

    /// The metadata, with the life of the queue that it is true for. Of what is finished, as much as fits is told.
    pub(crate) fn to_text(&self, life: &str) -> String {
        let mut text = format!("1 {life}");
        let base = self.offset;
        // Writing into a text cannot fail.
        if !self.topic.is_empty() {
            let _ = write!(text, " t{}", self.topic);
        }
        if self.lent > base {
            let _ = write!(text, " l{}", self.lent - base);
        }
        if self.suspects > base {
            let _ = write!(text, " s{}", self.suspects - base);
        }
        for (offset, count) in &self.alone {
            if text.len() < MOST / 2 {
                let _ = write!(text, " a{}:{count}", offset - base);
            }
        }
        let mut end = base;
        for (from, to) in &self.finished {
            let before = text.len();
            let _ = write!(text, " {}+{}", from - end, to - from);
            if text.len() > MOST {
                text.truncate(before);
                break;
            }
            end = *to;
        }
        text
    }

    /// What stands at an offset; nothing when it is of another life of the queue, or was written by somebody else.
    pub(crate) fn from_text(offset: i64, text: &str, life: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next() != Some("1") || words.next() != Some(life) {
            return None;
        }
        let mut progress = Self::at(offset);
        let mut end = offset;
        for word in words {
            if let Some(topic) = word.strip_prefix('t') {
                progress.topic = topic.into();
            } else if let Some(lent) = word.strip_prefix('l') {
                progress.lent = offset + lent.parse::<i64>().ok()?;
            } else if let Some(suspects) = word.strip_prefix('s') {
                progress.suspects = offset + suspects.parse::<i64>().ok()?;
            } else if let Some(alone) = word.strip_prefix('a') {
                let (at, count) = alone.split_once(':')?;
                let at = offset + at.parse::<i64>().ok()?;
                progress.alone.insert(at, count.parse().ok()?);
            } else {
                let (gap, length) = word.split_once('+')?;
                let from = end + gap.parse::<i64>().ok()?;
                end = from + length.parse::<i64>().ok()?;
                progress.finished.push((from, end));
            }
        }
        Some(progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_gives_back_what_it_was_given() {
        let progress = Progress {
            offset: 100,
            finished: vec![(101, 104), (110, 111)],
            lent: 356,
            suspects: 120,
            alone: BTreeMap::from([(100, 2), (105, 1)]),
            topic: "s+a/1".into(),
        };
        let text = progress.to_text("a1");
        assert_eq!(text, "1 a1 ts+a/1 l256 s20 a0:2 a5:1 1+3 6+1");
        assert_eq!(Progress::from_text(100, &text, "a1"), Some(progress));
        assert_eq!(Progress::at(7).to_text("a1"), "1 a1");
        assert_eq!(Progress::from_text(7, "1 a1", "a1"), Some(Progress::at(7)));
    }

    #[test]
    fn what_is_not_ours_says_nothing() {
        for text in [
            "", "1", "1 b2", "2 a1", "1 a1 x", "1 a1 lx", "1 a1 1+", "{}",
        ] {
            assert_eq!(Progress::from_text(1, text, "a1"), None, "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_repeated() {
        let progress = Progress {
            finished: (0..10_000).map(|n| (2 * n + 1, 2 * n + 2)).collect(),
            ..Progress::at(0)
        };
        let text = progress.to_text("a1");
        assert!(text.len() <= 4_096, "{}", text.len());
        let read = Progress::from_text(0, &text, "a1").unwrap();
        assert!(read.finished.len() > 500);
        assert_eq!(progress.finished[..read.finished.len()], read.finished[..]);
    }
}
