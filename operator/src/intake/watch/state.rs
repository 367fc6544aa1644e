//! What is told of the watches of each Source.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use quell_crds::conditions::{Reason, Status};
use tokio::sync::Notify;

/// Most kinds that a message names.
const NAMED: usize = 12;

/// How the watch of a kind goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The cluster doesn't serve it.
    NotServed,
    /// It is being listed.
    Begins,
    /// What is there was read, and what comes is.
    Watched,
    /// Quell may not.
    Forbidden(String),
    /// It fails for now.
    Fails(String),
}

/// The watches of every Source.
#[derive(Debug, Default)]
pub struct Watching {
    sources: Mutex<HashMap<String, BTreeMap<String, State>>>,
    /// Something changed in what there is to tell.
    pub changed: Arc<Notify>,
}

impl Watching {
    /// The kinds of a Source, those that are watched already as they are. Without any the Source is forgotten.
    pub fn wants(&self, source: &str, kinds: BTreeMap<String, State>) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sources.remove(source).unwrap_or_default();
        let kinds: BTreeMap<String, State> = kinds
            .into_iter()
            .map(|(kind, state)| {
                let known =
                    before.get(&kind).filter(|_| state == State::Begins).filter(|known| **known != State::NotServed);
                let state = known.cloned().unwrap_or(state);
                (kind, state)
            })
            .collect();
        let news = kinds != before;
        if !kinds.is_empty() {
            sources.insert(source.to_owned(), kinds);
        }
        drop(sources);
        if news {
            self.changed.notify_one();
        }
    }

    /// Sources that are spoken of.
    pub fn sources(&self) -> Vec<String> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// The watch of a kind goes that way now. The answer is whether that is news.
    pub fn is(&self, source: &str, kind: &str, state: State) -> bool {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = sources.get_mut(source).and_then(|kinds| kinds.get_mut(kind)) else { return false };
        // What is no longer served has nothing more to say.
        let is_news = *known != state && *known != State::NotServed;
        if is_news {
            *known = state;
            drop(sources);
            self.changed.notify_one();
        }
        is_news
    }

    /// The kinds of a Source that have been read; none before each that can be has, for until then nobody can tell what isn't reported any
    /// more: another kind may report it.
    pub fn read(&self, source: &str) -> Vec<String> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kinds) = sources.get(source) else { return Vec::new() };
        if kinds.values().any(|state| matches!(state, State::Begins | State::Fails(_))) {
            return Vec::new();
        }
        kinds.iter().filter(|(_, state)| **state == State::Watched).map(|(kind, _)| kind.clone()).collect()
    }

    /// Whether the Source does its work, and why; nothing before it is known what is served.
    pub fn judge(&self, source: &str) -> Option<(Status, Reason, String)> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        Some(judge(sources.get(source)?))
    }
}

fn judge(kinds: &BTreeMap<String, State>) -> (Status, Reason, String) {
    let those = |is: fn(&State) -> bool| {
        let all: Vec<&str> = kinds.iter().filter(|(_, state)| is(state)).map(|(kind, _)| kind.as_str()).collect();
        let more = all.len().saturating_sub(NAMED);
        let named = all[..all.len().min(NAMED)].join(", ");
        (!all.is_empty()).then(|| if more > 0 { format!("{named} and {more} more") } else { named })
    };
    let not_served = those(|state| *state == State::NotServed);
    let missing = not_served.as_ref().map(|names| format!("; not served by this cluster: {names}")).unwrap_or_default();
    if let Some((kind, State::Forbidden(why))) = kinds.iter().find(|(_, state)| matches!(state, State::Forbidden(_))) {
        let message = format!(
            "Quell may not watch {kind}: {why}. Give it a ClusterRole with get, list and watch, labelled quell.dev/aggregate-to-sources: \"true\""
        );
        return (Status::False, Reason::RightsMissing, message);
    }
    if let Some((kind, State::Fails(why))) = kinds.iter().find(|(_, state)| matches!(state, State::Fails(_))) {
        return (Status::Unknown, Reason::ApiUnavailable, format!("{kind} can't be watched for now: {why}{missing}"));
    }
    if let Some(names) = those(|state| *state == State::Begins) {
        return (Status::Unknown, Reason::Watching, format!("what is there of {names} is being read{missing}"));
    }
    match (those(|state| *state == State::Watched), not_served) {
        (Some(names), _) => (Status::True, Reason::Watching, format!("{names}: watched{missing}")),
        (None, names) => {
            let names = names.unwrap_or_default();
            let message =
                format!("not served by this cluster: {names}; is the tool installed? Watched as soon as it is");
            (Status::False, Reason::KindNotServed, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(all: &[(&str, State)]) -> BTreeMap<String, State> {
        all.iter().map(|(kind, state)| ((*kind).to_owned(), state.clone())).collect()
    }

    #[test]
    fn a_source_is_ready_once_it_watches_something_and_names_what_is_not_served() {
        for (all, status, reason, said) in [
            (
                kinds(&[("A", State::Watched), ("B", State::NotServed)]),
                Status::True,
                Reason::Watching,
                "A: watched; not served by this cluster: B",
            ),
            (kinds(&[("A", State::NotServed)]), Status::False, Reason::KindNotServed, "not served by this cluster: A"),
            (
                kinds(&[("A", State::Begins), ("B", State::Watched)]),
                Status::Unknown,
                Reason::Watching,
                "what is there of A",
            ),
            (
                kinds(&[("A", State::Forbidden("no".to_owned())), ("B", State::Watched)]),
                Status::False,
                Reason::RightsMissing,
                "Quell may not watch A: no.",
            ),
            (
                kinds(&[("A", State::Fails("late".to_owned()))]),
                Status::Unknown,
                Reason::ApiUnavailable,
                "A can't be watched for now: late",
            ),
        ] {
            let judged = judge(&all);
            assert_eq!((judged.0, judged.1), (status, reason), "{all:?}");
            assert!(judged.2.starts_with(said), "{}", judged.2);
        }
    }

    #[test]
    fn kinds_have_been_read_once_none_is_left_that_may_be() {
        let watching = Watching::default();
        let all = ["A", "B", "C", "D"].map(|kind| (kind, State::Begins));
        watching.wants("s", kinds(&all));
        for (kind, state) in
            [("A", State::Watched), ("B", State::Forbidden("no".to_owned())), ("C", State::Fails("late".to_owned()))]
        {
            assert!(watching.is("s", kind, state.clone()) && !watching.is("s", kind, state), "{kind}");
            assert_eq!(watching.read("s"), Vec::<String>::new(), "{kind}");
        }
        watching.is("s", "D", State::Watched);
        assert_eq!(watching.read("s"), Vec::<String>::new(), "what C reports isn't known");
        watching.is("s", "C", State::Watched);
        assert_eq!(watching.read("s"), ["A", "C", "D"]);
        assert_eq!(watching.read("other"), Vec::<String>::new());
    }

    #[test]
    fn what_is_watched_stays_so_while_the_kinds_are_looked_at_again() {
        let watching = Watching::default();
        watching.wants("s", kinds(&[("A", State::Begins)]));
        watching.is("s", "A", State::Watched);
        watching.wants("s", kinds(&[("A", State::Begins), ("B", State::NotServed)]));
        assert_eq!(watching.judge("s").map(|judged| judged.0), Some(Status::True));
        watching.wants("s", kinds(&[("A", State::NotServed), ("B", State::NotServed)]));
        watching.wants("s", kinds(&[("A", State::Begins), ("B", State::NotServed)]));
        assert_eq!(watching.judge("s").map(|judged| judged.0), Some(Status::Unknown), "it begins anew");
        watching.wants("s", BTreeMap::new());
        assert!(watching.judge("s").is_none() && watching.sources().is_empty());
    }
}
