//! Runs alone: a suspect stands in the queue for probation while it runs, with nothing else in flight.

use event_core::{DeliveryTag, Message, Result, Settled, Settlement};
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use tokio::time::{Duration, Instant, sleep};

use super::{Settler, not_held};
use crate::{
    channel::{self, Owned},
    names,
    publisher::Outbound,
    window::{Kept, Session},
    wire::{Notes, Reading},
};

/// A suspect that runs alone: the copy in the probation queue that stands for it, held on a channel of its own.
#[derive(Debug)]
pub(super) struct Alone {
    message: Message,
    /// How often it began to run alone before.
    pub(super) before: u32,
    channel: Owned,
    tag: u64,
}

impl Settler {
    /// Settles what ran alone.
    pub(super) async fn settle_alone(
        &self,
        alone: &Alone,
        settlement: Settlement,
    ) -> Result<Settled> {
        if !alone.channel.status().connected() {
            return Ok(Settled::Lost);
        }
        let copy = match settlement {
            Settlement::Ack(_) => None,
            Settlement::Release(_) => {
                // It stays a suspect, and this run does not count.
                let notes = Notes {
                    alone: Some(alone.before),
                    ..Notes::default()
                };
                let queue = self.spec.name.to_string();
                Some(Outbound::copy(alone.message.clone(), queue, notes))
            }
            other => Some(self.copy(other).await?),
        };
        if let Some(copy) = copy {
            self.shared.store_one(copy).await?;
        }
        let ack = alone
            .channel
            .basic_ack(alone.tag, BasicAckOptions::default());
        if alone
            .channel
            .answer("acknowledge what ran alone", ack)
            .await
            .is_err()
        {
            return Ok(Settled::Lost);
        }
        // Answered when the acknowledgement was taken: a crash afterwards is not blamed on it.
        let close = alone.channel.close(200, "done".into());
        match alone.channel.answer("close a channel", close).await {
            Ok(()) => Ok(Settled::Done),
            Err(_) => Ok(Settled::Lost),
        }
    }

    /// Has a suspect stand in the probation queue, with one run more, and held there; then takes it off its queue.
    /// If this process ends, it goes back to its queue after a moment, and says how often it ran alone.
    pub(super) async fn put_on_probation(
        &self,
        session: &Session,
        tag: DeliveryTag,
        kept: Kept,
    ) -> Result<Alone> {
        let probation = names::probation(&self.spec.name);
        let what = format!("record a run alone in queue `{probation}`");
        let run = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let notes = Notes {
            alone: Some(kept.alone + 1),
            run: Some(run.clone()),
            ..Notes::default()
        };
        let live = self.shared.consuming(&what).await?;
        let channel = channel::open(&live).await?;
        let copy = Outbound::copy(kept.message.clone(), probation.clone(), notes);
        self.shared.store_one(copy).await?;
        let mut others = Vec::new();
        let mut mine = None;
        let until = Instant::now() + Duration::from_millis(names::PROBATION_MILLIS);
        while mine.is_none() && Instant::now() < until {
            let get = channel.basic_get(probation.as_str().into(), BasicGetOptions::default());
            let found = match channel.answer(&what, get).await {
                Ok(Some(found)) => found,
                // Somebody else looks for theirs at this moment, and gives ours back.
                Ok(None) => {
                    sleep(Duration::from_millis(5)).await;
                    continue;
                }
                // The copy is stored: it goes back to its queue, and the original has to go.
                Err(error) => {
                    tracing::warn!(target: "switchboard", queue = %self.spec.name, %error, "cannot run a suspect alone");
                    break;
                }
            };
            let read = Reading::default().read(
                found.exchange.as_str(),
                found.routing_key.as_str(),
                &found.properties,
                Vec::new(),
            );
            if read.notes.run.as_deref() == Some(&run) {
                mine = Some(found.delivery_tag);
            } else {
                others.push(found.delivery_tag);
            }
        }
        for other in others {
            let back = BasicNackOptions {
                requeue: true,
                ..BasicNackOptions::default()
            };
            // Otherwise they go back with the channel.
            let _ = channel.basic_nack(other, back).await;
        }
        // From here on there are two of it, one of which has to go; at once, also when others are before it.
        let gone = !session.finish(tag.number);
        session.flush_stragglers();
        let Some(mine) = mine else {
            // It went back to its queue, where it is a suspect still.
            return Err(not_held(tag));
        };
        // Before it runs, so that a crash leaves the one that counts.
        let taken_off = self.settle_down(session).await;
        if gone || taken_off.is_err() || !session.is_open() {
            return Err(not_held(tag));
        }
        Ok(Alone {
            message: kept.message,
            before: kept.alone,
            channel,
            tag: mine,
        })
    }
}
