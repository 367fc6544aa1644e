//! `undo`.

use anyhow::Result;
use kube::ResourceExt as _;
use kube::api::Api;
use quell_cli::{Exit, run};
use quell_crds::v1alpha1::{Intent, Remediation};
use quell_tests::wait::{self, DEADLINE};
use serde_json::json;

use crate::bed::{Bed, Ran, condition, io};

#[tokio::test]
async fn undo_asks_for_it_and_tells_what_was_left_alone() -> Result<()> {
    let bed = Bed::new("cli-undo").await?;
    let (_, finding) = bed.finding("falco-undone").await?;
    let name = bed.run_for(&finding).await?.name_any();

    let asked = bed.quell(&["undo", "falco-undone", "--no-wait"], "").await;
    asked.expect(Exit::Ok, &[&format!("remediation/{name}: undo was asked for")])?;
    let api: Api<Remediation> = bed.namespace.api();
    let there = api.get(&name).await?;
    assert_eq!(there.spec.intent, Intent::Undo);

    let late = bed.quell(&["undo", &format!("remediation/{name}"), "--timeout", "1s"], "").await;
    late.expect(Exit::Failed, &["is being undone already", "Quell has not taken it up; is it running?"])?;

    let target = format!("remediation/{name}");
    let arguments = ["undo", target.as_str()];
    let (mut io, out, err) = io("");
    let (exit, undone) = tokio::join!(run(bed.arguments(&arguments), &mut io), async {
        let left =
            json!({"name": "cut", "state": "NotUndone", "reason": "ChangedSince", "message": "somebody has lifted it"});
        let undone = json!({
            "observedGeneration": there.metadata.generation, "phase": "Failed",
            "steps": [left, {"name": "back", "state": "Failed", "reason": "TargetUnsupported"}],
            "conditions": [condition("Complete", "UndoIncomplete", "not undone: cut")],
        });
        // It follows the run from what it has read before it says this.
        wait::eventually(DEADLINE, "it says that it waits", async || {
            Ok(out.text().contains("is being undone already").then_some(()))
        })
        .await?;
        bed.status(&name, &undone).await
    });
    undone?;
    Ran { exit, out: out.text(), err: err.text() }.expect(
        Exit::Failed,
        &["is undone only in part: not undone: cut", "cut: left alone, ChangedSince: somebody has lifted it"],
    )?;
    bed.quell(&["undo", "falco-undone"], "").await.expect(Exit::Failed, &["was undone already, as far as it could be"])
}
