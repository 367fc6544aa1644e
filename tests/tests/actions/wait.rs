//! `wait` asks nothing of the cluster.

use std::time::Duration;

use anyhow::Result;
use quell_crds::v1alpha1::StepKind;
use quell_crds::v1alpha1::step::Wait;
use quell_playbooks::Outcome;
use quell_tests::Recorder;

use crate::run::Run;
use crate::stage::{Stage, assert_all_rights_used};

#[tokio::test]
async fn it_ends_when_its_time_has_passed_and_asks_for_nothing() -> Result<()> {
    let recorder = Recorder::new();
    let kind = StepKind::Wait(Wait { r#for: Duration::from_mins(1).into() });
    let stage = Stage::of(&kind, &recorder).await?;
    let mut run = Run::of(&stage, kind.clone())?;
    let Outcome::Pending { look_again: Some(wait), .. } = run.perform().await else {
        anyhow::bail!("{:?}", run.record)
    };
    assert!(wait <= Duration::from_mins(1) && wait > Duration::from_secs(50), "{wait:?}");

    run.record.started_at = run.record.started_at.map(|at| at - chrono::TimeDelta::seconds(60));
    assert!(matches!(run.perform().await, Outcome::Done { .. }));
    assert_all_rights_used(&kind, &recorder);
    Ok(())
}
