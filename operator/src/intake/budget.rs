//! What one Source may ask of Quell, so that a noisy or hostile one holds up no other.

use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use quell_crds::v1alpha1::SourceLimits;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The limits of a Source, with the defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest body in bytes, unpacked.
    pub body: usize,
    /// Deepest nesting.
    pub depth: usize,
    /// Most bytes of headers.
    pub headers: usize,
    /// By when a request is answered.
    pub timeout: Duration,
    /// Requests a second, and how many at once.
    rate: Option<(u32, u32)>,
    /// Requests that are worked on at a time.
    concurrent: usize,
}

/// Trivy's report on a large image has a few MiB.
const BODY: usize = 16 << 20;
/// What the JSON parser takes.
pub const DEPTH: usize = 127;
/// Most bytes of headers, of any Source: they are read before it is known which Source is meant.
pub const HEADERS: usize = 16 << 10;
const TIMEOUT: Duration = Duration::from_secs(30);
const CONCURRENT: usize = 64;
/// How many of the largest bodies a Source may have in memory.
const BODIES: usize = 4;
/// Memory is counted in these.
const UNIT: usize = 1024;

impl Limits {
    /// What the Source says, and the defaults.
    #[must_use]
    pub fn of(spec: Option<&SourceLimits>) -> Self {
        let SourceLimits {
            max_body_bytes,
            max_depth,
            max_header_bytes,
            timeout,
            requests_per_second,
            burst,
            max_concurrent,
        } = spec.cloned().unwrap_or_default();
        // The schema bounds every number; what isn't one that fits counts as its default.
        let small = |given: Option<i32>| given.and_then(|given| u32::try_from(given).ok()).filter(|given| *given > 0);
        let size = |given: Option<i32>, default: usize| small(given).map_or(default, |given| given as usize);
        let rate = small(requests_per_second).map(|rate| (rate, small(burst).unwrap_or(rate)));
        Self {
            body: max_body_bytes.and_then(|given| usize::try_from(given).ok()).unwrap_or(BODY),
            depth: size(max_depth, DEPTH),
            headers: size(max_header_bytes, HEADERS),
            timeout: timeout.map_or(TIMEOUT, quell_crds::v1alpha1::Duration::get),
            rate,
            concurrent: size(max_concurrent, CONCURRENT),
        }
    }
}

/// What of its limits a Source has left.
#[derive(Debug)]
pub struct Budget {
    rate: Option<DefaultDirectRateLimiter>,
    turns: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    most: usize,
}

/// Held while a request is worked on.
#[derive(Debug)]
pub struct Turn {
    _turn: OwnedSemaphorePermit,
    _memory: OwnedSemaphorePermit,
}

impl Budget {
    /// Nothing of it is spent.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let rate = limits.rate.and_then(|(rate, burst)| {
            let quota = Quota::per_second(rate.try_into().ok()?);
            Some(RateLimiter::direct(quota.allow_burst(burst.try_into().ok()?)))
        });
        let most = limits.body.div_ceil(UNIT);
        Self {
            rate,
            turns: Arc::new(Semaphore::new(limits.concurrent)),
            memory: Arc::new(Semaphore::new(most * BODIES)),
            most,
        }
    }

    /// Counts one request of a sender that is let in; says after how long another one may come, where it is one too many.
    pub fn count(&self) -> Result<(), Duration> {
        let Some(rate) = &self.rate else { return Ok(()) };
        rate.check().map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }

    /// Waits for its turn, with room for a body of so many bytes; `None` for a body whose size isn't known before it was read.
    pub async fn turn(&self, bytes: Option<usize>) -> Option<Turn> {
        let units = bytes.map_or(self.most, |bytes| bytes.div_ceil(UNIT).clamp(1, self.most));
        let turn = self.turns.clone().acquire_owned().await.ok()?;
        let memory = self.memory.clone().acquire_many_owned(u32::try_from(units).ok()?).await.ok()?;
        Some(Turn { _turn: turn, _memory: memory })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn limits(spec: &SourceLimits) -> Limits {
        Limits::of(Some(spec))
    }

    #[test]
    fn as_many_requests_as_the_burst_are_taken_at_once_and_the_next_is_told_when_to_come() {
        let limits = limits(&SourceLimits { requests_per_second: Some(1), burst: Some(3), ..SourceLimits::default() });
        let budget = Budget::new(&limits);
        assert_eq!([(); 3].map(|()| budget.count()), [Ok(()); 3]);
        let wait = budget.count().unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
    }

    #[tokio::test]
    async fn bodies_of_unknown_size_are_no_more_than_the_memory_of_the_source_holds() {
        let budget = Budget::new(&Limits::of(None));
        let held = futures::future::join_all((0..BODIES).map(|_| budget.turn(None))).await;
        assert!(budget.turn(Some(1)).now_or_never().is_none(), "further ones wait");
        drop(held);
        assert!(budget.turn(Some(1)).await.is_some());
    }

    #[tokio::test]
    async fn no_more_requests_than_allowed_are_worked_on_at_a_time() {
        let budget = Budget::new(&limits(&SourceLimits { max_concurrent: Some(2), ..SourceLimits::default() }));
        let _held = (budget.turn(Some(1)).await, budget.turn(Some(1)).await);
        assert!(budget.turn(Some(1)).now_or_never().is_none());
    }
}
