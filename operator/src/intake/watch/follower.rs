//! One kind of one Source, followed: each object read as it comes, and what it no longer says, ended.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use kube::api::{Api, DynamicObject, TypeMeta};
use kube::core::ApiResource;
use kube::runtime::events::{Event as Told, EventType, Recorder};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Client, Resource as _, ResourceExt as _};
use quell_crds::v1alpha1::{Finding, FindingStatus, Source};
use quell_crds::{names, time};
use quell_ingest::{Signal, Unreadable};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::caches::{Caches, FindingKey};
use crate::intake::reads::Reads;
use crate::intake::server::outcome;
use crate::intake::watch::kinds::{self, Manner};
use crate::intake::watch::ledger::{Book, Reporter, is_of, reporter};
use crate::intake::watch::state::{State, Watching};
use crate::intake::{Again, Intake, IntakeError};
use crate::metrics::Metrics;

/// What could not be stored is tried again after this.
const AGAIN: Duration = Duration::from_secs(2);
/// Reports can be large, and a page of them is in memory at once.
const PAGE: u32 = 20;
/// Tools write a report anew by deleting it first: only what stays away as long as this is gone.
const STAYS_AWAY: Duration = Duration::from_secs(10);
/// trivy-operator deletes a report whose time is over, and scans anew when it comes to it.
const RESCAN: Duration = Duration::from_hours(1);
/// How long trivy-operator keeps a report.
const REPORT_TTL: &str = "trivy-operator.aquasecurity.github.io/report-ttl";
/// Most of a tool's mistake that an Event repeats.
const NOTE: usize = 900;

/// What every follower needs.
#[derive(Clone)]
pub struct Shared {
    pub client: Client,
    pub caches: Arc<Caches>,
    pub intake: Arc<Intake>,
    pub metrics: Metrics,
    pub recorder: Recorder,
    pub watching: Arc<Watching>,
}

/// How an object comes to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// It was there when the watch began, or began anew. With when it was last written, where that is known.
    Listed(Option<DateTime<Utc>>),
    /// It has just come, or changed.
    Changed,
}

impl Read {
    /// When that was said which an object says, where it may have been read before. Of an Event it is when that happened last; others say
    /// what they say from the moment that they are written, whatever times are in them.
    fn said_at(self, signals: &[Signal], manner: Manner) -> Option<DateTime<Utc>> {
        match self {
            Self::Changed => None,
            Self::Listed(written) if manner.outlives => {
                signals.iter().filter_map(|signal| signal.detected_at).max().or(written)
            }
            Self::Listed(written) => written,
        }
    }
}

/// Follows the objects of a kind.
pub struct Follower {
    pub shared: Shared,
    /// The Source as it was when this began.
    pub source: Arc<Source>,
    pub kind: ApiResource,
    pub reads: Reads,
    pub manner: Manner,
    /// What all kinds of the Source report.
    pub book: Arc<Book>,
    /// The kind is served no more.
    pub withdrawn: CancellationToken,
}

impl Follower {
    /// Until the kind is served no more. The Source itself may be gone before that: then this is dropped, and what was reported stays.
    pub async fn follow(self) {
        let api: Api<DynamicObject> = Api::all_with(self.shared.client.clone(), &self.kind);
        let mut stream = std::pin::pin!(watch(api.clone(), self.selection()).default_backoff());
        let mut listed: HashSet<Reporter> = HashSet::new();
        let mut away: HashMap<Reporter, Instant> = HashMap::new();
        loop {
            let next = away.values().min().copied();
            tokio::select! {
                event = stream.next() => match event {
                    None => return,
                    Some(Ok(Event::Init)) => listed.clear(),
                    Some(Ok(Event::InitApply(object))) => {
                        let read = Read::Listed(written_at(&object));
                        let object = self.named(object);
                        let key = self.key(&object);
                        away.remove(&key);
                        self.note(&api, object, read).await;
                        listed.insert(key);
                    }
                    Some(Ok(Event::Apply(object))) => {
                        let object = self.named(object);
                        away.remove(&self.key(&object));
                        self.note(&api, object, Read::Changed).await;
                    }
                    Some(Ok(Event::Delete(object))) if !self.manner.outlives => {
                        away.insert(self.key(&object), Instant::now() + stays_away(&object, Utc::now()));
                    }
                    Some(Ok(Event::Delete(_))) => {}
                    Some(Ok(Event::InitDone)) => {
                        let label = self.label();
                        if !self.manner.outlives {
                            let missing = self.book.ledger().missing(&label, &listed);
                            away.extend(missing.into_iter().map(|object| (object, Instant::now() + STAYS_AWAY)));
                            self.book.ledger().are_all(&label, &listed);
                        }
                        listed = HashSet::new();
                        self.is(State::Watched);
                        self.book.owes();
                        self.settle().await;
                    }
                    Some(Err(error)) => self.fails(&error).await,
                },
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    let now = Instant::now();
                    let gone: Vec<Reporter> = away.extract_if(|_, at| *at <= now).map(|(object, _)| object).collect();
                    self.are_gone(gone).await;
                }
                // Its objects went with it.
                () = self.withdrawn.cancelled() => {
                    let gone = self.book.ledger().missing(&self.label(), &HashSet::new());
                    self.book.ledger().are_all(&self.label(), &HashSet::new());
                    self.are_gone(gone).await;
                    self.book.owes();
                    self.settle().await;
                    return;
                }
            }
        }
    }

    fn selection(&self) -> watcher::Config {
        let config = watcher::Config::default().page_size(PAGE);
        let watch = self.source.spec.watch.as_ref();
        let reasons = watch.map(|watch| watch.reasons.as_slice()).unwrap_or_default();
        match reasons {
            _ if !self.manner.outlives => config,
            [] => config.fields("type!=Normal"),
            [reason] => config.fields(&format!("reason={reason}")),
            _ => config,
        }
    }

    /// Objects of a list don't always say what they are. Who wrote which field of them is nothing that anybody reads.
    fn named(&self, mut object: DynamicObject) -> DynamicObject {
        object.managed_fields_mut().clear();
        object.types.get_or_insert_with(|| TypeMeta {
            api_version: self.kind.api_version.clone(),
            kind: self.kind.kind.clone(),
        });
        object
    }

    fn label(&self) -> String {
        kinds::label(&self.kind)
    }

    fn key(&self, object: &DynamicObject) -> Reporter {
        reporter(&self.label(), object.metadata.namespace.as_deref(), &object.name_any())
    }

    fn name(&self) -> String {
        self.source.name_any()
    }

    fn is(&self, state: State) -> bool {
        self.shared.watching.is(&self.name(), &self.label(), state)
    }

    async fn fails(&self, error: &watcher::Error) {
        let (source, kind) = (self.name(), self.label());
        let status = match error {
            watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            | watcher::Error::WatchError(status) => Some(status),
            _ => None,
        };
        match status {
            // The place in the watch is too old, or the kind is just coming or going: it is listed anew, which is no failure.
            Some(status) if [404, 410, 429].contains(&status.code) => return,
            Some(status) if status.is_forbidden() => {
                // Others may have waited for this kind to be read.
                if self.is(State::Forbidden(status.message.clone())) {
                    self.book.owes();
                    self.settle().await;
                }
            }
            _ => drop(self.is(State::Fails(error.to_string()))),
        }
        tracing::warn!(source, kind, %error, "a watch was interrupted; it is opened anew");
    }

    async fn note(&self, api: &Api<DynamicObject>, object: DynamicObject, read: Read) {
        let key = self.key(&object);
        let reading = self.book.reading().await;
        let was_known = self.book.ledger().is_known(&key);
        match self.take(api, object, &key, read).await {
            // What it reported before this process began, and doesn't now, had to wait for that.
            true if !was_known => self.book.owes(),
            true => {}
            false if self.manner.outlives => {}
            false => self.book.ledger().is_unread(&key),
        }
        drop(reading);
        self.settle().await;
    }

    /// Ends what is left over, where that is owed.
    async fn settle(&self) {
        if let Some(_alone) = self.book.settling() {
            self.end(self.left_over()).await;
        }
    }

    /// One object, until what it says is stored: a watch has nobody who would send it again. The answer is whether it is known what it
    /// reports.
    async fn take(&self, api: &Api<DynamicObject>, object: DynamicObject, key: &str, read: Read) -> bool {
        let Some(object) = self.whole(api, object).await else { return false };
        let signals = match self.signals(&object, key) {
            Ok(signals) => signals,
            Err(unreadable) => {
                self.refuse(key, &unreadable).await;
                return false;
            }
        };
        drop(object);
        let source = self.name();
        let said_at = read.said_at(&signals, self.manner);
        // An Event that changes tells that it happened once more.
        let again = if self.manner.outlives { Again::IsARepeat } else { Again::IsTheSame };
        let accepted = loop {
            match self.shared.intake.submit(&source, &signals, again, said_at).await {
                Ok(accepted) => break accepted,
                // A Source that is bound to namespaces passes over what is in others.
                Err(error @ IntakeError::Foreign { .. }) => {
                    self.shared.metrics.signal(&source, "foreign");
                    tracing::debug!(source, object = key, %error, "a report was passed over");
                    return false;
                }
                Err(error) => {
                    self.shared.metrics.signal(&source, "failed");
                    tracing::warn!(source, object = key, %error, "a report could not be stored");
                    if !error.is_transient() {
                        return false;
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        for one in &accepted {
            self.shared.metrics.signal(&source, outcome(one));
        }
        if !self.manner.outlives {
            let reported = accepted.into_iter().map(|one| (one.namespace, one.name));
            let over = self.book.ledger().reports(key, reported.collect());
            self.end(over).await;
        }
        true
    }

    /// All of an object, of which a watch may have metadata only.
    async fn whole(&self, api: &Api<DynamicObject>, object: DynamicObject) -> Option<DynamicObject> {
        if !self.manner.reads_each {
            return Some(object);
        }
        let name = object.name_any();
        let api = match object.namespace() {
            Some(namespace) => Api::namespaced_with(api.clone().into_client(), &namespace, &self.kind),
            None => api.clone(),
        };
        loop {
            match api.get_opt(&name).await {
                Ok(found) => return found.map(|object| self.named(object)),
                Err(error @ kube::Error::Api(_)) if !crate::intake::deliver::may_be_taken_later(&error) => {
                    tracing::warn!(object = name, %error, "an object could not be read");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(object = name, %error, "an object could not be read; tried again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    fn signals(&self, object: &DynamicObject, key: &str) -> Result<Vec<Signal>, Unreadable> {
        let body = serde_json::to_vec(object).map_err(|error| Unreadable::broke_off(&error))?;
        let mut signals = match &self.source.spec.watch {
            Some(watch) if self.manner.outlives => quell_ingest::read_events(&body, &watch.reasons)?,
            _ => self.reads.read(&[], &body)?.signals,
        };
        // What one object says is over another may still report: it is over when none does.
        signals.retain(|signal| !signal.resolved);
        for signal in &mut signals {
            signal.reported_by = Some(key.to_owned());
        }
        Ok(signals)
    }

    async fn refuse(&self, key: &str, unreadable: &Unreadable) {
        let source = self.name();
        self.shared.metrics.signal(&source, "refused");
        tracing::warn!(source, object = key, %unreadable, "a report was not understood");
        let note: String = format!("{key} can't be read: {unreadable}").chars().take(NOTE).collect();
        let told = Told {
            type_: EventType::Warning,
            reason: "Unreadable".to_owned(),
            note: Some(note),
            action: "Read".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.shared.recorder.publish(&told, &self.source.object_ref(&())).await {
            tracing::warn!(%error, "an Event could not be written");
        }
    }

    /// Findings that an object of the Source reported before this process began, and that none reports now; none before all kinds have been
    /// read.
    fn left_over(&self) -> Vec<FindingKey> {
        let source = self.name();
        let kinds = if self.manner.outlives { Vec::new() } else { self.shared.watching.read(&source) };
        if kinds.is_empty() {
            return Vec::new();
        }
        let ledger = self.book.ledger();
        let all = self.shared.caches.findings.state().into_iter();
        let ours = all.filter(|finding| {
            let by = finding.annotations().get(names::REPORTED_BY);
            finding.spec.source == source
                && by.is_some_and(|by| kinds.iter().any(|kind| is_of(by, kind)) && ledger.is_known(by))
                && !finding.status.as_ref().is_some_and(FindingStatus::is_resolved)
        });
        let keys = ours.map(|finding| (finding.namespace().unwrap_or_default(), finding.name_any()));
        keys.filter(|key| !ledger.is_reported(key)).collect()
    }

    async fn are_gone(&self, objects: Vec<Reporter>) {
        let over = {
            let mut ledger = self.book.ledger();
            objects.iter().flat_map(|object| ledger.is_gone(object)).collect()
        };
        self.end(over).await;
    }

    /// Nobody reports these any more.
    async fn end(&self, over: Vec<FindingKey>) {
        if over.is_empty() {
            return;
        }
        let source = self.name();
        let findings: Vec<ObjectRef<Finding>> =
            over.iter().map(|(namespace, name)| ObjectRef::new(name).within(namespace)).collect();
        loop {
            match self.shared.intake.resolve(&findings).await {
                Ok(ended) => {
                    (0..ended).for_each(|_| self.shared.metrics.signal(&source, "resolved"));
                    return;
                }
                Err(error) if error.is_transient() => {
                    tracing::warn!(source, %error, "what is over could not be written down; tried again");
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => {
                    tracing::error!(source, %error, "what is over could not be written down");
                    return;
                }
            }
        }
    }
}

/// When an object was last written.
fn written_at(object: &DynamicObject) -> Option<DateTime<Utc>> {
    object.managed_fields().iter().filter_map(|written| written.time.as_ref()).map(time::from_kubernetes).max()
}

/// How long a deleted object may be away before it counts as gone.
fn stays_away(object: &DynamicObject, now: DateTime<Utc>) -> Duration {
    let ttl = object.annotations().get(REPORT_TTL).and_then(|ttl| ttl.parse::<kube::core::Duration>().ok());
    let created = object.metadata.creation_timestamp.as_ref().map(time::from_kubernetes);
    let ran_out = ttl
        .zip(created)
        .is_some_and(|(ttl, created)| (now - created).to_std().is_ok_and(|age| age >= Duration::from(ttl)));
    if ran_out { RESCAN } else { STAYS_AWAY }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_object_says_was_said_when_it_was_last_written_and_what_an_event_says_when_it_last_happened() {
        let by = |manager: &str, at: &str| json!({ "manager": manager, "operation": "Update", "time": at });
        let written = json!([by("a", "2026-01-01T00:00:00Z"), by("b", "2026-01-03T00:00:00Z"), { "manager": "c", "operation": "Apply" }]);
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "PolicyViolation", "message": "policy a/b fail: c",
            "metadata": { "name": "e", "namespace": "shop", "managedFields": written },
            "lastTimestamp": null, "eventTime": "2026-01-01T06:00:00.000000Z", "series": { "count": 3, "lastObservedTime": "2026-01-02T00:00:00.000000Z" },
            "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web" },
        });
        let signals = quell_ingest::read_events(event.to_string().as_bytes(), &[]).unwrap();
        let object: DynamicObject = serde_json::from_value(event).unwrap();
        let at = |text: &str| text.parse::<DateTime<Utc>>().ok();
        let read = Read::Listed(written_at(&object));
        let (outlives, other) = (Manner { outlives: true, ..Manner::default() }, Manner::default());
        assert_eq!(read.said_at(&signals, other), at("2026-01-03T00:00:00Z"));
        assert_eq!(read.said_at(&signals, outlives), at("2026-01-02T00:00:00Z"));
        assert_eq!(read.said_at(&[], outlives), at("2026-01-03T00:00:00Z"));
        assert_eq!(Read::Changed.said_at(&signals, outlives), None);
        assert_eq!(Read::Listed(None).said_at(&signals, other), None, "nobody knows");
    }

    #[test]
    fn a_report_whose_time_ran_out_may_be_away_until_it_is_scanned_anew() {
        let report = |ttl: Option<&str>| -> DynamicObject {
            let annotations = ttl.map_or(json!({}), |ttl| json!({ REPORT_TTL: ttl }));
            let metadata =
                json!({"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": annotations});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        assert_eq!(stays_away(&report(Some("24h0m0s")), at("2026-01-02T00:00:30Z")), RESCAN);
        assert_eq!(stays_away(&report(Some("24h0m0s")), at("2026-01-01T12:00:00Z")), STAYS_AWAY);
        assert_eq!(stays_away(&report(None), at("2026-01-02T00:00:30Z")), STAYS_AWAY);
    }
}
