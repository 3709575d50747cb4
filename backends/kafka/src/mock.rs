//! Tests on the mock cluster that comes with the client, for what no real broker can be made to do at will: a request
//! of a group that is refused for one reason and not for another, and a coordinator that moves at one moment.
//!
//! The mock has no topics of its own making, no settings of topics, and its records have the senders' times: so topics
//! are made before anybody connects, and nothing here is retried or dead-lettered. Its groups take a second less than
//! the lease for each rebalance, and three seconds for the first.

mod groups;
mod producers;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use event_conformance::{
    CaseResult, Context, Desk, Failure, Fixture, Setup, ensure, ensure_eq, publish,
};
use event_core::{
    Arrival, Bus, Deliveries, Delivery, Queue, QueueSpec, Result, Settle, Settled, Settlement,
    Subscription, Transport,
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    mocking::{MockCluster, MockCoordinator},
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey as Request, RDKafkaRespErr as Answer},
};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::KafkaTransport;

/// Longer than the mock waits for the first members of a group: it would take them for dead.
const LEASE: Duration = Duration::from_secs(4);
/// The partitions of the exchange.
const PARTITIONS: i32 = 3;
/// The broker that leads all partitions. The group is coordinated by one of the others.
const LEADER: i32 = 3;

/// A cluster of three brokers, and a process that is connected to it.
struct Mock {
    cx: Context,
    cluster: MockCluster<'static, DefaultProducerContext>,
}

struct Line(String);

#[async_trait]
impl Fixture for Line {
    async fn connect(&self) -> Result<Arc<dyn Transport>> {
        Ok(Arc::new(KafkaTransport::connect(&self.0).await?))
    }
}

impl Mock {
    async fn start() -> CaseResult<Self> {
        let cluster = MockCluster::new(3)?;
        for (topic, partitions) in [("switchboard.topology", 1), ("order", PARTITIONS)] {
            cluster.create_topic(topic, partitions, 1)?;
            for partition in 0..partitions {
                cluster.partition_leader(topic, partition, Some(LEADER))?;
            }
        }
        let hosts = cluster.bootstrap_servers();
        // Not with a short `socket.timeout.ms`: commits wait behind a request to join, and when they are given up the
        // member asks to join once more, which the mock does not survive.
        let url = format!("kafka://{hosts}?drain=10000");
        let setup = Setup::new(move |_| Line(url.clone())).with_lease(LEASE);
        let cx = Context::open(&setup, "").await?;
        let at = Self { cx, cluster };
        at.coordinate(1)?;
        Ok(at)
    }

    /// Has the group coordinated by a broker.
    fn coordinate(&self, broker: i32) -> CaseResult {
        let group = MockCoordinator::Group("billing_order".to_owned());
        Ok(self.cluster.coordinator(group, broker)?)
    }

    /// Has the next requests of a kind answered like this. When one succeeds after that, all of these were given.
    fn answer(&self, request: Request, answers: &[Answer]) {
        self.cluster.request_errors(request, answers);
    }

    /// The sum of what is committed of all partitions, which is the number of orders when none is missing below.
    async fn committed(&self) -> CaseResult<u64> {
        committed(self.cluster.bootstrap_servers()).await
    }

    /// Waits until so many are committed.
    async fn commits(&self, count: u64) -> CaseResult {
        let hosts = self.cluster.bootstrap_servers();
        let known = move || {
            let hosts = hosts.clone();
            async move { Ok(committed(hosts).await? == count) }
        };
        self.cx
            .until(&format!("{count} to be committed"), known)
            .await
    }

    /// A member of the group that is a service.
    fn queue(&self, desk: &Desk) -> Queue {
        self.cx.queue("billing_order", desk).prefetch(50)
    }

    /// A queue for the group.
    async fn declare(&self) -> CaseResult<QueueSpec> {
        let mut spec = self.cx.spec("billing_order", &["order.*.submit"])?;
        spec.prefetch = 1_000;
        self.cx.declare(&[&spec]).await?;
        Ok(spec)
    }

    /// A member of the group that settles when it is told to.
    async fn member(&self) -> CaseResult<Member> {
        let spec = self.declare().await?;
        let bus = self.cx.process().await?;
        let Subscription {
            deliveries,
            settle,
            stop,
        } = bus.transport().consume(&spec).await?;
        Ok(Member {
            cx: self.cx.clone(),
            _bus: bus,
            deliveries,
            settle,
            stop,
            ready: VecDeque::new(),
            leaving: BTreeSet::new(),
            revoked: BTreeSet::new(),
        })
    }

    /// Makes sure that everything is committed, by what the next consumer gets: orders that are published now, and
    /// none of those before.
    async fn nothing_is_left_of(&self, orders: u64) -> CaseResult {
        ensure_eq!(self.committed().await?, orders, "committed");
        let mut member = self.member().await?;
        // Some in each partition, behind everything that might come again.
        publish(self.cx.bus(), 10_001..=10_060).await?;
        let numbers = numbers(&member.take(60).await?);
        ensure_eq!(numbers, (10_001..=10_060).collect(), "orders of later");
        Ok(())
    }
}

async fn committed(hosts: String) -> CaseResult<u64> {
    let found = spawn_blocking(move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", hosts);
        config.set("group.id", "billing_order");
        let asking: BaseConsumer = config.create()?;
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range("order", 0, PARTITIONS - 1);
        asking.committed_offsets(asked, Duration::from_secs(10))
    });
    let mut sum = 0;
    for partition in found.await??.elements() {
        if let Offset::Offset(offset) = partition.offset() {
            sum += u64::try_from(offset)?;
        }
    }
    Ok(sum)
}

/// A consumer that tells what is taken from it.
struct Member {
    cx: Context,
    _bus: Bus,
    deliveries: Box<dyn Deliveries>,
    settle: Arc<dyn Settle>,
    stop: CancellationToken,
    ready: VecDeque<Delivery>,
    leaving: BTreeSet<u64>,
    revoked: BTreeSet<u64>,
}

impl Member {
    /// Waits for one arrival. Whether there may be more.
    async fn next(&mut self, what: &str) -> CaseResult<bool> {
        match self.cx.within(what, self.deliveries.next(1_000)).await?? {
            Arrival::Batch(batch) => self.ready.extend(batch),
            Arrival::Revoking { generation, .. } => _ = self.leaving.insert(generation),
            Arrival::Revoked { generation } => _ = self.revoked.insert(generation),
            Arrival::Ended => return Ok(false),
            other => return Err(Failure::new(format!("unknown: {other:?}"))),
        }
        Ok(true)
    }

    async fn take(&mut self, count: usize) -> CaseResult<Vec<Delivery>> {
        while self.ready.len() < count {
            let what = format!("delivery {} of {count}", self.ready.len() + 1);
            ensure!(self.next(&what).await?, "it ended before {what}");
        }
        Ok(self.ready.drain(..count).collect())
    }

    /// Waits until all that it holds was taken from it.
    async fn loses(&mut self, held: &[Delivery]) -> CaseResult {
        let all: BTreeSet<_> = held.iter().map(|held| held.tag().generation).collect();
        while !all.is_subset(&self.revoked) {
            ensure!(self.next("what it holds to be lost").await?, "it ended");
        }
        Ok(())
    }

    /// Acknowledges deliveries, and makes sure that each was answered like this.
    async fn acks(&self, held: &[Delivery], answer: Settled) -> CaseResult {
        let acks = held.iter().map(|held| Settlement::Ack(held.tag()));
        for settled in self.settle.settle(acks.collect()).await {
            ensure_eq!(settled?, answer, "settled");
        }
        Ok(())
    }

    /// Leaves the group, and gives back what was taken from nobody.
    async fn gives_back(mut self) -> CaseResult {
        self.stop.cancel();
        while self.next("the end").await? {}
        let releases = self
            .ready
            .iter()
            .map(|held| Settlement::Release(held.tag()));
        for settled in self.settle.settle(releases.collect()).await {
            ensure_eq!(settled?, Settled::Done, "given back");
        }
        Ok(())
    }

    /// Leaves the group, after which nothing more comes.
    async fn leaves(mut self) -> CaseResult {
        self.stop.cancel();
        while self.next("the end").await? {}
        ensure_eq!(
            numbers(self.ready.make_contiguous()),
            BTreeSet::new(),
            "more came"
        );
        Ok(())
    }
}

/// The numbers of orders.
fn numbers(deliveries: &[Delivery]) -> BTreeSet<u64> {
    let number = |delivery: &Delivery| {
        let order: serde_json::Value =
            serde_json::from_slice(delivery.message().payload()).unwrap_or_default();
        order["id"].as_u64().unwrap_or(0)
    };
    deliveries.iter().map(number).collect()
}
