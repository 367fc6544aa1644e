//! From what is reported to what is durable: in the cluster, or on this replica's disk.

use std::sync::Arc;
use std::time::Duration;

use axum::http;
use axum::http::uri::InvalidUri;
use chrono::{DateTime, Utc};
use kube::ResourceExt as _;
use kube::api::{Api, PartialObjectMeta, PostParams};
use kube::core::Request;
use kube::runtime::reflector::ObjectRef;
use quell_crds::names::field_managers;
use quell_crds::v1alpha1::{Finding, FindingSpec, FindingStatus};
use quell_ingest::{News, news};
use quell_spool::Sequence;
use tokio::task::JoinError;

use crate::engine::contain_at_once;
use crate::intake::backlog::{Backlog, KeepError, Waiting, key};
use crate::intake::flights::Turn;
use crate::intake::fold::Ended;
use crate::intake::{Accepted, Again, Intake, IntakeError, LONGEST_STORE, Report};

/// A Finding that isn't stored by then is kept on disk beside that, and its sender has its answer.
const SLOW: Duration = Duration::from_millis(250);

/// What became of a report.
struct Stored {
    /// The Finding that it is about, where there is one.
    accepted: Option<Accepted>,
    repeat: Repeat,
}

/// Whether a report is still to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    /// All that it says is written.
    IsNone,
    /// The Finding was there, and maybe this says more.
    ToBeCounted {
        /// Whether it does, as far as is known.
        says_more: bool,
    },
    /// It was said before the Finding was last seen, so it has been counted.
    WasCounted {
        /// Whether it says more all the same.
        says_more: bool,
    },
}

impl Intake {
    /// The API server first; the disk where it doesn't take the report, or not soon, or where others of the same Source wait already. What is
    /// over makes no Finding: without one there is no answer.
    pub(super) async fn store_or_keep(
        self: &Arc<Self>,
        mut report: Report,
        backlog: &Arc<Backlog>,
    ) -> Result<Option<Accepted>, IntakeError> {
        backlog.name_report(&mut report.finding);
        let waits = backlog.must_wait(&report.finding.spec.source);
        // What ends a Finding waits for it to be stored.
        if waits || (report.is_over && backlog.is_under_way(&report.key())) {
            if waits && !backlog.is_away() && !report.is_over {
                self.begin_containment(&report.finding);
            }
            return match self.keep(&report, backlog).await {
                Ok(accepted) => Ok(Some(accepted)),
                Err(kept) => {
                    let stored = self.store_and_count(report, Again::IsARepeat).await;
                    backlog.answered(!matches!(&stored, Err(error) if error.is_transient()));
                    stored.map_err(|stored| not_kept(stored, kept))
                }
            };
        }
        if let Some(says_more) = self.repeats(&report) {
            let accepted = accepted(&report.finding, true);
            self.folder.keep_and_count(report.finding, says_more, backlog).await;
            return Ok(Some(accepted));
        }
        // A task of its own: it goes on when the sender has its answer.
        let storing = {
            let (intake, mut report) = (self.clone(), report.clone());
            async move { intake.store(&mut report).await }
        };
        let mut storing = tokio::spawn(storing);
        let stored = match tokio::time::timeout(SLOW, &mut storing).await {
            Ok(stored) => finished(stored, &report),
            Err(_) => match backlog.keep_beside(&report).await {
                Ok(sequence) => {
                    self.recent.remember(report.key());
                    let (backlog, accepted) = (backlog.clone(), spooled(&report));
                    tokio::spawn(async move {
                        let stored = finished(storing.await, &report);
                        settle_beside(&backlog, &report, sequence, stored);
                    });
                    return Ok(Some(accepted));
                }
                Err(kept) => {
                    let stored = finished(storing.await, &report).map_err(|stored| not_kept(stored, kept))?;
                    self.count(&report.finding, &stored, Again::IsARepeat);
                    return Ok(stored.accepted);
                }
            },
        };
        match stored {
            Ok(Stored { accepted: Some(accepted), repeat: Repeat::ToBeCounted { says_more } }) => {
                self.folder.keep_and_count(in_place(report.finding, &accepted), says_more, backlog).await;
                Ok(Some(accepted))
            }
            Err(error) if error.is_transient() => {
                backlog.answered(false);
                self.keep(&report, backlog).await.map(Some).map_err(|kept| not_kept(error, kept))
            }
            other => other.map(|stored| stored.accepted),
        }
    }

    /// Whether a report repeats what the copies show, so that nothing but a count is to be written, and whether it says more all the same.
    fn repeats(&self, report: &Report) -> Option<bool> {
        let known = self.caches.findings.get(&ObjectRef::from_obj(&report.finding)).filter(|_| !report.is_over)?;
        let is_over = known.status.as_ref().is_some_and(FindingStatus::is_over);
        let is_same = known.spec.fingerprint == report.finding.spec.fingerprint;
        match news(&known.spec, &report.finding.spec) {
            News::Worse => None,
            news => (is_same && !is_over).then_some(news != News::Nothing),
        }
    }

    async fn keep(&self, report: &Report, backlog: &Backlog) -> Result<Accepted, KeepError> {
        backlog.keep(report).await?;
        self.recent.remember(report.key());
        Ok(spooled(report))
    }

    /// For what no disk keeps.
    pub(super) async fn store_and_count(
        &self,
        mut report: Report,
        again: Again,
    ) -> Result<Option<Accepted>, IntakeError> {
        let stored = self.store(&mut report).await?;
        self.count(&report.finding, &stored, again);
        Ok(stored.accepted)
    }

    fn count(&self, finding: &Finding, stored: &Stored, again: Again) {
        let Some(accepted) = &stored.accepted else { return };
        let (again, says_more) = match stored.repeat {
            Repeat::IsNone => return,
            Repeat::ToBeCounted { says_more } => (again, says_more),
            Repeat::WasCounted { says_more } => (Again::IsTheSame, says_more),
        };
        let finding = in_place(finding.clone(), accepted);
        match again {
            Again::IsARepeat => self.folder.count(&finding, says_more),
            Again::IsTheSame if says_more => self.folder.refresh(&finding),
            Again::IsTheSame => {}
        }
    }

    /// Creates the Finding, unless it is there: then it is a repeat, which is not counted yet. Ends it, where it is over.
    async fn store(&self, report: &mut Report) -> Result<Stored, IntakeError> {
        if report.is_over {
            return Box::pin(self.end(report)).await;
        }
        let said_at = report.said_at;
        let finding = &mut report.finding;
        // What one says that the copies don't have yet isn't known.
        let repeat = Repeat::ToBeCounted { says_more: true };
        loop {
            if let Some(known) = self.caches.findings.get(&ObjectRef::from_obj(&*finding)) {
                return Box::pin(self.report_again(finding, &known, said_at)).await;
            }
            let stored = match self.flights.turn(key(finding)) {
                Turn::Mine(storing) => {
                    self.begin_containment(finding);
                    let created = self.create_in_place(finding).await?;
                    self.recent.remember(key(finding));
                    storing.done(key(finding));
                    let repeat = if created { Repeat::IsNone } else { repeat };
                    return Ok(Stored { accepted: Some(accepted(finding, !created)), repeat });
                }
                Turn::Stored(place) => Some(place),
                Turn::Theirs(others) => others.end().await,
            };
            if let Some((namespace, _)) = stored {
                finding.metadata.namespace = Some(namespace);
                return Ok(Stored { accepted: Some(accepted(finding, true)), repeat });
            }
        }
    }

    /// The Finding is there already: where it was over it begins anew, where it gets worse that is written at once.
    async fn report_again(
        &self,
        finding: &Finding,
        known: &Finding,
        said_at: Option<DateTime<Utc>>,
    ) -> Result<Stored, IntakeError> {
        if known.spec.fingerprint != finding.spec.fingerprint {
            return Err(IntakeError::Collision { name: finding.name_any() });
        }
        let news = news(&known.spec, &finding.spec);
        let status = known.status.as_ref();
        let over = status.is_some_and(FindingStatus::is_over);
        let was_said_before = |is: fn(&FindingStatus, DateTime<Utc>) -> bool| {
            status.zip(said_at).is_some_and(|(status, said)| is(status, said))
        };
        if was_said_before(FindingStatus::was_ended_after) {
            return Ok(Stored { accepted: Some(accepted(finding, true)), repeat: Repeat::IsNone });
        }
        let there = if news == News::Worse || over {
            let now = Utc::now();
            // Contained beside the writing, as what is reported for the first time.
            self.begin_containment(&as_it_will_be(known, finding, now));
            let there = news == News::Nothing || self.folder.rewrite(finding, news).await?;
            there && (!over || self.folder.reopen(finding, now).await?)
        } else {
            true
        };
        if !there {
            // Deleted meanwhile.
            let mut finding = finding.clone();
            let created = self.create_in_place(&mut finding).await?;
            return Ok(Stored { accepted: Some(accepted(&finding, !created)), repeat: Repeat::IsNone });
        }
        let says_more = news != News::Nothing;
        let repeat = if over {
            Repeat::IsNone
        } else if was_said_before(|status, said| status.last_seen.is_some_and(|seen| said <= seen)) {
            Repeat::WasCounted { says_more }
        } else {
            Repeat::ToBeCounted { says_more }
        };
        Ok(Stored { accepted: Some(accepted(finding, true)), repeat })
    }

    /// Ends the Finding, where it is there.
    async fn end(&self, report: &Report) -> Result<Stored, IntakeError> {
        let is_same = |there: &Finding| there.spec.fingerprint == report.finding.spec.fingerprint;
        let ended = self.folder.resolve(&report.key(), Utc::now(), is_same).await?;
        let there = ended != Ended::NotThere;
        let accepted = there.then(|| Accepted { resolved: true, ..accepted(&report.finding, true) });
        Ok(Stored { accepted, repeat: Repeat::IsNone })
    }

    /// While this replica leads, what a Finding is about is contained beside its storing.
    fn begin_containment(&self, finding: &Finding) {
        if let Some(engine) = self.engine.load_full() {
            let finding = finding.clone();
            // Claimed before the Finding asks for its own pass: it is stored after the pod is cut off, not beside it.
            let claim = self.lanes.claim();
            tokio::spawn(async move {
                contain_at_once(&engine, &finding).await;
                drop(claim);
            });
        }
    }

    /// Creates the Finding; `false` where one of that name is there. A tool may name a namespace that is gone, or never was here: the
    /// Finding is then in Quell's own.
    async fn create_in_place(&self, finding: &mut Finding) -> Result<bool, IntakeError> {
        let created = match self.create(finding).await {
            Some(Err(kube::Error::Api(status)))
                if (status.is_not_found() || status.is_forbidden())
                    && finding.namespace().as_deref() != Some(&self.own_namespace) =>
            {
                finding.metadata.namespace = Some(self.own_namespace.clone());
                self.create(finding).await
            }
            other => other,
        };
        match created {
            Some(Ok(_)) => Ok(true),
            Some(Err(kube::Error::Api(status))) if status.is_already_exists() => Ok(false),
            Some(Err(source)) => Err(IntakeError::Store { name: finding.name_any(), source: Box::new(source) }),
            None => Err(IntakeError::NoAnswer { name: finding.name_any() }),
        }
    }

    /// Delivers reports that waited, all of one Finding, oldest first. The answer is how many of them were repeats. It may be asked again
    /// for the same ones, whatever became of them before.
    pub(super) async fn deliver(&self, reports: &[&Waiting]) -> Result<usize, IntakeError> {
        let Some(first) = reports.first() else { return Ok(0) };
        let mut finding = first.record.finding.clone();
        let known = self.caches.findings.get(&ObjectRef::from_obj(&finding)).is_some();
        let mut created = false;
        if !known && !first.record.is_over {
            self.begin_containment(&finding);
            created = self.create_in_place(&mut finding).await?;
        }
        let rest = if created { &reports[1..] } else { reports };
        if rest.is_empty() {
            return Ok(0);
        }
        let worst = rest.iter().filter(|one| !one.record.is_over).max_by_key(|one| one.record.finding.spec.severity);
        if let Some(worst) = worst {
            self.folder.rewrite(&worst.record.finding, News::Worse).await?;
        }
        match self.folder.count_kept(&finding, rest).await? {
            Some(repeats) => {
                // What was counted before may have been written before, and other things since.
                if let Some(worst) = worst.filter(|_| repeats > 0) {
                    self.folder.rewrite(&worst.record.finding, News::Other).await?;
                }
                Ok(repeats)
            }
            // It was deleted meanwhile, which is for people to do: what was reported before is not a reason to bring it back, what is reported
            // again is.
            None if created => Ok(rest.len()),
            None => {
                // What says that it is over needs no Finding.
                let Some(at) = rest.iter().position(|one| !one.record.is_over) else { return Ok(0) };
                let mut finding = rest[at].record.finding.clone();
                self.begin_containment(&finding);
                self.create_in_place(&mut finding).await?;
                let rest = &rest[at + 1..];
                if rest.iter().any(|one| one.record.is_over) {
                    self.folder.count_kept(&finding, rest).await?;
                }
                Ok(rest.len())
            }
        }
    }

    /// Of the answer only the metadata is read. The server is asked not to warn of unknown fields, for which it would decode the Finding
    /// twice: what is sent is made by this very version's types.
    async fn create(&self, finding: &Finding) -> Option<Result<PartialObjectMeta<Finding>, kube::Error>> {
        let request = match self.creation(finding) {
            Ok(request) => request,
            Err(error) => return Some(Err(error)),
        };
        let _pass = self.lanes.signal(&finding.spec.source).await;
        tokio::time::timeout(LONGEST_STORE, self.client.request(request)).await.ok()
    }

    fn creation(&self, finding: &Finding) -> Result<http::Request<Vec<u8>>, kube::Error> {
        let api: Api<Finding> = Api::namespaced(self.client.clone(), &finding.namespace().unwrap_or_default());
        let parameters = PostParams { field_manager: Some(field_managers::INTAKE.to_owned()), ..PostParams::default() };
        let body = serde_json::to_vec(finding).map_err(kube::Error::SerdeError)?;
        let mut request =
            Request::new(api.resource_url()).create(&parameters, body).map_err(kube::Error::BuildRequest)?;
        let uri = format!("{}&fieldValidation=Ignore", request.uri());
        *request.uri_mut() = uri.parse().map_err(|error: InvalidUri| kube::Error::HttpError(error.into()))?;
        Ok(request)
    }
}

/// A Finding that is there, once what is reported of it now is written.
fn as_it_will_be(known: &Finding, reported: &Finding, now: DateTime<Utc>) -> Finding {
    let mut finding = known.clone();
    if news(&known.spec, &reported.spec) != News::Nothing {
        let says = reported.spec.clone();
        finding.spec = FindingSpec {
            severity: says.severity,
            message: says.message,
            vulnerabilities: says.vulnerabilities,
            vulnerability_counts: says.vulnerability_counts,
            details: says.details,
            ..finding.spec
        };
    }
    if let Some(status) = finding.status.as_mut().filter(|status| status.is_over()) {
        status.reopen(now);
    }
    finding
}

/// The Finding where it was stored.
fn in_place(mut finding: Finding, stored: &Accepted) -> Finding {
    finding.metadata.namespace = Some(stored.namespace.clone());
    finding
}

fn accepted(finding: &Finding, repeated: bool) -> Accepted {
    let (namespace, name) = (finding.namespace().unwrap_or_default(), finding.name_any());
    Accepted { namespace, name, repeated, spooled: false, resolved: false }
}

fn spooled(report: &Report) -> Accepted {
    Accepted { spooled: true, resolved: report.is_over, ..accepted(&report.finding, false) }
}

fn not_kept(stored: IntakeError, kept: KeepError) -> IntakeError {
    IntakeError::NotKept { stored: Box::new(stored), kept }
}

/// A task that broke off has stored nothing, as far as anybody knows.
fn finished(stored: Result<Result<Stored, IntakeError>, JoinError>, report: &Report) -> Result<Stored, IntakeError> {
    stored.unwrap_or_else(|error| {
        tracing::error!(%error, "storing a Finding broke off");
        Err(IntakeError::NoAnswer { name: report.finding.name_any() })
    })
}

/// The sender had its answer from the disk before the API server gave one.
fn settle_beside(backlog: &Backlog, report: &Report, sequence: Sequence, stored: Result<Stored, IntakeError>) {
    match stored {
        Ok(Stored { repeat: Repeat::ToBeCounted { .. }, .. }) => backlog.to_be_delivered(report),
        Ok(_) => backlog.stored(report, sequence),
        Err(error) if error.is_transient() => {
            backlog.answered(false);
            backlog.to_be_delivered(report);
        }
        Err(error) => {
            tracing::error!(%error, ?report, "a report that was answered with success is not taken by the API server; it is dropped");
            backlog.stored(report, sequence);
        }
    }
}
