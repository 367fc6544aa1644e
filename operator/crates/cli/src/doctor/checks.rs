//! What the API server tells: kinds, operator, leader, guards, rights, and what people have declared.

use std::collections::BTreeMap;
use std::fmt::Debug;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, ListParams, PostParams};
use kube::{Resource, ResourceExt as _};
use quell_actions::rights::{self, Place};
use quell_crds::conditions::{ConditionType, find};
use quell_crds::v1alpha1::{Channel, ClusterChannel, ClusterPlaybook, Playbook, Source};
use serde::de::DeserializeOwned;

use super::Checked;
use crate::CliError;
use crate::client::{Connection, ask, list};
use crate::text::{count, one_line};
use crate::told::Told;

/// Ends of the names of the chart's guards: `charts/quell/files/guards`.
const GUARDS: &[&str] = &[
    "-blocked-images",
    "-image-blocks",
    "-policies-for-quarantined",
    "-quarantine-policies",
    "-quarantined-pods",
    "-quarantined-sessions",
    "-too-many-images",
];
/// Name of the Lease.
const LEASE: &str = "quell";
/// How far the clocks of this machine and the leader's may be apart.
const CLOCKS: TimeDelta = TimeDelta::seconds(30);

/// Without an API server there is nothing to look at.
pub(super) async fn server(connection: &Connection) -> Result<Checked, CliError> {
    let version = ask("asking for the API server's version", connection.client.apiserver_version()).await?;
    Ok(Checked::ok("API server", format!("Kubernetes {}", version.git_version)))
}

pub(super) async fn crds(connection: &Connection) -> Vec<Checked> {
    let what = "kinds";
    let api: Api<CustomResourceDefinition> = Api::all(connection.client.clone());
    let all = quell_crds::all();
    let asked = all.iter().map(|crd| {
        let name = crd.name_any();
        let api = &api;
        async move { ask(format!("reading CustomResourceDefinition {name}"), api.get_opt(&name)).await }
    });
    let (mut missing, mut others, mut sleeping) = (Vec::new(), Vec::new(), Vec::new());
    for (wanted, found) in all.iter().zip(join_all(asked).await) {
        let kind = wanted.spec.names.kind.clone();
        match found {
            Err(error) => return vec![Checked::unknown(what, &error)],
            Ok(None) => missing.push(kind),
            Ok(Some(there)) => {
                if wanted.spec.versions.iter().zip(&there.spec.versions).any(|(one, other)| one.schema != other.schema)
                {
                    others.push(kind.clone());
                }
                let conditions = there.status.and_then(|status| status.conditions).unwrap_or_default();
                if !conditions.iter().any(|one| one.type_ == "Established" && one.status == "True") {
                    sleeping.push(kind);
                }
            }
        }
    }
    let mut told = Vec::new();
    let repair = "kubectl apply --server-side -f crds/yaml, or helm upgrade with crds.install=true";
    if !missing.is_empty() {
        told.push(Checked::bad(what, format!("not installed: {}; {repair}", missing.join(", "))));
    }
    if !others.is_empty() {
        let found = format!(
            "of another version than this program ({}): {}; {repair}",
            env!("CARGO_PKG_VERSION"),
            others.join(", ")
        );
        told.push(Checked::bad(what, found));
    }
    if !sleeping.is_empty() {
        told.push(Checked::bad(
            what,
            format!("installed, and not served: {}; see kubectl describe crd", sleeping.join(", ")),
        ));
    }
    if told.is_empty() {
        told.push(Checked::ok(what, format!("all {} are installed, as this version has them", all.len())));
    }
    told
}

pub(super) fn operator(told: &Told, namespace: &str) -> Vec<Checked> {
    let what = "operator";
    if told.deployments.is_empty() {
        let found = format!(
            "there is no Deployment of Quell in namespace {namespace}: it runs elsewhere, or not at all; --quell-namespace says where to look"
        );
        return vec![Checked::note(what, found)];
    }
    let of = |one: &k8s_openapi::api::apps::v1::Deployment| {
        let wanted = one.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let ready = one.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
        let title = format!("Deployment {namespace}/{}: {ready} of {wanted} replicas are ready", one.name_any());
        let version = one.labels().get("app.kubernetes.io/version");
        if ready < 1 {
            Checked::bad(what, format!("{title}; kubectl -n {namespace} describe deployment {}", one.name_any()))
        } else if version.is_some_and(|version| version != env!("CARGO_PKG_VERSION")) {
            let version = version.map(String::as_str).unwrap_or_default();
            Checked::note(
                what,
                format!("{title}; it is of version {version}, this program of {}", env!("CARGO_PKG_VERSION")),
            )
        } else if ready < wanted {
            Checked::note(what, title)
        } else {
            Checked::ok(what, title)
        }
    };
    told.deployments.iter().map(of).collect()
}

pub(super) async fn leader(connection: &Connection, namespace: &str) -> Vec<Checked> {
    let what = "leader";
    let api: Api<Lease> = Api::namespaced(connection.client.clone(), namespace);
    match ask(format!("reading Lease {namespace}/{LEASE}"), api.get_opt(LEASE)).await {
        Err(error) => vec![Checked::unknown(what, &error)],
        Ok(lease) => vec![of_lease(lease.as_ref(), namespace, Utc::now())],
    }
}

fn of_lease(lease: Option<&Lease>, namespace: &str, now: DateTime<Utc>) -> Checked {
    let what = "leader";
    let Some(spec) = lease.and_then(|lease| lease.spec.as_ref()) else {
        return Checked::bad(
            what,
            format!("nobody ever led: there is no Lease {namespace}/{LEASE}; nothing is contained"),
        );
    };
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder.is_empty() {
        return Checked::bad(what, "nobody leads: the last leader gave the Lease up; nothing is contained");
    }
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    let renewed = spec.renew_time.as_ref().and_then(|time| {
        DateTime::from_timestamp(time.0.as_second(), u32::try_from(time.0.subsec_nanosecond()).unwrap_or_default())
    });
    match renewed {
        Some(renewed) if renewed + TimeDelta::seconds(seconds.into()) + CLOCKS >= now => Checked::ok(what, holder),
        Some(renewed) => {
            let found =
                format!("{holder} led, and has been silent since {}; nothing is contained", renewed.to_rfc3339());
            Checked::bad(what, found)
        }
        None => Checked::bad(what, format!("{holder} has the Lease, and never renewed it")),
    }
}

pub(super) async fn guards(connection: &Connection) -> Vec<Checked> {
    let what = "guards";
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(connection.client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(connection.client.clone());
    let all = ListParams::default();
    let (policies, bindings) = match tokio::try_join!(list(&policies, &all), list(&bindings, &all)) {
        Ok(found) => found,
        Err(error) => return vec![Checked::unknown(what, &error)],
    };
    let bound = |policy: &str| bindings.iter().any(|binding| binding.spec.policy_name == policy);
    let stands =
        |end: &&&str| policies.iter().any(|policy| policy.name_any().ends_with(**end) && bound(&policy.name_any()));
    let missing: Vec<&str> = GUARDS.iter().filter(|end| !stands(end)).map(|end| end.trim_start_matches('-')).collect();
    if missing.is_empty() {
        return vec![Checked::ok(what, format!("all {} stand, while Quell is down, too", GUARDS.len()))];
    }
    let found = format!(
        "{} of {} don't stand ({}): anybody with the rights can lift a quarantine; set guard.enabled=true in the chart",
        missing.len(),
        GUARDS.len(),
        missing.join(", ")
    );
    vec![Checked::note(what, found)]
}

/// The rights of the steps of ClusterPlaybooks, asked for each.
pub(super) async fn rights(connection: &Connection, told: &Told, namespace: &str) -> Vec<Checked> {
    let what = "rights";
    let Some(account) = told.service_account() else { return Vec::new() };
    let user = format!("system:serviceaccount:{namespace}:{account}");
    let mut wanted: Vec<_> = rights::ALL.iter().copied().flatten().collect();
    wanted.retain(|right| matches!(right.place, Place::Finding | Place::Cluster | Place::Everywhere));
    let api: Api<SubjectAccessReview> = Api::all(connection.client.clone());
    let asked = wanted.iter().map(|right| {
        let attributes = ResourceAttributes {
            group: Some(right.group.to_owned()),
            resource: Some(right.resource.to_owned()),
            verb: Some(right.verb.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.clone()),
            groups: Some(vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api = &api;
        async move { ask("asking what Quell may", api.create(&PostParams::default(), &review)).await }
    });
    let mut lacks = Vec::new();
    for (right, answer) in wanted.iter().zip(join_all(asked).await) {
        match answer {
            Err(error) => return vec![Checked::unknown(what, &error)],
            Ok(review) if review.status.as_ref().is_some_and(|status| status.allowed) => {}
            Ok(_) => {
                let group = if right.group.is_empty() { String::new() } else { format!(" ({})", right.group) };
                lacks.push(format!("{} {}{group}", right.verb, right.resource));
            }
        }
    }
    if lacks.is_empty() {
        return vec![Checked::ok(
            what,
            format!("{user} has the {} that steps of ClusterPlaybooks need", count(wanted.len(), "right")),
        )];
    }
    let found =
        format!("{user} may not {}; steps that need it fail; see the table in docs/install.md", lacks.join(", "));
    vec![Checked::bad(what, found)]
}

/// Sources, Channels and playbooks, and whether they are Ready.
pub(super) async fn declared(connection: &Connection) -> Vec<Checked> {
    let client = &connection.client;
    let (sources, channels, cluster_channels, playbooks, cluster_playbooks) = tokio::join!(
        ready::<Source>(client, |one| conditions(one.status.as_ref().map(|status| &status.conditions))),
        ready::<Channel>(client, |one| conditions(one.status.as_ref().map(|status| &status.conditions))),
        ready::<ClusterChannel>(client, |one| conditions(one.status.as_ref().map(|status| &status.conditions))),
        ready::<Playbook>(client, |one| conditions(one.status.as_ref().map(|status| &status.conditions))),
        ready::<ClusterPlaybook>(client, |one| conditions(one.status.as_ref().map(|status| &status.conditions))),
    );
    let mut told = of_kinds("sources", vec![sources], "nothing is reported but by hand");
    told.extend(of_kinds("channels", vec![channels, cluster_channels], "nobody is told"));
    told.extend(of_kinds("playbooks", vec![playbooks, cluster_playbooks], "nothing is done"));
    told
}

fn conditions(all: Option<&Vec<Condition>>) -> Vec<Condition> {
    all.cloned().unwrap_or_default()
}

/// How many there are, and what is said of those that aren't Ready.
type Ready = Result<(usize, BTreeMap<String, String>), CliError>;

async fn ready<K>(client: &kube::Client, conditions: fn(&K) -> Vec<Condition>) -> Ready
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let all = list(&Api::<K>::all(client.clone()), &ListParams::default()).await?;
    let mut troubled = BTreeMap::new();
    for one in &all {
        let place = one.namespace().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let title = format!("{} {place}{}", K::kind(&()), one.name_any());
        match find(&conditions(one), ConditionType::Ready) {
            Some(condition) if condition.status == "True" => {}
            Some(condition) => {
                troubled.insert(title, format!("{}: {}", condition.reason, one_line(&condition.message)));
            }
            None => {
                troubled.insert(title, "no operator has looked at it yet".to_owned());
            }
        }
    }
    Ok((all.len(), troubled))
}

fn of_kinds(what: &'static str, kinds: Vec<Ready>, without: &str) -> Vec<Checked> {
    let (mut there, mut told) = (0, Vec::new());
    for kind in kinds {
        match kind {
            Err(error) => return vec![Checked::unknown(what, &error)],
            Ok((many, troubled)) => {
                there += many;
                told.extend(
                    troubled.into_iter().map(|(title, why)| Checked::bad(what, format!("{title} is not Ready: {why}"))),
                );
            }
        }
    }
    match (there, told.is_empty()) {
        (0, _) => vec![Checked::note(what, format!("there are none: {without}"))],
        (_, true) => vec![Checked::ok(what, format!("all {there} are Ready"))],
        _ => told,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Level;
    use super::*;

    fn lease(holder: &str, renewed: &str) -> Lease {
        serde_json::from_value(json!({
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed},
        }))
        .expect("a Lease")
    }

    #[test]
    fn a_leader_that_is_silent_is_none() {
        let now = DateTime::from_timestamp(1_700_000_000, 0).expect("a time");
        let level = |lease: Option<&Lease>| of_lease(lease, "quell", now).level;
        assert_eq!(level(None), Level::Bad);
        assert_eq!(level(Some(&lease("quell-1", "2023-11-14T22:13:15.000000Z"))), Level::Ok);
        assert_eq!(level(Some(&lease("quell-1", "2023-11-14T22:00:00.000000Z"))), Level::Bad);
        assert_eq!(level(Some(&lease("", "2023-11-14T22:13:15.000000Z"))), Level::Bad);
    }

    #[test]
    fn what_is_not_ready_is_named_with_the_reason() {
        let troubled = BTreeMap::from([("Source falco".to_owned(), "SecretMissing: no Secret".to_owned())]);
        let told = of_kinds("sources", vec![Ok((2, troubled))], "");
        assert_eq!(told.len(), 1);
        assert!(
            told[0].level == Level::Bad && told[0].found.contains("Source falco is not Ready: SecretMissing"),
            "{told:?}"
        );
        assert_eq!(of_kinds("sources", vec![Ok((0, BTreeMap::new()))], "")[0].level, Level::Note);
        assert_eq!(
            of_kinds("sources", vec![Ok((1, BTreeMap::new())), Ok((0, BTreeMap::new()))], "")[0].level,
            Level::Ok
        );
    }
}
