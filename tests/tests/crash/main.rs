//! Quell is killed at every boundary of one scenario, and gets alerts while everything around it is in trouble: the short forms of `cargo
//! crash` and `cargo faults`.

use std::path::Path;

use anyhow::{Context as _, Result};
use quell_tests::crash::library::SCENARIOS;
use quell_tests::{crash, faults};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_before_or_after_any_request_loses_nothing_and_doubles_nothing() -> Result<()> {
    let scenario = SCENARIOS.iter().find(|one| one.name == "contain-reverse-shell").context("no such scenario")?;
    let outcome = Box::pin(crash::play(Path::new(env!("CARGO_BIN_EXE_quell")), scenario, 0, &[])).await?;
    assert!(outcome.boundaries >= 16, "every write has two: {outcome:?}");
    assert_eq!((outcome.lost, outcome.doubled), (0, 0), "see above which");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_to_two_replicas_in_trouble_are_neither_lost_nor_doubled_and_nobody_acts_beyond_the_lease() -> Result<()>
{
    let arguments =
        faults::Arguments { seed: 1, seconds: 6, rate: 10, percent: 10, replicas: 2, no_outage: false, soak: None };
    let outcome = Box::pin(faults::play(Path::new(env!("CARGO_BIN_EXE_quell")), &arguments)).await?;
    assert_eq!(outcome.alerts, 60, "every alert was answered with success in the end");
    assert_eq!((outcome.lost, outcome.doubled, outcome.beyond), (0, 0, 0), "see above which");
    Ok(())
}
