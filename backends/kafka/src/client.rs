//! What all clients of one transport have in common: where they report, and what is known of the brokers.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use event_core::ConnectionState;
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::sync::watch;

use crate::{shared::lock, signal::Signal, url::Endpoints};

/// How long a request of the administration's may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What the clients of one transport say about the brokers.
#[derive(Debug)]
pub(crate) struct Health {
    state: watch::Sender<ConnectionState>,
    problem: Mutex<Option<Problem>>,
    /// Raised when the brokers are down, for whoever looks when they are back.
    pub(crate) down: Signal,
}

/// How many bytes are kept of what is said about problems.
const MOST_TOLD: usize = 4_096;

/// What went wrong with connections.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    /// The last that says more than that a line broke.
    pub(crate) code: RDKafkaErrorCode,
    /// The first lines about it.
    pub(crate) text: String,
}

impl Health {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: watch::channel(ConnectionState::Connected).0,
            problem: Mutex::default(),
            down: Signal::default(),
        })
    }

    pub(crate) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    pub(crate) fn is_down(&self) -> bool {
        *self.state.borrow() == ConnectionState::Reconnecting
    }

    pub(crate) fn set(&self, next: ConnectionState) {
        self.state.send_if_modified(|state| {
            // Closed is for good.
            *state != ConnectionState::Closed && std::mem::replace(state, next) != next
        });
    }

    /// What went wrong; nothing when it was not said.
    pub(crate) fn problem(&self) -> Option<Problem> {
        lock(&self.problem).clone()
    }

    pub(crate) fn met(&self, error: &KafkaError, reason: &str) {
        let KafkaError::Global(code) = error else {
            return;
        };
        if *code == RDKafkaErrorCode::AllBrokersDown {
            self.set(ConnectionState::Reconnecting);
            self.down.raise();
            return;
        }
        self.note(*code, reason);
    }

    /// A line of a client's log: that a peer hung up stands nowhere else.
    fn heard(&self, facility: &str, message: &str) {
        if facility == "FAIL" && message.contains("Disconnected") {
            self.note(RDKafkaErrorCode::BrokerTransportFailure, message);
        }
    }

    fn note(&self, code: RDKafkaErrorCode, text: &str) {
        let mut problem = lock(&self.problem);
        let problem = problem.get_or_insert_with(|| Problem {
            code,
            text: String::new(),
        });
        // That a line broke says the least.
        if code != RDKafkaErrorCode::BrokerTransportFailure {
            problem.code = code;
        }
        if problem.text.len() < MOST_TOLD {
            problem.text.push_str(text);
            problem.text.push('\n');
        }
    }
}

/// The context of a client without events of its own.
#[derive(Clone, Debug)]
pub(crate) struct Context(pub(crate) Arc<Health>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.heard(facility, message);
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.met(&error, reason);
    }
}

impl rdkafka::consumer::ConsumerContext for Context {}

/// What the client logs is for people who look for something: what matters is an error somewhere.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    tracing::debug!(target: "switchboard", ?level, facility, "librdkafka: {message}");
}

/// The settings of a client that reads in no group.
pub(crate) fn reading(endpoints: &Endpoints) -> ClientConfig {
    let mut config = endpoints.config();
    // The client wants one; nothing is committed, and no group is joined.
    config.set("group.id", "switchboard");
    config.set("enable.auto.commit", "false");
    config
}
