//! A signal that was answered with success becomes a Finding, whatever happens to the API server and the operator meanwhile.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, ListParams};
use quell_crds::v1alpha1::{Finding, Severity, Source};
use quell_tests::fixtures::{PodCarrier as _, pod};
use quell_tests::operator::{NAMESPACE, source_spec};
use quell_tests::{Gate, Operator, Way, wait};
use serde_json::{Value, json};

use crate::support::{Bed, DEADLINE, alert, apply, metric, metric_is, spooled};

#[tokio::test]
async fn signals_outlive_the_api_server_and_the_operator_and_none_is_counted_twice() -> Result<()> {
    let bed = Bed::new("outage").await?;
    let (gate, spool) = (Gate::before(&bed.control_plane).await?, bed.spool("spool"));
    let first = bed.operator(&gate, &spool, &[]).await?;
    ensure!(!spooled(&bed.alert(&first, "a00").await?), "while the API server answers, nothing is spooled");

    gate.set(Way::Shut);
    for pod in 1..=20 {
        ensure!(spooled(&bed.alert(&first, &format!("a{pod:02}")).await?), "alert {pod}");
    }
    for pod in ["a00", "a01", "a01", "a01"] {
        ensure!(spooled(&bed.alert(&first, pod).await?), "the repeat of {pod}");
    }
    metric_is(&first, "quell_spool_entries", 24.0).await?;
    // Dropped: SIGKILL, at once.
    drop(first);

    gate.set(Way::Open);
    let second = bed.operator(&gate, &spool, &[]).await?;
    let expected: Vec<(String, i64)> = (0..=20)
        .map(|pod| {
            (
                format!("a{pod:02}"),
                match pod {
                    0 => 2,
                    1 => 4,
                    _ => 1,
                },
            )
        })
        .collect();
    bed.counts_are(&expected).await?;
    metric_is(&second, "quell_spool_entries", 0.0).await?;
    // Whatever waits no longer is delivered no more: the counts stay when the operator starts again.
    drop(second);
    let third = bed.operator(&gate, &spool, &[]).await?;
    ensure!(!spooled(&bed.alert(&third, "a02").await?), "nothing waits any more");
    let counted: Vec<_> = expected.iter().map(|(pod, count)| (pod.clone(), count + i64::from(pod == "a02"))).collect();
    bed.counts_are(&counted).await?;
    bed.finish().await
}

#[tokio::test]
async fn a_write_that_hangs_is_answered_from_disk_and_counted_once_whether_it_takes_effect_or_not() -> Result<()> {
    let bed = Bed::new("slow").await?;
    let (gate, spool) = (Gate::before(&bed.control_plane).await?, bed.spool("spool"));
    for name in ["before", "late", "slow"] {
        bed.namespace.create_object(&pod(name).image("registry.example/app:1")).await?;
        wait::pod_ready(&bed.namespace.api(), name, DEADLINE).await?;
    }
    let first = bed.operator(&gate, &spool, &[]).await?;
    // So that a connection is there, which the next write goes over.
    bed.alert(&first, "before").await?;

    gate.set(Way::Held);
    ensure!(spooled(&bed.alert(&first, "late").await?), "the API server doesn't answer");
    ensure!(gate.held() > 0, "the write was sent");
    // Killed while its write is on the way; what is held arrives all the same, after it.
    drop(first);
    gate.set(Way::Open);
    let expected = |late| vec![("before".to_owned(), 1), ("late".to_owned(), late)];
    bed.counts_are(&expected(1)).await?;

    let second = bed.operator(&gate, &spool, &[]).await?;
    metric_is(&second, "quell_spool_entries", 0.0).await?;
    bed.counts_are(&expected(1)).await?;
    bed.alert(&second, "late").await?;
    bed.counts_are(&expected(2)).await?;

    // One that goes on and is stored after all leaves the disk.
    gate.set(Way::Held);
    ensure!(spooled(&bed.alert(&second, "slow").await?), "the API server doesn't answer");
    gate.set(Way::Open);
    bed.counts_are(&[expected(2), vec![("slow".to_owned(), 1)]].concat()).await?;
    metric_is(&second, "quell_spool_entries", 0.0).await?;
    bed.finish().await
}

#[tokio::test]
async fn repeats_that_were_answered_are_counted_once_though_the_operator_is_killed_before_their_count_is_written()
-> Result<()> {
    let bed = Bed::new("repeats").await?;
    let (gate, spool) = (Gate::before(&bed.control_plane).await?, bed.spool("spool"));
    let first = bed.operator(&gate, &spool, &[]).await?;
    bed.alert(&first, "a").await?;
    wait::eventually(DEADLINE, "the operator knows the Finding", async || {
        let answer = bed.alert(&first, "a").await?;
        Ok((answer.body["findings"][0]["repeated"] == true).then_some(()))
    })
    .await?;
    metric_is(&first, "quell_spool_entries", 0.0).await?;
    let [(pod, before)] = bed.counts().await?.try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;

    // Answered, and on their way to the API server.
    gate.set(Way::Held);
    for _ in 0..6 {
        let answer = bed.alert(&first, "a").await?;
        ensure!(answer.body["findings"][0]["repeated"] == true && !spooled(&answer), "{}", answer.body);
    }
    drop(first);
    gate.set(Way::Open);
    let second = bed.operator(&gate, &spool, &[]).await?;
    bed.counts_are(&[(pod.clone(), before + 6)]).await?;
    metric_is(&second, "quell_spool_entries", 0.0).await?;
    drop(second);
    let third = bed.operator(&gate, &spool, &[]).await?;
    bed.alert(&third, "a").await?;
    bed.counts_are(&[(pod, before + 7)]).await?;
    bed.finish().await
}

#[tokio::test]
async fn of_reports_of_one_finding_that_are_under_way_at_once_each_is_counted() -> Result<()> {
    let bed = Bed::new("at-once").await?;
    let (gate, spool) = (Gate::before(&bed.control_plane).await?, bed.spool("spool"));
    let operator = bed.operator(&gate, &spool, &[]).await?;
    gate.set(Way::Held);
    for _ in 0..3 {
        ensure!(spooled(&bed.alert(&operator, "a").await?), "the API server doesn't answer");
    }
    gate.set(Way::Open);
    bed.counts_are(&[("a".to_owned(), 3)]).await?;
    metric_is(&operator, "quell_spool_entries", 0.0).await?;
    bed.finish().await
}

#[tokio::test]
async fn what_is_over_is_kept_in_its_turn_and_ends_the_finding_when_the_api_server_is_back() -> Result<()> {
    let bed = Bed::new("over").await?;
    let (gate, spool) = (Gate::before(&bed.control_plane).await?, bed.spool("spool"));
    apply(&Api::<Source>::all(bed.client.clone()), "Source", "alertmanager", &source_spec("alertmanager")).await?;
    let first = bed.operator(&gate, &spool, &[]).await?;
    let notify_as = async |operator: &Operator, pod: &str, status: &str, severity: &str| {
        let labels =
            json!({ "alertname": "Miner", "severity": severity, "namespace": bed.namespace.name(), "pod": pod });
        let alert =
            json!({ "status": status, "fingerprint": pod, "startsAt": "2026-01-01T00:00:00Z", "labels": labels });
        let body = json!({ "receiver": "quell", "status": status, "alerts": [alert] });
        let answer = operator.post("alertmanager", &body).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        Ok::<_, anyhow::Error>(answer)
    };
    let notify =
        async |operator: &Operator, pod: &str, status: &str| notify_as(operator, pod, status, "critical").await;
    ensure!(!spooled(&notify(&first, "before", "firing").await?), "the API server takes it");
    ensure!(!spooled(&notify_as(&first, "worse", "firing", "warning").await?), "the API server takes it");
    gate.set(Way::Shut);
    ensure!(spooled(&notify_as(&first, "worse", "firing", "critical").await?), "kept");
    ensure!(spooled(&notify(&first, "before", "resolved").await?), "kept");
    for status in ["firing", "resolved"] {
        ensure!(spooled(&notify(&first, "over", status).await?), "{status}");
    }
    for status in ["firing", "resolved", "firing"] {
        ensure!(spooled(&notify(&first, "back", status).await?), "{status}");
    }
    drop(first);
    gate.set(Way::Open);
    let second = bed.operator(&gate, &spool, &[]).await?;
    let findings: Api<Finding> = bed.namespace.api();
    let expected = [("back", 2, 2, false), ("before", 1, 1, true), ("over", 1, 1, true), ("worse", 2, 1, false)];
    wait::eventually(DEADLINE, "each is as it was reported last", async || {
        let all = findings.list(&ListParams::default()).await?.items;
        let of = |finding: &Finding| {
            let status = finding.status.clone().unwrap_or_default();
            (finding.spec.target.name.clone(), status.count, status.episode, status.is_resolved())
        };
        let mut all: Vec<_> = all.iter().map(of).collect();
        all.sort();
        let same = all.iter().map(|(pod, count, episode, over)| (pod.as_str(), *count, *episode, *over)).eq(expected);
        ensure!(same, "they are {all:?}");
        Ok(Some(()))
    })
    .await?;
    metric_is(&second, "quell_spool_entries", 0.0).await?;
    let all = findings.list(&ListParams::default()).await?.items;
    ensure!(all.iter().all(|finding| finding.spec.severity == Severity::Critical), "they are {all:#?}");
    bed.finish().await
}

#[tokio::test]
async fn a_full_spool_sends_senders_away_and_says_so() -> Result<()> {
    let bed = Bed::new("full").await?;
    let (gate, spool) = (Gate::before(&bed.control_plane).await?, bed.spool("spool"));
    let operator = bed.operator(&gate, &spool, &["--spool-max-bytes", "1048576"]).await?;
    gate.set(Way::Shut);
    let mut taken = 0;
    let refused = loop {
        let fields: serde_json::Map<String, Value> =
            (0..16).map(|at| (format!("evt.arg.{at}"), Value::from("x".repeat(900)))).collect();
        let body = alert(bed.namespace.name(), &format!("p{taken}"), &Value::from(fields));
        let answer = operator.post("falco", &body).await?;
        if answer.status != 200 {
            break answer;
        }
        taken += 1;
        ensure!(taken < 1000, "1 MiB holds no 1,000 of these");
    };
    assert_eq!((refused.status, refused.retry_after.as_deref()), (503, Some("5")), "{}", refused.body);
    assert!(
        refused.body["message"].as_str().is_some_and(|message| message.contains("the spool is full")),
        "{}",
        refused.body
    );
    assert!(metric(&operator, "quell_spool_failures_total{fault=\"limit\"}").await?.is_some_and(|count| count >= 1.0));
    let (status, said) = operator.readiness().await?;
    assert_eq!(status, 503, "{said}");
    gate.set(Way::Open);
    metric_is(&operator, "quell_spool_entries", 0.0).await?;
    assert_eq!(bed.counts().await?.len(), taken, "every one that was answered with success, and no other");
    bed.finish().await
}

#[tokio::test]
async fn a_spool_that_cannot_be_opened_is_told_of_and_opened_when_it_can_be() -> Result<()> {
    let bed = Bed::new("disk").await?;
    let (gate, spool) = (Gate::before(&bed.control_plane).await?, bed.spool("spool"));
    std::fs::write(&spool, "not a directory")?;
    let operator = bed.operator(&gate, &spool, &[]).await?;
    ensure!(!spooled(&bed.alert(&operator, "a").await?), "the API server takes it");
    let (status, said) = operator.readiness().await?;
    assert_eq!(status, 200);
    assert!(said.contains("it is no directory"), "{said}");
    let events: Api<Event> = Api::namespaced(bed.client.clone(), NAMESPACE);
    let told = |reason: &'static str| {
        let events = events.clone();
        wait::eventually(DEADLINE, reason, async move || {
            let all = events.list(&ListParams::default()).await?;
            Ok(all.items.iter().any(|event| event.reason.as_deref() == Some(reason)).then_some(()))
        })
    };
    told("SpoolFailed").await?;
    std::fs::remove_file(&spool)?;
    told("SpoolMended").await?;
    gate.set(Way::Shut);
    ensure!(spooled(&bed.alert(&operator, "b").await?), "kept now");
    bed.finish().await
}
