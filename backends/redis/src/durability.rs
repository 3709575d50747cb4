//! What a server keeps, as far as it says so: looked at once when a transport connects.

use event_core::{Error, ErrorKind, Result};
use redis::{Cmd, Value};

use crate::{error, link::Live, server::text, url::Endpoints};

/// What Redis takes if nobody changed it.
const MAX_BULK: usize = 512 << 20;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The most bytes that a payload may have.
    pub(crate) max_message: usize,
}

/// Looks at the server's settings, warns of those that lose messages, and refuses them if the URL asks for it.
pub(crate) async fn look(live: &Live, endpoints: &Endpoints) -> Result<Found> {
    let persistence = info(live, "persistence").await?;
    let memory = info(live, "memory").await?;
    let policy = field(&memory, "maxmemory_policy").unwrap_or("noeviction");
    let mut dangers = Vec::new();
    if field(&persistence, "aof_enabled") == Some("0") {
        dangers.push(
            "it keeps no append-only file, so a restart loses messages; set `appendonly yes`"
                .to_owned(),
        );
    } else if let Some(sync) = config(live, "appendfsync").await
        && sync == "no"
    {
        dangers.push(
            "it leaves writing to the operating system; set `appendfsync everysec` or `always`"
                .to_owned(),
        );
    }
    if policy != "noeviction" {
        dangers.push(format!(
            "its `maxmemory-policy` is `{policy}`, which deletes queues when memory runs short; set `noeviction`"
        ));
    }
    for danger in &dangers {
        tracing::warn!(target: "switchboard", server = live.address, "Redis may lose messages: {danger}");
    }
    if endpoints.require_durable && !dangers.is_empty() {
        return Err(Error::new(
            ErrorKind::Setup,
            format!(
                "Redis at {} is not durable, which `require_durable` asks for: {}",
                live.address,
                dangers.join("; ")
            ),
        ));
    }
    let bulk = config(live, "proto-max-bulk-len").await;
    let bulk = bulk.and_then(|text| text.parse().ok()).unwrap_or(MAX_BULK);
    let wanted = endpoints
        .max_message
        .map(|most| usize::try_from(most).unwrap_or(usize::MAX));
    Ok(Found {
        max_message: wanted.unwrap_or(bulk).min(bulk),
    })
}

async fn info(live: &Live, section: &str) -> Result<String> {
    let mut cmd = Cmd::new();
    cmd.arg("INFO").arg(section);
    let what = format!("ask Redis at {} for its settings", live.address);
    match live.ask(&cmd).await {
        Ok(value) => text(&value).ok_or_else(|| error::strange(&what)),
        Err(error) => Err(error::failed(&what, &error)),
    }
}

/// A setting, which only users with the right to it are told.
async fn config(live: &Live, name: &str) -> Option<String> {
    let mut cmd = Cmd::new();
    cmd.arg("CONFIG").arg("GET").arg(name);
    match live.ask(&cmd).await {
        Ok(Value::Array(pair)) => pair.get(1).and_then(text),
        _ => None,
    }
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}
