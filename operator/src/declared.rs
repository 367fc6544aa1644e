//! Statuses of what people declare: playbooks, channels and Sources. Written by the leader, read by everyone.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource, ResourceExt as _};
use quell_crds::conditions::{ConditionType, Reason, Status, condition, find};
use quell_crds::v1alpha1::{
    Channel, ChannelKind, ClusterChannel, ClusterPlaybook, ClusterSuppression, Guardrail, Playbook, PlaybookKind,
    Source, Suppression,
};
use quell_notify::Destination;
use quell_playbooks::{guardrails, suppress};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::caches::{Caches, Notice};
use crate::engine::{Library, status_parameters};
use crate::guardrails::Watched;
use crate::intake::{self, Watching};
use crate::reviews::{AGAIN_WHERE_MISSING, Reviews};

/// Writes the statuses.
pub struct Declared {
    /// Writes, as Quell itself.
    pub client: Client,
    /// What is declared.
    pub caches: Arc<Caches>,
    /// What the playbooks compiled to.
    pub library: Arc<Library>,
    /// Writes Events.
    pub recorder: Recorder,
    /// The Guardrails.
    pub guardrails: Arc<Watched>,
    /// What is known of the rights of playbooks.
    pub reviews: Arc<Reviews>,
    /// How the watches of Sources go.
    pub watching: Arc<Watching>,
    /// Is told when a playbook has its rights, or has them no more.
    pub notices: UnboundedSender<Notice>,
}

type Judgement = (Status, Reason, String);

impl Declared {
    /// Playbooks and channels. Gives back after which time to look again.
    pub async fn report_library(&self) -> Duration {
        let drafts: Vec<_> = self.library.entries().iter().map(|entry| entry.draft.clone()).collect();
        if self.reviews.refresh(&drafts).await {
            // The library is made anew, Findings that came while a playbook had not its rights are looked at again, and the statuses are
            // written after that. Where nobody listens any more, it is the end.
            let _ = self.notices.send(Notice::Library);
            return AGAIN_WHERE_MISSING;
        }
        for entry in self.library.entries().iter() {
            let reference = &entry.draft.reference;
            let judged = match &entry.compiled {
                Ok(compiled) => (Status::True, Reason::Accepted, format!("{} steps", compiled.steps.len())),
                Err(problem) => (Status::False, problem.reason, problem.to_string()),
            };
            let since = json!({ "effectiveSince": entry.draft.effective_since });
            match reference.kind {
                PlaybookKind::ClusterPlaybook => {
                    let key = kube::runtime::reflector::ObjectRef::new(&reference.name);
                    let Some(playbook) = self.caches.cluster_playbooks.get(&key) else { continue };
                    let conditions = playbook.status.clone().unwrap_or_default().conditions;
                    let api: Api<ClusterPlaybook> = Api::all(self.client.clone());
                    self.write(&api, &*playbook, &conditions, judged, since).await;
                }
                PlaybookKind::Playbook => {
                    let key = kube::runtime::reflector::ObjectRef::new(&reference.name).within(&entry.draft.namespace);
                    let Some(playbook) = self.caches.playbooks.get(&key) else { continue };
                    let conditions = playbook.status.clone().unwrap_or_default().conditions;
                    let api = self.namespaced::<Playbook>(&playbook);
                    self.write(&api, &*playbook, &conditions, judged, since).await;
                }
            }
        }
        for channel in self.caches.cluster_channels.state() {
            let judged = self.judge_channel(&channel.spec.kind);
            let conditions = channel.status.clone().unwrap_or_default().conditions;
            let api: Api<ClusterChannel> = Api::all(self.client.clone());
            self.write(&api, &*channel, &conditions, judged, json!({})).await;
        }
        for channel in self.caches.channels.state() {
            let message = "its Secrets are read when it is used, as the ServiceAccount of the playbook";
            let judged = (Status::True, Reason::Accepted, message.to_owned());
            let conditions = channel.status.clone().unwrap_or_default().conditions;
            self.write(&self.namespaced::<Channel>(&channel), &*channel, &conditions, judged, json!({})).await;
        }
        self.reviews.again()
    }

    /// Guardrails. One that can't even be decoded has no status that could be written: the operator's log tells of it, and every run that
    /// it holds.
    pub async fn report_guardrails(&self) {
        for guardrail in self.guardrails.objects() {
            let guardrail = match guardrail.0 {
                Ok(guardrail) => guardrail,
                Err(invalid) => {
                    let name = invalid.metadata.name.unwrap_or_default();
                    tracing::error!(name, error = invalid.error, "a Guardrail can't be read: everything is held");
                    continue;
                }
            };
            let judged = match guardrails::compile(&guardrail) {
                Ok(_) if guardrail.spec.stop => {
                    (Status::True, Reason::Stopped, "the stop switch is on: nothing is done".to_owned())
                }
                Ok(_) => (Status::True, Reason::Accepted, "is held to at every effect".to_owned()),
                Err(problem) => {
                    let message = format!("{problem}. Until this is repaired, everything is held");
                    (Status::False, Reason::ExpressionInvalid, message)
                }
            };
            let conditions = guardrail.status.clone().unwrap_or_default().conditions;
            let api: Api<Guardrail> = Api::all(self.client.clone());
            self.write(&api, &guardrail, &conditions, judged, json!({})).await;
        }
    }

    /// Suppressions and ClusterSuppressions.
    pub async fn report_suppressions(&self) {
        let now = Utc::now();
        let judge = |compiled: Result<suppress::Compiled, quell_playbooks::Problem>| match compiled {
            Ok(one) if one.is_over(now) => {
                (Status::False, Reason::Expired, "its time is over: what it covered is open again".to_owned())
            }
            Ok(_) => (Status::True, Reason::Accepted, "is in force".to_owned()),
            Err(problem) => (Status::False, problem.reason, format!("{problem}. Until then it suppresses nothing")),
        };
        for one in self.caches.cluster_suppressions.state() {
            let conditions = one.status.clone().unwrap_or_default().conditions;
            let api: Api<ClusterSuppression> = Api::all(self.client.clone());
            self.write(&api, &*one, &conditions, judge(suppress::Compiled::of_cluster(&one)), json!({})).await;
        }
        for one in self.caches.suppressions.state() {
            let conditions = one.status.clone().unwrap_or_default().conditions;
            let api = self.namespaced::<Suppression>(&one);
            self.write(&api, &*one, &conditions, judge(suppress::Compiled::of(&one)), json!({})).await;
        }
    }

    /// Sources.
    pub async fn report_sources(&self) {
        for source in self.caches.sources.state() {
            let mut judged = intake::judge(&source, &self.caches);
            if judged.0 == Status::True && source.spec.watch.is_some() {
                // Told as soon as it is known which kinds are served.
                let Some(watched) = self.watching.judge(&source.name_any()) else { continue };
                judged = watched;
            }
            let conditions = source.status.clone().unwrap_or_default().conditions;
            let api: Api<Source> = Api::all(self.client.clone());
            self.write(&api, &*source, &conditions, judged, json!({})).await;
        }
    }

    /// Secrets of ClusterChannels are in Quell's own namespace, which is watched.
    fn judge_channel(&self, kind: &ChannelKind) -> Judgement {
        let namespace = quell_actions::Cluster::own_namespace(&*self.caches);
        let resolved = Destination::resolve(kind, |key| {
            intake::secret_value(&self.caches.secrets, namespace, key).map(quell_notify::Secret::new)
        });
        match resolved {
            Ok(_) => (Status::True, Reason::Accepted, "can be used".to_owned()),
            Err(error) => (Status::False, error.reason(), format!("{error} (in the namespace {namespace})")),
        }
    }

    fn namespaced<K>(&self, object: &K) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default())
    }

    /// Only a real change is written, and only a change for the worse makes an Event.
    async fn write<K>(&self, api: &Api<K>, object: &K, conditions: &[Condition], judged: Judgement, mut more: Value)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        let (status, reason, message) = judged;
        let generation = object.meta().generation;
        let made = condition(conditions, ConditionType::Ready, status, reason, message, generation, Utc::now());
        let old = find(conditions, ConditionType::Ready);
        if old == Some(&made) {
            return;
        }
        more["observedGeneration"] = json!(generation);
        more["conditions"] = json!([made]);
        let name = object.name_any();
        match api.patch_status(&name, &status_parameters(), &Patch::Merge(json!({ "status": more }))).await {
            Ok(_) => {}
            Err(kube::Error::Api(answer)) if answer.is_not_found() => return,
            Err(error) => {
                tracing::warn!(kind = %K::kind(&()), name, %error, "a status could not be written");
                return;
            }
        }
        if status != Status::True && old.is_none_or(|old| old.reason != made.reason) {
            let event = Event {
                type_: EventType::Warning,
                reason: made.reason,
                note: Some(made.message.chars().take(1000).collect()),
                action: "Check".to_owned(),
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
                tracing::warn!(%error, "an Event could not be written");
            }
        }
    }
}
