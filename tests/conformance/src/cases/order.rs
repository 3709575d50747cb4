//! 7. Order.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use event_core::{Queue, RetryPolicy};
use tokio::time::Instant;

use super::delivery::suspects::{CRASHES, Unrecorded};
use crate::{
    Act, CaseResult, Context, Desk, Intercepted, Ledger, Seen,
    case::cases,
    ensure, ensure_eq,
    orders::{OrderNoted, order_of},
};

cases!(Order:
    one_key_is_handled_in_order_at_any_concurrency,
    one_key_is_handled_in_order_with_many_workers,
    handlers_of_one_key_never_overlap,
    different_keys_do_not_wait_for_each_other,
    messages_without_a_key_do_not_wait_for_each_other,
    an_ordered_queue_holds_back_the_successors_of_a_retry [Ordered, DelayedRetry],
    an_ordered_queue_lets_other_keys_go_on [Ordered, DelayedRetry],
    an_ordered_queue_keeps_order_with_few_places [Ordered, DelayedRetry],
    an_ordered_queue_holds_back_the_successors_of_a_suspect [Ordered, Isolation, DelayedRetry],
    an_ordered_queue_keeps_order_across_processes [Ordered, DelayedRetry],
    an_ordered_queue_keeps_order_through_a_crash [Ordered, DelayedRetry],
    an_ordered_queue_keeps_order_through_a_restart [Ordered, DelayedRetry],
);

const CUSTOMERS: [&str; 5] = ["anna", "ben", "carl", "dora", "emil"];

/// Publishes orders of five customers and makes sure that each customer's are handled in order, although the
/// earlier ones take longer.
async fn keeps_order(cx: &Context, tune: impl FnOnce(Queue) -> Queue) -> CaseResult {
    let desk = cx.desk().doing(|seen| {
        let place = seen.number() / CUSTOMERS.len() as u64;
        match place % 4 {
            0 => Act::Take(Duration::from_millis(20)),
            1 => Act::Take(Duration::from_millis(5)),
            _ => Act::DONE,
        }
    });
    let queue = tune(cx.queue("billing_order", &desk));
    let _running = cx.start(cx.bus(), queue).await?;
    let ledger = Ledger::new();
    for batch in 0..5 {
        let orders: Vec<_> = (0..40)
            .map(|at| batch * 40 + at)
            .map(|id| order_of(CUSTOMERS[id as usize % CUSTOMERS.len()], id))
            .collect();
        for result in ledger.publish_all(cx.bus(), &orders).await {
            result?;
        }
    }
    desk.finishes(200).await?;
    let seen = desk.sees_no_more_than(200).await?;
    ledger.balance(&seen).expect_balanced()?;
    one_at_a_time(&seen)
}

/// Makes sure that handlers of one customer never overlapped and ended in the order of their numbers.
fn one_at_a_time(seen: &[Seen]) -> CaseResult {
    let mut last: BTreeMap<&str, &Seen> = BTreeMap::new();
    for now in seen {
        let Some(key) = now.delivery.message().partition_key() else {
            continue;
        };
        if let Some(before) = last.insert(key, now) {
            ensure!(
                before.ended.is_some_and(|ended| ended <= now.at),
                "order {} of {key} began before {} had ended",
                now.number(),
                before.number()
            );
            ensure!(
                before.number() <= now.number(),
                "order {} of {key} began after {}",
                now.number(),
                before.number()
            );
        }
    }
    Ok(())
}

async fn one_key_is_handled_in_order_at_any_concurrency(cx: Context) -> CaseResult {
    keeps_order(&cx, |queue| queue.concurrency(32)).await
}

async fn one_key_is_handled_in_order_with_many_workers(cx: Context) -> CaseResult {
    keeps_order(&cx, |queue| queue.concurrency(8).workers(4)).await
}

async fn handlers_of_one_key_never_overlap(cx: Context) -> CaseResult {
    let desk = cx.desk().holding();
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    for id in 1..=3 {
        order_of("anna", id).publish(cx.bus()).await?;
    }
    desk.sees(1).await?;
    desk.sees_no_more_than(1).await?;
    desk.open();
    desk.finishes(3).await?;
    ensure_eq!(desk.most_running(), 1, "handlers at the same time");
    ensure_eq!(desk.numbers(), [1, 2, 3], "order");
    Ok(())
}

async fn different_keys_do_not_wait_for_each_other(cx: Context) -> CaseResult {
    let desk = cx.desk().doing(|seen| match seen.number() {
        1 => Act::Hold,
        _ => Act::DONE,
    });
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    order_of("anna", 1).publish(cx.bus()).await?;
    order_of("anna", 2).publish(cx.bus()).await?;
    for id in 3..=8 {
        order_of("ben", id).publish(cx.bus()).await?;
    }
    desk.finishes(6).await?;
    ensure!(!desk.numbers().contains(&2), "order 2 did not wait for 1");
    desk.open();
    desk.finishes(8).await?;
    Ok(())
}

async fn messages_without_a_key_do_not_wait_for_each_other(cx: Context) -> CaseResult {
    let desk = cx.desk().holding();
    let queue = cx
        .new_queue("billing_note")
        .bind("order", "order.*.note")
        .handle(desk.takes::<OrderNoted>())
        .named("note");
    let _running = cx.start(cx.bus(), queue).await?;
    for id in 1..=5 {
        OrderNoted { id }.publish(cx.bus()).await?;
    }
    desk.sees(5).await?;
    desk.open();
    desk.finishes(5).await?;
    Ok(())
}

fn ordered(cx: &Context, desk: &Desk, wait: Duration) -> Queue {
    let queue = cx.queue("billing_order", desk).ordered();
    queue.retry(RetryPolicy::fixed(wait))
}

/// The numbers of the runs, each with its attempt.
fn runs(seen: &[Seen]) -> Vec<(u64, u32)> {
    seen.iter()
        .map(|seen| (seen.number(), seen.meta.attempt))
        .collect()
}

async fn an_ordered_queue_holds_back_the_successors_of_a_retry(cx: Context) -> CaseResult {
    let wait = Duration::from_millis(500);
    let desk = cx
        .desk()
        .doing(|seen| match (seen.number(), seen.meta.attempt) {
            (1, 1 | 2) | (3, 1) => Act::fail("the bank is closed"),
            _ => Act::DONE,
        });
    let _running = cx.start(cx.bus(), ordered(&cx, &desk, wait)).await?;
    let ledger = Ledger::new();
    for id in 1..=4 {
        ledger.publish(cx.bus(), &order_of("anna", id)).await?;
    }
    desk.finishes(7).await?;
    let seen = desk.sees_no_more_than(7).await?;
    let expected = [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (3, 2), (4, 1)];
    ensure_eq!(runs(&seen), expected, "runs as number and attempt");
    ledger.balance_with(&seen, |_| wait).expect_balanced()
}

async fn an_ordered_queue_lets_other_keys_go_on(cx: Context) -> CaseResult {
    let desk = cx
        .desk()
        .doing(|seen| match (seen.number(), seen.meta.attempt) {
            (1, 1) => Act::fail("the bank is closed"),
            _ => Act::DONE,
        });
    let queue = ordered(&cx, &desk, Duration::from_secs(2)).concurrency(1);
    let _running = cx.start(cx.bus(), queue).await?;
    order_of("anna", 1).publish(cx.bus()).await?;
    order_of("anna", 2).publish(cx.bus()).await?;
    order_of("ben", 3).publish(cx.bus()).await?;
    order_of("ben", 4).publish(cx.bus()).await?;
    desk.finishes(5).await?;
    let expected = [(1, 1), (3, 1), (4, 1), (1, 2), (2, 1)];
    ensure_eq!(runs(&desk.seen()), expected, "runs as number and attempt");
    Ok(())
}

async fn an_ordered_queue_keeps_order_with_few_places(cx: Context) -> CaseResult {
    let spec = {
        let mut spec = cx.spec("billing_order", &["order.*.submit"])?;
        spec.ordered = true;
        spec
    };
    cx.declare(&[&spec]).await?;
    // Ben's first takes the only place while anna's second waits for its key and her third still for a place.
    let orders = ["anna", "anna", "ben", "anna", "ben", "anna"];
    for (id, customer) in (1..).zip(orders) {
        order_of(customer, id).publish(cx.bus()).await?;
    }
    let desk = cx.desk().doing(|seen| match seen.number() {
        3 => Act::Take(Duration::from_millis(100)),
        _ => Act::DONE,
    });
    let queue = ordered(&cx, &desk, Duration::from_secs(1)).concurrency(1);
    let _running = cx.start(cx.bus(), queue).await?;
    desk.finishes(6).await?;
    let seen = desk.sees_no_more_than(6).await?;
    one_at_a_time(&seen)
}

async fn an_ordered_queue_holds_back_the_successors_of_a_suspect(cx: Context) -> CaseResult {
    let queue = |desk: &Desk| ordered(&cx, desk, Duration::from_millis(200));
    for crash in 0..CRASHES {
        let held = cx.desk().holding();
        let running = cx.start(&cx.process().await?, queue(&held)).await?;
        if crash == 0 {
            for id in 1..=3 {
                order_of("anna", id).publish(cx.bus()).await?;
            }
        }
        held.sees(1).await?;
        drop(running);
    }
    // In vain once for a service that is told to stop, and once for the next.
    let asked = Arc::new(AtomicUsize::new(0));
    let bus = cx
        .process_over(|transport| Intercepted::around(transport, Unrecorded(asked.clone())))
        .await?;
    let desk = cx.desk();
    let running = cx.start(&bus, queue(&desk)).await?;
    cx.until("the broker to be asked to record it", || async {
        Ok(asked.load(SeqCst) == 1)
    })
    .await?;
    let begun = Instant::now();
    running.shutdown().await?;
    let took = begun.elapsed();
    ensure!(
        took < Duration::from_secs(15),
        "the shutdown took {took:?}, with no handler in flight"
    );
    let _running = cx.start(&bus, queue(&desk)).await?;
    desk.finishes(3).await?;
    desk.sees_no_more_than(3).await?;
    ensure_eq!(desk.numbers(), [1, 2, 3], "order");
    Ok(())
}

async fn an_ordered_queue_keeps_order_across_processes(cx: Context) -> CaseResult {
    // With few places, some wait in the line while others of their key wait for its turn.
    for (concurrency, first) in [(16, 0), (2, 100), (1, 200)] {
        let desk = cx.desk().doing(|seen| {
            if seen.number() % 7 == 3 && seen.meta.attempt == 1 {
                Act::fail("the bank is closed")
            } else {
                Act::Take(Duration::from_millis(seen.number() % 3 * 5))
            }
        });
        let wait = Duration::from_millis(200);
        let queue = || ordered(&cx, &desk, wait).concurrency(concurrency);
        let one = cx.start(&cx.process().await?, queue()).await?;
        let two = cx.start(&cx.process().await?, queue()).await?;
        let ledger = Ledger::new();
        let numbers = first..first + 60;
        for id in numbers.clone() {
            let customer = CUSTOMERS[id as usize / 3 % CUSTOMERS.len()];
            ledger.publish(cx.bus(), &order_of(customer, id)).await?;
        }
        let runs = 60 + numbers.filter(|id| id % 7 == 3).count();
        desk.finishes(runs).await?;
        let seen = desk.sees_no_more_than(runs).await?;
        ledger.balance_with(&seen, |_| wait).expect_balanced()?;
        one_at_a_time(&seen)?;
        one.shutdown().await?;
        two.shutdown().await?;
    }
    Ok(())
}

/// A first order that is done, a second that is held, and two that wait behind it.
async fn in_the_middle(cx: &Context, first: &event_core::Bus) -> CaseResult<event_core::Running> {
    let desk = cx.desk().doing(|seen| match seen.number() {
        1 => Act::DONE,
        _ => Act::Hold,
    });
    let queue = ordered(cx, &desk, Duration::from_millis(200));
    let running = cx.start(first, queue).await?;
    for id in 1..=4 {
        order_of("anna", id).publish(cx.bus()).await?;
    }
    desk.sees(2).await?;
    cx.until("the first order to be acknowledged", || async {
        Ok(first.counters().handled == 1)
    })
    .await?;
    Ok(running)
}

async fn goes_on_in_order(cx: &Context) -> CaseResult {
    let desk = cx.desk();
    let queue = ordered(cx, &desk, Duration::from_millis(200));
    let _running = cx.start(&cx.process().await?, queue).await?;
    order_of("anna", 5).publish(cx.bus()).await?;
    desk.finishes(4).await?;
    desk.sees_no_more_than(4).await?;
    ensure_eq!(desk.numbers(), [2, 3, 4, 5], "order");
    Ok(())
}

async fn an_ordered_queue_keeps_order_through_a_crash(cx: Context) -> CaseResult {
    let first = cx.process().await?;
    let running = in_the_middle(&cx, &first).await?;
    drop(running);
    drop(first);
    goes_on_in_order(&cx).await
}

async fn an_ordered_queue_keeps_order_through_a_restart(cx: Context) -> CaseResult {
    let first = cx.process().await?;
    let running = in_the_middle(&cx, &first).await?;
    running.stop_now();
    running.shutdown().await?;
    goes_on_in_order(&cx).await
}
