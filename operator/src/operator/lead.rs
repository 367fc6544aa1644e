//! What the replica that leads does beside what all of them do.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::reflector::ObjectRef;
use quell_crds::v1alpha1::{Finding, Remediation};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use super::taken::Changed;
use crate::declared::Declared;
use crate::engine::{self, Engine, Queue, drive};
use crate::history::{self, History};
use crate::intake::{self, Intake};
use crate::{expiry, finalizers, reviews, suppressions};

/// Whom the leader looks at next: Findings, runs, and namespaces with quarantines.
pub struct Queues {
    pub findings: (Queue<Finding>, UnboundedReceiver<ObjectRef<Finding>>),
    pub runs: (Queue<Remediation>, UnboundedReceiver<ObjectRef<Remediation>>),
    pub namespaces: (Queue<Namespace>, UnboundedReceiver<ObjectRef<Namespace>>),
}

impl Queues {
    pub fn new() -> Self {
        Self { findings: Queue::new(), runs: Queue::new(), namespaces: Queue::new() }
    }
}

/// What the leader does, until `end`.
pub async fn lead(
    engine: Arc<Engine>,
    declared: Arc<Declared>,
    intake: Arc<Intake>,
    queues: Queues,
    changed: Arc<Changed>,
    history: History,
    end: CancellationToken,
) {
    let caches = engine.caches.clone();
    engine.turns.take_up(&caches);
    engine.permits.lead();
    // Whatever happened while nobody led is in the copies.
    queues.findings.0.open();
    queues.runs.0.open();
    queues.namespaces.0.open();
    for finding in caches.findings.state() {
        queues.findings.0.send(ObjectRef::from_obj(&*finding));
    }
    for run in caches.remediations.state() {
        queues.runs.0.send(ObjectRef::from_obj(&*run));
    }
    for namespace in caches.namespaces_with_quarantines() {
        queues.namespaces.0.send(ObjectRef::new(&namespace));
    }
    changed.library.notify_one();
    changed.sources.notify_one();
    changed.guardrails.notify_one();
    intake.lead(engine.clone());
    let watched = Arc::new(Notify::new());
    let accepted = declared.clone();
    let shared = intake::Shared {
        client: engine.client.clone(),
        caches: caches.clone(),
        intake,
        metrics: engine.metrics.clone(),
        recorder: engine.recorder.clone(),
        watching: declared.watching.clone(),
    };
    tokio::join!(
        drive(engine.clone(), caches.findings.clone(), queues.findings.1, end.clone(), engine::finding_pass),
        drive(engine.clone(), caches.remediations.clone(), queues.runs.1, end.clone(), engine::run_pass),
        finalizers::keep(engine.client.clone(), caches.clone(), engine.lanes.clone(), queues.namespaces, end.clone()),
        expiry::keep(
            engine.client.clone(),
            caches.clone(),
            engine.recorder.clone(),
            &changed.image_blocks,
            end.clone()
        ),
        history::keep(
            engine.client.clone(),
            caches.clone(),
            engine.lanes.clone(),
            engine.metrics.clone(),
            history,
            end.clone()
        ),
        keep_library_reported(declared.clone(), changed.clone(), end.clone()),
        suppressions::keep(
            &engine.suppressions,
            &engine.caches,
            &accepted,
            &queues.findings.0,
            &changed.suppressions,
            end.clone()
        ),
        keep_guardrails_reported(declared.clone(), changed.clone(), end.clone()),
        keep_sources_reported(declared, changed.clone(), watched.clone(), end.clone()),
        intake::watch_sources(shared, watched, end),
    );
}

async fn keep_library_reported(declared: Arc<Declared>, changed: Arc<Changed>, end: CancellationToken) {
    let mut again = reviews::AGAIN;
    loop {
        tokio::select! {
            () = changed.library.notified() => {}
            () = tokio::time::sleep(again) => {}
            () = end.cancelled() => return,
        }
        again = declared.report_library().await;
    }
}

async fn keep_guardrails_reported(declared: Arc<Declared>, changed: Arc<Changed>, end: CancellationToken) {
    loop {
        tokio::select! {
            () = changed.guardrails.notified() => declared.report_guardrails().await,
            () = end.cancelled() => return,
        }
    }
}

async fn keep_sources_reported(
    declared: Arc<Declared>,
    changed: Arc<Changed>,
    watched: Arc<Notify>,
    end: CancellationToken,
) {
    loop {
        tokio::select! {
            () = changed.sources.notified() => watched.notify_one(),
            () = declared.watching.changed.notified() => {}
            () = end.cancelled() => return,
        }
        declared.report_sources().await;
    }
}
