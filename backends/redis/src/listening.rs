//! A connection that listens to a channel.

use event_core::Result;
use redis::{AsyncConnectionConfig, Cmd, PushInfo, PushKind, Value};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep_until, timeout},
};

use crate::{error, link::Live, server::Servers, shared::PATIENCE};

/// A connection that listens to a channel, until it is lost.
pub(crate) struct Listening {
    live: Live,
    pushed: mpsc::UnboundedReceiver<PushInfo>,
    heartbeat: Duration,
    next_ping: Instant,
}

impl Listening {
    /// Connects, and subscribes with one of the commands for it.
    pub(crate) async fn open(
        servers: &Servers,
        exchange: Option<&str>,
        command: &str,
        channel: &str,
    ) -> Result<Self> {
        let (pushes, pushed) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new().set_push_sender(pushes);
        let live = servers.connect_with(exchange, &config, true).await?;
        let what = format!("listen to channel `{channel}`");
        let mut cmd = Cmd::new();
        cmd.arg(command).arg(channel);
        match timeout(PATIENCE, live.ask(&cmd)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error::failed(&what, &error)),
            Err(_) => return Err(error::silent(&what)),
        }
        let heartbeat = servers.endpoints.heartbeat;
        Ok(Self {
            live,
            pushed,
            heartbeat,
            next_ping: Instant::now() + heartbeat,
        })
    }

    /// The next message; nothing when the connection is lost.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        let mut ping = Cmd::new();
        ping.arg("PING");
        loop {
            let pushed = tokio::select! {
                biased;
                pushed = self.pushed.recv() => pushed?,
                () = sleep_until(self.next_ping) => {
                    self.next_ping = Instant::now() + self.heartbeat;
                    match timeout(self.heartbeat, self.live.ask(&ping)).await {
                        Ok(Ok(_)) => continue,
                        _ => return None,
                    }
                }
            };
            match (pushed.kind, pushed.data.into_iter().nth(1)) {
                // A node that gave the channel's slot away stays connected, and says no more.
                (PushKind::Disconnection | PushKind::Unsubscribe | PushKind::SUnsubscribe, _) => {
                    return None;
                }
                (PushKind::Message | PushKind::SMessage, Some(Value::BulkString(text))) => {
                    return Some(text);
                }
                _ => {}
            }
        }
    }
}
