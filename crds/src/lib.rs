//! The API of Quell: its custom resources and the names, conditions and reasons that everything else shares.
//!
//! This crate holds types and nothing else. Doc comments on API fields are written for users: they become the schema's
//! descriptions and so `kubectl explain`.

#![allow(clippy::duplicated_attributes, reason = "each printer column and CEL rule is an attribute of its own")]

pub mod conditions;
pub mod names;
pub mod schema;
pub mod time;
pub mod v1alpha1;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

/// Every CustomResourceDefinition of Quell, in the order of the reference documentation.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        v1alpha1::Finding::crd(),
        v1alpha1::Playbook::crd(),
        v1alpha1::ClusterPlaybook::crd(),
        v1alpha1::Remediation::crd(),
        v1alpha1::Approval::crd(),
        v1alpha1::Channel::crd(),
        v1alpha1::ClusterChannel::crd(),
        v1alpha1::Source::crd(),
        v1alpha1::ImageBlock::crd(),
        v1alpha1::Guardrail::crd(),
        v1alpha1::Suppression::crd(),
        v1alpha1::ClusterSuppression::crd(),
    ]
}
