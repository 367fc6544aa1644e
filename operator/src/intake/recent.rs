//! What this process stored just now.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::caches::FindingKey;

/// A copy is behind by milliseconds, or by as long as its watch is being opened anew. What is stored meanwhile should fit.
const MOST: usize = 4096;

/// Findings that were stored lately: a copy that doesn't have one of them is behind, and says nothing of whether it is there.
#[derive(Default)]
pub struct Recent {
    stored: Mutex<Stored>,
}

#[derive(Default)]
struct Stored {
    order: VecDeque<FindingKey>,
    all: HashSet<FindingKey>,
}

impl Recent {
    /// Remembers a Finding, and forgets the one that was stored longest ago where there are too many.
    pub fn remember(&self, key: FindingKey) {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if !stored.all.insert(key.clone()) {
            return;
        }
        stored.order.push_back(key);
        if stored.order.len() > MOST
            && let Some(oldest) = stored.order.pop_front()
        {
            stored.all.remove(&oldest);
        }
    }

    /// Whether the Finding was stored lately.
    pub fn contains(&self, key: &FindingKey) -> bool {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).all.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_known_and_no_more_than_fit() {
        let key = |number: usize| ("shop".to_owned(), format!("falco-{number}"));
        let recent = Recent::default();
        for number in (0..=MOST).chain([MOST]) {
            recent.remember(key(number));
        }
        assert!(!recent.contains(&key(0)) && recent.contains(&key(1)) && recent.contains(&key(MOST)));
        let stored = recent.stored.lock().unwrap();
        assert_eq!((stored.order.len(), stored.all.len()), (MOST, MOST));
    }
}
