//! What kills Quell at a boundary: it stands in the proxy and in the receivers, and counts what passes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use tokio::sync::watch;

use super::boundary::{Boundary, Point, Side};
use super::names::timeless;
use crate::proxy::{After, Before, Script};
use crate::requests::Request;

/// Kills the process that runs now, and returns when it is dead.
pub type Kill = Box<dyn Fn() + Send + Sync>;

/// Stands between Quell and everything that it asks.
pub struct Trap {
    state: Mutex<State>,
    deaths: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    /// The process that runs now, by number. What an earlier one still had under way is not handed on.
    process: u64,
    dead: bool,
    kill: Option<Kill>,
    count: Option<Count>,
}

/// The counting of one run of a scenario.
struct Count {
    namespace: String,
    boundary: Option<Boundary>,
    sent: HashMap<String, usize>,
    answered: HashMap<String, usize>,
    passed: Vec<Point>,
}

/// Whether Quell lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It does.
    Goes,
    /// It is dead: what it asked for is not done, what it was told doesn't reach it.
    Ended,
}

impl Default for Trap {
    fn default() -> Self {
        Self { state: Mutex::default(), deaths: watch::Sender::new(0) }
    }
}

impl Trap {
    /// Another process runs from now on.
    pub fn process_begins(&self) {
        let mut state = self.lock();
        state.process += 1;
        state.dead = false;
        state.kill = None;
    }

    /// How the process that runs now is killed.
    pub fn killed_by(&self, kill: Kill) {
        self.lock().kill = Some(kill);
    }

    /// Begins to count the requests about `namespace`, and kills at `boundary`.
    pub fn arm(&self, namespace: &str, boundary: Option<Boundary>) {
        let (sent, answered, passed) = (HashMap::new(), HashMap::new(), Vec::new());
        self.lock().count = Some(Count { namespace: namespace.to_owned(), boundary, sent, answered, passed });
    }

    /// Ends the counting. The answer is what has passed, in its order.
    pub fn disarm(&self) -> Vec<Point> {
        self.lock().count.take().map(|count| count.passed).unwrap_or_default()
    }

    /// Tells of deaths by their number.
    pub fn deaths(&self) -> watch::Receiver<usize> {
        self.deaths.subscribe()
    }

    /// Kills the process now, as a boundary does.
    pub fn strike(&self) {
        self.die(&mut self.lock());
    }

    /// A request comes, to the API server or a receiver.
    pub fn comes(&self, what: &str) -> Life {
        self.passes(what, Side::Before)
    }

    /// It took effect, and its answer is about to go.
    pub fn goes(&self, what: &str) -> Life {
        self.passes(what, Side::After)
    }

    fn passes(&self, what: &str, side: Side) -> Life {
        let mut state = self.lock();
        if state.dead {
            return Life::Ended;
        }
        let Some(count) = &mut state.count else { return Life::Goes };
        let what = timeless(&count.namespace, what);
        let counted = match side {
            Side::Before => &mut count.sent,
            Side::After => &mut count.answered,
        };
        let occurrence = counted.entry(what.clone()).or_default();
        *occurrence += 1;
        let point = Point { what, occurrence: *occurrence };
        if side == Side::Before {
            count.passed.push(point.clone());
        }
        if count.boundary.as_ref().is_none_or(|boundary| (&boundary.point, boundary.side) != (&point, side)) {
            return Life::Goes;
        }
        count.boundary = None;
        self.die(&mut state);
        Life::Ended
    }

    fn die(&self, state: &mut State) {
        state.dead = true;
        if let Some(kill) = state.kill.take() {
            kill();
        }
        self.deaths.send_modify(|deaths| *deaths += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renewals of the Lease come by the clock, and say nothing of a scenario.
fn counts(request: &Request) -> bool {
    request.resource != "leases"
}

fn told(request: &Request) -> String {
    let watches = if request.query.contains("watch=true") { " watch" } else { "" };
    format!("{} {}{watches}", request.method, request.path)
}

impl Script for Trap {
    fn connected(&self) -> u64 {
        self.lock().process
    }

    fn before(&self, connection: u64, request: &Request) -> Before {
        if self.lock().process != connection {
            return Before::Cut;
        }
        let life = if counts(request) { self.comes(&told(request)) } else { Life::Goes };
        if life == Life::Ended { Before::Cut } else { Before::Pass }
    }

    fn after(&self, connection: u64, request: &Request, _status: StatusCode) -> After {
        if self.lock().process != connection {
            return After::Cut;
        }
        let life = if counts(request) { self.goes(&told(request)) } else { Life::Goes };
        if life == Life::Ended { After::Cut } else { After::Pass }
    }
}
