//! Tests that need a process of their own: for its environment, or for what tracing remembers in it.

use std::process::Command;

const CHILD: &str = "SWITCHBOARD_TEST_CHILD";

/// Whether this is the process that was started for the test.
pub(crate) fn is_child(test: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|child| child == test)
}

/// Runs one test of this binary in a process of its own, with `SWITCHBOARD_URL` as given or without it.
pub(crate) fn run(test: &str, url: Option<&str>) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, test);
    match url {
        Some(url) => child.env("SWITCHBOARD_URL", url),
        None => child.env_remove("SWITCHBOARD_URL"),
    };
    let output = child.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{printed}"
    );
}
