//! The order of each key, whatever fails, ends and changes hands meanwhile.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use event_conformance::{
    CaseResult, Ledger, Stage, ensure, ensure_eq, length,
    orders::{OrderSubmitted, order_of},
};
use event_core::{HandlerResult, Metadata, Outcome, Queue, RetryPolicy};
use tokio::time::Instant;

use crate::stage::{LEASE, on_kafka};

const KEYS: u64 = 16;
/// Orders of each key; `scripts/soak` has more.
const EACH: u32 = 10_000;
/// One of so many fails at first.
const FAILS: u64 = 50;

/// What handlers did with one order: when each run began, and when one first ended well.
#[derive(Default)]
struct Runs {
    began: Vec<Instant>,
    ended: Option<Instant>,
}

#[derive(Clone, Default)]
struct Book {
    /// By customer and number.
    runs: Arc<Mutex<HashMap<(u64, u64), Runs>>>,
    /// How many orders have ended well.
    ended: Arc<AtomicUsize>,
}

impl Book {
    fn with<T>(&self, look: impl FnOnce(&mut HashMap<(u64, u64), Runs>) -> T) -> T {
        look(&mut self.runs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ended(&self) -> usize {
        self.ended.load(SeqCst)
    }

    fn queue(&self, at: &Stage) -> Queue {
        let book = self.clone();
        let handler = move |order: OrderSubmitted, meta: Metadata| {
            let book = book.clone();
            async move { book.handle(&order, &meta).await }
        };
        let policy = RetryPolicy::fixed(Duration::from_millis(10)).attempts(5);
        at.cx
            .new_queue("billing_order")
            .bind("order", "order.*.submit")
            .ordered()
            .lease(LEASE)
            .retry(policy)
            .prefetch(100)
            .handle(handler)
            .named("bill")
    }

    async fn handle(&self, order: &OrderSubmitted, meta: &Metadata) -> HandlerResult<Outcome> {
        let place = (customer(order), order.id);
        self.with(|runs| runs.entry(place).or_default().began.push(Instant::now()));
        // Others have their turn in the middle of it.
        tokio::task::yield_now().await;
        if order.id % FAILS == 7 && meta.attempt == 1 {
            return Err("the bank is closed".into());
        }
        self.with(|runs| {
            let ended = &mut runs.entry(place).or_default().ended;
            if ended.is_none() {
                *ended = Some(Instant::now());
                self.ended.fetch_add(1, SeqCst);
            }
        });
        Ok(Outcome::Ack)
    }
}

fn customer(order: &OrderSubmitted) -> u64 {
    let number = order.customer.strip_prefix("customer-");
    number.and_then(|n| n.parse().ok()).unwrap_or(u64::MAX)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_23_the_order_of_each_key_is_kept() -> CaseResult {
    on_kafka("fault_23", async |at| {
        let each = u64::from(length(EACH));
        let all = usize::try_from(KEYS * each)?;
        let book = Book::default();
        let (first, second) = (at.direct.process().await?, at.cx.process().await?);
        let running = at.direct.start(&first, book.queue(at)).await?;

        let ledger = Ledger::new();
        let publishing = async {
            let mut id = 0;
            while id < each {
                let next = (id + 20).min(each);
                let orders = (id..next).flat_map(|id| {
                    (0..KEYS).map(move |of| order_of(&format!("customer-{of}"), id))
                });
                for result in ledger.publish_all(at.direct.bus(), orders).await {
                    result?;
                }
                id = next;
            }
            Ok::<_, event_conformance::Failure>(())
        };
        let changing = async {
            // However many there are, it never stands still.
            let some = async |share: usize| {
                loop {
                    let before = book.ended();
                    if before >= all * share / 100 {
                        return Ok::<_, event_conformance::Failure>(());
                    }
                    let ended = || async { Ok(book.ended() > before) };
                    let what = format!("an order after {before}, of {all}");
                    at.direct.until(&what, ended).await?;
                }
            };
            some(10).await?;
            // A second one, which is killed without a word.
            let killed = at.cx.start(&second, book.queue(at)).await?;
            some(30).await?;
            at.proxy.refuse(true);
            at.proxy.cut();
            drop((killed, second));
            some(50).await?;
            // A third, and the first goes in good order.
            let third = at.direct.process().await?;
            let last = at.direct.start(&third, book.queue(at)).await?;
            some(70).await?;
            running.shutdown().await?;
            some(100).await?;
            Ok((last, third))
        };
        let begin = Instant::now();
        let ((), (_last, _third)) = tokio::try_join!(publishing, changing)?;
        let took = begin.elapsed();

        ensure_eq!(
            ledger.balance(&[]).confirmed,
            all,
            "orders that were confirmed"
        );
        let (mut again, mut failed) = (0, 0);
        book.with(|runs| {
            for customer in 0..KEYS {
                let mut before: Option<Instant> = None;
                for id in 0..each {
                    let missing = format!("order {id} of customer {customer} was not handled");
                    let Some(runs) = runs.get(&(customer, id)) else {
                        return Err(event_conformance::Failure::new(missing));
                    };
                    let Some(ended) = runs.ended else {
                        return Err(event_conformance::Failure::new(missing));
                    };
                    let allowed = 1 + usize::from(id % FAILS == 7);
                    failed += allowed - 1;
                    again += runs.began.len().saturating_sub(allowed);
                    // No run of it began before the one before it had ended well.
                    let early = runs.began.iter().any(|began| Some(*began) < before);
                    ensure!(!early, "order {id} of customer {customer} came too early");
                    before = Some(ended);
                }
            }
            Ok(())
        })?;
        eprintln!("fault_23: {all} orders in {took:?}, {failed} failed, {again} again");
        ensure!(failed > 0, "nothing failed");
        // Of a process that was killed: what was delivered above the committed offset.
        ensure!(again < all / 4, "{again} were handled again");
        Ok(())
    })
    .await
}
