//! `amqp://` and `amqps://` URLs, with several hosts and options.

use std::{fmt, fs, time::Duration};

use event_core::{Error, ErrorKind, Result};
use lapin::{
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism},
};
use percent_encoding::percent_decode_str;

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
        let (scheme, rest) = match url.split_once("://") {
            Some(("amqp", rest)) => (AMQPScheme::AMQP, rest),
            Some(("amqps", rest)) => (AMQPScheme::AMQPS, rest),
            _ => return Err(wrong("it does not begin with `amqp://` or `amqps://`")),
        };
        if rest.contains('#') {
            return Err(wrong(
                "it contains `#`; write it as `%23` in a user, a password or a vhost",
            ));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if query.contains('@') {
            return Err(wrong(
                "there is an `@` behind the `?`; write `?` as `%3F` in a user or a password",
            ));
        }
        let (authority, vhost) = match rest.split_once('/') {
            Some((authority, vhost)) => (authority, vhost),
            None => (rest, ""),
        };
        if vhost.contains('@') {
            return Err(wrong(
                "there is an `@` behind the host; write `/` as `%2F` in a user or a password, and `@` as `%40` in a \
                 vhost",
            ));
        }
        if vhost.contains('/') {
            return Err(wrong(
                "there is a `/` after the vhost; write it as `%2F` in a user, a password or a vhost",
            ));
        }
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let (name, password) = match user {
            None => ("guest", "guest"),
            Some(user) => user.split_once(':').unwrap_or((user, "")),
        };
        let mut endpoints = Self {
            hosts: hosts
                .split(',')
                .map(|host| host_and_port(host, &scheme))
                .collect::<Result<_>>()?,
            user: AMQPUserInfo {
                username: decode(name, "user")?,
                password: decode(password, "password")?,
            },
            vhost: match decode(vhost, "vhost")? {
                // A vhost without a name is of no use to anybody; a URL that ends with a slash is common.
                empty if empty.is_empty() => "/".to_owned(),
                vhost => vhost,
            },
            scheme,
            heartbeat: 10,
            mechanism: None,
            connection_timeout: Duration::from_secs(5),
            consumer_timeout: Duration::from_secs(30 * 60),
            tls: Tls::default(),
        };
        endpoints.options(query)?;
        Ok(endpoints)
    }

    fn options(&mut self, query: &str) -> Result<()> {
        let (mut certificate, mut key) = (None, None);
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = decode(value, name)?;
            let number = |least: u64, most: u64| match value.parse::<u64>() {
                Ok(number) if (least..=most).contains(&number) => Ok(number),
                _ => Err(wrong(&format!(
                    "`{name}` is a number from {least} to {most}"
                ))),
            };
            match name {
                // 0 would switch it off, and a peer that is gone would be noticed after hours.
                "heartbeat" => {
                    self.heartbeat = u16::try_from(number(1, 3_600)?).unwrap_or(u16::MAX);
                }
                "connection_timeout" => {
                    self.connection_timeout = Duration::from_millis(number(1, 600_000)?);
                }
                "consumer_timeout" => {
                    self.consumer_timeout = Duration::from_millis(number(1_000, u64::MAX)?);
                }
                "cacertfile" => self.tls.ca = Some(read(name, &value)?),
                "certfile" => certificate = Some(read(name, &value)?),
                "keyfile" => key = Some(read(name, &value)?),
                "auth_mechanism" => {
                    let mechanism = match value.as_str() {
                        "plain" => SASLMechanism::Plain,
                        "amqplain" => SASLMechanism::AMQPlain,
                        "external" => SASLMechanism::External,
                        _ => {
                            return Err(wrong(
                                "`auth_mechanism` is `plain`, `amqplain` or `external`",
                            ));
                        }
                    };
                    self.mechanism = Some(mechanism);
                }
                _ => {
                    let shown: String = name.chars().take(40).collect();
                    return Err(wrong(&format!(
                        "`{}` is not an option; there are {}",
                        shown.escape_debug(),
                        OPTIONS.map(|option| format!("`{option}`")).join(", ")
                    )));
                }
            }
        }
        self.tls.certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(wrong("`certfile` and `keyfile` go together")),
        };
        let has_tls = self.tls.ca.is_some() || self.tls.certificate.is_some();
        if has_tls && self.scheme == AMQPScheme::AMQP {
            return Err(wrong("certificates need `amqps://`"));
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

fn host_and_port(text: &str, scheme: &AMQPScheme) -> Result<(String, u16)> {
    let wrong_host = || wrong("a host is a name or an address, an IPv6 address in brackets");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong_host)?;
            (host, rest.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if !host.chars().all(legal) {
        return Err(wrong_host());
    }
    let port = match port {
        None => scheme.default_port(),
        // Not repeated: behind a password with a `/` in it, this may be a piece of it.
        Some(port) => port.parse().map_err(|_| {
            wrong("a port is a number up to 65535 (if a password contains `/`, write it as `%2F`)")
        })?,
    };
    let host = if host.is_empty() { "localhost" } else { host };
    Ok((host.to_owned(), port))
}

fn decode(text: &str, what: &str) -> Result<String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(wrong(&format!("its {what} is not UTF-8"))),
    }
}

fn read(option: &str, path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|error| {
        wrong(&format!("the file `{path}` of `{option}` cannot be read")).with_source(error)
    })
}

/// The URL itself is not shown: it may hold a password.
fn wrong(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidUrl,
        format!(
            "not a URL for RabbitMQ: {what}; write it as `amqp://user:password@host:5672/vhost`, with more \
             hosts after commas"
        ),
    )
}

#[cfg(test)]
mod tests {
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
