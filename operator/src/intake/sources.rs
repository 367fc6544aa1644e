//! The Sources as the intake needs them: who may report by each, how much, and about what.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource as _, ResourceExt as _};
use quell_crds::conditions::{Reason, Status};
use quell_crds::v1alpha1::{Duration, SecretKey, Source};
use quell_playbooks::Problem;

use crate::caches::Caches;
use crate::intake::budget::{Budget, Limits};
use crate::intake::credentials::{Credential, Reviews, Seen};
use crate::intake::follow_ups::{Following, Tool};
use crate::intake::reads::Reads;
use crate::intake::territory::Territory;

/// All Sources. What a Source has spent of its limits outlives a change of any Secret.
#[derive(Clone)]
pub struct Sources {
    all: Arc<ArcSwap<HashMap<String, Arc<Known>>>>,
    refreshing: Arc<Mutex<()>>,
    /// What the API server says of tokens.
    pub reviews: Reviews,
}

/// One Source.
#[derive(Debug)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// Where Events about it stand.
    pub reference: ObjectReference,
    /// How what it sends is read.
    pub reads: Result<Reads, Problem>,
    /// What it must show; `None` for a Source that is watched.
    pub credential: Option<Result<Credential, Problem>>,
    /// Where its Clair has notifications.
    pub clair: Option<Result<Tool, Problem>>,
    /// Where its Harbor lists vulnerabilities.
    pub harbor: Option<Result<Tool, Problem>>,
    /// What it may speak for; `None` for everything.
    pub territory: Option<Result<Territory, Problem>>,
    /// How long its Findings count as open after they were last reported.
    pub expire_after: Option<Duration>,
    /// What it may ask for.
    pub limits: Limits,
    /// What of that is left.
    pub budget: Arc<Budget>,
    /// Signed requests that were taken.
    pub seen: Arc<Seen>,
    /// What is fetched for it.
    pub following: Arc<Following>,
}

impl Known {
    fn compile(source: &Source, before: Option<&Arc<Self>>, caches: &Caches) -> Self {
        let spec = &source.spec;
        let limits = Limits::of(spec.limits.as_ref());
        let same = before.filter(|before| before.limits == limits);
        Self {
            name: source.name_any(),
            reference: source.object_ref(&()),
            reads: Reads::compile(source),
            credential: spec.webhook.as_ref().map(|one| Credential::compile(one, caches, own_namespace(caches))),
            clair: Tool::clair(spec, caches, own_namespace(caches)),
            harbor: Tool::harbor(spec, caches, own_namespace(caches)),
            territory: spec.namespaces.as_ref().map(Territory::compile),
            budget: same.map_or_else(|| Arc::new(Budget::new(&limits)), |same| same.budget.clone()),
            limits,
            expire_after: spec.expire_after,
            seen: before.map(|before| before.seen.clone()).unwrap_or_default(),
            following: before.map(|before| before.following.clone()).unwrap_or_default(),
        }
    }

    /// Why it can't be used.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        let credential = self.credential.as_ref().and_then(|made| made.as_ref().err());
        let territory = self.territory.as_ref().and_then(|made| made.as_ref().err());
        let mut tools = [&self.clair, &self.harbor].into_iter().flatten();
        self.reads.as_ref().err().or(credential).or(territory).or_else(|| tools.find_map(|made| made.as_ref().err()))
    }
}

impl Sources {
    /// None yet; tokens of ServiceAccounts are judged by `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { all: Arc::default(), refreshing: Arc::default(), reviews: Reviews::new(client) }
    }

    /// Takes over what the caches hold. The answer is the Sources whose Findings expire after another time than before.
    pub fn refresh(&self, caches: &Caches) -> HashSet<String> {
        let _alone = self.refreshing.lock();
        let before = self.all.load();
        let fresh = caches.sources.state().into_iter().map(|source| {
            let known = Known::compile(&source, before.get(&source.name_any()), caches);
            (known.name.clone(), Arc::new(known))
        });
        let fresh: HashMap<String, Arc<Known>> = fresh.collect();
        let expire =
            |known: &Known| before.get(&known.name).and_then(|before| before.expire_after) != known.expire_after;
        let others = fresh.values().filter(|known| expire(known)).map(|known| known.name.clone()).collect();
        self.all.store(Arc::new(fresh));
        others
    }

    /// The Source of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Known>> {
        self.all.load().get(name).cloned()
    }
}

/// Whether a Source can be used, and why.
#[must_use]
pub fn judge(source: &Source, caches: &Caches) -> (Status, Reason, String) {
    let known = Known::compile(source, None, caches);
    if let Some(problem) = known.problem() {
        return (Status::False, problem.reason, problem.to_string());
    }
    let message = match &known.credential {
        None => "the objects of the format are watched".to_owned(),
        Some(_) => format!("POST to /v1/sources/{}", source.name_any()),
    };
    (Status::True, Reason::Accepted, message)
}

fn own_namespace(caches: &Caches) -> &str {
    quell_actions::Cluster::own_namespace(caches)
}

/// The value of a key in a Secret, without white space around it: `echo token | base64` leaves a line end.
#[must_use]
pub fn secret_value(secrets: &Store<Secret>, namespace: &str, key: &SecretKey) -> Option<Vec<u8>> {
    let secret = secrets.get(&ObjectRef::new(&key.name).within(namespace))?;
    let value = secret.data.as_ref()?.get(&key.key)?.0.trim_ascii().to_vec();
    (!value.is_empty()).then_some(value)
}
