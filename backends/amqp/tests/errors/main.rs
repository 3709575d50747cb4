//! What people meet first when something is wrong, word for word. `SWITCHBOARD_WRITE=1` writes the files again.

// Part of tests, but clippy sees that only of functions that are tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::Path};

use event_amqp::AmqpTransport;
use event_core::{
    Bus, Error, ErrorKind, ExchangeName, Message, QueueSpec, RoutingKey, Topology, Transport,
};
use tokio::time::{Duration, Instant};

fn url() -> String {
    std::env::var("RABBITMQ_URL").expect(
        "RABBITMQ_URL names no RabbitMQ; `scripts/test` starts one, and so does `scripts/brokers up rabbitmq`",
    )
}

fn host() -> String {
    let url = url();
    let (_, host) = url.rsplit_once('@').unwrap_or(("", &url));
    host.to_owned()
}

/// A name that no other run has.
fn unique(name: &str) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    format!("errors-{:x}-{name}", now.as_nanos())
}

/// Compares the error with its file; what differs from run to run is replaced in it.
fn check(name: &str, error: &Error, kind: ErrorKind, varying: &[(&str, &str)]) {
    assert_eq!(error.kind(), kind, "{error}");
    let mut text = format!("{error}\n");
    for (value, placeholder) in varying {
        text = text.replace(value, placeholder);
    }
    assert!(
        !text.contains("secret") && !text.contains("guest:guest"),
        "{text}"
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/errors/{name}.txt"));
    if std::env::var_os("SWITCHBOARD_WRITE").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, expected, "{}", file.display());
}

async fn refused(url: &str) -> Error {
    AmqpTransport::connect(url)
        .await
        .expect_err("it is refused")
}

#[tokio::test]
async fn a_wrong_password() {
    let host = host();
    let error = refused(&format!("amqp://guest:secret@{host}")).await;
    check(
        "wrong_password",
        &error,
        ErrorKind::Authentication,
        &[(&host, "HOST")],
    );
}

#[tokio::test]
async fn a_vhost_that_does_not_exist() {
    let host = host();
    let error = refused(&format!("{}/warehouse", url())).await;
    check(
        "wrong_vhost",
        &error,
        ErrorKind::NotFound,
        &[(&host, "HOST")],
    );
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let error = refused(&format!("amqp://shop:secret@{address}")).await;
    check(
        "refused_connection",
        &error,
        ErrorKind::Connection,
        &[(&address, "HOST")],
    );
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_server_without_tls() {
    let host = host();
    let error = refused(&format!("amqps://shop:secret@{host}")).await;
    check("no_tls", &error, ErrorKind::Tls, &[(&host, "HOST")]);
}

#[tokio::test]
async fn a_server_that_says_nothing() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let begun = Instant::now();
    let error = refused(&format!(
        "amqp://shop:secret@{address}?connection_timeout=300"
    ))
    .await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    check(
        "silent_server",
        &error,
        ErrorKind::Connection,
        &[(&address, "HOST")],
    );
}

#[tokio::test]
async fn a_queue_with_other_arguments() {
    let bus = Bus::new(AmqpTransport::connect(&url()).await.unwrap());
    let name = unique("queue");
    let topology = |most| {
        let mut spec = QueueSpec::new(name.parse().unwrap());
        spec.max_length = most;
        let mut topology = Topology::default();
        topology.queues.push(spec);
        topology
    };
    bus.topology().declare(&topology(None)).await.unwrap();
    let error = bus
        .topology()
        .declare(&topology(Some(5)))
        .await
        .unwrap_err();
    bus.topology().delete_queue(&name).await.unwrap();
    check("mismatch", &error, ErrorKind::Mismatch, &[(&name, "QUEUE")]);
}

#[tokio::test]
async fn a_message_that_no_queue_is_bound_for() {
    let transport = AmqpTransport::connect(&url()).await.unwrap();
    let exchange = unique("exchange");
    let message = Message::new(
        ExchangeName::new(&exchange).unwrap(),
        RoutingKey::new("order.v1.submit").unwrap(),
        "{}",
    );
    let batch = vec![message.with_id("1").with_mandatory(true)];
    let deadline = Instant::now() + Duration::from_secs(10);
    let error = transport
        .publish(batch, deadline)
        .await
        .remove(0)
        .unwrap_err();
    check(
        "unroutable",
        &error,
        ErrorKind::Unroutable,
        &[(&exchange, "EXCHANGE")],
    );
}
