//! The suite against itself: it must fail on every broken transport.

#[path = "memory/setup.rs"]
mod setup;

use std::{collections::BTreeMap, fmt::Write, fs};

use event_conformance::{Case, Setup, Verdict, WRITE, all_cases, broken::Fault};

const COMMITTED: &str = "tests/broken.txt";

/// How often everything is run to write the file, and a case to be sure that it differs from it.
const RUNS: usize = 5;

/// What the file says of a case that it names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Fails,
    /// Left to chance: which branch of a `select!` is polled first, how keys are hashed.
    Varies,
}

type Expectations = BTreeMap<(String, String), Expected>;

fn broken(fault: Fault) -> Setup {
    setup::setup().with_wrapper(move |transport| fault.around(transport))
}

fn fails(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Failed(_))
}

#[test]
fn every_fault_is_caught_by_the_cases_that_are_there_for_it() {
    if std::env::var_os(WRITE).is_some() {
        fs::write(COMMITTED, write(&observe())).expect(COMMITTED);
    }
    let expected = read(&fs::read_to_string(COMMITTED).unwrap_or_default());
    let mut wrong = Vec::new();
    for fault in Fault::ALL {
        for name in fault.caught_by() {
            if !expected.contains_key(&(fault.to_string(), (*name).to_owned())) {
                wrong.push(format!("{fault} is not caught by {name}, says {COMMITTED}"));
            }
        }
        for (case, verdict) in broken(fault).verdicts() {
            let should = expected
                .get(&(fault.to_string(), case.name.to_owned()))
                .copied();
            if !agrees(should, fails(&verdict)) && !agrees_once(fault, case, should) {
                wrong.push(format!("{fault}: {} {verdict}", case.name));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{COMMITTED} says otherwise; run again with {WRITE}=1 and look at what changed:\n{}",
        wrong.join("\n")
    );
}

fn agrees(should: Option<Expected>, failed: bool) -> bool {
    match should {
        Some(Expected::Varies) => true,
        Some(Expected::Fails) => failed,
        None => !failed,
    }
}

/// Whether the case does as the file says in one of several more runs.
fn agrees_once(fault: Fault, case: Case, should: Option<Expected>) -> bool {
    (0..RUNS).any(|_| agrees(should, fails(&broken(fault).verdict(case))))
}

/// How often each case fails on each broken transport.
fn observe() -> Vec<(Fault, BTreeMap<&'static str, usize>)> {
    let observed = Fault::ALL.map(|fault| {
        let mut failed = BTreeMap::new();
        for (case, verdict) in (0..RUNS).flat_map(|_| broken(fault).verdicts()) {
            if fails(&verdict) {
                *failed.entry(case.name).or_default() += 1;
            }
        }
        (fault, failed)
    });
    observed.to_vec()
}

fn write(observed: &[(Fault, BTreeMap<&str, usize>)]) -> String {
    let mut text = String::from(
        "# Which cases fail on which broken transport (-), and which may (~). Written by tests/broken.rs.\n",
    );
    let cases = all_cases().len();
    for (fault, failed) in observed {
        // Writing into a string does not fail.
        let _ = writeln!(text, "\n{fault}: {} of {cases}", failed.len());
        for (name, times) in failed {
            let mark = if *times == RUNS { '-' } else { '~' };
            let _ = writeln!(text, "{mark} {name}");
        }
    }
    text
}

fn read(text: &str) -> Expectations {
    let mut fault = "";
    let mut expected = Expectations::new();
    for line in text.lines() {
        if let Some((name, _)) = line.split_once(": ") {
            fault = name;
        }
        let entry = match line.split_at_checked(2) {
            Some(("- ", name)) => (name, Expected::Fails),
            Some(("~ ", name)) => (name, Expected::Varies),
            _ => continue,
        };
        expected.insert((fault.to_owned(), entry.0.to_owned()), entry.1);
    }
    expected
}
