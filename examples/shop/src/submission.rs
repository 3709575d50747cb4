//! Publishing orders, and saying which were not published and why.

use std::{error::Error as StdError, fmt};

use switchboard::{Bus, Error, ErrorKind, MessageId};

use crate::{
    order::Order,
    orders::{Batch, Line},
    terminal::Terminal,
};

/// Publishes orders batch after batch.
#[derive(Debug)]
pub struct Submission<'a> {
    bus: &'a Bus,
    terminal: &'a Terminal,
    submitted: Submitted,
}

/// What became of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Submitted {
    /// Orders that the broker has.
    pub published: u64,
    /// Lines that are not valid orders.
    pub refused: u64,
    /// Orders that went nowhere, or that the broker did not confirm.
    pub failed: u64,
}

impl<'a> Submission<'a> {
    /// Publishes on this bus, and reports on this terminal.
    pub fn new(bus: &'a Bus, terminal: &'a Terminal) -> Self {
        Self {
            bus,
            terminal,
            submitted: Submitted::default(),
        }
    }

    /// What became of the lines so far.
    pub fn submitted(&self) -> Submitted {
        self.submitted
    }

    /// Publishes the orders of a batch; answers the ids of those that the broker has. Reports the others.
    pub async fn publish(&mut self, Batch { lines, bytes }: Batch) -> Vec<MessageId> {
        let mut orders = Vec::with_capacity(lines.len());
        for Line { number, order } in lines {
            match order {
                Ok(order) => orders.push((number, order)),
                Err(reason) => self.refuse(number, reason),
            }
        }
        let events = orders.iter().map(|(_, order)| Order::SUBMIT.of(order));
        // An order that nobody bills or packs is not sold.
        let results = self.bus.publish_all(events).mandatory().await;
        let mut published = Vec::with_capacity(orders.len());
        for ((number, Order { id, .. }), result) in orders.iter().zip(results) {
            match result {
                Ok(receipt) => published.push(receipt.id),
                Err(error) if error.kind() == ErrorKind::Invalid => {
                    self.refuse(*number, format_args!("order {id} is {}", Causes(&error)));
                }
                Err(error) => self.fail(*number, *id, &error),
            }
        }
        self.submitted.published += published.len() as u64;
        self.terminal.advance(bytes, self.submitted.published);
        published
    }

    fn refuse(&mut self, number: u64, reason: impl fmt::Display) {
        self.submitted.refused += 1;
        self.terminal
            .report(format_args!("line {number}: {reason}"));
    }

    fn fail(&mut self, number: u64, id: u64, error: &Error) {
        self.submitted.failed += 1;
        self.terminal.report(format_args!(
            "line {number}: order {id} was not published: {}",
            Causes(error)
        ));
    }
}

impl Submitted {
    /// Whether every line became a published order.
    pub fn is_complete(&self) -> bool {
        self.refused == 0 && self.failed == 0
    }
}

/// An error and its causes in one line.
struct Causes<'a>(&'a Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        let mut next = StdError::source(self.0);
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}
