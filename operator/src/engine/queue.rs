//! Which objects are looked at: fed by what changes, each object by one pass at a time.
//!
//! kube's `applier` does the same, but sends every object through a timer that is exact to a millisecond, which is a fifth of the whole
//! way from an alert to containment. Here a pass begins at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::Resource;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{self, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue;

use crate::engine::{Engine, EngineError};

/// The first wait after a pass that failed; doubled for each further failure of the same object.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Where it is said that an object should be looked at. While nobody looks, which is on a replica that doesn't lead, what is said is
/// dropped: whoever begins to lead looks at everything.
pub struct Queue<K: Resource> {
    sender: UnboundedSender<ObjectRef<K>>,
    open: Arc<AtomicBool>,
}

impl<K: Resource> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), open: self.open.clone() }
    }
}

impl<K: Resource> Queue<K> {
    /// A queue that nobody looks at yet, and what is to be driven from it.
    #[must_use]
    pub fn new() -> (Self, UnboundedReceiver<ObjectRef<K>>) {
        let (sender, receiver) = unbounded_channel();
        (Self { sender, open: Arc::default() }, receiver)
    }

    /// From now on what is said is kept.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// The object should be looked at.
    pub fn send(&self, object: ObjectRef<K>) {
        if self.open.load(Ordering::Acquire) {
            // Nobody is left to look only when the process ends.
            let _ = self.sender.send(object);
        }
    }
}

/// What is known of one object that is looked at, or will be.
#[derive(Default)]
struct Turn {
    /// A pass is under way.
    running: bool,
    /// It has changed since that pass began.
    again: bool,
    /// Passes that failed, one after the other.
    failures: u32,
    /// When it will be looked at if nothing changes.
    timer: Option<delay_queue::Key>,
}

/// Gives objects named by `queue` to `pass`, many at once, never the same one twice at a time, until `end`; then waits for the passes that
/// are under way.
pub async fn drive<K, Pass, Fut>(
    engine: Arc<Engine>,
    store: Store<K>,
    mut queue: UnboundedReceiver<ObjectRef<K>>,
    end: CancellationToken,
    pass: Pass,
) where
    K: Resource<DynamicType: Default + std::fmt::Debug + Eq + Hash + Clone + Send + Sync>
        + Clone
        + Send
        + Sync
        + 'static,
    Pass: Fn(Arc<Engine>, Arc<K>) -> Fut + Copy + Send + 'static,
    Fut: Future<Output = Result<Look, EngineError>> + Send + 'static,
{
    let mut turns: HashMap<ObjectRef<K>, Turn> = HashMap::new();
    let mut timers: DelayQueue<ObjectRef<K>> = DelayQueue::new();
    let mut passes = JoinSet::new();
    let mut objects: HashMap<task::Id, ObjectRef<K>> = HashMap::new();
    loop {
        let due = tokio::select! {
            Some(object) = queue.recv() => object,
            Some(expired) = std::future::poll_fn(|cx| timers.poll_expired(cx)), if !timers.is_empty() => {
                let object = expired.into_inner();
                if let Some(turn) = turns.get_mut(&object) {
                    turn.timer = None;
                }
                object
            }
            Some(ended) = passes.join_next_with_id(), if !passes.is_empty() => {
                let (task, result) = match ended {
                    Ok((task, result)) => (task, result),
                    // One that breaks off is a failed pass of its object, and no more.
                    Err(error) => (error.id(), Err(EngineError::BrokeOff(error))),
                };
                let Some(object) = objects.remove(&task) else { continue };
                match after(&object, result, turns.entry(object.clone()).or_default()) {
                    Next::Now => object,
                    Next::Later(Look::In(wait)) => {
                        let turn = turns.entry(object.clone()).or_default();
                        turn.timer = Some(timers.insert_at(object, Instant::now() + wait));
                        continue;
                    }
                    Next::Later(Look::OnChange) => {
                        turns.remove(&object);
                        continue;
                    }
                }
            }
            () = end.cancelled() => break,
        };
        let turn = turns.entry(due.clone()).or_default();
        if turn.running {
            turn.again = true;
            continue;
        }
        if let Some(timer) = turn.timer.take() {
            timers.remove(&timer);
        }
        let Some(object) = store.get(&due) else {
            turns.remove(&due);
            continue;
        };
        turn.running = true;
        let engine = engine.clone();
        objects.insert(passes.spawn(pass(engine, object)).id(), due);
    }
    while passes.join_next().await.is_some() {}
}

/// When an object wants to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// When it changes.
    OnChange,
    /// After this time, or when it changes.
    In(Duration),
}

enum Next {
    Now,
    Later(Look),
}

fn after<K>(object: &ObjectRef<K>, result: Result<Look, EngineError>, turn: &mut Turn) -> Next
where
    K: Resource<DynamicType: std::fmt::Debug>,
{
    turn.running = false;
    let changed = std::mem::take(&mut turn.again);
    match result {
        Ok(look) => {
            turn.failures = 0;
            if changed { Next::Now } else { Next::Later(look) }
        }
        Err(error) => {
            let wait = FIRST_BACKOFF.saturating_mul(1 << turn.failures.min(10)).min(LONGEST_BACKOFF);
            turn.failures += 1;
            tracing::warn!(kind = %object.name, namespace = ?object.namespace, %error, again_in = ?wait, "a pass failed");
            Next::Later(Look::In(wait))
        }
    }
}
