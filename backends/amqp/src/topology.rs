//! Declaring, which only adds, and removing.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use event_core::{
    Binding, Error, ErrorKind, ExchangeName, QueueKind, QueueName, QueueSpec, Removal, Result,
    Topology,
};
use lapin::{
    ExchangeKind,
    options::{
        ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
        QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};

use crate::{
    capabilities::CAPABILITIES,
    channel::{self, Owned},
    link::Live,
    names,
};

/// What was declared over a transport, to be declared again after a connection was lost.
#[derive(Debug, Default)]
pub(crate) struct Declared(Mutex<Topology>);

impl Declared {
    pub(crate) fn add(&self, topology: &Topology) {
        let mut all = self.lock();
        for exchange in &topology.exchanges {
            if !all.exchanges.contains(exchange) {
                all.exchanges.push(exchange.clone());
            }
        }
        let durable = topology.queues.iter();
        // What belongs to others is not ours to declare.
        for spec in durable.filter(|spec| spec.kind == QueueKind::Durable) {
            match all.queues.iter_mut().find(|known| known.name == spec.name) {
                None => all.queues.push(spec.clone()),
                Some(known) => {
                    for binding in &spec.bindings {
                        if !known.bindings.contains(binding) {
                            known.bindings.push(binding.clone());
                        }
                    }
                    for wait in &spec.retry_waits {
                        if !known.retry_waits.contains(wait) {
                            known.retry_waits.push(*wait);
                        }
                    }
                }
            }
        }
    }

    /// The queues that hand their messages on, as far as they were declared for this one here.
    pub(crate) fn forwarding(&self, queue: &str) -> Vec<String> {
        let all = self.lock();
        let specs = all
            .queues
            .iter()
            .filter(|spec| spec.name.as_str() == queue && spec.kind == QueueKind::Durable);
        specs
            .flat_map(|spec| {
                names::steps(&spec.retry_waits)
                    .into_iter()
                    .map(|step| names::retry(queue, step))
                    .chain([names::probation(queue)])
            })
            .collect()
    }

    pub(crate) fn forget(&self, removal: &Removal) {
        let mut all = self.lock();
        match removal {
            Removal::Queue(name) => all.queues.retain(|spec| spec.name != *name),
            Removal::Binding { queue, binding } => {
                for spec in &mut all.queues {
                    if spec.name == *queue {
                        spec.bindings.retain(|known| known != binding);
                    }
                }
            }
            _ => {}
        }
    }

    /// Declares all of it on a new connection, before anything else is done with it.
    pub(crate) async fn replay(&self, live: &Arc<Live>) -> Result<()> {
        let all = self.lock().clone();
        let exchanges = Topology {
            exchanges: all.exchanges,
            ..Topology::default()
        };
        let queues = all.queues.into_iter().map(|spec| Topology {
            queues: vec![spec],
            ..Topology::default()
        });
        let mut result = Ok(());
        // One by one, so that a queue which somebody declared otherwise meanwhile concerns nothing else.
        for part in std::iter::once(exchanges).chain(queues) {
            if let Err(error) = declare(live, &part).await {
                if matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout) {
                    return Err(error);
                }
                result = Err(error);
            }
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Topology> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Declares exchanges, queues and what is derived from them.
pub(crate) async fn declare(live: &Arc<Live>, topology: &Topology) -> Result<()> {
    let exchanges: BTreeSet<_> = topology
        .queues
        .iter()
        .filter(|spec| spec.kind == QueueKind::Durable)
        .flat_map(|spec| spec.bindings.iter().map(|binding| &binding.exchange))
        .chain(&topology.exchanges)
        .collect();
    for name in exchanges {
        exchange(live, name).await?;
    }
    let on = channel::open(live).await?;
    for spec in &topology.queues {
        match spec.kind {
            QueueKind::Durable => queue(&on, spec).await?,
            QueueKind::Existing => exists(&on, &spec.name).await?,
            // Made when it is consumed.
            QueueKind::Ephemeral => {}
            kind => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "queue `{}` is of a kind that the backend `amqp` does not know: {kind:?}",
                        spec.name
                    ),
                ));
            }
        }
    }
    on.end().await;
    Ok(())
}

/// Declares an exchange. Who may not declare it may use one that exists.
pub(crate) async fn exchange(live: &Arc<Live>, name: &ExchangeName) -> Result<()> {
    let declare = async |passive: bool| {
        let what = format!("declare exchange `{name}`");
        let on = channel::open(live).await?;
        let options = ExchangeDeclareOptions {
            durable: true,
            passive,
            ..ExchangeDeclareOptions::default()
        };
        let request = on.exchange_declare(
            name.as_str().into(),
            ExchangeKind::Topic,
            options,
            FieldTable::default(),
        );
        match on.answer(&what, request).await {
            Err(refused) if !passive && refused.kind() == ErrorKind::Permission => {
                Ok(Some(refused))
            }
            Err(error) => Err(error),
            Ok(()) => {
                on.end().await;
                Ok(None)
            }
        }
    };
    match declare(false).await? {
        None => Ok(()),
        Some(refused) => match declare(true).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(refused),
            Err(error) => Err(error),
        },
    }
}

async fn queue(on: &Owned, spec: &QueueSpec) -> Result<()> {
    let name = &spec.name;
    // The bindings last: what comes in finds everything that its failures need.
    quorum(on, &names::dead(name), FieldTable::default()).await?;
    let back = forwarding(names::PROBATION_MILLIS, name);
    quorum(on, &names::probation(name), back).await?;
    for step in names::steps(&spec.retry_waits) {
        retry(on, name, step).await?;
    }
    let mut arguments = FieldTable::default();
    if let Some(most) = spec.max_length {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(most));
        refuse_overflow(&mut arguments);
    }
    quorum(on, name, arguments).await?;
    for binding in &spec.bindings {
        bind(on, name, binding).await?;
    }
    Ok(())
}

/// Where retries wait for this long before they go back into their queue.
pub(crate) async fn retry(on: &Owned, queue: &str, step: u64) -> Result<()> {
    quorum(on, &names::retry(queue, step), forwarding(step, queue)).await
}

/// The arguments of a queue whose messages go on to another one after a time. The broker's own dead-lettering
/// is at most once unless it is told otherwise, and it is not told otherwise without `reject-publish`.
fn forwarding(millis: u64, to: &str) -> FieldTable {
    let mut arguments = FieldTable::default();
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(millis));
    // The default exchange, which takes it to the queue of that name and to no other.
    text(&mut arguments, "x-dead-letter-exchange", "");
    text(&mut arguments, "x-dead-letter-routing-key", to);
    text(&mut arguments, "x-dead-letter-strategy", "at-least-once");
    refuse_overflow(&mut arguments);
    arguments
}

fn refuse_overflow(arguments: &mut FieldTable) {
    text(arguments, "x-overflow", "reject-publish");
}

fn text(arguments: &mut FieldTable, name: &'static str, value: &str) {
    arguments.insert(name.into(), AMQPValue::LongString(value.into()));
}

async fn quorum(on: &Owned, name: &str, mut arguments: FieldTable) -> Result<()> {
    text(&mut arguments, "x-queue-type", "quorum");
    // Attempts are counted by the framework. Large and positive: newer versions drop at the 20th return
    // without it, and older ones at the first with -1.
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(1_000_000));
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let request = on.queue_declare(name.into(), options, arguments);
    on.answer(&format!("declare queue `{name}`"), request)
        .await?;
    Ok(())
}

pub(crate) async fn bind(on: &Owned, queue: &str, binding: &Binding) -> Result<()> {
    let request = on.queue_bind(
        queue.into(),
        binding.exchange.as_str().into(),
        binding.pattern.as_str().into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    let what = format!(
        "bind queue `{queue}` to exchange `{}` with `{}`",
        binding.exchange, binding.pattern
    );
    on.answer(&what, request).await
}

/// How many messages a queue has ready. Closes the channel when there is no such queue.
pub(crate) async fn ready(on: &Owned, name: &str) -> Result<u32> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let request = on.queue_declare(name.into(), options, FieldTable::default());
    Ok(on
        .answer(&format!("use queue `{name}`"), request)
        .await?
        .message_count())
}

/// Makes sure that there is a queue.
async fn exists(on: &Owned, name: &str) -> Result<()> {
    ready(on, name).await.map(drop)
}

/// Whether there is a queue, on a channel of its own.
pub(crate) async fn is_there(live: &Arc<Live>, name: &str) -> Result<bool> {
    let on = channel::open(live).await?;
    match exists(&on, name).await {
        Ok(()) => {
            on.end().await;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        // Another connection has it for itself, so it is there.
        Err(error) if error.kind() == ErrorKind::Refused => Ok(true),
        Err(error) => Err(error),
    }
}

pub(crate) async fn remove(live: &Arc<Live>, removal: &Removal) -> Result<()> {
    match removal {
        Removal::Binding { queue, binding } => unbind(live, queue, binding).await,
        Removal::OtherBindings { queue, .. } => {
            let of = format!("queue `{queue}`");
            CAPABILITIES.require(event_core::Capability::Prune, "prune", &of)
        }
        Removal::Queue(queue) => delete(live, queue).await,
        other => Err(Error::new(
            ErrorKind::Unsupported,
            format!("the backend `amqp` does not know how to remove {other:?}"),
        )),
    }
}

async fn unbind(live: &Arc<Live>, queue: &QueueName, binding: &Binding) -> Result<()> {
    let on = channel::open(live).await?;
    let request = on.queue_unbind(
        queue.as_str().into(),
        binding.exchange.as_str().into(),
        binding.pattern.as_str().into(),
        FieldTable::default(),
    );
    let what = format!(
        "unbind queue `{queue}` from exchange `{}` with `{}`",
        binding.exchange, binding.pattern
    );
    match on.answer(&what, request).await {
        // Neither the queue nor the exchange nor the binding has to be there.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => {
            on.end().await;
            other
        }
    }
}

/// Waits until queues that were just declared are at work. Deleting one before ends the dead-lettering of the whole
/// node until it is restarted (seen with 3.10.8).
pub(crate) async fn settle_down(live: &Arc<Live>, forwarding: &[String]) -> Result<()> {
    for name in forwarding {
        let on = channel::open(live).await?;
        // A round trip through the queue itself. What is not there, or goes away meanwhile, needs none.
        let purge = on.queue_purge(name.as_str().into(), QueuePurgeOptions::default());
        match on.answer(&format!("purge queue `{name}`"), purge).await {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => on.end().await,
        }
    }
    Ok(())
}

async fn delete(live: &Arc<Live>, queue: &QueueName) -> Result<()> {
    let on = channel::open(live).await?;
    let retries = event_core::RETRY_STEPS.map(|step| names::retry(queue, step));
    let derived = [
        queue.to_string(),
        names::probation(queue),
        names::dead(queue),
    ];
    let all = derived.iter().chain(&retries);
    let channel = &on;
    let requests = all.map(|name| {
        // What is not there counts as deleted.
        let request = channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default());
        async move {
            channel
                .answer(&format!("delete queue `{name}`"), request)
                .await
        }
    });
    // All at once: a channel answers in order.
    for deleted in futures_util::future::join_all(requests).await {
        deleted?;
    }
    on.end().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_two_services_need_of_one_queue_is_declared_again() {
        let declared = Declared::default();
        for seconds in [1, 60, 1] {
            let mut spec = QueueSpec::new("billing_order".parse().unwrap());
            spec.retry_waits = vec![Duration::from_secs(seconds)];
            let mut topology = Topology::default();
            topology.queues.push(spec);
            declared.add(&topology);
        }
        assert_eq!(
            declared.forwarding("billing_order"),
            [
                "billing_order.retry.1600",
                "billing_order.retry.60000",
                "billing_order.probation"
            ]
        );
    }
}
