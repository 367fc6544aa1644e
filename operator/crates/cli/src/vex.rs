//! `vex import`: what VEX documents state, as Suppressions.
//!
//! Only what says that a vulnerability needs nothing done is taken over: not affected, and fixed. The rest is said, and left.

mod cyclonedx;
mod openvex;
mod purl;

use std::io::Read as _;

use chrono::{DateTime, Utc};
use kube::api::{Api, Patch, PatchParams};
use quell_crds::names;
use quell_crds::v1alpha1::{
    ClusterSuppression, ClusterSuppressionSpec, Suppression, SuppressionMatch, SuppressionSpec, VexStatement, VexStatus,
};
use serde_json::{Value, json};

use crate::client::{Connection, ask};
use crate::flags::{Connect, VexImport};
use crate::text::count;
use crate::{CliError, Exit, Io};

const FIELD_MANAGER: &str = "quell/kubectl";

/// What a document states of one vulnerability in one product.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Statement {
    vulnerabilities: Vec<String>,
    status: VexStatus,
    justification: Option<String>,
    why: String,
    product: Product,
}

/// What a statement is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Product {
    /// Image, as a Suppression names it.
    image: Option<String>,
    /// Package in it.
    package: Option<String>,
    /// As the document names it.
    name: String,
}

/// A document that was read.
#[derive(Debug, Default)]
struct Read {
    id: String,
    author: String,
    statements: Vec<Statement>,
    /// What was not taken over, and why.
    left: Vec<String>,
}

/// Imports one document.
pub async fn run(of: &VexImport, connect: &Connect, io: &mut Io) -> Result<Exit, CliError> {
    let file = if of.file.as_os_str() == "-" { "standard input".to_owned() } else { of.file.display().to_string() };
    let wrong = |problem: String| CliError::File { file: file.clone(), problem };
    let text = if of.file.as_os_str() == "-" {
        let mut text = String::new();
        io.input.read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(&of.file)
    };
    let text = text.map_err(|error| wrong(format!("can't be read: {error}")))?;
    let document: Value = serde_json::from_str(&text).map_err(|error| wrong(format!("is not JSON: {error}")))?;
    let mut read = read(&document).map_err(wrong)?;
    if read.id.is_empty() {
        read.id.clone_from(&file);
    }
    for left in &read.left {
        writeln!(io.err, "left out: {left}")?;
    }
    let mut made = Vec::new();
    for statement in &read.statements {
        match specs(of, &read, statement) {
            Ok(spec) => made.push(spec),
            Err(why) => writeln!(io.err, "left out: {}: {why}", statement.vulnerabilities.join(", "))?,
        }
    }
    made.sort_by(|one, other| one.0.cmp(&other.0));
    made.dedup_by(|one, other| one.0 == other.0);
    if made.is_empty() {
        writeln!(io.err, "error: nothing in {file} says not affected or fixed about an image; nothing was made")?;
        return Ok(Exit::Failed);
    }
    if of.apply {
        let connection = Connection::new(connect).await?;
        for (name, spec) in &made {
            apply(of, &connection, name, spec).await?;
            writeln!(io.out, "{}/{name}: applied", kind(of).to_ascii_lowercase())?;
        }
        return Ok(Exit::Ok);
    }
    for (name, spec) in &made {
        let mut object = json!({
            "apiVersion": "quell.dev/v1alpha1", "kind": kind(of), "metadata": { "name": name }, "spec": spec,
        });
        if let (false, Some(namespace)) = (of.cluster, &connect.namespace) {
            object["metadata"]["namespace"] = json!(namespace);
        }
        let text = serde_saphyr::to_string(&object).map_err(|error| CliError::Refused(error.to_string()))?;
        writeln!(io.out, "---\n{}", text.trim_end())?;
    }
    writeln!(io.err, "{}; apply them: --apply, or kubectl apply -f -", count(made.len(), "suppression"))?;
    Ok(Exit::Ok)
}

fn kind(of: &VexImport) -> &'static str {
    if of.cluster { "ClusterSuppression" } else { "Suppression" }
}

/// Reads a document of either format.
fn read(document: &Value) -> Result<Read, String> {
    let context = document["@context"].as_str().unwrap_or_default();
    if context.contains("openvex") {
        return Ok(openvex::read(document));
    }
    if document["bomFormat"].as_str() == Some("CycloneDX") {
        return Ok(cyclonedx::read(document));
    }
    Err("is neither OpenVEX (`@context` https://openvex.dev/ns/…) nor CycloneDX (`bomFormat`: CycloneDX)".to_owned())
}

/// The Suppression of a statement, with its name: the same statement of the same document is the same object.
fn specs(of: &VexImport, read: &Read, statement: &Statement) -> Result<(String, SuppressionSpec), String> {
    let images = match (&statement.product.image, of.images.is_empty()) {
        (_, false) => of.images.clone(),
        (Some(image), true) => vec![image.clone()],
        (None, true) => {
            return Err(format!(
                "it is about `{}`, which names no image; say which images it holds for: --image registry.example/shop",
                statement.product.name
            ));
        }
    };
    let matcher = SuppressionMatch {
        vulnerabilities: statement.vulnerabilities.clone(),
        packages: statement.product.package.clone().into_iter().collect(),
        images,
        ..SuppressionMatch::default()
    };
    let owner = of.owner.clone().unwrap_or_else(|| read.author.clone());
    let spec = SuppressionSpec {
        reason: cut(&statement.why, 1024),
        owner: if owner.is_empty() { "VEX".to_owned() } else { cut(&owner, 253) },
        expires_at: of.expires_at,
        vex: Some(VexStatement {
            status: statement.status,
            justification: statement.justification.clone().map(|text| cut(&text, 128)),
            document: cut(&read.id, 512),
        }),
        r#match: matcher,
    };
    let parts = [
        statement.vulnerabilities.join(","),
        spec.r#match.packages.join(","),
        spec.r#match.images.join(","),
        read.id.clone(),
    ];
    let first = statement.vulnerabilities.first().cloned().unwrap_or_default();
    let name = names::created_by(&parts.join(" "), &format!("vex-{}", first.to_ascii_lowercase()));
    Ok((name, spec))
}

async fn apply(of: &VexImport, connection: &Connection, name: &str, spec: &SuppressionSpec) -> Result<(), CliError> {
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let doing = format!("applying {} {name}", kind(of));
    if of.cluster {
        let spec = ClusterSuppressionSpec {
            r#match: spec.r#match.clone(),
            reason: spec.reason.clone(),
            owner: spec.owner.clone(),
            expires_at: spec.expires_at,
            vex: spec.vex.clone(),
        };
        let api: Api<ClusterSuppression> = Api::all(connection.client.clone());
        let object = ClusterSuppression::new(name, spec);
        ask(doing, api.patch(name, &parameters, &Patch::Apply(&object))).await?;
    } else {
        let api: Api<Suppression> = Api::namespaced(connection.client.clone(), &connection.namespace);
        let object = Suppression::new(name, spec.clone());
        ask(doing, api.patch(name, &parameters, &Patch::Apply(&object))).await?;
    }
    Ok(())
}

/// The text, cut to at most that many bytes.
fn cut(text: &str, longest: usize) -> String {
    let end = (0..=longest.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or_default();
    text[..end].to_owned()
}

/// A time, as a flag has it.
pub fn time(text: &str) -> Result<DateTime<Utc>, String> {
    text.parse().map_err(|_| "a time is written as 2027-03-31T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests;
