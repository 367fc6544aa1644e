//! Which objects have something in common: kept as they change, so that nothing is searched for.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

/// Namespace and name of an object.
pub type Key = (String, String);

/// A number for what objects have in common: what kind of thing that is, and its parts. Two things may share a number, so what is found by it
/// is compared.
pub fn number(kind: &str, parts: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (kind, parts).hash(&mut hasher);
    hasher.finish()
}

/// Objects by numbers.
#[derive(Default)]
pub struct Lookup {
    at: HashMap<u64, Few>,
    of: HashMap<Arc<Key>, Box<[u64]>>,
}

/// Nearly always one: an address has one pod.
enum Few {
    One(Arc<Key>),
    Many(BTreeSet<Arc<Key>>),
}

impl Lookup {
    /// Takes an object up, or has it found by other numbers than before.
    pub fn put(&mut self, key: Key, numbers: BTreeSet<u64>) {
        let key = self.of.get_key_value(&key).map_or_else(|| Arc::new(key), |(known, _)| known.clone());
        let before = self.of.insert(key.clone(), numbers.iter().copied().collect()).unwrap_or_default();
        for number in before.iter().filter(|number| !numbers.contains(number)) {
            self.forget(*number, &key);
        }
        for number in numbers.into_iter().filter(|number| !before.contains(number)) {
            match self.at.remove(&number) {
                None => self.at.insert(number, Few::One(key.clone())),
                Some(Few::One(other)) => self.at.insert(number, Few::Many([other, key.clone()].into())),
                Some(Few::Many(mut all)) => {
                    all.insert(key.clone());
                    self.at.insert(number, Few::Many(all))
                }
            };
        }
    }

    /// Forgets an object.
    pub fn remove(&mut self, key: &Key) {
        let Some((key, numbers)) = self.of.remove_entry(key) else { return };
        for number in numbers {
            self.forget(number, &key);
        }
    }

    fn forget(&mut self, number: u64, key: &Arc<Key>) {
        let empty = match self.at.get_mut(&number) {
            Some(Few::One(one)) => one == key,
            Some(Few::Many(all)) => {
                all.remove(key);
                all.is_empty()
            }
            None => false,
        };
        if empty {
            self.at.remove(&number);
        }
    }

    /// Objects that have the number, in order.
    pub fn get(&self, number: u64) -> Vec<Arc<Key>> {
        match self.at.get(&number) {
            None => Vec::new(),
            Some(Few::One(one)) => vec![one.clone()],
            Some(Few::Many(all)) => all.iter().cloned().collect(),
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.at.is_empty() && self.of.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(lookup: &Lookup, of: u64) -> Vec<String> {
        lookup.get(of).iter().map(|key| key.1.clone()).collect()
    }

    #[test]
    fn objects_are_found_by_what_they_have_now_and_no_longer_by_what_they_had() {
        let mut lookup = Lookup::default();
        let key = |name: &str| ("shop".to_owned(), name.to_owned());
        for name in ["one", "other", "third"] {
            lookup.put(key(name), [1, 2].into());
        }
        assert_eq!(names(&lookup, 1), ["one", "other", "third"]);
        lookup.put(key("one"), [2, 3].into());
        assert_eq!(
            (names(&lookup, 1), names(&lookup, 3)),
            (vec!["other".to_owned(), "third".to_owned()], vec!["one".to_owned()])
        );
        for name in ["one", "other", "third", "never there"] {
            lookup.remove(&key(name));
        }
        assert!(lookup.is_empty(), "nothing is left of what is gone");
    }

    #[test]
    fn a_number_is_of_a_kind_of_thing() {
        assert_ne!(number("address", &["10.0.0.1"]), number("name", &["10.0.0.1"]));
        assert_ne!(number("object", &["a", "bc"]), number("object", &["ab", "c"]));
    }
}
