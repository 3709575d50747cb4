//! What measurements of several ways to do one thing have in common: a meter, and a table that compares them.

use std::time::Instant;

/// Who publishes or consumes.
#[derive(Clone, Copy, Debug)]
pub enum By {
    /// The client library alone.
    Client,
    /// The backend alone.
    Backend,
    /// The whole framework.
    Framework,
}

impl By {
    /// What is compared, in the order of the rows.
    pub const ALL: [Self; 3] = [Self::Client, Self::Backend, Self::Framework];

    /// All of them with their places among the rows. In turn, so that a slow moment of a shared machine does not hit
    /// one row alone; and each of them first once, so that none always has a queue that the one before it has just left.
    pub fn turns(round: usize) -> impl Iterator<Item = (usize, Self)> {
        let places = (0..Self::ALL.len()).map(move |turn| (turn + round) % Self::ALL.len());
        places.map(|at| (at, Self::ALL[at]))
    }
}

/// What one measurement took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// How many messages.
    pub per_second: f64,
    /// Of the processor, for each message, in microseconds.
    pub cpu: f64,
}

impl Cost {
    /// The same, if it was for so many times as many messages.
    pub fn times(self, more: f64) -> Self {
        Self {
            per_second: self.per_second * more,
            cpu: self.cpu / more,
        }
    }
}

/// Time and processor time of this process.
#[derive(Debug)]
pub struct Meter {
    start: Instant,
    ticks: u64,
}

impl Meter {
    /// Measures from now on.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            ticks: ticks(),
        }
    }

    /// What so many messages took.
    pub fn stop(self, messages: u64) -> Cost {
        let messages = messages as f64;
        // A tick of Linux is 10 ms.
        let cpu = (ticks() - self.ticks) as f64 * 1e4 / messages;
        Cost {
            per_second: messages / self.start.elapsed().as_secs_f64(),
            cpu,
        }
    }
}

/// Processor time of all threads, in ticks; 0 where there is no `/proc`.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may contain anything: utime and stime are the 12th and 13th.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let times = fields.split_whitespace().skip(11).take(2);
    times.filter_map(|time| time.parse::<u64>().ok()).sum()
}

/// One row of the table, with what each round measured.
#[derive(Debug)]
struct Row {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
    cpu: Vec<f64>,
    /// The row that it is compared with.
    beside: usize,
}

/// What was measured in several rounds.
#[derive(Debug)]
pub struct Table {
    client: &'static str,
    rows: Vec<Row>,
}

impl Table {
    /// No rows, in which the client library will have this name.
    pub fn new(client: &'static str) -> Self {
        Self {
            client,
            rows: Vec::new(),
        }
    }

    /// How many rows there are, and so the number of the next.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Adds rows that are compared with the first of them. Answers its number.
    pub fn each(&mut self, what: &str, unit: &'static str, of: &[By]) -> usize {
        let first = self.rows();
        for by in of {
            let by = match by {
                By::Client => self.client,
                By::Backend => "backend",
                By::Framework => "framework",
            };
            self.row(format!("{what}, {by}"), unit, first);
        }
        first
    }

    /// Adds rows for how long something takes. Answers the number of the first.
    pub fn percentiles(&mut self, what: &str) -> usize {
        let first = self.each(&format!("{what}, p50"), "µs", &By::ALL);
        self.each(&format!("{what}, p99"), "µs", &By::ALL);
        first
    }

    /// Adds a row that is compared with another one. Answers its number.
    pub fn row(&mut self, name: String, unit: &'static str, beside: usize) -> usize {
        self.rows.push(Row {
            name,
            unit,
            values: Vec::new(),
            cpu: Vec::new(),
            beside,
        });
        self.rows.len() - 1
    }

    /// What one round measured.
    pub fn add(&mut self, row: usize, cost: Cost) {
        self.rows[row].values.push(cost.per_second);
        self.rows[row].cpu.push(cost.cpu);
    }

    /// What one round measured, without its processor time.
    pub fn add_value(&mut self, row: usize, value: f64) {
        self.rows[row].values.push(value);
    }

    /// How long each of the three took in one round, sorted, for the rows of [`percentiles`](Self::percentiles).
    pub fn add_percentiles(&mut self, first: usize, taken: &[Vec<f64>; 3]) {
        for (at, taken) in taken.iter().enumerate() {
            let above = |share: usize| taken[taken.len() - 1 - taken.len() / share];
            self.add_value(first + at, above(2));
            self.add_value(first + 3 + at, above(100));
        }
    }

    /// Prints medians, and ratios round by round.
    pub fn print(&self) {
        println!(
            "{:<34} {:>8} {:>8} {:>8} {:<4} {:>6} {:>6} {:>6} {:>7}",
            "", "median", "least", "most", "", "ratio", "least", "most", "cpu µs"
        );
        for row in self.rows.iter().filter(|row| !row.values.is_empty()) {
            // Round by round: what slows the machine down slows both.
            let beside = self.rows[row.beside].values.iter();
            let ratios = row
                .values
                .iter()
                .zip(beside)
                .map(|(own, other)| own / other);
            let (least, median, most) = spread(row.values.iter().copied());
            let (lower, ratio, upper) = spread(ratios);
            let cpu = match row.cpu[..] {
                [] => String::new(),
                _ => format!("{:.1}", spread(row.cpu.iter().copied()).1),
            };
            println!(
                "{:<34} {median:>8.0} {least:>8.0} {most:>8.0} {:<4} {ratio:>6.2} {lower:>6.2} {upper:>6.2} {cpu:>7}",
                row.name, row.unit
            );
        }
    }
}

/// The least, the median and the most.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    (
        values[0],
        values[values.len() / 2],
        values[values.len() - 1],
    )
}

/// A number among the arguments.
pub fn option(name: &str, default: u64) -> u64 {
    let value = text_option(name).and_then(|value| value.parse().ok());
    value.unwrap_or(default)
}

/// A text among the arguments.
pub fn text_option(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1)
}
