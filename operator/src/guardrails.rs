//! The Guardrails, as they are now: a watch that says when it can't tell.
//!
//! A copy that may be old is as good as none here: whoever turns the stop switch expects the next effect not to be made. So a watch that was
//! interrupted counts as unreadable until the whole list was read anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt as _;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt as _};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::Guardrail;
use quell_playbooks::guardrails::{Guardrails, Hold, compile};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The first wait before the watch is opened anew; doubled for each further failure.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// A list that says nothing for so long is asked for anew: as long as it isn't there, nothing is done.
const LONGEST_SILENCE: Duration = Duration::from_secs(2);

/// What is known of the Guardrails.
pub struct Known {
    /// What they say.
    pub guardrails: Guardrails,
    /// Why nobody can tell what they say now.
    unknown: Option<String>,
}

impl Known {
    /// What holds everything, if something does.
    #[must_use]
    pub fn standstill(&self) -> Option<Hold> {
        let unknown = self.unknown.as_ref().map(|why| Hold {
            guardrail: String::new(),
            reason: Reason::GuardrailUnreadable,
            message: format!("the Guardrails can't be read now, so nothing may be done until they can: {why}"),
            until: None,
        });
        unknown.or_else(|| self.guardrails.standstill())
    }

    /// Whether they were read, and none was changed since.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.unknown.is_none()
    }
}

/// The Guardrails, kept by [`follow`].
pub struct Watched {
    known: ArcSwap<Known>,
    objects: Mutex<BTreeMap<String, DeserializeGuard<Guardrail>>>,
    changed: watch::Sender<()>,
}

impl Default for Watched {
    fn default() -> Self {
        let unknown = Some("they were not read yet".to_owned());
        Self {
            known: ArcSwap::from_pointee(Known { guardrails: Guardrails::default(), unknown }),
            objects: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Watched {
    /// As they are now.
    #[must_use]
    pub fn known(&self) -> Arc<Known> {
        self.known.load_full()
    }

    /// Each, as it was read.
    #[must_use]
    pub fn objects(&self) -> Vec<DeserializeGuard<Guardrail>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Once they are known, or this time is over.
    pub async fn known_within(&self, patience: Duration) -> Arc<Known> {
        let known = self.known();
        if known.is_known() {
            return known;
        }
        let mut changed = self.changed.subscribe();
        // The time being over is an answer, too: what is known then says that it isn't.
        let _ = tokio::time::timeout(patience, changed.wait_for(|()| self.known().is_known())).await;
        self.known()
    }

    fn publish(&self, all: &BTreeMap<String, DeserializeGuard<Guardrail>>) {
        let mut guardrails = Guardrails::default();
        for (name, object) in all {
            match &object.0 {
                Ok(object) => match compile(object) {
                    Ok(compiled) => guardrails.readable.push(Arc::new(compiled)),
                    Err(problem) => guardrails.unreadable.push((name.clone(), problem.to_string())),
                },
                Err(invalid) => guardrails.unreadable.push((name.clone(), invalid.error.clone())),
            }
        }
        *self.objects.lock().unwrap_or_else(PoisonError::into_inner) = all.clone();
        self.known.store(Arc::new(Known { guardrails, unknown: None }));
        self.changed.send_replace(());
    }

    fn lose(&self, why: String) {
        let guardrails = self.known().guardrails.clone();
        self.known.store(Arc::new(Known { guardrails, unknown: Some(why) }));
        self.changed.send_replace(());
    }
}

/// Follows the Guardrails until `end`. `tell` is called after each change is known.
pub async fn follow(client: Client, watched: Arc<Watched>, tell: impl Fn(), end: CancellationToken) {
    let mut wait = FIRST_BACKOFF;
    loop {
        let api: Api<DeserializeGuard<Guardrail>> = Api::all(client.clone());
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).take_until(end.cancelled()));
        let mut all = BTreeMap::new();
        let mut listed = false;
        let why = loop {
            let next = match tokio::time::timeout(LONGEST_SILENCE, events.next()).await {
                Ok(next) => next,
                // What has been listed may stay as it is for ever.
                Err(_) if listed => events.next().await,
                Err(_) => break format!("the list of them was not answered in {} s", LONGEST_SILENCE.as_secs()),
            };
            match next {
                None => return,
                Some(Ok(Event::Init)) => (all, listed) = (BTreeMap::new(), false),
                Some(Ok(Event::InitApply(object) | Event::Apply(object))) => {
                    all.insert(object.name_any(), object);
                }
                Some(Ok(Event::Delete(object))) => {
                    all.remove(&object.name_any());
                }
                Some(Ok(Event::InitDone)) => (listed, wait) = (true, FIRST_BACKOFF),
                Some(Err(error)) => break error.to_string(),
            }
            if listed {
                watched.publish(&all);
                tell();
            }
        };
        tracing::warn!(why, "the watch on Guardrails was interrupted: nothing is done until they are read anew");
        watched.lose(why);
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(LONGEST_BACKOFF),
            () = end.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::{Request, Response};
    use kube::client::Body;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_never_answered_is_asked_for_anew_before_effects_have_waited_long() {
        let asked = Arc::new(AtomicUsize::new(0));
        let service = tower::service_fn(move |_: Request<Body>| {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            async move {
                // The second list is answered; the first, and the watch after the second, stay open.
                if number != 1 {
                    std::future::pending::<()>().await;
                }
                let list = r#"{"apiVersion":"quell.dev/v1alpha1","kind":"GuardrailList","metadata":{"resourceVersion":"1"},"items":[]}"#;
                Ok::<_, Infallible>(Response::new(Body::from(list.as_bytes().to_vec())))
            }
        });
        let (watched, end) = (Arc::new(Watched::default()), CancellationToken::new());
        let following = tokio::spawn(follow(Client::new(service, "quell"), watched.clone(), || {}, end.clone()));
        assert!(watched.known_within(2 * LONGEST_SILENCE).await.is_known());
        // Nothing comes of a watch for as long as nothing changes.
        tokio::time::sleep(10 * LONGEST_SILENCE).await;
        assert!(watched.known().is_known());
        end.cancel();
        following.await.expect("it has ended");
    }
}
