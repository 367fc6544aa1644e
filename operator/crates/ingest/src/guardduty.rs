//! Findings of AWS GuardDuty: EventBridge's events of them, and as its API shows them.
//!
//! Fields: docs.aws.amazon.com/guardduty, "guardduty_findings_eventbridge" and "guardduty_finding-format". EventBridge writes names in
//! camelCase, the API in PascalCase; both are in use behind EventBridge, too.

use quell_crds::v1alpha1::{Category, Severity};

use crate::aws::{Event, named, node_name};
use crate::kinds::{self, is_name, is_uid};
use crate::severity::severity;
use crate::time::time;
use crate::walk::{Fields, container_id, image, is_true, items, number_at, object_at, objects_at, pick, text_at};
use crate::{About, Signal, Unreadable, bound};

const TOOL: &str = "guardduty";

/// Reads an event, or what the API's `GetFindings` lists.
pub(crate) fn read(event: &Event, signals: &mut Vec<Signal>) -> Result<(), Unreadable> {
    event.expect(&["aws.guardduty"], "aws.guardduty")?;
    if let Some(kind) = event.kind.as_deref().filter(|kind| *kind != "GuardDuty Finding") {
        // Of what GuardDuty says about itself nothing is a finding: malware scans that ended, runtime coverage.
        return if kind.starts_with("GuardDuty") {
            Ok(())
        } else {
            Err(Unreadable::new("detail-type", format!("{kind} is not read, GuardDuty Finding is")))
        };
    }
    let fields = &event.object.fields;
    if let Some(list) = items(&event.object, fields, "Findings")? {
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
    let Some(rule) = text("type").filter(|kind| kind.contains(':') && kind.contains('/')) else {
        return Err(Unreadable::other_format(
            inside("type"),
            "a finding of GuardDuty has one, such as Discovery:Kubernetes/TorIPCaller",
        ));
    };
    let (Some(resource), Some(id)) = (object_at(fields, &["resource"]), text("id")) else {
        return Err(Unreadable::other_format(
            inside("resource"),
            "a finding of GuardDuty has an id and says what it is about",
        ));
    };
    let severity = match number_at(fields, &["severity"]) {
        Some(number) if number >= 9.0 => Severity::Critical,
        Some(number) if number >= 7.0 => Severity::High,
        Some(number) if number >= 4.0 => Severity::Medium,
        Some(number) if number >= 1.0 => Severity::Low,
        Some(_) => Severity::Info,
        None => text("severity").map_or(Severity::Info, |word| severity(&word)),
    };
    let title = text("title").unwrap_or_else(|| rule.clone());
    let sample = is_sample(fields, &title);
    let mut details = pick(fields, &["id", "arn", "severity", "description", "accountId", "region"]);
    if sample {
        details.insert("sample".to_owned(), true.into());
    }
    if let Some(service) = object_at(fields, &["service"]) {
        details.insert(
            "service".to_owned(),
            pick(
                service,
                &[
                    "action",
                    "count",
                    "eventFirstSeen",
                    "eventLastSeen",
                    "resourceRole",
                    "runtimeDetails",
                    "evidence",
                    "detection",
                ],
            )
            .into(),
        );
    }
    for name in ["eksClusterDetails", "kubernetesDetails"] {
        if let Some(object) = object_at(resource, &[name]) {
            details.insert(
                name.to_owned(),
                pick(object, &["name", "arn", "kubernetesUserDetails", "kubernetesWorkloadDetails"]).into(),
            );
        }
    }
    let seen = [text_at(fields, &["service", "eventLastSeen"]), text("updatedAt"), event.time.clone()];
    Ok(Signal {
        severity,
        message: if sample && !title.starts_with("[SAMPLE]") { format!("[SAMPLE] {title}") } else { title },
        resolved: is_true(fields, &["service", "archived"]),
        details: bound::details(&details),
        detected_at: seen.into_iter().flatten().find_map(|at| time(&at)),
        identity: vec![id],
        ..Signal::new(TOOL, category(&rule), rule, in_sequence(fields).unwrap_or_else(|| about(resource)))
    })
}

fn category(rule: &str) -> Category {
    if rule.contains(":Kubernetes/") {
        Category::Audit
    } else if [":Runtime/", ":Container/", "AttackSequence:EKS/"].iter().any(|part| rule.contains(part)) {
        Category::Runtime
    } else {
        Category::Other
    }
}

/// Whether the finding was made up by GuardDuty to try what receives it.
fn is_sample(fields: &Fields, title: &str) -> bool {
    let more = object_at(fields, &["service", "additionalInfo"]);
    let in_text = || {
        let value = more.and_then(|more| text_at(more, &["value"]))?;
        crate::json::object_in_text(&value).map(|value| is_true(&value, &["sample"]))
    };
    title.starts_with("[SAMPLE]") || more.is_some_and(|more| is_true(more, &["sample"])) || in_text().unwrap_or(false)
}

fn about(resource: &Fields) -> About {
    let container = object_at(resource, &["containerDetails"]);
    if let Some(workload) = object_at(resource, &["kubernetesDetails", "kubernetesWorkloadDetails"])
        && let Some(about) = in_cluster(workload, container)
    {
        return about;
    }
    let containers = container.into_iter().chain(
        object_at(resource, &["ecsClusterDetails", "taskDetails"])
            .into_iter()
            .flat_map(|task| objects_at(task, &["containers"])),
    );
    for container in containers {
        if let Some(id) = text_at(container, &["id"]).and_then(|id| container_id(&id)) {
            return About::Container { id, node: None, image: image(text_at(container, &["image"])) };
        }
    }
    let cluster = || text_at(resource, &["eksClusterDetails", "name"]);
    if let Some(instance) = object_at(resource, &["instanceDetails"])
        && let Some(name) = node_name(instance, &["privateDnsName"]).filter(|name| is_name(name, 253))
    {
        return About::Node { name };
    }
    let names = [
        ("instanceDetails", "instanceId"),
        ("rdsDbInstanceDetails", "dbInstanceIdentifier"),
        ("accessKeyDetails", "userName"),
        ("s3BucketDetails", "name"),
        ("lambdaDetails", "functionName"),
        ("ecsClusterDetails", "name"),
    ];
    if let Some(name) = cluster() {
        return About::outside("Cluster", &name);
    }
    let kind = text_at(resource, &["resourceType"]).unwrap_or_else(|| "External".to_owned());
    let found = names.iter().find_map(|(part, name)| {
        let (_, part) = named(resource, &[part])?;
        text_at(part, &[name])
    });
    let bucket = || objects_at(resource, &["s3BucketDetails"]).find_map(|bucket| text_at(bucket, &["name"]));
    About::outside(&kind, &found.or_else(bucket).unwrap_or_else(|| "unknown".to_owned()))
}

/// What an attack sequence is about, which lists all that had a part in it: the workload where it is one, else the cluster. Nothing of other findings.
fn in_sequence(fields: &Fields) -> Option<About> {
    let sequence = object_at(fields, &["service", "detection", "sequence"])?;
    let named = |resource: &Fields, part: &str| {
        let data = object_at(resource, &["data", part])?;
        let name = text_at(resource, &["name"]).or_else(|| text_at(resource, &["uid"]))?;
        let mut said = data.clone();
        said.insert("name".to_owned(), name.into());
        Some(said)
    };
    let all = |part: &'static str| objects_at(sequence, &["resources"]).filter_map(move |one| named(one, part));
    let mut workloads = all("kubernetesWorkload").filter_map(|workload| in_cluster(&workload, None));
    if let (Some(only), None) = (workloads.next(), workloads.next()) {
        return Some(only);
    }
    let cluster = all("eksCluster").next().and_then(|cluster| text_at(&cluster, &["name"]))?;
    Some(About::outside("Cluster", &cluster))
}

/// The pod or workload that GuardDuty names, and of its containers the one that is meant, or the only one.
fn in_cluster(workload: &Fields, container: Option<&Fields>) -> Option<About> {
    let (kind, api_version) = kinds::of_resource(&text_at(workload, &["type"])?);
    let name = text_at(workload, &["name"]).filter(|name| is_name(name, 253))?;
    let namespace = text_at(workload, &["namespace"]).unwrap_or_default();
    let uid = text_at(workload, &["uid"]).filter(|uid| is_uid(uid));
    let mut containers = objects_at(workload, &["containers"]);
    let only = containers.next().filter(|_| containers.next().is_none());
    let meant = container.or(only);
    let reference = |one: &Fields| {
        let prefix = text_at(one, &["imagePrefix"]).unwrap_or_default();
        text_at(one, &["image"]).map(|image| {
            if prefix.is_empty() || image.starts_with(&prefix) { image } else { format!("{prefix}/{image}") }
        })
    };
    let mut about = About::object(api_version, &kind, namespace, name, uid)
        .with_container(meant.and_then(|one| text_at(one, &["name"])), image(meant.and_then(reference)));
    if let (About::Pod { container_id: id, .. }, Some(said)) =
        (&mut about, container.and_then(|one| text_at(one, &["id"])))
    {
        *id = container_id(&said);
    }
    Some(about)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::aws::received;

    fn detail() -> Value {
        json!({"schemaVersion": "2.0", "id": "f1", "type": "PrivilegeEscalation:Kubernetes/PrivilegedContainer", "severity": 5.0, "title": "Privileged",
            "resource": {"resourceType": "EKSCluster", "eksClusterDetails": {"name": "prod"}, "kubernetesDetails": {"kubernetesWorkloadDetails": {
                "name": "web-1", "type": "pods", "uid": "33a3c89e-3280-474d-b8cb-fdf03394fc15", "namespace": "shop", "containers": [{"name": "app", "image": "nginx"}]}}},
            "service": {"archived": false, "count": 1, "eventLastSeen": "2023-03-22T21:27:18.630Z", "additionalInfo": {"value": "{}"}}})
    }

    fn event(detail: &Value) -> Value {
        json!({"version": "0", "source": "aws.guardduty", "detail-type": "GuardDuty Finding", "detail": detail})
    }

    fn one(body: &Value) -> Signal {
        received(body.to_string().as_bytes(), read).unwrap().signals.remove(0)
    }

    fn pascal(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let upper = |key: &str| format!("{}{}", key[..1].to_uppercase(), &key[1..]);
                fields.iter().map(|(key, value)| (upper(key), pascal(value))).collect()
            }
            Value::Array(list) => list.iter().map(pascal).collect(),
            other => other.clone(),
        }
    }

    #[test]
    fn a_finding_is_about_its_pod_in_either_case_and_with_or_without_its_envelope() {
        for body in [
            event(&detail()),
            detail(),
            pascal(&detail()),
            event(&pascal(&detail())),
            json!({"Findings": [pascal(&detail())]}),
        ] {
            let signal = one(&body);
            assert_eq!((signal.severity, signal.category, signal.resolved), (Severity::Medium, Category::Audit, false));
            let About::Pod { namespace, name, uid: Some(_), container: Some(app), image: Some(_), .. } = &signal.about
            else {
                panic!("{:?}", signal.about)
            };
            assert_eq!([namespace, name, app], ["shop", "web-1", "app"]);
            assert_eq!(signal.identity, ["f1"]);
        }
    }

    #[test]
    fn numbers_are_severities_by_guard_dutys_bounds() {
        for (number, severity) in [
            (json!(0.5), Severity::Info),
            (json!(1.0), Severity::Low),
            (json!(3.9), Severity::Low),
            (json!(4), Severity::Medium),
            (json!("7.0"), Severity::High),
            (json!(8.9), Severity::High),
            (json!(9.0), Severity::Critical),
        ] {
            let mut detail = detail();
            detail["severity"] = number;
            assert_eq!(one(&event(&detail)).severity, severity);
        }
    }

    #[test]
    fn what_is_archived_is_over_and_a_sample_is_marked() {
        let mut archived = detail();
        archived["service"]["archived"] = json!(true);
        assert!(one(&event(&archived)).resolved);
        for more in [json!({"sample": true}), json!({"value": "{\"sample\":true}"})] {
            let mut sample = detail();
            sample["service"]["additionalInfo"] = more;
            let signal = one(&event(&sample));
            assert_eq!((signal.message.as_str(), &signal.details["sample"]), ("[SAMPLE] Privileged", &json!(true)));
        }
    }

    #[test]
    fn without_a_workload_it_is_about_the_cluster_the_node_or_what_aws_names() {
        for (resource, expected) in [
            (
                json!({"resourceType": "EKSCluster", "eksClusterDetails": {"name": "prod"}, "kubernetesDetails": {"kubernetesWorkloadDetails": null}}),
                About::outside("Cluster", "prod"),
            ),
            (
                json!({"resourceType": "Instance", "instanceDetails": {"instanceId": "i-1", "tags": [{"key": "a"}]}}),
                About::outside("Instance", "i-1"),
            ),
            (
                json!({"resourceType": "Instance", "instanceDetails": {"instanceId": "i-1", "tags": [{"key": "kubernetes.io/cluster/prod"}],
                "networkInterfaces": [{"privateDnsName": "ip-10-0-0-1.ec2.internal"}]}}),
                About::Node { name: "ip-10-0-0-1.ec2.internal".to_owned() },
            ),
            (json!({"resourceType": "S3Bucket", "s3BucketDetails": [{"name": "b"}]}), About::outside("S3Bucket", "b")),
        ] {
            let mut detail = detail();
            detail["resource"] = resource;
            assert_eq!(one(&event(&detail)).about, expected);
        }
    }

    #[test]
    fn an_attack_sequence_is_about_its_workload_where_it_has_one_and_else_about_the_cluster() {
        let workload = |name: &str| json!({"uid": "u", "name": name, "resourceType": "KUBERNETES_WORKLOAD", "data": {"kubernetesWorkload": {"type": "PODS", "namespace": "shop"}}});
        let sequence = |workloads: Vec<Value>| {
            let cluster = json!({"uid": "arn:aws:eks:eu-central-1:1:cluster/prod", "name": "prod", "resourceType": "EKS_CLUSTER", "data": {"eksCluster": {"status": "ACTIVE"}}});
            let resources: Vec<Value> = std::iter::once(cluster).chain(workloads).collect();
            event(
                &json!({"id": "f1", "type": "AttackSequence:EKS/CompromisedCluster", "severity": 9.0, "title": "Compromised",
                "resource": {"resourceType": "AttackSequence"}, "service": {"detection": {"sequence": {"uid": "s", "resources": resources}}}}),
            )
        };
        let one_pod = one(&sequence(vec![workload("web-1")]));
        assert_eq!((one_pod.severity, one_pod.category), (Severity::Critical, Category::Runtime));
        assert!(
            matches!(&one_pod.about, About::Pod { namespace, name, .. } if namespace == "shop" && name == "web-1"),
            "{:?}",
            one_pod.about
        );
        assert_eq!(one(&pascal(&sequence(vec![workload("web-1")])["detail"])).about, one_pod.about);
        for many in [vec![], vec![workload("web-1"), workload("web-2")]] {
            assert_eq!(one(&sequence(many)).about, About::outside("Cluster", "prod"));
        }
    }

    #[test]
    fn other_bodies_are_refused_with_their_place() {
        for (body, at) in [
            (json!({"a": 1}), "type"),
            (json!({"type": "a:b/c"}), "resource"),
            (json!({"source": "aws.inspector2", "detail-type": "Inspector2 Finding", "detail": {}}), "source"),
            (event(&json!({})), "detail.type"),
        ] {
            assert_eq!(received(body.to_string().as_bytes(), read).unwrap_err().at, at, "{body}");
        }
    }
}
