//! Reading orders: JSON Lines, from a file or standard input, never more than a little at a time.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    thread,
};

use anyhow::Context;
use tokio::sync::mpsc;

use crate::order::Order;

/// The orders of a file, of standard input, or the one that shows the shop at work.
#[derive(Debug)]
pub struct Orders {
    name: String,
    batches: mpsc::Receiver<io::Result<Batch>>,
    bytes: Option<u64>,
}

/// Lines that are published together.
#[derive(Debug, Default)]
pub struct Batch {
    /// The lines that are not blank, in their order.
    pub lines: Vec<Line>,
    /// How long they are, with what was between them.
    pub bytes: u64,
}

/// A line: an order, or why it is none.
#[derive(Debug)]
pub struct Line {
    /// Counts from 1.
    pub number: u64,
    /// What it says.
    pub order: Result<Order, String>,
}

/// The most lines that are published together.
const BATCH: usize = 1_000;

/// The longest line, in bytes. Longer ones are passed over, so that they do not fill the memory.
const LONGEST: u64 = 1 << 20;

impl Orders {
    /// The demo order without a path, standard input for `-`, else the file.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self::demo());
        };
        if path == "-" {
            return Self::read("standard input".into(), io::stdin(), None);
        }
        let name = format!("`{}`", path.display());
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        // A pipe and the like have a length as well, which says nothing.
        let bytes = file
            .metadata()
            .ok()
            .filter(|metadata| metadata.is_file())
            .map(|metadata| metadata.len());
        Self::read(name, file, bytes)
    }

    /// How much there is to read, where that is known.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// The next lines; nothing at the end.
    ///
    /// # Errors
    /// The source could not be read on. Nothing follows.
    pub async fn next(&mut self) -> anyhow::Result<Option<Batch>> {
        let batch = self.batches.recv().await.transpose();
        batch.with_context(|| format!("cannot read {}", self.name))
    }

    fn demo() -> Self {
        let (sender, batches) = mpsc::channel(1);
        let order = Ok(Order::new(1, [(1, 2, 3.0), (2, 1, 4.5)]));
        let lines = vec![Line { number: 1, order }];
        // The channel is empty, so there is room.
        let _ = sender.try_send(Ok(Batch { lines, bytes: 0 }));
        Self {
            name: "the demo order".into(),
            batches,
            bytes: Some(0),
        }
    }

    /// Reads on a thread of its own: a read cannot be cancelled, and one from a terminal may take for ever.
    fn read(
        name: String,
        source: impl Read + Send + 'static,
        bytes: Option<u64>,
    ) -> anyhow::Result<Self> {
        // One batch is published while the next is read.
        let (sender, batches) = mpsc::channel(1);
        let lines = Lines::new(source);
        thread::Builder::new()
            .name("orders".into())
            .spawn(move || lines.send(&sender))?;
        Ok(Self {
            name,
            batches,
            bytes,
        })
    }
}

struct Lines<R> {
    source: BufReader<R>,
    /// How many were read.
    number: u64,
    line: Vec<u8>,
}

impl<R: Read> Lines<R> {
    fn new(source: R) -> Self {
        Self {
            source: BufReader::with_capacity(256 << 10, source),
            number: 0,
            line: Vec::new(),
        }
    }

    fn send(mut self, batches: &mpsc::Sender<io::Result<Batch>>) {
        while let Some(batch) = self.batch().transpose() {
            let failed = batch.is_err();
            // Nobody receives any more when the program ends.
            if batches.blocking_send(batch).is_err() || failed {
                return;
            }
        }
    }

    /// The next lines, as many as there are without waiting for more.
    fn batch(&mut self) -> io::Result<Option<Batch>> {
        let mut batch = Batch::default();
        while batch.lines.len() < BATCH {
            let length = self.read_line()?;
            if length == 0 {
                break;
            }
            batch.bytes += length;
            batch.lines.extend(self.parse());
            if !self.source.buffer().contains(&b'\n') {
                break;
            }
        }
        Ok((batch.bytes > 0).then_some(batch))
    }

    /// Reads a line, of a long one only the beginning; answers its length.
    fn read_line(&mut self) -> io::Result<u64> {
        self.line.clear();
        let mut start = self.source.by_ref().take(LONGEST + 1);
        let mut length = start.read_until(b'\n', &mut self.line)? as u64;
        if length > LONGEST && self.line.last() != Some(&b'\n') {
            length += self.source.skip_until(b'\n')? as u64;
        }
        self.number += 1;
        Ok(length)
    }

    fn parse(&self) -> Option<Line> {
        let order = if self.line.len() as u64 > LONGEST {
            Err(format!("longer than {LONGEST} bytes"))
        } else if self.line.trim_ascii().is_empty() {
            return None;
        } else {
            serde_json::from_slice(&self.line).map_err(|error| reason(&error))
        };
        let number = self.number;
        Some(Line { number, order })
    }
}

/// The error without its line, which is 1 on every line of a file.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(text) => format!("{text} at column {}", error.column()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(source: impl Read) -> Vec<Batch> {
        let mut lines = Lines::new(source);
        std::iter::from_fn(|| lines.batch().unwrap()).collect()
    }

    fn order(id: u64) -> String {
        serde_json::to_string(&Order::new(id, [(1, 2, 3.0)])).unwrap()
    }

    #[test]
    fn lines_are_counted_and_blank_ones_passed_over() {
        let text = format!("{}\r\n\n \nnonsense\n{}", order(1), order(2));
        let lines: Vec<_> = batches(text.as_bytes())
            .into_iter()
            .flat_map(|batch| batch.lines)
            .collect();
        let numbers: Vec<_> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [1, 4, 5]);
        assert_eq!(
            lines[1].order.as_ref().unwrap_err(),
            "expected ident at column 2"
        );
        assert_eq!(lines[2].order.as_ref().unwrap().id, 2);
    }

    #[test]
    fn a_line_that_is_too_long_does_not_end_the_reading() {
        let text = format!("{}\n{}\n", "7".repeat(3 << 20), order(2));
        let lines: Vec<_> = batches(text.as_bytes())
            .into_iter()
            .flat_map(|batch| batch.lines)
            .collect();
        assert!(
            lines[0]
                .order
                .as_ref()
                .unwrap_err()
                .starts_with("longer than")
        );
        assert_eq!((lines[1].number, lines.len()), (2, 2));
    }

    #[test]
    fn batches_are_bounded_and_add_up() {
        let text: String = (1..=2_500).map(|id| order(id) + "\n").collect();
        let batches = batches(text.as_bytes());
        assert!(batches.iter().all(|batch| batch.lines.len() <= BATCH));
        assert_eq!(
            batches.iter().map(|batch| batch.lines.len()).sum::<usize>(),
            2_500
        );
        assert_eq!(
            batches.iter().map(|batch| batch.bytes).sum::<u64>(),
            text.len() as u64
        );
    }

    /// A pipe that never has more than one line.
    struct Trickle(Vec<String>);

    impl Read for Trickle {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let Some(line) = self.0.pop() else {
                return Ok(0);
            };
            into[..line.len()].copy_from_slice(line.as_bytes());
            Ok(line.len())
        }
    }

    #[test]
    fn an_order_does_not_wait_for_the_next_one() {
        let batches = batches(Trickle(vec![order(2) + "\n", order(1) + "\n"]));
        assert_eq!(batches.len(), 2);
    }
}
