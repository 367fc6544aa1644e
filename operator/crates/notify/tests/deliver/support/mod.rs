//! What the tests share.

pub mod http;
pub mod mail;
pub mod pki;

use std::net::TcpListener;
use std::time::Duration;

use chrono::DateTime;
use quell_crds::v1alpha1::{ChannelKind, SecretKey, Severity};
use quell_notify::{Courier, DeliveryError, Destination, Message, Secret};

pub fn message() -> Message {
    Message {
        key: "6f1c-9/tell".to_owned(),
        title: "Reverse shell in shop/web-0".to_owned(),
        text: "A shell was started.\n.\nIt talks to 203.0.113.7 – “now”.".to_owned(),
        severity: Severity::Critical,
        fields: vec![("Pod".to_owned(), "shop/web-0".to_owned()), ("Node".to_owned(), "n1".to_owned())],
        at: DateTime::from_timestamp(1_700_000_000, 0).expect("a time"),
    }
}

pub fn courier() -> Courier {
    Courier::new(None).expect("a courier")
}

/// How a courier that gives up at once fares with a server that never answers.
pub async fn in_haste(destination: &Destination) -> DeliveryError {
    let hasty = courier().with_timeout(Duration::from_millis(150));
    let message = message();
    let delivery = tokio::time::timeout(Duration::from_secs(10), hasty.deliver(destination, &message));
    delivery.await.expect("it gives up").expect_err("no answer")
}

pub fn key(name: &str) -> SecretKey {
    SecretKey { name: "channel".to_owned(), key: name.to_owned() }
}

/// The channel, with every secret holding `value`.
pub fn resolve(kind: &ChannelKind, value: &str) -> Result<Destination, DeliveryError> {
    Destination::resolve(kind, |_| Some(Secret::new(value)))
}

/// A port of loopback at which nobody listens.
pub fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}
