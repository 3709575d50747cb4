//! A connection that is made again when it is lost.

use std::{
    io,
    net::Shutdown,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_rs::TokioRuntime;
use backon::{BackoffBuilder, ExponentialBuilder};
use event_core::{ConnectionState, ErrorKind, Result};
use futures_util::StreamExt;
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, Event, uri::AMQPUri};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{error, topology::Declared, url::Endpoints};

/// What a connection is for. While RabbitMQ has an alarm, it reads nothing from connections that publish; so
/// acknowledgements have one of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Publish,
    Consume,
}

/// A connection that is made again when it is lost, with the topology that was declared on it.
#[derive(Debug)]
pub(crate) struct Link {
    phase: watch::Receiver<Phase>,
    closing: CancellationToken,
    _guard: DropGuard,
}

#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Being made again.
    Down,
    Up(Arc<Live>),
    Closed,
}

impl Phase {
    pub(crate) fn state(&self) -> ConnectionState {
        match self {
            Self::Up(_) => ConnectionState::Connected,
            Self::Down => ConnectionState::Reconnecting,
            Self::Closed => ConnectionState::Closed,
        }
    }
}

/// One connection, for as long as it lasts.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) connection: Connection,
    /// Another for each connection of the process.
    pub(crate) generation: u64,
    pub(crate) host: String,
    lost: CancellationToken,
    blocked: watch::Sender<Option<String>>,
    /// Whether something came of it.
    used: AtomicBool,
    socket: Socket,
}

/// A second handle of the socket: a connection whose peer is silent is ended with it, since nothing else
/// would end the thread that lapin has for it.
#[derive(Clone, Debug, Default)]
struct Socket(Arc<Mutex<Option<std::net::TcpStream>>>);

impl Socket {
    fn set(&self, stream: std::net::TcpStream) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    }

    fn shut_down(&self) {
        if let Some(stream) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Live {
    /// Says that the connection is of no use any more.
    pub(crate) fn fail(&self) {
        self.lost.cancel();
        self.socket.shut_down();
    }

    /// Ends when the connection is lost.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_cancelled() || !self.connection.status().connected()
    }

    /// Why RabbitMQ takes no publishes at present.
    pub(crate) fn blocked(&self) -> Option<String> {
        self.blocked.borrow().clone()
    }

    /// The same, to be waited for.
    pub(crate) fn watch_blocked(&self) -> watch::Receiver<Option<String>> {
        self.blocked.subscribe()
    }

    /// Something came of this connection: it was not in vain to make it.
    pub(crate) fn was_of_use(&self) {
        self.used.store(true, Relaxed);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.fail();
    }
}

impl Link {
    /// Connects to the first host that answers. Later, when the connection is lost, it is made again until
    /// [`close`](Self::close).
    pub(crate) async fn open(
        endpoints: Arc<Endpoints>,
        declared: Arc<Declared>,
        role: Role,
    ) -> Result<Self> {
        // Shared out over the hosts.
        let mut at = fastrand::usize(..endpoints.len());
        let mut first = None;
        let mut refused = None;
        for _ in 0..endpoints.len() {
            match connect(&endpoints, at, role).await {
                Ok(live) => {
                    first = Some(live);
                    break;
                }
                Err(error) => {
                    tracing::warn!(target: "switchboard", %error, "cannot connect to RabbitMQ");
                    refused = Some(error);
                    at += 1;
                }
            }
        }
        let Some(live) = first else {
            return Err(refused.unwrap_or_else(error::closed));
        };
        let (up, phase) = watch::channel(Phase::Up(live.clone()));
        let closing = CancellationToken::new();
        let supervisor = Supervisor {
            endpoints,
            declared,
            role,
            at,
            up,
            closing: closing.clone(),
        };
        tokio::spawn(supervisor.run(live));
        Ok(Self {
            phase,
            _guard: closing.clone().drop_guard(),
            closing,
        })
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
                Phase::Down => false,
                Phase::Closed => true,
            })
            .await;
        match found.as_deref() {
            Ok(Phase::Up(live)) => Ok(live.clone()),
            _ => Err(error::closed()),
        }
    }

    /// The connection if it is there within this time.
    pub(crate) async fn live_within(&self, time: Duration, what: &str) -> Result<Arc<Live>> {
        timeout(time, self.live())
            .await
            .unwrap_or_else(|_| Err(error::down(what)))
    }

    /// Closes the connection, and waits until that is done or the time is over.
    pub(crate) async fn close(&self, deadline: Instant) {
        let live = match &*self.phase.borrow() {
            Phase::Up(live) => Some(live.clone()),
            _ => None,
        };
        if let Some(live) = live {
            let closed = async {
                let text = "closed by the application".into();
                tokio::select! {
                    closed = live.connection.close(200, text) => closed.is_ok(),
                    // lapin waits for the answer also when nobody is there any more to give it.
                    () = live.lost() => false,
                }
            };
            // What matters was flushed before: the server notices the end in any case.
            let _ = timeout_at(deadline, closed).await;
        }
        self.closing.cancel();
        let mut phase = self.phase.clone();
        let closed = phase.wait_for(|phase| matches!(phase, Phase::Closed));
        let _ = timeout_at(deadline, closed).await;
    }
}

struct Supervisor {
    endpoints: Arc<Endpoints>,
    declared: Arc<Declared>,
    role: Role,
    /// The host of the present connection.
    at: usize,
    up: watch::Sender<Phase>,
    closing: CancellationToken,
}

impl Supervisor {
    async fn run(mut self, first: Arc<Live>) {
        let mut live = first;
        let mut waits = waits();
        loop {
            let since = Instant::now();
            tokio::select! {
                () = self.closing.cancelled() => {}
                () = watch_over(&live) => {}
            }
            // Whoever still waits on it hears of the end, also when the server says nothing.
            live.fail();
            if self.closing.is_cancelled() {
                break;
            }
            self.up.send_replace(Phase::Down);
            tracing::warn!(target: "switchboard", host = live.host, role = ?self.role, "the connection to RabbitMQ was lost");
            // One that ends before anything came of it is no better than one that could not be made.
            let in_vain = !live.used.load(Relaxed) && since.elapsed() < LONGEST_WAIT;
            if !in_vain {
                waits = self::waits();
            }
            drop(live);
            let closing = self.closing.clone();
            let again = tokio::select! {
                () = closing.cancelled() => break,
                again = self.connect_again(&mut waits, in_vain) => again,
            };
            tracing::info!(target: "switchboard", host = again.host, role = ?self.role, "connected to RabbitMQ again");
            live = again;
            self.up.send_replace(Phase::Up(live.clone()));
        }
        self.up.send_replace(Phase::Closed);
    }

    async fn connect_again(
        &mut self,
        waits: &mut impl Iterator<Item = Duration>,
        wait_first: bool,
    ) -> Arc<Live> {
        let mut wait = wait_first;
        loop {
            if wait {
                sleep(waits.next().unwrap_or(LONGEST_WAIT)).await;
            }
            wait = true;
            // Another host first, if there is one: this one may be down for longer.
            self.at += 1;
            match self.connect_and_declare().await {
                Ok(live) => return live,
                Err(error) => {
                    tracing::warn!(target: "switchboard", %error, "cannot connect to RabbitMQ again yet");
                }
            }
        }
    }

    async fn connect_and_declare(&self) -> Result<Arc<Live>> {
        let live = connect(&self.endpoints, self.at, self.role).await?;
        if let Err(error) = self.declared.replay(&live).await {
            if error.kind() == ErrorKind::Connection || error.kind() == ErrorKind::Timeout {
                return Err(error);
            }
            // Somebody declared something else meanwhile. What is not concerned goes on.
            tracing::error!(target: "switchboard", %error, "cannot declare the topology again");
        }
        Ok(live)
    }
}

const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Growing, and jittered, so that many processes do not come back in one moment.
fn waits() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(LONGEST_WAIT)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Ends when the connection does.
async fn watch_over(live: &Live) {
    let mut events = std::pin::pin!(live.connection.events_listener());
    // An error before this listened is not among the events.
    let mut look = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            () = live.lost() => return,
            _ = look.tick() => {
                if live.is_lost() {
                    return;
                }
            }
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(why)) => {
                    tracing::warn!(target: "switchboard", host = live.host, why, "RabbitMQ blocks publishing");
                    live.blocked.send_replace(Some(why));
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!(target: "switchboard", host = live.host, "RabbitMQ takes publishes again");
                    live.blocked.send_replace(None);
                }
                Some(Event::Error(error)) => {
                    if live.is_lost() {
                        tracing::debug!(target: "switchboard", %error, "the connection to RabbitMQ ended");
                        return;
                    }
                }
                Some(_) => {}
                None => return,
            },
        }
    }
}

static GENERATIONS: AtomicU64 = AtomicU64::new(1);

/// A number that nothing else of this process has.
pub(crate) fn generation() -> u64 {
    GENERATIONS.fetch_add(1, Relaxed)
}

/// One attempt at one host.
async fn connect(endpoints: &Arc<Endpoints>, at: usize, role: Role) -> Result<Arc<Live>> {
    let name = match role {
        Role::Publish => "switchboard publish",
        Role::Consume => "switchboard consume",
    };
    let options = ConnectionProperties::default().with_connection_name(name.into());
    let runtime = TokioRuntime::tokio_current();
    let socket = Socket::default();
    let (tls, inside) = (endpoints.tls(), socket.clone());
    let limit = endpoints.connection_timeout;
    // lapin's own way to connect knows no time limit. This is called on the thread that lapin has for the
    // connection, which goes on when nobody waits for it any more: so the limit is in here as well.
    let to_host = async move |uri: AMQPUri, runtime: TokioRuntime| {
        let host = uri.authority.host;
        let connecting = async {
            let addresses = tokio::net::lookup_host((host.as_str(), uri.authority.port)).await?;
            let addresses: Vec<_> = addresses.collect();
            AsyncTcpStream::connect(&runtime, &addresses[..]).await
        };
        let stream = timeout(limit, connecting)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if let AsyncTcpStream::Plain(stream) = &stream {
            let stream = stream.get_ref();
            stream.set_nodelay(true)?;
            inside.set(second_handle(stream)?);
        }
        match &tls {
            None => Ok(stream),
            Some(tls) => Ok(stream
                .into_tls(&host, tls.as_ref())
                .await
                .map_err(|error| io::Error::other(error::TlsFailed(error)))?),
        }
    };
    let connecting = Connection::connector(endpoints.uri(at), runtime, to_host, options);
    let connected = timeout(endpoints.connection_timeout, connecting).await;
    let connection = match connected {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(error::connecting(endpoints, at, error)),
        Err(_) => {
            socket.shut_down();
            return Err(error::no_answer(endpoints, at));
        }
    };
    Ok(Arc::new(Live {
        connection,
        generation: generation(),
        host: endpoints.host(at),
        lost: CancellationToken::new(),
        blocked: watch::Sender::new(None),
        used: AtomicBool::new(false),
        socket,
    }))
}

#[cfg(unix)]
fn second_handle(stream: &tokio::net::TcpStream) -> io::Result<std::net::TcpStream> {
    use std::os::fd::AsFd;
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn second_handle(stream: &tokio::net::TcpStream) -> io::Result<std::net::TcpStream> {
    use std::os::windows::io::AsSocket;
    Ok(stream.as_socket().try_clone_to_owned()?.into())
}
