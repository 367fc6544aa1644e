//! Delivers what waits on disk, in order, when the API server is back.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use tokio_util::sync::CancellationToken;

use crate::intake::Intake;
use crate::intake::backlog::{Backlog, Trouble, Waiting, key};
use crate::metrics::Metrics;

/// After a failure delivery is tried again after this, doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// No wait is longer: containment may hang on what waits.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How many Findings of a Source are on their way at once. They are begun in order; those of one Finding go one after the other.
const AT_ONCE: usize = 32;
/// An Event that could not be written is tried again after this.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Delivers until `end`, and then tries once more.
pub async fn deliver(intake: Arc<Intake>, backlog: Arc<Backlog>, metrics: Metrics, end: CancellationToken) {
    let mut wait = FIRST_WAIT;
    loop {
        let all = round(&intake, &backlog, &metrics).await;
        if end.is_cancelled() {
            break;
        }
        if all {
            wait = FIRST_WAIT;
            tokio::select! {
                () = backlog.news.notified() => {}
                () = end.cancelled() => {}
            }
        } else {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = end.cancelled() => {}
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
    backlog.flush().await;
}

/// Goes through all that waits; whether all of it was delivered. A Source of which something could not be delivered waits for the next
/// round.
async fn round(intake: &Arc<Intake>, backlog: &Backlog, metrics: &Metrics) -> bool {
    let mut held: HashSet<String> = HashSet::new();
    let mut under_way = HashSet::new();
    let mut after = None;
    loop {
        let (waiting, last) = match backlog.page(after, &mut under_way).await {
            Ok(Some(page)) => page,
            Ok(None) => return held.is_empty(),
            Err(error) => {
                tracing::warn!(%error, "what waits in the spool could not be read");
                return false;
            }
        };
        after = Some(last);
        let mut sources: BTreeMap<String, Vec<Waiting>> = BTreeMap::new();
        for one in waiting.into_iter().filter(|one| !held.contains(one.source())) {
            sources.entry(one.source().to_owned()).or_default().push(one);
        }
        let of_source = |(source, waiting): (String, Vec<Waiting>)| async move {
            for chunk in waiting.chunks(AT_ONCE) {
                if !deliver_chunk(intake, backlog, metrics, chunk).await {
                    return Some(source);
                }
            }
            None
        };
        held.extend(join_all(sources.into_iter().map(of_source)).await.into_iter().flatten());
    }
}

/// Whether nothing of the chunk still waits.
async fn deliver_chunk(intake: &Arc<Intake>, backlog: &Backlog, metrics: &Metrics, chunk: &[Waiting]) -> bool {
    let mut findings: BTreeMap<(String, String), Vec<&Waiting>> = BTreeMap::new();
    for one in chunk {
        findings.entry(key(&one.record.finding)).or_default().push(one);
    }
    let delivered = findings.into_values().map(|reports| async move {
        match intake.deliver(&reports).await {
            Ok(repeats) => {
                settle(backlog, metrics, &reports, repeats, "accepted");
                backlog.answered(true);
                true
            }
            Err(error) if error.is_transient() => {
                backlog.answered(false);
                tracing::debug!(%error, "what waits in the spool goes on waiting");
                false
            }
            Err(error) => {
                tracing::error!(%error, finding = ?reports.first().map(|one| &one.record.finding), "a report that was kept is not taken by the API server; it is dropped");
                settle(backlog, metrics, &reports, 0, "failed");
                true
            }
        }
    });
    join_all(delivered).await.into_iter().all(|delivered| delivered)
}

fn settle(backlog: &Backlog, metrics: &Metrics, reports: &[&Waiting], repeats: usize, outcome: &'static str) {
    for (at, one) in reports.iter().enumerate() {
        let repeated = at + repeats >= reports.len();
        let outcome = match outcome {
            "accepted" if one.record.is_over => "resolved",
            "accepted" if repeated => "repeated",
            other => other,
        };
        metrics.signal(one.source(), outcome);
        backlog.delivered(one);
    }
}

/// Tells people, by Events, of a spool that can't keep anything, and when it can again. Until it is told, that is in the log.
pub async fn tell(backlog: Arc<Backlog>, recorder: Recorder, about: ObjectReference, end: CancellationToken) {
    let mut troubles = backlog.troubles();
    let mut told = false;
    if let Some(lost) = backlog.take_set_aside()
        && let Err(error) = recorder.publish(&event(EventType::Warning, "SpoolCorrupt", lost), &about).await
    {
        tracing::warn!(%error, "an Event could not be written");
    }
    loop {
        let trouble = troubles.borrow_and_update().clone();
        let event = match &trouble {
            Some(Trouble { message: trouble, .. }) => {
                tracing::error!(trouble, "signals can't be kept while the API server doesn't take them");
                Some(event(
                    EventType::Warning,
                    "SpoolFailed",
                    format!("{trouble}; a signal that the API server doesn't take is answered with 503 until then"),
                ))
            }
            None if told => {
                tracing::info!("signals can be kept again");
                Some(event(EventType::Normal, "SpoolMended", "the spool keeps signals again".to_owned()))
            }
            None => None,
        };
        let published = match &event {
            Some(event) => recorder.publish(event, &about).await,
            None => Ok(()),
        };
        match published {
            Ok(()) => {
                told = trouble.is_some();
                tokio::select! {
                    changed = troubles.changed() => if changed.is_err() { return },
                    () = end.cancelled() => return,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "an Event could not be written");
                tokio::select! {
                    () = tokio::time::sleep(TELL_AGAIN) => {}
                    () = end.cancelled() => return,
                }
            }
        }
    }
}

fn event(type_: EventType, reason: &str, note: String) -> Event {
    Event { type_, reason: reason.to_owned(), note: Some(note), action: "Keep".to_owned(), secondary: None }
}

/// Whether a report, or what it was to be, might be taken another time.
#[must_use]
pub fn may_be_taken_later(error: &kube::Error) -> bool {
    match error {
        // Rights and tokens are mended; so is a namespace's quota. What is not valid stays so.
        kube::Error::Api(status) => matches!(status.code, 401 | 403 | 408 | 409 | 429) || status.code >= 500,
        _ => true,
    }
}
