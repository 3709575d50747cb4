//! A slot of a cluster goes to another node while it is published to and consumed from.

use std::cell::Cell;

use event_conformance::{CaseResult, Failure, Ledger, ensure, orders::order};
use redis::Value;

use crate::{
    kinds::context,
    server::{Cluster, Server},
};

fn text(value: Value) -> CaseResult<String> {
    match value {
        Value::BulkString(bytes) => Ok(String::from_utf8(bytes)?),
        other => Err(Failure::new(format!("not a text: {other:?}"))),
    }
}

fn number(value: Value) -> CaseResult<i64> {
    match value {
        Value::Int(number) => Ok(number),
        other => Err(Failure::new(format!("not a number: {other:?}"))),
    }
}

/// Moves a slot with its keys, a few at a time.
fn migrate(from: &Server, to: &Server, all: &[Server], slot: &str) -> CaseResult {
    let (source, target) = (
        text(from.ask(&["CLUSTER", "MYID"])?)?,
        text(to.ask(&["CLUSTER", "MYID"])?)?,
    );
    to.ask(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &source])?;
    from.ask(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &target])?;
    let port = to.port.to_string();
    loop {
        let Value::Array(keys) = from.ask(&["CLUSTER", "GETKEYSINSLOT", slot, "2"])? else {
            return Err(Failure::new("no list of keys"));
        };
        if keys.is_empty() {
            break;
        }
        for key in keys {
            from.ask(&["MIGRATE", "127.0.0.1", &port, &text(key)?, "0", "5000"])?;
        }
    }
    // The new owner first: who is told of it by the old one would send publishes back.
    for node in [to, from].into_iter().chain(all) {
        node.ask(&["CLUSTER", "SETSLOT", slot, "NODE", &target])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_moves_under_load() -> CaseResult {
    let cluster = Cluster::start()?;
    let cx = context(&cluster.url(), "moves.").await?;
    let desk = cx.desk();
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    let ledger = Ledger::new();
    let over = Cell::new(false);
    let bus = cx.process().await?;
    let publishing = async {
        let mut next = 0;
        while !over.get() {
            for result in ledger.publish_all(&bus, (next..next + 20).map(order)).await {
                result?;
            }
            next += 20;
        }
        Ok(())
    };
    let nodes = &cluster.nodes;
    let slot = number(nodes[0].ask(&["CLUSTER", "KEYSLOT", "{moves.order}"])?)?;
    let owner = usize::try_from(slot / 5_461).unwrap_or(0).min(2);
    let slot = slot.to_string();
    let moving = async {
        for turn in 0..3 {
            let (from, to) = ((owner + turn) % 3, (owner + turn + 1) % 3);
            desk.sees(200 * (turn + 1)).await?;
            migrate(&nodes[from], &nodes[to], nodes, &slot)?;
        }
        let before = desk.seen().len();
        desk.sees(before + 200).await?;
        over.set(true);
        Ok::<_, Failure>(())
    };
    tokio::try_join!(publishing, moving)?;
    desk.until("all that was confirmed", |seen| {
        ledger.balance(seen).lost == 0
    })
    .await?;
    let balance = ledger.balance(&desk.seen());
    eprintln!("a slot that moves: {balance}");
    ensure!(balance.confirmed >= 800, "{balance}");
    Ok(())
}
