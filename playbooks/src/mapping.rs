//! A Source's own mapping: each of its expressions compiled, every mistake named by its place. What they give is read by `quell-ingest`.

use quell_crds::v1alpha1::{MappingTarget, SourceMapping};

use crate::cel::{Expression, Names};
use crate::compile::{Problem, expression};

/// What was posted, or the object that is watched.
pub const BODY: &str = "body";
/// Headers of the request.
pub const HEADERS: &str = "headers";
/// The one of which a Finding is made.
pub const ITEM: &str = "item";

/// A field of the mapping.
#[derive(Clone, Debug)]
pub struct Field {
    /// As the mapping calls it: `severity`, `target.name`, `fingerprint[0]`.
    pub name: String,
    /// What gives its value.
    pub expression: Expression,
}

/// A mapping that can be used; see [`SourceMapping`] for what each field means.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The list of items.
    pub for_each: Option<Field>,
    /// Which of them are read.
    pub when: Option<Field>,
    /// Whether the problem is gone.
    pub resolved: Option<Field>,
    /// What is wrong.
    pub rule: Field,
    /// How bad it is.
    pub severity: Option<Field>,
    /// What kind of problem it is.
    pub category: Option<Field>,
    /// What happened.
    pub message: Option<Field>,
    /// The tool.
    pub tool: Option<Field>,
    /// What it is about.
    pub target: Target,
    /// What makes it the same as one before.
    pub fingerprint: Vec<Field>,
    /// When it was seen.
    pub detected_at: Option<Field>,
    /// What else is said.
    pub details: Option<Field>,
    /// Vulnerabilities.
    pub vulnerabilities: Option<Field>,
}

/// What an item is about.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Kind of the object.
    pub kind: Option<Field>,
    /// Its API version.
    pub api_version: Option<Field>,
    /// Its namespace.
    pub namespace: Option<Field>,
    /// Its name.
    pub name: Option<Field>,
    /// Its UID.
    pub uid: Option<Field>,
    /// The container's name.
    pub container: Option<Field>,
    /// The container's id.
    pub container_id: Option<Field>,
    /// The image.
    pub image: Option<Field>,
    /// The image's digest.
    pub digest: Option<Field>,
    /// The node.
    pub node: Option<Field>,
    /// An address.
    pub address: Option<Field>,
}

/// Compiles a mapping.
pub fn compile(mapping: &SourceMapping) -> Result<Mapping, Problem> {
    let whole = Names::of(&[BODY, HEADERS]);
    let each = Names::of(&[BODY, HEADERS, ITEM]);
    let of_item = |source: &Option<String>, name: &str| optional(source.as_deref(), name, &each);
    let fingerprint = mapping.fingerprint.iter().enumerate();
    Ok(Mapping {
        for_each: optional(mapping.for_each.as_deref(), "forEach", &whole)?,
        when: of_item(&mapping.when, "when")?,
        resolved: of_item(&mapping.resolved, "resolved")?,
        rule: field(&mapping.rule, "rule", &each)?,
        severity: of_item(&mapping.severity, "severity")?,
        category: of_item(&mapping.category, "category")?,
        message: of_item(&mapping.message, "message")?,
        tool: of_item(&mapping.tool, "tool")?,
        target: target(&mapping.target, &each)?,
        fingerprint: fingerprint
            .map(|(i, source)| field(source, &format!("fingerprint[{i}]"), &each))
            .collect::<Result<_, _>>()?,
        detected_at: of_item(&mapping.detected_at, "detectedAt")?,
        details: of_item(&mapping.details, "details")?,
        vulnerabilities: of_item(&mapping.vulnerabilities, "vulnerabilities")?,
    })
}

fn target(target: &MappingTarget, names: &Names) -> Result<Target, Problem> {
    let of = |source: &Option<String>, name: &str| optional(source.as_deref(), &format!("target.{name}"), names);
    Ok(Target {
        kind: of(&target.kind, "kind")?,
        api_version: of(&target.api_version, "apiVersion")?,
        namespace: of(&target.namespace, "namespace")?,
        name: of(&target.name, "name")?,
        uid: of(&target.uid, "uid")?,
        container: of(&target.container, "container")?,
        container_id: of(&target.container_id, "containerId")?,
        image: of(&target.image, "image")?,
        digest: of(&target.digest, "digest")?,
        node: of(&target.node, "node")?,
        address: of(&target.address, "address")?,
    })
}

fn optional(source: Option<&str>, name: &str, names: &Names) -> Result<Option<Field>, Problem> {
    source.map(|source| field(source, name, names)).transpose()
}

fn field(source: &str, name: &str, names: &Names) -> Result<Field, Problem> {
    let expression = expression(source, names, &format!("spec.mapping.{name}"))?;
    Ok(Field { name: name.to_owned(), expression })
}

#[cfg(test)]
mod tests {
    use quell_crds::conditions::Reason;

    use super::*;

    fn problem(change: impl FnOnce(&mut SourceMapping)) -> Problem {
        let mut mapping = SourceMapping { rule: "item.rule".to_owned(), ..SourceMapping::default() };
        change(&mut mapping);
        compile(&mapping).unwrap_err()
    }

    #[test]
    fn a_mistake_is_named_by_its_place() {
        let wrong = || Some("nope.x".to_owned());
        for (problem, at) in [
            (problem(|mapping| mapping.rule = "item.".to_owned()), "spec.mapping.rule"),
            (problem(|mapping| mapping.target.container_id = wrong()), "spec.mapping.target.containerId"),
            (
                problem(|mapping| mapping.fingerprint = vec!["1".to_owned(), "x".to_owned()]),
                "spec.mapping.fingerprint[1]",
            ),
            (problem(|mapping| mapping.detected_at = wrong()), "spec.mapping.detectedAt"),
        ] {
            assert_eq!((problem.reason, problem.at.as_str()), (Reason::ExpressionInvalid, at), "{problem}");
        }
    }

    #[test]
    fn there_is_no_item_before_the_items_are_known() {
        let problem = problem(|mapping| mapping.for_each = Some("item.list".to_owned()));
        assert_eq!(problem.at, "spec.mapping.forEach");
        assert!(problem.message.contains("there is body, headers"), "{problem}");
    }
}
