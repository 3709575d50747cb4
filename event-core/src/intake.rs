//! Publishes of many callers, collected for the one task that owns a connection.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout_at},
};

use crate::{
    error::{Error, ErrorKind, Result},
    transport::Receipt,
};

type Results = Vec<Result<Receipt>>;

/// Where callers hand in what they publish, for people who write backends: [`intake`] makes it together with the
/// other end, for a connection that belongs to one task; [`Intake::direct`] for a client that any thread may use.
///
/// Callers at the same time share what such a task does at once; that is what makes many tasks that each await
/// a single publish fast.
pub struct Intake<T> {
    way: Way<T>,
    /// One permit for each message that was not answered.
    room: Arc<Semaphore>,
    most: u32,
}

/// Where the task takes what callers handed in. When it is dropped, what it still had fails with
/// [`ErrorKind::Closed`], and so does every later publish.
pub struct Orders<T> {
    batches: mpsc::UnboundedReceiver<Batch<T>>,
    ready: VecDeque<Order<T>>,
}

/// One thing to publish, to be answered once: a [`Message`](crate::Message), or what a backend makes of one.
/// Dropping it answers with [`ErrorKind::Closed`].
pub struct Order<T> {
    item: T,
    deadline: Instant,
    answers: Arc<Answers>,
    at: usize,
    answered: bool,
}

/// Where a batch goes.
enum Way<T> {
    Task(mpsc::UnboundedSender<Batch<T>>),
    Direct(Box<dyn Fn(Vec<Order<T>>) + Send + Sync>),
}

struct Batch<T> {
    items: Vec<T>,
    deadline: Instant,
    answers: Arc<Answers>,
}

/// The answers to a batch, as far as they are there.
struct Answers(Mutex<Open>);

struct Open {
    results: Vec<Option<Result<Receipt>>>,
    left: usize,
    done: Option<oneshot::Sender<Results>>,
    _room: Option<OwnedSemaphorePermit>,
}

/// An intake for at most this many messages without an answer, and the other end of it.
pub fn intake<T>(most: u32) -> (Intake<T>, Orders<T>) {
    let (batches, received) = mpsc::unbounded_channel();
    let intake = Intake::new(most, Way::Task(batches));
    let orders = Orders {
        batches: received,
        ready: VecDeque::new(),
    };
    (intake, orders)
}

impl<T> Intake<T> {
    /// An intake for at most this many messages without an answer, whose batches go to `take` on the thread of the
    /// caller as soon as there is room. It must not block.
    pub fn direct(most: u32, take: impl Fn(Vec<Order<T>>) + Send + Sync + 'static) -> Self {
        Self::new(most, Way::Direct(Box::new(take)))
    }

    fn new(most: u32, way: Way<T>) -> Self {
        Self {
            way,
            room: Arc::new(Semaphore::new(most as usize)),
            most: most.max(1),
        }
    }

    /// Hands in a batch and waits for its answers, at most until the deadline. What has no answer by then is
    /// answered with what `late` makes.
    ///
    /// Waits for room first. After the first poll the messages are on their way, whatever becomes of this
    /// future.
    pub async fn publish(
        &self,
        items: Vec<T>,
        deadline: Instant,
        late: impl Fn() -> Error,
    ) -> Results {
        let count = items.len();
        if count == 0 {
            return Vec::new();
        }
        if deadline <= Instant::now() {
            return vec![Err(late()); count];
        }
        let (done, mut answered) = oneshot::channel();
        let answers = Arc::new(Answers::new(count, done));
        let mut waiting = Waiting {
            intake: self,
            batch: Some(Batch {
                items,
                deadline,
                answers: answers.clone(),
            }),
        };
        let room = u32::try_from(count).unwrap_or(self.most).min(self.most);
        let in_time = timeout_at(deadline, async {
            if let Ok(permit) = self.room.clone().acquire_many_owned(room).await {
                answers.keep(permit);
            }
            waiting.send();
            (&mut answered).await
        });
        match in_time.await {
            Ok(Ok(results)) => results,
            // The other end is gone, and it answers what it drops.
            Ok(Err(_)) | Err(_) => {
                // It was not sent, or is in the hands of the task, which may answer it until it is taken here.
                waiting.batch = None;
                match answers.take(late) {
                    Some(results) => results,
                    // The last answer came in this very moment.
                    None => answered
                        .try_recv()
                        .unwrap_or_else(|_| vec![Err(gone()); count]),
                }
            }
        }
    }
}

/// A batch that waits for room. It is handed in all the same when its future is dropped.
struct Waiting<'a, T> {
    intake: &'a Intake<T>,
    batch: Option<Batch<T>>,
}

impl<T> Waiting<'_, T> {
    fn send(&mut self) {
        let Some(batch) = self.batch.take() else {
            return;
        };
        match &self.intake.way {
            Way::Task(batches) => {
                if let Err(mpsc::error::SendError(batch)) = batches.send(batch) {
                    // The answers say so.
                    batch.answers.fail_all();
                }
            }
            Way::Direct(take) => take(batch.open().collect()),
        }
    }
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        self.send();
    }
}

impl<T> Orders<T> {
    /// Waits for the next message; nothing when no caller is left.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Order<T>> {
        loop {
            if let Some(order) = self.ready.pop_front() {
                return Some(order);
            }
            let batch = self.batches.recv().await?;
            self.ready.extend(batch.open());
        }
    }

    /// The next message, if there is one already.
    pub fn try_next(&mut self) -> Option<Order<T>> {
        loop {
            if let Some(order) = self.ready.pop_front() {
                return Some(order);
            }
            let batch = self.batches.try_recv().ok()?;
            self.ready.extend(batch.open());
        }
    }

    /// Takes nothing more: what is handed in from now on fails with [`ErrorKind::Closed`]. What was handed in
    /// before can still be taken.
    pub fn close(&mut self) {
        self.batches.close();
    }
}

impl<T> Batch<T> {
    fn open(self) -> impl Iterator<Item = Order<T>> {
        let Self {
            items,
            deadline,
            answers,
        } = self;
        items.into_iter().enumerate().map(move |(at, item)| Order {
            item,
            deadline,
            answers: answers.clone(),
            at,
            answered: false,
        })
    }
}

impl<T> Drop for Orders<T> {
    fn drop(&mut self) {
        self.close();
        while let Some(order) = self.try_next() {
            drop(order);
        }
    }
}

impl<T> Order<T> {
    /// What to publish.
    pub fn item(&self) -> &T {
        &self.item
    }

    /// When its caller gives up waiting.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Answers it.
    pub fn finish(mut self, result: Result<Receipt>) {
        self.answered = true;
        self.answers.set(self.at, result);
    }
}

impl<T> Drop for Order<T> {
    fn drop(&mut self) {
        if !self.answered {
            self.answers.set(self.at, Err(gone()));
        }
    }
}

impl Answers {
    fn new(count: usize, done: oneshot::Sender<Results>) -> Self {
        let mut results = Vec::new();
        results.resize_with(count, || None);
        Self(Mutex::new(Open {
            results,
            left: count,
            done: Some(done),
            _room: None,
        }))
    }

    fn keep(&self, permit: OwnedSemaphorePermit) {
        self.lock()._room = Some(permit);
    }

    fn set(&self, at: usize, result: Result<Receipt>) {
        let mut open = self.lock();
        if let Some(place @ None) = open.results.get_mut(at) {
            *place = Some(result);
            open.left -= 1;
        }
        if open.left == 0 {
            open._room = None;
            if let Some(done) = open.done.take() {
                let results = std::mem::take(&mut open.results);
                // Given up meanwhile.
                let _ = done.send(results.into_iter().flatten().collect());
            }
        }
    }

    fn fail_all(&self) {
        let count = self.lock().results.len();
        for at in 0..count {
            self.set(at, Err(gone()));
        }
    }

    /// The answers that are there, and `late` for the others, whose room stays taken until they are answered.
    /// Nothing when all of them were sent off.
    fn take(&self, late: impl Fn() -> Error) -> Option<Results> {
        let mut open = self.lock();
        open.done.take()?;
        let results = open.results.iter();
        Some(
            results
                .map(|result| result.clone().unwrap_or_else(|| Err(late())))
                .collect(),
        )
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the connection was closed before the message was stored; it may have been stored all the same",
    )
}

impl<T> fmt::Debug for Intake<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Orders<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orders")
            .field("ready", &self.ready.len())
            .finish_non_exhaustive()
    }
}

impl<T: fmt::Debug> fmt::Debug for Order<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order")
            .field("item", &self.item)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        id::MessageId,
        message::Message,
        name::{ExchangeName, RoutingKey},
    };

    fn message(id: &str) -> Message {
        let exchange = ExchangeName::new("order").unwrap();
        Message::new(exchange, RoutingKey::new("order.v1").unwrap(), "{}").with_id(id)
    }

    fn late() -> Error {
        Error::retryable(ErrorKind::Timeout, "late")
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    fn receipt(order: &Order<Message>) -> Result<Receipt> {
        Ok(Receipt::new(order.item().id().clone(), None))
    }

    #[tokio::test(start_paused = true)]
    async fn answers_stand_in_their_places() {
        let (intake, mut orders) = intake(10);
        let batch = vec![message("1"), message("2"), message("3")];
        let publish = intake.publish(batch, soon(), late);
        let work = async {
            let mut taken = Vec::new();
            for _ in 0..3 {
                taken.extend(orders.next().await);
            }
            for order in taken.into_iter().rev() {
                let result = match order.item().id().to_string().as_str() {
                    "2" => Err(Error::new(ErrorKind::Unroutable, "nowhere")),
                    _ => receipt(&order),
                };
                order.finish(result);
            }
        };
        let (results, ()) = tokio::join!(publish, work);
        assert_eq!(results[0].as_ref().unwrap().id, MessageId::from("1"));
        assert_eq!(
            results[1].as_ref().unwrap_err().kind(),
            ErrorKind::Unroutable
        );
        assert_eq!(results[2].as_ref().unwrap().id, MessageId::from("3"));
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_deadline_answers_count_that_are_there() {
        let (intake, mut orders) = intake(10);
        let publish = intake.publish(vec![message("1"), message("2")], soon(), late);
        let work = async {
            let first = orders.next().await.unwrap();
            let result = receipt(&first);
            first.finish(result);
            orders.next().await.unwrap()
        };
        let (results, second) = tokio::join!(publish, work);
        assert!(results[0].is_ok());
        assert_eq!(results[1].as_ref().unwrap_err().kind(), ErrorKind::Timeout);
        // An answer that comes too late is nobody's.
        second.finish(Err(gone()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_at_the_deadline_itself_is_an_answer() {
        let (done, mut answered) = oneshot::channel();
        let answers = Answers::new(1, done);
        answers.set(0, Err(gone()));
        assert!(answers.take(late).is_none());
        assert_eq!(answered.try_recv().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_has_no_answers_at_once() {
        let (intake, _orders) = intake::<Message>(1);
        assert!(intake.publish(Vec::new(), soon(), late).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_publish_is_handed_in_all_the_same() {
        let (intake, mut orders) = intake(1);
        let first = intake.publish(vec![message("1")], soon(), late);
        assert!(tokio::time::timeout(Duration::ZERO, first).await.is_err());
        // No room.
        let second = intake.publish(vec![message("2")], soon(), late);
        assert!(tokio::time::timeout(Duration::ZERO, second).await.is_err());
        for id in ["1", "2"] {
            let order = orders.try_next().unwrap();
            assert_eq!(order.item().id(), &MessageId::from(id));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_task_the_caller_hands_over() {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let kept = taken.clone();
        let intake = Intake::direct(1, move |orders| kept.lock().unwrap().extend(orders));
        let first = intake.publish(vec![message("1")], soon(), late);
        assert!(tokio::time::timeout(Duration::ZERO, first).await.is_err());
        let second = intake.publish(vec![message("2")], soon(), late);
        let work = async {
            // No room before the first is answered, although nobody waits for it any more.
            let first = taken.lock().unwrap().pop().unwrap();
            assert_eq!(first.item().id(), &MessageId::from("1"));
            let result = receipt(&first);
            first.finish(result);
            let second = loop {
                if let Some(order) = taken.lock().unwrap().pop() {
                    break order;
                }
                tokio::task::yield_now().await;
            };
            let result = receipt(&second);
            second.finish(result);
        };
        let (second, ()) = tokio::join!(second, work);
        assert_eq!(second[0].as_ref().unwrap().id, MessageId::from("2"));
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_bounded_and_comes_back() {
        let (intake, mut orders) = intake(2);
        let both = intake.publish(vec![message("1"), message("2")], soon(), late);
        let third = intake.publish(vec![message("3")], soon(), late);
        let work = async {
            let one = orders.next().await.unwrap();
            let two = orders.next().await.unwrap();
            tokio::task::yield_now().await;
            assert!(orders.try_next().is_none());
            for order in [one, two] {
                let result = receipt(&order);
                order.finish(result);
            }
            let three = orders.next().await.unwrap();
            let result = receipt(&three);
            three.finish(result);
        };
        let (both, third, ()) = tokio::join!(both, third, work);
        assert!(both.iter().chain(&third).all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_gone_closes_the_intake() {
        let (intake, orders) = intake::<Message>(2);
        let before = intake.publish(vec![message("1")], soon(), late);
        let (before, ()) = tokio::join!(before, async { drop(orders) });
        let after = intake.publish(vec![message("2")], soon(), late).await;
        for results in [before, after] {
            assert_eq!(results[0].as_ref().unwrap_err().kind(), ErrorKind::Closed);
        }
    }
}
