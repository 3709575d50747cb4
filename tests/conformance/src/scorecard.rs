//! The scorecard of a run and the table of what backends can do, as Markdown.

use std::{fmt::Write, fs, path::Path};

use event_core::{Capabilities, Capability, Support};

use crate::{
    case::{Case, Point},
    run::Verdict,
};

/// The environment variable that has generated files written instead of compared.
pub const WRITE: &str = "SWITCHBOARD_WRITE";

/// How each case ended, in a table for each point of the contract.
pub fn scorecard(verdicts: &[(Case, Verdict)]) -> String {
    let mut text = String::from(
        "# Scorecard\n\n\
         Written by the conformance suite. Each line is a fact of [semantics](semantics.md).\n",
    );
    let count = |wanted: fn(&Verdict) -> bool| {
        verdicts
            .iter()
            .filter(|(_, verdict)| wanted(verdict))
            .count()
    };
    let summary = format!(
        "\n{} ok, {} refused, {} not tried, {} failed\n",
        count(|verdict| matches!(verdict, Verdict::Holds)),
        count(|verdict| matches!(verdict, Verdict::Refused(_))),
        count(|verdict| matches!(verdict, Verdict::NotTried(_))),
        count(|verdict| matches!(verdict, Verdict::Failed(_))),
    );
    text.push_str(&summary);
    for point in Point::ALL {
        let mut rows: Vec<_> = verdicts
            .iter()
            .filter(|(case, _)| case.point == point)
            .collect();
        if rows.is_empty() {
            continue;
        }
        // Cases run beside each other and end in any order.
        rows.sort_by_key(|(case, _)| case.name);
        text.push_str(&format!(
            "\n## {}\n\n| fact | result |\n| --- | --- |\n",
            point.title()
        ));
        for (case, verdict) in rows {
            let result = verdict.to_string().replace(['|', '\n'], " ");
            text.push_str(&format!("| `{}` | {result} |\n", case.name));
        }
    }
    text
}

/// What backends can do, in a table with a column for each.
pub fn capability_table(backends: &[&Capabilities]) -> String {
    let mut text = String::from(
        "# Capabilities\n\n\
         Written by the conformance suite. What is refused is an error of kind `Unsupported`: of the start \
         of a service, or of the call that asks for it.\n\n| |",
    );
    for backend in backends {
        // Writing into a string does not fail.
        let _ = write!(text, " {} |", backend.backend());
    }
    text.push_str("\n| --- |");
    text.push_str(&" --- |".repeat(backends.len()));
    for capability in Capability::ALL {
        let _ = write!(text, "\n| {} |", capability.name());
        for backend in backends {
            let _ = match backend.support(capability) {
                Support::Native => write!(text, " yes |"),
                Support::Emulated(how) => write!(text, " emulated: {how} |"),
                Support::Refused(why) => write!(text, " refused: {why} |"),
            };
        }
    }
    text.push('\n');
    text
}

/// Compares a generated text with the file that is committed, or writes the file when [`WRITE`] is set.
///
/// # Errors
/// A sentence with the first line that differs.
pub fn check(path: &Path, text: &str) -> Result<(), String> {
    let shown = path.display();
    if std::env::var_os(WRITE).is_some() {
        return fs::write(path, text).map_err(|error| format!("cannot write {shown}: {error}"));
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    if found == text {
        return Ok(());
    }
    let mut committed = found.lines();
    let (old, new) = text
        .lines()
        .map(|new| (committed.next().unwrap_or("(nothing)"), new))
        .find(|(old, new)| old != new)
        .unwrap_or(("(more lines)", "(nothing)"));
    Err(format!(
        "{shown} is out of date; run again with {WRITE}=1 and commit it\n  committed: {old}\n  now:       {new}"
    ))
}
