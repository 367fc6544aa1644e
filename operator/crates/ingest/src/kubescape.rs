//! Kubescape: reports of its command, its objects in the cluster, and alerts of its node agent.
//!
//! Fields: kubescape/opa-utils, `reporthandling` (version 1 of reports) and `reporthandling/results/v1` (version 2); kubescape/storage,
//! `pkg/apis/softwarecomposition/v1beta1`; kubescape/node-agent, `pkg/exporters`. What a scan found wrong with one object is one signal with the
//! failed controls inside.

mod objects;
mod posture;
mod runtime;

use crate::json;
use crate::kubernetes::resources_in;
use crate::{Signal, Unreadable};

const TOOL: &str = "kubescape";
const WANTED: &str = "an object of spdx.softwarecomposition.kubescape.io";

/// Reads reports, objects and alerts.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let mut signals = Vec::new();
    for object in json::objects(body)? {
        let has = |name: &str| object.fields.contains_key(name);
        if has("BaseRuntimeMetadata") || has("RuntimeK8sDetails") {
            signals.push(runtime::alert(&object, "", &object.fields)?);
        } else if object.fields.get("kind").is_some_and(|kind| kind == "RuntimeAlerts") {
            runtime::alerts(&object, &mut signals)?;
        } else if has("kind") || has("object") && has("type") {
            for resource in resources_in(object, WANTED)? {
                objects::read(&resource, &mut signals)?;
            }
        } else {
            posture::read(&object, &mut signals)?;
        }
    }
    Ok(signals)
}

#[cfg(test)]
mod tests;
