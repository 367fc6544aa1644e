use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::v1alpha1::GateRecord;

/// What one step did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepRecord {
    /// Name of the step.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Where it stands.
    #[serde(default)]
    pub state: StepState,
    /// Why, in a word that also labels Events and metrics.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub reason: String,
    /// What was done, or what stands in the way and what to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub message: String,
    /// How often it was tried.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub attempts: i32,
    /// When the first try began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// When it will be tried or looked at again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<DateTime<Utc>>,
    /// What it hands to later steps, as `steps.<name>.outputs.<key>`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 40))]
    pub outputs: BTreeMap<String, String>,
    /// What its approval has asked, and who has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<GateRecord>,
    /// In a dry run, what would have been written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub writes: Vec<RehearsedWrite>,
    /// What was changed, and what was there before: what undo works from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// Undo has looked in the cluster for a change that the step made and that was never recorded, and there is none. Default: `false`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nothing_found: bool,
}

/// A write that a dry run would have made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RehearsedWrite {
    /// `create`, `patch`, `delete`; for the outside `POST` or `send`.
    #[schemars(length(max = 16))]
    pub verb: String,
    /// The object, such as `Pod shop/web-1`, or the address or channel.
    #[schemars(length(max = 600))]
    pub object: String,
    /// What would be changed, as text; long ones are cut.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub difference: String,
}

/// What a step changed, and what was there before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The object that the step is about.
    #[serde(flatten)]
    pub effect: Effect,
    /// What the step changed beside that, such as the pod's owner, or other pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 48))]
    pub also: Vec<Effect>,
}

/// One further object that a step changed, and what was there before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Effect {
    /// API version of the changed object.
    #[schemars(length(max = 253))]
    pub api_version: String,
    /// Kind of the changed object.
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Namespace of the changed object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of the changed object.
    #[schemars(length(max = 253))]
    pub name: String,
    /// UID of the changed object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub uid: String,
    /// What was there before the step.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "crate::schema::free_form")]
    pub before: Map<String, Value>,
    /// What the step put there.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "crate::schema::free_form")]
    pub after: Map<String, Value>,
}

impl Receipt {
    /// What was changed beside it, each as a receipt of its own.
    pub fn further(&self) -> impl Iterator<Item = Self> + '_ {
        self.also.iter().cloned().map(Self::from)
    }
}

// In the record, too, its fields are the receipt's own.
impl Deref for Receipt {
    type Target = Effect;

    fn deref(&self) -> &Effect {
        &self.effect
    }
}

impl DerefMut for Receipt {
    fn deref_mut(&mut self) -> &mut Effect {
        &mut self.effect
    }
}

impl Effect {
    /// Whether another effect is on the same object.
    #[must_use]
    pub fn is_on_the_same(&self, other: &Self) -> bool {
        (&self.kind, &self.namespace, &self.name, &self.uid) == (&other.kind, &other.namespace, &other.name, &other.uid)
    }
}

impl From<Effect> for Receipt {
    fn from(effect: Effect) -> Self {
        Self { effect, also: Vec::new() }
    }
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StepState {
    /// Its turn has not come.
    #[default]
    Pending,
    /// Its turn has come, and it waits for an approval: see `approval`.
    AwaitingApproval,
    /// Its turn has come, and it waits for another run that changes the same object.
    Waiting,
    /// It is under way.
    Running,
    /// A try failed; another comes at `nextAt`.
    Retrying,
    /// A guardrail holds it: it has done nothing, and goes on by itself when it may. Its time doesn't run.
    Held,
    /// It failed, and what it had changed is being put back.
    Reverting,
    /// It ended well.
    Succeeded,
    /// It failed for good.
    Failed,
    /// It was not done.
    Skipped,
    /// It was let go of when the run was cancelled. What it had changed stays.
    Cancelled,
    /// It is being undone.
    Undoing,
    /// It was undone.
    Undone,
    /// It could not be undone, or only in part.
    NotUndone,
}

impl StepState {
    /// Nothing more happens unless somebody asks for an undo.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Skipped | Self::Cancelled | Self::Undone | Self::NotUndone
        )
    }
}

impl fmt::Display for StepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_fields_of_a_receipt_stand_beside_what_else_was_changed() {
        let also = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "before": { "replicas": 2 } });
        let written = json!({
            "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web-1", "uid": "u",
            "before": { "labels": { "app": "web" } }, "after": { "labels": {} }, "also": [also],
        });
        let receipt: Receipt = serde_json::from_value(written.clone()).expect("a receipt");
        assert_eq!((receipt.name.as_str(), receipt.also[0].name.as_str()), ("web-1", "web"));
        assert_eq!(json!(receipt), written);
        let alone = json!({ "apiVersion": "v1", "kind": "Node", "name": "n" });
        assert_eq!(json!(serde_json::from_value::<Receipt>(alone.clone()).expect("a receipt")), alone);
    }
}
