//! What is wrong with the API server, as Quell sees it: a share of the requests, chosen by a seed, meets one of these.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;

use crate::proxy::{After, Before, Refusal, Script, Stream};
use crate::requests::{Request, Verb};

/// Longer than Quell waits for anything.
const HANG: Duration = Duration::from_secs(12);

/// The troubles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// 409: somebody else was quicker, it says.
    Conflict,
    /// 429 with Retry-After.
    TooMany,
    /// 500, nothing done.
    Internal,
    /// 503, nothing done.
    Unavailable,
    /// 504, after the request took effect.
    TimeoutAfter,
    /// The connection ends before the API server has the request.
    CutBefore,
    /// The connection ends after the request took effect.
    CutAfter,
    /// No answer for as long as nobody waits; then 504, nothing done.
    Hang,
    /// It takes a second.
    Slow,
    /// A read is answered with what was so earlier.
    Stale,
    /// A watch comes a second late.
    SlowWatch,
    /// A watch is cut in the middle.
    CutWatch,
    /// A watch is told that its version is too old.
    GoneWatch,
}

const OF_REQUESTS: &[Trouble] = &[
    Trouble::Conflict,
    Trouble::TooMany,
    Trouble::Internal,
    Trouble::Unavailable,
    Trouble::TimeoutAfter,
    Trouble::CutBefore,
    Trouble::CutAfter,
    Trouble::Hang,
    Trouble::Slow,
    Trouble::Stale,
];
const OF_WATCHES: &[Trouble] = &[
    Trouble::TooMany,
    Trouble::Internal,
    Trouble::CutBefore,
    Trouble::SlowWatch,
    Trouble::CutWatch,
    Trouble::GoneWatch,
];

/// Makes trouble while it is on.
pub struct Troubles {
    on: AtomicBool,
    percent: u8,
    state: Mutex<State>,
}

struct State {
    random: fastrand::Rng,
    /// What was decided before a request was handed on, for when its answer comes.
    after: Vec<(u64, String, Trouble)>,
    counts: BTreeMap<Trouble, usize>,
    connections: u64,
}

impl Troubles {
    /// `percent` of the requests, chosen by `seed`.
    #[must_use]
    pub fn new(seed: u64, percent: u8) -> Self {
        let (random, after) = (fastrand::Rng::with_seed(seed), Vec::new());
        let state = State { random, after, counts: BTreeMap::new(), connections: 0 };
        Self { on: AtomicBool::new(false), percent, state: Mutex::new(state) }
    }

    /// Switches it on or off.
    pub fn switch(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// How often each was met.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Trouble, usize> {
        self.lock().counts.clone()
    }

    fn choose(&self, connection: u64, request: &Request) -> Option<Trouble> {
        let mut state = self.lock();
        if !self.on.load(Ordering::Relaxed) || state.random.u8(..100) >= self.percent {
            return None;
        }
        let among = if request.verb == Verb::Watch { OF_WATCHES } else { OF_REQUESTS };
        let trouble = *state.random.choice(among)?;
        // A create that conflicts is one of a name that is there: that would be a lie of another kind.
        let fits = match trouble {
            Trouble::Conflict => matches!(request.verb, Verb::Update | Verb::Patch | Verb::Delete),
            Trouble::Stale => !request.verb.is_write(),
            _ => true,
        };
        let trouble = if fits { trouble } else { Trouble::Internal };
        *state.counts.entry(trouble).or_default() += 1;
        if matches!(
            trouble,
            Trouble::TimeoutAfter | Trouble::CutAfter | Trouble::SlowWatch | Trouble::CutWatch | Trouble::GoneWatch
        ) {
            // One request at a time over a connection: what is left of an earlier one was never answered.
            state.after.retain(|(of, ..)| *of != connection);
            state.after.push((connection, request.path.clone(), trouble));
        }
        Some(trouble)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refusal(status: StatusCode, reason: &'static str, retry_after: Option<u32>) -> Refusal {
    Refusal { status, reason, retry_after }
}

impl Script for Troubles {
    fn connected(&self) -> u64 {
        let mut state = self.lock();
        state.connections += 1;
        state.connections
    }

    fn before(&self, connection: u64, request: &Request) -> Before {
        let answer = |status, reason, retry| Before::Answer(refusal(status, reason, retry), Duration::ZERO);
        match self.choose(connection, request) {
            Some(Trouble::Conflict) => answer(StatusCode::CONFLICT, "Conflict", None),
            Some(Trouble::TooMany) => answer(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", Some(1)),
            Some(Trouble::Internal) => answer(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", None),
            Some(Trouble::Unavailable) => answer(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", None),
            Some(Trouble::Hang) => Before::Answer(refusal(StatusCode::GATEWAY_TIMEOUT, "Timeout", None), HANG),
            Some(Trouble::CutBefore) => Before::Cut,
            Some(Trouble::Slow) => Before::Delay(Duration::from_secs(1)),
            Some(Trouble::Stale) => Before::Stale,
            _ => Before::Pass,
        }
    }

    fn after(&self, connection: u64, request: &Request, _status: StatusCode) -> After {
        let mut state = self.lock();
        let decided = state.after.iter().position(|(of, path, _)| (*of, path) == (connection, &request.path));
        let Some(decided) = decided.map(|index| state.after.swap_remove(index)) else { return After::Pass };
        match decided.2 {
            Trouble::TimeoutAfter => After::Answer(refusal(StatusCode::GATEWAY_TIMEOUT, "Timeout", None)),
            Trouble::CutAfter => After::Cut,
            Trouble::SlowWatch => After::Stream(Stream::Slow(Duration::from_secs(1))),
            Trouble::CutWatch => After::Stream(Stream::Cut(state.random.usize(0..20))),
            Trouble::GoneWatch => After::Stream(Stream::Gone(state.random.usize(0..20))),
            _ => After::Pass,
        }
    }
}
