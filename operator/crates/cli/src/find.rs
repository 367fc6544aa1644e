//! From what was typed to the object that is meant.

use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use quell_crds::v1alpha1::{Finding, Remediation};

use crate::CliError;
use crate::client::{Connection, ask, list};

/// What was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A Finding.
    Finding(String),
    /// A Remediation.
    Remediation(String),
}

/// Reads `NAME`, `finding/NAME` or `remediation/NAME`, with the names of kinds that kubectl takes.
pub fn parse(text: &str) -> Result<Named, CliError> {
    let (kind, name) = text.split_once('/').unwrap_or(("finding", text));
    let wrong =
        |problem: &str| CliError::Usage(format!("`{text}` {problem}: write NAME, finding/NAME or remediation/NAME"));
    if name.is_empty() || name.contains('/') {
        return Err(wrong("names no object"));
    }
    let kind = kind.to_ascii_lowercase();
    let kind = kind.strip_suffix(".quell.dev").unwrap_or(&kind);
    match kind {
        "finding" | "findings" | "fnd" => Ok(Named::Finding(name.to_owned())),
        "remediation" | "remediations" | "rem" => Ok(Named::Remediation(name.to_owned())),
        _ => Err(wrong("is neither a finding nor a remediation; a namespace is said with -n")),
    }
}

/// The Finding that is meant, in the connection's namespace.
pub async fn finding(connection: &Connection, text: &str) -> Result<Finding, CliError> {
    let Named::Finding(name) = parse(text)? else {
        return Err(CliError::Usage(format!("`{text}` is a run; a finding is meant here: NAME or finding/NAME")));
    };
    let api: Api<Finding> = Api::namespaced(connection.client.clone(), &connection.namespace);
    match ask(format!("reading Finding {}/{name}", connection.namespace), api.get_opt(&name)).await? {
        Some(finding) => Ok(finding),
        None => Err(missing_finding(connection, &api, &name).await),
    }
}

async fn missing_finding(connection: &Connection, api: &Api<Finding>, name: &str) -> CliError {
    let namespace = &connection.namespace;
    // Help that can't be given is no other error: who may not list findings may still have mistyped one.
    let there = list(api, &ListParams::default()).await.unwrap_or_default();
    let there: Vec<String> = there.iter().map(kube::ResourceExt::name_any).collect();
    let everywhere: Api<Finding> = Api::all(connection.client.clone());
    let others = list(&everywhere, &ListParams::default().fields(&format!("metadata.name={name}"))).await;
    let others: Vec<String> = others.unwrap_or_default().iter().filter_map(kube::ResourceExt::namespace).collect();
    not_found("Finding", namespace, name, &there, &others)
}

/// The runs of a Finding, the first begun first. Runs of an earlier Finding of the same name are others'.
pub async fn runs(connection: &Connection, finding: &Finding) -> Result<Vec<Remediation>, CliError> {
    let namespace = finding.namespace().unwrap_or_default();
    let api: Api<Remediation> = Api::namespaced(connection.client.clone(), &namespace);
    let mut runs =
        list(&api, &ListParams::default().fields(&format!("spec.finding.name={}", finding.name_any()))).await?;
    let uid = finding.uid().unwrap_or_default();
    runs.retain(|run| run.spec.finding.uid.is_empty() || run.spec.finding.uid == uid);
    runs.sort_by_key(|run| (run.status.as_ref().and_then(|status| status.started_at), run.name_any()));
    Ok(runs)
}

/// The run of that name, in the connection's namespace.
pub async fn remediation(connection: &Connection, name: &str) -> Result<Remediation, CliError> {
    let namespace = &connection.namespace;
    let api: Api<Remediation> = Api::namespaced(connection.client.clone(), namespace);
    if let Some(run) = ask(format!("reading Remediation {namespace}/{name}"), api.get_opt(name)).await? {
        return Ok(run);
    }
    let there = list(&api, &ListParams::default()).await.unwrap_or_default();
    let there: Vec<String> = there.iter().map(kube::ResourceExt::name_any).collect();
    Err(not_found("Remediation", namespace, name, &there, &[]))
}

fn not_found(kind: &str, namespace: &str, name: &str, there: &[String], others: &[String]) -> CliError {
    let message = format!("there is no {kind} {name} in the namespace {namespace}");
    if let [first, ..] = others {
        return CliError::NotFound(format!("{message}; there is one in {}: add -n {first}", others.join(", ")));
    }
    let near = near(name, there);
    CliError::NotFound(if near.is_empty() {
        let list = if there.is_empty() { "no other is there either" } else { "kubectl get lists those that are" };
        format!("{message}; {list}; another namespace is said with -n")
    } else {
        format!("{message}; is it {}?", near.join(" or "))
    })
}

/// At most three names that may have been meant, the nearest first.
fn near(wanted: &str, there: &[String]) -> Vec<String> {
    let mut scored: Vec<(usize, &String)> = there
        .iter()
        .filter_map(|name| {
            let apart = distance(wanted, name);
            let part = wanted.len() >= 3 && name.contains(wanted);
            (part || apart <= (wanted.len() / 4).max(2)).then_some((if part { 0 } else { apart }, name))
        })
        .collect();
    scored.sort();
    scored.into_iter().take(3).map(|(_, name)| name.clone()).collect()
}

/// How many characters must be added, removed or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_be_typed_as_kubectl_takes_it() {
        for text in ["x", "finding/x", "findings/x", "fnd/x", "Finding/x", "findings.quell.dev/x"] {
            assert_eq!(parse(text).unwrap(), Named::Finding("x".to_owned()), "{text}");
        }
        assert_eq!(parse("rem/x").unwrap(), Named::Remediation("x".to_owned()));
        for text in ["", "finding/", "pod/x", "a/b/c"] {
            assert!(matches!(parse(text), Err(CliError::Usage(_))), "{text}");
        }
    }

    #[test]
    fn near_misses_are_named() {
        let there = ["falco-0a1b2c3d4e", "falco-9z8y7x6w5v", "trivy-aaaaaaaaaa"].map(str::to_owned);
        assert_eq!(near("falco-0a1b2c3d4f", &there), ["falco-0a1b2c3d4e"]);
        assert_eq!(near("7x6w", &there), ["falco-9z8y7x6w5v"]);
        assert_eq!(near("nothing-like-it-at-all", &there), [""; 0]);
        let told = not_found("Finding", "shop", "falco-0a1b2c3d4", &there, &[]).to_string();
        assert_eq!(told, "there is no Finding falco-0a1b2c3d4 in the namespace shop; is it falco-0a1b2c3d4e?");
        let told = not_found("Finding", "shop", "x", &there, &["prod".to_owned()]).to_string();
        assert!(told.ends_with("there is one in prod: add -n prod"), "{told}");
    }
}
