//! CycloneDX VEX: <https://cyclonedx.org/capabilities/vex/>, `vulnerabilities[].analysis`.

use std::collections::HashMap;

use quell_crds::v1alpha1::VexStatus;
use serde_json::Value;

use super::{Product, Read, Statement, purl};

pub(super) fn read(document: &Value) -> Read {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &document["metadata"];
    let author = ["/manufacturer/name", "/supplier/name", "/authors/0/name", "/component/supplier/name"];
    let author =
        author.into_iter().find_map(|pointer| metadata.pointer(pointer)?.as_str()).unwrap_or_default().to_owned();
    let mut read = Read { id: text(&document["serialNumber"]), author, ..Read::default() };
    let mut components = HashMap::new();
    collect(&metadata["component"], &mut components);
    document["components"].as_array().into_iter().flatten().for_each(|one| collect(one, &mut components));
    let root = metadata["component"]["purl"].as_str().or(metadata["component"]["name"].as_str()).unwrap_or_default();
    for one in document["vulnerabilities"].as_array().into_iter().flatten() {
        let id = text(&one["id"]);
        let analysis = &one["analysis"];
        let status = match analysis["state"].as_str() {
            Some("not_affected") => VexStatus::NotAffected,
            Some("resolved" | "resolved_with_pedigree") => VexStatus::Fixed,
            other => {
                read.left.push(format!("{id}: its state is {}", other.unwrap_or("missing")));
                continue;
            }
        };
        let justification = analysis["justification"].as_str().map(str::to_owned);
        let why = analysis["detail"].as_str().or(justification.as_deref());
        let why = why.map_or_else(|| format!("{status}, says the document"), str::to_owned);
        let affects: Vec<&str> =
            one["affects"].as_array().into_iter().flatten().filter_map(|one| one["ref"].as_str()).collect();
        if affects.is_empty() {
            read.left.push(format!("{id}: it names nothing that it affects"));
        }
        for reference in affects {
            read.statements.push(Statement {
                vulnerabilities: vec![id.clone()],
                status,
                justification: justification.clone(),
                why: why.clone(),
                product: product(reference, &components, root),
            });
        }
    }
    read
}

/// Components by their reference, nested ones included.
fn collect<'a>(component: &'a Value, into: &mut HashMap<&'a str, &'a Value>) {
    let mut open = vec![component];
    while let Some(component) = open.pop() {
        if let Some(reference) = component["bom-ref"].as_str() {
            into.insert(reference, component);
        }
        open.extend(component["components"].as_array().into_iter().flatten());
    }
}

/// A component that is no image is a package of the one that the document is about.
fn product(reference: &str, components: &HashMap<&str, &Value>, root: &str) -> Product {
    // A BOM-Link names the document and the component: urn:cdx:serial/version#reference.
    let reference =
        reference.rsplit_once('#').filter(|_| reference.starts_with("urn:cdx:")).map_or(reference, |(_, one)| one);
    let component = components.get(reference);
    let name = component.and_then(|one| one["purl"].as_str().or(one["name"].as_str())).unwrap_or(reference).to_owned();
    let is_container = component.is_some_and(|one| one["type"].as_str() == Some("container"));
    let image = purl::image(&name).or_else(|| is_container.then(|| name.clone()));
    if image.is_some() {
        return Product { image, package: None, name };
    }
    let package = purl::package(&name).or_else(|| component.and_then(|one| one["name"].as_str()).map(str::to_owned));
    Product { image: purl::image(root), package, name }
}
