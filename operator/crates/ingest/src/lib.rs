//! Turns what security tools report into Findings: bytes in, [`Signal`]s out, and from a signal and the [`Place`] that it
//! is about, a Finding.
//!
//! Nothing here asks a cluster, a clock or the environment: the same bytes are the same signals, always. A tool's report
//! is read leniently where its versions differ (see the notes of each format's module), and refused with the place and
//! the reason where it isn't that tool's report at all.

mod bound;
mod falco;
mod falcosidekick;
mod finding;
mod image;
mod json;
mod kinds;
mod lenient;
mod signal;
mod trivy;
mod trivy_operator;
mod unreadable;
mod vulnerabilities;

pub use finding::{Place, finding, place_without_cluster};
pub use image::{ImageRef, normalize_image};
pub use signal::{About, Signal};
pub use unreadable::Unreadable;

use quell_crds::v1alpha1::Format;

/// Most signals that one body may make. A tool that sends more sends them in several; refusing is better than a cut that
/// nobody sees.
pub const MAX_SIGNALS: usize = 1000;

/// Reads what a tool sent, or what it wrote into the cluster, in the format of its Source.
///
/// A body that holds nothing to act on (a test event, a report with nothing wrong) gives no signals and no error.
pub fn read(format: Format, body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let body = json::without_byte_order_mark(body);
    let signals = match format {
        Format::Falco => falco::read(body),
        Format::Falcosidekick => falcosidekick::read(body),
        Format::Trivy => trivy::read(body),
        Format::TrivyOperator => trivy_operator::read(body),
    }?;
    if signals.len() > MAX_SIGNALS {
        return Err(Unreadable::too_many("the body", signals.len()));
    }
    Ok(signals)
}
