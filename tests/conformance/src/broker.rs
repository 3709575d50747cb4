//! A real broker that a test may kill.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{self, Command, Output, Stdio},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::task::spawn_blocking;

/// The script that starts brokers, in this repository.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/brokers");

/// A real broker of a test's own, as a process on this machine: for faults that would hurt other tests.
///
/// It is started by `scripts/brokers` of this repository, with a state folder of its own, and stopped when it is
/// dropped, which takes a moment and holds the thread.
#[derive(Debug)]
pub struct Broker {
    name: &'static str,
    state: PathBuf,
    url: String,
}

impl Broker {
    /// Starts a broker, `rabbitmq`, `redis` or `kafka`, and waits until it answers. `kafka-cluster` is three of
    /// Kafka that replicate: `kafka1`, `kafka2` and `kafka3`, in the order of the URL.
    ///
    /// # Errors
    /// It does not start; the error says what the script said.
    pub async fn start(name: &'static str) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Relaxed);
        let folder = format!("switchboard-{}-{number}", process::id());
        let mut broker = Self {
            name,
            state: std::env::temp_dir().join(folder),
            url: String::new(),
        };
        broker.url = broker.up().await?;
        Ok(broker)
    }

    /// Where it is, with its user and password. It stays there when it comes back after [`kill`](Self::kill).
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder with its data, its log, and the files `process` and `ports` of the script. A cluster has one for
    /// each broker, [`node_folder`](Self::node_folder).
    pub fn folder(&self) -> PathBuf {
        self.state.join(self.name)
    }

    /// The same for one broker of a cluster, counted from 1.
    pub fn node_folder(&self, node: u8) -> PathBuf {
        self.state.join(format!("kafka{node}"))
    }

    /// One of its ports, by the name that the script gives it.
    ///
    /// # Errors
    /// It has no port of that name.
    pub fn port(&self, name: &str) -> io::Result<u16> {
        let ports = fs::read_to_string(self.folder().join("ports"))?;
        ports
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(of, _)| *of == name)
            .and_then(|(_, port)| port.parse().ok())
            .ok_or_else(|| io::Error::other(format!("{} has no port `{name}`", self.name)))
    }

    /// Kills it with a signal that it cannot handle.
    ///
    /// # Errors
    /// It did not run, or it is a cluster.
    pub async fn kill(&self) -> io::Result<()> {
        kill(&self.folder()).await
    }

    /// Kills one broker of a cluster, counted from 1, with a signal that it cannot handle.
    ///
    /// # Errors
    /// It did not run, or this is no cluster.
    pub async fn kill_node(&self, node: u8) -> io::Result<()> {
        kill(&self.node_folder(node)).await
    }

    /// Brings back what was killed, with the data that it had stored, and waits until it answers; a cluster, until
    /// each of its brokers knows all.
    ///
    /// # Errors
    /// It does not start; the error says what the script said.
    pub async fn restart(&self) -> io::Result<()> {
        self.up().await.map(drop)
    }

    async fn up(&self) -> io::Result<String> {
        let output = succeed(script("up", self.name, &self.state)).await?;
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.trim().split_once('=') {
            Some((_, url)) => Ok(url.to_owned()),
            None => Err(io::Error::other(format!("{SCRIPT} printed {output:?}"))),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Nobody is left to tell that it did not stop.
        let _ = script("down", self.name, &self.state).output();
        let _ = fs::remove_dir_all(&self.state);
    }
}

fn script(command: &str, broker: &str, state: &Path) -> Command {
    let mut script = Command::new(SCRIPT);
    script.args([command, broker]);
    script.env("SWITCHBOARD_BROKERS_DIR", state);
    script
}

/// Kills the broker in this folder.
async fn kill(folder: &Path) -> io::Result<()> {
    let record = fs::read_to_string(folder.join("process"))?;
    // The other words tell it from a later process with this id.
    let pid = record.split(' ').next().unwrap_or_default().to_owned();
    let mut kill = Command::new("bash");
    kill.args(["-c", "kill -KILL \"$0\"", &pid]);
    succeed(kill).await.map(drop)
}

/// Runs a command to its end, on a thread that may wait.
async fn succeed(mut command: Command) -> io::Result<Output> {
    let output = spawn_blocking(move || command.stdin(Stdio::null()).output()).await??;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{}: {said}", output.status)))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    /// Asks a Redis, which starts in no time.
    async fn ask(broker: &Broker, request: &str) -> io::Result<String> {
        let port = broker.port("redis")?;
        let mut client = TcpStream::connect(("127.0.0.1", port)).await?;
        client.write_all(request.as_bytes()).await?;
        client.shutdown().await?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn is_killed_and_comes_back_with_its_data() {
        let broker = Broker::start("redis").await.unwrap();
        let url = format!("redis://127.0.0.1:{}", broker.port("redis").unwrap());
        assert_eq!(broker.url(), url);
        assert_eq!(ask(&broker, "SET order 7\r\n").await.unwrap(), "+OK\r\n");

        broker.kill().await.unwrap();
        broker.restart().await.unwrap();
        assert_eq!(broker.url(), url);
        assert_eq!(ask(&broker, "GET order\r\n").await.unwrap(), "$1\r\n7\r\n");

        let folder = broker.folder();
        assert!(folder.join("log").exists());
        drop(broker);
        assert!(!folder.exists());
        assert!(TcpStream::connect(&url["redis://".len()..]).await.is_err());
    }

    #[tokio::test]
    async fn says_what_the_script_said() {
        let error = Broker::start("rabbit").await.unwrap_err().to_string();
        assert!(error.contains("unknown broker `rabbit`"), "{error}");
    }
}
