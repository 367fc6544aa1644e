//! Findings of AWS Inspector, and image scans of ECR: EventBridge's events of them, and as Inspector's API lists them.
//!
//! Fields: docs.aws.amazon.com/inspector, "eventbridge-integration"; docs.aws.amazon.com/AmazonECR, "ecr-eventbridge". Inspector sends each
//! vulnerability of an image by itself and closes it by itself, so each is a signal of its own.

use quell_crds::v1alpha1::{Category, Severity, Vulnerability, VulnerabilityCounts};

use crate::aws::{Event, ecr_image, node_name};
use crate::kinds::is_name;
use crate::severity::severity;
use crate::time::time;
use crate::vulnerabilities::summarise;
use crate::walk::{Fields, items, number_at, object_at, objects_at, pick, text_at, texts_at};
use crate::{About, Signal, Unreadable, bound};

const TOOL: &str = "inspector";

/// Reads an event, or what the API's `ListFindings` lists.
pub(crate) fn read(event: &Event, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    event.expect(&["aws.inspector2", "aws.ecr", "aws.inspector"], "aws.inspector2 or aws.ecr")?;
    let fields = &event.object.fields;
    match event.kind.as_deref() {
        None | Some("Inspector2 Finding") => {}
        Some("Inspector2 Scan" | "ECR Image Scan") => {
            signals.extend(scan(event));
            return Ok(());
        }
        // What was configured, pushed or deleted.
        Some(kind) if kind.starts_with("Inspector2") || kind.starts_with("ECR ") => return Ok(()),
        Some(kind) => return Err(Unreadable::new("detail-type", format!("{kind} is not read, Inspector2 Finding is"))),
    }
    if let Some(list) = items(&event.object, fields, "findings")? {
        for (at, one) in list {
            signals.push(finding(event, &at, one)?);
        }
        return Ok(());
    }
    signals.push(finding(event, "", fields)?);
    Ok(())
}

fn finding(event: &Event, at: &str, fields: &Fields) -> Result<Signal, Unreadable> {
    let inside = |name: &str| event.object.at(&if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") });
    let text = |name: &str| text_at(fields, &[name]);
    let Some(arn) = text("findingArn") else {
        return Err(Unreadable::other_format(inside("findingArn"), "a finding of Inspector has it"));
    };
    let (Some(kind), Some(word)) = (text("type"), text("severity")) else {
        return Err(Unreadable::other_format(inside("type"), "a finding of Inspector has a type and a severity"));
    };
    let title = text("title").unwrap_or_else(|| arn.clone());
    let id = text_at(fields, &["packageVulnerabilityDetails", "vulnerabilityId"]);
    let category = match kind.as_str() {
        "PACKAGE_VULNERABILITY" | "CODE_VULNERABILITY" => Category::Vulnerability,
        "NETWORK_REACHABILITY" => Category::Misconfiguration,
        _ => Category::Other,
    };
    let rule = id.clone().unwrap_or_else(|| title.clone());
    let severity = severity(&word);
    let found = id.map(|id| vulnerabilities(fields, &id, severity)).unwrap_or_default();
    let mut details = pick(
        fields,
        &[
            "findingArn",
            "type",
            "status",
            "description",
            "inspectorScore",
            "exploitAvailable",
            "fixAvailable",
            "awsAccountId",
        ],
    );
    details.insert("severity".to_owned(), word.into());
    if let Some(remediation) = text_at(fields, &["remediation", "recommendation", "text"]) {
        details.insert("remediation".to_owned(), remediation.into());
    }
    let seen = ["lastObservedAt", "updatedAt", "firstObservedAt"];
    let signal = Signal {
        details: bound::details(&details),
        detected_at: seen.iter().find_map(|name| time(&text(name)?)),
        identity: vec![arn],
        ..Signal::new(TOOL, category, rule, about(fields))
    };
    let signal = if found.is_empty() { signal } else { signal.with_vulnerabilities(summarise(found)) };
    // Inspector's own word on the whole stands before that of a score.
    let resolved = text("status").is_some_and(|status| matches!(status.as_str(), "CLOSED" | "SUPPRESSED"));
    Ok(Signal { severity, message: title, resolved, ..signal })
}

fn vulnerabilities(fields: &Fields, id: &str, severity: Severity) -> Vec<Vulnerability> {
    let Some(said) = object_at(fields, &["packageVulnerabilityDetails"]) else { return Vec::new() };
    let yes = |name: &str| match text_at(fields, &[name]).as_deref() {
        Some("YES" | "PARTIAL") => Some(true),
        Some("NO") => Some(false),
        _ => None,
    };
    let scores = objects_at(said, &["cvss"]).filter_map(|cvss| number_at(cvss, &["baseScore"])).max_by(f64::total_cmp);
    let of = |package: &Fields| {
        let text = |name: &str| text_at(package, &[name]).unwrap_or_default();
        let version = match (text("epoch").as_str(), text("version"), text("release")) {
            ("" | "0", version, release) if release.is_empty() => version,
            ("" | "0", version, release) => format!("{version}-{release}"),
            (epoch, version, release) if release.is_empty() => format!("{epoch}:{version}"),
            (epoch, version, release) => format!("{epoch}:{version}-{release}"),
        };
        // What isn't fixed is written so, in words.
        let fixed = text_at(package, &["fixedInVersion"]).filter(|fixed| fixed != "NotAvailable").unwrap_or_default();
        Vulnerability {
            id: id.to_owned(),
            package: text("name"),
            installed_version: version,
            fixed_version: fixed,
            severity,
            score: number_at(fields, &["inspectorScore"]).or(scores),
            fix_available: yes("fixAvailable"),
            epss: number_at(fields, &["epss", "score"]),
            known_exploited: None,
            exploit_available: yes("exploitAvailable"),
            title: text_at(fields, &["title"]).unwrap_or_default(),
        }
    };
    let found: Vec<_> = objects_at(said, &["vulnerablePackages"]).map(of).collect();
    if found.is_empty() { vec![of(&Fields::new())] } else { found }
}

fn about(fields: &Fields) -> About {
    let Some(resource) = objects_at(fields, &["resources"]).next() else {
        return About::outside("External", "unknown");
    };
    let id = text_at(resource, &["id"]).unwrap_or_else(|| "unknown".to_owned());
    if let Some(image) = object_at(resource, &["details", "awsEcrContainerImage"]) {
        let text = |name: &str| text_at(image, &[name]);
        let arn =
            if id.starts_with("arn:") { id.clone() } else { text("repositoryName").unwrap_or_else(|| id.clone()) };
        let tag = texts_at(image, &["imageTags"]).into_iter().next();
        return About::Image {
            image: ecr_image(&arn, text("registry").as_deref(), tag.as_deref(), text("imageHash").as_deref()),
        };
    }
    if let Some(instance) = object_at(resource, &["details", "awsEc2Instance"]) {
        let name = node_name(resource, &["privateDnsName"]).or_else(|| node_name(instance, &["privateDnsName"]));
        if let Some(name) = name.filter(|name| is_name(name, 253)) {
            return About::Node { name };
        }
    }
    let kind = match text_at(resource, &["type"]).unwrap_or_default().as_str() {
        "AWS_EC2_INSTANCE" => "Instance",
        "AWS_LAMBDA_FUNCTION" => "Lambda",
        "CODE_REPOSITORY" => "Repository",
        _ => "External",
    };
    About::outside(kind, &id)
}

/// A scan that ended: counts alone.
fn scan(event: &Event) -> Option<Signal> {
    let fields = &event.object.fields;
    let status = text_at(fields, &["scan-status"]).unwrap_or_default();
    if !(status.ends_with("COMPLETE") || status == "ACTIVE") {
        return None;
    }
    let none = Fields::new();
    let all = object_at(fields, &["finding-severity-counts"]).unwrap_or(&none);
    let count = |name: &str| {
        text_at(all, &[name])
            .and_then(|count| count.parse().ok())
            .filter(|count| (0..=1_000_000).contains(count))
            .unwrap_or(0)
    };
    let counts = VulnerabilityCounts {
        critical: count("CRITICAL"),
        high: count("HIGH"),
        medium: count("MEDIUM"),
        low: count("LOW"),
        info: count("INFORMATIONAL") + count("UNDEFINED") + count("UNTRIAGED"),
        fixable: 0,
    };
    let of = [
        (counts.critical, Severity::Critical),
        (counts.high, Severity::High),
        (counts.medium, Severity::Medium),
        (counts.low, Severity::Low),
        (counts.info, Severity::Info),
    ];
    let worst = of.into_iter().find(|(count, _)| *count > 0).map(|(_, severity)| severity);
    let repository = text_at(fields, &["repository-name"]).unwrap_or_else(|| "unknown".to_owned());
    // ECR names the repository alone, in the registry of the event's account; Inspector gives its ARN.
    let repository = match &event.account {
        Some((account, region)) if !repository.starts_with("arn:") => {
            let partition = if region.starts_with("cn-") { "aws-cn" } else { "aws" };
            format!("arn:{partition}:ecr:{region}:{account}:repository/{repository}")
        }
        _ => repository,
    };
    let tag = texts_at(fields, &["image-tags"]).into_iter().next();
    let image = ecr_image(&repository, None, tag.as_deref(), text_at(fields, &["image-digest"]).as_deref());
    let rule = image.name();
    let about = About::Image { image };
    let words: Vec<String> = all.iter().map(|(name, count)| format!("{count} {}", name.to_lowercase())).collect();
    Some(Signal {
        severity: worst.unwrap_or_default(),
        message: format!("vulnerabilities: {}", words.join(", ")),
        resolved: worst.is_none(),
        vulnerability_counts: worst.map(|_| counts),
        details: bound::details(&pick(fields, &["scan-status", "repository-name", "finding-severity-counts"])),
        detected_at: event.time.as_deref().and_then(time),
        identity: vec![Category::Vulnerability.to_string(), about.image_identity()],
        ..Signal::new(TOOL, Category::Vulnerability, rule, about)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::aws::received;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn detail(status: &str) -> Value {
        json!({"findingArn": "arn:aws:inspector2:us-east-2:1234:finding/f1", "type": "PACKAGE_VULNERABILITY", "severity": "MEDIUM", "status": status,
            "title": "CVE-2019-17498 - libssh2", "firstObservedAt": "Dec 3, 2021, 6:02:30 PM", "inspectorScore": 6.5, "epss": {"score": 0.1},
            "exploitAvailable": "YES", "fixAvailable": "YES", "packageVulnerabilityDetails": {"vulnerabilityId": "CVE-2019-17498",
                "vulnerablePackages": [{"name": "libssh2", "version": "1.4.3", "release": "12", "epoch": 0, "fixedInVersion": "0:1.4.4"}]},
            "resources": [{"id": format!("arn:aws:ecr:us-east-2:1234:repository/web/{DIGEST}"), "type": "AWS_ECR_CONTAINER_IMAGE",
                "details": {"awsEcrContainerImage": {"registry": "1234", "repositoryName": "web", "imageHash": DIGEST, "imageTags": ["v1"]}}}]})
    }

    fn signals(body: &Value) -> Vec<Signal> {
        received(body.to_string().as_bytes(), read).unwrap().signals
    }

    fn event(kind: &str, source: &str, detail: &Value) -> Value {
        json!({"version": "0", "source": source, "detail-type": kind, "detail": detail, "time": "2021-12-03T18:02:30Z"})
    }

    #[test]
    fn a_finding_is_about_its_image_and_says_whether_it_can_be_exploited_and_fixed() {
        for body in [
            event("Inspector2 Finding", "aws.inspector2", &detail("ACTIVE")),
            json!({"findings": [detail("ACTIVE")]}),
            detail("ACTIVE"),
        ] {
            let signal = signals(&body).remove(0);
            assert_eq!(
                (signal.rule.as_str(), signal.severity, signal.resolved),
                ("CVE-2019-17498", Severity::Medium, false)
            );
            let About::Image { image } = &signal.about else { panic!("{:?}", signal.about) };
            assert_eq!(
                (image.reference.as_str(), image.digest.as_deref()),
                ("1234.dkr.ecr.us-east-2.amazonaws.com/web:v1", Some(DIGEST))
            );
            let found = &signal.vulnerabilities[0];
            assert_eq!((found.installed_version.as_str(), found.score, found.epss), ("1.4.3-12", Some(6.5), Some(0.1)));
            assert_eq!((found.exploit_available, found.fix_available), (Some(true), Some(true)));
            assert_eq!(signal.detected_at.unwrap().timestamp(), 1_638_554_550);
        }
    }

    #[test]
    fn what_is_closed_or_suppressed_is_over() {
        for status in ["CLOSED", "SUPPRESSED"] {
            let signal = signals(&json!({"findings": [detail(status)]})).remove(0);
            assert!(signal.resolved);
            assert_eq!(signal.identity, signals(&detail("ACTIVE"))[0].identity);
        }
    }

    #[test]
    fn a_scan_is_a_signal_with_counts_and_a_clean_one_ends_it() {
        let scan = |counts: Value| {
            let detail = json!({"scan-status": "COMPLETE", "repository-name": "web", "finding-severity-counts": counts, "image-digest": DIGEST, "image-tags": ["v1"]});
            signals(&event("ECR Image Scan", "aws.ecr", &detail)).remove(0)
        };
        let found = scan(json!({"CRITICAL": 10, "MEDIUM": 9}));
        assert_eq!((found.severity, found.vulnerability_counts.unwrap().critical), (Severity::Critical, 10));
        let clean = scan(json!({}));
        assert!(clean.resolved && clean.identity == found.identity);
        let mut placed = event(
            "ECR Image Scan",
            "aws.ecr",
            &json!({"scan-status": "COMPLETE", "repository-name": "team/web", "image-tags": ["v1"]}),
        );
        for (region, registry) in [
            ("us-east-2", "1234.dkr.ecr.us-east-2.amazonaws.com"),
            ("cn-north-1", "1234.dkr.ecr.cn-north-1.amazonaws.com.cn"),
        ] {
            (placed["account"], placed["region"]) = (json!("1234"), json!(region));
            let About::Image { image } = signals(&placed).remove(0).about else { panic!("an image") };
            assert_eq!(image.reference, format!("{registry}/team/web:v1"));
        }
        assert!(signals(&event("ECR Image Scan", "aws.ecr", &json!({"scan-status": "FAILED"}))).is_empty());
        assert!(signals(&event("ECR Scan Resource Change", "aws.ecr", &json!({}))).is_empty());
    }

    #[test]
    fn other_bodies_are_refused_with_their_place() {
        for (body, at) in [
            (json!({"a": 1}), "findingArn"),
            (json!({"findings": 3}), "findings"),
            (json!({"findings": [{"findingArn": "x"}]}), "findings[0].type"),
            (event("GuardDuty Finding", "aws.guardduty", &json!({})), "source"),
        ] {
            assert_eq!(received(body.to_string().as_bytes(), read).unwrap_err().at, at, "{body}");
        }
    }
}
