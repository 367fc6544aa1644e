//! Tokens of ServiceAccounts, which the API server judges.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};
use quell_crds::v1alpha1::{ServiceAccountName, ServiceAccountToken};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Verdict;

/// For how long the API server's yes counts. A token that is revoked is let in for so long.
const GOOD: Duration = Duration::from_mins(1);
/// A yes that is used when it is older than this is asked for again beside the request, so that no sender waits for it.
const FRESH: Duration = Duration::from_secs(30);
/// For how long its no counts.
const BAD: Duration = Duration::from_secs(10);
/// Answers that are kept.
const KEPT: usize = 4096;
/// Questions that are under way at a time. Whoever makes up tokens must not make up load for the API server.
const ASKING: usize = 4;
/// A question takes no longer.
const LONGEST: Duration = Duration::from_secs(5);

/// The ServiceAccounts that a Source lets in.
#[derive(Debug)]
pub struct ServiceAccounts {
    audience: String,
    users: Vec<String>,
}

/// What a token says of itself, before anybody has looked at its signature.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Audiences,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl ServiceAccounts {
    /// As the Source says.
    #[must_use]
    pub fn compile(spec: &ServiceAccountToken) -> Self {
        let user = |ServiceAccountName { namespace, name }: &_| format!("system:serviceaccount:{namespace}:{name}");
        Self { audience: spec.audience.clone(), users: spec.accounts.iter().map(user).collect() }
    }

    /// Judges a token. The API server is asked only about one that says of itself that it would do.
    pub async fn judge(&self, token: &str, reviews: &Reviews) -> Verdict {
        if !self.would_do(token) {
            return Verdict::Out;
        }
        match reviews.whose(&self.audience, token).await {
            Some(Whose::User(user)) if self.users.contains(&user) => Verdict::In,
            Some(Whose::User(_) | Whose::Nobody) => Verdict::Out,
            None => Verdict::Later,
        }
    }

    fn would_do(&self, token: &str) -> bool {
        let mut parts = token.split('.');
        let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return false;
        };
        let payload = URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
        let Ok(claims) = serde_json::from_slice::<Claims>(&payload) else { return false };
        let for_us = match &claims.aud {
            Audiences::One(audience) => *audience == self.audience,
            Audiences::Many(audiences) => audiences.contains(&self.audience),
        };
        for_us && self.users.contains(&claims.sub)
    }

    /// What a sender is told to show.
    #[must_use]
    pub fn wanted(&self) -> String {
        format!(
            "the token of an allowed ServiceAccount for the audience `{}`: `Authorization: Bearer …`",
            self.audience
        )
    }
}

/// The API server's answers about tokens.
#[derive(Clone)]
pub struct Reviews {
    client: Client,
    asking: Arc<Semaphore>,
    known: Arc<Mutex<HashMap<Key, Answer>>>,
}

/// A hash of audience and token: the tokens themselves are not kept.
type Key = [u8; 32];

/// Whose a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whose {
    User(String),
    Nobody,
}

#[derive(Clone, Debug)]
struct Answer {
    whose: Whose,
    since: Instant,
    asked_again: bool,
}

impl Answer {
    fn counts(&self) -> bool {
        self.since.elapsed() < if self.whose == Whose::Nobody { BAD } else { GOOD }
    }
}

impl Reviews {
    /// Asks by `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, asking: Arc::new(Semaphore::new(ASKING)), known: Arc::default() }
    }

    /// Whose a token is; `None` where that can't be told now.
    async fn whose(&self, audience: &str, token: &str) -> Option<Whose> {
        let key: Key = Sha256::new().chain_update(audience).chain_update([0]).chain_update(token).finalize().into();
        if let Some(whose) = self.known(key, audience, token) {
            return Some(whose);
        }
        let _asking = self.asking.try_acquire().ok()?;
        self.ask(key, audience, token).await
    }

    fn known(&self, key: Key, audience: &str, token: &str) -> Option<Whose> {
        let mut known = self.known.lock().ok()?;
        let answer = known.get_mut(&key).filter(|answer| answer.counts())?;
        let whose = answer.whose.clone();
        if whose != Whose::Nobody && answer.since.elapsed() > FRESH && !answer.asked_again {
            answer.asked_again = true;
            let (reviews, audience, token) = (self.clone(), audience.to_owned(), token.to_owned());
            tokio::spawn(async move { reviews.ask(key, &audience, &token).await });
        }
        Some(whose)
    }

    async fn ask(&self, key: Key, audience: &str, token: &str) -> Option<Whose> {
        let review = TokenReview {
            spec: TokenReviewSpec { audiences: Some(vec![audience.to_owned()]), token: token.to_owned() },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let status = match tokio::time::timeout(LONGEST, api.create(&PostParams::default(), &review)).await {
            Ok(Ok(review)) => review.status.unwrap_or_default(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the API server could not be asked about a token");
                return None;
            }
            Err(_) => {
                tracing::warn!("the API server did not answer about a token in {} s", LONGEST.as_secs());
                return None;
            }
        };
        let for_us = status.audiences.unwrap_or_default().iter().any(|one| one == audience);
        let user = status.user.filter(|_| status.authenticated == Some(true) && for_us).and_then(|user| user.username);
        let whose = user.map_or(Whose::Nobody, Whose::User);
        self.keep(key, Answer { whose: whose.clone(), since: Instant::now(), asked_again: false });
        Some(whose)
    }

    fn keep(&self, key: Key, answer: Answer) {
        let Ok(mut known) = self.known.lock() else { return };
        if known.len() >= KEPT {
            known.retain(|_, answer| answer.counts());
        }
        if known.len() >= KEPT {
            // Whoever makes up tokens fills it with noes.
            known.retain(|_, answer| answer.whose != Whose::Nobody);
        }
        if known.len() < KEPT || known.contains_key(&key) {
            known.insert(key, answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn token(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn the_api_server_is_not_asked_about_a_token_that_says_itself_that_it_will_not_do() {
        let accounts = ServiceAccounts::compile(&ServiceAccountToken {
            audience: "quell".to_owned(),
            accounts: vec![ServiceAccountName { namespace: "falco".to_owned(), name: "falco".to_owned() }],
        });
        let user = "system:serviceaccount:falco:falco";
        assert!(accounts.would_do(&token(&json!({ "sub": user, "aud": ["quell", "other"] }))));
        assert!(accounts.would_do(&token(&json!({ "sub": user, "aud": "quell" }))));
        for claims in [
            json!({ "sub": user, "aud": ["https://kubernetes.default.svc"] }),
            json!({ "sub": "system:serviceaccount:shop:default", "aud": ["quell"] }),
            json!({ "aud": ["quell"] }),
            json!([]),
        ] {
            assert!(!accounts.would_do(&token(&claims)), "{claims}");
        }
        for text in ["", "x", "a.b.c", "a.b.c.d", "e30.e30"] {
            assert!(!accounts.would_do(text), "{text}");
        }
    }
}
