//! RabbitMQ as a backend of Switchboard.
//!
//! Applications use it through the facade `switchboard`, with the feature `amqp` and a URL that begins with
//! `amqp://` or `amqps://`. The page on RabbitMQ in the guide says what it makes of exchanges and queues, what rights
//! it needs and how to tune it.
//!
//! How it is built: a link keeps each of two connections up, and declares the topology again when one was lost; one
//! task publishes on one channel; a subscription is a channel with a window of unsettled deliveries.

mod capabilities;
mod channel;
mod dead_letters;
mod error;
mod link;
mod names;
mod publisher;
mod settler;
mod shared;
mod subscription;
mod topology;
mod transport;
mod url;
mod window;
mod wire;

pub use capabilities::CAPABILITIES;
pub use transport::AmqpTransport;
