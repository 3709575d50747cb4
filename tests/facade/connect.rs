//! Opening a bus by URL and by the environment.

use crate::process;
use switchboard::{ConnectionState, ErrorKind, connect, connect_from_env};

async fn refusal(url: &str) -> String {
    let error = connect(url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{url}");
    error.to_string()
}

#[tokio::test]
async fn the_scheme_picks_the_broker() {
    for url in ["memory://", "memory://orders"] {
        let bus = connect(url).await.unwrap();
        assert_eq!(bus.capabilities().backend(), "memory", "{url}");
        assert_eq!(*bus.state().borrow(), ConnectionState::Connected);
    }
}

#[tokio::test]
async fn a_named_memory_broker_is_shared() {
    let (one, two) = (
        connect("memory://shared").await.unwrap(),
        connect("memory://shared").await.unwrap(),
    );
    let fresh = connect("memory://").await.unwrap();
    let mut topology = switchboard::Topology::default();
    topology.queues.push(switchboard::QueueSpec::new(
        "billing_order".parse().unwrap(),
    ));
    one.topology().declare(&topology).await.unwrap();
    assert!(two.dead_letters("billing_order").await.is_ok());
    assert_eq!(
        fresh
            .dead_letters("billing_order")
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn an_unknown_scheme_lists_the_known_ones() {
    let text = refusal("nats://localhost").await;
    assert!(
        text.starts_with("`nats` is not a known scheme; use one of `memory`"),
        "{text}"
    );
}

#[tokio::test]
async fn a_password_is_never_printed() {
    for url in [
        "shop:hunter2@localhost",
        "amqp://shop:hunter2@localhost",
        "memory://shop:hunter2@x",
        "x://a:hunter2@b",
    ] {
        let error = connect(url).await.unwrap_err();
        let texts = [error.to_string(), format!("{error:?}")];
        assert!(
            texts.iter().all(|text| !text.contains("hunter2")),
            "{texts:?}"
        );
    }
}

#[tokio::test]
async fn the_environment_names_the_url() {
    if !process::is_child("connect::the_environment_names_the_url") {
        return process::run(
            "connect::the_environment_names_the_url",
            Some("nats://nowhere"),
        );
    }
    let error = connect_from_env().await.unwrap_err();
    assert!(error.to_string().contains("`nats`"), "{error}");
}

#[tokio::test]
async fn without_a_url_it_is_the_only_broker() {
    if !process::is_child("connect::without_a_url_it_is_the_only_broker") {
        return process::run("connect::without_a_url_it_is_the_only_broker", None);
    }
    let brokers = [
        (cfg!(feature = "amqp"), "amqp", "RabbitMQ at localhost:5672"),
        (cfg!(feature = "redis"), "redis", "Redis at localhost:6379"),
        (cfg!(feature = "kafka"), "kafka", "Kafka at localhost:9092"),
    ];
    let compiled: Vec<_> = brokers.iter().filter(|(is_in, ..)| *is_in).collect();
    let (expected, place) = match compiled[..] {
        [] => ("memory", "memory".to_owned()),
        [(_, name, place)] => (*name, (*place).to_owned()),
        ref several => {
            let urls = several
                .iter()
                .map(|(_, name, _)| format!("`{name}://localhost`"));
            ("none", urls.collect::<Vec<_>>().join(" or "))
        }
    };
    match connect_from_env().await {
        Ok(bus) => assert_eq!(bus.capabilities().backend(), expected),
        // None runs on this machine, where it was looked for; or it is not known which is meant.
        Err(error) => assert!(error.to_string().contains(&place), "{error}"),
    }
}
