//! Where a scenario takes place: a namespace, another for Secrets, and a service account with exactly the rights of the step's kind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use quell_actions::quarantine::DenyKind;
use quell_actions::rights::{Place, rights};
use quell_actions::{Cluster, Probing, Severing, StandingPolicies, Write};
use quell_crds::v1alpha1::{ChannelKind, PlaybookKind, StepKind, Workload};
use quell_playbooks::PodFacts;
use quell_playbooks::images::Affected;
use quell_tests::requests::{self, Recorder};
use quell_tests::wait::{DEADLINE, eventually};
use quell_tests::{ControlPlane, TestNamespace, probe_jobs};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const ACCOUNT: &str = "steps";

/// Where a scenario takes place.
pub struct Stage {
    /// The namespace of the Finding.
    pub namespace: TestNamespace,
    /// The namespace of the Secrets of ClusterPlaybooks.
    pub own: TestNamespace,
    /// What the caches would know.
    pub known: Known,
    /// What the action asked of the API server.
    pub recorder: Recorder,
    /// Acts as the service account, and is recorded.
    pub actor: Client,
}

impl Stage {
    /// A stage for steps of this kind.
    pub async fn of(kind: &StepKind, recorder: &Recorder) -> Result<Self> {
        let cluster = ControlPlane::shared().await?;
        let prefix = format!("act-{}", kind.name().to_lowercase());
        let (namespace, own) =
            tokio::try_join!(TestNamespace::create(cluster, &prefix), TestNamespace::create(cluster, "own"))?;
        let account = ServiceAccount {
            metadata: ObjectMeta { name: Some(ACCOUNT.to_owned()), ..ObjectMeta::default() },
            ..ServiceAccount::default()
        };
        namespace.create_object(&account).await?;
        let user = format!("system:serviceaccount:{}:{ACCOUNT}", namespace.name());
        grant(kind, Place::Finding, &namespace, namespace.name()).await?;
        grant(kind, Place::Secrets, &own, namespace.name()).await?;
        grant_on_cluster(kind, &namespace).await?;
        grant(kind, Place::Severing, &own, namespace.name()).await?;
        grant(kind, Place::Probing, &own, namespace.name()).await?;
        granted(kind, &namespace, &own, &user).await?;

        let mut config = cluster.config().await?;
        config.auth_info.impersonate = Some(user);
        let groups = ["system:serviceaccounts", "system:authenticated"].map(str::to_owned);
        config.auth_info.impersonate_groups = Some(groups.to_vec());
        // As the operator's own client: what an action is told must reach it, and its step tries again.
        config.default_retry = false;
        let actor = requests::record(config, recorder)?;
        let severing = Severing { image: probe_jobs::IMAGE.to_owned(), namespace: own.name().to_owned() };
        let probing = Probing { image: probe_jobs::IMAGE.to_owned(), namespace: own.name().to_owned() };
        let known = Known {
            own_namespace: own.name().to_owned(),
            severing: Some(severing),
            probing: Some(probing),
            ..Known::default()
        };
        Ok(Self { namespace, own, known, recorder: recorder.clone(), actor })
    }

    /// Gives the service account the right to read Secrets in the Finding's namespace, as a namespaced Playbook's has.
    pub async fn grant_secrets_here(&self, kind: &StepKind) -> Result<()> {
        grant(kind, Place::Secrets, &self.namespace, self.namespace.name()).await?;
        let user = format!("system:serviceaccount:{}:{ACCOUNT}", self.namespace.name());
        allowed(self.namespace.client(), &user, self.namespace.name(), "", "secrets", "get").await
    }

    /// Changes an object as somebody else would.
    pub async fn meddle<K>(&self, name: &str, patch: Value) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = self.namespace.api();
        Ok(api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await?)
    }

    /// Sends what a rehearsal said would be written, later than it was meant; the API server must find that it doesn't fit any more.
    pub async fn comes_too_late<K>(&self, name: &str, write: &Write) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default> + Clone + Debug + DeserializeOwned,
    {
        let patch = Patch::Json::<()>(serde_json::from_value(write.body.clone())?);
        match self.namespace.api::<K>().patch(name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 422 => Ok(()),
            other => bail!("it was not refused: {other:?}"),
        }
    }

    /// A Secret with one key, `key`.
    pub async fn secret(&self, namespace: &TestNamespace, name: &str, value: &str) -> Result<()> {
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            string_data: Some(BTreeMap::from([("key".to_owned(), value.to_owned())])),
            ..Secret::default()
        };
        namespace.create_object(&secret).await.map(drop)
    }

    /// How many writes the API server has accepted from the action so far.
    pub fn writes(&self) -> usize {
        self.recorder.count(|request| {
            let here = request.namespace == self.namespace.name();
            here && request.verb.is_write() && request.status.is_some_and(|status| status.is_success())
        })
    }
}

/// What of an object is anybody's to write: all but status, and what the API server counts by itself.
pub fn written<K: serde::Serialize>(object: &K) -> Result<Value> {
    let mut value = serde_json::to_value(object)?;
    let object = value.as_object_mut().context("no object")?;
    object.remove("status");
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("resourceVersion");
    }
    Ok(value)
}

/// Every right that the kind declares was used by somebody who had no others.
pub fn assert_all_rights_used(kind: &StepKind, recorder: &Recorder) {
    // `bind` is the verb of no request: it is asked for when a binding is changed. That it is needed has a test of its own.
    let all = rights(kind);
    let declared = all.iter().filter(|right| right.verb != "bind");
    let declared: BTreeSet<_> = declared.map(|right| (right.group, right.resource, right.verb)).collect();
    let used = recorder.rights();
    let used: BTreeSet<_> =
        used.iter().map(|right| (right.group.as_str(), right.resource.as_str(), right.verb)).collect();
    assert_eq!(declared, used, "left: declared, right: used");
}

async fn grant(kind: &StepKind, place: Place, namespace: &TestNamespace, account_namespace: &str) -> Result<()> {
    let rules = rules(kind, place);
    if rules.is_empty() {
        return Ok(());
    }
    let name = format!("steps-{place:?}").to_lowercase();
    let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
    namespace.create_object(&Role { metadata: metadata.clone(), rules: Some(rules) }).await?;
    let binding = RoleBinding {
        metadata,
        role_ref: RoleRef { api_group: Some("rbac.authorization.k8s.io".to_owned()), kind: "Role".to_owned(), name },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: ACCOUNT.to_owned(),
            namespace: Some(account_namespace.to_owned()),
            ..Subject::default()
        }]),
    };
    namespace.create_object(&binding).await.map(drop)
}

/// The same for objects of the whole cluster, and in every namespace; goes with the namespace of the account, for nobody has its name again.
async fn grant_on_cluster(kind: &StepKind, namespace: &TestNamespace) -> Result<()> {
    let rules = [rules(kind, Place::Cluster), rules(kind, Place::Everywhere)].concat();
    if rules.is_empty() {
        return Ok(());
    }
    let name = format!("steps-{}", namespace.name());
    let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
    let role = ClusterRole { metadata: metadata.clone(), rules: Some(rules), ..ClusterRole::default() };
    Api::all(namespace.client().clone()).create(&PostParams::default(), &role).await?;
    let binding = ClusterRoleBinding {
        metadata,
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name,
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: ACCOUNT.to_owned(),
            namespace: Some(namespace.name().to_owned()),
            ..Subject::default()
        }]),
    };
    Api::all(namespace.client().clone()).create(&PostParams::default(), &binding).await?;
    Ok(())
}

fn rules(kind: &StepKind, place: Place) -> Vec<PolicyRule> {
    let all = rights(kind);
    let here = all.iter().filter(|right| right.place == place);
    let rule = |right: &quell_actions::Right| PolicyRule {
        api_groups: Some(vec![right.group.to_owned()]),
        resources: Some(vec![right.resource.to_owned()]),
        verbs: vec![right.verb.to_owned()],
        ..PolicyRule::default()
    };
    here.map(rule).collect()
}

/// Until the API server has taken notice of the rights.
async fn granted(kind: &StepKind, namespace: &TestNamespace, own: &TestNamespace, user: &str) -> Result<()> {
    for right in rights(kind).iter() {
        let place = match right.place {
            Place::Finding => namespace.name(),
            Place::Cluster | Place::Everywhere => "",
            Place::Secrets | Place::Severing | Place::Probing => own.name(),
        };
        allowed(namespace.client(), user, place, right.group, right.resource, right.verb).await?;
    }
    Ok(())
}

/// Until the API server has taken notice that the service account has that right no longer.
pub async fn not_allowed(stage: &Stage, group: &str, resource: &str, verb: &str) -> Result<()> {
    let namespace = &stage.namespace;
    let user = format!("system:serviceaccount:{}:{ACCOUNT}", namespace.name());
    let review = review(&user, namespace.name(), group, resource, verb);
    let api = Api::<SubjectAccessReview>::all(namespace.client().clone());
    eventually(DEADLINE, "the right is gone", async || {
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| !status.allowed).then_some(()))
    })
    .await
}

async fn allowed(client: &Client, user: &str, namespace: &str, group: &str, resource: &str, verb: &str) -> Result<()> {
    let review = review(user, namespace, group, resource, verb);
    let api = Api::<SubjectAccessReview>::all(client.clone());
    eventually(DEADLINE, "the right is in force", async || {
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed).then_some(()))
    })
    .await
}

fn review(user: &str, namespace: &str, group: &str, resource: &str, verb: &str) -> SubjectAccessReview {
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            resource_attributes: Some(ResourceAttributes {
                group: Some(group.to_owned()),
                namespace: Some(namespace.to_owned()),
                resource: Some(resource.to_owned()),
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

/// What the caches would know.
#[derive(Default)]
pub struct Known {
    policies: StandingPolicies,
    /// Kinds of policies that deny whatever others allow.
    pub deny_kinds: BTreeSet<DenyKind>,
    /// Istio's AuthorizationPolicy is served.
    pub serves_istio: bool,
    affected: Mutex<Affected>,
    digests: Mutex<HashMap<String, String>>,
    channels: Mutex<HashMap<String, ChannelKind>>,
    own_namespace: String,
    /// Pods that run the same image, with their topmost owners.
    pub same_digest: Option<Vec<(PodFacts, Workload)>>,
    /// How connections may be severed.
    pub severing: Option<Severing>,
    /// How quarantined pods may be probed.
    pub probing: Option<Probing>,
    /// How many pods run as each ServiceAccount.
    pub pods_of_account: Option<usize>,
}

impl Known {
    /// Quell runs in that namespace.
    pub fn in_namespace(own: &str) -> Self {
        Self { own_namespace: own.to_owned(), ..Self::default() }
    }

    /// An open Finding names this digest.
    pub fn finding_names(&self, digest: &str) {
        lock(&self.affected).digests.insert(digest.to_owned());
    }

    /// Pods ran this image, in normal form, with this digest.
    pub fn ran(&self, image: &str, digest: &str) {
        lock(&self.digests).insert(image.to_owned(), digest.to_owned());
    }

    /// Quell itself is in that namespace.
    pub fn lives_in(&mut self, namespace: &str) {
        namespace.clone_into(&mut self.own_namespace);
    }

    /// There is a channel of that name.
    pub fn channel(&self, name: &str, kind: ChannelKind) {
        lock(&self.channels).insert(name.to_owned(), kind);
    }
}

impl Cluster for Known {
    fn policies(&self) -> &StandingPolicies {
        &self.policies
    }

    fn deny_kinds(&self) -> BTreeSet<DenyKind> {
        self.deny_kinds.clone()
    }

    fn serves_istio(&self) -> bool {
        self.serves_istio
    }

    fn affected(&self) -> Affected {
        lock(&self.affected).clone()
    }

    fn digests_of(&self, images: &BTreeSet<String>) -> BTreeSet<String> {
        let digests = lock(&self.digests);
        images.iter().filter_map(|image| digests.get(image).cloned()).collect()
    }

    fn same_digest(&self, _: &PodFacts, _: &str, _: &str) -> Option<Vec<(PodFacts, Workload)>> {
        self.same_digest.clone()
    }

    fn channel(&self, _: PlaybookKind, _: &str, name: &str) -> Option<ChannelKind> {
        lock(&self.channels).get(name).cloned()
    }

    fn own_namespace(&self) -> &str {
        &self.own_namespace
    }

    fn severing(&self) -> Option<&Severing> {
        self.severing.as_ref()
    }

    fn probing(&self) -> Option<&Probing> {
        self.probing.as_ref()
    }

    fn pods_of_account(&self, _: &str, _: &str) -> Option<usize> {
        self.pods_of_account
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The labels and annotations by which an object says that Quell has changed it.
pub fn marks<K: Resource>(object: &K) -> Vec<String> {
    let keys = object.labels().keys().chain(object.annotations().keys());
    keys.filter(|key| key.starts_with("quell.dev/")).cloned().collect()
}

/// What the object says was there before.
pub fn before<K: Resource>(object: &K) -> Result<Value> {
    let text =
        object.annotations().get(quell_crds::names::BEFORE).context("no annotation says what was there before")?;
    let before: Value = serde_json::from_str(text)?;
    if before == json!({}) {
        bail!("what was there before is empty");
    }
    Ok(before)
}
