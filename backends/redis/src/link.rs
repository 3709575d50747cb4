//! A connection that is made again when it is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use event_core::{ConnectionState, Error, Result};
use redis::{Cmd, RedisError, Value, aio::MultiplexedConnection};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{error, scripts, server::Servers};

/// From when on a connection counts as one that works.
const LASTING: Duration = Duration::from_millis(200);

/// A connection to the server that has the keys of an exchange, made again when it is lost.
#[derive(Debug)]
pub(crate) struct Link {
    phase: watch::Receiver<Phase>,
    closing: CancellationToken,
    _guard: DropGuard,
}

#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Being made again, which failed for this reason.
    Down(Option<Error>),
    Up(Arc<Live>),
    Closed,
}

impl Phase {
    pub(crate) fn state(&self) -> ConnectionState {
        match self {
            Self::Up(_) => ConnectionState::Connected,
            Self::Down(_) => ConnectionState::Reconnecting,
            Self::Closed => ConnectionState::Closed,
        }
    }
}

/// One connection, for as long as it lasts.
pub(crate) struct Live {
    connection: MultiplexedConnection,
    pub(crate) address: String,
    /// Another for each connection of the process.
    pub(crate) generation: u64,
    lost: CancellationToken,
}

impl Live {
    pub(crate) fn new(connection: MultiplexedConnection, address: String) -> Self {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        Self {
            connection,
            address,
            generation: GENERATION.fetch_add(1, Relaxed),
            lost: CancellationToken::new(),
        }
    }

    /// Sends a command, and waits for its answer as long as the connection lasts.
    pub(crate) async fn ask(&self, cmd: &Cmd) -> Result<Value, RedisError> {
        let mut connection = self.connection.clone();
        let answer = tokio::select! {
            biased;
            answer = connection.send_packed_command(cmd) => answer,
            () = self.lost.cancelled() => Err(lost()),
        };
        let answer = match answer {
            Ok(Value::ServerError(error)) => Err(error.into()),
            answer => answer,
        };
        if let Err(error) = &answer
            && (error::is_lost(error) || error::is_elsewhere(error))
        {
            self.fail();
        }
        answer
    }

    /// Says that the connection is of no use any more.
    pub(crate) fn fail(&self) {
        self.lost.cancel();
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Ends when the connection is lost.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

fn lost() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live")
            .field("address", &self.address)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Connects. Later, when the connection is lost, it is made again until [`close`](Self::close).
    ///
    /// A connection whose peer does not answer a sign of life within this patience is lost.
    pub(crate) async fn open(
        servers: Arc<Servers>,
        exchange: Option<String>,
        patience: Duration,
    ) -> Result<Self> {
        let first = connect(&servers, exchange.as_deref()).await?;
        Ok(Self::start(servers, exchange, patience, Some(first)))
    }

    /// A connection that is made at once, without waiting for it.
    pub(crate) fn start(
        servers: Arc<Servers>,
        exchange: Option<String>,
        patience: Duration,
        first: Option<Arc<Live>>,
    ) -> Self {
        let now = first.clone().map_or(Phase::Down(None), Phase::Up);
        let (up, phase) = watch::channel(now);
        let closing = CancellationToken::new();
        let supervisor = Supervisor {
            servers,
            exchange,
            patience,
            up,
            closing: closing.clone(),
        };
        tokio::spawn(supervisor.run(first));
        Self {
            phase,
            _guard: closing.clone().drop_guard(),
            closing,
        }
    }

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// The connection, waiting for it if it is just being made.
    pub(crate) async fn live(&self) -> Result<Arc<Live>> {
        let mut phase = self.phase.clone();
        let found = phase
            .wait_for(|phase| match phase {
                Phase::Up(live) => !live.is_lost(),
                Phase::Down(_) => false,
                Phase::Closed => true,
            })
            .await;
        match found.as_deref() {
            Ok(Phase::Up(live)) => Ok(live.clone()),
            _ => Err(error::closed()),
        }
    }

    /// Makes a request, again when what stands in its way passes by itself, at most until the deadline. It may be
    /// done twice.
    pub(crate) async fn request(
        &self,
        what: &str,
        deadline: Instant,
        request: &impl Request,
    ) -> Result<Value> {
        let mut waits = waits(Duration::from_millis(10), Duration::from_millis(500));
        let mut said: Option<Error> = None;
        let tries = async {
            loop {
                let live = self.live().await?;
                match request.send(&live).await {
                    Ok(done) => return Ok(done),
                    Err(error) if error::is_passing(&error) => {
                        said = Some(error::failed(what, &error));
                    }
                    Err(error) => return Err(error::failed(what, &error)),
                }
                sleep(waits.next().unwrap_or(Duration::from_millis(500))).await;
            }
        };
        match timeout_at(deadline, tries).await {
            Ok(result) => result,
            Err(_) => Err(said.unwrap_or_else(|| error::down(what))),
        }
    }

    /// Closes the connection, and waits until that is done or the time is over.
    pub(crate) async fn close(&self, deadline: Instant) {
        self.closing.cancel();
        let mut phase = self.phase.clone();
        let closed = phase.wait_for(|phase| matches!(phase, Phase::Closed));
        // It only has to be dropped.
        let _ = timeout_at(deadline, closed).await;
    }
}

/// Something to ask a server.
pub(crate) trait Request: Sync {
    fn send(&self, live: &Live) -> impl Future<Output = Result<Value, RedisError>> + Send;
}

impl Request for Cmd {
    async fn send(&self, live: &Live) -> Result<Value, RedisError> {
        live.ask(self).await
    }
}

/// Waits between attempts, jittered, so that processes do not come all at once.
fn waits(least: Duration, most: Duration) -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(least)
        .with_max_delay(most)
        .without_max_times()
        .with_jitter()
        .build()
}

struct Supervisor {
    servers: Arc<Servers>,
    exchange: Option<String>,
    patience: Duration,
    up: watch::Sender<Phase>,
    closing: CancellationToken,
}

impl Supervisor {
    async fn run(self, first: Option<Arc<Live>>) {
        let closing = self.closing.clone();
        tokio::select! {
            () = closing.cancelled() => {}
            () = self.keep(first) => {}
        }
        if let Phase::Up(live) = self.up.send_replace(Phase::Closed) {
            // Whoever still waits on it hears of the end.
            live.fail();
        }
    }

    async fn keep(&self, first: Option<Arc<Live>>) {
        let mut live = first;
        const MOST: Duration = Duration::from_millis(200);
        let mut backoff = waits(Duration::from_millis(50), Duration::from_secs(5));
        let mut again = waits(Duration::from_millis(10), MOST);
        loop {
            if let Some(live) = live.take() {
                let since = Instant::now();
                watch_over(&live, self.servers.endpoints.heartbeat, self.patience).await;
                self.up.send_replace(Phase::Down(None));
                tracing::warn!(target: "switchboard", server = live.address, "the connection to Redis was lost");
                if since.elapsed() > LASTING {
                    backoff = waits(Duration::from_millis(50), Duration::from_secs(5));
                    again = waits(Duration::from_millis(10), MOST);
                } else {
                    // One that is lost at once each time, as that to a replica, is not to be made as fast as can be.
                    sleep(again.next().unwrap_or(MOST)).await;
                }
            }
            match connect(&self.servers, self.exchange.as_deref()).await {
                Ok(next) => {
                    tracing::info!(target: "switchboard", server = next.address, "connected to Redis");
                    self.up.send_replace(Phase::Up(next.clone()));
                    live = Some(next);
                    continue;
                }
                Err(error) => {
                    tracing::warn!(target: "switchboard", %error, "cannot connect to Redis");
                    self.up.send_replace(Phase::Down(Some(error)));
                }
            }
            sleep(backoff.next().unwrap_or(Duration::from_secs(5))).await;
        }
    }
}

/// Ends when the connection is lost, or its peer is silent.
async fn watch_over(live: &Live, heartbeat: Duration, patience: Duration) {
    let mut ping = Cmd::new();
    ping.arg("PING");
    loop {
        tokio::select! {
            () = live.lost() => return,
            () = sleep(heartbeat) => {}
        }
        match timeout(patience, live.ask(&ping)).await {
            Ok(Err(error)) if error::is_lost(&error) => {}
            Ok(_) => continue,
            Err(_) => {
                tracing::warn!(target: "switchboard", server = live.address, "Redis is silent");
            }
        }
        live.fail();
        return;
    }
}

async fn connect(servers: &Servers, exchange: Option<&str>) -> Result<Arc<Live>> {
    let live = servers.connect(exchange).await?;
    let loading = scripts::load(&live);
    let what = format!("load the scripts at {}", live.address);
    match timeout(servers.endpoints.connection_timeout, loading).await {
        Ok(Ok(())) => Ok(Arc::new(live)),
        Ok(Err(error)) => Err(error::connecting(&servers.endpoints, &live.address, &error)),
        Err(_) => Err(error::silent(&what)),
    }
}
