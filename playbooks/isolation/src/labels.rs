//! What a selector asks of labels, as sets that can be cut with each other.
//!
//! Kubernetes' four operators are closed under negation (`NotIn` holds for an object without the key, too:
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#set-based-requirement>), so what one selector
//! leaves of another is again a handful of selectors, with nothing lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// The API server sets it on every namespace, and nobody can change it: it stands for the namespace's name.
pub(crate) const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// What is asked of the label of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Constraint {
    /// Whether an object without the key will do.
    absent: bool,
    values: Values,
}

/// Shared, as cutting selectors with each other copies them far more often than it changes them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Values {
    Only(Arc<BTreeSet<Arc<str>>>),
    AllBut(Arc<BTreeSet<Arc<str>>>),
}

impl Constraint {
    fn one_of(values: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self { absent: false, values: Values::Only(Arc::new(values.into_iter().collect())) }
    }

    fn exists() -> Self {
        Self { absent: false, values: Values::AllBut(Arc::default()) }
    }

    fn negation(&self) -> Self {
        let values = match &self.values {
            Values::Only(values) => Values::AllBut(values.clone()),
            Values::AllBut(values) => Values::Only(values.clone()),
        };
        Self { absent: !self.absent, values }
    }

    fn intersection(&self, other: &Self) -> Self {
        let values = match (&self.values, &other.values) {
            (Values::Only(a), Values::Only(b)) => Values::Only(Arc::new(&**a & &**b)),
            (Values::Only(only), Values::AllBut(not)) | (Values::AllBut(not), Values::Only(only)) => {
                if only.is_disjoint(not) {
                    Values::Only(only.clone())
                } else {
                    Values::Only(Arc::new(&**only - &**not))
                }
            }
            (Values::AllBut(a), Values::AllBut(b)) => {
                if b.is_subset(a) {
                    Values::AllBut(a.clone())
                } else {
                    Values::AllBut(Arc::new(&**a | &**b))
                }
            }
        };
        Self { absent: self.absent && other.absent, values }
    }

    fn is_impossible(&self) -> bool {
        !self.absent && matches!(&self.values, Values::Only(values) if values.is_empty())
    }

    fn holds(&self, value: Option<&str>) -> bool {
        match (value, &self.values) {
            (None, _) => self.absent,
            (Some(value), Values::Only(values)) => values.contains(value),
            (Some(value), Values::AllBut(values)) => !values.contains(value),
        }
    }
}

/// What is asked of an object's labels: every constraint has to hold. With none, every object will do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Labels(BTreeMap<Arc<str>, Constraint>);

impl Labels {
    pub(crate) fn any() -> Self {
        Self::default()
    }

    pub(crate) fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// A namespace of that name.
    pub(crate) fn namespace(name: &str) -> Self {
        Self::equal(NAMESPACE_NAME, name)
    }

    pub(crate) fn equal(key: &str, value: &str) -> Self {
        Self::one_of(key, [value])
    }

    pub(crate) fn one_of<'a>(key: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        Self(BTreeMap::from([(Arc::from(key), Constraint::one_of(values.into_iter().map(Arc::from)))]))
    }

    pub(crate) fn exists(key: &str) -> Self {
        Self(BTreeMap::from([(Arc::from(key), Constraint::exists())]))
    }

    /// An empty selector chooses every object. `Err` says what in it has no meaning.
    pub(crate) fn of(selector: &LabelSelector) -> Result<Self, String> {
        let mut labels = Self::any();
        for (key, value) in selector.match_labels.iter().flatten() {
            labels.require(key, &Constraint::one_of([Arc::from(value.as_str())]));
        }
        for requirement in selector.match_expressions.iter().flatten() {
            let values = || requirement.values.iter().flatten().map(|value| Arc::from(value.as_str()));
            let constraint = match requirement.operator.as_str() {
                "In" => Constraint::one_of(values()),
                "NotIn" => Constraint::one_of(values()).negation(),
                "Exists" => Constraint::exists(),
                "DoesNotExist" => Constraint::exists().negation(),
                other => return Err(format!("its selector has the operator {other}, which is not known")),
            };
            labels.require(&requirement.key, &constraint);
        }
        Ok(labels)
    }

    fn require(&mut self, key: &str, constraint: &Constraint) {
        let constraint = match self.0.get(key) {
            Some(before) => before.intersection(constraint),
            None => constraint.clone(),
        };
        self.0.insert(Arc::from(key), constraint);
    }

    pub(crate) fn has_key(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.0.keys().any(|key| wanted(key))
    }

    pub(crate) fn matches<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|(key, constraint)| constraint.holds(value(key)))
    }

    /// What both ask; `None` where no object can have it.
    pub(crate) fn intersection(&self, other: &Self) -> Option<Self> {
        let mut both = self.clone();
        for (key, constraint) in &other.0 {
            both.require(key, constraint);
        }
        (!both.is_impossible()).then_some(both)
    }

    fn is_impossible(&self) -> bool {
        self.0.values().any(Constraint::is_impossible)
    }

    /// What `self` chooses and `other` doesn't: selectors that have no object in common.
    pub(crate) fn difference(&self, other: &Self) -> Vec<Self> {
        let mut left = Vec::new();
        let mut common = self.clone();
        for (key, constraint) in &other.0 {
            let mut without = common.clone();
            without.require(key, &constraint.negation());
            if !without.is_impossible() {
                left.push(without);
            }
            common.require(key, constraint);
            if common.is_impossible() {
                break;
            }
        }
        left
    }

    /// The values of a key, where it has to have one of a few.
    pub(crate) fn values(&self, key: &str) -> Option<impl Iterator<Item = &str>> {
        match self.0.get(key) {
            Some(Constraint { absent: false, values: Values::Only(values) }) => {
                Some(values.iter().map(|value| &**value))
            }
            _ => None,
        }
    }

    /// The same without what is asked of one key.
    pub(crate) fn without(&self, key: &str) -> Self {
        let mut rest = self.clone();
        rest.0.remove(key);
        rest
    }

    /// What is asked of one key alone.
    pub(crate) fn only(&self, key: &str) -> Self {
        Self(self.0.iter().filter(|(each, _)| &***each == key).map(|(key, c)| (key.clone(), c.clone())).collect())
    }

    /// The constraints one by one, each with its key.
    pub(crate) fn split(&self) -> impl Iterator<Item = (&str, Self)> {
        self.0.iter().map(|(key, constraint)| (&**key, Self(BTreeMap::from([(key.clone(), constraint.clone())]))))
    }

    /// The same constraints with other keys.
    pub(crate) fn with_keys(&self, name: impl Fn(&str) -> String) -> Self {
        let mut renamed = Self::any();
        for (key, constraint) in &self.0 {
            renamed.require(&name(key), constraint);
        }
        renamed
    }
}

/// `app=front, tier in (a, b), !old`: as `kubectl -l` would read it, where it can.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(|(key, constraint)| describe(key, constraint)).collect();
        f.write_str(&parts.join(", "))
    }
}

fn describe(key: &str, constraint: &Constraint) -> String {
    let list = |values: &BTreeSet<Arc<str>>| values.iter().map(|value| &**value).collect::<Vec<_>>().join(", ");
    match (&constraint.values, constraint.absent) {
        (Values::Only(values), true) if values.is_empty() => format!("!{key}"),
        (Values::Only(values), true) => format!("{key} in ({}) or no {key}", list(values)),
        (Values::Only(values), false) if values.len() == 1 => format!("{key}={}", list(values)),
        (Values::Only(values), false) => format!("{key} in ({})", list(values)),
        (Values::AllBut(values), false) if values.is_empty() => key.to_owned(),
        (Values::AllBut(values), false) => format!("{key}, {key} notin ({})", list(values)),
        (Values::AllBut(values), true) => format!("{key} notin ({})", list(values)),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
    use proptest::prelude::*;

    use super::*;

    fn requirement(key: &str, operator: &str, values: &[&str]) -> LabelSelectorRequirement {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        LabelSelectorRequirement { key: key.to_owned(), operator: operator.to_owned(), values: Some(values) }
    }

    fn selector(requirements: Vec<LabelSelectorRequirement>) -> Labels {
        Labels::of(&LabelSelector { match_labels: None, match_expressions: Some(requirements) }).expect("a selector")
    }

    fn labels() -> impl Strategy<Value = Labels> {
        let requirement = (0..2_usize, 0..4_usize, prop::collection::btree_set(0..3_usize, 1..3)).prop_map(
            |(key, operator, values)| {
                let values: Vec<_> = values.into_iter().map(|value| ["x", "y", "z"][value]).collect();
                requirement(["a", "b"][key], ["In", "NotIn", "Exists", "DoesNotExist"][operator], &values)
            },
        );
        prop::collection::vec(requirement, 0..4).prop_map(selector)
    }

    /// Every set of labels that can be made of two keys and one value more than the selectors name.
    fn objects() -> Vec<BTreeMap<&'static str, &'static str>> {
        let values = [None, Some("x"), Some("y"), Some("z"), Some("other")];
        let mut objects = Vec::new();
        for a in values {
            for b in values {
                objects.push([("a", a), ("b", b)].into_iter().filter_map(|(k, v)| Some((k, v?))).collect());
            }
        }
        objects
    }

    proptest! {
        #[test]
        fn an_object_is_chosen_exactly_if_the_set_operation_says_so(left in labels(), right in labels()) {
            for object in objects() {
                let is_in = |labels: &Labels| labels.matches(|key| object.get(key).copied());
                let common = left.intersection(&right);
                prop_assert_eq!(common.as_ref().is_some_and(is_in), is_in(&left) && is_in(&right));
                let rest = left.difference(&right);
                let times = rest.iter().filter(|part| is_in(part)).count();
                prop_assert_eq!(times, usize::from(is_in(&left) && !is_in(&right)), "in exactly one part");
            }
        }
    }

    #[test]
    fn not_in_chooses_an_object_without_the_key_and_in_does_not() {
        assert!(selector(vec![requirement("a", "NotIn", &["x"])]).matches(|_| None));
        assert!(!selector(vec![requirement("a", "In", &["x"])]).matches(|_| None));
    }

    #[test]
    fn an_operator_that_is_not_known_is_no_selector() {
        let selector =
            LabelSelector { match_labels: None, match_expressions: Some(vec![requirement("a", "Gt", &["1"])]) };
        assert!(Labels::of(&selector).is_err_and(|reason| reason.contains("Gt")));
    }

    #[test]
    fn labels_are_told_as_kubectl_takes_them() {
        let labels = selector(vec![
            requirement("app", "In", &["front"]),
            requirement("tier", "In", &["a", "b"]),
            requirement("old", "DoesNotExist", &[]),
            requirement("zone", "NotIn", &["x"]),
        ]);
        assert_eq!(labels.to_string(), "app=front, !old, tier in (a, b), zone notin (x)");
    }
}
