//! Errors word for word. `SWITCHBOARD_WRITE=1` writes the files again.

use std::{fs, path::Path};

use event_core::{
    Bus, Error, ErrorKind, ExchangeName, Message, QueueSpec, RoutingKey, Topology, Transport,
};
use event_redis::RedisTransport;
use tokio::time::{Duration, Instant};

use crate::server::Server;

/// Compares the error with its file; what differs from run to run is replaced in it.
fn check(name: &str, error: &Error, kind: ErrorKind, varying: &[(&str, &str)]) {
    assert_eq!(error.kind(), kind, "{error}");
    let mut text = format!("{error}\n");
    for (value, placeholder) in varying {
        text = text.replace(value, placeholder);
    }
    assert!(!text.contains("secret"), "{text}");
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/servers/errors/{name}.txt"));
    if std::env::var_os("SWITCHBOARD_WRITE").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, expected, "{}", file.display());
}

async fn refused(url: &str) -> Error {
    RedisTransport::connect(url)
        .await
        .expect_err("it is refused")
}

#[tokio::test]
async fn a_wrong_password() {
    let server = Server::start(&["--requirepass", "right"]).unwrap();
    let host = format!("127.0.0.1:{}", server.port);
    let wrong = refused(&format!("redis://anna:secret@{host}")).await;
    let kind = ErrorKind::Authentication;
    check("wrong_password", &wrong, kind, &[(&host, "HOST")]);
    let none = refused(&format!("redis://{host}")).await;
    check("no_password", &none, kind, &[(&host, "HOST")]);
    RedisTransport::connect(&format!("redis://:right@{host}"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_user_without_the_rights() {
    let server = Server::start(&[]).unwrap();
    let rules = [
        "ACL", "SETUSER", "shop", "on", ">secret", "~*", "+ping", "+hello", "+client",
    ];
    server.ask(&rules).unwrap();
    let host = format!("127.0.0.1:{}", server.port);
    let error = refused(&format!("redis://shop:secret@{host}")).await;
    check(
        "no_rights",
        &error,
        ErrorKind::Permission,
        &[(&host, "HOST")],
    );
}

#[tokio::test]
async fn a_database_that_does_not_exist() {
    let server = Server::start(&[]).unwrap();
    let host = format!("127.0.0.1:{}", server.port);
    let error = refused(&format!("redis://{host}/77")).await;
    check(
        "no_database",
        &error,
        ErrorKind::NotFound,
        &[(&host, "HOST")],
    );
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    let address = format!("127.0.0.1:{}", crate::server::free_port().unwrap());
    let error = refused(&format!("redis://shop:secret@{address}")).await;
    let kind = ErrorKind::Connection;
    check("refused_connection", &error, kind, &[(&address, "HOST")]);
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_server_that_says_nothing() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let begun = Instant::now();
    let url = format!("redis://shop:secret@{address}?connection_timeout=300");
    let error = refused(&url).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    check(
        "silent_server",
        &error,
        ErrorKind::Connection,
        &[(&address, "HOST")],
    );
}

#[tokio::test]
async fn a_server_without_tls() {
    let server = Server::start(&[]).unwrap();
    let host = format!("127.0.0.1:{}", server.port);
    let url = format!("rediss://shop:secret@{host}?connection_timeout=500");
    let error = refused(&url).await;
    check("no_tls", &error, ErrorKind::Connection, &[(&host, "HOST")]);
}

#[tokio::test]
async fn a_server_that_forgets() {
    let server = Server::start(&["--maxmemory-policy", "allkeys-lru"]).unwrap();
    let host = format!("127.0.0.1:{}", server.port);
    let error = refused(&format!("redis://{host}?require_durable")).await;
    check("not_durable", &error, ErrorKind::Setup, &[(&host, "HOST")]);
    // Otherwise it is used, and warned of.
    RedisTransport::connect(&server.url()).await.unwrap();
    let durable = Server::start(&["--appendonly", "yes"]).unwrap();
    let url = format!("{}?require_durable", durable.url());
    RedisTransport::connect(&url).await.unwrap();
}

#[tokio::test]
async fn a_queue_declared_with_other_arguments() {
    let server = Server::start(&[]).unwrap();
    let transport = RedisTransport::connect(&server.url()).await.unwrap();
    let mut spec = QueueSpec::new("billing_order".parse().unwrap());
    let topology = |spec: &QueueSpec| Topology {
        exchanges: Vec::new(),
        queues: vec![spec.clone()],
    };
    transport.declare(&topology(&spec)).await.unwrap();
    spec.max_length = Some(5);
    let error = transport.declare(&topology(&spec)).await.unwrap_err();
    check("mismatch", &error, ErrorKind::Mismatch, &[]);
}

#[tokio::test]
async fn an_event_that_no_queue_is_bound_for() {
    let server = Server::start(&[]).unwrap();
    let bus = Bus::new(RedisTransport::connect(&server.url()).await.unwrap());
    let message = Message::new(
        ExchangeName::checked("order"),
        RoutingKey::checked("order.v1.submit"),
        "{}",
    );
    let message = message.with_mandatory(true);
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut results = bus.transport().publish(vec![message], deadline).await;
    let error = results.remove(0).unwrap_err();
    check("unroutable", &error, ErrorKind::Unroutable, &[]);
}

#[tokio::test]
async fn a_server_without_memory() {
    let server = Server::start(&["--maxmemory", "1"]).unwrap();
    let transport = RedisTransport::connect(&server.url()).await.unwrap();
    let message = Message::new(
        ExchangeName::checked("order"),
        RoutingKey::checked("order.v1.submit"),
        "{}",
    );
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut results = transport.publish(vec![message], deadline).await;
    let error = results.remove(0).unwrap_err();
    check("no_memory", &error, ErrorKind::Overloaded, &[]);
}
