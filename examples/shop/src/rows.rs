//! Rows: one for each delivery handled, on standard output.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    process,
    sync::{Mutex, PoisonError},
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize, Serializer};
use switchboard::{End, ErrorKind, Event, MessageId, Observed};

use crate::{command, order::Order, terminal::Terminal};

/// How a row is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object on a line.
    Json,
}

/// Prints a row for each delivery that a service handled.
#[derive(Debug)]
pub struct Rows {
    format: Format,
    terminal: Terminal,
    /// Whether rows would be printed over the progress bar.
    beside_bar: bool,
    /// The row being written. Several services of one process print.
    buffer: Mutex<Vec<u8>>,
}

/// What a row says, in the order of its fields.
#[derive(Serialize)]
struct Row<'a> {
    service: &'a str,
    event: &'a str,
    #[serde(serialize_with = "as_text")]
    id: &'a MessageId,
    order: Option<u64>,
    attempt: u32,
    outcome: &'static str,
    ms: f64,
}

impl Rows {
    /// Rows in this format. They are kept apart from what is shown on the terminal.
    pub fn new(format: Format, terminal: Terminal) -> Self {
        Self {
            format,
            terminal,
            beside_bar: io::stdout().is_terminal(),
            buffer: Mutex::default(),
        }
    }

    /// Prints the row of a delivery and flushes it. For [`Service::inspect`](switchboard::Service::inspect),
    /// which calls it before the delivery is settled.
    ///
    /// Ends the process when standard output is gone: what has no row must not be settled, and it is
    /// delivered again.
    pub fn print(&self, observed: &Observed<'_>) {
        if let Err(error) = self.write(&Row::new(observed)) {
            if error.kind() == io::ErrorKind::BrokenPipe {
                process::exit(command::BROKEN_PIPE);
            }
            self.terminal
                .report(format_args!("error: cannot write a row: {error}"));
            process::exit(command::FAILURE);
        }
    }

    fn write(&self, row: &Row<'_>) -> io::Result<()> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.clear();
        match self.format {
            Format::Text => write!(buffer, "{row}")?,
            Format::Json => serde_json::to_writer(&mut *buffer, row)?,
        }
        buffer.push(b'\n');
        let out = || {
            // One write for one row: standard output is buffered by line.
            let mut out = io::stdout().lock();
            out.write_all(&buffer)?;
            out.flush()
        };
        if self.beside_bar {
            self.terminal.beside_bar(out)
        } else {
            out()
        }
    }
}

impl<'a> Row<'a> {
    fn new(observed: &Observed<'a>) -> Self {
        let message = observed.delivery.message();
        let seconds = observed.elapsed.unwrap_or_default().as_secs_f64();
        Self {
            service: observed.service,
            event: message.key(),
            id: message.id(),
            order: number(observed),
            attempt: observed.attempt,
            outcome: outcome(observed.end),
            // To the microsecond.
            ms: (seconds * 1e6).round() / 1e3,
        }
    }
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service,
            event,
            id,
            order,
            attempt,
            outcome,
            ms,
        } = self;
        write!(f, "{service:<8}  {outcome:<6}  {event}  ")?;
        match order {
            Some(order) => write!(f, "order {order}")?,
            None => f.write_str("no order")?,
        }
        write!(f, "  attempt {attempt}  {ms:.3} ms  {id}")
    }
}

fn outcome(end: End) -> &'static str {
    match end {
        End::Ack => "ack",
        End::Reject => "reject",
        // `End` may get new members; until this knows them, a delivery that is not over is tried again.
        _ => "retry",
    }
}

/// The number of the order, unless the delivery did not decode.
fn number(observed: &Observed<'_>) -> Option<u64> {
    #[derive(Deserialize)]
    struct Numbered {
        id: u64,
    }
    let delivery = observed.delivery;
    // What was handled did decode, so it is not done twice for the many; what breaks only the rules of its
    // type has a number as well.
    let decoded = observed.end == End::Ack
        || Order::decode(delivery)
            .map_or_else(|error| error.kind() == ErrorKind::Invalid, |_| true);
    if !decoded {
        return None;
    }
    serde_json::from_slice(delivery.message().payload())
        .ok()
        .map(|Numbered { id }| id)
}

fn as_text<S: Serializer>(id: &MessageId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use switchboard::RawEvent;
    use tokio::sync::mpsc;

    use super::*;
    use crate::billing;

    /// What billing prints for a payload that someone publishes with this key.
    async fn row(key: &str, payload: &'static str) -> (Value, String) {
        let bus = switchboard::connect("memory://").await.unwrap();
        let (sender, mut rows) = mpsc::unbounded_channel();
        let service = billing::service().inspect(move |observed| {
            let row = Row::new(observed);
            let _ = sender.send((serde_json::to_value(&row).unwrap(), row.to_string()));
        });
        let running = service.start(&bus).await.unwrap();
        let event = RawEvent::new("order", key, payload).unwrap();
        bus.publish(&event).mandatory().await.unwrap();
        let row = rows.recv().await.unwrap();
        running.shutdown().await.unwrap();
        row
    }

    #[tokio::test]
    async fn what_does_not_decode_has_no_order() {
        for payload in ["no JSON", r#"{"id": 7}"#, r#"{"id": -7, "lines": []}"#] {
            let (row, text) = row("order.v1.submit", payload).await;
            assert_eq!(
                (&row["outcome"], &row["order"]),
                (&"reject".into(), &Value::Null)
            );
            assert!(text.contains("no order"), "{text}");
        }
    }

    #[tokio::test]
    async fn what_is_not_valid_has_an_order() {
        let (row, text) = row("order.v1.submit", r#"{"id": 7, "lines": []}"#).await;
        assert_eq!(
            (&row["outcome"], &row["order"]),
            (&"reject".into(), &7.into())
        );
        assert!(text.contains("order 7"), "{text}");
    }

    #[tokio::test]
    async fn a_field_that_is_not_known_does_no_harm() {
        let payload = r#"{"id": 7, "lines": [{"id": 1, "quantity": 1, "price": 2, "vat": 7}], "tenant": "eu"}"#;
        let (row, _) = row("order.v1.submit", payload).await;
        assert_eq!((&row["outcome"], &row["order"]), (&"ack".into(), &7.into()));
    }

    #[tokio::test]
    async fn a_version_that_is_not_known_waits() {
        let (row, _) = row("order.v2.submit", r#"{"number": "A-7"}"#).await;
        assert_eq!(
            (&row["outcome"], &row["order"]),
            (&"retry".into(), &Value::Null)
        );
        assert_eq!(
            (&row["event"], &row["attempt"]),
            (&"order.v2.submit".into(), &1.into())
        );
    }
}
