//! The suite against the memory broker, the reference.

mod setup;

fn main() -> std::process::ExitCode {
    setup::setup()
        .with_scorecard("../../docs/scorecard-memory.md")
        .run()
}
