//! Schemas that the derive can't express.

use schemars::{Schema, SchemaGenerator, json_schema};

/// An object whose fields the API server keeps as they are.
///
/// `serde_json::Value` alone becomes `{}`, which isn't a structural schema, and a map of values is pruned to nothing.
#[must_use]
pub fn free_form(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// A duration as Go writes it, and no longer than a year.
///
/// The pattern is what `time.ParseDuration` takes, without signs and without units below a millisecond.
#[must_use]
pub fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 32,
        "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$",
        "x-kubernetes-validations": [{
            "rule": "duration(self) > duration('0s') && duration(self) <= duration('8784h')",
            "message": "must be more than nothing and at most 8784h, such as 30s, 10m or 1h30m",
        }],
    })
}

/// Conditions are a map by type, so that two writers can own one each.
#[must_use]
pub fn conditions(generator: &mut SchemaGenerator) -> Schema {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    let item = generator.subschema_for::<Condition>();
    json_schema!({
        "type": "array",
        "items": item,
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}
