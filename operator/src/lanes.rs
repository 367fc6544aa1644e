//! Containment before book-keeping: who may use the API server when there is more to do than it can take.
//!
//! No lane is a rate limit: work waits only while other work is in flight.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// As many requests as keep a small API server busy; more only make each slower, and open connections of their own.
const URGENT: usize = 48;
/// Book-keeping while nothing is urgent.
const QUIET: usize = 24;
/// Book-keeping that goes on under any pressure, so that records are late but never starve.
const ALWAYS: usize = 1;
/// How long nothing must have been urgent. In a storm the gaps between alerts are shorter, and records that began in each would be in the
/// way of the next.
const LULL: Duration = Duration::from_millis(20);

/// Steps other than containment: some wait for answers from outside, so they don't share book-keeping's permits.
const EFFECTS: usize = 64;

/// The lanes.
#[derive(Clone)]
pub struct Lanes {
    urgent: Arc<Semaphore>,
    effects: Arc<Semaphore>,
    quiet: Arc<Semaphore>,
    always: Arc<Semaphore>,
    pressure: Arc<watch::Sender<usize>>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            urgent: Arc::new(Semaphore::new(URGENT)),
            effects: Arc::new(Semaphore::new(EFFECTS)),
            quiet: Arc::new(Semaphore::new(QUIET)),
            always: Arc::new(Semaphore::new(ALWAYS)),
            pressure: Arc::new(watch::Sender::new(0)),
        }
    }
}

/// Held while a request of the lane is under way.
pub struct Pass {
    _permit: Option<OwnedSemaphorePermit>,
    _pressure: Option<Pressure>,
}

struct Pressure(Arc<watch::Sender<usize>>);

impl Pressure {
    fn new(sender: &Arc<watch::Sender<usize>>) -> Self {
        sender.send_if_modified(|waiting| {
            *waiting += 1;
            *waiting == 1
        });
        Self(sender.clone())
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        self.0.send_if_modified(|waiting| {
            *waiting -= 1;
            // Only the end of all pressure, and its beginning, is news to those who wait.
            *waiting == 0
        });
    }
}

impl Lanes {
    /// For a signal that is taken in, and for containment. Book-keeping makes room from the moment this is asked for.
    pub async fn urgent(&self) -> Pass {
        let pressure = Pressure::new(&self.pressure);
        let permit = self.urgent.clone().acquire_owned().await.ok();
        Pass { _permit: permit, _pressure: Some(pressure) }
    }

    /// For the effects of steps that don't contain.
    pub async fn effect(&self) -> Pass {
        Pass { _permit: self.effects.clone().acquire_owned().await.ok(), _pressure: None }
    }

    /// For records and everything else that can wait.
    pub async fn book_keeping(&self) -> Pass {
        let quiet = async {
            let permit = self.quiet.clone().acquire_owned().await.ok();
            let mut pressure = self.pressure.subscribe();
            loop {
                let _ = pressure.wait_for(|waiting| *waiting == 0).await;
                let urgent_again = pressure.wait_for(|waiting| *waiting > 0);
                if tokio::time::timeout(LULL, urgent_again).await.is_err() {
                    break permit;
                }
            }
        };
        let permit = tokio::select! {
            biased;
            permit = quiet => permit,
            permit = self.always.clone().acquire_owned() => permit.ok(),
        };
        Pass { _permit: permit, _pressure: None }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn book_keeping_makes_room_for_containment_but_does_not_starve() {
        let lanes = Lanes::default();
        let urgent = lanes.urgent().await;
        let held: Vec<Pass> = futures::future::join_all((0..ALWAYS).map(|_| lanes.book_keeping())).await;
        assert_eq!(held.len(), ALWAYS);
        let mut next = Box::pin(lanes.book_keeping());
        assert!(next.as_mut().now_or_never().is_none(), "more than the reserve must wait while something is urgent");
        drop(urgent);
        tokio::time::timeout(Duration::from_secs(10), next).await.expect("the end of the pressure lets it through");
    }

    #[tokio::test]
    async fn containment_never_waits_for_book_keeping() {
        let lanes = Lanes::default();
        let _held: Vec<Pass> = futures::future::join_all((0..QUIET).map(|_| lanes.book_keeping())).await;
        assert!(Box::pin(lanes.urgent()).now_or_never().is_some());
    }
}
