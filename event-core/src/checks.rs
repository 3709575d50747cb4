//! What is refused at start, each with a sentence.

use std::collections::HashSet;

use crate::{
    capabilities::{Capabilities, Capability},
    consumer::{NamedHandler, ReadyQueue},
    error::{Error, ErrorKind, Result},
    name::QueueName,
    queue::{QueueSettings, Registered, ServiceLayer},
    route::RouteInfo,
    routes::{MOST_HANDLERS, RouteTable},
    topic::Pattern,
    topology::{Binding, QueueKind, QueueSpec},
};

/// Words at the end of names that backends derive from a queue's.
const DERIVED: [&str; 2] = [".dead", ".probation"];

pub(crate) fn setup(text: String) -> Error {
    Error::new(ErrorKind::Setup, text)
}

/// The queue as it is declared, if its settings make sense.
pub(crate) fn spec(settings: &QueueSettings, consumer: &str) -> Result<QueueSpec> {
    let name = QueueName::new(&settings.name)?;
    let refuse = |what: String| Err(setup(format!("queue `{name}` {what}")));
    if let Some(end) = DERIVED
        .iter()
        .find(|end| name.ends_with(*end))
        .or(name.contains(".retry.").then_some(&".retry."))
    {
        return refuse(format!(
            "has a name with `{end}`, which is kept for the queues that are derived from others; use another name"
        ));
    }
    for (option, value) in [
        ("concurrency", settings.concurrency),
        ("workers", settings.workers),
        ("prefetch", settings.prefetch.unwrap_or(1)),
    ] {
        if value == 0 {
            return refuse(format!("has `{option}(0)`; use at least 1"));
        }
    }
    if settings.lease.is_zero() {
        return refuse("has a lease of no time; use at least a few seconds".to_owned());
    }
    let bindings: Vec<Binding> = settings
        .bindings
        .iter()
        .map(|(exchange, pattern)| Binding::new(exchange, pattern))
        .collect::<Result<_>>()?;
    match settings.kind {
        QueueKind::Existing if !(bindings.is_empty() && settings.unbindings.is_empty()) => {
            return refuse(
                "is `existing` and is used as it is; remove its `bind` and `unbind`".to_owned(),
            );
        }
        QueueKind::Durable | QueueKind::Ephemeral if bindings.is_empty() => {
            return refuse("has no binding, so nothing would go into it; add `.bind(\"exchange\", \"pattern\")`".to_owned());
        }
        QueueKind::Ephemeral if settings.ordered => {
            return refuse(
                "is `ephemeral` and cannot be `ordered`: it keeps nothing; remove one of the two"
                    .to_owned(),
            );
        }
        _ => {}
    }
    let mut spec = QueueSpec::new(name);
    spec.bindings = bindings;
    spec.kind = settings.kind;
    spec.ordered = settings.ordered;
    spec.lease = settings.lease;
    spec.prefetch = settings
        .prefetch
        .unwrap_or_else(|| (settings.concurrency * 16).max(64));
    spec.max_length = settings.max_length;
    spec.retry_waits = settings.retry.waits();
    spec.consumer = consumer.into();
    Ok(spec)
}

/// Refuses what the backend cannot do.
pub(crate) fn capabilities(spec: &QueueSpec, backend: &Capabilities) -> Result<()> {
    let asked = [
        (spec.ordered, Capability::Ordered, "ordered"),
        (
            spec.kind == QueueKind::Ephemeral,
            Capability::Ephemeral,
            "ephemeral",
        ),
        (
            spec.kind == QueueKind::Existing,
            Capability::Existing,
            "existing",
        ),
        (
            spec.max_length.is_some(),
            Capability::MaxLength,
            "max_length",
        ),
        (
            spec.kind != QueueKind::Ephemeral && !spec.retry_waits.is_empty(),
            Capability::DelayedRetry,
            "retry",
        ),
    ];
    let of = format!("queue `{}`", spec.name);
    asked
        .into_iter()
        .filter(|(asked, ..)| *asked)
        .try_for_each(|(_, what, option)| backend.require(what, option, &of))
}

/// Refuses what the backend cannot do of that which the declaration does not say.
pub(crate) fn beside_the_spec(settings: &QueueSettings, backend: &Capabilities) -> Result<()> {
    let of = format!("queue `{}`", settings.name);
    if !settings.unbindings.is_empty() {
        backend.require(Capability::Unbind, "unbind", &of)?;
    }
    // What no handler knows waits for one that does, whatever the number of attempts.
    if settings.kind != QueueKind::Ephemeral && !settings.retry.unknown_limit().is_zero() {
        backend.require(Capability::DelayedRetry, "RetryPolicy::unknown", &of)?;
    }
    Ok(())
}

/// The queue with its handlers, if they fit its bindings and each other.
pub(crate) fn ready<S>(
    settings: &QueueSettings,
    spec: QueueSpec,
    handlers: Vec<Registered<S>>,
    state: &std::sync::Arc<S>,
    layers: &[ServiceLayer],
) -> Result<ReadyQueue> {
    let name = spec.name.clone();
    let refuse = |what: String| Err(setup(format!("queue `{name}` {what}")));
    if handlers.is_empty() {
        return refuse(
            "has no handler, so nothing would be taken from it; add `.handle(…)`".to_owned(),
        );
    }
    if handlers.len() > MOST_HANDLERS {
        return refuse(format!(
            "has {} handlers; at most {MOST_HANDLERS} are possible",
            handlers.len()
        ));
    }
    let mut names = HashSet::new();
    let mut routes = RouteTable::default();
    let mut taken = Vec::new();
    let mut named = Vec::new();
    for (
        at,
        Registered {
            name,
            routes: own,
            make,
        },
    ) in handlers.into_iter().enumerate()
    {
        let Some(name) = name else {
            return refuse("has a closure as handler, which has no name of its own; add `.named(\"…\")` after it".to_owned());
        };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > 100 || !name.bytes().all(legal) {
            return refuse(format!(
                "has a handler named `{name}`; use 1 to 100 of `A-Z a-z 0-9 . _ -`"
            ));
        }
        if !names.insert(name.clone()) {
            return refuse(format!(
                "has two handlers named `{name}`; give one another name with `.named(\"…\")`"
            ));
        }
        if spec.kind != QueueKind::Existing
            && !own.iter().any(|route| is_reachable(route, &spec.bindings))
        {
            let keys: Vec<_> = own.iter().map(|route| route.to_string()).collect();
            return refuse(format!(
                "has the handler `{name}` for {}, and no binding lets that in; add a binding, or move the handler",
                keys.join(", ")
            ));
        }
        for route in &own {
            routes.add(at, route)?;
        }
        taken.extend(own);
        named.push(NamedHandler {
            name,
            make: make(state.clone(), layers),
        });
    }
    if let Some(binding) = spec
        .bindings
        .iter()
        .find(|binding| !taken.iter().any(|route| is_bound(route, binding)))
    {
        return refuse(format!(
            "binds `{}` on exchange `{}`, and no handler takes any such key; add a handler, or remove the binding",
            binding.pattern, binding.exchange
        ));
    }
    Ok(ReadyQueue {
        spec,
        handlers: named,
        routes,
        policy: settings.retry.clone(),
        concurrency: settings.concurrency,
        // A worker without a place for a delivery would do nothing.
        workers: settings.workers.min(settings.concurrency),
    })
}

fn is_reachable(route: &RouteInfo, bindings: &[Binding]) -> bool {
    bindings.iter().any(|binding| is_bound(route, binding))
}

/// Whether a key exists that the binding lets in and the route takes.
fn is_bound(route: &RouteInfo, binding: &Binding) -> bool {
    // The derive has checked the pattern.
    let Ok(pattern) = Pattern::new(route.pattern) else {
        return false;
    };
    (route.exchange.is_empty() || binding.exchange == route.exchange)
        && binding.pattern.overlaps(&pattern)
}
