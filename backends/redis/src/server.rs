//! Which server has the keys of an exchange: the only one, the master that the Sentinels name, a node of the cluster.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use event_core::{Error, ErrorKind, Result};
use redis::{AsyncConnectionConfig, Client, Cmd, RedisError, RedisResult, Value};
use tokio::time::timeout;

use crate::{
    error,
    link::Live,
    url::{Endpoints, Layout},
};

/// How many requests may wait to be written to a connection.
const PIPELINE: usize = 2_048;

/// The servers that a URL names.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) endpoints: Endpoints,
    /// Where to begin to look.
    at: AtomicUsize,
    /// Nodes of the cluster that were heard of, beside those of the URL.
    nodes: Mutex<Vec<(String, u16)>>,
}

impl Servers {
    pub(crate) fn new(endpoints: Endpoints) -> Self {
        Self {
            endpoints,
            at: AtomicUsize::new(0),
            nodes: Mutex::default(),
        }
    }

    /// Whether each exchange may be on another server.
    pub(crate) fn is_cluster(&self) -> bool {
        self.endpoints.layout == Layout::Cluster
    }

    /// Connects to the server that has the keys of this exchange; any, when it does not matter.
    pub(crate) async fn connect(&self, exchange: Option<&str>) -> Result<Live> {
        self.connect_with(exchange, &AsyncConnectionConfig::new(), false)
            .await
    }

    /// The same for a connection of a special kind.
    pub(crate) async fn connect_with(
        &self,
        exchange: Option<&str>,
        config: &AsyncConnectionConfig,
        resp3: bool,
    ) -> Result<Live> {
        let hosts = self.hosts();
        let begin = self.at.load(Relaxed);
        let mut refused = None;
        for turn in 0..hosts.len() {
            let (host, port) = &hosts[(begin + turn) % hosts.len()];
            let found = match &self.endpoints.layout {
                Layout::Standalone => self.open(host, *port, config, resp3).await,
                Layout::Sentinel(name) => self.master(host, *port, name, config, resp3).await,
                Layout::Cluster => self.node(host, *port, exchange, config, resp3).await,
            };
            match found {
                Ok(live) => {
                    // A node that was cut off may go on to name itself: another one is asked next time.
                    let next = usize::from(self.is_cluster());
                    self.at.store(begin + turn + next, Relaxed);
                    return Ok(live);
                }
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(error::closed))
    }

    fn hosts(&self) -> Vec<(String, u16)> {
        let mut hosts = self.endpoints.hosts.clone();
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        for node in &*nodes {
            if !hosts.contains(node) {
                hosts.push(node.clone());
            }
        }
        hosts
    }

    /// A connection to this one.
    async fn open(
        &self,
        host: &str,
        port: u16,
        config: &AsyncConnectionConfig,
        resp3: bool,
    ) -> Result<Live> {
        let address = match &self.endpoints.socket {
            Some(path) => path.clone(),
            None => format!("{host}:{port}"),
        };
        let client = self.endpoints.client(host, port, resp3);
        let opened = self.connection(client, &address, config).await;
        opened.map(|connection| Live::new(connection, address))
    }

    async fn connection(
        &self,
        client: RedisResult<Client>,
        address: &str,
        config: &AsyncConnectionConfig,
    ) -> Result<redis::aio::MultiplexedConnection> {
        let within = self.endpoints.connection_timeout;
        let opened = async {
            let config = config
                .clone()
                // What waits has a limit of its own: an answer that comes late would be lost here.
                .set_response_timeout(None)
                .set_connection_timeout(Some(within))
                .set_pipeline_buffer_size(PIPELINE);
            let client = client?;
            client
                .get_multiplexed_async_connection_with_config(&config)
                .await
        };
        match timeout(within, opened).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(error::connecting(&self.endpoints, address, &error)),
            Err(_) => {
                let late: RedisError = std::io::Error::from(std::io::ErrorKind::TimedOut).into();
                Err(error::connecting(&self.endpoints, address, &late))
            }
        }
    }

    /// A connection to the master that a Sentinel names, once it says itself that it is one.
    async fn master(
        &self,
        host: &str,
        port: u16,
        name: &str,
        config: &AsyncConnectionConfig,
        resp3: bool,
    ) -> Result<Live> {
        let address = format!("{host}:{port}");
        let what = format!("ask the Sentinel at {address}");
        let plain = AsyncConnectionConfig::new();
        let client = self.endpoints.sentinel(host, port);
        let sentinel = Live::new(
            self.connection(client, &address, &plain).await?,
            address.clone(),
        );
        let mut ask = Cmd::new();
        ask.arg("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let master = match self.answer(&sentinel, &ask, &what).await? {
            Value::Array(parts) => match &parts[..] {
                [host, port] => text(host).zip(text(port).and_then(|port| port.parse().ok())),
                _ => None,
            },
            _ => None,
        };
        let Some((host, port)) = master else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "the Sentinel at {address} knows no master `{name}` (`sentinel` in the URL)"
                ),
            ));
        };
        let live = self.open(&host, port, config, resp3).await?;
        let mut role = Cmd::new();
        role.arg("ROLE");
        let what = format!("ask {} for its role", live.address);
        match self.answer(&live, &role, &what).await? {
            Value::Array(parts) if parts.first().and_then(text).as_deref() == Some("master") => {
                Ok(live)
            }
            _ => Err(Error::retryable(
                ErrorKind::Connection,
                format!(
                    "the Sentinel at {address} names {} as master, which is none yet",
                    live.address
                ),
            )),
        }
    }

    /// A connection to the node that has the slot of an exchange, by what this one says.
    async fn node(
        &self,
        host: &str,
        port: u16,
        exchange: Option<&str>,
        config: &AsyncConnectionConfig,
        resp3: bool,
    ) -> Result<Live> {
        let plain = AsyncConnectionConfig::new();
        let any = self.open(host, port, &plain, false).await?;
        let what = format!("ask {} for the slots of the cluster", any.address);
        let mut slots = Cmd::new();
        slots.arg("CLUSTER").arg("SLOTS");
        let ranges = ranges(self.answer(&any, &slots, &what).await?, host);
        let masters: Vec<_> = ranges.iter().map(|range| range.master.clone()).collect();
        let wanted = match exchange {
            None => masters.first().cloned(),
            Some(exchange) => {
                let mut ask = Cmd::new();
                ask.arg("CLUSTER").arg("KEYSLOT").arg(exchange);
                let slot = match self.answer(&any, &ask, &what).await? {
                    Value::Int(slot) => slot,
                    _ => return Err(error::strange(&what)),
                };
                let range = ranges
                    .iter()
                    .find(|range| (range.first..=range.last).contains(&slot));
                range.map(|range| range.master.clone())
            }
        };
        *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = masters;
        let Some((host, port)) = wanted else {
            return Err(Error::retryable(
                ErrorKind::Connection,
                format!("the cluster at {host}:{port} has no node for these keys at present"),
            ));
        };
        self.open(&host, port, config, resp3).await
    }

    async fn answer(&self, live: &Live, cmd: &Cmd, what: &str) -> Result<Value> {
        match timeout(self.endpoints.connection_timeout, live.ask(cmd)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(error::failed(what, &error)),
            Err(_) => Err(error::silent(what)),
        }
    }
}

/// Slots and the master that has them.
struct Range {
    first: i64,
    last: i64,
    master: (String, u16),
}

fn ranges(answer: Value, asked: &str) -> Vec<Range> {
    let Value::Array(ranges) = answer else {
        return Vec::new();
    };
    let range = |value: Value| {
        let Value::Array(parts) = value else {
            return None;
        };
        let (Value::Int(first), Value::Int(last), Value::Array(master)) =
            (parts.first()?, parts.get(1)?, parts.get(2)?)
        else {
            return None;
        };
        let host = master.first().and_then(text).unwrap_or_default();
        let Value::Int(port) = master.get(1)? else {
            return None;
        };
        // A node that does not know its own name is the one that was asked.
        let host = if host.is_empty() {
            asked.to_owned()
        } else {
            host
        };
        Some(Range {
            first: *first,
            last: *last,
            master: (host, u16::try_from(*port).ok()?),
        })
    };
    ranges.into_iter().filter_map(range).collect()
}

/// A text as the server sends it.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::Okay => Some("OK".to_owned()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}
