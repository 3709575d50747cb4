//! What the commands have in common: arguments, logs, exit codes, and running a service.

use std::{
    env,
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use switchboard::{Bus, Service, shutdown_signal};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{
    orders::Orders,
    rows::{Format, Rows},
    terminal::Terminal,
};

/// The exit code when something was refused, not published, or given up.
pub const FAILURE: i32 = 1;
/// The exit code of a run that SIGINT or SIGTERM cut short: what a shell reports for a process that SIGINT ended.
pub const INTERRUPTED: u8 = 130;
/// The exit code when nobody reads the rows any more: what a shell reports for a process that SIGPIPE ended.
pub const BROKEN_PIPE: i32 = 141;

/// The arguments of every command.
#[derive(Debug, Args)]
pub struct Common {
    /// The broker, such as memory://. By default what the environment variable SWITCHBOARD_URL says; without
    /// it the only broker that is compiled in, or memory://
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// How a delivery is printed, once it is handled
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// Where orders come from.
#[derive(Debug, Args)]
pub struct Source {
    /// Orders, one JSON object on a line; - is standard input. By default one order, to see the shop at work
    #[arg(long, value_name = "FILE")]
    orders: Option<PathBuf>,
}

impl Source {
    /// Opens it.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(&self) -> anyhow::Result<Orders> {
        Orders::open(self.orders.as_deref())
    }
}

impl Common {
    /// Connects to the broker.
    ///
    /// # Errors
    /// The URL is not one, or the broker cannot be reached.
    pub async fn connect(&self) -> Result<Bus, switchboard::Error> {
        match &self.url {
            Some(url) => switchboard::connect(url).await,
            None => switchboard::connect_from_env().await,
        }
    }
}

/// Logs to standard error: what the environment variable `RUST_LOG` says, else this level.
pub fn log(level: LevelFilter, terminal: &Terminal) {
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .from_env_lossy();
    let terminal = terminal.clone();
    let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_ansi(colours)
        .with_env_filter(filter)
        .with_writer(move || terminal.clone())
        .init();
}

/// Ends a command; says what went wrong.
pub fn exit(ended: anyhow::Result<ExitCode>) -> ExitCode {
    ended.unwrap_or_else(|error| {
        Terminal::default().report(format_args!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

/// Runs a service until SIGTERM or SIGINT.
///
/// # Errors
/// The service cannot start, or one of its queues failed for good.
pub async fn serve(service: Service, common: &Common) -> anyhow::Result<ExitCode> {
    let terminal = Terminal::default();
    log(LevelFilter::WARN, &terminal);
    let bus = common.connect().await?;
    let rows = Arc::new(Rows::new(common.format, terminal));
    service
        .inspect(move |observed| rows.print(observed))
        .run(&bus, shutdown_signal())
        .await?;
    bus.close().await?;
    Ok(ExitCode::SUCCESS)
}
