//! Bills orders until SIGTERM or SIGINT.

use std::process::ExitCode;

use clap::Parser;
use shop::{billing, command};

/// Bills orders, and prints a row for each. Ends at SIGTERM or SIGINT.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    common: command::Common,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    command::exit(command::serve(billing::service(), &arguments.common).await)
}
