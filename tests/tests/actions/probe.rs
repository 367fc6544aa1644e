//! `probe` of a quarantine. What probes do to a real network is proven by `cargo packets`.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use kube::ResourceExt as _;
use kube::api::ListParams;
use quell_actions::quarantine::{Answer, PROBING};
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::StepKind;
use quell_crds::v1alpha1::step::{Probe, Quarantine};
use quell_playbooks::Outcome;
use quell_playbooks::probe::Verdict;
use quell_tests::probe_jobs::{Station, ended, told};
use quell_tests::wait::{self, DEADLINE};
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

fn station(namespace: &TestNamespace, place: &str) -> Station {
    Station::new(namespace.client(), namespace.name(), place)
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
    let peer = station(&stage.own, "peer").job().await?;
    assert_eq!(peer.labels()[names::REMEDIATION_NAMESPACE], stage.namespace.name());
    let at = station(&stage.own, "peer").address().await?;
    is_under_way(&run.probe(&parameters, 1).await?);
    is_under_way(&run.probe(&parameters, 1).await?);

    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("no address")?;
    for (namespace, place) in [(&stage.own, "outside"), (&stage.namespace, "beside")] {
        let job = written(&station(namespace, place).job().await?)?;
        let spec = &job["spec"]["template"]["spec"];
        let (peer, target) = (format!("{at}:8080"), format!("{address}:80"));
        let arguments = json!(["probe", "try", "--peer", peer, "--within", "60", "--target", target]);
        assert_eq!(spec["containers"][0]["args"], arguments);
        assert_eq!([&spec["automountServiceAccountToken"], &spec["hostNetwork"]], [&json!(false), &Value::Null]);
        assert_eq!([&spec["volumes"], &job["spec"]["backoffLimit"]], [&Value::Null, &json!(0)]);
        station(namespace, place).ends(told("Silent")).await?;
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
        station(&stage.own, "peer").address().await?;
        is_under_way(&run.probe(&parameters, 1).await?);
        station(&stage.own, "outside").ends(told("Silent")).await?;
        station(&stage.namespace, "beside").ends(beside).await?;
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
