//! The suite against itself: it must fail on every broken transport.

#[path = "memory/setup.rs"]
mod setup;

use std::{collections::BTreeSet, fmt::Write, path::Path};

use event_conformance::{Verdict, broken::Fault, check};

#[test]
fn every_fault_is_caught_by_the_cases_that_are_there_for_it() {
    let mut text = String::from(
        "# Which cases fail on which broken transport. Written by the test of the same name.\n",
    );
    let mut uncaught = Vec::new();
    for fault in Fault::ALL {
        let setup = setup::setup().with_wrapper(move |transport| fault.around(transport));
        let verdicts = setup.verdicts();
        let failed: BTreeSet<&str> = verdicts
            .iter()
            .filter(|(_, verdict)| matches!(verdict, Verdict::Failed(_)))
            .map(|(case, _)| case.name)
            .collect();
        for name in fault.caught_by() {
            if !failed.contains(name) {
                uncaught.push(format!("{fault} is not caught by {name}"));
            }
        }
        // Writing into a string does not fail.
        let _ = writeln!(text, "\n{fault}: {} of {}", failed.len(), verdicts.len());
        for name in failed {
            let _ = writeln!(text, "- {name}");
        }
    }
    let difference = check(Path::new("tests/broken.txt"), &text).err();
    assert!(uncaught.is_empty(), "{}", uncaught.join("\n"));
    assert_eq!(difference, None);
}
