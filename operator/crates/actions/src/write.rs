//! The one way by which actions change a cluster, for good or as a rehearsal.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    Api, DeleteParams, EvictParams, ListParams, PartialObjectMeta, Patch, PatchParams, PostParams, Preconditions,
    ValidationDirective,
};
use kube::{Client, Resource, ResourceExt as _};
use quell_crds::names::field_managers;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::ActionError;

/// No request of an action takes longer: what hangs is tried again, under its step's deadline.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// One change, as a rehearsal writes it down.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Write {
    /// `create`, `patch`, `delete`, or for the outside `POST`, `send`.
    pub verb: &'static str,
    /// The object, such as `Pod shop/web-1`, or the address or channel.
    pub object: String,
    /// What is written: the object, the JSON patch, or the message.
    pub body: Value,
}

/// Asked right before each write that is for good: a step makes several, and what it was allowed when it began may be forbidden since.
pub trait Gate: Send + Sync {
    /// An error is what becomes of the write.
    fn pass(&self) -> Result<(), ActionError>;
}

/// Reads and writes as one identity.
pub struct Writer {
    client: Client,
    rehearsal: Option<Mutex<Vec<Write>>>,
    gates: Vec<Arc<dyn Gate>>,
}

impl Writer {
    /// Writes for good.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, rehearsal: None, gates: Vec::new() }
    }

    /// The same with one more gate before each write.
    #[must_use]
    pub fn behind(mut self, gate: Arc<dyn Gate>) -> Self {
        self.gates.push(gate);
        self
    }

    /// Whether a write may be made now. What leaves the cluster must ask; writes to the API server do by themselves.
    pub fn may_write(&self) -> Result<(), ActionError> {
        if self.is_rehearsal() {
            return Ok(());
        }
        self.gates.iter().try_for_each(|gate| gate.pass())
    }

    /// Sends every write as a server-side dry run, and keeps it for [`Self::rehearsed`]. What would leave the cluster isn't sent.
    #[must_use]
    pub fn rehearsing(client: Client) -> Self {
        Self { client, rehearsal: Some(Mutex::new(Vec::new())), gates: Vec::new() }
    }

    /// Whether this is a rehearsal. What leaves the cluster must ask.
    #[must_use]
    pub fn is_rehearsal(&self) -> bool {
        self.rehearsal.is_some()
    }

    /// What was written so far, in a rehearsal.
    #[must_use]
    pub fn rehearsed(&self) -> Vec<Write> {
        let kept = self.rehearsal.as_ref().and_then(|kept| kept.lock().ok());
        kept.map(|kept| kept.clone()).unwrap_or_default()
    }

    /// Notes a write; only a rehearsal keeps it. For what leaves the cluster, which this doesn't send.
    pub fn note(&self, write: Write) {
        if let Some(mut kept) = self.rehearsal.as_ref().and_then(|kept| kept.lock().ok()) {
            kept.push(write);
        }
    }

    /// The client, for reads.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Creates an object. `Ok(None)`: it is there already.
    pub async fn create<K>(&self, api: &Api<K>, object: &K) -> Result<Option<K>, ActionError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
    {
        self.may_write()?;
        let what = describe::<K>(object.namespace().as_deref(), &object.name_any());
        let parameters =
            PostParams { dry_run: self.is_rehearsal(), field_manager: Some(field_managers::STEP.to_owned()) };
        match within(&format!("creating {what}"), api.create(&parameters, object)).await {
            Ok(created) => {
                if self.is_rehearsal() {
                    self.note(Write { verb: "create", object: what, body: json!(object) });
                }
                Ok(Some(created))
            }
            Err(ActionError::Api { source, .. }) if matches!(source.as_ref(), kube::Error::Api(status) if status.is_already_exists()) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a JSON patch. Its `test` operations are the preconditions: where one doesn't hold, the answer is
    /// [`Patched::Precondition`] and nothing was changed.
    pub async fn patch<K>(
        &self,
        api: &Api<K>,
        namespace: &str,
        name: &str,
        operations: Vec<Value>,
    ) -> Result<Patched<K>, ActionError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let what = describe::<K>(Some(namespace), name);
        let (parameters, patch, rehearsed) = self.json_patch(&what, operations)?;
        let answer = within(&format!("patching {what}"), api.patch(name, &parameters, &patch)).await;
        self.patched(rehearsed, answer)
    }

    /// The same for who doesn't read the object that comes of it: the server sends its metadata alone.
    pub async fn patch_unread<K>(
        &self,
        api: &Api<K>,
        namespace: &str,
        name: &str,
        operations: Vec<Value>,
    ) -> Result<Patched<PartialObjectMeta<K>>, ActionError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let what = describe::<K>(Some(namespace), name);
        let (parameters, patch, rehearsed) = self.json_patch(&what, operations)?;
        let answer = within(&format!("patching {what}"), api.patch_metadata(name, &parameters, &patch)).await;
        self.patched(rehearsed, answer)
    }

    fn json_patch(
        &self,
        what: &str,
        operations: Vec<Value>,
    ) -> Result<(PatchParams, Patch<()>, Option<Write>), ActionError> {
        self.may_write()?;
        let body = Value::Array(operations);
        let rehearsed =
            self.is_rehearsal().then(|| Write { verb: "patch", object: what.to_owned(), body: body.clone() });
        let patch = serde_json::from_value(body).map_err(|error| {
            ActionError::refused(quell_crds::conditions::Reason::Invalid, format!("patching {what}: {error}"))
        })?;
        let parameters = PatchParams {
            dry_run: self.is_rehearsal(),
            field_manager: Some(field_managers::STEP.to_owned()),
            // The server decodes twice to warn of unknown fields: an eighth of what a pod's patch costs it, and ours have none.
            field_validation: Some(ValidationDirective::Ignore),
            ..PatchParams::default()
        };
        Ok((parameters, Patch::Json(patch), rehearsed))
    }

    fn patched<T>(&self, rehearsed: Option<Write>, answer: Result<T, ActionError>) -> Result<Patched<T>, ActionError> {
        match answer {
            Ok(object) => {
                if let Some(write) = rehearsed {
                    self.note(write);
                }
                Ok(Patched::Changed(Box::new(object)))
            }
            Err(ActionError::Api { source, .. }) if failed_test(&source) => Ok(Patched::Precondition),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object with that UID. What is gone already is success.
    pub async fn delete<K>(&self, api: &Api<K>, namespace: &str, name: &str, uid: &str) -> Result<(), ActionError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        self.may_write()?;
        let what = describe::<K>(Some(namespace), name);
        self.note(Write { verb: "delete", object: what.clone(), body: json!({"preconditions": {"uid": uid}}) });
        let mut parameters = DeleteParams::background();
        parameters.dry_run = self.is_rehearsal();
        parameters.preconditions = Some(Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() });
        match within(&format!("deleting {what}"), api.delete(name, &parameters)).await {
            Ok(_) => Ok(()),
            Err(ActionError::Api { source, .. }) if matches!(source.as_ref(), kube::Error::Api(status) if status.is_not_found()) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Evicts the pod with that UID, as PodDisruptionBudgets allow.
    pub async fn evict(&self, api: &Api<Pod>, namespace: &str, name: &str, uid: &str) -> Result<Evicted, ActionError> {
        let what = describe::<Pod>(Some(namespace), name);
        let uid = Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() };
        self.note(Write { verb: "evict", object: what.clone(), body: json!({"preconditions": uid}) });
        let parameters = EvictParams {
            delete_options: Some(DeleteParams { preconditions: Some(uid), ..DeleteParams::default() }),
            post_options: PostParams {
                dry_run: self.is_rehearsal(),
                field_manager: Some(field_managers::STEP.to_owned()),
            },
        };
        match within(&format!("evicting {what}"), api.evict(name, &parameters)).await {
            Ok(_) => Ok(Evicted::Accepted),
            Err(ActionError::Api { doing, source }) => match source.as_ref() {
                // Another pod has its name.
                kube::Error::Api(status) if status.is_not_found() || status.is_conflict() => Ok(Evicted::Gone),
                kube::Error::Api(status) if status.code == 429 && is_budget(status) => Ok(Evicted::Forbidden),
                _ => Err(ActionError::Api { doing, source }),
            },
            Err(error) => Err(error),
        }
    }

    /// Reads the objects that a selector selects, as they are now.
    pub async fn list<K>(&self, api: &Api<K>, namespace: &str, selector: &str) -> Result<Vec<K>, ActionError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let doing = format!("listing {} in {namespace}", K::plural(&()));
        Ok(within(&doing, api.list(&ListParams::default().labels(selector))).await?.items)
    }

    /// Reads the metadata of objects, and nothing else of them.
    pub async fn list_metadata<K>(
        &self,
        api: &Api<K>,
        namespace: &str,
        parameters: &ListParams,
    ) -> Result<Vec<PartialObjectMeta<K>>, ActionError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let doing = format!("listing {} in {namespace}", K::plural(&()));
        Ok(within(&doing, api.list_metadata(parameters)).await?.items)
    }

    /// Reads an object as it is now. `None`: there is none of that name.
    pub async fn get<K>(&self, api: &Api<K>, namespace: &str, name: &str) -> Result<Option<K>, ActionError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        within(&format!("reading {}", describe::<K>(Some(namespace), name)), api.get_opt(name)).await
    }
}

/// What became of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// The pod ends.
    Accepted,
    /// It is gone already.
    Gone,
    /// A PodDisruptionBudget forbids it.
    Forbidden,
}

/// Too many requests are told with the same code.
fn is_budget(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "DisruptionBudget")
}

/// What became of a JSON patch.
#[derive(Debug)]
pub enum Patched<K> {
    /// The object as it is now.
    Changed(Box<K>),
    /// A `test` operation did not hold: the object isn't as it was thought.
    Precondition,
}

/// Bounds a request in time, and says what it was for.
pub async fn within<T>(doing: &str, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ActionError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|error| ActionError::api(doing, error)),
        Err(_) => Err(ActionError::Timeout { doing: doing.to_owned() }),
    }
}

fn describe<K: Resource<DynamicType = ()>>(namespace: Option<&str>, name: &str) -> String {
    let kind = K::kind(&());
    match namespace {
        Some(namespace) if !namespace.is_empty() => format!("{kind} {namespace}/{name}"),
        _ => format!("{kind} {name}"),
    }
}

/// The API server answers a failed `test` with 422 and the text of its JSON patch library; a validation error has causes.
fn failed_test(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.code == 422 && status.details.as_ref().is_none_or(|details| details.causes.is_empty())
}
