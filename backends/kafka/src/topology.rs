//! Declaring and removing: what is written to the topology topic.

use std::collections::{BTreeSet, HashMap};

use event_core::{
    Binding, Capability, Error, ErrorKind, ExchangeName, QueueKind, QueueName, QueueSpec,
    RETRY_STEPS, Removal, Result, Topology,
};
use smol_str::SmolStr;
use tokio::time::Instant;

use crate::{
    admin::Purpose,
    capabilities::CAPABILITIES,
    client::PATIENCE,
    error, names,
    producer::Record,
    shared::Shared,
    table::{Arguments, Fact, QueueEntry, Spans, Table},
};

/// A record of the topology topic.
pub(crate) fn record(topic: &str, fact: &Fact) -> Record {
    Record {
        topic: topic.into(),
        key: Some(fact.key.to_string().into()),
        value: fact.value.clone().map(Into::into),
        headers: None,
    }
}

/// Writes facts, and waits until they are known here.
async fn write(shared: &Shared, what: &str, facts: &[Fact]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let topic = shared.registry.topic();
    let records = facts.iter().map(|fact| record(topic, fact)).collect();
    let mut last = 0;
    for stored in shared.producer.store(records, deadline).await {
        let offset = stored.map_err(|code| error::failed(what, code))?;
        last = last.max(offset + 1);
    }
    shared.registry.reached(last, deadline).await.map(drop)
}

async fn current(shared: &Shared) -> Result<std::sync::Arc<Table>> {
    shared.registry.current(Instant::now() + PATIENCE).await
}

pub(crate) async fn declare(shared: &Shared, topology: &Topology) -> Result<()> {
    for exchange in &topology.exchanges {
        shared.admin.exchange(exchange).await?;
    }
    let queues = topology.queues.iter();
    let queues: Vec<_> = queues
        .filter(|spec| spec.kind == QueueKind::Durable)
        .collect();
    if queues.is_empty() {
        return Ok(());
    }
    // Somebody may have deleted it.
    shared
        .admin
        .ensure(&shared.endpoints.topology, Purpose::Topology)
        .await?;
    for spec in &queues {
        if spec.max_length.is_some() {
            let of = format!("queue `{}`", spec.name);
            CAPABILITIES.require(Capability::MaxLength, "max_length", &of)?;
        }
    }
    // Two that declare one queue at the same time each begin a life of it; whose does not count writes again.
    for _ in 0..10 {
        // First where the topics end, then what stands in the table: whoever declared in between has been told by
        // then, and what is published after that comes later than these ends.
        let ends = ends(shared, &queues).await?;
        let table = current(shared).await?;
        let facts = facts(&table, &queues, &ends)?;
        if facts.is_empty() {
            return Ok(());
        }
        let what = format!("declare queue `{}`", queues[0].name);
        write(shared, &what, &facts).await?;
    }
    Err(Error::retryable(
        ErrorKind::Internal,
        format!(
            "cannot declare queue `{}`: others keep deleting and declaring it",
            queues[0].name
        ),
    ))
}

async fn ends(shared: &Shared, queues: &[&QueueSpec]) -> Result<HashMap<ExchangeName, Vec<i64>>> {
    let bindings = queues.iter().flat_map(|spec| &spec.bindings);
    let exchanges: BTreeSet<_> = bindings.map(|binding| &binding.exchange).collect();
    let mut ends = HashMap::new();
    for exchange in exchanges {
        let topic = shared.admin.exchange(exchange).await?;
        let mut found = shared.admin.ends(&topic).await?;
        if found.is_empty() {
            // Somebody deleted it.
            shared.admin.forget(exchange);
            let topic = shared.admin.exchange(exchange).await?;
            found = shared.admin.ends(&topic).await?;
        }
        ends.insert(exchange.clone(), found);
    }
    Ok(ends)
}

/// What is missing of the queues.
fn facts(
    table: &Table,
    queues: &[&QueueSpec],
    ends: &HashMap<ExchangeName, Vec<i64>>,
) -> Result<Vec<Fact>> {
    let mut facts = Vec::new();
    // What does not fit is said before anything has changed.
    for spec in queues {
        match table.queue(&spec.name) {
            Some(entry) => fits(spec, entry.arguments())?,
            None => stands_alone(spec, table)?,
        }
    }
    for spec in queues {
        let entry = table.queue(&spec.name);
        let life = match entry.and_then(|entry| entry.life()) {
            Some(life) => life.to_owned(),
            None => {
                let life = format!("{:012x}", fastrand::u64(..1 << 48));
                let ordered = spec.ordered;
                facts.push(Fact::queue(&spec.name, &life, Arguments { ordered }));
                life
            }
        };
        for binding in &spec.bindings {
            let known = entry.and_then(|entry| entry.parts()?.bindings.get(binding));
            let mut ends = ends.get(&binding.exchange).cloned().unwrap_or_default();
            if let Some(known) = known.filter(|known| known.is_open()) {
                let begins_after =
                    |(partition, end): (i32, &i64)| known.settled_from(partition) > *end;
                if !(0..).zip(&ends).any(begins_after) {
                    continue;
                }
                // Its topic was deleted and made again: all of the new one came after it was declared.
                ends.clear();
            }
            let spans = match ends.is_empty() {
                true => Spans::since(ends),
                false => known.cloned().unwrap_or_default().and_since(ends),
            };
            facts.push(Fact::binding(&spec.name, &life, binding.clone(), &spans));
        }
    }
    Ok(facts)
}

fn stands_alone(spec: &QueueSpec, table: &Table) -> Result<()> {
    table.twin(&spec.name).map_or(Ok(()), |twin| {
        Err(Error::new(
            ErrorKind::InvalidName,
            format!(
                "cannot declare queue `{}` beside queue `{twin}`: Kafka does not allow topics whose names differ only \
                 in `.` and `_`",
                spec.name
            ),
        ))
    })
}

fn fits(spec: &QueueSpec, have: Arguments) -> Result<()> {
    if have.ordered == spec.ordered {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Mismatch,
        format!(
            "queue `{}` exists with another `ordered`: it is {}, and {} was asked for; delete it, or declare it as it is",
            spec.name, have.ordered, spec.ordered
        ),
    ))
}

pub(crate) async fn remove(shared: &Shared, removal: &Removal) -> Result<()> {
    match removal {
        Removal::Binding { queue, binding } => {
            unbind(shared, queue, |known| known == binding).await
        }
        Removal::OtherBindings { queue, keep } => {
            unbind(shared, queue, |known| !keep.contains(known)).await
        }
        Removal::Queue(queue) => delete(shared, queue).await,
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            "the backend `kafka` does not know this kind of removal",
        )),
    }
}

/// Ends bindings of a queue where their topics end now.
async fn unbind(
    shared: &Shared,
    queue: &QueueName,
    is_unwanted: impl Fn(&Binding) -> bool,
) -> Result<()> {
    let table = current(shared).await?;
    let Some(entry) = table.queue(queue) else {
        return Ok(());
    };
    let (Some(life), Some(parts)) = (entry.life(), entry.parts()) else {
        return Ok(());
    };
    let mut facts = Vec::new();
    for (binding, spans) in &parts.bindings {
        if is_unwanted(binding) && spans.is_open() {
            let topic = shared.admin.exchange(&binding.exchange).await?;
            let ends = shared.admin.ends(&topic).await?;
            let spans = spans.clone().and_until(&ends);
            facts.push(Fact::binding(queue, life, binding.clone(), &spans));
        }
    }
    if facts.is_empty() {
        return Ok(());
    }
    write(shared, &format!("unbind queue `{queue}`"), &facts).await
}

async fn delete(shared: &Shared, queue: &QueueName) -> Result<()> {
    let table = current(shared).await?;
    let mut facts: Vec<_> = table
        .remains(queue)
        .into_iter()
        .map(Fact::no_longer)
        .collect();
    if !facts.is_empty() {
        // What is taken back may vanish from the end of the topic, and whoever waits for its end waits in vain.
        facts.push(Fact::note());
        write(shared, &format!("delete queue `{queue}`"), &facts).await?;
    }
    let steps = [0].into_iter().chain(RETRY_STEPS);
    let mut topics: Vec<_> = steps.map(|step| names::retry(queue, step)).collect();
    topics.push(names::dead(queue));
    shared.forget_topics(queue, rdkafka::error::RDKafkaErrorCode::UnknownTopic);
    shared.admin.delete_topics(&topics).await?;
    shared.admin.delete_group(queue).await;
    Ok(())
}

/// The topic where retries of a queue wait for so many milliseconds, which is made if need be; for none, what is
/// put back into the queue.
pub(crate) async fn retry(shared: &Shared, queue: &QueueName, step: u64) -> Result<SmolStr> {
    let topic = SmolStr::from(names::retry(queue, step));
    let table = shared.registry.table();
    let entry = table.queue(queue).ok_or_else(|| error::deleted(queue))?;
    let is_noted = |entry: &QueueEntry| {
        entry
            .parts()
            .is_some_and(|parts| parts.steps.contains(&step))
    };
    if shared.knows(&topic) && is_noted(entry) {
        return Ok(topic);
    }
    shared.topic(&topic, Purpose::Retry).await?;
    // From this its consumers know that they have to read it.
    let table = current(shared).await?;
    let entry = table.queue(queue).ok_or_else(|| error::deleted(queue))?;
    if let Some(life) = entry.life()
        && !is_noted(entry)
    {
        let fact = Fact::step(queue, life, step);
        write(shared, &format!("note a delay of queue `{queue}`"), &[fact]).await?;
    }
    Ok(topic)
}

/// The topic of a queue's dead letters, which is made if need be.
pub(crate) async fn dead(shared: &Shared, queue: &QueueName) -> Result<SmolStr> {
    let topic = SmolStr::from(names::dead(queue));
    shared.topic(&topic, Purpose::Dead).await?;
    Ok(topic)
}
