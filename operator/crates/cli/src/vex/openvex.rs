//! OpenVEX 0.2.0: <https://github.com/openvex/spec/blob/main/OPENVEX-SPEC.md>.

use quell_crds::v1alpha1::VexStatus;
use serde_json::Value;

use super::{Product, Read, Statement, purl};

pub(super) fn read(document: &Value) -> Read {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut read = Read { id: text(&document["@id"]), author: text(&document["author"]), ..Read::default() };
    for statement in document["statements"].as_array().into_iter().flatten() {
        let vulnerabilities = vulnerabilities(&statement["vulnerability"]);
        let status = match statement["status"].as_str() {
            Some("not_affected") => VexStatus::NotAffected,
            Some("fixed") => VexStatus::Fixed,
            other => {
                read.left.push(format!("{}: its status is {}", vulnerabilities.join(", "), other.unwrap_or("missing")));
                continue;
            }
        };
        let justification = statement["justification"].as_str().map(str::to_owned);
        let why = ["impact_statement", "status_notes", "justification"]
            .into_iter()
            .find_map(|field| statement[field].as_str())
            .map_or_else(|| format!("{status}, says {}", read.author), str::to_owned);
        for product in statement["products"].as_array().into_iter().flatten() {
            for product in products(product) {
                read.statements.push(Statement {
                    vulnerabilities: vulnerabilities.clone(),
                    status,
                    justification: justification.clone(),
                    why: why.clone(),
                    product,
                });
            }
        }
        if statement["products"].as_array().is_none_or(Vec::is_empty) {
            read.left.push(format!("{}: it names no product", vulnerabilities.join(", ")));
        }
    }
    read
}

/// Its name and aliases; before version 0.2.0 it was a text.
fn vulnerabilities(value: &Value) -> Vec<String> {
    let name = value.as_str().or(value["name"].as_str()).or(value["@id"].as_str());
    let aliases = value["aliases"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut all: Vec<String> = name.into_iter().chain(aliases).map(str::to_owned).collect();
    all.dedup();
    all
}

/// The product, once for each of its subcomponents that is named.
fn products(value: &Value) -> Vec<Product> {
    let name = identifier(value);
    let image = purl::image(&name);
    let whole = Product {
        image: image.clone(),
        package: image.is_none().then(|| purl::package(&name)).flatten(),
        name: name.clone(),
    };
    let parts: Vec<Product> = value["subcomponents"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|part| purl::package(&identifier(part)))
        .map(|package| Product { image: image.clone(), package: Some(package), name: name.clone() })
        .collect();
    if parts.is_empty() { vec![whole] } else { parts }
}

fn identifier(value: &Value) -> String {
    let found = value["identifiers"]["purl"].as_str().or(value["@id"].as_str()).or(value.as_str());
    found.unwrap_or_default().to_owned()
}
