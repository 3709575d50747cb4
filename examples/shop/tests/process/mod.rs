//! Running a program of the shop and looking at how it ends.

// Part of tests, but clippy sees that only of functions that are tests themselves.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
    time::Duration,
};

/// What takes longer never ends.
const DEADLINE: Duration = Duration::from_secs(60);

/// A program, with what its environment says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    path: &'static str,
    variable: Option<(&'static str, &'static str)>,
}

/// A program that runs.
pub(crate) struct Running {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    stderr: BufReader<ChildStderr>,
    /// What it has logged so far.
    log: String,
}

/// The rows of programs that run, as they come.
#[derive(Clone, Default)]
pub(crate) struct Rows(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Rows {
    /// Waits until they satisfy the condition, and answers what it did.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        mut condition: impl FnMut(&[String]) -> Option<T>,
    ) -> T {
        let (rows, more) = &*self.0;
        let mut found = None;
        let (rows, over) = more
            .wait_timeout_while(rows.lock().unwrap(), DEADLINE, |rows| {
                found = condition(rows);
                found.is_none()
            })
            .unwrap();
        found.unwrap_or_else(|| panic!("waited for {what}; {} rows, {over:?}", rows.len()))
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.0.lock().unwrap().clone()
    }
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    pub(crate) const SHOP: Self = Self::new(env!("CARGO_BIN_EXE_shop"));
    pub(crate) const ORDER: Self = Self::new(env!("CARGO_BIN_EXE_order"));
    pub(crate) const BILLING: Self = Self::new(env!("CARGO_BIN_EXE_billing"));
    pub(crate) const LOGISTIC: Self = Self::new(env!("CARGO_BIN_EXE_logistic"));

    const fn new(path: &'static str) -> Self {
        Self {
            path,
            variable: None,
        }
    }

    pub(crate) fn with(self, name: &'static str, value: &'static str) -> Self {
        let variable = Some((name, value));
        Self { variable, ..self }
    }

    /// Runs it with this input until it ends.
    pub(crate) fn run(self, arguments: &[&str], input: &str) -> Ended {
        let mut running = self.start(arguments);
        let stdin = running.child.stdin.take();
        let input = input.to_owned();
        // It may print before it has read everything. What it does not read, is not missed.
        thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
        running.finish()
    }

    pub(crate) fn start(self, arguments: &[&str]) -> Running {
        let mut child = Command::new(self.path)
            .args(arguments)
            // Whatever else is compiled in.
            .env("SWITCHBOARD_URL", "memory://")
            .env_remove("RUST_LOG")
            .envs(self.variable)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().map(BufReader::new);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Running {
            child,
            stdout,
            stderr,
            log: String::new(),
        }
    }
}

impl Running {
    /// Gives it input.
    pub(crate) fn write(&mut self, input: &str) {
        let mut stdin = self.child.stdin.as_ref().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
    }

    /// Waits for a row.
    pub(crate) fn read_row(&mut self) -> String {
        let mut row = String::new();
        self.stdout.as_mut().unwrap().read_line(&mut row).unwrap();
        assert_ne!(row, "", "it ended without a row");
        row
    }

    /// Puts its rows beside others, as they come.
    pub(crate) fn follow(&mut self, rows: &Rows) {
        let (stdout, rows) = (self.stdout.take().unwrap(), rows.clone());
        thread::spawn(move || {
            let (all, more) = &*rows.0;
            // A program that is killed may leave half a row.
            for row in stdout.lines().map_while(Result::ok) {
                all.lock().unwrap().push(row);
                more.notify_all();
            }
        });
    }

    /// Its input, which ends when it is dropped.
    pub(crate) fn input(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// Nobody reads its rows any more.
    pub(crate) fn close_stdout(&mut self) {
        self.stdout = None;
    }

    /// Waits until it has logged this.
    #[cfg(unix)]
    pub(crate) fn wait_for_log(&mut self, text: &str) {
        while !self.log.contains(text) {
            let length = self.stderr.read_line(&mut self.log).unwrap();
            assert_ne!(
                length, 0,
                "it ended and never logged `{text}`: {}",
                self.log
            );
        }
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits until it ends. Its input does not.
    pub(crate) fn finish(self) -> Ended {
        let Self {
            mut child,
            stdout,
            mut stderr,
            mut log,
        } = self;
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || {
            let log = thread::spawn(move || stderr.read_to_string(&mut log).map(|_| log));
            let mut rows = String::new();
            let read = stdout.map_or(Ok(0), |mut stdout| stdout.read_to_string(&mut rows));
            // The test has given up when nobody receives.
            let _ = sender.send((read.map(|_| rows), log.join()));
        });
        let Ok((stdout, stderr)) = ended.recv_timeout(DEADLINE) else {
            child.kill().unwrap();
            panic!("it does not end");
        };
        Ended {
            code: child.wait().unwrap().code(),
            stdout: stdout.unwrap(),
            stderr: stderr.unwrap().unwrap(),
        }
    }
}
