//! Which kinds the cluster serves, of the groups that Sources ask for.

use std::collections::{HashMap, HashSet};

use kube::core::ApiResource;
use kube::discovery::verbs;
use kube::{Client, discovery};

/// How often a group is asked for a definition that discovery doesn't show: one that is never served must not be asked for for ever.
const LATEST: u32 = 60;

/// What is served.
#[derive(Debug, Default)]
pub struct Catalog {
    groups: HashMap<String, Vec<ApiResource>>,
    /// Groups that have to be asked, and how often in vain.
    stale: HashMap<String, u32>,
    /// CustomResourceDefinitions: plural and group.
    defined: HashSet<(String, String)>,
}

impl Catalog {
    /// These groups are asked for, and no others.
    pub fn wants(&mut self, groups: &HashSet<&str>) {
        self.groups.retain(|group, _| groups.contains(group.as_str()));
        self.stale.retain(|group, _| groups.contains(group.as_str()));
        for group in groups.iter().filter(|group| !self.groups.contains_key(**group)) {
            self.stale.entry((*group).to_owned()).or_default();
        }
    }

    /// A CustomResourceDefinition is there, or has changed, as its status does when it comes to be served.
    pub fn is_defined(&mut self, name: &str) {
        if let Some((plural, group)) = name.split_once('.') {
            self.defined.insert((plural.to_owned(), group.to_owned()));
            self.look_again(group);
        }
    }

    /// A CustomResourceDefinition is gone, and what it defined with it. The answer is which group that was.
    pub fn is_defined_no_more(&mut self, name: &str) {
        if let Some((plural, group)) = name.split_once('.') {
            self.defined.remove(&(plural.to_owned(), group.to_owned()));
            if let Some(served) = self.groups.get_mut(group) {
                served.retain(|resource| resource.plural != plural);
            }
            self.look_again(group);
        }
    }

    /// All CustomResourceDefinitions were listed, and these are they.
    pub fn are_defined(&mut self, names: &HashSet<String>) {
        let gone: Vec<String> = self
            .defined
            .iter()
            .map(|(plural, group)| format!("{plural}.{group}"))
            .filter(|name| !names.contains(name))
            .collect();
        for name in &gone {
            self.is_defined_no_more(name);
        }
    }

    /// What a group serves may have changed.
    pub fn look_again(&mut self, group: &str) {
        if self.groups.contains_key(group) {
            self.stale.insert(group.to_owned(), 0);
        }
    }

    /// The kinds of a group, the version that the API server prefers first.
    pub fn served(&self, group: &str) -> &[ApiResource] {
        self.groups.get(group).map_or(&[], Vec::as_slice)
    }

    /// Whether it is known what a group serves.
    pub fn is_known(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// Asks what stale groups serve. The answer is whether to ask again in a moment: a definition that was just accepted is not served at
    /// once, and the API server may not have answered.
    pub async fn refresh(&mut self, client: &Client) -> bool {
        let mut again = false;
        for (group, times) in std::mem::take(&mut self.stale) {
            match served(client, &group).await {
                Ok(mut kinds) => {
                    // What discovery still has of a definition that is gone is not served.
                    let is_gone = |plural: &str| {
                        self.is_custom(&group) && !self.defined.contains(&(plural.to_owned(), group.clone()))
                    };
                    kinds.retain(|kind| !is_gone(&kind.plural));
                    let is_late = self
                        .defined
                        .iter()
                        .any(|(plural, of)| *of == group && !kinds.iter().any(|kind| kind.plural == *plural));
                    self.groups.insert(group.clone(), kinds);
                    if is_late && times < LATEST {
                        self.stale.insert(group, times + 1);
                        again = true;
                    }
                }
                Err(error) => {
                    tracing::warn!(group, %error, "which kinds the cluster serves can't be told; asked again");
                    self.stale.insert(group, times);
                    again = true;
                }
            }
        }
        again
    }

    /// Whether the kinds of a group are CustomResourceDefinitions.
    fn is_custom(&self, group: &str) -> bool {
        self.defined.iter().any(|(_, of)| of == group)
    }
}

/// What can be listed and watched in a group.
async fn served(client: &Client, group: &str) -> Result<Vec<ApiResource>, kube::Error> {
    let group = match discovery::group(client, group).await {
        Ok(group) => group,
        Err(kube::Error::Discovery(_)) => return Ok(Vec::new()),
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let preferred = group.preferred_version_or_latest().to_owned();
    let mut versions: Vec<&str> = group.versions().filter(|version| *version != preferred).collect();
    versions.insert(0, &preferred);
    let mut kinds = Vec::new();
    for version in versions {
        let watched = group
            .versioned_resources(version)
            .into_iter()
            .filter(|(_, can)| [verbs::LIST, verbs::WATCH].iter().all(|verb| can.supports_operation(verb)));
        kinds.extend(watched.map(|(resource, _)| resource));
    }
    Ok(kinds)
}

#[cfg(test)]
mod tests {
    use kube::core::GroupVersionKind;

    use super::*;

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        catalog.wants(&["g.io"].into());
        catalog.is_defined("as.g.io");
        catalog.is_defined("bs.g.io");
        let kinds = ["A", "B"].map(|kind| ApiResource::from_gvk(&GroupVersionKind::gvk("g.io", "v1", kind)));
        catalog.groups.insert("g.io".to_owned(), kinds.to_vec());
        catalog.stale.clear();
        catalog
    }

    #[test]
    fn a_definition_that_is_gone_takes_its_kind_with_it_at_once() {
        let mut catalog = catalog();
        catalog.is_defined_no_more("as.g.io");
        assert_eq!(catalog.served("g.io").iter().map(|kind| kind.kind.as_str()).collect::<Vec<_>>(), ["B"]);
        assert!(catalog.stale.contains_key("g.io"));
        catalog.are_defined(&HashSet::new());
        assert!(catalog.served("g.io").is_empty());
    }

    #[test]
    fn only_groups_that_are_asked_for_are_looked_at() {
        let mut catalog = catalog();
        catalog.is_defined("xs.other.io");
        assert!(catalog.stale.is_empty());
        catalog.is_defined("cs.g.io");
        assert!(catalog.stale.contains_key("g.io"));
        catalog.wants(&["other.io"].into());
        assert_eq!((catalog.is_known("g.io"), catalog.stale.len()), (false, 1));
    }
}
