//! What is refused at start.

use async_trait::async_trait;
use event_core::{
    Capabilities, Capability, ErrorKind, Queue, QueueKind, QueueSpec, Service, Support, Transport,
};

use crate::{
    CaseResult, Context, Failure, Intercept, Intercepted,
    case::cases,
    ensure, ensure_eq,
    orders::{OrderNoted, OrderSubmitted},
    refusal,
};

cases!(StartUp:
    a_binding_that_no_handler_takes_is_refused,
    a_handler_that_no_binding_lets_in_is_refused,
    a_queue_without_a_handler_is_refused,
    a_queue_without_a_binding_is_refused,
    a_service_without_a_queue_is_refused,
    two_handlers_of_one_name_are_refused,
    a_handler_without_a_name_is_refused,
    two_queues_of_one_name_are_refused,
    names_that_are_not_legal_are_refused,
    names_kept_for_derived_queues_are_refused,
    a_refused_option_names_option_queue_and_backend,
    a_refused_start_declares_nothing,
);

async fn bill(_: OrderSubmitted) {}

async fn note(_: OrderNoted) {}

fn billing(cx: &Context) -> Queue {
    cx.new_queue("billing_order")
        .bind("order", "order.*.submit")
        .handle(bill)
}

/// Makes sure that the service does not start, with this kind of error, and that the error names these.
async fn refused(cx: &Context, service: Service, kind: ErrorKind, names: &[&str]) -> CaseResult {
    let Err(error) = service.start(cx.bus()).await else {
        return Err(Failure::new(format!("it started ({})", names.join(", "))));
    };
    ensure_eq!(error.kind(), kind, "kind of: {error}");
    let text = error.to_string();
    for name in names {
        ensure!(
            text.contains(name),
            "the error does not name `{name}`: {text}"
        );
    }
    Ok(())
}

async fn setup(cx: &Context, queue: Queue, names: &[&str]) -> CaseResult {
    let service = Service::new("billing").queue(queue);
    refused(cx, service, ErrorKind::Setup, names).await
}

async fn a_binding_that_no_handler_takes_is_refused(cx: Context) -> CaseResult {
    let queue = billing(&cx).bind("order", "order.*.refuse");
    setup(&cx, queue, &["billing_order", "order.*.refuse"]).await?;
    // A binding that lets in more than the handlers take is another thing.
    let wider = billing(&cx).bind("order", "order.#");
    cx.start(cx.bus(), wider).await?.shutdown().await?;
    Ok(())
}

/// S10 of the shop.
async fn a_handler_that_no_binding_lets_in_is_refused(cx: Context) -> CaseResult {
    let queue = billing(&cx).handle(note);
    setup(&cx, queue, &["billing_order", "note", "order.v1.note"]).await?;
    let elsewhere = cx
        .new_queue("billing_order")
        .bind("archive", "order.*.submit")
        .handle(bill);
    setup(&cx, elsewhere, &["billing_order", "bill"]).await
}

async fn a_queue_without_a_handler_is_refused(cx: Context) -> CaseResult {
    let queue = cx
        .new_queue("billing_order")
        .bind("order", "order.*.submit");
    setup(&cx, queue, &["billing_order", "no handler"]).await
}

async fn a_queue_without_a_binding_is_refused(cx: Context) -> CaseResult {
    let queue = cx.new_queue("billing_order").handle(bill);
    setup(&cx, queue, &["billing_order", "no binding"]).await
}

async fn a_service_without_a_queue_is_refused(cx: Context) -> CaseResult {
    let service = Service::new("billing");
    refused(&cx, service, ErrorKind::Setup, &["billing", "no queue"]).await
}

/// S5 of the shop.
async fn two_handlers_of_one_name_are_refused(cx: Context) -> CaseResult {
    let queue = billing(&cx).handle(bill);
    setup(&cx, queue, &["billing_order", "`bill`"]).await?;
    let queue = billing(&cx).handle(bill).named("bill_again");
    cx.start(cx.bus(), queue).await?.shutdown().await?;
    Ok(())
}

async fn a_handler_without_a_name_is_refused(cx: Context) -> CaseResult {
    let closure = |_: OrderSubmitted| async {};
    let queue = cx
        .new_queue("billing_order")
        .bind("order", "order.*.submit")
        .handle(closure);
    setup(&cx, queue, &["billing_order", "closure", "named"]).await
}

async fn two_queues_of_one_name_are_refused(cx: Context) -> CaseResult {
    let service = Service::new("billing")
        .queue(billing(&cx))
        .queue(billing(&cx));
    let names = ["billing", "billing_order"];
    refused(&cx, service, ErrorKind::Setup, &names).await
}

async fn names_that_are_not_legal_are_refused(cx: Context) -> CaseResult {
    let bound = |name: &str| cx.new_queue(name).bind("order", "order.*.submit");
    let invalid = ErrorKind::InvalidName;
    for name in ["", "billing order", "billing/order", &"x".repeat(201)] {
        let service = Service::new("billing").queue(bound(name).handle(bill));
        refused(&cx, service, invalid, &["queue name"]).await?;
        let queue = cx
            .new_queue("billing_order")
            .bind(name, "order.*.submit")
            .handle(bill);
        let service = Service::new("billing").queue(queue);
        refused(&cx, service, invalid, &["exchange name"]).await?;
    }
    let long = format!("order.{}", "x".repeat(250));
    let queue = billing(&cx).bind("order", long);
    let service = Service::new("billing").queue(queue);
    refused(&cx, service, invalid, &[]).await?;
    for name in ["", "bill the order", "bill,note"] {
        let queue = bound("billing_order").handle(bill).named(name);
        setup(&cx, queue, &["billing_order", "handler named"]).await?;
    }
    Ok(())
}

async fn names_kept_for_derived_queues_are_refused(cx: Context) -> CaseResult {
    for name in [
        "billing_order.dead",
        "billing_order.probation",
        "billing_order.retry.100",
    ] {
        let queue = cx
            .new_queue(name)
            .bind("order", "order.*.submit")
            .handle(bill);
        setup(&cx, queue, &[name]).await?;
    }
    Ok(())
}

/// A backend that cannot do one thing.
#[derive(Debug)]
struct Without(Capabilities);

#[async_trait]
impl Intercept for Without {
    fn capabilities<'a>(&'a self, _: &'a dyn Transport) -> &'a Capabilities {
        &self.0
    }

    async fn consume(
        &self,
        inner: &dyn Transport,
        queue: &QueueSpec,
    ) -> event_core::Result<event_core::Subscription> {
        // What is refused at start does not come as far as this.
        if queue.ordered || queue.kind != QueueKind::Durable || queue.max_length.is_some() {
            return Err(event_core::Error::new(
                ErrorKind::Internal,
                "it came too far",
            ));
        }
        inner.consume(queue).await
    }
}

async fn a_refused_option_names_option_queue_and_backend(cx: Context) -> CaseResult {
    for capability in [
        Capability::Ordered,
        Capability::Ephemeral,
        Capability::Existing,
        Capability::MaxLength,
        Capability::Unbind,
        Capability::DelayedRetry,
    ] {
        let without = Capabilities::new(cx.bus().capabilities().backend())
            .with(capability, Support::Refused("the case says so"));
        let bus = cx
            .process_over(|transport| Intercepted::around(transport, Without(without)))
            .await?;
        refusal::check_on(&cx, &bus, capability).await?;
    }
    Ok(())
}

async fn a_refused_start_declares_nothing(cx: Context) -> CaseResult {
    let service = Service::new("billing").queue(billing(&cx)).queue(
        cx.new_queue("billing_refuse")
            .bind("order", "order.*.refuse"),
    );
    refused(&cx, service, ErrorKind::Setup, &["billing_refuse"]).await?;
    let spec = cx.spec("billing_order", &["order.*.submit"])?;
    let consumed = cx.bus().transport().consume(&spec).await;
    let kind = consumed.err().map(|error| error.kind());
    ensure_eq!(kind, Some(ErrorKind::NotFound), "consuming the first queue");
    Ok(())
}
