//! A copy is stored before its original is removed.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use async_trait::async_trait;
use event_core::{Error, ErrorKind, Result, Selection, Settle, Settled, Settlement};

use super::{SOON, fails, rejects, retry, soon, with_waits};
use crate::{
    Act, CaseResult, Context, Intercept, Intercepted, case::cases, ensure, ensure_eq, orders::order,
};

cases!(Failure:
    the_copy_is_stored_before_the_original_is_removed [DelayedRetry, DeadLetters],
    a_copy_that_cannot_be_stored_leaves_the_original [DelayedRetry, DeadLetters],
);

async fn the_copy_is_stored_before_the_original_is_removed(cx: Context) -> CaseResult {
    let spec = with_waits(&cx, &[SOON])?;
    cx.declare(&[&spec]).await?;
    for polls in 1..=4 {
        for dies in [false, true] {
            order(7).publish(cx.bus()).await?;
            let mut consumer = cx.consume(&cx.process().await?, &spec).await?;
            let delivery = consumer.next().await?;
            let settlement = if dies {
                let (tag, message) = (delivery.tag(), Box::new(delivery.message().clone()));
                Settlement::DeadLetter { tag, message }
            } else {
                retry(&delivery, SOON)
            };
            given_up_after(polls, consumer.settle(settlement)).await;
            consumer.crash().await;
            // The original, the copy or both: at least one, wherever it is.
            let mut consumer = cx.consume(&cx.process().await?, &spec).await?;
            tokio::select! {
                delivery = consumer.next() => {
                    consumer.ack(&delivery?).await?;
                }
                dead = cx.dead_letters("billing_order", 1) => {
                    dead?;
                    let letters = cx.bus().dead_letters("billing_order").await?;
                    letters.purge(Selection::All).await?;
                }
            }
            // The other one, if there are both.
            for delivery in consumer.rest().await? {
                consumer.ack(&delivery).await?;
            }
            consumer.stop().await?;
        }
    }
    Ok(())
}

/// Polls a future this often at most, then drops it.
async fn given_up_after<F: Future>(polls: usize, future: F) {
    let (mut future, mut left) = (pin!(future), polls);
    std::future::poll_fn(|cx| {
        left -= 1;
        if future.as_mut().poll(cx).is_ready() || left == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Stores no copies while it is broken.
#[derive(Debug)]
struct NoCopies(Arc<Mutex<bool>>);

#[async_trait]
impl Intercept for NoCopies {
    async fn settle(
        &self,
        inner: &dyn Settle,
        settlements: Vec<Settlement>,
    ) -> Vec<Result<Settled>> {
        let mut results = Vec::new();
        for settlement in settlements {
            let copies = matches!(
                settlement,
                Settlement::Retry { .. } | Settlement::DeadLetter { .. }
            );
            if copies && *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
                let text = "the queue for copies is missing";
                results.push(Err(Error::retryable(ErrorKind::NotFound, text)));
            } else {
                results.extend(inner.settle(vec![settlement]).await);
            }
        }
        results
    }
}

async fn a_copy_that_cannot_be_stored_leaves_the_original(cx: Context) -> CaseResult {
    let broken = Arc::new(Mutex::new(true));
    let bus = cx
        .process_over(|transport| Intercepted::around(transport, NoCopies(broken.clone())))
        .await?;
    let desk = cx.desk().doing(|seen| match seen.number() {
        1 => fails(),
        2 => rejects("no such customer"),
        _ => Act::DONE,
    });
    let queue = cx.queue("billing_order", &desk).retry(soon().attempts(2));
    let running = cx.start(&bus, queue).await?;
    for id in 1..=3 {
        order(id).publish(cx.bus()).await?;
    }
    // The others go on meanwhile, and what cannot be copied is tried again.
    let seen = desk
        .until("what could not be copied to come back", |seen| {
            (1..=2).all(|id| seen.iter().filter(|seen| seen.number() == id).count() >= 2)
                && seen.iter().any(|seen| seen.number() == 3)
        })
        .await?;
    ensure!(
        seen.iter().all(|seen| seen.meta.attempt == 1),
        "an attempt was counted that was not stored"
    );
    *broken.lock().unwrap_or_else(PoisonError::into_inner) = false;
    let letters = cx.dead_letters("billing_order", 2).await?;
    ensure_eq!(letters.len(), 2, "dead letters");
    running.shutdown().await?;
    cx.nothing_is_left("billing_order").await
}
