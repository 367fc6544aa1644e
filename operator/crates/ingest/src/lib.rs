//! Turns what security tools report into Findings: bytes in, [`Signal`]s out, and from a signal and the [`Place`] that it
//! is about, a Finding.
//!
//! Nothing here asks a cluster, a clock or the environment: the same bytes are the same signals, always. A tool's report
//! is read leniently where its versions differ (see the notes of each format's module), and refused with the place and
//! the reason where it isn't that tool's report at all.
//!
//! Three steps: a format's module reads a body ([`receive`]), the operator finds what each signal is about in the cluster, and [`finding`]
//! makes the object. For what has no format there is the mapping of a Source ([`map`]). What a reader can't know from the body alone and has to be asked for elsewhere is a [`FollowUp`].

// Tests hand on what `json!` makes, and list many cases.
#![cfg_attr(test, allow(clippy::needless_pass_by_value, clippy::too_many_lines))]

mod alertmanager;
mod aws;
mod bound;
mod checks;
mod clair;
mod cloudevents;
mod delivery;
mod denial;
mod falco;
mod falcosidekick;
mod finding;
mod gatekeeper;
mod grype;
mod guardduty;
mod harbor;
mod hubble;
mod image;
mod inspector;
mod json;
mod k8s_audit;
mod k8s_events;
mod kinds;
mod kube_bench;
mod kubearmor;
mod kubernetes;
mod kubescape;
mod lenient;
mod mapping;
mod ocsf;
mod policy_controller;
mod policyreport;
mod sarif;
mod severity;
mod signal;
mod tencent_cwp;
mod tencent_tcr;
mod tencent_tcss;
mod tetragon;
mod time;
mod trivy;
mod trivy_operator;
mod unreadable;
mod vulnerabilities;
mod walk;

pub use aws::sns;
pub use delivery::{Delivery, FollowUp, Received};
pub use finding::{LARGEST_FINDING, News, Place, finding, is_same_problem, news, place_without_cluster};
pub use harbor::with_list as with_harbor_list;
pub use image::{ImageRef, normalize_image};
pub use k8s_events::read_chosen as read_events;
pub use mapping::map;
pub use signal::{About, Signal};
pub use unreadable::Unreadable;

use quell_crds::v1alpha1::Format;

/// Most open problems that one body may hold. A tool that finds more sends them in several; refusing is better than a cut that nobody sees.
pub const MAX_SIGNALS: usize = 5_000;

/// Most objects (alerts, lines, items of a list) that one body may hold, most of which say that nothing is wrong.
pub const MAX_OBJECTS: usize = 20_000;

/// Reads what a tool sent, or what it wrote into the cluster, in the format of its Source.
///
/// A body that holds nothing to act on (a test event, a report with nothing wrong) gives no signals, or ones that say that a problem is
/// [resolved](Signal::resolved), and no error.
pub fn read(format: Format, body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    receive(&Delivery::new(format, body)).map(|received| received.signals)
}

/// The same of a request, whose headers may say a part of it, and with what else there is to do.
pub fn receive(delivery: &Delivery) -> Result<Received, Unreadable> {
    let received = read_as(delivery.format, delivery)?;
    let open = received.signals.iter().filter(|signal| !signal.resolved).count();
    if open > MAX_SIGNALS {
        return Err(Unreadable::too_many("the body", open));
    }
    Ok(received)
}

fn read_as(format: Format, delivery: &Delivery) -> Result<Received, Unreadable> {
    let body = json::text_of(delivery.body)?;
    let signals = match format {
        Format::Clair => return clair::read(body),
        Format::Cloudevents => return cloudevents::read(delivery, body),
        Format::Guardduty => return aws::received(body, guardduty::read),
        Format::Inspector => return aws::received(body, inspector::read),
        Format::Harbor => return harbor::read(body),
        Format::TencentTcr => return tencent_tcr::read(body),
        Format::Ocsf => return aws::received(body, ocsf::read),
        Format::Alertmanager => alertmanager::read(body),
        Format::Falco => falco::read(body),
        Format::Falcosidekick => falcosidekick::read(body),
        Format::Gatekeeper => gatekeeper::read(body),
        Format::Grype => grype::read(body),
        Format::Hubble => hubble::read(body),
        Format::K8sAudit => k8s_audit::read(body),
        Format::K8sEvents => k8s_events::read(body),
        Format::KubeBench => kube_bench::read(body),
        Format::Kubearmor => kubearmor::read(body),
        Format::Kubescape => kubescape::read(body),
        Format::PolicyController => policy_controller::read(body),
        // The same reports in two API groups; a tool that moves from one to the other keeps its Source.
        Format::Policyreport | Format::Openreports => policyreport::read(body),
        Format::Sarif => sarif::read(body),
        Format::TencentCwp => tencent_cwp::read(body),
        Format::TencentTcss => tencent_tcss::read(body),
        Format::Tetragon => tetragon::read(body),
        Format::Trivy => trivy::read(body),
        Format::TrivyOperator => trivy_operator::read(body),
    }?;
    Ok(Received::from(signals))
}
