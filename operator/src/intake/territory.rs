//! The namespaces that a Source may speak for: what it says about others is not taken, whoever has its credential.

use std::collections::{BTreeMap, HashSet};

use kube::core::{Selector, SelectorExt as _};
use quell_crds::v1alpha1::SourceNamespaces;
use quell_ingest::{About, Place, Signal};
use quell_playbooks::Problem;

/// The namespaces of one Source.
#[derive(Clone, Debug)]
pub struct Territory {
    include: HashSet<String>,
    selector: Option<Selector>,
}

/// What of a signal is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The places that the Source may speak for; at least one.
    Places(Vec<Place>),
    /// The signal itself names something that isn't the Source's.
    Foreign(String),
    /// Nothing of what the signal was found to be about is the Source's.
    Nothing,
}

impl Territory {
    /// As the Source says.
    pub fn compile(spec: &SourceNamespaces) -> Result<Self, Problem> {
        let selector = quell_playbooks::compile::selector(spec.selector.as_ref(), "spec.namespaces.selector")?;
        Ok(Self { include: spec.include.iter().cloned().collect(), selector })
    }

    /// Whether the Source may speak for a namespace; `labels` gives a namespace's labels.
    pub fn holds(&self, namespace: &str, labels: impl FnOnce(&str) -> BTreeMap<String, String>) -> bool {
        !namespace.is_empty()
            && (self.include.contains(namespace)
                || self.selector.as_ref().is_some_and(|selector| selector.matches(&labels(namespace))))
    }

    /// What is left of the places of a signal.
    pub fn keep(&self, signal: &Signal, places: Vec<Place>, labels: impl Fn(&str) -> BTreeMap<String, String>) -> Kept {
        let holds = |namespace: &str| self.holds(namespace, &labels);
        match &signal.about {
            About::Pod { namespace, name, .. } if !holds(namespace) => {
                return Kept::Foreign(format!("the pod {namespace}/{name}"));
            }
            About::Workload { kind, namespace, name, .. } if !holds(namespace) => {
                let namespace = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
                return Kept::Foreign(format!("the {kind} {namespace}{name}"));
            }
            About::Node { name } => return Kept::Foreign(format!("the node {name}")),
            _ => {}
        }
        let own = |place: &Place| {
            let owner = place.workload.as_ref().map(|workload| workload.namespace.as_str());
            holds(&place.target.namespace) && owner.is_none_or(holds)
        };
        let places: Vec<Place> = places.into_iter().filter(own).collect();
        if places.is_empty() { Kept::Nothing } else { Kept::Places(places) }
    }
}

#[cfg(test)]
mod tests {
    use quell_crds::v1alpha1::{Selector as Labels, Target, Workload};

    use super::*;

    fn of_team() -> Territory {
        let selector = Labels { match_labels: [("team".to_owned(), "red".to_owned())].into(), ..Labels::default() };
        Territory::compile(&SourceNamespaces { include: vec!["shop".to_owned()], selector: Some(selector) }).unwrap()
    }

    fn labels(namespace: &str) -> BTreeMap<String, String> {
        if namespace == "red" { [("team".to_owned(), "red".to_owned())].into() } else { BTreeMap::new() }
    }

    fn falco(namespace: &str) -> Signal {
        let body = format!(
            r#"{{"rule":"r","priority":"Critical","output":"o","output_fields":{{"container.id":"ee97d9c4186f","k8s.ns.name":"{namespace}","k8s.pod.name":"p"}}}}"#
        );
        quell_ingest::read(quell_crds::v1alpha1::Format::Falco, body.as_bytes()).unwrap().remove(0)
    }

    fn place(namespace: &str, owner: Option<&str>) -> Place {
        let target = Target { namespace: namespace.to_owned(), ..Target::default() };
        let workload = owner.map(|owner| Workload { namespace: owner.to_owned(), ..Workload::default() });
        Place { target, workload }
    }

    #[test]
    fn a_namespace_counts_by_its_name_or_by_its_labels_and_no_namespace_never() {
        let team = of_team();
        for (namespace, expected) in [("shop", true), ("red", true), ("blue", false), ("", false)] {
            assert_eq!(team.holds(namespace, labels), expected, "{namespace}");
        }
    }

    #[test]
    fn a_signal_that_names_a_pod_elsewhere_is_foreign() {
        let kept = of_team().keep(&falco("blue"), vec![place("blue", None)], labels);
        assert_eq!(kept, Kept::Foreign("the pod blue/p".to_owned()));
    }

    #[test]
    fn of_several_places_only_the_own_ones_are_kept_and_an_owner_elsewhere_is_not_own() {
        let mut signal = falco("shop");
        signal.about = About::Container { id: "ee97d9c4186f".to_owned(), node: None, image: None };
        let places = vec![place("blue", None), place("shop", Some("shop")), place("shop", Some("blue"))];
        let kept = of_team().keep(&signal, places, labels);
        assert_eq!(kept, Kept::Places(vec![place("shop", Some("shop"))]));
        assert_eq!(of_team().keep(&signal, vec![place("", None)], labels), Kept::Nothing);
    }
}
