//! A body of one format is refused by the others, but for those that are really alike.

use quell_crds::v1alpha1::Format;
use quell_ingest::read;

use crate::bodies::{fixtures, samples};

/// What is read by another format, too, and why.
const ALIKE: &[(Format, Format)] = &[
    // Falcosidekick sends Falco's alert with an id.
    (Format::Falco, Format::Falcosidekick),
    (Format::Falcosidekick, Format::Falco),
    // The same reports in two API groups.
    (Format::Policyreport, Format::Openreports),
    (Format::Openreports, Format::Policyreport),
    // Tencent's registry sends what Harbor 1.x did; Harbor itself can send CloudEvents.
    (Format::Harbor, Format::TencentTcr),
    (Format::TencentTcr, Format::Harbor),
    (Format::Cloudevents, Format::Harbor),
    (Format::Cloudevents, Format::TencentTcr),
    // Its denials are seen in requests and Events; others than its own are no findings.
    (Format::K8sAudit, Format::PolicyController),
    (Format::K8sEvents, Format::PolicyController),
    // Both are denials of admission, told of by a message.
    (Format::PolicyController, Format::K8sEvents),
    (Format::PolicyController, Format::K8sAudit),
];

#[test]
fn a_body_of_another_format_is_refused() {
    let mut wrong = Vec::new();
    for sample in samples().into_iter().chain(fixtures()) {
        for format in Format::ALL {
            if format == sample.format || ALIKE.contains(&(sample.format, format)) {
                continue;
            }
            for body in &sample.bodies {
                if let Ok(signals) = read(format, body) {
                    wrong.push(format!("{} as {format}: {} signals", sample.name, signals.len()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
