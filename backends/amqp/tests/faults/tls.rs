//! Connections with TLS: whom both sides trust.

use std::{error::Error as _, net::TcpListener};

use event_amqp::AmqpTransport;
use event_conformance::{Authority, Broker, CaseResult, Failure, ensure, ensure_eq, faults};
use event_core::{Error, ErrorKind};

use crate::stage::{RABBITMQ, ctl, on_own_rabbitmq};

/// Has a broker listen with its certificate on a port more, and answers which.
async fn listen(authority: &Authority, broker: &Broker, verify: &str) -> CaseResult<u16> {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let file = |name| format!("{:?}", authority.file(name));
    let listen = format!(
        "rabbit_networking:start_ssl_listener({{\"127.0.0.1\", {port}}}, [{{cacertfile, {}}}, {{certfile, {}}}, \
         {{keyfile, {}}}, {verify}], 1).",
        file("ca.pem"),
        file("server.pem"),
        file("server.key")
    );
    ctl(broker, &["eval", &listen]).await?;
    Ok(port)
}

/// Publishes an order and consumes it.
async fn carries_an_order(url: &str, prefix: &str) -> CaseResult {
    faults::carries_an_order(&RABBITMQ.context(url, prefix).await?).await
}

/// What a connection fails with that must not be made; with all its causes.
async fn refused(url: &str) -> CaseResult<(Error, String)> {
    let Err(error) = AmqpTransport::connect(url).await else {
        return Err(Failure::new(format!("it was not refused: {url}")));
    };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    eprintln!("{url}: {text}");
    ensure_eq!(error.kind(), ErrorKind::Tls, "kind of: {text}");
    ensure!(!text.contains("guest:guest"), "a password: {text}");
    Ok((error, text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_needs_an_authority_that_both_sides_trust() -> CaseResult {
    let nothing = async |_: &_| Ok(());
    on_own_rabbitmq("tls", nothing, async |_, broker| {
        let authority = Authority::new(broker.folder())?;
        authority.sign("server", "localhost")?;
        authority.sign("client", "billing")?;
        let open = listen(&authority, broker, "{verify, verify_none}").await?;
        let demanding = "{verify, verify_peer}, {fail_if_no_peer_cert, true}";
        let demanding = listen(&authority, broker, demanding).await?;
        let ca = format!("?cacertfile={}", authority.file("ca.pem"));
        let client = format!(
            "{ca}&certfile={}&keyfile={}",
            authority.file("client.pem"),
            authority.file("client.key")
        );
        let url = |host: &str, port: u16, options: &str| {
            format!("amqps://guest:guest@{host}:{port}{options}")
        };

        carries_an_order(&url("localhost", open, &ca), "tls.open.").await?;
        carries_an_order(&url("localhost", demanding, &client), "tls.demanding.").await?;

        let (error, text) = refused(&url("localhost", open, "")).await?;
        ensure!(error.to_string().contains("`cacertfile`"), "{text}");
        ensure!(text.contains("UnknownIssuer"), "{text}");
        let (error, text) = refused(&url("127.0.0.1", open, &ca)).await?;
        ensure!(error.to_string().contains("the host name"), "{text}");
        ensure!(text.contains("not valid for name"), "{text}");
        let (error, text) = refused(&url("localhost", demanding, &ca)).await?;
        ensure!(error.to_string().contains("`certfile`"), "{text}");
        Ok(())
    })
    .await
}
