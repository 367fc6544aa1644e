//! One store of a Finding at a time: others that report the same meanwhile wait for it, and are repeats.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::caches::FindingKey;

/// A Finding that was stored is in the caches by then; one that is in neither was deleted.
const SHOWN_BY: Duration = Duration::from_secs(2);
/// With more than so many, those that are over are forgotten.
const MANY: usize = 1024;

/// The Findings that are being stored, and those that were a moment ago.
#[derive(Clone, Debug, Default)]
pub struct Flights {
    open: Arc<Mutex<HashMap<FindingKey, Flight>>>,
}

#[derive(Debug)]
enum Flight {
    Underway(watch::Receiver<Option<FindingKey>>),
    Stored(FindingKey, Instant),
}

/// What one who wants to store a Finding does.
pub enum Turn {
    /// Stores it.
    Mine(Storing),
    /// It was stored a moment ago, in that namespace and by that name.
    Stored(FindingKey),
    /// Somebody stores it; see [`Others::end`].
    Theirs(Others),
}

/// Held by the one who stores. Dropped without [`Storing::done`], it is another one's turn.
pub struct Storing {
    flights: Flights,
    key: FindingKey,
    ended: watch::Sender<Option<FindingKey>>,
}

/// For those who wait.
pub struct Others(watch::Receiver<Option<FindingKey>>);

impl Flights {
    /// Whose turn it is to store the Finding of that namespace and name, which the caches don't have.
    pub fn turn(&self, key: FindingKey) -> Turn {
        let ended = watch::Sender::new(None);
        if let Ok(mut open) = self.open.lock() {
            if open.len() > MANY {
                open.retain(|_, flight| !flight.is_over());
            }
            match open.entry(key.clone()) {
                Entry::Occupied(mut there) => match there.get() {
                    Flight::Underway(end) => return Turn::Theirs(Others(end.clone())),
                    Flight::Stored(place, _) if !there.get().is_over() => return Turn::Stored(place.clone()),
                    Flight::Stored(..) => drop(there.insert(Flight::Underway(ended.subscribe()))),
                },
                Entry::Vacant(free) => drop(free.insert(Flight::Underway(ended.subscribe()))),
            }
        }
        Turn::Mine(Storing { flights: self.clone(), key, ended })
    }
}

impl Flight {
    fn is_over(&self) -> bool {
        matches!(self, Self::Stored(_, at) if at.elapsed() > SHOWN_BY)
    }
}

impl Storing {
    /// It is stored, in that namespace and by that name.
    pub fn done(self, place: FindingKey) {
        if let Ok(mut open) = self.flights.open.lock() {
            open.insert(self.key.clone(), Flight::Stored(place.clone(), Instant::now()));
        }
        self.ended.send_replace(Some(place));
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        if self.ended.borrow().is_none()
            && let Ok(mut open) = self.flights.open.lock()
        {
            open.remove(&self.key);
        }
    }
}

impl Others {
    /// Where it was stored; `None` where it was not.
    pub async fn end(mut self) -> Option<FindingKey> {
        let stored = self.0.wait_for(Option::is_some).await.ok()?;
        stored.clone()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn key() -> FindingKey {
        ("shop".to_owned(), "falco-1".to_owned())
    }

    #[tokio::test]
    async fn of_many_that_report_the_same_one_stores_and_the_others_are_told_where() {
        let flights = Flights::default();
        let Turn::Mine(storing) = flights.turn(key()) else { panic!("the first one stores") };
        let Turn::Theirs(others) = flights.turn(key()) else { panic!("the second one waits") };
        let mut end = Box::pin(others.end());
        assert!(end.as_mut().now_or_never().is_none());
        let place = ("quell".to_owned(), "falco-1".to_owned());
        storing.done(place.clone());
        assert_eq!(end.await, Some(place.clone()));
        assert!(matches!(flights.turn(key()), Turn::Stored(there) if there == place), "the caches may be behind");
    }

    #[tokio::test]
    async fn when_it_could_not_be_stored_it_is_the_turn_of_the_next() {
        let flights = Flights::default();
        let Turn::Mine(storing) = flights.turn(key()) else { panic!("the first one stores") };
        let Turn::Theirs(others) = flights.turn(key()) else { panic!("the second one waits") };
        drop(storing);
        assert_eq!(others.end().await, None);
        assert!(matches!(flights.turn(key()), Turn::Mine(_)));
    }
}
