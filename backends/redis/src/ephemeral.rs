//! Ephemeral subscriptions: a channel of their own, bound like a queue for as long as somebody listens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use event_core::{
    Arrival, Deliveries, Delivery, DeliveryTag, Error, ErrorKind, ExchangeName, Message, QueueSpec,
    Result, Settle, Settled, Settlement, Subscription,
};
use redis::Value;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    error,
    keys::{self, ExchangeKeys},
    link::Request,
    listening::Listening,
    scripts,
    shared::{PATIENCE, Shared, lock, token},
    subscription::{Alive, until},
    wire::{Entry, Reading},
};

/// How many messages may wait for a slow handler; what comes then is dropped, and said.
const BUFFER: usize = 10_000;

pub(crate) async fn open(shared: &Arc<Shared>, spec: &QueueSpec) -> Result<Subscription> {
    static GENERATION: AtomicU64 = AtomicU64::new(1);
    let name = keys::ephemeral(&format!("{}:{}", spec.name, token()));
    let (messages, received) = mpsc::channel(BUFFER);
    let alive = Alive::new();
    let stop = CancellationToken::new();
    let mut exchanges: BTreeMap<ExchangeName, Vec<String>> = BTreeMap::new();
    for binding in &spec.bindings {
        let field = keys::binding(&name, binding.pattern.as_str());
        exchanges
            .entry(binding.exchange.clone())
            .or_default()
            .push(field);
    }
    for (exchange, bindings) in exchanges {
        let listener = Listener {
            keys: shared.exchange(&exchange),
            shared: shared.clone(),
            exchange,
            name: name.clone(),
            bindings,
            messages: messages.clone(),
            stop: stop.clone(),
        };
        let (ready, listens) = oneshot::channel();
        tokio::spawn(until(alive.gone.clone(), listener.run(ready)));
        listens.await.unwrap_or_else(|_| Err(error::closed()))?;
    }
    let waits = Arc::new(Waits::default());
    Ok(Subscription {
        stop: stop.clone(),
        deliveries: Box::new(Reader {
            shared: shared.clone(),
            received,
            stop,
            waits: waits.clone(),
            generation: GENERATION.fetch_add(1, Relaxed),
            next: 0,
            _alive: alive.clone(),
        }),
        settle: Arc::new(Settler {
            waits,
            _alive: alive,
        }),
    })
}

/// Listens to one exchange.
struct Listener {
    shared: Arc<Shared>,
    exchange: ExchangeName,
    keys: ExchangeKeys,
    name: String,
    bindings: Vec<String>,
    messages: mpsc::Sender<Message>,
    stop: CancellationToken,
}

impl Listener {
    async fn run(self, ready: oneshot::Sender<Result<()>>) {
        let mut ready = Some(ready);
        while !self.stop.is_cancelled() {
            match self.listen().await {
                Ok(listening) => {
                    if let Some(ready) = ready.take() {
                        let _ = ready.send(Ok(()));
                    }
                    self.hand_over(listening).await;
                }
                Err(error) => {
                    if let Some(ready) = ready.take() {
                        let _ = ready.send(Err(error));
                        return;
                    }
                    tracing::warn!(target: "switchboard", exchange = %self.exchange, %error, "cannot listen");
                    tokio::select! {
                        () = self.stop.cancelled() => {}
                        () = sleep(Duration::from_millis(500)) => {}
                    }
                }
            }
        }
        // Otherwise the first publish that nobody hears does it.
        let keys = &self.keys;
        let table = [&keys.version, &keys.bindings, &keys.queues].map(String::as_str);
        let call = scripts::DELETE.call(table).arg(token()).arg(&self.name);
        if let Ok(live) = self.shared.link(&self.exchange).live().await {
            let _ = call.send(&live).await;
        }
    }

    /// Listens first, and is bound then: nothing that comes in through the binding is missed.
    async fn listen(&self) -> Result<Listening> {
        let channel = self.keys.target(&self.name);
        let exchange = Some(&*self.exchange);
        let servers = &self.shared.servers;
        let listening = Listening::open(servers, exchange, "SSUBSCRIBE", &channel).await?;
        let what = format!("listen to exchange `{}`", self.exchange);
        let table = [&self.keys.version, &self.keys.bindings, &self.keys.queues];
        let mut call = scripts::DECLARE
            .call(table.map(String::as_str))
            .arg(token())
            .arg(&self.name)
            .arg("");
        for binding in &self.bindings {
            call.push(binding);
        }
        let link = self.shared.link(&self.exchange);
        link.request(&what, Instant::now() + PATIENCE, &call)
            .await?;
        Ok(listening)
    }

    /// Hands over what is heard, until the connection is lost or the subscription stops.
    async fn hand_over(&self, mut listening: Listening) {
        let mut reading = Reading::new(self.exchange.clone());
        let mut dropped = 0_u64;
        loop {
            let heard = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                heard = listening.next() => heard,
            };
            let Some(text) = heard else {
                tracing::warn!(
                    target: "switchboard", exchange = %self.exchange,
                    "the connection of an ephemeral subscription was lost; what is published until it is made again \
                     is not heard"
                );
                return;
            };
            let Some(Entry::Message(message)) = strings(&text).map(|fields| reading.read(fields))
            else {
                continue;
            };
            if self.messages.try_send(message).is_err() {
                dropped += 1;
                if dropped.is_power_of_two() {
                    tracing::warn!(
                        target: "switchboard", exchange = %self.exchange, dropped,
                        "an ephemeral subscription is slower than what it hears, and drops some"
                    );
                }
            }
        }
    }
}

/// Strings with their lengths in front: `2:ab0:`.
fn strings(mut text: &[u8]) -> Option<Vec<Value>> {
    let mut strings = Vec::new();
    while !text.is_empty() {
        let colon = text.iter().position(|byte| *byte == b':')?;
        let length: usize = std::str::from_utf8(&text[..colon]).ok()?.parse().ok()?;
        let string = text.get(colon + 1..(colon + 1).checked_add(length)?)?;
        strings.push(Value::BulkString(string.to_vec()));
        text = &text[colon + 1 + length..];
    }
    Some(strings)
}

/// What waits to be handled again: a key that nobody knew yet. It ends with the process, like all of it.
#[derive(Debug, Default)]
struct Waits {
    messages: Mutex<BTreeSet<(Instant, u64)>>,
    bodies: Mutex<BTreeMap<u64, Message>>,
    changed: tokio::sync::Notify,
}

impl Waits {
    fn add(&self, message: Message, delay: Duration) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Some(due) = Instant::now().checked_add(delay) else {
            return;
        };
        let number = NEXT.fetch_add(1, Relaxed);
        lock(&self.bodies).insert(number, message);
        lock(&self.messages).insert((due, number));
        self.changed.notify_one();
    }

    fn next_due(&self) -> Option<Instant> {
        lock(&self.messages).first().map(|(due, _)| *due)
    }

    fn take_due(&self) -> Option<Message> {
        let mut messages = lock(&self.messages);
        let first = *messages.first().filter(|(due, _)| *due <= Instant::now())?;
        messages.remove(&first);
        lock(&self.bodies).remove(&first.1)
    }
}

#[derive(Debug)]
struct Reader {
    shared: Arc<Shared>,
    received: mpsc::Receiver<Message>,
    stop: CancellationToken,
    waits: Arc<Waits>,
    generation: u64,
    next: u64,
    _alive: Arc<Alive>,
}

#[async_trait]
impl Deliveries for Reader {
    async fn next(&mut self, max: usize) -> Result<Arrival> {
        let mut batch = Vec::new();
        loop {
            while batch.len() < max
                && let Some(message) = self.waits.take_due()
            {
                batch.push(self.delivery(message));
            }
            while batch.len() < max
                && let Ok(message) = self.received.try_recv()
            {
                batch.push(self.delivery(message));
            }
            if !batch.is_empty() {
                return Ok(Arrival::Batch(batch));
            }
            let due = self.waits.next_due();
            let due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.shared.closing.cancelled() => return Err(error::closed()),
                () = self.stop.cancelled() => return Ok(Arrival::Ended),
                message = self.received.recv() => match message {
                    Some(message) => batch.push(self.delivery(message)),
                    None => return Err(Error::new(
                        ErrorKind::Internal,
                        "nobody listens for an ephemeral subscription any more",
                    )),
                },
                () = self.waits.changed.notified() => {}
                () = due => {}
            }
        }
    }
}

impl Reader {
    fn delivery(&mut self, message: Message) -> Delivery {
        let number = self.next;
        self.next += 1;
        let generation = self.generation;
        Delivery::new(message, DeliveryTag { generation, number })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Debug)]
struct Settler {
    waits: Arc<Waits>,
    _alive: Arc<Alive>,
}

#[async_trait]
impl Settle for Settler {
    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Settled>> {
        let settlements = settlements.into_iter();
        settlements
            .map(|settlement| {
                if let Settlement::Retry { message, delay, .. } = settlement {
                    self.waits.add(*message, delay);
                }
                Ok(Settled::Done)
            })
            .collect()
    }

    async fn isolate(&self, _tag: DeliveryTag) -> Result<u32> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_taken_apart_by_their_lengths() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        assert_eq!(
            strings(b"1:a0:3:b:c").unwrap(),
            [bulk("a"), bulk(""), bulk("b:c")]
        );
        for wrong in ["1", "x:a", "5:abc", "18446744073709551615:a"] {
            assert!(strings(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
