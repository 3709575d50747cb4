//! A line between a client and a broker that can be cut, held up and made deaf.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream, ToSocketAddrs, lookup_host,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::advertised::Advertised;

/// The most bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// A TCP proxy on a port of its own, for the faults of a network. A client that is given its address instead of
/// the broker's has every byte go through it. Without a fault it forwards at once.
///
/// A [`Fixture`](crate::Fixture) for a real broker has one of its own: [`disconnect`](crate::Fixture::disconnect) is
/// [`cut`](Self::cut), [`outage`](crate::Fixture::outage) is [`silence`](Self::silence).
///
/// Dropping it closes its port and all its connections.
pub struct Proxy {
    address: SocketAddr,
    line: Arc<Line>,
    listening: JoinHandle<()>,
}

/// What all connections share.
struct Line {
    target: Vec<SocketAddr>,
    /// What its clients are not to be told, if this is a Kafka.
    advertised: Option<Advertised>,
    rules: watch::Sender<Rules>,
    /// How many bytes may still go to clients before everything is cut.
    allowance: Mutex<Option<usize>>,
    connections: AtomicUsize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    /// How often all connections were cut.
    cuts: u64,
    refuse: bool,
    silence: bool,
    silence_replies: bool,
    delay: Duration,
}

#[derive(Clone, Copy)]
enum Direction {
    ToBroker,
    ToClient,
}

impl Proxy {
    /// Listens on a free port of the loopback interface, for connections to this address, such as
    /// `"127.0.0.1:5672"`. The target need not be there yet: each client's connection makes one to it.
    ///
    /// # Errors
    /// The target's name is unknown, or there is no port to listen on.
    pub async fn start(target: impl ToSocketAddrs) -> io::Result<Self> {
        Self::start_with(target, |_| None).await
    }

    async fn start_with(
        target: impl ToSocketAddrs,
        advertised: impl FnOnce(u16) -> Option<Advertised>,
    ) -> io::Result<Self> {
        let target = lookup_host(target).await?.collect();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let line = Arc::new(Line {
            target,
            advertised: advertised(address.port()),
            rules: watch::Sender::default(),
            allowance: Mutex::default(),
            connections: AtomicUsize::new(0),
        });
        let listening = tokio::spawn(listen(listener, line.clone()));
        Ok(Self {
            address,
            line,
            listening,
        })
    }

    /// The same for the host and port of a broker's URL, the first if it has several.
    ///
    /// A client of Kafka connects to the address by which the broker tells it to. For a `kafka://` URL the proxy
    /// therefore puts its own port into what the broker sends, wherever the host of the URL and its port stand: the
    /// broker must advertise the host that the URL names. To the other brokers of a cluster a client connects
    /// directly.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub async fn before(broker_url: &str) -> io::Result<Self> {
        let (scheme, rest) = broker_url.split_once("://").unwrap_or(("", broker_url));
        let authority = rest.split(['/', '?']).next().unwrap_or(rest);
        let hosts = authority.rsplit('@').next().unwrap_or(authority);
        let broker = hosts.split(',').next().unwrap_or(hosts);
        let advertised = |port| Advertised::new(broker, port).filter(|_| scheme == "kafka");
        Self::start_with(broker, advertised).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A broker's URL with this proxy in place of its host and port. User, password, path and query stay.
    pub fn url(&self, broker_url: &str) -> String {
        let begin = broker_url.find("://").map_or(0, |at| at + "://".len());
        let (scheme, rest) = broker_url.split_at(begin);
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // A password may hold an `@` that somebody forgot to escape.
        let (user, _) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        format!("{scheme}{user}{}{path}", self.address)
    }

    /// Resets all connections, on both sides. New ones are accepted.
    pub fn cut(&self) {
        self.line.cut();
    }

    /// Resets all connections when more than this many bytes are to go to clients, all connections taken together;
    /// so many still go. A small number puts the cut between a request and its reply, or into the middle of a reply.
    pub fn cut_after(&self, bytes: usize) {
        *self.line.allowance() = Some(bytes);
    }

    /// Resets new connections at once, until it is told otherwise. Present ones stay.
    pub fn refuse(&self, on: bool) {
        self.line.rules.send_modify(|rules| rules.refuse = on);
    }

    /// Forwards nothing in either direction, until it is told otherwise, and closes nothing. New connections are
    /// accepted, and reach the broker afterwards. What was sent meanwhile then arrives.
    pub fn silence(&self, on: bool) {
        self.line.rules.send_modify(|rules| rules.silence = on);
    }

    /// Forwards nothing to clients, until it is told otherwise: what they ask for happens, and they do not learn of
    /// it. What was held back then arrives, unless the connection was [cut](Self::cut) before.
    pub fn silence_replies(&self, on: bool) {
        let change = |rules: &mut Rules| rules.silence_replies = on;
        self.line.rules.send_modify(change);
    }

    /// Holds up each piece of up to 16 KiB by this time, in both directions. As the next piece waits for it, this is
    /// a slow line as well as a long one.
    pub fn delay(&self, time: Duration) {
        self.line.rules.send_modify(|rules| rules.delay = time);
    }

    /// How many clients are connected.
    pub fn connections(&self) -> usize {
        self.line.connections.load(Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The set of its connections ends with it.
        self.listening.abort();
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.address)
            .field("target", &self.line.target)
            .field("rules", &*self.line.rules.borrow())
            .field("connections", &self.connections())
            .finish()
    }
}

impl Line {
    fn cut(&self) {
        *self.allowance() = None;
        self.rules.send_modify(|rules| rules.cuts += 1);
    }

    async fn wait_for(&self, condition: impl Fn(&Rules) -> bool) {
        let mut rules = self.rules.subscribe();
        // Its sender is here, so it does not fail.
        let _ = rules.wait_for(|rules| condition(rules)).await;
    }

    /// How many of these bytes may go to a client.
    fn allow(&self, length: usize) -> usize {
        match &mut *self.allowance() {
            None => length,
            Some(left) => {
                let allowed = length.min(*left);
                *left -= allowed;
                allowed
            }
        }
    }

    fn allowance(&self) -> MutexGuard<'_, Option<usize>> {
        self.allowance
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rules {
    fn forward(&self, direction: Direction) -> bool {
        match direction {
            Direction::ToBroker => !self.silence,
            Direction::ToClient => !self.silence && !self.silence_replies,
        }
    }
}

async fn listen(listener: TcpListener, line: Arc<Line>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) if line.rules.borrow().refuse => reset(client),
                Ok((client, _)) => {
                    // Here, so that every cut from now on is one of this connection's.
                    let cuts = line.rules.borrow().cuts;
                    connections.spawn(connection(client, line.clone(), cuts));
                }
                // It was gone before it was accepted, or too many files are open: neither lasts.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            // Reaped, so that those that ended do not pile up.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(mut client: TcpStream, line: Arc<Line>, cuts: u64) {
    let _counted = Counted::new(&line);
    let mut broker = None;
    let ended = tokio::select! {
        biased;
        _ = line.wait_for(|rules| rules.cuts != cuts) => false,
        ended = forward(&mut client, &mut broker, &line) => ended.is_ok(),
    };
    if !ended {
        [Some(client), broker].into_iter().flatten().for_each(reset);
    }
}

/// Forwards until both sides have ended.
///
/// # Errors
/// One of them failed, or there is no way to the broker.
async fn forward(
    client: &mut TcpStream,
    broker: &mut Option<TcpStream>,
    line: &Line,
) -> io::Result<()> {
    line.wait_for(|rules| !rules.silence).await;
    let broker = broker.insert(TcpStream::connect(&*line.target).await?);
    for socket in [&*client, &*broker] {
        socket.set_nodelay(true)?;
    }
    let (mut from_client, mut to_client) = client.split();
    let (mut from_broker, mut to_broker) = broker.split();
    tokio::try_join!(
        pump(&mut from_client, &mut to_broker, Direction::ToBroker, line),
        pump(&mut from_broker, &mut to_client, Direction::ToClient, line),
    )?;
    Ok(())
}

/// Forwards in one direction until its source ends, and passes that on.
async fn pump(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    direction: Direction,
    line: &Line,
) -> io::Result<()> {
    let mut advertised = match direction {
        Direction::ToBroker => None,
        Direction::ToClient => line.advertised.clone(),
    };
    let mut buffer = vec![0; PIECE];
    // Bytes in front of the buffer that wait for the next.
    let mut held = 0;
    loop {
        let read = from.read(&mut buffer[held..]).await?;
        let length = held + read;
        let delay = line.rules.borrow().delay;
        if !delay.is_zero() {
            sleep(delay).await;
        }
        // Asked after the read, which may have begun before a silence. The end of a source waits as well.
        line.wait_for(|rules| rules.forward(direction)).await;
        let ready = match &mut advertised {
            Some(advertised) if read > 0 => advertised.replace(&mut buffer[..length], held),
            _ => length,
        };
        let allowed = match direction {
            Direction::ToBroker => ready,
            Direction::ToClient => line.allow(ready),
        };
        to.write_all(&buffer[..allowed]).await?;
        if allowed < ready {
            line.cut();
            // Here, or the next piece would follow what was left out.
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if read == 0 {
            return to.shutdown().await;
        }
        buffer.copy_within(ready..length, 0);
        held = length - ready;
    }
}

/// Closes a socket so that its peer sees an error and not an end.
fn reset(socket: TcpStream) {
    // A socket that refuses is gone already.
    let _ = socket.set_zero_linger();
}

/// Counts a connection until it is dropped, however it ends.
struct Counted<'a>(&'a Line);

impl<'a> Counted<'a> {
    fn new(line: &'a Line) -> Self {
        line.connections.fetch_add(1, Relaxed);
        Self(line)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::time::timeout;

    use super::*;

    /// What fails when a test waits in vain.
    async fn within<F: Future>(future: F) -> F::Output {
        let limit = Duration::from_secs(10);
        timeout(limit, future).await.expect("waited in vain")
    }

    async fn until(what: &str, condition: impl Fn() -> bool) {
        let asking = async {
            while !condition() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let limit = Duration::from_secs(10);
        timeout(limit, asking).await.expect(what);
    }

    /// A server that sends back what it gets, and says what it got.
    async fn echo() -> (SocketAddr, watch::Receiver<Vec<u8>>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (got, all) = watch::channel(Vec::new());
        let got = Arc::new(got);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let got = got.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    while let Ok(length @ 1..) = socket.read(&mut buffer).await {
                        got.send_modify(|all| all.extend(&buffer[..length]));
                        if socket.write_all(&buffer[..length]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        (address, all)
    }

    async fn start() -> (Proxy, watch::Receiver<Vec<u8>>) {
        let (address, got) = echo().await;
        (Proxy::start(address).await.unwrap(), got)
    }

    async fn client(proxy: &Proxy) -> TcpStream {
        within(TcpStream::connect(proxy.address())).await.unwrap()
    }

    /// Reads this many bytes.
    async fn read(client: &mut TcpStream, length: usize) -> Vec<u8> {
        let mut buffer = vec![0; length];
        within(client.read_exact(&mut buffer)).await.unwrap();
        buffer
    }

    async fn says(client: &mut TcpStream, text: &[u8]) {
        client.write_all(text).await.unwrap();
        assert_eq!(read(client, text.len()).await, text);
    }

    async fn hears_nothing(client: &mut TcpStream) {
        let read = timeout(Duration::from_millis(50), client.read_u8());
        assert!(read.await.is_err(), "something came, or the line broke");
    }

    async fn is_reset(mut client: TcpStream) {
        let error = within(client.read_u8()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn forwards_in_both_directions() {
        let (proxy, _got) = start().await;
        let (mut one, mut other) = (client(&proxy).await, client(&proxy).await);
        says(&mut one, b"one order").await;
        says(&mut other, b"another").await;
        assert_eq!(proxy.connections(), 2);
    }

    #[tokio::test]
    async fn forwards_much() {
        let (proxy, _got) = start().await;
        let (mut reads, mut writes) = client(&proxy).await.into_split();
        let orders: Vec<u8> = (0..1_000_000).map(|n: u32| n.to_le_bytes()[0]).collect();
        let sent = orders.clone();
        let writing = tokio::spawn(async move {
            writes.write_all(&sent).await.unwrap();
            writes.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        within(reads.read_to_end(&mut got)).await.unwrap();
        assert!(got == orders);
        writing.await.unwrap();
        until("the connection still counts", || proxy.connections() == 0).await;
    }

    /// An answer of a Kafka at this address that tells its clients where it is.
    fn kafka_answer(at: SocketAddr) -> Vec<u8> {
        let (host, port) = (at.ip().to_string(), u32::from(at.port()));
        let length = u32::try_from(host.len()).unwrap() + 4;
        [
            &length.to_be_bytes()[..],
            host.as_bytes(),
            &port.to_be_bytes(),
        ]
        .concat()
    }

    #[tokio::test]
    async fn clients_of_kafka_are_told_its_own_port() {
        let (broker, got) = echo().await;
        let sent = kafka_answer(broker);
        for (url, told) in [
            (
                format!("kafka://user:p@ss@{broker},127.0.0.1:1?acks=all"),
                true,
            ),
            (format!("amqp://{broker}/%2f"), false),
        ] {
            let proxy = Proxy::before(&url).await.unwrap();
            let expected = kafka_answer(if told { proxy.address() } else { broker });
            let mut client = client(&proxy).await;
            for at in 0..sent.len() {
                let before = got.borrow().len();
                client.write_all(&sent[..at]).await.unwrap();
                let mut got = got.clone();
                let all = within(got.wait_for(|got| got.len() == before + at)).await;
                assert!(all.unwrap().ends_with(&sent[..at]));
                client.write_all(&sent[at..]).await.unwrap();
                assert_eq!(read(&mut client, sent.len()).await, expected, "{url}, {at}");
            }
        }
    }

    #[tokio::test]
    async fn the_end_of_a_connection_brings_what_was_held_back() {
        let (broker, _got) = echo().await;
        let proxy = Proxy::before(&format!("kafka://{broker}")).await.unwrap();
        let mut client = client(&proxy).await;
        let mut sent = kafka_answer(broker);
        sent.pop();
        client.write_all(&sent).await.unwrap();
        assert_eq!(read(&mut client, 4).await, sent[..4]);
        hears_nothing(&mut client).await;
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        within(client.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest, sent[4..]);
    }

    #[tokio::test]
    async fn cuts_what_is_connected() {
        let (proxy, _got) = start().await;
        let mut old = client(&proxy).await;
        says(&mut old, b"order").await;
        proxy.cut();
        is_reset(old).await;
        until("the connection still counts", || proxy.connections() == 0).await;
        says(&mut client(&proxy).await, b"order").await;
    }

    #[tokio::test]
    async fn cuts_in_the_middle_of_a_reply() {
        let (proxy, got) = start().await;
        let mut old = client(&proxy).await;
        says(&mut old, b"order").await;
        proxy.cut_after(3);
        old.write_all(b"another").await.unwrap();
        assert_eq!(read(&mut old, 3).await, b"ano");
        is_reset(old).await;
        assert_eq!(*got.borrow(), b"orderanother");
        // Once.
        says(&mut client(&proxy).await, b"a third order").await;
    }

    #[tokio::test]
    async fn nothing_follows_a_cut() {
        let (proxy, _got) = start().await;
        for round in 0..20 {
            let client = client(&proxy).await;
            let (mut from, mut to) = client.into_split();
            let most = PIECE + round;
            proxy.cut_after(most);
            let writing = tokio::spawn(async move { to.write_all(&[0; 40 * PIECE]).await });
            let mut heard = Vec::new();
            // Whatever of it is read before the reset.
            let end = within(from.read_to_end(&mut heard)).await;
            end.expect_err("the line was not cut");
            let heard = heard.len();
            assert!(heard <= most, "{heard} bytes of {most}");
            let _ = writing.await.unwrap();
        }
    }

    #[tokio::test]
    async fn refuses_what_is_new() {
        let (proxy, _got) = start().await;
        let mut old = client(&proxy).await;
        says(&mut old, b"order").await;
        proxy.refuse(true);
        // The kernel accepts for us before it is reset.
        if let Ok(new) = TcpStream::connect(proxy.address()).await {
            is_reset(new).await;
        }
        says(&mut old, b"another").await;
        proxy.refuse(false);
        says(&mut client(&proxy).await, b"a third order").await;
    }

    #[tokio::test]
    async fn is_silent_and_speaks_again() {
        let (proxy, got) = start().await;
        let mut old = client(&proxy).await;
        says(&mut old, b"order").await;
        proxy.silence(true);
        old.write_all(b"another").await.unwrap();
        let mut new = client(&proxy).await;
        new.write_all(b"a third").await.unwrap();
        hears_nothing(&mut old).await;
        hears_nothing(&mut new).await;
        assert_eq!(*got.borrow(), b"order");
        proxy.silence(false);
        assert_eq!(read(&mut old, 7).await, b"another");
        assert_eq!(read(&mut new, 7).await, b"a third");
    }

    #[tokio::test]
    async fn keeps_the_end_of_a_connection_to_itself_while_silent() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        let proxy = Proxy::start(target).await.unwrap();
        let mut client = client(&proxy).await;
        let (broker, _) = within(listener.accept()).await.unwrap();
        proxy.silence(true);
        drop(broker);
        hears_nothing(&mut client).await;
        proxy.silence(false);
        assert_eq!(within(client.read(&mut [0])).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn silences_replies_only() {
        let (proxy, mut got) = start().await;
        let mut client = client(&proxy).await;
        proxy.silence_replies(true);
        client.write_all(b"order").await.unwrap();
        within(got.wait_for(|got| got == b"order")).await.unwrap();
        hears_nothing(&mut client).await;
        proxy.silence_replies(false);
        assert_eq!(read(&mut client, 5).await, b"order");
    }

    #[tokio::test]
    async fn a_cut_ends_a_silence() {
        let (proxy, _got) = start().await;
        let mut old = client(&proxy).await;
        says(&mut old, b"order").await;
        proxy.silence(true);
        old.write_all(b"another").await.unwrap();
        let new = client(&proxy).await;
        until("it was not accepted", || proxy.connections() == 2).await;
        proxy.cut();
        is_reset(old).await;
        is_reset(new).await;
    }

    #[tokio::test]
    async fn holds_up() {
        let (proxy, _got) = start().await;
        let mut client = client(&proxy).await;
        says(&mut client, b"order").await;
        proxy.delay(Duration::from_millis(20));
        let begin = tokio::time::Instant::now();
        says(&mut client, b"another").await;
        assert!(begin.elapsed() >= Duration::from_millis(40));
    }

    #[tokio::test]
    async fn a_target_that_is_not_there_resets_the_client() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        drop(listener);
        let proxy = Proxy::start(target).await.unwrap();
        is_reset(client(&proxy).await).await;
    }

    #[tokio::test]
    async fn ends_when_dropped() {
        let (proxy, _got) = start().await;
        let mut old = client(&proxy).await;
        says(&mut old, b"order").await;
        let (address, line) = (proxy.address(), Arc::downgrade(&proxy.line));
        drop(proxy);
        assert!(!matches!(within(old.read(&mut [0])).await, Ok(1..)));
        until("a task is left", || line.strong_count() == 0).await;
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn puts_itself_into_urls() {
        let proxy = Proxy::start("127.0.0.1:1").await.unwrap();
        let address = proxy.address();
        for (before, after) in [
            ("amqp://localhost", "amqp://HERE"),
            ("amqp://localhost:5672", "amqp://HERE"),
            (
                "amqp://guest:p%40ss@[::1]:5672/%2f?heartbeat=10&name=a@b",
                "amqp://guest:p%40ss@HERE/%2f?heartbeat=10&name=a@b",
            ),
            ("redis://:p@ss@one:1/0", "redis://:p@ss@HERE/0"),
            ("kafka://one:1,two:2?acks=all", "kafka://HERE?acks=all"),
            ("localhost:5672", "HERE"),
        ] {
            let after = after.replace("HERE", &address.to_string());
            assert_eq!(proxy.url(before), after);
        }
    }
}
