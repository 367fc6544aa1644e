//! How long packets still come through, in turns: after an alert to Quell, and after a bare patch of the pod's label.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::attempts::{Flow, Place};
use super::world::{self, PORT, lonely};
use super::{between, now, quell};
use crate::{Node, Operator, TestNamespace, wait};

const EVERY: Duration = Duration::from_millis(5);
/// An attempt under way may still be answered for this long.
const SILENCE: Duration = Duration::from_millis(600);

/// One time for each round; sorted.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// From the POST of the alert to the last answer.
    pub alert: Vec<Duration>,
    /// From the label's patch to the last answer; its policy stands.
    pub patch: Vec<Duration>,
    /// From the POST of the alert to its answer.
    pub answer: Vec<Duration>,
}

/// Tries it so many times on pods of their own.
pub async fn measure(node: &Node, operator: &Operator, rounds: usize) -> Result<Times> {
    let namespace = TestNamespace::create(node.control_plane(), "speed").await?;
    lonely(&namespace, world::CLIENT).await?;
    let client = Place::pod(namespace.name(), world::CLIENT);
    let selector = json!({ "matchLabels": { "bare": "cut" } });
    quell::policy(&namespace, "bare", &selector, &quell::nothing()).await?;
    let mut times = Times::default();
    for round in 0..rounds {
        for quarantined in [false, true] {
            let pod = format!("{}-{round}", if quarantined { "alert" } else { "patch" });
            let address = lonely(&namespace, &pod).await?;
            let flow = Flow::start(node, &client, format!("tcp/{address}:{PORT}"), EVERY).await?;
            let began = if quarantined {
                let contained = quell::report(operator, &namespace, &pod).await?;
                times.answer.push(between(contained.posted, contained.answered));
                contained.posted
            } else {
                // Quell's connection to the API server is open, too.
                namespace.api::<Pod>().get(&pod).await?;
                let began = now();
                let label = Patch::Merge(json!({ "metadata": { "labels": { "bare": "cut" } } }));
                namespace.api::<Pod>().patch(&pod, &PatchParams::default(), &label).await?;
                began
            };
            let last = flow.silent_for(SILENCE, wait::DEADLINE).await?;
            let cuts = if quarantined { &mut times.alert } else { &mut times.patch };
            cuts.push(between(began, last));
        }
    }
    for list in [&mut times.alert, &mut times.patch, &mut times.answer] {
        list.sort_unstable();
    }
    namespace.finish().await?;
    Ok(times)
}
