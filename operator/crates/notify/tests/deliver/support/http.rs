//! An HTTP server that writes down what it gets, and judges signatures by itself.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum_server::tls_rustls::RustlsConfig;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::pki::Authority;

#[derive(Clone)]
pub enum Answer {
    Is(u16, Vec<(&'static str, String)>, String),
    /// Repeats the path that was asked for, as many servers do in their error pages.
    Echo(u16),
    Never,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self::Is(status, vec![], String::new())
    }
}

#[derive(Clone)]
pub struct Got {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Got {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The receiver's side of the signature, from its documentation.
    pub fn is_signed_with(&self, key: &str) -> bool {
        let header = self.header("Quell-Signature");
        let Some((t, v1)) = header.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")) else { return false };
        let Ok(seconds) = t.parse::<i64>() else { return false };
        let digits: Option<Vec<u8>> =
            (0..v1.len()).step_by(2).map(|at| u8::from_str_radix(v1.get(at..at + 2)?, 16).ok()).collect();
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("a key");
        mac.update(t.as_bytes());
        mac.update(b".");
        mac.update(&self.body);
        (chrono::Utc::now().timestamp() - seconds).abs() < 60
            && digits.is_some_and(|digits| mac.verify_slice(&digits).is_ok())
    }
}

pub struct Receiver {
    pub address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    /// Over plain HTTP.
    pub fn start(answer: Answer) -> Self {
        let (receiver, listener, router) = Self::prepare(answer);
        let server = axum_server::from_tcp(listener).expect("a server");
        tokio::spawn(server.serve(router.into_make_service()));
        receiver
    }

    /// Over TLS, with a certificate of that authority.
    pub fn start_tls(answer: Answer, authority: &Authority) -> Self {
        let (receiver, listener, router) = Self::prepare(answer);
        let tls = RustlsConfig::from_config(authority.server.clone());
        let server = axum_server::from_tcp_rustls(listener, tls).expect("a server");
        tokio::spawn(server.serve(router.into_make_service()));
        receiver
    }

    fn prepare(answer: Answer) -> (Self, TcpListener, Router) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener for tokio");
        let receiver = Self { address: listener.local_addr().expect("an address"), got: Arc::default() };
        let router = Router::new().fallback(take).with_state((answer, receiver.got.clone()));
        (receiver, listener, router)
    }

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().expect("the list").clone()
    }
}

type Book = Arc<Mutex<Vec<Got>>>;

async fn take(State((answer, book)): State<(Answer, Book)>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let path = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    book.lock().expect("the list").push(Got { path: path.clone(), headers, body });
    let (status, headers, body) = match answer {
        Answer::Is(status, headers, body) => (status, headers, body),
        Answer::Echo(status) => (status, vec![], format!("Cannot POST {path}")),
        Answer::Never => std::future::pending().await,
    };
    let mut response = (StatusCode::from_u16(status).expect("a status"), body).into_response();
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().expect("a header"));
    }
    response
}
