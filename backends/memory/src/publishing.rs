//! Publishing: a batch in, an answer for each message out.

use std::{collections::VecDeque, vec::IntoIter};

use event_core::{ConnectionState, Error, Message, Receipt, Result};
use tokio::{sync::oneshot, time::Instant};

use crate::{error, exchange::Route, faults::Faults, state::State};

/// A publish that waits for the end of an outage. It is the broker's, so that dropping the future that
/// waits for the answer does not drop the messages.
pub(crate) struct Pending {
    connection: u64,
    deadline: Instant,
    batch: Vec<Message>,
    answer: oneshot::Sender<Vec<Result<Receipt>>>,
}

/// How a publish goes on.
pub(crate) enum Published {
    Now(Vec<Result<Receipt>>),
    Later(oneshot::Receiver<Vec<Result<Receipt>>>),
}

/// How many messages a record keeps.
const RECORD_LIMIT: usize = 65_536;

impl State {
    pub(crate) fn begin_publish(
        &mut self,
        connection: u64,
        batch: Vec<Message>,
        deadline: Instant,
    ) -> Published {
        match &mut self.outage {
            None => Published::Now(self.publish(connection, batch)),
            Some(waiting) => {
                let (answer, answered) = oneshot::channel();
                waiting.push(Pending {
                    connection,
                    deadline,
                    batch,
                    answer,
                });
                Published::Later(answered)
            }
        }
    }

    fn publish(&mut self, connection: u64, batch: Vec<Message>) -> Vec<Result<Receipt>> {
        let mut route = Route::default();
        if let Some(mut faults) = self.faults.take() {
            let results = self.publish_with(&mut faults, connection, batch, &mut route);
            self.faults = Some(faults);
            self.wake(&route);
            return results;
        }
        let mut results = Vec::with_capacity(batch.len());
        let mut rest = batch.into_iter();
        while let Some(first) = rest.as_slice().first() {
            route.find(first, &mut self.exchanges);
            let same = rest
                .as_slice()
                .iter()
                .skip(1)
                .take_while(|message| route.is_for(message));
            let count = 1 + same.count();
            self.publish_run(&mut rest, count, &route, &mut results);
            self.wake(&route);
        }
        results
    }

    /// Publishes the next `count` messages, which all have this route.
    fn publish_run(
        &mut self,
        rest: &mut IntoIter<Message>,
        count: usize,
        route: &Route,
        results: &mut Vec<Result<Receipt>>,
    ) {
        let plain = self.max_message.is_none() && self.recorded.is_none();
        if let ([only], true) = (route.queues(), plain)
            && let Some(queue) = self
                .queues
                .at(*only)
                .filter(|queue| queue.has_room_for(count))
        {
            // The usual case: nothing can be refused, so that all of them move at once.
            let run = rest.as_slice().iter().take(count);
            results.extend(run.map(|message| Ok(Receipt::new(message.id().clone(), Some(1)))));
            queue.messages.extend(rest.by_ref().take(count));
            return;
        }
        results.extend(
            rest.by_ref()
                .take(count)
                .map(|message| self.accept(message, route)),
        );
    }

    fn publish_with(
        &mut self,
        faults: &mut Faults,
        connection: u64,
        batch: Vec<Message>,
        route: &mut Route,
    ) -> Vec<Result<Receipt>> {
        let lost_after = faults.disconnects_within(batch.len());
        let mut publish = |(at, message)| {
            match lost_after {
                Some(arrived) if at >= arrived => return Err(error::disconnected()),
                None if faults.refuses_publish() => return Err(error::refused()),
                _ => {}
            }
            if !route.is_for(&message) {
                self.wake(route);
                route.find(&message, &mut self.exchanges);
            }
            let receipt = self.accept(message, route)?;
            match lost_after {
                Some(_) => Err(error::disconnected()),
                None if faults.loses_confirm() => Err(error::confirm_lost()),
                None => Ok(receipt),
            }
        };
        let results = batch.into_iter().enumerate().map(&mut publish).collect();
        if lost_after.is_some() {
            self.disconnect(Some(connection));
        }
        results
    }

    /// Takes responsibility for one message, or says why not.
    fn accept(&mut self, message: Message, route: &Route) -> Result<Receipt> {
        if let Some(limit) = self.max_message
            && message.payload().len() > limit
        {
            return Err(error::too_large(&message, limit));
        }
        let record = self.recorded.is_some().then(|| message.clone());
        let receipt = self.store(message, route)?;
        if let (Some(recorded), Some(message)) = (&mut self.recorded, record) {
            keep(recorded, message);
        }
        Ok(receipt)
    }

    fn store(&mut self, message: Message, route: &Route) -> Result<Receipt> {
        let id = message.id().clone();
        let Some((last, others)) = route.queues().split_last() else {
            return if message.is_mandatory() {
                Err(error::unroutable(&message))
            } else {
                Ok(Receipt::new(id, Some(0)))
            };
        };
        let mut refused: Option<Error> = None;
        for index in others {
            if let Some(queue) = self.queues.at(*index) {
                refused = queue.push(message.clone()).err().or(refused);
            }
        }
        // The last one has the message itself.
        if let Some(queue) = self.queues.at(*last) {
            refused = queue.push(message).err().or(refused);
        }
        let queues = u32::try_from(route.queues().len()).unwrap_or(u32::MAX);
        refused.map_or(Ok(Receipt::new(id, Some(queues))), Err)
    }

    fn wake(&mut self, route: &Route) {
        for index in route.queues() {
            if let Some(queue) = self.queues.at(*index) {
                queue.wake();
            }
        }
    }

    /// Begins or ends an outage. What waited for its end is published in the order of the calls.
    pub(crate) fn set_outage(&mut self, on: bool) {
        let state = if on {
            ConnectionState::Reconnecting
        } else {
            ConnectionState::Connected
        };
        if on != self.outage.is_some() {
            self.connections
                .values()
                .for_each(|connection| _ = connection.send_replace(state));
        }
        if on {
            self.outage.get_or_insert_default();
            return;
        }
        let waiting = self.outage.take().unwrap_or_default();
        for Pending {
            connection,
            deadline,
            batch,
            answer,
        } in waiting
        {
            // Its publisher was told of the deadline already, or is about to be.
            if deadline > Instant::now() {
                let results = self.publish(connection, batch);
                // An answer that nobody waits for any more is given up, not the messages.
                _ = answer.send(results);
            }
        }
        for (_, queue) in self.queues.iter_mut() {
            queue.consumers.wake_all();
        }
    }

    /// Ends the publishes of a connection that is closed during an outage.
    pub(crate) fn drop_pending(&mut self, connection: u64) {
        if let Some(waiting) = &mut self.outage {
            waiting.retain(|pending| pending.connection != connection);
        }
    }
}

fn keep(recorded: &mut VecDeque<Message>, message: Message) {
    if recorded.len() == RECORD_LIMIT {
        recorded.pop_front();
    }
    recorded.push_back(message);
}
