//! `redis://` and `rediss://` URLs.

use std::{fmt, time::Duration};

use event_core::{BrokerUrl, Result, UrlForm};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, TlsCertificates,
};

const FORM: UrlForm = UrlForm {
    broker: "Redis",
    schemes: &["redis", "rediss", "redis+unix"],
    example: "`redis://user:password@host:6379/0`, with more hosts after commas for `?cluster` or \
              `?sentinel=name`, or `redis+unix:///path?db=0`",
};

const OPTIONS: [&str; 15] = [
    "cacertfile",
    "certfile",
    "cluster",
    "connection_timeout",
    "db",
    "heartbeat",
    "keyfile",
    "max_message",
    "prefix",
    "require_durable",
    "sentinel",
    "sentinel_password",
    "sentinel_user",
    "wait",
    "wait_timeout",
];

/// What a URL says. Its `Debug` and everything else that is shown leave the passwords out.
#[derive(Clone)]
pub(crate) struct Endpoints {
    pub(crate) hosts: Vec<(String, u16)>,
    /// The path of a socket, instead of hosts.
    pub(crate) socket: Option<String>,
    pub(crate) layout: Layout,
    user: Option<String>,
    password: Option<String>,
    sentinel_user: Option<String>,
    sentinel_password: Option<String>,
    db: i64,
    tls: Option<TlsCertificates>,
    pub(crate) prefix: String,
    /// How many replicas have to have a publish.
    pub(crate) wait: u32,
    pub(crate) wait_timeout: Duration,
    pub(crate) require_durable: bool,
    pub(crate) connection_timeout: Duration,
    /// A peer that is silent for twice as long is gone.
    pub(crate) heartbeat: Duration,
    /// The most bytes that a payload may have, if that was set.
    pub(crate) max_message: Option<u64>,
}

/// How the servers belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// The first host that answers.
    Standalone,
    /// The hosts are Sentinels, which know the master of this name.
    Sentinel(String),
    /// The hosts are nodes of a Redis Cluster.
    Cluster,
}

impl Endpoints {
    /// Reads a URL, and the files that it names.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let url = FORM.parse(text)?;
        let with_socket = url.scheme() == "redis+unix";
        let mut endpoints = Self {
            hosts: Vec::new(),
            socket: with_socket.then(|| format!("/{}", url.path())),
            layout: Layout::Standalone,
            user: url
                .user()
                .filter(|user| !user.is_empty())
                .map(str::to_owned),
            password: url.password().map(str::to_owned),
            sentinel_user: None,
            sentinel_password: None,
            db: 0,
            tls: None,
            prefix: "switchboard".to_owned(),
            wait: 0,
            wait_timeout: Duration::from_secs(1),
            require_durable: false,
            connection_timeout: Duration::from_secs(5),
            heartbeat: Duration::from_secs(5),
            max_message: None,
        };
        if !with_socket && !url.path().is_empty() {
            endpoints.db = database(&url, url.path())?;
        }
        endpoints.options(&url)?;
        if endpoints.layout == Layout::Cluster && endpoints.db != 0 {
            return Err(url.wrong("a cluster has no database but 0"));
        }
        if with_socket && endpoints.layout != Layout::Standalone {
            return Err(url.wrong("a socket is one server; leave out `cluster` and `sentinel`"));
        }
        let port = match endpoints.layout {
            Layout::Sentinel(_) => 26_379,
            _ => 6_379,
        };
        let hosts = url.hosts().iter();
        endpoints.hosts = hosts
            .map(|(host, given)| (host.clone(), given.unwrap_or(port)))
            .collect();
        Ok(endpoints)
    }

    fn options(&mut self, url: &BrokerUrl) -> Result<()> {
        let (mut ca, mut certificate, mut key) = (None, None, None);
        for option in url.options(&OPTIONS)? {
            match option.name() {
                "cacertfile" => ca = Some(option.file()?),
                "certfile" => certificate = Some(option.file()?),
                "keyfile" => key = Some(option.file()?),
                "cluster" if option.is_on()? => self.layout = Layout::Cluster,
                "sentinel" if option.text().is_empty() => {
                    return Err(url.wrong("`sentinel` is the name of the master"));
                }
                "sentinel" => self.layout = Layout::Sentinel(option.text().to_owned()),
                "sentinel_user" => self.sentinel_user = Some(option.text().to_owned()),
                "sentinel_password" => self.sentinel_password = Some(option.text().to_owned()),
                "connection_timeout" => {
                    self.connection_timeout = Duration::from_millis(option.number(1, 600_000)?);
                }
                "db" => self.db = database(url, option.text())?,
                "heartbeat" => self.heartbeat = Duration::from_secs(option.number(1, 3_600)?),
                "max_message" => self.max_message = Some(option.number(1, 512 << 20)?),
                "prefix" => self.prefix = prefix(url, option.text())?,
                "require_durable" => self.require_durable = option.is_on()?,
                "wait" => self.wait = u32::try_from(option.number(0, 100)?).unwrap_or(u32::MAX),
                "wait_timeout" => {
                    self.wait_timeout = Duration::from_millis(option.number(1, 600_000)?);
                }
                // Seen to be none.
                _ => {}
            }
        }
        let client = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(redis::ClientTlsConfig {
                client_cert: certificate.into_bytes(),
                client_key: key.into_bytes(),
            }),
            (None, None) => None,
            _ => return Err(url.wrong("`certfile` and `keyfile` go together")),
        };
        let has_certificates = ca.is_some() || client.is_some();
        if url.scheme() == "rediss" {
            self.tls = Some(TlsCertificates {
                client_tls: client,
                root_cert: ca.map(String::into_bytes),
            });
        } else if has_certificates {
            return Err(url.wrong("certificates need `rediss://`"));
        }
        Ok(())
    }

    /// A client for one server of ours.
    pub(crate) fn client(&self, host: &str, port: u16, resp3: bool) -> redis::RedisResult<Client> {
        let mut settings = RedisConnectionInfo::default()
            .set_db(self.db)
            // What is published to channels comes between the answers, which the older protocol does not know.
            .set_protocol(match resp3 {
                true => ProtocolVersion::RESP3,
                false => ProtocolVersion::RESP2,
            })
            .set_lib_name("switchboard", env!("CARGO_PKG_VERSION"));
        if let Some(user) = &self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        self.build(host, port, settings)
    }

    /// A client for a Sentinel, which has users of its own.
    pub(crate) fn sentinel(&self, host: &str, port: u16) -> redis::RedisResult<Client> {
        let mut settings = RedisConnectionInfo::default();
        if let Some(user) = &self.sentinel_user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.sentinel_password {
            settings = settings.set_password(password);
        }
        self.build(host, port, settings)
    }

    fn build(
        &self,
        host: &str,
        port: u16,
        settings: RedisConnectionInfo,
    ) -> redis::RedisResult<Client> {
        let addr = match (&self.socket, &self.tls) {
            (Some(path), _) => ConnectionAddr::Unix(path.into()),
            (None, None) => ConnectionAddr::Tcp(host.to_owned(), port),
            (None, Some(_)) => ConnectionAddr::TcpTls {
                host: host.to_owned(),
                port,
                insecure: false,
                tls_params: None,
            },
        };
        let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
        let info: ConnectionInfo = addr
            .into_connection_info()?
            .set_redis_settings(settings)
            .set_tcp_settings(tcp);
        match &self.tls {
            None => Client::open(info),
            Some(tls) => Client::build_with_tls(info, tls.clone()),
        }
    }

    pub(crate) fn user(&self) -> &str {
        self.user.as_deref().unwrap_or("default")
    }

    pub(crate) fn has_password(&self) -> bool {
        self.password.is_some()
    }

    pub(crate) fn db(&self) -> i64 {
        self.db
    }
}

fn database(url: &BrokerUrl, text: &str) -> Result<i64> {
    text.parse()
        .ok()
        .filter(|db| (0..=65_535).contains(db))
        .ok_or_else(|| url.wrong("the database is a number, 0 if there is none"))
}

/// Anything but what would end or begin the part of a key that decides about its slot.
fn prefix(url: &BrokerUrl, text: &str) -> Result<String> {
    let legal =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '/' | '~');
    if (1..=100).contains(&text.len()) && text.chars().all(legal) {
        return Ok(text.to_owned());
    }
    Err(url.wrong("`prefix` is 1 to 100 of `A-Z a-z 0-9 . _ - : / ~`"))
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints")
            .field("hosts", &self.hosts)
            .field("socket", &self.socket)
            .field("layout", &self.layout)
            .field("user", &self.user)
            .field("db", &self.db)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use event_core::ErrorKind;

    use super::*;

    #[test]
    fn a_short_url_has_the_defaults() {
        for url in ["redis://", "redis://localhost", "redis://localhost:6379/0"] {
            let endpoints = Endpoints::parse(url).unwrap();
            assert_eq!(endpoints.hosts, [("localhost".to_owned(), 6_379)], "{url}");
            assert_eq!((endpoints.db, endpoints.user()), (0, "default"));
            assert_eq!(endpoints.prefix, "switchboard");
            assert_eq!(endpoints.layout, Layout::Standalone);
        }
    }

    #[test]
    fn everything_can_be_said() {
        let url = "rediss://anna:s%2Fecret@one,two:7000/?sentinel=shop&wait=2&prefix=eu:shop&db=3&heartbeat=2";
        let endpoints = Endpoints::parse(url).unwrap();
        let hosts = [("one".to_owned(), 26_379), ("two".to_owned(), 7_000)];
        assert_eq!(endpoints.hosts, hosts);
        assert_eq!(endpoints.layout, Layout::Sentinel("shop".to_owned()));
        assert_eq!((endpoints.wait, endpoints.db), (2, 3));
        assert_eq!(endpoints.heartbeat, Duration::from_secs(2));
        assert!(!format!("{endpoints:?}").contains("secret"));
        let endpoints = Endpoints::parse("redis+unix:///run/redis.sock?db=2").unwrap();
        assert_eq!(endpoints.socket.as_deref(), Some("/run/redis.sock"));
        assert_eq!(endpoints.db, 2);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (url, what) in [
            ("amqp://localhost", "does not begin"),
            ("redis://:se/cret@host", "%2F"),
            ("redis://:secret@host/first", "database"),
            ("redis://:secret@host?prefix={a}", "prefix"),
            ("redis://:secret@host?sentinel", "name of the master"),
            ("redis://:secret@host/1?cluster", "no database but 0"),
            ("redis://:secret@host?keyfile=/dev/null", "together"),
            ("redis://:secret@host?cacertfile=/dev/null", "rediss"),
            ("redis://:secret@host?vhost=a", "`prefix`"),
            ("redis+unix:///run/a?cluster", "socket"),
        ] {
            let error = Endpoints::parse(url).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{url}");
            assert!(text.contains(what), "{url}: {text}");
            assert!(!text.contains("cret"), "{text}");
        }
    }
}
