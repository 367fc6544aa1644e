//! Deliveries to real servers on loopback: HTTP and HTTPS by axum, SMTP by mailin, TLS by rustls with an authority of the
//! test's own.
#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

mod secrets;
mod slack;
mod smtp;
mod support;
mod webhook;
