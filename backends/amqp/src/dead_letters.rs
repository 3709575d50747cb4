//! The dead letters of one queue. AMQP cannot look into a queue: what is to be seen is taken out, and goes back when
//! the channel is closed.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use event_core::{DeadLetter, DeadLetterId, DeadLetters, Message, Result, Selection};
use futures_util::StreamExt;
use lapin::{
    Consumer,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions,
        QueuePurgeOptions,
    },
    types::FieldTable,
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use crate::{
    channel::{self, Owned, PATIENCE},
    error, names,
    publisher::Outbound,
    settler::letter_id,
    shared::Shared,
    topology,
    wire::{Notes, Reading},
};

/// How many are replayed together.
const BATCH: usize = 500;

#[derive(Debug)]
pub(crate) struct Letters {
    shared: Arc<Shared>,
    queue: String,
    dead: String,
    /// Two at the same time would not see all of them.
    turn: Mutex<()>,
}

/// How long a look waits for what another one is just putting back.
const RETURNING: Duration = Duration::from_millis(100);

/// A look at the queue: what it had ready, in order.
struct Look {
    channel: Owned,
    consumer: Consumer,
    /// How many were ready, and how many came.
    ready: u32,
    came: u32,
    done: u32,
    reading: Reading,
}

struct Found {
    tag: u64,
    id: DeadLetterId,
    message: Message,
}

impl Letters {
    pub(crate) async fn open(shared: &Arc<Shared>, queue: &str) -> Result<Self> {
        let dead = names::dead(queue);
        let live = shared.consuming(&format!("use queue `{dead}`")).await?;
        let on = channel::open(&live).await?;
        topology::ready(&on, &dead).await?;
        on.end().await;
        Ok(Self {
            shared: shared.clone(),
            queue: queue.to_owned(),
            dead,
            turn: Mutex::new(()),
        })
    }

    fn what(&self) -> String {
        format!("read queue `{}`", self.dead)
    }

    /// Takes them out one after the other, all of them.
    async fn look(&self) -> Result<Look> {
        let what = self.what();
        let live = self.shared.consuming(&what).await?;
        let channel = channel::open(&live).await?;
        let ready = topology::ready(&channel, &self.dead).await?;
        let consume = channel.basic_consume(
            self.dead.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        Ok(Look {
            consumer: channel.answer(&what, consume).await?,
            channel,
            ready,
            came: 0,
            done: 0,
            reading: Reading::default(),
        })
    }
}

impl Look {
    async fn next(&mut self, what: &str) -> Result<Option<Found>> {
        // What is put back just now is not among those that are ready.
        let patience = if self.came < self.ready {
            PATIENCE
        } else {
            RETURNING
        };
        let next = timeout(patience, self.consumer.next()).await;
        let incoming = match next {
            Ok(Some(Ok(incoming))) => incoming,
            Ok(Some(Err(error))) => return Err(error::of(what, &error)),
            Ok(None) => return Err(error::lost(what)),
            Err(_) if self.came >= self.ready => return Ok(None),
            Err(_) => return Err(error::silent(what)),
        };
        self.came += 1;
        let tag = incoming.delivery_tag;
        let received = self.reading.read(
            incoming.exchange.as_str(),
            incoming.routing_key.as_str(),
            &incoming.properties,
            incoming.data,
        );
        let id = received.notes.letter.unwrap_or_else(|| {
            // Put there by somebody else; its own id is as good as any.
            format!("~{}", received.message.id())
        });
        Ok(Some(Found {
            tag,
            id: DeadLetterId::new(id),
            message: received.message,
        }))
    }

    async fn done(&mut self, tag: u64, what: &str) -> Result<()> {
        self.done += 1;
        let ack = self.channel.basic_ack(tag, BasicAckOptions::default());
        self.channel.answer(what, ack).await
    }

    /// Gives back what was not done, and waits until the queue has it, so that the next look sees it.
    async fn end(self, dead: &str) -> Result<()> {
        let what = format!("put back what was read of queue `{dead}`");
        let cancel = self
            .channel
            .basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        self.channel.answer(&what, cancel).await?;
        let left = self.came - self.done;
        if left > 0 {
            let options = BasicNackOptions {
                multiple: true,
                requeue: true,
            };
            // Everything that was not acknowledged, also what had not been looked at.
            self.channel
                .answer(&what, self.channel.basic_nack(0, options))
                .await?;
            let until = Instant::now() + Duration::from_secs(1);
            while topology::ready(&self.channel, dead).await? < left && Instant::now() < until {
                sleep(Duration::from_millis(2)).await;
            }
        }
        self.channel.end().await;
        Ok(())
    }
}

#[async_trait]
impl DeadLetters for Letters {
    async fn list(&self, after: Option<&DeadLetterId>, limit: usize) -> Result<Vec<DeadLetter>> {
        let _turn = self.turn.lock().await;
        if limit == 0 {
            return Ok(Vec::new());
        }
        let what = self.what();
        // All of them: they stand in the order of the queue, and are listed in that of their ids.
        let mut look = self.look().await?;
        let mut listed: BTreeMap<DeadLetterId, DeadLetter> = BTreeMap::new();
        while let Some(found) = look.next(&what).await? {
            // Their ids begin with the time; what is put back need not come back in order.
            if after.is_none_or(|after| found.id > *after) {
                listed.insert(found.id.clone(), DeadLetter::new(found.id, found.message));
            }
            if listed.len() > limit {
                listed.pop_last();
            }
        }
        look.end(&self.dead).await?;
        Ok(listed.into_values().collect())
    }

    async fn replay(&self, selection: &Selection) -> Result<u64> {
        let _turn = self.turn.lock().await;
        let what = self.what();
        let mut look = self.look().await?;
        let mut wanted = Wanted::new(selection);
        // What becomes a dead letter again meanwhile is not replayed again.
        let (mut left, begun) = (look.ready, DeadLetterId::new(letter_id()));
        let mut count = 0;
        let mut more = true;
        while more {
            let mut tags = Vec::new();
            let mut copies = Vec::new();
            while copies.len() < BATCH {
                let found = match look.next(&what).await? {
                    Some(found) if !wanted.is_over() => found,
                    _ => {
                        more = false;
                        break;
                    }
                };
                // Those that were there are ours, whatever the clock says that wrote their ids. Of what comes
                // behind them, what another look put back is older than this one.
                if left == 0 && found.id > begun {
                    continue;
                }
                left = left.saturating_sub(1);
                if wanted.takes(&found.id) {
                    let message = DeadLetter::new(found.id, found.message).into_replay();
                    tags.push(found.tag);
                    copies.push(Outbound::copy(
                        message,
                        self.queue.clone(),
                        Notes::default(),
                    ));
                }
            }
            let mut failed = None;
            for (tag, stored) in tags.into_iter().zip(self.shared.store(copies).await) {
                match stored {
                    Ok(_) => {
                        look.done(tag, &what).await?;
                        count += 1;
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                // The error is what matters.
                let _ = look.end(&self.dead).await;
                return Err(error);
            }
        }
        look.end(&self.dead).await?;
        Ok(count)
    }

    async fn purge(&self, selection: &Selection) -> Result<u64> {
        let _turn = self.turn.lock().await;
        let what = format!("purge queue `{}`", self.dead);
        if *selection == Selection::All {
            let live = self.shared.consuming(&what).await?;
            let on = channel::open(&live).await?;
            let purge = on.queue_purge(self.dead.as_str().into(), QueuePurgeOptions::default());
            let count = on.answer(&what, purge).await?;
            on.end().await;
            return Ok(u64::from(count));
        }
        let mut look = self.look().await?;
        let mut wanted = Wanted::new(selection);
        let mut count = 0;
        while !wanted.is_over()
            && let Some(found) = look.next(&what).await?
        {
            if wanted.takes(&found.id) {
                look.done(found.tag, &what).await?;
                count += 1;
            }
        }
        look.end(&self.dead).await?;
        Ok(count)
    }
}

/// What is still to be found of a selection.
struct Wanted<'a>(Option<HashSet<&'a DeadLetterId>>);

impl<'a> Wanted<'a> {
    fn new(selection: &'a Selection) -> Self {
        Self(match selection {
            Selection::All => None,
            Selection::Ids(ids) => Some(ids.iter().collect()),
        })
    }

    fn takes(&mut self, id: &DeadLetterId) -> bool {
        self.0.as_mut().is_none_or(|ids| ids.remove(id))
    }

    fn is_over(&self) -> bool {
        self.0.as_ref().is_some_and(|ids| ids.is_empty())
    }
}
