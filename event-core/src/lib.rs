//! The contract of Switchboard: events, messages, routing, transports, buses and services.
//!
//! Applications depend on the facade `switchboard`, which re-exports what they need. This crate is for
//! people who write a backend: see [`Transport`].

mod address;
mod broker_url;
mod bus;
mod capabilities;
mod checks;
mod codec;
mod conclude;
mod consumer;
mod context;
mod counters;
mod dead_letter;
mod delivery;
mod derived;
mod envelope;
mod error;
mod event;
mod extract;
mod fate;
mod handler;
mod header;
mod id;
mod intake;
mod isolation;
mod lane;
mod message;
mod name;
mod observe;
mod once;
mod outcome;
mod outgoing;
mod payload;
mod publish_layer;
mod publishing;
mod queue;
mod reply;
mod retry;
mod route;
mod routes;
mod service;
mod settler;
mod shutdown;
mod steps;
mod topic;
mod topology;
mod transport;
mod worker;

pub use address::Address;
pub use broker_url::{BrokerUrl, UrlForm, UrlOption};
pub use bus::{Bus, BusTopology};
pub use bytes::Bytes;
pub use capabilities::{Capabilities, Capability, Support};
#[cfg(feature = "cbor")]
pub use codec::Cbor;
#[cfg(feature = "msgpack")]
pub use codec::MessagePack;
pub use codec::{Codec, Json, Raw, RawPayload};
pub use counters::Counters;
pub use dead_letter::{DeadLetter, DeadLetterId, DeadLetterQueue, Reason, Selection};
pub use delivery::{Delivery, DeliveryTag, Settled, Settlement};
pub use error::{BoxError, Error, ErrorKind, Result};
pub use event::{Event, Publish, RawEvent};
pub use extract::{FromDelivery, FromHeader, FromRef, Header, Metadata, State};
pub use handler::{Arguments, Handler};
pub use header::{HeaderValue, Headers};
pub use id::MessageId;
pub use intake::{Intake, Order, Orders, intake};
pub use isolation::Process;
pub use lane::HandlerService;
pub use message::Message;
pub use name::{ExchangeName, QueueName, RoutingKey};
pub use observe::{End, Observed};
pub use outcome::{HandlerError, HandlerResult, Outcome};
pub use outgoing::{IntoOutgoing, Outgoing};
pub use publish_layer::{PublishLayer, PublishStack};
pub use publishing::{PublishAll, PublishAllFuture, PublishFuture, Publishing};
pub use queue::{BoxHandler, HandlerLayers, Queue};
pub use reply::{IntoEvents, IntoHandlerError, IntoReply, Reply};
pub use retry::RetryPolicy;
pub use route::{Route, RouteInfo};
pub use service::{Running, Service};
pub use shutdown::{IntoShutdown, Shutdown, shutdown_signal};
pub use steps::{RETRY_STEPS, retry_step};
pub use topic::{Pattern, PatternError, TopicMap, key_matches};
pub use topology::{Binding, QueueKind, QueueSpec, Removal, Topology};
pub use transport::{
    Arrival, ConnectionState, DeadLetters, Deliveries, Receipt, Settle, Subscription, Transport,
};

/// What the derive's code names. Not for people: it changes with any release.
#[doc(hidden)]
pub mod __private {
    pub use crate::{
        address::Parts,
        bus::Bus,
        codec::{Codec, Json, Raw, RawPayload},
        delivery::Delivery,
        derived::*,
        error::{BoxError, Error, Result},
        event::{Encode, Event, Older, Publish, RawEvent, takes},
        message::Message,
        name::{ExchangeName, RoutingKey},
        outgoing::{IntoOutgoing, Outgoing},
        publishing::Publishing,
        route::{Route, RouteInfo},
    };
    pub use bytes::Bytes;
}
