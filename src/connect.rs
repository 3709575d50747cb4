//! Opening a bus by URL.

use event_core::{Bus, Error, ErrorKind, Result};

/// What a URL scheme needs.
struct Scheme {
    name: &'static str,
    feature: &'static str,
}

const SCHEMES: &[Scheme] = &[
    Scheme {
        name: "memory",
        feature: "memory",
    },
    Scheme {
        name: "amqp",
        feature: "amqp",
    },
    Scheme {
        name: "amqps",
        feature: "amqp",
    },
    Scheme {
        name: "redis",
        feature: "redis",
    },
    Scheme {
        name: "rediss",
        feature: "redis",
    },
    Scheme {
        name: "redis+unix",
        feature: "redis",
    },
    Scheme {
        name: "kafka",
        feature: "kafka",
    },
];

/// The environment variable that [`connect_from_env`] reads.
pub const URL_VARIABLE: &str = "SWITCHBOARD_URL";

/// Opens a bus: the scheme of the URL says which broker it is.
///
/// | URL | broker | feature |
/// | --- | --- | --- |
/// | `memory://` | a fresh broker in this process, for tests and trying things out | `memory` |
/// | `memory://name` | the same, shared within the process by its name | `memory` |
/// | `amqp://user:password@host:5672/vhost`, `amqps://…` | RabbitMQ; more hosts after commas, options after `?` | `amqp` |
/// | `redis://user:password@host:6379/0`, `rediss://…`, `redis+unix:///path` | Redis, Sentinel or Cluster; more hosts after commas, options after `?` | `redis` |
/// | `kafka://user:password@host:9092,host:9092` | Apache Kafka; options after `?`, among them `tls` | `kafka`, with TLS `kafka-tls` |
///
/// # Errors
/// [`ErrorKind::InvalidUrl`] when the URL does not parse or its scheme is unknown, or which feature to add
/// when the scheme's backend is not compiled in; and those of connecting to the broker. A password in the URL is
/// never part of a message.
pub async fn connect(url: &str) -> Result<Bus> {
    let Some((scheme, _)) = url.split_once("://") else {
        return Err(invalid(format!(
            "`{}` is not a broker URL; write it as `memory://name`",
            redact(url)
        )));
    };
    match scheme {
        #[cfg(feature = "memory")]
        "memory" => Ok(Bus::new(event_memory::MemoryTransport::open(url)?)),
        #[cfg(feature = "amqp")]
        "amqp" | "amqps" => Ok(Bus::new(event_amqp::AmqpTransport::connect(url).await?)),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redis+unix" => {
            Ok(Bus::new(event_redis::RedisTransport::connect(url).await?))
        }
        #[cfg(feature = "kafka")]
        "kafka" => Ok(Bus::new(event_kafka::KafkaTransport::connect(url).await?)),
        _ => Err(unavailable(scheme)),
    }
}

/// Opens a bus by the URL in the environment variable `SWITCHBOARD_URL`.
///
/// Without it: if exactly one broker is compiled in (memory does not count), that broker on this machine;
/// if none is, `memory://`.
///
/// # Errors
/// As [`connect`]; and when several brokers are compiled in and the variable is not set.
pub async fn connect_from_env() -> Result<Bus> {
    match std::env::var(URL_VARIABLE) {
        Ok(url) => connect(&url).await,
        Err(std::env::VarError::NotPresent) => connect(only_broker(&compiled())?).await,
        Err(std::env::VarError::NotUnicode(_)) => Err(invalid(format!(
            "`{URL_VARIABLE}` is not UTF-8; write it as `memory://name`"
        ))),
    }
}

/// The brokers that are compiled in, as URLs of this machine. Memory does not count: it is for trying things out.
fn compiled() -> Vec<&'static str> {
    let brokers = [
        (cfg!(feature = "amqp"), "amqp://localhost"),
        (cfg!(feature = "redis"), "redis://localhost"),
        (cfg!(feature = "kafka"), "kafka://localhost"),
    ];
    let present = brokers.into_iter().filter(|(present, _)| *present);
    present.map(|(_, url)| url).collect()
}

/// Which broker is meant when nothing says so.
fn only_broker(compiled: &[&'static str]) -> Result<&'static str> {
    match compiled {
        [] => Ok("memory://"),
        [only] => Ok(only),
        several => Err(invalid(format!(
            "several brokers are compiled in; say which by setting `{URL_VARIABLE}`, for example to {}",
            several
                .iter()
                .map(|url| format!("`{url}`"))
                .collect::<Vec<_>>()
                .join(" or ")
        ))),
    }
}

fn unavailable(scheme: &str) -> Error {
    let Some(known) = SCHEMES.iter().find(|known| known.name == scheme) else {
        let names: Vec<_> = SCHEMES
            .iter()
            .map(|known| format!("`{}`", known.name))
            .collect();
        let shown: String = scheme.chars().take(20).collect();
        return invalid(format!(
            "`{}` is not a known scheme; use one of {}",
            shown.escape_debug(),
            names.join(", ")
        ));
    };
    invalid(format!(
        "`{scheme}://` needs the feature `{}`; add it to `switchboard` in Cargo.toml",
        known.feature
    ))
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::InvalidUrl, text)
}

/// Anything before an `@` may be a password.
fn redact(url: &str) -> String {
    let shown = url
        .rsplit_once('@')
        .map_or_else(|| url.to_owned(), |(_, host)| format!("…@{host}"));
    shown.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broker_is_meant_and_several_are_not() {
        assert_eq!(only_broker(&[]).unwrap(), "memory://");
        assert_eq!(
            only_broker(&["amqp://localhost"]).unwrap(),
            "amqp://localhost"
        );
        let several = ["amqp://localhost", "redis://localhost", "kafka://localhost"];
        let text = only_broker(&several).unwrap_err().to_string();
        assert!(
            text.contains(URL_VARIABLE)
                && text
                    .contains("`amqp://localhost` or `redis://localhost` or `kafka://localhost`"),
            "{text}"
        );
    }

    #[test]
    fn a_scheme_that_is_not_compiled_in_names_its_feature() {
        for (scheme, feature) in [
            ("amqps", "amqp"),
            ("redis+unix", "redis"),
            ("kafka", "kafka"),
        ] {
            let text = unavailable(scheme).to_string();
            let needed = format!("`{scheme}://` needs the feature `{feature}`; add it");
            assert!(text.contains(&needed), "{text}");
        }
    }
}
