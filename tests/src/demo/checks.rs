//! `--once`: each thing that was shown, asked of the API server anew.

mod breach;
mod vulnerable;

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::CronJob;
use kube::ResourceExt as _;
use quell_crds::names;
use quell_crds::v1alpha1::{Finding, FindingState, Phase, Remediation, StepState};

use super::Told;
use super::screen::Screen;
use super::shop::{DATABASE, REPORT, api};
use super::stage::Stage;
use super::story::concerns;

/// How the checks went.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// How many there were.
    pub checks: usize,
    /// How many did not hold.
    pub wrong: usize,
}

/// Says of each claim whether it holds.
struct Checks<'a> {
    screen: Screen,
    stage: &'a Stage,
    outcome: Outcome,
}

impl Checks<'_> {
    fn check(&mut self, claim: &str, holds: bool, seen: impl AsRef<str>) {
        self.outcome.checks += 1;
        self.outcome.wrong += usize::from(!holds);
        self.screen.verdict(holds, claim, seen.as_ref());
    }

    /// What is true of every incident; gives back the Finding and its run.
    async fn remediated(&mut self, name: &str, playbook: &str) -> Result<(Finding, Remediation)> {
        let finding = api::<Finding>(&self.stage.client).get(name).await.context("the Finding is gone")?;
        let status = finding.status.clone().unwrap_or_default();
        let is_remediated = status.state == Some(FindingState::Remediated);
        let seen = format!(
            "{name} is {}, count {}",
            status.state.map_or_else(String::new, |state| state.to_string()),
            status.count
        );
        self.check("the Finding is remediated", is_remediated && status.count == 1, seen);

        let runs: Vec<&str> = status.remediations.iter().map(|run| run.name.as_str()).collect();
        let run = status.remediations.first().context("the Finding has no Remediation")?;
        self.check("one playbook ran for it, once", runs.len() == 1 && run.playbook == playbook, runs.join(", "));

        let run = api::<Remediation>(&self.stage.client).get(&run.name).await.context("the Remediation is gone")?;
        let record = run.status.clone().unwrap_or_default();
        let well = record.steps.iter().all(|step| step.state == StepState::Succeeded);
        let steps: Vec<String> = record.steps.iter().map(|step| format!("{} {}", step.name, step.state)).collect();
        let all = well && record.phase == Phase::Succeeded && record.steps.len() == run.spec.steps.len();
        self.check("every step has ended well, and is recorded", all, steps.join(", "));
        self.notified(name);
        Ok((finding, run))
    }

    fn notified(&mut self, finding: &str) {
        let deliveries = self.stage.receiver.deliveries();
        let about: Vec<_> = deliveries.iter().filter(|delivery| concerns(delivery, finding)).collect();
        let signed = about.iter().filter(|delivery| delivery.verified.is_ok()).count();
        let keyed = about.iter().all(|delivery| !delivery.key.is_empty());
        let seen = format!("{} came in, {signed} rightly signed", about.len());
        self.check("people were told once, by a signed message", about.len() == 1 && signed == 1 && keyed, seen);
    }

    async fn left_alone(&mut self) -> Result<()> {
        let database = api::<StatefulSet>(&self.stage.client).get(DATABASE).await?;
        let report = api::<CronJob>(&self.stage.client).get(REPORT).await?;
        let untouched = |generation: Option<i64>, labels: &std::collections::BTreeMap<String, String>| {
            generation == Some(1) && !labels.contains_key(names::REMEDIATION)
        };
        let both = untouched(database.metadata.generation, database.labels())
            && untouched(report.metadata.generation, report.labels());
        self.check(
            "what nothing was reported about was left alone",
            both,
            format!("{DATABASE} and {REPORT} are as they were"),
        );
        Ok(())
    }

    /// The receiver and the intake believe no one who can't prove who they are.
    async fn forgeries(&mut self) -> Result<()> {
        let forged = reqwest::Client::new()
            .post(self.stage.receiver.url())
            .header("Quell-Signature", format!("t={},v1={}", chrono::Utc::now().timestamp(), "00".repeat(32)))
            .body("{}")
            .send()
            .await?;
        let seen = format!("answered {}", forged.status());
        self.check("a notification with a forged signature is refused", forged.status() == 401, seen);
        let forged = self.stage.operator.post_text("falco", "{}", Some("guessed")).await?;
        let seen = format!("answered {}", forged.status);
        self.check("an alert with a wrong token is refused", forged.status == 401, seen);
        Ok(())
    }
}

/// Checks all that was shown.
pub async fn run(screen: Screen, stage: &Stage, told: &Told) -> Result<Outcome> {
    let mut checks = Checks { screen, stage, outcome: Outcome { checks: 0, wrong: 0 } };
    screen.heading("Checked against the API server: the reverse shell");
    breach::check(&mut checks, told).await?;
    screen.heading("Checked against the API server: the vulnerability");
    vulnerable::check(&mut checks, told).await?;
    screen.heading("Checked: nothing more than that");
    checks.left_alone().await?;
    checks.forgeries().await?;
    breach::check_repeat(&mut checks, told).await?;
    screen.heading("Checked: and back again");
    breach::check_undo(&mut checks, told).await?;
    screen.line("");
    Ok(checks.outcome)
}
