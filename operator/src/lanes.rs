//! Containment before everything else: who may use the API server when there is more to do than it can take.
//!
//! Three ranks: what contains goes at once; the Findings of signals make room for it; records make room for both. No lane is a rate
//! limit: work waits only while work of a higher rank is under way, and never for ever.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// As many requests as keep a small API server busy; more only make each slower, and open connections of their own.
const URGENT: usize = 48;
/// Findings that are being stored.
const SIGNALS: usize = 48;
/// Of these, one Source may have so many, so that a storm of one never keeps the Finding of another waiting behind it.
const SHARE: usize = 40;
/// Sources whose share is kept though nothing of theirs is under way.
const SHARES: usize = 1024;
/// Book-keeping while nothing of a higher rank is under way.
const QUIET: usize = 24;
/// What goes on at a time, of each lower rank, once it has waited for its patience, so that nothing starves in a storm without end.
const ALWAYS: usize = 2;
/// How long the Finding of a signal makes room. Its sender waits for it.
const SIGNALS_PATIENCE: Duration = Duration::from_secs(3);
/// How long a record makes room.
const QUIET_PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing of a higher rank must have been under way before records go on. In a storm the gaps between alerts are shorter, and
/// records that began in each would be in the way of the next.
const LULL: Duration = Duration::from_millis(20);

/// Steps other than containment: some wait for answers from outside, so they don't share book-keeping's permits.
const EFFECTS: usize = 64;

/// The lanes.
#[derive(Clone)]
pub struct Lanes {
    urgent: Arc<Semaphore>,
    signals: Lower,
    shares: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    effects: Arc<Semaphore>,
    quiet: Lower,
    containing: Pressure,
    storing: Pressure,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            urgent: Arc::new(Semaphore::new(URGENT)),
            signals: Lower::new(SIGNALS),
            shares: Arc::default(),
            effects: Arc::new(Semaphore::new(EFFECTS)),
            quiet: Lower::new(QUIET),
            containing: Pressure::default(),
            storing: Pressure::default(),
        }
    }
}

/// Held while a request of the lane is under way.
pub struct Pass {
    _permit: Option<OwnedSemaphorePermit>,
    _share: Option<OwnedSemaphorePermit>,
    _claim: Option<Claim>,
}

/// Held from the moment that something urgent is known to come: what is less urgent makes room already.
pub struct Claim(Pressure);

/// A lane that makes room.
#[derive(Clone)]
struct Lower {
    at_once: Arc<Semaphore>,
    always: Arc<Semaphore>,
}

/// How much of a rank is under way or about to be.
#[derive(Clone)]
struct Pressure(Arc<watch::Sender<usize>>);

impl Default for Pressure {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Pressure {
    fn claim(&self) -> Claim {
        // Only the beginning of all pressure, and its end, is news to those who wait.
        self.0.send_if_modified(|claims| {
            *claims += 1;
            *claims == 1
        });
        Claim(self.clone())
    }

    /// Returns once there has been none for `lull`.
    async fn over(&self, lull: Duration) {
        let mut pressure = self.0.subscribe();
        loop {
            let _ = pressure.wait_for(|claims| *claims == 0).await;
            if lull.is_zero() {
                return;
            }
            if tokio::time::timeout(lull, pressure.wait_for(|claims| *claims > 0)).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.0.send_if_modified(|claims| {
            *claims -= 1;
            *claims == 0
        });
    }
}

impl Lower {
    fn new(at_once: usize) -> Self {
        Self { at_once: Arc::new(Semaphore::new(at_once)), always: Arc::new(Semaphore::new(ALWAYS)) }
    }

    async fn pass(&self, room: impl Future<Output = ()>, patience: Duration) -> Option<OwnedSemaphorePermit> {
        let ordinary = async {
            let permit = self.at_once.clone().acquire_owned().await.ok();
            room.await;
            permit
        };
        let patient = async {
            tokio::time::sleep(patience).await;
            self.always.clone().acquire_owned().await.ok()
        };
        tokio::select! {
            biased;
            permit = ordinary => permit,
            permit = patient => permit,
        }
    }
}

impl Lanes {
    /// Containment is about to be decided on: what is less urgent makes room from now on.
    #[must_use]
    pub fn claim(&self) -> Claim {
        self.containing.claim()
    }

    /// For containment.
    pub async fn urgent(&self) -> Pass {
        let claim = self.claim();
        Pass { _permit: self.urgent.clone().acquire_owned().await.ok(), _share: None, _claim: Some(claim) }
    }

    /// For the Finding of a signal of that Source, which makes room for containment. Book-keeping makes room from the moment this is asked for.
    pub async fn signal(&self, source: &str) -> Pass {
        let claim = self.storing.claim();
        let share = match self.share(source) {
            Some(share) => share.acquire_owned().await.ok(),
            None => None,
        };
        let permit = self.signals.pass(self.containing.over(Duration::ZERO), SIGNALS_PATIENCE).await;
        Pass { _permit: permit, _share: share, _claim: Some(claim) }
    }

    fn share(&self, source: &str) -> Option<Arc<Semaphore>> {
        let mut shares = self.shares.lock().ok()?;
        if shares.len() >= SHARES {
            shares.retain(|_, share| share.available_permits() < SHARE);
        }
        if let Some(share) = shares.get(source) {
            return Some(share.clone());
        }
        Some(shares.entry(source.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(SHARE))).clone())
    }

    /// For the effects of steps that don't contain.
    pub async fn effect(&self) -> Pass {
        Pass { _permit: self.effects.clone().acquire_owned().await.ok(), _share: None, _claim: None }
    }

    /// For records and everything else that can wait.
    pub async fn book_keeping(&self) -> Pass {
        let room = async {
            loop {
                self.containing.over(LULL).await;
                self.storing.over(LULL).await;
                if *self.containing.0.borrow() == 0 {
                    return;
                }
            }
        };
        Pass { _permit: self.quiet.pass(room, QUIET_PATIENCE).await, _share: None, _claim: None }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn book_keeping_makes_room_for_containment_but_does_not_starve() {
        let lanes = Lanes::default();
        let _urgent = lanes.urgent().await;
        let mut next = Box::pin(lanes.book_keeping());
        assert!(next.as_mut().now_or_never().is_none(), "while something is urgent, a record waits");
        let began = tokio::time::Instant::now();
        let _first = next.await;
        assert!(began.elapsed() >= QUIET_PATIENCE, "and goes on when its patience ends");
    }

    #[tokio::test(start_paused = true)]
    async fn records_go_on_when_the_pressure_ends() {
        let lanes = Lanes::default();
        let urgent = lanes.urgent().await;
        let mut next = Box::pin(lanes.book_keeping());
        assert!(next.as_mut().now_or_never().is_none());
        drop(urgent);
        let began = tokio::time::Instant::now();
        let _pass = next.await;
        assert!(began.elapsed() < QUIET_PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_finding_waits_for_containment_that_was_only_claimed() {
        let lanes = Lanes::default();
        let claim = lanes.claim();
        let mut finding = Box::pin(lanes.signal("falco"));
        assert!(finding.as_mut().now_or_never().is_none());
        drop(claim);
        tokio::time::timeout(SIGNALS_PATIENCE / 2, finding).await.expect("the end of the claim lets it through");
    }

    #[tokio::test(start_paused = true)]
    async fn records_wait_for_findings_that_are_being_stored() {
        let lanes = Lanes::default();
        let finding = lanes.signal("falco").await;
        let mut record = Box::pin(lanes.book_keeping());
        assert!(record.as_mut().now_or_never().is_none());
        drop(finding);
        tokio::time::timeout(SOON, record).await.expect("then they go on");
    }

    #[tokio::test]
    async fn a_storm_of_one_source_does_not_keep_the_finding_of_another_waiting() {
        let lanes = Lanes::default();
        let _stored = futures::future::join_all((0..SHARE).map(|_| lanes.signal("noisy"))).await;
        let mut waiting: Vec<_> = (0..1000).map(|_| Box::pin(lanes.signal("noisy"))).collect();
        assert!(waiting.iter_mut().all(|one| one.as_mut().now_or_never().is_none()));
        assert!(Box::pin(lanes.signal("other")).now_or_never().is_some());
    }

    #[tokio::test]
    async fn containment_never_waits_for_what_is_less_urgent() {
        let lanes = Lanes::default();
        let _records: Vec<Pass> = futures::future::join_all((0..QUIET).map(|_| lanes.book_keeping())).await;
        let _findings: Vec<Pass> = futures::future::join_all(
            (0..SIGNALS).map(|one| lanes.signal(if one < SHARE { "falco" } else { "trivy" })),
        )
        .await;
        assert!(Box::pin(lanes.urgent()).now_or_never().is_some());
    }
}
