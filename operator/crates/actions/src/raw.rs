//! Objects as the API server gives them.

use std::borrow::Cow;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::TypeMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An object of kind `K` as the API server gives it. What is put back must be what was there: a field that this build doesn't know,
/// because the cluster is newer, is neither lost nor made to differ.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Raw<K> {
    /// API version and kind; lists leave it out.
    #[serde(flatten)]
    pub types: Option<TypeMeta>,
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: Value,
    /// What is.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub status: Value,
    #[serde(skip)]
    kind: PhantomData<fn() -> K>,
}

impl<K: Resource<DynamicType = ()>> Raw<K> {
    /// An object that is to be created.
    #[must_use]
    pub fn new(metadata: ObjectMeta, spec: Value) -> Self {
        let types = TypeMeta { api_version: K::api_version(&()).into_owned(), kind: K::kind(&()).into_owned() };
        Self { types: Some(types), metadata, spec, status: Value::Null, kind: PhantomData }
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Raw<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
