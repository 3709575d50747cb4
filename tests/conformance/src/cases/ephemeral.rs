//! 11. Ephemeral subscriptions.

use event_core::{Bus, Queue, Running, Service};

use crate::{
    CaseResult, Context, Desk,
    case::cases,
    ensure_eq,
    orders::{OrderSubmitted, order, order_of},
};

cases!(Ephemeral:
    an_ephemeral_subscription_gets_its_own_copy [Ephemeral],
    an_ephemeral_subscription_misses_what_came_before [Ephemeral],
    an_ephemeral_subscription_keeps_nothing [Ephemeral],
    an_ephemeral_failure_is_final [Ephemeral],
    an_ephemeral_subscription_takes_nothing_from_queues [Ephemeral],
    an_ephemeral_subscription_keeps_order [Ephemeral],
);

/// Starts a display that shows every order.
async fn display(bus: &Bus, desk: &Desk) -> CaseResult<Running> {
    let queue = Queue::ephemeral("display")
        .bind("order", "order.*.submit")
        .handle(desk.takes::<OrderSubmitted>())
        .named("show");
    Ok(Service::new("display").queue(queue).start(bus).await?)
}

async fn an_ephemeral_subscription_gets_its_own_copy(cx: Context) -> CaseResult {
    let (hall, yard) = (cx.desk(), cx.desk());
    let _hall = display(&cx.process().await?, &hall).await?;
    let _yard = display(&cx.process().await?, &yard).await?;
    for id in 1..=3 {
        order(id).publish(cx.bus()).await?;
    }
    for desk in [hall, yard] {
        desk.finishes(3).await?;
        desk.sees_no_more_than(3).await?;
    }
    Ok(())
}

async fn an_ephemeral_subscription_misses_what_came_before(cx: Context) -> CaseResult {
    order(1).publish(cx.bus()).await?;
    let desk = cx.desk();
    let _display = display(&cx.process().await?, &desk).await?;
    order(2).publish(cx.bus()).await?;
    desk.finishes(1).await?;
    desk.sees_no_more_than(1).await?;
    ensure_eq!(desk.numbers(), [2], "orders");
    Ok(())
}

async fn an_ephemeral_subscription_keeps_nothing(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let first = display(&cx.process().await?, &desk).await?;
    order(1).publish(cx.bus()).await?;
    desk.finishes(1).await?;
    first.shutdown().await?;
    order(2).publish(cx.bus()).await?;
    // Nor does a crash keep anything. What the crashing process itself sees is of no interest.
    drop(display(&cx.process().await?, &cx.desk()).await?);
    order(3).publish(cx.bus()).await?;
    let _again = display(&cx.process().await?, &desk).await?;
    order(4).publish(cx.bus()).await?;
    desk.finishes(2).await?;
    desk.sees_no_more_than_for(2, cx.beyond_the_lease()).await?;
    ensure_eq!(desk.numbers(), [1, 4], "orders");
    Ok(())
}

async fn an_ephemeral_failure_is_final(cx: Context) -> CaseResult {
    let desk = cx.desk().failing(1);
    let bus = cx.process().await?;
    let _display = display(&bus, &desk).await?;
    order(1).publish(cx.bus()).await?;
    order(2).publish(cx.bus()).await?;
    desk.finishes(2).await?;
    desk.sees_no_more_than(2).await?;
    let counters = bus.counters();
    ensure_eq!(
        (counters.retried, counters.dead_lettered),
        (0, 0),
        "retries and dead letters"
    );
    Ok(())
}

async fn an_ephemeral_subscription_takes_nothing_from_queues(cx: Context) -> CaseResult {
    let (shown, billed) = (cx.desk(), cx.desk());
    let _display = display(&cx.process().await?, &shown).await?;
    let _billing = cx
        .start(cx.bus(), cx.queue("billing_order", &billed))
        .await?;
    for id in 1..=3 {
        order(id).publish(cx.bus()).await?;
    }
    for desk in [shown, billed] {
        desk.finishes(3).await?;
        desk.sees_no_more_than(3).await?;
    }
    Ok(())
}

async fn an_ephemeral_subscription_keeps_order(cx: Context) -> CaseResult {
    let desk = cx.desk();
    let _display = display(&cx.process().await?, &desk).await?;
    for id in 1..=30 {
        order_of("anna", id).publish(cx.bus()).await?;
    }
    desk.finishes(30).await?;
    ensure_eq!(desk.numbers(), (1..=30).collect::<Vec<_>>(), "order");
    Ok(())
}
