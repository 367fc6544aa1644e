//! How a message reaches people: a signed webhook, a Slack incoming webhook, mail.
//!
//! A [`Destination`] is a channel with its secrets filled in; a [`Courier`] takes a [`Message`] there, once, and says
//! with a [`DeliveryError`] whether another try can help. Trying again, and when, is the caller's. Every try of a message
//! carries the same [`Message::key`], so that receivers can tell a repeat from a second message.
//!
//! # Whom it trusts
//! Webhook, Slack and mail servers are verified against Mozilla's roots, compiled in, and against the extra roots given
//! to [`Courier::new`]; never against the files of the image or the node. So the same binary behaves the same in an
//! image without certificates, and what may be trusted is stated in one place.

mod by_line;
mod courier;
mod destination;
mod error;
mod http;
mod mail;
mod message;
mod secret;
mod slack;
mod smtp;
mod webhook;

pub use courier::{Courier, SetupError};
pub use destination::Destination;
pub use error::DeliveryError;
pub use message::Message;
pub use secret::Secret;
