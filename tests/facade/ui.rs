//! What the compiler says about mistakes in `#[derive(Event)]` and in handlers, and that their passing twins pass.
//!
//! `tests/ui/<rule>/` holds files with mistakes, each beside what the compiler says, and `<rule>_ok.rs`.
//! After a change of a message: `TRYBUILD=overwrite cargo test --test facade ui --all-features`, and read
//! the difference. Some texts are the compiler's own, so they are those of the version that CI runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use trybuild::TestCases;

/// The files of one rule or, with `*`, of all that need every feature.
fn files(rule: &str) -> impl Iterator<Item = PathBuf> {
    let rules = fs::read_dir("tests/ui")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let wanted = rules.filter(move |path| match rule {
        "*" => !path.ends_with("features"),
        rule => path.ends_with(rule),
    });
    let mut files: Vec<PathBuf> = wanted
        .flat_map(|rule| {
            fs::read_dir(rule)
                .unwrap()
                .map(|entry| entry.unwrap().path())
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    files.sort();
    files.into_iter()
}

fn passes(path: &Path) -> bool {
    path.to_string_lossy().ends_with("_ok.rs")
}

#[test]
#[cfg_attr(
    not(all(feature = "cbor", feature = "garde", feature = "msgpack")),
    ignore = "needs all features"
)]
fn each_mistake_is_reported_at_its_token() {
    let cases = TestCases::new();
    for path in files("*").filter(|path| !passes(path)) {
        cases.compile_fail(path);
    }
}

#[test]
#[cfg_attr(
    not(all(feature = "cbor", feature = "garde", feature = "msgpack")),
    ignore = "needs all features"
)]
fn what_is_right_beside_a_mistake_compiles() {
    let cases = TestCases::new();
    for path in files("*").filter(|path| passes(path)) {
        cases.pass(path);
    }
}

#[test]
#[cfg_attr(
    any(feature = "cbor", feature = "garde", feature = "msgpack"),
    ignore = "needs these features off"
)]
fn a_missing_feature_is_named() {
    let cases = TestCases::new();
    for path in files("features") {
        cases.compile_fail(path);
    }
}
