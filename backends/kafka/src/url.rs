//! `kafka://` URLs.

use std::{fmt, time::Duration};

use event_core::{BrokerUrl, Result, UrlForm};
use rdkafka::ClientConfig;

use crate::names;

const FORM: UrlForm = UrlForm {
    broker: "Kafka",
    schemes: &["kafka"],
    example: "`kafka://user:password@host:9092,host:9092/`",
};

const OPTIONS: [&str; 13] = [
    "cacertfile",
    "certfile",
    "connection_timeout",
    "default_key",
    "drain",
    "keyfile",
    "max_message",
    "partitions",
    "replication",
    "retention",
    "tls",
    "topic",
    "topology",
];

/// Settings of the client that are not the user's, and why.
const REFUSED: [(&str, &str); 34] = [
    ("acks", ALL),
    (
        "allow.auto.create.topics",
        "topics are created with a stated number of partitions",
    ),
    ("auto.commit.enable", COMMITS),
    ("auto.offset.reset", "it would skip records without a word"),
    (
        "batch.size",
        "a batch is as large as its topic allows: use `max_message`",
    ),
    ("bootstrap.servers", "the brokers are the hosts of the URL"),
    ("delivery.report.only.error", "every publish is confirmed"),
    (
        "delivery.timeout.ms",
        "use its other name, `message.timeout.ms`",
    ),
    ("enable.auto.commit", COMMITS),
    ("enable.auto.offset.store", COMMITS),
    (
        "enable.idempotence",
        "without it a repeated request stores a message twice and out of order",
    ),
    (
        "enable.partition.eof",
        "the ends of partitions are of no use to it",
    ),
    ("group.id", "the group of a queue has the queue's name"),
    (
        "group.instance.id",
        "a second process with the same one would end the first",
    ),
    ("group.protocol", "only the classic protocol was tried"),
    (
        "group.remote.assignor",
        "only the classic protocol was tried",
    ),
    (
        "heartbeat.interval.ms",
        "it follows from the lease of the queue",
    ),
    ("max.in.flight", ORDER),
    ("max.in.flight.requests.per.connection", ORDER),
    (
        "max.partition.fetch.bytes",
        "use its other name, `fetch.message.max.bytes`",
    ),
    ("message.max.bytes", "use `max_message`"),
    (
        "message.send.max.retries",
        "a publish is tried until its deadline",
    ),
    (
        "metadata.broker.list",
        "the brokers are the hosts of the URL",
    ),
    ("offset.store.method", COMMITS),
    ("offset.store.path", COMMITS),
    (
        "partition.assignment.strategy",
        "deliveries are given back partition by partition",
    ),
    (
        "partitioner",
        "a key has to be on the partition where other programs put it",
    ),
    (
        "plugin.library.paths",
        "a plug-in may change what is published and read",
    ),
    ("queue.buffering.max.ms", "use its other name, `linger.ms`"),
    ("request.required.acks", ALL),
    ("retries", "a publish is tried until its deadline"),
    ("sasl.mechanism", "use its other name, `sasl.mechanisms`"),
    (
        "session.timeout.ms",
        "it is the lease of the queue: use `Queue::lease`",
    ),
    ("transactional.id", "publishes are no transactions"),
];
const POLL: &str = "max.poll.interval.ms";
const ALL: &str = "a publish counts when all replicas in sync have it";
const COMMITS: &str = "what is done is committed after its handlers, never by itself";
const ORDER: &str = "the client keeps the order of messages with the number it chose";

/// What headers may add to the largest message.
const HEADROOM: usize = 64 * 1024;

/// What a URL says. Its `Debug` and everything else that is shown leave the password out.
#[derive(Clone)]
pub(crate) struct Endpoints {
    /// `host:port`, with commas in between.
    pub(crate) brokers: String,
    user: Option<String>,
    password: Option<String>,
    tls: bool,
    /// How topics of exchanges are called.
    pub(crate) topic: String,
    /// The topic that holds queues and bindings.
    pub(crate) topology: String,
    /// How many partitions the topic of an exchange is made with.
    pub(crate) partitions: i32,
    /// How many replicas topics are made with; the broker's default for exchanges, and three or as many as there are
    /// brokers for what belongs to queues, unless it is set.
    pub(crate) replication: Option<i32>,
    /// How long topics of exchanges keep records; what the broker says unless it is set.
    pub(crate) retention: Option<Duration>,
    /// The routing key of records that have none.
    pub(crate) default_key: String,
    /// The most bytes that a message may have.
    pub(crate) max_message: usize,
    pub(crate) connection_timeout: Duration,
    /// How long partitions that go to another process wait for what has begun.
    pub(crate) drain: Duration,
    /// Settings of librdkafka.
    settings: Vec<(String, String)>,
}

impl Endpoints {
    /// Reads a URL, and the files that it names.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let url = FORM.parse(text)?;
        if !url.path().is_empty() {
            return Err(url.wrong("there is nothing behind the hosts but options"));
        }
        let host = |(host, port): &(String, Option<u16>)| {
            let port = port.unwrap_or(9_092);
            if host.contains(':') {
                format!("[{host}]:{port}")
            } else {
                format!("{host}:{port}")
            }
        };
        let brokers: Vec<_> = url.hosts().iter().map(host).collect();
        let mut endpoints = Self {
            brokers: brokers.join(","),
            user: url
                .user()
                .filter(|user| !user.is_empty())
                .map(str::to_owned),
            password: url.password().map(str::to_owned),
            tls: false,
            topic: names::EXCHANGE.to_owned(),
            topology: "switchboard.topology".to_owned(),
            partitions: 6,
            replication: None,
            retention: None,
            default_key: String::new(),
            max_message: 1_000_000,
            connection_timeout: Duration::from_secs(5),
            drain: Duration::from_secs(60),
            settings: Vec::new(),
        };
        endpoints.options(&url)?;
        Ok(endpoints)
    }

    fn options(&mut self, url: &BrokerUrl) -> Result<()> {
        let mut files = Vec::new();
        for option in url.options_and(&OPTIONS, &is_setting)? {
            let text = option.text();
            match option.name() {
                "connection_timeout" => {
                    self.connection_timeout = Duration::from_millis(option.number(1, 600_000)?);
                }
                "cacertfile" => files.push(("ssl.ca.pem", option.file()?)),
                "certfile" => files.push(("ssl.certificate.pem", option.file()?)),
                "keyfile" => files.push(("ssl.key.pem", option.file()?)),
                "tls" => self.tls = option.is_on()?,
                "default_key" if text.len() > 255 => {
                    return Err(url.wrong("`default_key` has at most 255 bytes"));
                }
                "drain" => self.drain = Duration::from_millis(option.number(1, 3_600_000)?),
                "default_key" => text.clone_into(&mut self.default_key),
                "max_message" => {
                    self.max_message =
                        usize::try_from(option.number(1_000, 1_000_000_000)?).unwrap_or(usize::MAX);
                }
                "partitions" => self.partitions = small(option.number(1, 10_000)?),
                "replication" => self.replication = Some(small(option.number(1, 100)?)),
                "retention" => {
                    let hours = option.number(1, 24 * 365 * 100)?;
                    self.retention = Some(Duration::from_secs(3_600 * hours));
                }
                "topic" if text.matches(names::EXCHANGE).count() != 1 || !is_legal(text) => {
                    return Err(url.wrong(
                        "`topic` is a name of `A-Z a-z 0-9 . _ -` with `{exchange}` in it, once",
                    ));
                }
                "topic" => text.clone_into(&mut self.topic),
                "topology" if text.is_empty() || text.len() > 249 || !is_legal(text) => {
                    return Err(url.wrong("`topology` is 1 to 249 of `A-Z a-z 0-9 . _ -`"));
                }
                "topology" => text.clone_into(&mut self.topology),
                name => {
                    let refused = REFUSED.iter().find(|(refused, _)| *refused == name);
                    if let Some((name, why)) = refused {
                        return Err(url.wrong(&format!("`{name}` cannot be set: {why}")));
                    }
                    self.settings.push((name.to_owned(), text.to_owned()));
                }
            }
        }
        self.secure(url, files)?;
        self.check(url)
    }

    /// Puts users and certificates into settings.
    fn secure(&mut self, url: &BrokerUrl, files: Vec<(&'static str, String)>) -> Result<()> {
        let wants_tls = self.tls || !files.is_empty();
        if wants_tls && !cfg!(feature = "tls") {
            return Err(url.wrong("TLS needs the cargo feature `kafka-tls`"));
        }
        if !files.is_empty() && !self.tls {
            return Err(url.wrong("certificates are for `?tls`"));
        }
        let has = |name: &str| files.iter().any(|(known, _)| *known == name);
        if has("ssl.certificate.pem") != has("ssl.key.pem") {
            return Err(url.wrong("`certfile` and `keyfile` go together"));
        }
        let mut ours: Vec<(&str, String)> = Vec::new();
        let protocol = match (self.user.is_some(), self.tls) {
            (false, false) => None,
            (false, true) => Some("ssl"),
            (true, false) => Some("sasl_plaintext"),
            (true, true) => Some("sasl_ssl"),
        };
        ours.extend(protocol.map(|protocol| ("security.protocol", protocol.to_owned())));
        if let Some(user) = &self.user {
            ours.push(("sasl.mechanisms", "PLAIN".to_owned()));
            ours.push(("sasl.username", user.clone()));
            ours.push(("sasl.password", self.password.clone().unwrap_or_default()));
        }
        ours.extend(files);
        // What is said in Kafka's own words counts more.
        let ours = ours
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        self.settings.splice(0..0, ours);
        Ok(())
    }

    /// Has the client look at the settings. It repeats values in what it says, so that is not shown.
    fn check(&self, url: &BrokerUrl) -> Result<()> {
        for (name, value) in &self.settings {
            let mut config = ClientConfig::new();
            config.set(name, value);
            if let Err(error) = config.create_native_config() {
                let said = error.to_string();
                let is_unknown = said.contains("No such configuration property");
                if is_unknown && let Some(error) = url.rest_of_secret(name) {
                    return Err(error);
                }
                let why = if is_unknown {
                    "is not a setting of librdkafka".to_owned()
                } else if said.contains("not supported in this build") {
                    "is not in this build; TLS and SCRAM need the cargo feature `kafka-tls`"
                        .to_owned()
                } else {
                    "does not take this value".to_owned()
                };
                let shown: String = name.chars().take(60).collect();
                return Err(url.wrong(&format!("`{}` {why}", shown.escape_debug())));
            }
        }
        Ok(())
    }

    /// The most bytes of a copy in a topic of a queue. It says more than its original: what happened to it, and the key
    /// of a record of another program, which stands in its headers too.
    pub(crate) fn largest_copy(&self) -> usize {
        // Kafka's client takes no more.
        (2 * self.max_message + HEADROOM).min(1_000_000_000)
    }

    /// Settings of a client of any kind: what the contract needs where the URL says nothing else.
    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "switchboard")
            .set("allow.auto.create.topics", "false")
            // A peer that is silent is noticed by the next request that it does not answer.
            .set("socket.timeout.ms", "10000")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "2000")
            .set(
                "socket.connection.setup.timeout.ms",
                // Kafka's client takes no less.
                self.connection_timeout.as_millis().max(1_000).to_string(),
            )
            // A topic is only used when it is there, so one that is missing was deleted: it is made anew after this,
            // not after half a minute.
            .set("topic.metadata.propagation.max.ms", "1000")
            // New partitions are found by looking.
            .set("topic.metadata.refresh.interval.ms", "10000");
        for (name, value) in &self.settings {
            // It is compared with a session, which most clients have none of.
            if name != POLL {
                config.set(name, value);
            }
        }
        config
    }

    /// How long the group of a queue waits for a member, if the URL says so.
    pub(crate) fn poll(&self) -> Option<&str> {
        let mut settings = self.settings.iter().rev();
        let (_, value) = settings.find(|(name, _)| name == POLL)?;
        Some(value)
    }

    /// Whether it asks for what the client logs for its developers.
    pub(crate) fn is_debugged(&self) -> bool {
        self.settings.iter().any(|(name, _)| name == "debug")
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.tls
    }
}

fn small(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn is_legal(template: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    template.replace(names::EXCHANGE, "").bytes().all(legal)
}

/// Settings of librdkafka have a dot in their name, but for a few.
fn is_setting(name: &str) -> bool {
    let plain = ["acks", "debug", "partitioner", "retries"];
    name.contains('.') || plain.contains(&name)
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints")
            .field("brokers", &self.brokers)
            .field("user", &self.user)
            .field("tls", &self.tls)
            .field("topic", &self.topic)
            .field("topology", &self.topology)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use event_core::ErrorKind;

    use super::*;

    #[test]
    fn a_short_url_has_the_defaults() {
        for url in ["kafka://", "kafka://localhost", "kafka://localhost:9092/"] {
            let endpoints = Endpoints::parse(url).unwrap();
            assert_eq!(endpoints.brokers, "localhost:9092", "{url}");
            assert_eq!((endpoints.partitions, endpoints.replication), (6, None));
            assert_eq!(endpoints.topic, "{exchange}");
        }
    }

    #[test]
    fn everything_can_be_said() {
        let url = "kafka://anna:s%2Fecret@one,[::1]:9093/?topic=eu.{exchange}&topology=eu.topology&partitions=12\
                   &replication=3&retention=24&default_key=other&linger.ms=5&sasl.mechanisms=PLAIN";
        let endpoints = Endpoints::parse(url).unwrap();
        assert_eq!(endpoints.brokers, "one:9092,[::1]:9093");
        assert_eq!((endpoints.partitions, endpoints.replication), (12, Some(3)));
        assert_eq!(endpoints.retention, Some(Duration::from_secs(24 * 3_600)));
        assert_eq!(endpoints.default_key, "other");
        let config = endpoints.config();
        assert_eq!(config.get("linger.ms"), Some("5"));
        assert_eq!(config.get("security.protocol"), Some("sasl_plaintext"));
        assert_eq!(config.get("sasl.password"), Some("s/ecret"));
        assert!(!format!("{endpoints:?}").contains("ecret"));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (url, what) in [
            ("redis://localhost", "does not begin"),
            ("kafka://:se/cret@host", "%2F"),
            ("kafka://:secret@host/path", "nothing behind the hosts"),
            ("kafka://:secret@host?topic=order", "{exchange}"),
            ("kafka://:secret@host?topic={exchange}/a", "{exchange}"),
            ("kafka://:secret@host?vhost=a", "`partitions`"),
            ("kafka://:secret@host?acks=1", "all replicas in sync"),
            (
                "kafka://:secret@host?enable.auto.commit=true",
                "after its handlers",
            ),
            (
                "kafka://:secret@host?session.timeout.ms=100",
                "Queue::lease",
            ),
            (
                "kafka://:secret@host?lingre.ms=1",
                "`lingre.ms` is not a setting",
            ),
            (
                "kafka://:secret@host?linger.ms=soon",
                "`linger.ms` does not take",
            ),
            ("kafka://:secret@host?keyfile=/dev/null", "kafka"),
            ("kafka://host?sasl.password=a&secret", "`%26`"),
            ("kafka://host?sasl.password=a&secret.b", "`%26`"),
        ] {
            let error = Endpoints::parse(url).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{url}");
            assert!(text.contains(what), "{url}: {text}");
            assert!(!text.contains("cret"), "{text}");
        }
    }

    #[test]
    fn settings_that_are_refused_stand_in_order() {
        assert!(REFUSED.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(REFUSED.iter().all(|(name, _)| is_setting(name)));
    }
}
