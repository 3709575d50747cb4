//! Messages per second on one core: the backend alone and the whole framework, in turn, several times.
//!
//! `cargo bench -p event-benches --bench memory [-- --messages N] [--rounds N]`

use std::process::ExitCode;

use event_benches::{Line, Order, RawBytes, Taken, backend, framework, option, payload};
use event_core::Result;

/// One row of the table, with what each round measured.
struct Row {
    name: &'static str,
    rounds: Vec<f64>,
}

const NAMES: [&str; 8] = [
    "backend alone, 64 B",
    "framework, raw 64 B",
    "framework, raw 64 B, 8 producers",
    "framework, raw 1 KiB",
    "framework, JSON 64 B",
    "framework, JSON 64 B, 8 producers",
    "framework, JSON 1 KiB",
    "framework, JSON 1 KiB, 8 producers",
];

async fn measure(row: usize, n: u64) -> Result<Taken> {
    let small: &'static RawBytes = Box::leak(Box::new(RawBytes(payload(64))));
    let large: &'static RawBytes = Box::leak(Box::new(RawBytes(payload(1_024))));
    match row {
        0 => backend(n, payload(64)).await,
        1 => framework(n, 1, move |_| small.clone()).await,
        2 => framework(n, 8, move |_| small.clone()).await,
        3 => framework(n, 1, move |_| large.clone()).await,
        4 => framework(n, 1, Line::new).await,
        5 => framework(n, 8, Line::new).await,
        6 => framework(n / 8, 1, Order::new).await,
        _ => framework(n / 8, 8, Order::new).await,
    }
}

async fn run() -> Result<()> {
    let (messages, rounds) = (option("--messages", 2_000_000), option("--rounds", 5));
    let mut rows: Vec<Row> = NAMES
        .iter()
        .map(|name| Row {
            name,
            rounds: Vec::new(),
        })
        .collect();
    // In turn, so that a slow moment of a shared machine does not hit one row alone.
    for _ in 0..rounds {
        for (at, row) in rows.iter_mut().enumerate() {
            row.rounds.push(measure(at, messages).await?.per_second());
        }
    }
    println!(
        "{:<36} {:>10} {:>10} {:>10} {:>8} {:>8}",
        "million messages per second", "median", "least", "most", "ns each", "ratio"
    );
    let alone = median(&mut rows[0].rounds.clone());
    for row in &mut rows {
        let median = median(&mut row.rounds);
        let (least, most) = (row.rounds[0], row.rounds[row.rounds.len() - 1]);
        let name = row.name;
        println!(
            "{name:<36} {:>10.2} {:>10.2} {:>10.2} {:>8.0} {:>8.2}",
            median / 1e6,
            least / 1e6,
            most / 1e6,
            1e9 / median,
            median / alone
        );
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    match runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(run()).map_err(|error| error.to_string()))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
