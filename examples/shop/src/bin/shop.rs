//! The whole shop in one process: publishes orders, bills and packs them, and ends.

use std::{process::ExitCode, sync::Arc, time::Instant};

use anyhow::{Context, bail};
use clap::Parser;
use shop::{
    Orders, Outstanding, Rows, Submission, Summary, Terminal, billing,
    command::{self, INTERRUPTED},
    logistic,
};
use switchboard::{Bus, Running, Service};
use tracing_subscriber::filter::LevelFilter;

/// The whole shop in one process: publishes orders, bills and packs them, and ends when all are handled.
///
/// Prints a row for each delivery on standard output, and a summary on standard error. Exits with 1 when a
/// line is not a valid order, or an order was not published or became a dead letter; with 130 when it was
/// interrupted.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    common: command::Common,
    #[command(flatten)]
    source: command::Source,
}

/// The most orders that may be published and not handled, with the batch that is being published. What waits
/// on the broker is bounded by it, however long the file is.
const OUTSTANDING: usize = 4_000;

#[tokio::main]
async fn main() -> ExitCode {
    command::exit(run(&Arguments::parse()).await)
}

async fn run(Arguments { common, source }: &Arguments) -> anyhow::Result<ExitCode> {
    let terminal = Terminal::default();
    command::log(LevelFilter::INFO, &terminal);
    let orders = source.open()?;
    let bus = common.connect().await?;
    let outstanding = Arc::new(Outstanding::new(["billing", "logistic"]));
    let rows = Arc::new(Rows::new(common.format, terminal.clone()));
    let start = |service: Service| {
        let (rows, outstanding) = (rows.clone(), outstanding.clone());
        let watched = service.inspect(move |observed| {
            rows.print(observed);
            outstanding.note(observed);
        });
        watched.start(&bus)
    };
    // The queues exist before anything is published.
    let mut billing = start(billing::service()).await?;
    let mut logistic = start(logistic::service()).await?;

    // Until here there is nothing to lose, and a signal ends the process by itself.
    let (mut first, mut second) = switchboard::shutdown_signal().into_parts();
    let started = Instant::now();
    terminal.start(orders.bytes());
    let mut submission = Submission::new(&bus, &terminal);
    let ended = tokio::select! {
        read = submit(orders, &mut submission, &outstanding) => read.map(|()| End::Handled),
        () = &mut first => Ok(End::Interrupted),
        ended = billing.join() => early("billing", ended),
        ended = logistic.join() => early("logistic", ended),
    };
    let stopped = tokio::select! {
        stopped = stop(billing, logistic, &bus) => stopped,
        () = &mut second => Ok(()),
    };
    terminal.finish();
    let summary = Summary {
        submitted: submission.submitted(),
        handled: outstanding.handled(),
        outstanding: outstanding.count(),
        elapsed: started.elapsed(),
    };
    terminal.report(&summary);
    let ended = ended?;
    stopped?;
    Ok(match ended {
        End::Interrupted => INTERRUPTED.into(),
        End::Handled if summary.is_success() => ExitCode::SUCCESS,
        End::Handled => ExitCode::FAILURE,
    })
}

/// How a run ended when nothing went wrong with the shop itself.
enum End {
    Handled,
    Interrupted,
}

/// Publishes all orders, and waits until they are handled.
async fn submit(
    mut orders: Orders,
    submission: &mut Submission<'_>,
    outstanding: &Outstanding,
) -> anyhow::Result<()> {
    let read = loop {
        match orders.next().await {
            Ok(Some(batch)) => outstanding.expect(submission.publish(batch)).await,
            Ok(None) => break Ok(()),
            // What was published before is handled all the same.
            Err(error) => break Err(error),
        }
        outstanding.at_most(OUTSTANDING).await;
    };
    outstanding.at_most(0).await;
    read
}

/// A service ends only after it was stopped, or when one of its queues failed for good.
fn early(service: &str, ended: Result<(), switchboard::Error>) -> anyhow::Result<End> {
    ended.with_context(|| format!("{service} failed"))?;
    bail!("{service} ended early")
}

async fn stop(billing: Running, logistic: Running, bus: &Bus) -> anyhow::Result<()> {
    let (billing, logistic) = tokio::join!(billing.shutdown(), logistic.shutdown());
    billing.and(logistic)?;
    Ok(bus.close().await?)
}
