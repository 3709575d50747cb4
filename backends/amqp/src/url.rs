//! `amqp://` and `amqps://` URLs, with several hosts and options.

use std::{fmt, time::Duration};

use event_core::{BrokerUrl, Result, UrlForm};
use lapin::{
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism},
};

const FORM: UrlForm = UrlForm {
    broker: "RabbitMQ",
    schemes: &["amqp", "amqps"],
    example: "`amqp://user:password@host:5672/vhost`, with more hosts after commas",
};

/// What a URL says. Its `Debug` and everything else that is shown leave the password out.
#[derive(Clone)]
pub(crate) struct Endpoints {
    hosts: Vec<(String, u16)>,
    user: AMQPUserInfo,
    scheme: AMQPScheme,
    vhost: String,
    heartbeat: u16,
    mechanism: Option<SASLMechanism>,
    pub(crate) connection_timeout: Duration,
    /// How long the server lets a delivery be unsettled before it closes the channel.
    pub(crate) consumer_timeout: Duration,
    tls: Tls,
}

#[derive(Clone, Default)]
struct Tls {
    ca: Option<String>,
    certificate: Option<(String, String)>,
}

const OPTIONS: [&str; 7] = [
    "heartbeat",
    "connection_timeout",
    "consumer_timeout",
    "cacertfile",
    "certfile",
    "keyfile",
    "auth_mechanism",
];

impl Endpoints {
    /// Reads a URL, and the files that it names.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let url = FORM.parse(url)?;
        let scheme = match url.scheme() {
            "amqps" => AMQPScheme::AMQPS,
            _ => AMQPScheme::AMQP,
        };
        if url.is_nested() {
            return Err(url.wrong(
                "there is a `/` after the vhost; write it as `%2F` in a user, a password or a vhost",
            ));
        }
        let (username, password) = match (url.user(), url.password()) {
            (None, _) => ("guest", "guest"),
            (Some(user), password) => (user, password.unwrap_or_default()),
        };
        let port = scheme.default_port();
        let hosts = url.hosts().iter();
        let mut endpoints = Self {
            hosts: hosts
                .map(|(host, given)| (host.clone(), given.unwrap_or(port)))
                .collect(),
            user: AMQPUserInfo {
                username: username.to_owned(),
                password: password.to_owned(),
            },
            vhost: match url.path() {
                // A vhost without a name is of no use to anybody; a URL that ends with a slash is common.
                "" => "/".to_owned(),
                vhost => vhost.to_owned(),
            },
            scheme,
            heartbeat: 10,
            mechanism: None,
            connection_timeout: Duration::from_secs(5),
            consumer_timeout: Duration::from_secs(30 * 60),
            tls: Tls::default(),
        };
        endpoints.options(&url)?;
        Ok(endpoints)
    }

    fn options(&mut self, url: &BrokerUrl) -> Result<()> {
        let (mut certificate, mut key) = (None, None);
        for option in url.options(&OPTIONS)? {
            match option.name() {
                // 0 would switch it off, and a peer that is gone would be noticed after hours.
                "heartbeat" => {
                    self.heartbeat = u16::try_from(option.number(1, 3_600)?).unwrap_or(u16::MAX);
                }
                "connection_timeout" => {
                    self.connection_timeout = Duration::from_millis(option.number(1, 600_000)?);
                }
                "consumer_timeout" => {
                    self.consumer_timeout = Duration::from_millis(option.number(1_000, u64::MAX)?);
                }
                "cacertfile" => self.tls.ca = Some(option.file()?),
                "certfile" => certificate = Some(option.file()?),
                "keyfile" => key = Some(option.file()?),
                // The last of those that are known.
                _ => {
                    let mechanism = match option.text() {
                        "plain" => SASLMechanism::Plain,
                        "amqplain" => SASLMechanism::AMQPlain,
                        "external" => SASLMechanism::External,
                        _ => {
                            return Err(
                                url.wrong("`auth_mechanism` is `plain`, `amqplain` or `external`")
                            );
                        }
                    };
                    self.mechanism = Some(mechanism);
                }
            }
        }
        self.tls.certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(url.wrong("`certfile` and `keyfile` go together")),
        };
        let has_tls = self.tls.ca.is_some() || self.tls.certificate.is_some();
        if has_tls && self.scheme == AMQPScheme::AMQP {
            return Err(url.wrong("certificates need `amqps://`"));
        }
        Ok(())
    }

    /// How many hosts there are; at least one.
    pub(crate) fn len(&self) -> usize {
        self.hosts.len()
    }

    /// One of the hosts, counted around, for people.
    pub(crate) fn host(&self, at: usize) -> String {
        let (host, port) = &self.hosts[at % self.hosts.len()];
        format!("{host}:{port}")
    }

    /// How to reach one of the hosts, counted around.
    pub(crate) fn uri(&self, at: usize) -> AMQPUri {
        let (host, port) = self.hosts[at % self.hosts.len()].clone();
        AMQPUri {
            scheme: self.scheme.clone(),
            authority: AMQPAuthority {
                userinfo: self.user.clone(),
                host,
                port,
            },
            vhost: self.vhost.clone(),
            query: AMQPQueryString {
                heartbeat: Some(self.heartbeat),
                auth_mechanism: self.mechanism,
                ..AMQPQueryString::default()
            },
        }
    }

    /// Certificates for the handshake; nothing for a connection without TLS.
    pub(crate) fn tls(&self) -> Option<OwnedTLSConfig> {
        (self.scheme == AMQPScheme::AMQPS).then(|| OwnedTLSConfig {
            identity: self.tls.certificate.as_ref().map(|(certificate, key)| {
                OwnedIdentity::PKCS8 {
                    pem: certificate.clone().into_bytes(),
                    key: key.clone().into_bytes(),
                }
            }),
            cert_chain: self.tls.ca.clone(),
        })
    }

    pub(crate) fn user(&self) -> &str {
        &self.user.username
    }

    pub(crate) fn vhost(&self) -> &str {
        &self.vhost
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints")
            .field("hosts", &self.hosts)
            .field("user", &self.user.username)
            .field("vhost", &self.vhost)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use event_core::ErrorKind;

    use super::*;

    #[test]
    fn a_short_url_has_the_defaults() {
        for url in [
            "amqp://localhost",
            "amqp://",
            "amqp://localhost/",
            "amqp://guest:guest@:5672/%2f",
        ] {
            let endpoints = Endpoints::parse(url).unwrap();
            let uri = endpoints.uri(0);
            assert_eq!(uri.authority.host, "localhost", "{url}");
            assert_eq!((uri.authority.port, uri.vhost.as_str()), (5672, "/"));
            assert_eq!(uri.authority.userinfo.password, "guest");
            assert_eq!(uri.query.heartbeat, Some(10));
            assert_eq!(endpoints.connection_timeout, Duration::from_secs(5));
            assert!(endpoints.tls().is_none());
        }
    }

    #[test]
    fn everything_can_be_said() {
        let url = "amqps://anna:s%2Fe%40cret@one,two:5673,[::1]:5674/shop?heartbeat=5&connection_timeout=250";
        let endpoints = Endpoints::parse(url).unwrap();
        assert_eq!(endpoints.len(), 3);
        let hosts: Vec<_> = (0..4).map(|at| endpoints.host(at)).collect();
        assert_eq!(hosts, ["one:5671", "two:5673", "::1:5674", "one:5671"]);
        let uri = endpoints.uri(1);
        assert_eq!(uri.authority.userinfo.password, "s/e@cret");
        assert_eq!((uri.vhost.as_str(), uri.query.heartbeat), ("shop", Some(5)));
        assert!(endpoints.tls().is_some());
        assert!(!format!("{endpoints:?}").contains("cret"));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (url, what) in [
            ("redis://localhost", "does not begin"),
            ("amqp://anna:se/cret@host/vhost", "%2F"),
            ("amqp://anna:se#cret@host/vhost", "%23"),
            ("amqp://anna:12?cret@host/v", "%3F"),
            ("amqp://anna:12/cret@host", "%2F"),
            ("amqp://anna:12/cret@host/v", "%2F"),
            ("amqp://anna:secret@host:70000", "port"),
            ("amqp://anna:secret@ho st", "host"),
            ("amqp://anna:secret@host/a/b", "%2F"),
            ("amqp://anna:secret@host?prefetch=5", "`heartbeat`"),
            ("amqp://anna:secret@host?heartbeat=0", "from 1 to 3600"),
            ("amqp://anna:secret@host?heartbeat=x", "number"),
            ("amqps://anna:secret@host?certfile=/dev/null", "together"),
            ("amqp://anna:secret@host?cacertfile=/dev/null", "amqps"),
            (
                "amqps://anna:secret@host?cacertfile=/no/such.pem",
                "/no/such.pem",
            ),
            ("amqp://anna:%ff@host", "UTF-8"),
        ] {
            let error = Endpoints::parse(url).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{url}");
            assert!(text.contains(what), "{url}: {text}");
            assert!(!text.contains("cret"), "{text}");
        }
    }
}
