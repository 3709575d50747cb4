//! Publishes orders, and ends.

use std::process::ExitCode;

use clap::Parser;
use shop::{Submission, Terminal, command};
use tracing_subscriber::filter::LevelFilter;

/// Publishes orders, and ends. Start billing and logistic first: an order that nobody takes is an error.
///
/// It handles nothing, and so it prints no rows in any format.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    common: command::Common,
    #[command(flatten)]
    source: command::Source,
}

#[tokio::main]
async fn main() -> ExitCode {
    command::exit(run(&Arguments::parse()).await)
}

async fn run(Arguments { common, source }: &Arguments) -> anyhow::Result<ExitCode> {
    let terminal = Terminal::default();
    command::log(LevelFilter::WARN, &terminal);
    let mut orders = source.open()?;
    let bus = common.connect().await?;
    terminal.start(orders.bytes());
    let mut submission = Submission::new(&bus, &terminal);
    while let Some(batch) = orders.next().await? {
        submission.publish(batch).await;
    }
    terminal.finish();
    if bus.counters().unroutable > 0 {
        terminal.report(
            "start billing and logistic first, on the same broker; in memory, run shop instead",
        );
    }
    bus.close().await?;
    let submitted = submission.submitted();
    tracing::info!(?submitted, "done");
    Ok(if submitted.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
