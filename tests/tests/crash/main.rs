//! Quell is killed at every boundary of one scenario; `cargo crash` plays them all.

use std::path::Path;

use anyhow::{Context as _, Result};
use quell_tests::crash;
use quell_tests::crash::library::SCENARIOS;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_before_or_after_any_request_loses_nothing_and_doubles_nothing() -> Result<()> {
    let scenario = SCENARIOS.iter().find(|one| one.name == "contain-reverse-shell").context("no such scenario")?;
    let outcome = Box::pin(crash::play(Path::new(env!("CARGO_BIN_EXE_quell")), scenario, 0, &[])).await?;
    assert!(outcome.boundaries >= 16, "every write has two: {outcome:?}");
    assert_eq!((outcome.lost, outcome.doubled), (0, 0), "see above which");
    Ok(())
}
