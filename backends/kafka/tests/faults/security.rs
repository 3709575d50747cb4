//! Connections with TLS and with users: whom both sides trust, and what a user may do.

use std::{error::Error as _, fmt::Write as _, fs, net::TcpListener};

use event_conformance::{Authority, Broker, CaseResult, Failure, ensure, ensure_eq, faults};
use event_core::{Error, ErrorKind};
use event_kafka::KafkaTransport;

use crate::stage::KAFKA;

/// The ports of a Kafka that is secured.
struct Secured {
    /// TLS, and a user with a password.
    users: u16,
    /// TLS, and a certificate of the client's.
    certificates: u16,
}

/// Has a broker begin anew and listen on two ports more. `billing` and `shipping` may do everything, and `guest`
/// nothing; the password of `shipping` stands in the broker's own data.
async fn secure(authority: &Authority, broker: &Broker) -> CaseResult<Secured> {
    authority.sign("server", "localhost")?;
    authority.sign("client", "billing")?;
    let key = fs::read_to_string(authority.file("server.key"))?;
    let certificate = fs::read_to_string(authority.file("server.pem"))?;
    fs::write(authority.file("both.pem"), key + &certificate)?;
    // Ports that were free a moment ago.
    let free = || TcpListener::bind("127.0.0.1:0")?.local_addr();
    let (users, certificates) = (free()?.port(), free()?.port());
    let (plain, controller) = (broker.port("broker")?, broker.port("controller")?);
    let mut more = String::new();
    for (name, value) in [
        (
            "listeners",
            format!(
                "PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},USERS://127.0.0.1:{users},\
                 CERTIFICATES://127.0.0.1:{certificates}"
            ),
        ),
        (
            "advertised.listeners",
            format!(
                "PLAINTEXT://127.0.0.1:{plain},USERS://localhost:{users},CERTIFICATES://localhost:{certificates}"
            ),
        ),
        (
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,USERS:SASL_SSL,CERTIFICATES:SSL".to_owned(),
        ),
        ("ssl.keystore.type", "PEM".to_owned()),
        ("ssl.keystore.location", authority.file("both.pem")),
        ("ssl.truststore.type", "PEM".to_owned()),
        ("ssl.truststore.location", authority.file("ca.pem")),
        (
            "listener.name.certificates.ssl.client.auth",
            "required".to_owned(),
        ),
        ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-512".to_owned()),
        (
            "listener.name.users.scram-sha-512.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;".to_owned(),
        ),
        (
            "listener.name.users.plain.sasl.jaas.config",
            "org.apache.kafka.common.security.plain.PlainLoginModule required user_billing=\"s3cr3t\" \
             user_guest=\"s3cr3t\";"
                .to_owned(),
        ),
        (
            "authorizer.class.name",
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
        ),
        (
            "super.users",
            "User:ANONYMOUS;User:billing;User:shipping;User:CN=client".to_owned(),
        ),
    ] {
        writeln!(more, "{name}={value}")?;
    }
    let folder = broker.folder();
    fs::write(folder.join("more.properties"), more)?;
    let scram = "--add-scram SCRAM-SHA-512=[name=shipping,password=s3cr3t]";
    fs::write(folder.join("more.format"), scram)?;
    broker.kill().await?;
    fs::remove_file(folder.join("formatted"))?;
    broker.restart().await?;
    Ok(Secured {
        users,
        certificates,
    })
}

/// Publishes an order and consumes it.
async fn carries_an_order(url: &str, prefix: &str) -> CaseResult {
    faults::carries_an_order(&KAFKA.context(url, prefix).await?).await
}

/// What a connection fails with that must not be made; with all its causes.
async fn refused(url: &str, kind: ErrorKind) -> CaseResult<String> {
    // Without an answer it takes all of its time.
    let url = &format!("{url}&connection_timeout=2500");
    let Err(error) = KafkaTransport::connect(url).await else {
        return Err(Failure::new(format!("it was not refused: {url}")));
    };
    ensure_eq!(error.kind(), kind, "kind of: {error}");
    let text = with_causes(&error);
    eprintln!("{text}");
    ensure!(!text.contains("s3cr3t"), "a password: {text}");
    Ok(text)
}

fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_users_need_trust_and_rights() -> CaseResult {
    let broker = Broker::start("kafka").await?;
    let authority = Authority::new(broker.folder())?;
    let Secured {
        users,
        certificates,
    } = secure(&authority, &broker).await?;
    let ca = format!("tls&cacertfile={}", authority.file("ca.pem"));
    let client = format!(
        "{ca}&certfile={}&keyfile={}",
        authority.file("client.pem"),
        authority.file("client.key")
    );
    let url = |who: &str, host: &str, port: u16, options: &str| {
        format!("kafka://{who}{host}:{port}?{options}&partitions=1")
    };
    let user = "billing:s3cr3t@";

    carries_an_order(&url(user, "localhost", users, &ca), "user.").await?;
    carries_an_order(&url("", "localhost", certificates, &client), "client.").await?;
    let scram = format!("{ca}&sasl.mechanisms=SCRAM-SHA-512");
    let shipping = |password| url(&format!("shipping:{password}@"), "localhost", users, &scram);
    carries_an_order(&shipping("s3cr3t"), "scram.").await?;

    let text = refused(&url(user, "localhost", users, "tls"), ErrorKind::Tls).await?;
    ensure!(text.contains("`cacertfile`"), "{text}");
    let text = refused(&url(user, "127.0.0.1", users, &ca), ErrorKind::Tls).await?;
    ensure!(text.contains("the host name"), "{text}");
    let text = refused(&url("", "localhost", certificates, &ca), ErrorKind::Tls).await?;
    ensure!(text.contains("`certfile`"), "{text}");
    let wrong = url("billing:s3cr3tly@", "localhost", users, &ca);
    let text = refused(&wrong, ErrorKind::Authentication).await?;
    ensure!(text.contains("`billing`"), "{text}");
    let text = refused(&shipping("s3cr3tly"), ErrorKind::Authentication).await?;
    ensure!(text.contains("`shipping`"), "{text}");
    let nobody_asked = url(user, "localhost", certificates, &client);
    let text = refused(&nobody_asked, ErrorKind::Authentication).await?;
    ensure!(text.contains("asks for no user"), "{text}");
    let other = format!("{ca}&sasl.mechanisms=SCRAM-SHA-256");
    let other = url(user, "localhost", users, &other);
    let text = refused(&other, ErrorKind::Authentication).await?;
    ensure!(
        text.contains("to one of") && text.contains("SCRAM-SHA-512"),
        "{text}"
    );
    let nobody = url("", "localhost", users, &ca);
    let text = refused(&nobody, ErrorKind::Connection).await?;
    ensure!(text.contains("wants a user"), "{text}");
    let plain = url("", "localhost", certificates, "linger.ms=0");
    let text = refused(&plain, ErrorKind::Connection).await?;
    ensure!(text.contains("wants TLS"), "{text}");
    let guest = url("guest:s3cr3t@", "localhost", users, &ca);
    let text = refused(&guest, ErrorKind::Permission).await?;
    ensure!(text.contains("docs/kafka.md"), "{text}");
    Ok(())
}
