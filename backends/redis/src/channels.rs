//! Plain channels of Redis, for programs that know nothing of Switchboard.

use std::{fmt, marker::PhantomData, sync::Arc, time::SystemTime};

use event_core::{Bytes, Error, ErrorKind, Result};
use redis::{Cmd, Value};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    error, link::Link, listening::Listening, server::Servers, shared::PATIENCE, url::Endpoints,
};

/// How long is waited before another try to listen again.
const PAUSE: Duration = Duration::from_millis(500);

/// Plain channels of Redis with bare JSON, **at most once**: for other programs that `PUBLISH` and `SUBSCRIBE` and know
/// nothing of exchanges, queues and envelopes.
///
/// Nothing is kept: what is published while nobody listens is gone, and so is what a subscriber misses while its
/// connection is made again. Between services of your own, use events and queues. Names of channels are taken as
/// they are, without the URL's `prefix`.
///
/// ```no_run
/// # async fn run() -> event_core::Result<()> {
/// use event_redis::AtMostOnceChannels;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize)]
/// struct ChangeQuantity { batchref: String, qty: u32 }
///
/// #[derive(Serialize)]
/// struct Allocated { orderid: String, sku: String, qty: u32, batchref: String }
///
/// let channels = AtMostOnceChannels::connect("redis://localhost").await?;
/// let mut changes = channels.subscribe::<ChangeQuantity>("change_batch_quantity").await?;
/// while let Some(change) = changes.next().await {
///     match change {
///         Ok(change) => println!("{} has {}", change.value.batchref, change.value.qty),
///         // One that is no JSON of this form, or a gap: the next is heard all the same.
///         Err(error) => eprintln!("{error}"),
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct AtMostOnceChannels {
    servers: Arc<Servers>,
    link: Link,
}

impl AtMostOnceChannels {
    /// Connects to a Redis, by a URL as [`RedisTransport::connect`](crate::RedisTransport::connect) takes it.
    ///
    /// # Errors
    /// The same.
    pub async fn connect(url: &str) -> Result<Self> {
        let servers = Arc::new(Servers::new(Endpoints::parse(url)?));
        let heartbeat = servers.endpoints.heartbeat;
        let link = Link::open(servers.clone(), None, heartbeat).await?;
        Ok(Self { servers, link })
    }

    /// Publishes a value as JSON, and answers how many connections of this server hear it. In a cluster the other
    /// nodes' subscribers hear it too, and are not counted.
    ///
    /// # Errors
    /// [`Encode`](ErrorKind::Encode), or Redis did not answer: then it may have been heard.
    pub async fn publish<T: Serialize + ?Sized>(&self, channel: &str, value: &T) -> Result<u64> {
        let what = format!("publish to channel `{channel}`");
        let text = serde_json::to_vec(value).map_err(|error| {
            Error::new(ErrorKind::Encode, format!("cannot {what}: no JSON of it"))
                .with_source(error)
        })?;
        let mut cmd = Cmd::new();
        cmd.arg("PUBLISH").arg(channel).arg(text);
        let deadline = Instant::now() + PATIENCE;
        let answer = async {
            let live = self.link.live().await?;
            // Once: twice would be more than at most once.
            let answer = live.ask(&cmd).await;
            answer.map_err(|error| error::failed(&what, &error))
        };
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(Value::Int(heard))) => Ok(u64::try_from(heard).unwrap_or(0)),
            Ok(Ok(_)) => Err(error::strange(&what)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(error::silent(&what)),
        }
    }

    /// Listens to a channel: what is published after this has returned is heard.
    ///
    /// # Errors
    /// Redis cannot be reached, or the user may not listen.
    pub async fn subscribe<T: DeserializeOwned>(
        &self,
        channel: &str,
    ) -> Result<AtMostOnceSubscription<T>> {
        let listening = Listening::open(&self.servers, None, "SUBSCRIBE", channel).await?;
        Ok(AtMostOnceSubscription {
            servers: self.servers.clone(),
            channel: channel.to_owned(),
            listening: Some(listening),
            _value: PhantomData,
        })
    }
}

/// What a plain channel says. Dropping it ends it.
pub struct AtMostOnceSubscription<T> {
    servers: Arc<Servers>,
    channel: String,
    listening: Option<Listening>,
    _value: PhantomData<fn() -> T>,
}

/// Something that was heard on a plain channel.
#[derive(Clone, Debug)]
pub struct Heard<T> {
    /// What it says.
    pub value: T,
    /// Its bytes as they came.
    pub bytes: Bytes,
    /// When it came, on the clock of this machine.
    pub time: SystemTime,
}

impl<T: DeserializeOwned> AtMostOnceSubscription<T> {
    /// The channel.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// The next value. It never ends by itself: a lost connection is made again.
    ///
    /// # Errors
    /// [`Decode`](ErrorKind::Decode) for something that is no JSON of this type, and [`Connection`](ErrorKind::Connection)
    /// once for each lost connection: something may have been missed. Go on after both.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Result<Heard<T>>> {
        loop {
            let Some(listening) = &mut self.listening else {
                match Listening::open(&self.servers, None, "SUBSCRIBE", &self.channel).await {
                    Ok(listening) => self.listening = Some(listening),
                    Err(error) => {
                        tracing::warn!(target: "switchboard", channel = self.channel, %error, "cannot listen");
                        sleep(PAUSE).await;
                    }
                }
                continue;
            };
            let Some(text) = listening.next().await else {
                self.listening = None;
                return Some(Err(Error::retryable(
                    ErrorKind::Connection,
                    format!(
                        "the connection that listens to channel `{}` was lost; what was published until it is made \
                         again is missed",
                        self.channel
                    ),
                )));
            };
            let time = SystemTime::now();
            return Some(match serde_json::from_slice(&text) {
                Ok(value) => Ok(Heard {
                    value,
                    bytes: text.into(),
                    time,
                }),
                Err(error) => Err(Error::new(
                    ErrorKind::Decode,
                    format!("not what channel `{}` should say", self.channel),
                )
                .with_source(error)),
            });
        }
    }
}

impl<T> fmt::Debug for AtMostOnceSubscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtMostOnceSubscription")
            .field("channel", &self.channel)
            .field("connected", &self.listening.is_some())
            .finish()
    }
}
