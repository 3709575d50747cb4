//! A handler that does as it is told and writes down what it was given.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use event_core::{Delivery, Event, HandlerError, HandlerResult, Metadata, Outcome};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::failure::{CaseResult, Failure};

/// One delivery, as a handler saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// How many were seen before it at this desk.
    pub nth: usize,
    /// What is known of it.
    pub meta: Metadata,
    /// The delivery itself, with the message.
    pub delivery: Delivery,
    /// When its handler began.
    pub at: Instant,
    /// When its handler ended; nothing while it runs, and when it was dropped or panicked.
    pub ended: Option<Instant>,
}

impl Seen {
    /// The `id` in its payload, for the events in [`orders`](crate::orders).
    pub fn number(&self) -> u64 {
        number(self.delivery.message().payload())
    }
}

/// The `id` in a payload; 0 when there is none.
pub(crate) fn number(payload: &[u8]) -> u64 {
    let value = serde_json::from_slice::<serde_json::Value>(payload).unwrap_or_default();
    value["id"].as_u64().unwrap_or(0)
}

/// What a handler does with a delivery.
#[derive(Debug)]
pub enum Act {
    /// Ends like this.
    End(Outcome),
    /// Fails.
    Fail(HandlerError),
    /// Panics, without a line on the terminal.
    Panic(&'static str),
    /// Waits until the desk is opened, then ends well.
    Hold,
    /// Takes this long, then ends well.
    Take(Duration),
}

impl Act {
    /// Ends well.
    pub const DONE: Self = Self::End(Outcome::Ack);

    /// Fails with this text, to be tried again.
    pub fn fail(text: &'static str) -> Self {
        Self::Fail(text.into())
    }
}

type Script = Box<dyn Fn(&Seen) -> Act + Send + Sync>;

/// A handler that does as it is told and writes down what it was given. Clones are one desk.
///
/// Without a script every delivery ends well at once.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

struct Inner {
    patience: Duration,
    quiet: Duration,
    script: Script,
    log: Mutex<Log>,
    changed: watch::Sender<()>,
    open: watch::Sender<bool>,
}

#[derive(Default)]
struct Log {
    seen: Vec<Seen>,
    running: usize,
    most: usize,
}

impl Desk {
    pub(crate) fn new(patience: Duration, quiet: Duration) -> Self {
        Self::build(patience, quiet, Box::new(|_| Act::DONE))
    }

    fn build(patience: Duration, quiet: Duration, script: Script) -> Self {
        Self(Arc::new(Inner {
            patience,
            quiet,
            script,
            log: Mutex::default(),
            changed: watch::Sender::new(()),
            open: watch::Sender::new(false),
        }))
    }

    /// A fresh desk with a script: what is done with each delivery.
    pub fn doing(&self, script: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        Self::build(self.0.patience, self.0.quiet, Box::new(script))
    }

    /// A fresh desk that holds every delivery until it is opened.
    pub fn holding(&self) -> Self {
        self.doing(|_| Act::Hold)
    }

    /// A fresh desk at which the first attempts of each message fail, this many of them.
    pub fn failing(&self, attempts: u32) -> Self {
        self.doing(move |seen| {
            if seen.meta.attempt <= attempts {
                Act::fail("the bank is closed")
            } else {
                Act::DONE
            }
        })
    }

    /// The handler, for a queue: `.handle(desk.takes::<OrderSubmitted>()).named("bill")`.
    pub fn takes<E: Event>(
        &self,
    ) -> impl Fn(
        E,
        Metadata,
        Delivery,
    ) -> Pin<Box<dyn Future<Output = HandlerResult<Outcome>> + Send>>
    + Clone
    + Send
    + Sync
    + 'static {
        let desk = self.clone();
        move |event, meta, delivery| {
            // Only that it decodes is of interest.
            drop(event);
            Box::pin(desk.clone().handle(meta, delivery))
        }
    }

    async fn handle(self, meta: Metadata, delivery: Delivery) -> HandlerResult<Outcome> {
        let _running = Running::new(&self);
        let seen = {
            let mut log = self.log();
            let seen = Seen {
                nth: log.seen.len(),
                meta,
                delivery,
                at: Instant::now(),
                ended: None,
            };
            log.seen.push(seen.clone());
            seen
        };
        self.0.changed.send_replace(());
        let end = match (self.0.script)(&seen) {
            Act::End(outcome) => Ok(outcome),
            Act::Fail(error) => Err(error),
            // Without the panic hook, which would print it.
            Act::Panic(text) => std::panic::resume_unwind(Box::new(text)),
            Act::Hold => {
                let mut open = self.0.open.subscribe();
                // The sender lives as long as this desk.
                let _ = open.wait_for(|open| *open).await;
                Ok(Outcome::Ack)
            }
            Act::Take(time) => {
                sleep(time).await;
                Ok(Outcome::Ack)
            }
        };
        if let Some(seen) = self.log().seen.get_mut(seen.nth) {
            seen.ended = Some(Instant::now());
        }
        self.0.changed.send_replace(());
        end
    }

    /// Lets go of everything that is held, and holds nothing more.
    pub fn open(&self) {
        self.0.open.send_replace(true);
    }

    /// What was seen so far, in the order in which handlers began.
    pub fn seen(&self) -> Vec<Seen> {
        self.log().seen.clone()
    }

    /// The numbers of what was seen so far, in the order in which handlers began.
    pub fn numbers(&self) -> Vec<u64> {
        self.log().seen.iter().map(Seen::number).collect()
    }

    /// How many handlers run now.
    pub fn running(&self) -> usize {
        self.log().running
    }

    /// The most handlers that ran at the same time.
    pub fn most_running(&self) -> usize {
        self.log().most
    }

    /// Waits until what was seen satisfies the condition, and answers it.
    ///
    /// # Errors
    /// It did not within the patience of the set-up.
    #[track_caller]
    pub fn until<C>(
        &self,
        what: &str,
        condition: C,
    ) -> impl Future<Output = CaseResult<Vec<Seen>>> + Send + use<C>
    where
        C: Fn(&[Seen]) -> bool + Send,
    {
        let failure = Failure::new(format!("waited in vain: {what}"));
        let desk = self.clone();
        async move {
            let wait = desk.wait(condition);
            match timeout(desk.0.patience, wait).await {
                Ok(seen) => Ok(seen),
                Err(_) => Err(failure.with_detail(&format!("saw {}", desk.summary()))),
            }
        }
    }

    /// Waits until handlers have begun this often, and answers what they saw.
    ///
    /// # Errors
    /// They have not within the patience of the set-up.
    #[track_caller]
    pub fn sees(&self, count: usize) -> impl Future<Output = CaseResult<Vec<Seen>>> + Send + use<> {
        self.until(&format!("{count} deliveries to begin"), move |seen| {
            seen.len() >= count
        })
    }

    /// Waits until handlers have ended this often, and answers what they saw.
    ///
    /// # Errors
    /// They have not within the patience of the set-up.
    #[track_caller]
    pub fn finishes(
        &self,
        count: usize,
    ) -> impl Future<Output = CaseResult<Vec<Seen>>> + Send + use<> {
        self.until(&format!("{count} deliveries to end"), move |seen| {
            seen.iter().filter(|seen| seen.ended.is_some()).count() >= count
        })
    }

    /// Makes sure that handlers do not begin more often than this, for as long as it is quiet.
    ///
    /// # Errors
    /// One more has begun.
    #[track_caller]
    pub fn sees_no_more_than(
        &self,
        count: usize,
    ) -> impl Future<Output = CaseResult<Vec<Seen>>> + Send + use<> {
        self.sees_no_more_than_for(count, self.0.quiet)
    }

    /// Makes sure that handlers do not begin more often than this, for this time.
    ///
    /// # Errors
    /// One more has begun.
    #[track_caller]
    pub fn sees_no_more_than_for(
        &self,
        count: usize,
        time: Duration,
    ) -> impl Future<Output = CaseResult<Vec<Seen>>> + Send + use<> {
        let failure = Failure::new(format!("more than {count} deliveries"));
        let desk = self.clone();
        async move {
            match timeout(time, desk.wait(|seen| seen.len() > count)).await {
                Ok(_) => Err(failure.with_detail(&format!("saw {}", desk.summary()))),
                Err(_) => Ok(desk.seen()),
            }
        }
    }

    async fn wait(&self, condition: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let mut changed = self.0.changed.subscribe();
        loop {
            // Marked as seen before the look, so that no change after it is missed.
            changed.borrow_and_update();
            if condition(&self.log().seen) {
                return self.seen();
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn summary(&self) -> String {
        let log = self.log();
        let shown: Vec<_> = log
            .seen
            .iter()
            .take(20)
            .map(|seen| {
                let mark = if seen.ended.is_some() { "" } else { "…" };
                format!("{}/{}{mark}", seen.number(), seen.meta.attempt)
            })
            .collect();
        format!("{} as number/attempt: {}", log.seen.len(), shown.join(" "))
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Desk").field(&self.summary()).finish()
    }
}

/// Counts a handler also when it is dropped or panics.
struct Running<'a>(&'a Desk);

impl<'a> Running<'a> {
    fn new(desk: &'a Desk) -> Self {
        let mut log = desk.log();
        log.running += 1;
        log.most = log.most.max(log.running);
        Self(desk)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.log().running -= 1;
        self.0.0.changed.send_replace(());
    }
}
