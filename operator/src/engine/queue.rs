//! Which objects are looked at: fed by what changes, each object by one pass at a time.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kube::Resource;
use kube::runtime::controller::{Action, Config, ReconcileReason, ReconcileRequest};
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, EngineError};

/// The first wait after a pass that failed; doubled for each further failure of the same object.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Gives objects named by `queue` to `pass`, many at once, never the same one twice at a time, until `end`.
pub async fn drive<K, Pass, Fut>(
    engine: Arc<Engine>,
    store: Store<K>,
    queue: UnboundedReceiver<ObjectRef<K>>,
    end: CancellationToken,
    pass: Pass,
) where
    K: Resource<DynamicType: Default + std::fmt::Debug + Eq + Hash + Clone + Unpin + Send + Sync>
        + Clone
        + Send
        + Sync
        + 'static,
    Pass: Fn(Arc<Engine>, Arc<K>) -> Fut + Copy + Send + 'static,
    Fut: Future<Output = Result<Action, EngineError>> + Send + 'static,
{
    let failures: Arc<Mutex<HashMap<ObjectRef<K>, u32>>> = Arc::default();
    let count = failures.clone();
    let reconcile = move |object: Arc<K>, engine: Arc<Engine>| {
        let failures = failures.clone();
        Box::pin(async move {
            let key = ObjectRef::from_obj(&*object);
            // A task of its own: passes use all cores, and one that breaks off doesn't take the others with it.
            let action = tokio::spawn(pass(engine, object)).await??;
            if let Ok(mut failures) = failures.lock() {
                failures.remove(&key);
            }
            Ok::<_, EngineError>(action)
        })
    };
    let backoff = move |object: Arc<K>, error: &EngineError, _: Arc<Engine>| {
        let key = ObjectRef::from_obj(&*object);
        let failed = count.lock().map_or(1, |mut failures| {
            let failed = failures.entry(key.clone()).or_default();
            *failed += 1;
            *failed
        });
        let wait = FIRST_BACKOFF.saturating_mul(1 << failed.min(10)).min(LONGEST_BACKOFF);
        tracing::warn!(object = %key, %error, again_in = ?wait, "a pass failed");
        Action::requeue(wait)
    };
    kube::runtime::applier(reconcile, backoff, engine, store, requests(queue, end), Config::default())
        .for_each(|_| async {})
        .await;
}

fn requests<K: Resource<DynamicType: Default>>(
    queue: UnboundedReceiver<ObjectRef<K>>,
    end: CancellationToken,
) -> impl Stream<Item = Result<ReconcileRequest<K>, Infallible>> {
    futures::stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|next| (next, queue)) })
        .take_until(end.cancelled_owned())
        .map(|object| Ok(ReconcileRequest { obj_ref: object, reason: ReconcileReason::ObjectUpdated }))
}
