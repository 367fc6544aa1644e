//! Two operators, one leader: it is killed, stopped, and sent home, at work.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use quell_crds::names;
use quell_crds::v1alpha1::{ClusterPlaybook, Phase, Remediation};
use quell_tests::fixtures::{PodCarrier as _, pod};
use quell_tests::operator::NAMESPACE;
use quell_tests::{Gate, Operator, Way, wait};
use serde_json::json;

use crate::support::{Bed, DEADLINE, apply, signal};

/// Two operators of a bed, by their names in the Lease.
struct Two {
    bed: Bed,
    gates: Vec<Gate>,
    operators: Vec<(String, Operator)>,
}

impl Two {
    async fn new(prefix: &str) -> Result<Self> {
        let bed = Bed::new(prefix).await?;
        let spec = json!({ "match": { "sources": ["falco"] }, "steps": [{ "name": "contain", "quarantine": {} }] });
        apply(&Api::<ClusterPlaybook>::all(bed.client.clone()), "ClusterPlaybook", "contain", &spec).await?;
        let mut two = Self { bed, gates: Vec::new(), operators: Vec::new() };
        for name in ["one", "two"] {
            two.start(name).await?;
        }
        Ok(two)
    }

    /// With the settings as they are by default: a Lease of 4 s.
    async fn start(&mut self, name: &str) -> Result<()> {
        let gate = Gate::before(&self.bed.control_plane).await?;
        let spool = self.bed.spool(name);
        let flags = ["--identity", name, "--spool", spool.to_str().context("a path")?];
        let kubeconfig = gate.kubeconfig(&self.bed.control_plane)?;
        let binary = crate::support::binary();
        let operator = Operator::start_by(binary, &self.bed.control_plane, &kubeconfig, &flags).await?;
        self.gates.push(gate);
        self.operators.push((name.to_owned(), operator));
        Ok(())
    }

    async fn holder(&self) -> Result<String> {
        let leases: Api<Lease> = Api::namespaced(self.bed.client.clone(), NAMESPACE);
        let spec = leases.get_opt("quell").await?.and_then(|lease| lease.spec);
        Ok(spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
    }

    /// Waits until another than `before` holds the Lease, and says who.
    async fn another(&self, before: &str) -> Result<String> {
        wait::eventually(DEADLINE, "another leader", async || {
            let holder = self.holder().await?;
            Ok((!holder.is_empty() && holder != before).then_some(holder))
        })
        .await
    }

    fn operator(&self, name: &str) -> Result<&Operator> {
        self.operators.iter().find(|(one, _)| one == name).map(|(_, operator)| operator).context("no such operator")
    }

    fn take(&mut self, name: &str) -> Result<Operator> {
        let at = self.operators.iter().position(|(one, _)| one == name).context("no such operator")?;
        Ok(self.operators.remove(at).1)
    }

    async fn pods(&self, prefix: &str, number: usize) -> Result<Vec<String>> {
        let names: Vec<String> = (0..number).map(|at| format!("{prefix}{at:02}")).collect();
        for name in &names {
            self.bed.namespace.create_object(&pod(name).image("registry.example/app:1")).await?;
        }
        for name in &names {
            wait::pod_ready(&self.bed.namespace.api(), name, DEADLINE).await?;
        }
        Ok(names)
    }

    /// Every one of the pods is under quarantine, by one run each that did it at its first attempt.
    async fn contained_once(&self, pods: &[String]) -> Result<()> {
        let runs: Api<Remediation> = self.bed.namespace.api();
        wait::eventually(DEADLINE, "one run for each pod, which has ended well", async || {
            let all = runs.list(&ListParams::default()).await?.items;
            for pod in pods {
                let of: Vec<_> = all.iter().filter(|run| run.spec.target.name == *pod).collect();
                ensure!(of.len() == 1, "{pod} has {} runs", of.len());
                let phase = of[0].status.as_ref().map(|status| status.phase);
                ensure!(phase == Some(Phase::Succeeded), "{pod}: {phase:?}");
            }
            Ok(Some(()))
        })
        .await?;
        let there: Api<Pod> = self.bed.namespace.api();
        for name in pods {
            ensure!(is_quarantined(&there.get(name).await?), "{name} is not under quarantine");
        }
        Ok(())
    }
}

fn is_quarantined(pod: &Pod) -> bool {
    pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(names::QUARANTINE))
}

#[tokio::test]
async fn a_leader_that_is_killed_under_load_is_succeeded_within_five_seconds_and_one_that_ends_in_order_at_once()
-> Result<()> {
    let mut two = Two::new("killed").await?;
    let pods = two.pods("p", 30).await?;
    let first = two.another("").await?;
    let second = if first == "one" { "two" } else { "one" };
    for (at, pod) in pods.iter().enumerate() {
        // Half of them come to the replica that doesn't lead.
        let to = if at % 2 == 0 { &first } else { second };
        two.bed.alert(two.operator(to)?, pod).await?;
        if at == 15 {
            // Dropped: SIGKILL, at once; what was posted to it goes on in the other.
            let killed = Instant::now();
            drop(two.take(&first)?);
            two.another(&first).await?;
            let took = killed.elapsed();
            ensure!(took < Duration::from_secs(5), "it took {took:?}, of a Lease of 4 s");
            break;
        }
    }
    for pod in &pods[16..] {
        two.bed.alert(two.operator(second)?, pod).await?;
    }
    two.contained_once(&pods).await?;

    two.start(&first).await?;
    let leaving = two.take(second)?;
    signal("TERM", leaving.process()).await?;
    let told = Instant::now();
    two.another(second).await?;
    let took = told.elapsed();
    ensure!(took < Duration::from_secs(2), "handing over took {took:?}");
    ensure!(leaving.ended().await?.success(), "an end in order");
    two.bed.finish().await
}

/// The leader is stopped while it has alerts to work on, at another moment each time, for longer than its Lease; another leads and undoes
/// what was done. What the stopped one still had in mind must not be done when it wakes up.
#[tokio::test]
async fn a_leader_that_was_stopped_and_wakes_up_late_makes_no_effect() -> Result<()> {
    let mut two = Two::new("frozen").await?;
    for round in 0..4_u64 {
        let pods = two.pods(&format!("r{round}p"), 12).await?;
        let leader = two.another("").await?;
        let other = if leader == "one" { "two" } else { "one" };
        let frozen = two.operator(&leader)?.process();
        let posting = {
            let operator = two.operator(&leader)?;
            futures::future::join_all(pods.iter().map(|pod| two.bed.alert(operator, pod)))
        };
        // Somewhere in the midst of it: nobody waits for an answer.
        let _ = tokio::time::timeout(Duration::from_millis(5 + 12 * round), posting).await;
        signal("STOP", frozen).await?;
        two.another(&leader).await?;
        for pod in &pods {
            two.bed.alert(two.operator(other)?, pod).await?;
        }
        two.contained_once(&pods).await?;
        let runs: Api<Remediation> = two.bed.namespace.api();
        undo_all(&runs).await?;
        let there: Api<Pod> = two.bed.namespace.api();
        for name in &pods {
            wait::until_present(&there, name, "released", DEADLINE, |pod| !is_quarantined(pod)).await?;
        }

        signal("CONT", frozen).await?;
        let woken = two.take(&leader)?;
        let end = woken.ended().await?;
        ensure!(!end.success() && woken.log()?.contains("the Lease was lost"), "{end}");
        for name in &pods {
            ensure!(!is_quarantined(&there.get(name).await?), "{name} was cut off by a leader of yesterday");
        }
        two.start(&leader).await?;
    }
    two.bed.finish().await
}

/// What a leader sent, and a proxy delivers when another leads already, changes nothing that isn't so.
#[tokio::test]
async fn a_write_that_a_proxy_delivers_late_does_no_harm() -> Result<()> {
    let two = Two::new("late").await?;
    let pods = two.pods("p", 6).await?;
    let leader = two.another("").await?;
    let other = if leader == "one" { "two" } else { "one" };
    let gate = &two.gates[usize::from(leader == "two")];
    gate.set(Way::Held);
    for pod in &pods {
        two.bed.alert(two.operator(&leader)?, pod).await?;
    }
    ensure!(gate.held() > 0, "writes are on the way");
    two.another(&leader).await?;
    for pod in &pods {
        two.bed.alert(two.operator(other)?, pod).await?;
    }
    two.contained_once(&pods).await?;
    gate.set(Way::Open);
    ensure!(!two.operator(&leader)?.ended().await?.success(), "it has lost the Lease");
    two.contained_once(&pods).await?;
    let runs: Api<Remediation> = two.bed.namespace.api();
    for run in runs.list(&ListParams::default()).await? {
        let status = run.status.unwrap_or_default();
        ensure!(status.steps.iter().all(|step| step.attempts == 1), "{:#?}", status.steps);
    }
    two.bed.finish().await
}

async fn undo_all(runs: &Api<Remediation>) -> Result<()> {
    let undo = kube::api::Patch::Merge(json!({ "spec": { "intent": "Undo" } }));
    for run in runs.list(&ListParams::default()).await? {
        let name = run.metadata.name.unwrap_or_default();
        runs.patch(&name, &kube::api::PatchParams::default(), &undo).await?;
    }
    let undone = |run: &Remediation| run.status.as_ref().is_some_and(|status| status.phase == Phase::Undone);
    for run in runs.list(&ListParams::default()).await? {
        wait::until_present(runs, &run.metadata.name.unwrap_or_default(), "undone", DEADLINE, undone).await?;
    }
    Ok(())
}
