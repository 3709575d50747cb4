//! What becomes of what was sent.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use event_core::{Address, Error, ErrorKind, Message, Order, Receipt};
use rdkafka::{
    ClientContext, Message as _, Timestamp,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, DeliveryResult},
    producer::ProducerContext,
};
use tokio::{sync::mpsc, time::Instant};

use super::{Late, code, record::Answer};
use crate::{
    client::{self, Health},
    clock::BrokerClock,
    error,
    registry::Registry,
    shared::lock,
    table::Table,
};

/// What a delivery report is for.
pub(super) enum Sent {
    Message(Order<Message>),
    Record(Answer),
}

/// Where reports are worked on.
pub(super) struct Desk {
    pub(super) health: Arc<Health>,
    clock: Arc<BrokerClock>,
    pub(super) registry: Arc<Registry>,
    late: mpsc::UnboundedSender<Late>,
    last: Mutex<Option<Counted>>,
}

/// What was counted last: most messages go where the one before went.
struct Counted {
    table: Arc<Table>,
    address: Address,
    queues: u32,
}

/// Takes the reports of a client.
pub(super) struct Reports {
    desk: Arc<Desk>,
    /// Each record goes alone.
    is_alone: bool,
    /// The client met something that ends it.
    broken: AtomicBool,
    /// It is to end when everything was answered.
    stop: AtomicBool,
}

impl Desk {
    pub(super) fn new(
        health: &Arc<Health>,
        clock: &Arc<BrokerClock>,
        registry: &Arc<Registry>,
        late: mpsc::UnboundedSender<Late>,
    ) -> Self {
        Self {
            health: health.clone(),
            clock: clock.clone(),
            registry: registry.clone(),
            late,
            last: Mutex::default(),
        }
    }

    pub(super) fn hand(&self, late: Late) {
        // The other end lives as long as the producer; afterwards, dropping it is an answer.
        let _ = self.late.send(late);
    }

    /// How many queues take a message, as far as is known.
    pub(super) fn queues(&self, address: &Address) -> u32 {
        let mut last = lock(&self.last);
        let table = self.registry.table();
        if let Some(counted) = &*last
            && counted.address == *address
            && Arc::ptr_eq(&counted.table, &table)
        {
            return counted.queues;
        }
        let queues = table.count(address.exchange(), address.key());
        *last = Some(Counted {
            table,
            address: address.clone(),
            queues,
        });
        queues
    }
}

impl Reports {
    pub(super) fn new(desk: &Arc<Desk>, is_alone: bool) -> Self {
        Self {
            desk: desk.clone(),
            is_alone,
            broken: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(SeqCst)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.load(SeqCst)
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, SeqCst);
    }

    fn stored(&self, sent: Sent, report: &BorrowedMessage<'_>) {
        if let Timestamp::LogAppendTime(millis) = report.timestamp() {
            self.desk.clock.heard(millis);
        }
        match sent {
            Sent::Record(answer) => _ = answer.send(Ok(report.offset())),
            Sent::Message(order) => match self.desk.queues(order.item().address()) {
                0 => self.desk.hand(Late::Stored(order)),
                queues => {
                    let receipt = Receipt::new(order.item().id().clone(), Some(queues));
                    order.finish(Ok(receipt));
                }
            },
        }
    }

    pub(super) fn failed(&self, sent: Sent, code: Code) {
        // Unless it is told to end, a client gives up messages only when it has met something that ends it.
        let is_over = match code {
            Code::Fatal | Code::Fenced => true,
            Code::PurgeQueue | Code::PurgeInflight => self.is_broken() || !self.is_stopping(),
            _ => false,
        };
        if is_over {
            self.broken.store(true, SeqCst);
        }
        let code = match code {
            // What came to a partition of a deleted topic while the client let go of it ends with the partition.
            Code::BrokerDestroy if !self.is_stopping() => Code::UnknownPartition,
            code => code,
        };
        match sent {
            // Nobody closed it: that it was given up with its client passes.
            Sent::Record(answer) if is_over => _ = answer.send(Err(Code::Fatal)),
            Sent::Record(answer) => _ = answer.send(Err(code)),
            Sent::Message(order) if is_over => {
                let may = match code {
                    Code::PurgeInflight => "may have been",
                    _ => "was not",
                };
                let text = format!(
                    "cannot publish {}: the producer met an error that ended it, and was replaced; the message {may} \
                     stored",
                    order.item().address()
                );
                order.finish(Err(Error::retryable(ErrorKind::Connection, text)));
            }
            Sent::Message(order) if error::says_gone(code) && order.deadline() > Instant::now() => {
                self.desk.hand(Late::Homeless(order));
            }
            // It may be that only its neighbours in the batch are.
            Sent::Message(order)
                if error::says_too_large(code)
                    && !self.is_alone
                    && order.deadline() > Instant::now() =>
            {
                self.desk.hand(Late::TooLarge(order));
            }
            Sent::Message(order) => {
                let what = format!("publish {}", order.item().address());
                order.finish(Err(error::failed(&what, code)));
            }
        }
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(Code::Fatal) {
            self.broken.store(true, SeqCst);
        }
        self.desk.health.met(&error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        match result {
            Ok(report) => self.stored(*sent, report),
            Err((error, _)) => self.failed(*sent, code(error)),
        }
    }
}
