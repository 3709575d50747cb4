//! Plain channels, as the outside world of the warehouse uses them.

use std::time::Duration;

use event_conformance::{CaseResult, Failure, ensure, ensure_eq};
use event_core::{ErrorKind, Result};
use event_redis::{AtMostOnceChannels, AtMostOnceSubscription, Heard};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::server::Server;

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct ChangeQuantity {
    batchref: String,
    qty: i64,
}

fn change(qty: i64) -> ChangeQuantity {
    ChangeQuantity {
        batchref: "batch-1".to_owned(),
        qty,
    }
}

async fn next(
    subscription: &mut AtMostOnceSubscription<ChangeQuantity>,
) -> CaseResult<Result<Heard<ChangeQuantity>>> {
    let next = timeout(Duration::from_secs(20), subscription.next()).await?;
    next.ok_or_else(|| Failure::new("the subscription ended"))
}

#[tokio::test]
async fn a_plain_channel_carries_bare_json() -> CaseResult {
    let server = Server::start(&[])?;
    let channels = AtMostOnceChannels::connect(&server.url()).await?;
    ensure_eq!(
        channels
            .publish("change_batch_quantity", &change(1))
            .await?,
        0,
        "who heard it"
    );
    let mut changes = channels.subscribe("change_batch_quantity").await?;
    ensure_eq!(
        channels
            .publish("change_batch_quantity", &change(5))
            .await?,
        1,
        "who heard it"
    );
    let heard = next(&mut changes).await??;
    ensure_eq!(heard.value, change(5), "what was heard");
    ensure_eq!(
        &heard.bytes[..],
        &br#"{"batchref":"batch-1","qty":5}"#[..],
        "its bytes"
    );
    // From a program that knows none of this, and nonsense before it.
    server.ask(&["PUBLISH", "change_batch_quantity", "{\"batchref\": 7"])?;
    server.ask(&[
        "PUBLISH",
        "change_batch_quantity",
        r#"{"batchref": "old", "qty": 5}"#,
    ])?;
    let Err(error) = next(&mut changes).await? else {
        return Err(Failure::new("nonsense was understood"));
    };
    ensure_eq!(error.kind(), ErrorKind::Decode, "kind of: {error}");
    ensure_eq!(
        next(&mut changes).await??.value.batchref,
        "old",
        "what came after it"
    );
    Ok(())
}

#[tokio::test]
async fn a_plain_channel_says_that_it_missed_something() -> CaseResult {
    let mut server = Server::start(&[])?;
    let channels = AtMostOnceChannels::connect(&server.url()).await?;
    let mut changes = channels.subscribe("change_batch_quantity").await?;
    server.kill();
    server.restart()?;
    let Err(error) = next(&mut changes).await? else {
        return Err(Failure::new("nothing is said of the gap"));
    };
    ensure_eq!(error.kind(), ErrorKind::Connection, "kind of: {error}");
    let publishing = async {
        while channels
            .publish("change_batch_quantity", &change(6))
            .await
            .unwrap_or(0)
            == 0
        {
            tokio::task::yield_now().await;
        }
        Ok::<_, Failure>(())
    };
    let (heard, published) = tokio::join!(next(&mut changes), publishing);
    published?;
    ensure!(heard??.value == change(6), "what was heard");
    Ok(())
}
