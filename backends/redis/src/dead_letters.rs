//! The dead letters of one queue: a stream of their own for each of its exchanges.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use event_core::{
    DeadLetter, DeadLetterId, DeadLetters, Error, ErrorKind, ExchangeName, Result, Selection,
};
use redis::{Cmd, Value};
use tokio::time::Instant;

use crate::{
    error,
    keys::QueueKeys,
    lane::entries,
    link::Link,
    scripts,
    shared::{PATIENCE, Shared},
    topology,
    wire::{self, Entry, EntryId, Reading},
};

/// How many are looked at together.
const BATCH: usize = 200;

#[derive(Debug)]
pub(crate) struct Letters {
    queue: String,
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    exchange: ExchangeName,
    keys: QueueKeys,
    link: Arc<Link>,
}

impl Letters {
    pub(crate) async fn open(shared: &Arc<Shared>, queue: &str) -> Result<Self> {
        shared.check_open()?;
        let exchanges = topology::exchanges(shared, queue).await?;
        let mut exchanges = exchanges.ok_or_else(|| error::unknown_queue(queue))?;
        exchanges.sort();
        let streams = exchanges.into_iter().map(|exchange| Stream {
            keys: shared.exchange(&exchange).queue(queue),
            link: shared.link(&exchange),
            exchange,
        });
        Ok(Self {
            queue: queue.to_owned(),
            streams: streams.collect(),
        })
    }

    async fn ask(&self, stream: &Stream, cmd: &Cmd) -> Result<Value> {
        let what = format!("read the dead letters of queue `{}`", self.queue);
        let deadline = Instant::now() + PATIENCE;
        let link = &stream.link;
        link.request(&what, deadline, cmd).await
    }

    /// The letters of one stream within these ids, oldest first.
    async fn range(
        &self,
        stream: &Stream,
        from: &str,
        to: &str,
        limit: usize,
    ) -> Result<Vec<(EntryId, DeadLetter)>> {
        let mut cmd = Cmd::new();
        cmd.arg("XRANGE").arg(&stream.keys.dead).arg(from).arg(to);
        cmd.arg("COUNT").arg(limit);
        let found = entries(self.ask(stream, &cmd).await?)
            .ok_or_else(|| error::strange("read dead letters"))?;
        let mut reading = Reading::new(stream.exchange.clone());
        let letters = found.into_iter().filter_map(|(id, fields)| {
            let Entry::Message(message) = reading.read(fields) else {
                return None;
            };
            let name = DeadLetterId::new(format!("{id}@{}", stream.exchange));
            Some((id, DeadLetter::new(name, message)))
        });
        Ok(letters.collect())
    }

    /// The newest letter of one stream.
    async fn newest(&self, stream: &Stream) -> Result<Option<EntryId>> {
        let mut cmd = Cmd::new();
        cmd.arg("XREVRANGE")
            .arg(&stream.keys.dead)
            .arg("+")
            .arg("-");
        cmd.arg("COUNT").arg(1);
        let newest = entries(self.ask(stream, &cmd).await?);
        Ok(newest.and_then(|newest| newest.first().map(|(id, _)| *id)))
    }

    /// The stream and the entry that an id names; nothing when it is not one of this queue's.
    fn find(&self, id: &DeadLetterId) -> Option<(&Stream, EntryId)> {
        let (entry, exchange) = id.as_str().split_once('@')?;
        let stream = self
            .streams
            .iter()
            .find(|stream| stream.exchange == *exchange)?;
        Some((stream, EntryId::from_text(entry)?))
    }

    async fn replay_one(&self, stream: &Stream, id: EntryId, letter: DeadLetter) -> Result<u64> {
        let keys = [&stream.keys.dead, &stream.keys.stream].map(String::as_str);
        let mut call = scripts::REPLAY.call(keys).arg(id.to_string());
        for (name, value) in wire::fields(&letter.into_replay()) {
            call.push(name.as_bytes());
            call.push(&value.as_bytes()[..]);
        }
        let what = format!("replay a dead letter of queue `{}`", self.queue);
        let deadline = Instant::now() + PATIENCE;
        match stream.link.request(&what, deadline, &call).await? {
            Value::Int(-1) => Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "the stream of queue `{}` is gone from Redis; start its service, which declares it again",
                    self.queue
                ),
            )),
            Value::Int(count) => Ok(u64::try_from(count).unwrap_or(0)),
            _ => Err(error::strange(&what)),
        }
    }
}

#[async_trait]
impl DeadLetters for Letters {
    async fn list(&self, after: Option<&DeadLetterId>, limit: usize) -> Result<Vec<DeadLetter>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let after = match after {
            None => None,
            Some(after) => {
                let (entry, exchange) = after
                    .as_str()
                    .split_once('@')
                    .unwrap_or((after.as_str(), ""));
                let entry = EntryId::from_text(entry).ok_or_else(|| {
                    Error::new(
                        ErrorKind::InvalidName,
                        format!(
                            "`{after}` is not the id of a dead letter; take it from the list before"
                        ),
                    )
                })?;
                Some((entry, exchange.to_owned()))
            }
        };
        let mut found = Vec::new();
        for stream in &self.streams {
            let from = match &after {
                None => "-".to_owned(),
                // Of one moment, they are in the order of their exchanges.
                Some((entry, exchange)) if stream.exchange.as_str() > exchange.as_str() => {
                    entry.to_string()
                }
                Some((entry, _)) => format!("({entry}"),
            };
            found.extend(
                self.range(stream, &from, "+", limit)
                    .await?
                    .into_iter()
                    .map(|(id, letter)| (id, &stream.exchange, letter)),
            );
        }
        found.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        found.truncate(limit);
        Ok(found.into_iter().map(|(_, _, letter)| letter).collect())
    }

    async fn replay(&self, selection: &Selection) -> Result<u64> {
        let mut count = 0;
        match selection {
            Selection::All => {
                for stream in &self.streams {
                    // What fails again meanwhile is not replayed again.
                    let Some(last) = self.newest(stream).await? else {
                        continue;
                    };
                    let mut from = "-".to_owned();
                    loop {
                        let batch = self.range(stream, &from, &last.to_string(), BATCH).await?;
                        let Some((newest, _)) = batch.last() else {
                            break;
                        };
                        from = format!("({newest}");
                        for (id, letter) in batch {
                            count += self.replay_one(stream, id, letter).await?;
                        }
                    }
                }
            }
            Selection::Ids(ids) => {
                let ids: BTreeSet<_> = ids.iter().map(DeadLetterId::as_str).collect();
                for id in ids {
                    let Some((stream, id)) = self.find(&DeadLetterId::new(id)) else {
                        continue;
                    };
                    let text = id.to_string();
                    for (id, letter) in self.range(stream, &text, &text, 1).await? {
                        count += self.replay_one(stream, id, letter).await?;
                    }
                }
            }
        }
        Ok(count)
    }

    async fn purge(&self, selection: &Selection) -> Result<u64> {
        let mut count = 0;
        let number = |answer: Value| match answer {
            Value::Int(number) => u64::try_from(number).unwrap_or(0),
            _ => 0,
        };
        match selection {
            Selection::All => {
                for stream in &self.streams {
                    let Some(last) = self.newest(stream).await? else {
                        continue;
                    };
                    let next = EntryId {
                        number: last.number + 1,
                        ..last
                    };
                    let mut cmd = Cmd::new();
                    cmd.arg("XTRIM").arg(&stream.keys.dead);
                    cmd.arg("MINID").arg("=").arg(next.to_string());
                    count += number(self.ask(stream, &cmd).await?);
                }
            }
            Selection::Ids(ids) => {
                for id in ids {
                    if let Some((stream, id)) = self.find(id) {
                        let mut cmd = Cmd::new();
                        cmd.arg("XDEL").arg(&stream.keys.dead).arg(id.to_string());
                        count += number(self.ask(stream, &cmd).await?);
                    }
                }
            }
        }
        Ok(count)
    }
}
