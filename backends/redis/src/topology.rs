//! Queues, bindings and what is removed of them.

use std::collections::BTreeMap;

use event_core::{
    Error, ErrorKind, ExchangeName, QueueKind, QueueName, QueueSpec, Removal, Result, Topology,
};
use redis::{Cmd, Value};
use tokio::time::Instant;

use crate::{
    error, keys, scripts,
    server::text,
    shared::{PATIENCE, Shared, token},
};

pub(crate) async fn declare(shared: &Shared, topology: &Topology) -> Result<()> {
    for exchange in &topology.exchanges {
        let keys = shared.exchange(exchange);
        let table = [&keys.version, &keys.bindings, &keys.queues].map(String::as_str);
        let call = scripts::TABLE.call(table).arg(token());
        let what = format!("declare exchange `{exchange}`");
        let deadline = Instant::now() + PATIENCE;
        let link = shared.link(exchange);
        link.request(&what, deadline, &call).await?;
    }
    // What does not fit is said before anything has changed.
    for spec in durable(topology) {
        register(shared, spec, Register::Look).await?;
    }
    for spec in durable(topology) {
        register(shared, spec, Register::Note).await?;
        bind(shared, spec).await?;
    }
    Ok(())
}

fn durable(topology: &Topology) -> impl Iterator<Item = &QueueSpec> {
    let queues = topology.queues.iter();
    queues.filter(|spec| spec.kind == QueueKind::Durable)
}

/// The patterns of a queue by exchange.
fn by_exchange(spec: &QueueSpec) -> BTreeMap<&ExchangeName, Vec<String>> {
    let mut exchanges: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for binding in &spec.bindings {
        let field = keys::binding(&spec.name, binding.pattern.as_str());
        exchanges.entry(&binding.exchange).or_default().push(field);
    }
    exchanges
}

fn limit(spec: &QueueSpec) -> String {
    spec.max_length
        .map_or(String::new(), |most| most.to_string())
}

/// Whether what is noted of a queue is only compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Register {
    Look,
    Note,
}

/// Notes the queue with its arguments and exchanges.
async fn register(shared: &Shared, spec: &QueueSpec, how: Register) -> Result<()> {
    let what = format!("declare queue `{}`", spec.name);
    let key = keys::queue(shared.prefix(), &spec.name);
    let only = i32::from(how == Register::Look);
    let mut call = scripts::REGISTER.call([key.as_str()]).arg(only).arg(2);
    for (name, value) in [
        ("ordered", spec.ordered.to_string()),
        ("max_length", limit(spec)),
    ] {
        call = call.arg(name).arg(value);
    }
    for exchange in by_exchange(spec).into_keys() {
        call = call.arg(keys::exchange_field(exchange));
    }
    let answer = shared
        .registry()
        .request(&what, Instant::now() + PATIENCE, &call)
        .await?;
    match answer {
        Value::Array(parts) if parts.is_empty() => Ok(()),
        Value::Array(parts) => {
            let argument = parts.first().and_then(text).unwrap_or_default();
            let have = parts.get(1).and_then(text).unwrap_or_default();
            let want = match argument.as_str() {
                "ordered" => spec.ordered.to_string(),
                _ => limit(spec),
            };
            Err(mismatch(&spec.name, &argument, &have, &want))
        }
        _ => Err(error::strange(&what)),
    }
}

fn mismatch(queue: &QueueName, argument: &str, have: &str, want: &str) -> Error {
    let shown = |value: &str| match value {
        "" => "none".to_owned(),
        value => value.to_owned(),
    };
    Error::new(
        ErrorKind::Mismatch,
        format!(
            "queue `{queue}` exists with another `{argument}`: it is {}, and {} was asked for; delete it, or declare \
             it as it is",
            shown(have),
            shown(want)
        ),
    )
}

/// Declares the queue's streams and bindings.
async fn bind(shared: &Shared, spec: &QueueSpec) -> Result<()> {
    for (exchange, fields) in by_exchange(spec) {
        bind_to(shared, spec, exchange, &fields).await?;
    }
    Ok(())
}

/// Declares the queue's stream for one exchange, with these bindings.
async fn bind_to(
    shared: &Shared,
    spec: &QueueSpec,
    exchange: &ExchangeName,
    fields: &[String],
) -> Result<()> {
    let keys = shared.exchange(exchange);
    let stream = keys.queue(&spec.name).stream;
    let all = [&keys.version, &keys.bindings, &keys.queues, &stream].map(String::as_str);
    let mut call = scripts::DECLARE.call(all).arg(token());
    call.push(spec.name.as_str());
    call.push(limit(spec));
    for field in fields {
        call.push(field);
    }
    let what = format!("bind queue `{}` to exchange `{exchange}`", spec.name);
    let link = shared.link(exchange);
    let answer = link.request(&what, Instant::now() + PATIENCE, &call).await;
    answer.map(drop)
}

/// Declares a queue again, whose stream for this exchange is gone. A newer version of its service may have bound it
/// to an exchange that this one does not know: the stream is what is needed.
pub(crate) async fn declare_again(
    shared: &Shared,
    spec: &QueueSpec,
    exchange: &ExchangeName,
) -> Result<()> {
    register(shared, spec, Register::Note).await?;
    bind(shared, spec).await?;
    bind_to(shared, spec, exchange, &[]).await
}

/// The exchanges that a queue has streams for; nothing when there is no such queue.
pub(crate) async fn exchanges(shared: &Shared, queue: &str) -> Result<Option<Vec<ExchangeName>>> {
    let fields = fields(shared, queue).await?;
    if fields.is_empty() || fields.iter().any(|field| field == keys::DELETING) {
        return Ok(None);
    }
    Ok(Some(exchanges_of(&fields)))
}

fn exchanges_of(fields: &[String]) -> Vec<ExchangeName> {
    let fields = fields.iter();
    fields
        .filter_map(|field| ExchangeName::new(keys::exchange_of(field)?).ok())
        .collect()
}

/// What is noted of a queue; nothing when there is no such queue.
async fn fields(shared: &Shared, queue: &str) -> Result<Vec<String>> {
    let key = keys::queue(shared.prefix(), queue);
    let what = format!("look for queue `{queue}`");
    let mut cmd = Cmd::new();
    cmd.arg("HKEYS").arg(key);
    let link = shared.registry();
    let deadline = Instant::now() + PATIENCE;
    let answer = link.request(&what, deadline, &cmd);
    let Value::Array(fields) = answer.await? else {
        return Err(error::strange(&what));
    };
    Ok(fields.iter().filter_map(text).collect())
}

pub(crate) async fn remove(shared: &Shared, removal: &Removal) -> Result<()> {
    match removal {
        Removal::Binding { queue, binding } => {
            let field = keys::binding(queue, binding.pattern.as_str());
            unbind(shared, queue, &binding.exchange, false, &[field]).await
        }
        Removal::OtherBindings { queue, keep } => {
            for exchange in exchanges(shared, queue).await?.unwrap_or_default() {
                let keep = keep.iter().filter(|binding| binding.exchange == exchange);
                let keep: Vec<_> = keep
                    .map(|binding| keys::binding(queue, binding.pattern.as_str()))
                    .collect();
                unbind(shared, queue, &exchange, true, &keep).await?;
            }
            Ok(())
        }
        Removal::Queue(queue) => delete(shared, queue).await,
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            "the backend `redis` does not know this kind of removal",
        )),
    }
}

/// Removes these bindings, or all others of the queue.
async fn unbind(
    shared: &Shared,
    queue: &QueueName,
    exchange: &ExchangeName,
    others: bool,
    fields: &[String],
) -> Result<()> {
    let keys = shared.exchange(exchange);
    let mut call = scripts::UNBIND
        .call([keys.version.as_str(), keys.bindings.as_str()])
        .arg(token());
    call.push(if others { queue.as_str() } else { "" });
    for field in fields {
        call.push(field);
    }
    let what = format!("unbind queue `{queue}` from exchange `{exchange}`");
    let link = shared.link(exchange);
    let answer = link.request(&what, Instant::now() + PATIENCE, &call).await;
    answer.map(drop)
}

async fn delete(shared: &Shared, queue: &QueueName) -> Result<()> {
    let exchanges = exchanges_of(&fields(shared, queue).await?);
    let what = format!("delete queue `{queue}`");
    let (registry, key) = (shared.registry(), keys::queue(shared.prefix(), queue));
    let deletion = token();
    // First it is noted: its consumers would take a stream that is gone for one that was wiped, and declare it again.
    let note = scripts::UNREGISTER.call([key.as_str()]).arg(&deletion);
    let deadline = Instant::now() + PATIENCE;
    registry.request(&what, deadline, &note.arg(0)).await?;
    for exchange in exchanges {
        let keys = shared.exchange(&exchange);
        let own = keys.queue(queue);
        let table = [&keys.version, &keys.bindings, &keys.queues].map(String::as_str);
        let all: Vec<&str> = table.into_iter().chain(own.all()).collect();
        let call = scripts::DELETE.call(all).arg(token()).arg(queue.as_str());
        let link = shared.link(&exchange);
        link.request(&what, Instant::now() + PATIENCE, &call)
            .await?;
    }
    // Last: while this stands, deleting again completes it.
    let forget = scripts::UNREGISTER.call([key.as_str()]).arg(&deletion);
    let deadline = Instant::now() + PATIENCE;
    registry.request(&what, deadline, &forget.arg(1)).await?;
    Ok(())
}
