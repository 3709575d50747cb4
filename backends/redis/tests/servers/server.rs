//! Redis servers of a test's own: a cluster, a master with a replica and a Sentinel, one with TLS.

use std::{
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread::sleep,
    time::{Duration, Instant},
};

use redis::{Client, Cmd, Value};

/// How long something may take that a server does by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server on a free port, killed when it is dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    folder: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts a server with these settings, and waits until it answers.
    pub(crate) fn start(arguments: &[&str]) -> io::Result<Self> {
        let mut server = Self::new()?;
        let port = server.port.to_string();
        let common = ["--bind", "127.0.0.1", "--port", &port, "--save", ""];
        let arguments = common.iter().chain(arguments);
        server.arguments = arguments.map(|text| text.to_string()).collect();
        server.restart()?;
        Ok(server)
    }

    fn new() -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Relaxed);
        let folder = std::env::temp_dir().join(format!("event-redis-{}-{number}", process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self {
            port: free_port()?,
            folder,
            arguments: Vec::new(),
            child: None,
        })
    }

    /// Starts a Sentinel that watches a master under this name, alone.
    pub(crate) fn sentinel(name: &str, master: u16) -> io::Result<Self> {
        let mut sentinel = Self::new()?;
        let port = sentinel.port;
        let rules = format!(
            "bind 127.0.0.1\nport {port}\nsentinel monitor {name} 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds {name} 1000\nsentinel failover-timeout {name} 5000\n"
        );
        // It writes what it learns into its file.
        fs::write(sentinel.folder.join("sentinel.conf"), rules)?;
        sentinel.arguments = ["sentinel.conf", "--sentinel"].map(str::to_owned).to_vec();
        sentinel.restart()?;
        Ok(sentinel)
    }

    /// Starts it again where it was, with its data.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        let log = fs::File::create(self.folder.join("log"))?;
        // It ends with this process, however that ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "redis-server"])
            .args(&self.arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()?;
        self.child = Some(child);
        self.until("it answers", |server| match server.ask(&["PING"]) {
            Ok(_) => true,
            Err(error) => error.code() == Some("NOAUTH"),
        })
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Asks it something.
    pub(crate) fn ask(&self, words: &[&str]) -> redis::RedisResult<Value> {
        let client = Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
        let mut cmd = Cmd::new();
        for word in words {
            cmd.arg(*word);
        }
        cmd.query(&mut connection)
    }

    /// Waits until something is so.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            if Instant::now() > end {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                let text = format!("waited in vain until {what} (port {}): {log}", self.port);
                return Err(io::Error::other(text));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// A line of what it says about itself: the value behind a name.
    pub(crate) fn info(&self, section: &str, name: &str) -> Option<String> {
        let command = match section {
            "cluster" => ["CLUSTER", "INFO"],
            section => ["INFO", section],
        };
        let Ok(Value::BulkString(text)) = self.ask(&command) else {
            return None;
        };
        let text = String::from_utf8(text).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Some(line?.strip_prefix(':')?.trim().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        // A file of its own that is left over hurts nobody.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub(crate) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Three masters that share the slots.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> io::Result<Self> {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let bus = free_port()?.to_string();
            nodes.push(Server::start(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "5000",
                "--appendonly",
                "yes",
            ])?);
        }
        let asked = |node: &Server, words: &[&str]| {
            let answer = node.ask(words);
            answer.map_err(|error| io::Error::other(error.to_string()))
        };
        for (node, [epoch, first, last]) in nodes.iter().zip([
            ["1", "0", "5460"],
            ["2", "5461", "10922"],
            ["3", "10923", "16383"],
        ]) {
            // Nodes that meet with one epoch settle later who takes another, and who gave a slot away could claim it
            // anew by that.
            asked(node, &["CLUSTER", "SET-CONFIG-EPOCH", epoch])?;
            asked(node, &["CLUSTER", "ADDSLOTSRANGE", first, last])?;
        }
        for node in &nodes[1..] {
            let at = node
                .arguments
                .iter()
                .position(|text| text == "--cluster-port");
            let bus = node.arguments[at.map_or(0, |at| at + 1)].clone();
            let port = node.port.to_string();
            asked(&nodes[0], &["CLUSTER", "MEET", "127.0.0.1", &port, &bus])?;
        }
        for node in &nodes {
            node.until("the cluster is whole", |node| {
                node.info("cluster", "cluster_state").as_deref() == Some("ok")
                    && node.info("cluster", "cluster_known_nodes").as_deref() == Some("3")
            })?;
        }
        Ok(Self { nodes })
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<_> = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port))
            .collect();
        format!("redis://{}?cluster", hosts.join(","))
    }
}
