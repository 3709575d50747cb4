//! What travels: an encoded event with its address and its envelope.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use smol_str::SmolStr;

use crate::{
    address::Address,
    header::{HeaderValue, Headers},
    id::MessageId,
    name::{ExchangeName, RoutingKey},
};

/// An encoded event with its address and envelope: what is published, stored and delivered.
///
/// Cloning shares the payload and the names. Applications meet messages in middleware and tests;
/// they publish events, which become messages in [`Bus`](crate::Bus).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    address: Address,
    id: MessageId,
    /// Microseconds since 1970, or 0 when the sender did not say.
    time: u64,
    source: SmolStr,
    partition_key: Option<SmolStr>,
    headers: Headers,
    payload: Bytes,
    mandatory: bool,
}

impl Message {
    /// A message with an empty envelope, for backends and tests.
    pub fn new(exchange: ExchangeName, key: RoutingKey, payload: impl Into<Bytes>) -> Self {
        Self::to(Address::new(exchange, key), payload)
    }

    /// A message with an empty envelope to a shared address.
    pub fn to(address: Address, payload: impl Into<Bytes>) -> Self {
        Self {
            address,
            id: MessageId::UNSET,
            time: 0,
            source: SmolStr::default(),
            partition_key: None,
            headers: Headers::new(),
            payload: payload.into(),
            mandatory: false,
        }
    }

    /// Where it goes and what its payload is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The exchange it is published to.
    pub fn exchange(&self) -> &ExchangeName {
        self.address.exchange()
    }

    /// The routing key; also the `type` of the CloudEvents envelope.
    pub fn key(&self) -> &RoutingKey {
        self.address.key()
    }

    /// The id, unique together with [`source`](Self::source).
    pub fn id(&self) -> &MessageId {
        &self.id
    }

    /// When the event happened, with a resolution of microseconds, if the sender said so.
    pub fn time(&self) -> Option<SystemTime> {
        (self.time != 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_micros(self.time))
    }

    /// Who published it: the service's name, or the executable's. Empty when the sender did not say.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The media type of the payload. Empty when the sender did not say.
    pub fn content_type(&self) -> &str {
        self.address.content_type()
    }

    /// Messages with one partition key are handled in order.
    pub fn partition_key(&self) -> Option<&str> {
        self.partition_key.as_deref()
    }

    /// The headers, those of the framework included.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The headers, for changing them.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// The encoded event.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Whether it is an error when no queue is bound for it.
    pub fn is_mandatory(&self) -> bool {
        self.mandatory
    }

    /// The same message with another id.
    pub fn with_id(mut self, id: impl Into<MessageId>) -> Self {
        self.id = id.into();
        self
    }

    /// The same message with the time of its event, kept to the microsecond.
    pub fn with_time(mut self, time: SystemTime) -> Self {
        self.time = unix_micros(time);
        self
    }

    /// The same message with another source.
    pub fn with_source(mut self, source: impl Into<SmolStr>) -> Self {
        self.source = source.into();
        self
    }

    /// The same message with another media type.
    pub fn with_content_type(mut self, content_type: impl Into<SmolStr>) -> Self {
        self.address = self.address.with_content_type(content_type);
        self
    }

    /// The same message with a partition key.
    pub fn with_partition_key(mut self, key: impl Into<SmolStr>) -> Self {
        self.partition_key = Some(key.into());
        self
    }

    /// The same message with one more header.
    pub fn with_header(mut self, name: impl Into<SmolStr>, value: impl Into<HeaderValue>) -> Self {
        self.headers.set(name, value);
        self
    }

    /// The same message, `mandatory` or not.
    pub fn with_mandatory(mut self, mandatory: bool) -> Self {
        self.mandatory = mandatory;
        self
    }

    /// The same message with another payload.
    pub fn with_payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    pub(crate) fn set_id(&mut self, id: &str) {
        self.id = id.into();
    }

    pub(crate) fn set_source(&mut self, source: &str) {
        self.source = source.into();
    }

    pub(crate) fn set_time(&mut self, time: SystemTime) {
        self.time = unix_micros(time);
    }

    pub(crate) fn set_partition_key(&mut self, key: &str) {
        self.partition_key = Some(key.into());
    }

    pub(crate) fn set_mandatory(&mut self) {
        self.mandatory = true;
    }

    /// Sets what the bus knows and the event does not. An id or a time that is there already stays.
    pub(crate) fn stamp(&mut self, id: impl FnOnce() -> MessageId, micros: u64, source: &SmolStr) {
        if self.id == MessageId::UNSET {
            self.id = id();
        }
        if self.time == 0 {
            self.time = micros;
        }
        if self.source.is_empty() {
            self.source.clone_from(source);
        }
    }
}

/// Microseconds since 1970; times before that count as not said.
pub(crate) fn unix_micros(time: SystemTime) -> u64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
