//! Who reports what: which watched objects each Finding of a Source comes from, so that it is over when none of them lists it any more.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::caches::FindingKey;

/// A watched object: its kind, namespace and name, as a Finding's annotation has it.
pub type Reporter = String;

/// The ledger of a Source, which all its kinds share.
#[derive(Debug, Default)]
pub struct Book {
    ledger: Mutex<Ledger>,
    /// Held by whoever reads an object until it is in the ledger.
    reading: RwLock<()>,
    /// What is left over is to be ended, once nobody reads an object.
    owed: AtomicBool,
}

impl Book {
    /// The ledger.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while an object is read: what it reports is stored before the ledger has it, and isn't left over.
    pub async fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.reading.read().await
    }

    /// What is left over is to be ended.
    pub fn owes(&self) {
        self.owed.store(true, Ordering::SeqCst);
    }

    /// Held by the one who ends what is left over, while no object is read. Where one is, it is left to whoever reads that.
    pub fn settling(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        let owed = self.owed.load(Ordering::SeqCst);
        let alone = owed.then(|| self.reading.try_write().ok()).flatten()?;
        self.owed.store(false, Ordering::SeqCst);
        Some(alone)
    }
}

/// What the objects of one Source report.
#[derive(Debug, Default)]
pub struct Ledger {
    by_object: HashMap<Reporter, Vec<FindingKey>>,
    reporters: HashMap<FindingKey, usize>,
    /// Objects of which nobody knows what they report.
    unread: HashSet<Reporter>,
}

impl Ledger {
    /// An object reports these, and no others any more. The answer is what nobody reports since.
    pub fn reports(&mut self, object: &str, findings: Vec<FindingKey>) -> Vec<FindingKey> {
        self.unread.remove(object);
        let findings: Vec<FindingKey> = findings.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        for finding in &findings {
            *self.reporters.entry(finding.clone()).or_default() += 1;
        }
        let before = if findings.is_empty() {
            self.by_object.remove(object)
        } else {
            self.by_object.insert(object.to_owned(), findings)
        };
        before.into_iter().flatten().filter(|finding| self.withdraw(finding)).collect()
    }

    /// An object is gone. The answer is what nobody reports since.
    pub fn is_gone(&mut self, object: &str) -> Vec<FindingKey> {
        self.reports(object, Vec::new())
    }

    /// An object can't be read: what it reported before counts, and nobody knows what it reports now.
    pub fn is_unread(&mut self, object: &str) {
        self.unread.insert(object.to_owned());
    }

    /// Whether it is known what an object reports, be it nothing, for it isn't there.
    pub fn is_known(&self, object: &str) -> bool {
        !self.unread.contains(object)
    }

    /// Of a kind these are all objects that there are.
    pub fn are_all(&mut self, kind: &str, listed: &HashSet<Reporter>) {
        self.unread.retain(|object| !is_of(object, kind) || listed.contains(object));
    }

    /// The objects of a kind that report something and aren't in the list.
    pub fn missing(&self, kind: &str, listed: &HashSet<Reporter>) -> Vec<Reporter> {
        self.by_object.keys().filter(|object| is_of(object, kind) && !listed.contains(*object)).cloned().collect()
    }

    /// Whether an object reports the Finding.
    pub fn is_reported(&self, finding: &FindingKey) -> bool {
        self.reporters.contains_key(finding)
    }

    /// Whether that was the last one that reported it.
    fn withdraw(&mut self, finding: &FindingKey) -> bool {
        let Some(number) = self.reporters.get_mut(finding) else { return false };
        *number -= 1;
        if *number > 0 {
            return false;
        }
        self.reporters.remove(finding);
        true
    }
}

/// How a Finding names the object that it comes from: `Kind.group/namespace/name`, or `Kind.group//name`.
pub fn reporter(kind: &str, namespace: Option<&str>, name: &str) -> Reporter {
    format!("{kind}/{}/{name}", namespace.unwrap_or_default())
}

/// Whether an object is of that kind.
pub fn is_of(object: &str, kind: &str) -> bool {
    object.strip_prefix(kind).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(names: &[&str]) -> Vec<FindingKey> {
        names.iter().map(|name| ("shop".to_owned(), (*name).to_owned())).collect()
    }

    #[test]
    fn what_a_new_version_no_longer_lists_is_over() {
        let mut ledger = Ledger::default();
        assert!(ledger.reports("R.g/shop/a", findings(&["x", "y", "x"])).is_empty());
        assert_eq!(ledger.reports("R.g/shop/a", findings(&["y", "z"])), findings(&["x"]));
        assert!(ledger.reports("R.g/shop/a", findings(&["z", "y"])).is_empty());
        assert_eq!(ledger.is_gone("R.g/shop/a"), findings(&["y", "z"]));
        assert!(ledger.is_gone("R.g/shop/a").is_empty());
        assert!(ledger.by_object.is_empty() && ledger.reporters.is_empty(), "nothing of it is kept");
    }

    #[test]
    fn what_another_object_still_reports_is_not_over() {
        let mut ledger = Ledger::default();
        ledger.reports("R.g/shop/a", findings(&["x"]));
        ledger.reports("R.g/shop/b", findings(&["x", "y"]));
        assert!(ledger.is_gone("R.g/shop/a").is_empty());
        assert!(ledger.is_reported(&findings(&["x"])[0]));
        assert_eq!(ledger.is_gone("R.g/shop/b"), findings(&["x", "y"]));
    }

    #[tokio::test]
    async fn what_is_left_over_is_ended_by_one_while_no_object_is_read() {
        let book = Book::default();
        assert!(book.settling().is_none(), "nothing is owed");
        let reading = book.reading().await;
        book.owes();
        assert!(book.settling().is_none(), "it is left to the reader");
        drop(reading);
        let settling = book.settling().expect("nobody reads");
        assert!(book.settling().is_none(), "it is being done");
        drop(settling);
        assert!(book.settling().is_none(), "it is done");
    }

    #[test]
    fn an_object_that_can_not_be_read_is_unknown_until_it_is_read_or_gone() {
        let mut ledger = Ledger::default();
        ledger.reports("R.g/shop/a", findings(&["x"]));
        for object in ["R.g/shop/a", "R.g/shop/b", "S.g/shop/a"] {
            ledger.is_unread(object);
        }
        assert!(ledger.is_reported(&findings(&["x"])[0]), "as it was before");
        ledger.reports("R.g/shop/a", Vec::new());
        ledger.are_all("R.g", &["R.g/shop/a".to_owned()].into());
        let known = ["R.g/shop/a", "R.g/shop/b", "S.g/shop/a"].map(|object| ledger.is_known(object));
        assert_eq!(known, [true, true, false]);
    }

    #[test]
    fn objects_that_a_list_no_longer_has_are_missing_each_in_its_kind() {
        let mut ledger = Ledger::default();
        for object in ["R.g/shop/a", "R.g/shop/b", "Rx.g/shop/a", "R.g//c"] {
            ledger.reports(object, findings(&[object]));
        }
        let mut missing = ledger.missing("R.g", &["R.g/shop/b".to_owned()].into());
        missing.sort();
        assert_eq!(missing, ["R.g//c", "R.g/shop/a"]);
    }
}
