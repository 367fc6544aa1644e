//! A real HTTP server on loopback, which remembers what it was sent and answers what it was told to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::Value;
use tokio::task::JoinHandle;

/// A call that it got.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as JSON; null where it is none.
    pub body: Value,
}

impl Call {
    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

type Answers = VecDeque<(u16, String)>;

#[derive(Default)]
struct Shared {
    calls: Mutex<Vec<Call>>,
    answers: Mutex<Answers>,
}

/// A server that ends when it is dropped.
pub struct Receiver {
    address: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Answers each call with the next of these; the last one for ever.
    pub async fn answering(answers: &[(u16, &str)]) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("no port")?;
        let address = format!("http://{}", listener.local_addr()?);
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        let receiver = Self { address, shared, task };
        receiver.answers(answers);
        Ok(receiver)
    }

    /// From now on it answers these.
    pub fn answers(&self, answers: &[(u16, &str)]) {
        let answers = answers.iter().map(|(code, body)| (*code, (*body).to_owned())).collect();
        *self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner) = answers;
    }

    /// Its address with this path.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, HeaderMap, String) {
    let path = uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let body = serde_json::from_slice(&body).unwrap_or_default();
    shared.calls.lock().unwrap_or_else(PoisonError::into_inner).push(Call { method, path, headers, body });
    let mut answers = shared.answers.lock().unwrap_or_else(PoisonError::into_inner);
    let next = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
    let (code, body) = next.unwrap_or((200, String::new()));
    let mut headers = HeaderMap::new();
    if (300..400).contains(&code)
        && let Ok(location) = body.parse()
    {
        headers.insert("location", location);
    }
    (StatusCode::from_u16(code).unwrap_or_default(), headers, body)
}
