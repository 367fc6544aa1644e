//! Who approved is who the API server says it is, and so is who wrote a playbook.

use anyhow::Result;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use quell_crds::names;
use quell_crds::v1alpha1::{Approval, ApprovalDecision, Playbook};
use quell_tests::guards::{approval_of, run_of};
use quell_tests::{ControlPlane, wait};
use serde_json::{Value, json};

use crate::bed::{Bed, refused};

async fn person(name: &str) -> Result<Client> {
    ControlPlane::shared().await?.client_as(name, &["system:masters", "system:authenticated"]).await
}

fn approval(name: &str, user: &str, decision: &str) -> Result<Approval> {
    let spec = json!({ "remediation": { "name": "run-1", "uid": "u" }, "step": "b", "digest": "0".repeat(64),
        "decision": decision, "user": user });
    Ok(serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec }))?)
}

#[tokio::test]
async fn nobody_decides_in_the_name_of_another_not_even_quell_or_an_admin() -> Result<()> {
    let bed = Bed::new("approvals").await?;
    let jo: Api<Approval> = Api::namespaced(person("jo").await?, bed.name());
    let kim: Api<Approval> = Api::namespaced(person("kim").await?, bed.name());
    let quell: Api<Approval> = Api::namespaced(bed.quell.clone(), bed.name());
    let create = PostParams::default();
    jo.create(&create, &approval("mine", "jo", "Approve")?).await?;
    for api in [&kim, &quell] {
        refused(api.create(&create, &approval("forged", "jo", "Approve")?).await, "approvals", "spec.user must be");
    }
    kim.create(&create, &approval("no", "kim", "Deny")?).await?;
    let change = Patch::Merge(json!({ "spec": { "decision": "Approve" } }));
    assert!(kim.patch("no", &PatchParams::default(), &change).await.is_err(), "a decision can't be changed");
    refused(jo.delete("no", &DeleteParams::default()).await, "approvals", "who alone takes it back");
    kim.delete("no", &DeleteParams::default()).await?;
    bed.namespace.finish().await
}

fn playbook(name: &str, author: Option<&str>, separate: bool, wait: &str) -> Value {
    let annotations = author.map_or_else(|| json!({}), |author| json!({ names::AUTHOR: author }));
    json!({ "apiVersion": "quell.dev/v1alpha1", "kind": "Playbook", "metadata": { "name": name, "annotations": annotations },
        "spec": { "steps": [{ "name": "a", "wait": { "for": wait }, "approval": { "reason": "?", "separate": separate } }] } })
}

#[tokio::test]
async fn who_wrote_a_playbook_is_said_truly_and_must_be_said_where_two_persons_are_asked_for() -> Result<()> {
    let bed = Bed::new("authors").await?;
    let jo: Api<Playbook> = Api::namespaced(person("jo").await?, bed.name());
    let kim: Api<Playbook> = Api::namespaced(person("kim").await?, bed.name());
    let apply = async |api: &Api<Playbook>, object: &Value| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        api.patch(&name, &PatchParams::apply("people").force(), &Patch::Apply(object)).await
    };
    refused(apply(&jo, &playbook("two", None, true, "1s")).await, "authors", "set it to jo");
    refused(apply(&jo, &playbook("two", Some("kim"), true, "1s")).await, "authors", "set it to jo");
    apply(&jo, &playbook("one", None, false, "1s")).await?;
    let two = apply(&jo, &playbook("two", Some("jo"), true, "1s")).await?;
    assert_eq!(two.annotations().get(names::AUTHOR).map(String::as_str), Some("jo"));
    // Whoever changes what it does has written it from then on; whoever changes something else has not.
    refused(apply(&kim, &playbook("two", Some("jo"), true, "2s")).await, "authors", "set it to kim");
    let label = Patch::Merge(json!({ "metadata": { "labels": { "team": "shop" } } }));
    kim.patch("two", &PatchParams::default(), &label).await?;
    let steal = Patch::Merge(json!({ "metadata": { "annotations": { names::AUTHOR: "kim" } } }));
    refused(kim.patch("two", &PatchParams::default(), &steal).await, "authors", "is changed with it alone");
    apply(&kim, &playbook("two", Some("kim"), true, "2s")).await?;
    bed.namespace.finish().await
}

#[tokio::test]
async fn whoever_wrote_a_playbook_is_not_the_second_of_two_persons() -> Result<()> {
    let bed = Bed::new("two-persons").await?;
    let jo: Api<Approval> = Api::namespaced(person("jo").await?, bed.name());
    let kim: Api<Approval> = Api::namespaced(person("kim").await?, bed.name());
    let create = PostParams::default();
    let run = Api::namespaced(bed.quell.clone(), bed.name()).create(&create, &run_of("jo")?).await?;
    // The API server has seen the run once it refuses.
    wait::eventually(wait::DEADLINE, "the author's approval is refused", async || {
        match jo.create(&create, &approval_of(&run, "jo")?).await {
            Ok(early) => jo.delete(&early.name_any(), &DeleteParams::default()).await.map(|_| None).map_err(Into::into),
            Err(error) => {
                refused(Err::<Approval, _>(error), "two-persons", "somebody else must approve it");
                Ok(Some(()))
            }
        }
    })
    .await?;
    kim.create(&create, &approval_of(&run, "kim")?).await?;
    // What one may decide on alone, and a denial, are the author's as well.
    let mut alone = approval_of(&run, "jo")?;
    alone.spec.step = Some("c".to_owned());
    jo.create(&create, &alone).await?;
    let mut no = approval_of(&run, "jo")?;
    no.metadata.name = Some("no".to_owned());
    no.spec.decision = ApprovalDecision::Deny;
    jo.create(&create, &no).await?;
    bed.namespace.finish().await
}
