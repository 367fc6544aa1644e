//! `probe` of a quarantine. What probes do to a real network is proven by `cargo packets`.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use kube::ResourceExt as _;
use kube::api::{ListParams, Patch, PatchParams};
use quell_actions::quarantine::{Answer, PROBING};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::StepKind;
use quell_crds::v1alpha1::step::{Probe, Quarantine};
use quell_playbooks::Outcome;
use quell_playbooks::probe::Verdict;
use quell_tests::wait::{self, DEADLINE, eventually};
use quell_tests::{Recorder, TestNamespace, fixtures};
use serde_json::{Value, json};

use crate::run::Run;
use crate::stage::{Stage, written};

fn parameters() -> Quarantine {
    Quarantine { probe: Some(Probe::default()), ..Quarantine::default() }
}

fn with_port(port: Option<i32>) -> Pod {
    let mut pod = fixtures::pod("shop");
    if let Some(spec) = &mut pod.spec {
        spec.containers[0].ports =
            port.map(|container_port| vec![ContainerPort { container_port, ..ContainerPort::default() }]);
    }
    pod
}

/// A pod that was cut off.
async fn quarantined<'a>(stage: &'a Stage, parameters: &Quarantine, pod: &Pod) -> Result<(Run<'a>, Pod)> {
    stage.namespace.create_object(pod).await?;
    let pod = wait::pod_ready(&stage.namespace.api(), "shop", DEADLINE).await?;
    let mut run = Run::of(stage, StepKind::Quarantine(parameters.clone()))?.about(&pod);
    run.succeed().await?;
    Ok((run, pod))
}

async fn jobs(namespace: &TestNamespace) -> Result<Vec<Job>> {
    Ok(namespace.api::<Job>().list(&ListParams::default().labels(names::PROBE)).await?.items)
}

async fn the_job(namespace: &TestNamespace, place: &str) -> Result<Job> {
    let of_place = ListParams::default().labels(&format!("{}={place}", names::PROBE));
    let all = namespace.api::<Job>().list(&of_place).await?.items;
    assert_eq!(all.len(), 1, "{place}: {all:#?}");
    all.into_iter().next().context("no Job")
}

/// The pod of the Job at that place gets to be like this.
async fn becomes(namespace: &TestNamespace, place: &str, status: Value) -> Result<()> {
    let job = the_job(namespace, place).await?.name_any();
    let pods = namespace.api::<Pod>();
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    // The kubelet that is played here has had its say when there are statuses.
    let pod = eventually(DEADLINE, "the Job's pod was started", async || {
        let pod = pods.list(&of_job).await?.items.pop();
        let started = pod.as_ref().and_then(|pod| pod.status.as_ref()?.container_statuses.as_ref()).is_some();
        Ok(pod.filter(|_| started))
    })
    .await?;
    let patch = Patch::Merge(json!({ "status": status }));
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await?;
    if status["phase"] == "Running" {
        return Ok(());
    }
    eventually(DEADLINE, "the Job has ended", async || {
        let job = namespace.api::<Job>().get(&job).await?;
        let conditions = job.status.and_then(|status| status.conditions).unwrap_or_default();
        Ok(conditions.iter().any(|one| ["Complete", "Failed"].contains(&one.type_.as_str())).then_some(()))
    })
    .await
}

fn ended(phase: &str, said: &str) -> Value {
    let now = "2026-01-01T00:00:00Z";
    let code = i32::from(phase == "Failed");
    let ended = json!({"exitCode": code, "message": said, "startedAt": now, "finishedAt": now});
    json!({
        "phase": phase, "podIP": "10.9.9.8", "podIPs": [{"ip": "10.9.9.8"}],
        "containerStatuses": [{"name": "probe", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
            "state": {"terminated": ended}}],
    })
}

fn told(outcome: &str) -> Value {
    let report = json!({
        "peer": ["Connected", "Connected"],
        "targets": [{"address": "10.0.0.1:80", "outcome": outcome, "tries": 3}],
    });
    ended("Succeeded", &report.to_string())
}

/// Its address.
async fn peer_runs(stage: &Stage) -> Result<String> {
    becomes(&stage.own, "peer", json!({"phase": "Running"})).await?;
    let job = the_job(&stage.own, "peer").await?.name_any();
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    eventually(DEADLINE, "the peer runs and has an address", async || {
        let status = stage.own.api::<Pod>().list(&of_job).await?.items.pop().and_then(|pod| pod.status);
        let running = status.filter(|status| status.phase.as_deref() == Some("Running"));
        Ok(running.and_then(|status| status.pod_ip))
    })
    .await
}

fn is_under_way(answer: &Answer) {
    assert!(matches!(answer, Answer::UnderWay(_)), "{answer:?}");
}

#[tokio::test]
async fn a_pod_is_tried_from_outside_and_from_beside_it_with_the_declared_rights_and_no_job_is_made_twice() -> Result<()>
{
    let (recorder, parameters) = (Recorder::new(), parameters());
    let stage = Stage::of(&StepKind::Quarantine(parameters.clone()), &recorder).await?;
    let (run, pod) = quarantined(&stage, &parameters, &with_port(Some(80))).await?;
    assert_eq!(jobs(&stage.own).await?.len(), 0, "the step itself probes nothing");

    is_under_way(&run.probe(&parameters, 1).await?);
    is_under_way(&run.probe(&parameters, 1).await?);
    let peer = the_job(&stage.own, "peer").await?;
    assert_eq!(peer.labels()[names::REMEDIATION_NAMESPACE], stage.namespace.name());
    let at = peer_runs(&stage).await?;
    is_under_way(&run.probe(&parameters, 1).await?);
    is_under_way(&run.probe(&parameters, 1).await?);

    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("no address")?;
    for (namespace, place) in [(&stage.own, "outside"), (&stage.namespace, "beside")] {
        let job = written(&the_job(namespace, place).await?)?;
        let spec = &job["spec"]["template"]["spec"];
        let (peer, target) = (format!("{at}:8080"), format!("{address}:80"));
        let arguments = json!(["probe", "try", "--peer", peer, "--within", "60", "--target", target]);
        assert_eq!(spec["containers"][0]["args"], arguments);
        assert_eq!([&spec["automountServiceAccountToken"], &spec["hostNetwork"]], [&json!(false), &Value::Null]);
        assert_eq!([&spec["volumes"], &job["spec"]["backoffLimit"]], [&Value::Null, &json!(0)]);
        becomes(namespace, place, told("Silent")).await?;
    }
    let Answer::Told(verdict, message) = run.probe(&parameters, 1).await? else { panic!("it has not told") };
    assert_eq!(verdict, Verdict::NothingGotThrough, "{message}");
    let gone = |job: &Job| job.metadata.deletion_timestamp.is_some() || job.uid() != peer.uid();
    assert!(jobs(&stage.own).await?.iter().all(gone_or_outside(&gone)), "what every probe must reach stays");

    let used: BTreeSet<_> = recorder.rights().into_iter().map(|right| (right.resource, right.verb)).collect();
    for right in PROBING {
        assert!(used.contains(&(right.resource.to_owned(), right.verb)), "{right:?} is declared and not used");
    }
    Ok(())
}

fn gone_or_outside(gone: &impl Fn(&Job) -> bool) -> impl Fn(&Job) -> bool {
    move |job| job.labels()[names::PROBE] == "outside" || gone(job)
}

#[tokio::test]
async fn one_that_gets_through_is_told_and_one_that_fails_is_never_taken_for_no_answer() -> Result<()> {
    for (beside, verdict, says) in [
        (told("Connected"), Verdict::GotThrough, "from beside it on 10.0.0.1:80"),
        (ended("Failed", "no network"), Verdict::NotMade, "no network"),
        (ended("Succeeded", "not a report"), Verdict::NotMade, "can't be read"),
    ] {
        let parameters = parameters();
        let stage = Stage::of(&StepKind::Quarantine(parameters.clone()), &Recorder::new()).await?;
        let (run, _) = quarantined(&stage, &parameters, &with_port(Some(80))).await?;
        is_under_way(&run.probe(&parameters, 1).await?);
        peer_runs(&stage).await?;
        is_under_way(&run.probe(&parameters, 1).await?);
        becomes(&stage.own, "outside", told("Silent")).await?;
        becomes(&stage.namespace, "beside", beside).await?;
        let answer = run.probe(&parameters, 1).await?;
        let Answer::Told(found, message) = &answer else { panic!("{answer:?}") };
        assert_eq!(*found, verdict, "{message}");
        assert!(message.contains(says), "{message}");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_port_or_the_switch_it_says_what_to_do_and_makes_nothing() -> Result<()> {
    let parameters = parameters();
    let mut stage = Stage::of(&StepKind::Quarantine(parameters.clone()), &Recorder::new()).await?;
    let (run, _) = quarantined(&stage, &parameters, &with_port(None)).await?;
    let error = run.probe(&parameters, 1).await.err().context("it was probed")?;
    assert_eq!(error.reason(), Reason::ProbeFailed);
    assert!(error.to_string().contains("probe.ports"), "{error}");
    assert!(!error.is_transient());
    let receipt = run.record.clone();
    drop(run);

    stage.known.probing = None;
    let mut run = Run::of(&stage, StepKind::Quarantine(parameters.clone()))?;
    run.record = receipt;
    let error = run.probe(&parameters, 1).await.err().context("it was probed")?;
    assert_eq!(error.reason(), Reason::NotEnabled);
    assert!(error.to_string().contains("probe.enabled=true"), "{error}");
    assert!(jobs(&stage.own).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_says_which_probes_it_would_make() -> Result<()> {
    let parameters = parameters();
    let kind = StepKind::Quarantine(parameters.clone());
    let stage = Stage::of(&kind, &Recorder::new()).await?;
    stage.namespace.create_object(&with_port(Some(80))).await?;
    let pod = wait::pod_ready(&stage.namespace.api(), "shop", DEADLINE).await?;
    let (outcome, writes) = Run::of(&stage, kind)?.about(&pod).rehearse().await;
    assert!(
        matches!(&outcome, Outcome::Done { message, .. } if !message.contains("could not be probed")),
        "{outcome:?}"
    );
    assert_eq!(writes.iter().filter(|write| write.object.starts_with("Job ")).count(), 3, "{writes:?}");
    assert!(jobs(&stage.own).await?.is_empty());
    Ok(())
}
