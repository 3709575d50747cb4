//! A consumer without the framework, for facts about the transport.

use std::{sync::Arc, time::Duration};

use event_core::{
    Arrival, Bus, Delivery, DeliveryTag, Error, ErrorKind, QueueSpec, Result, Settle, Settled,
    Settlement, Subscription,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::failure::{CaseResult, Failure};

/// A consumer without the framework. Dropping it is a crash; so is [`crash`](Self::crash), which also waits until
/// the subscription is gone.
#[derive(Debug)]
pub struct Consumer {
    arrivals: mpsc::Receiver<Result<Arrival>>,
    ready: std::collections::VecDeque<Delivery>,
    settle: Option<Arc<dyn Settle>>,
    stop: CancellationToken,
    reader: JoinHandle<()>,
    patience: Duration,
    quiet: Duration,
}

impl Consumer {
    /// Starts to consume. The reader is never asked for more than the prefetch of the queue in all.
    pub(crate) async fn start(
        bus: &Bus,
        queue: &QueueSpec,
        patience: Duration,
        quiet: Duration,
    ) -> Result<Self> {
        let Subscription {
            mut deliveries,
            settle,
            stop,
        } = bus.transport().consume(queue).await?;
        let (arrived, arrivals) = mpsc::channel(1);
        let most = queue.prefetch;
        // A task of its own: a read must not be dropped in the middle, and a case gives up waiting.
        let reader = tokio::spawn(async move {
            loop {
                let arrival = deliveries.next(most).await;
                let over = matches!(arrival, Ok(Arrival::Ended) | Err(_));
                if arrived.send(arrival).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(Self {
            arrivals,
            ready: Default::default(),
            settle: Some(settle),
            stop,
            reader,
            patience,
            quiet,
        })
    }

    /// The next delivery.
    ///
    /// # Errors
    /// None came within the patience of the set-up, or the subscription ended.
    pub async fn next(&mut self) -> CaseResult<Delivery> {
        let until = Instant::now() + self.patience;
        match self.poll_until(until).await? {
            Some(delivery) => Ok(delivery),
            None => Err(Failure::new("waited in vain for a delivery")),
        }
    }

    /// This many deliveries.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn take(&mut self, count: usize) -> CaseResult<Vec<Delivery>> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            taken.push(self.next().await.map_err(|failure| {
                failure.with_detail(&format!("{} of {count} came", taken.len()))
            })?);
        }
        Ok(taken)
    }

    /// Everything that comes until it has been quiet for as long as the set-up says.
    ///
    /// # Errors
    /// The subscription failed, or it was not quiet within the patience of the set-up.
    pub async fn rest(&mut self) -> CaseResult<Vec<Delivery>> {
        let end = Instant::now() + self.patience;
        let mut taken = Vec::new();
        while let Some(delivery) = self.poll_until(Instant::now() + self.quiet).await? {
            taken.push(delivery);
            if Instant::now() > end {
                let count = taken.len();
                return Err(Failure::new(format!(
                    "deliveries without end: {count} came"
                )));
            }
        }
        Ok(taken)
    }

    /// Makes sure that nothing comes, for as long as it is quiet.
    ///
    /// # Errors
    /// Something came.
    pub async fn gets_nothing(&mut self) -> CaseResult {
        self.gets_nothing_for(self.quiet).await
    }

    /// Makes sure that nothing comes, for this time.
    ///
    /// # Errors
    /// Something came.
    pub async fn gets_nothing_for(&mut self, time: Duration) -> CaseResult {
        match self.poll_until(Instant::now() + time).await? {
            None => Ok(()),
            Some(delivery) => Err(Failure::new(format!(
                "a delivery that should not come: {:?}",
                delivery.message()
            ))),
        }
    }

    async fn poll_until(&mut self, until: Instant) -> CaseResult<Option<Delivery>> {
        loop {
            if let Some(delivery) = self.ready.pop_front() {
                return Ok(Some(delivery));
            }
            match timeout_at(until, self.arrivals.recv()).await {
                Err(_) => return Ok(None),
                Ok(None) => return Err(Failure::new("the subscription has ended")),
                Ok(Some(arrival)) => {
                    if let Arrival::Batch(batch) = arrival? {
                        self.ready.extend(batch);
                    }
                }
            }
        }
    }

    /// Settles a batch.
    pub async fn settle_all(&self, settlements: Vec<Settlement>) -> Vec<Result<Settled>> {
        let count = settlements.len();
        match &self.settle {
            Some(settle) => settle.settle(settlements).await,
            None => vec![Err(Error::new(ErrorKind::Closed, "it crashed")); count],
        }
    }

    /// Settles one delivery.
    ///
    /// # Errors
    /// Those of the settlement.
    pub async fn settle(&self, settlement: Settlement) -> CaseResult<Settled> {
        let mut results = self.settle_all(vec![settlement]).await;
        match (results.pop(), results.len()) {
            (Some(result), 0) => Ok(result?),
            _ => Err(Failure::new("one settlement has one result")),
        }
    }

    /// Acknowledges one delivery.
    ///
    /// # Errors
    /// Those of the settlement.
    pub async fn ack(&self, delivery: &Delivery) -> CaseResult<Settled> {
        self.settle(Settlement::Ack(delivery.tag())).await
    }

    /// Gives one delivery back.
    ///
    /// # Errors
    /// Those of the settlement.
    pub async fn release(&self, delivery: &Delivery) -> CaseResult<Settled> {
        self.settle(Settlement::Release(delivery.tag())).await
    }

    /// What settles, for calls of its own.
    pub fn settler(&self) -> Option<Arc<dyn Settle>> {
        self.settle.clone()
    }

    /// Records that a suspect runs alone.
    ///
    /// # Errors
    /// The broker did not record it.
    pub async fn isolate(&self, tag: DeliveryTag) -> CaseResult<u32> {
        match &self.settle {
            Some(settle) => Ok(settle.isolate(tag).await?),
            None => Err(Failure::new("it crashed")),
        }
    }

    /// Tells the reader to end, and waits until it has. Answers what it still gave.
    ///
    /// # Errors
    /// It did not end within the patience of the set-up.
    pub async fn stop(&mut self) -> CaseResult<Vec<Delivery>> {
        self.stop.cancel();
        let until = Instant::now() + self.patience;
        let mut last: Vec<_> = self.ready.drain(..).collect();
        loop {
            match timeout_at(until, self.arrivals.recv()).await {
                Err(_) => return Err(Failure::new("the reader did not end after `stop`")),
                Ok(None | Some(Ok(Arrival::Ended))) => return Ok(last),
                Ok(Some(Ok(Arrival::Batch(batch)))) => last.extend(batch),
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(error.into()),
            }
        }
    }

    /// Ends like a process that is killed: nothing is given back.
    pub async fn crash(mut self) {
        self.settle = None;
        self.reader.abort();
        // It was aborted: there is nothing to say about how it ended.
        let _ = (&mut self.reader).await;
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
