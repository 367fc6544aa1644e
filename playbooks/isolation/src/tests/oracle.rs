//! The same questions to another implementation, cyclonus (<https://github.com/mattfenwick/cyclonus>), built from its pinned Go module.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::support::{Cluster, NAMESPACE_KEYS, POD_KEYS, PORTS, cluster, strangers};
use crate::{Direction, Endpoint, Pod, Protocol, Verdict};

const CLUSTERS: usize = 2000;
const SOURCES: [(&str, &str); 3] = [
    ("go.mod", include_str!("../../tests/oracle/go.mod")),
    ("go.sum", include_str!("../../tests/oracle/go.sum")),
    ("main.go", include_str!("../../tests/oracle/main.go")),
];
/// A value that no selector names: for cyclonus, it stands for a key that isn't there.
const ABSENT: &str = "none";

#[derive(Clone, Debug)]
struct Query<'a> {
    from: Result<&'a Pod, std::net::IpAddr>,
    to: Result<&'a Pod, std::net::IpAddr>,
    protocol: Protocol,
    port: u16,
}

fn name(end: Result<&Pod, std::net::IpAddr>) -> String {
    end.map_or_else(|address| address.to_string(), |pod| pod.reference().to_string())
}

fn endpoint(end: Result<&Pod, std::net::IpAddr>) -> Endpoint {
    end.map_or_else(Endpoint::Address, |pod| Endpoint::Pod(pod.reference()))
}

/// Every pair of ends that can have a connection, each with one port of every protocol.
fn queries(cluster: &Cluster) -> Vec<Query<'_>> {
    let ends: Vec<_> = cluster.pods.iter().map(Ok).chain(strangers().map(Err)).collect();
    let address = |end: Result<&Pod, std::net::IpAddr>| end.map_or_else(|address| address, |pod| pod.addresses[0]);
    let mut queries = Vec::new();
    for (at, from) in ends.iter().enumerate() {
        for (there, to) in ends.iter().enumerate() {
            let is_pair = at != there && address(*from).is_ipv4() == address(*to).is_ipv4();
            if !is_pair || from.is_err() && to.is_err() {
                continue;
            }
            for (turn, protocol) in Protocol::ALL.into_iter().enumerate() {
                let port = PORTS[(at + there + turn) % PORTS.len()];
                queries.push(Query { from: *from, to: *to, protocol, port });
            }
        }
    }
    queries
}

impl Query<'_> {
    fn json(&self) -> Value {
        let names = self.to.map_or([].as_slice(), |pod| &pod.ports);
        let port = names.iter().find(|port| port.protocol == self.protocol && port.number == self.port);
        json!({
            "from": name(self.from),
            "to": name(self.to),
            "protocol": self.protocol.as_str(),
            "port": self.port,
            "portName": port.map_or("", |port| &port.name),
        })
    }
}

/// As the API server stores it: `policyTypes` is never empty there, and the other implementation counts on it.
fn stored(policy: &Value) -> Value {
    let mut policy = policy.clone();
    let spec = &mut policy["spec"];
    if spec["policyTypes"].is_null() {
        let has_egress = spec["egress"].as_array().is_some_and(|rules| !rules.is_empty());
        spec["policyTypes"] = if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
    policy
}

fn question(cluster: &Cluster, queries: &[Query<'_>], in_full: bool) -> Value {
    let complete = |labels: &BTreeMap<String, String>, keys: &[&str]| {
        let mut labels = labels.clone();
        for key in keys.iter().filter(|_| in_full) {
            labels.entry((*key).to_owned()).or_insert_with(|| ABSENT.to_owned());
        }
        labels
    };
    let pods = cluster.pods.iter().map(|pod| {
        let pod_labels = complete(&pod.labels, POD_KEYS);
        (pod.reference().to_string(), json!({"namespace": pod.namespace, "labels": pod_labels, "ip": pod.addresses[0]}))
    });
    let namespaces = cluster.namespaces.iter().map(|(name, labels)| (name, complete(labels, NAMESPACE_KEYS)));
    let mut policies: Vec<_> = cluster.policies.iter().map(stored).collect();
    if in_full {
        policies.iter_mut().for_each(spell_out);
    }
    json!({
        "pods": pods.collect::<BTreeMap<_, _>>(),
        "namespaces": namespaces.collect::<BTreeMap<_, _>>(),
        "policies": policies,
        "queries": queries.iter().map(Query::json).collect::<Vec<_>>(),
    })
}

/// Says whether a key is there by its value, as every object has every key then.
fn spell_out(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let operator = match map.get("operator").and_then(Value::as_str) {
                Some("Exists") => Some("NotIn"),
                Some("DoesNotExist") => Some("In"),
                _ => None,
            };
            if let Some(operator) = operator {
                map.insert("operator".to_owned(), json!(operator));
                map.insert("values".to_owned(), json!([ABSENT]));
            }
            map.values_mut().for_each(spell_out);
        }
        Value::Array(items) => items.iter_mut().for_each(spell_out),
        _ => {}
    }
}

fn ask(oracle: &Path, questions: &[Value]) -> Vec<Vec<Value>> {
    let mut child =
        Command::new(oracle).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the oracle starts");
    let mut input = child.stdin.take().expect("its input");
    let text = questions.iter().fold(String::new(), |text, question| text + &question.to_string() + "\n");
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("the oracle ends");
    writer.join().expect("the writer ends").expect("the oracle reads all");
    assert!(output.status.success(), "the oracle failed: {}", output.status);
    let answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
    let answers: Vec<_> = answers.collect::<Result<_, _>>().expect("the oracle writes JSON");
    assert_eq!(answers.len(), questions.len());
    answers
}

fn agrees(answer: &Value, verdict: &Verdict) -> bool {
    let (egress, ingress) = (answer["egress"] == true, answer["ingress"] == true);
    match verdict {
        Verdict::Allowed { .. } => egress && ingress,
        Verdict::Denied { direction: Direction::Egress, .. } => !egress,
        Verdict::Denied { direction: Direction::Ingress, .. } => egress && !ingress,
        Verdict::Unknown { .. } => false,
    }
}

/// cyclonus has `NotIn` not match an object without the key. The documentation has it match: "`tier notin (frontend, backend)` [...]
/// selects all resources with key equal to `tier` and values distinct from `frontend` and `backend`, and all resources with no labels
/// with the `tier` key." So each cluster is asked about twice: as it is, where only clusters with `NotIn` may differ, and with every key
/// spelled out on every object, which leaves no room for it, where none may.
#[test]
fn an_independent_implementation_gives_the_same_verdicts() {
    let oracle = build();
    let mut runner = TestRunner::deterministic();
    let strategy = cluster();
    let clusters: Vec<_> =
        (0..CLUSTERS).map(|_| strategy.new_tree(&mut runner).expect("a cluster").current()).collect();
    let queries: Vec<_> = clusters.iter().map(queries).collect();
    let questions = |in_full| -> Vec<_> {
        clusters.iter().zip(&queries).map(|(cluster, queries)| question(cluster, queries, in_full)).collect()
    };
    let (as_is, in_full) = (ask(&oracle, &questions(false)), ask(&oracle, &questions(true)));

    let (mut asked, mut allowed, mut explained) = (0, 0, 0);
    for (at, cluster) in clusters.iter().enumerate() {
        let model = cluster.model();
        let has_not_in = json!(cluster.policies).to_string().contains("NotIn");
        for (number, query) in queries[at].iter().enumerate() {
            let verdict = model.verdict(&endpoint(query.from), &endpoint(query.to), query.protocol, query.port);
            let told = || format!("cluster {at}, {}: {verdict}; {cluster:#?}", query.json());
            assert!(agrees(&in_full[at][number], &verdict), "{} {}", in_full[at][number], told());
            if !agrees(&as_is[at][number], &verdict) {
                assert!(has_not_in, "{} {}", as_is[at][number], told());
                explained += 1;
            }
            asked += 1;
            allowed += usize::from(matches!(verdict, Verdict::Allowed { .. }));
        }
    }
    println!(
        "oracle: {CLUSTERS} clusters, {asked} verdicts, {allowed} allowed, 0 differ, {explained} by NotIn as explained"
    );
    assert!(allowed > asked / 10 && allowed < asked * 9 / 10, "{allowed} of {asked}: the generator asks too little");
    assert!(explained > 0, "cyclonus has NotIn right by now: the explanation can go");
}

/// The oracle, from the user's cache folder, or built into it.
fn build() -> PathBuf {
    let mut hasher = DefaultHasher::new();
    SOURCES.hash(&mut hasher);
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache"))).expect("a home folder");
    let folder = cache.join("quell/bin").join(format!("isolation-oracle-{:016x}", hasher.finish()));
    std::fs::create_dir_all(&folder).expect("a folder in the cache");
    // Held until the end of this function: two test runs at once build it one after the other.
    let lock = File::create(folder.join("lock")).expect("a lock file");
    lock.lock().expect("a lock");
    let target = folder.join("oracle");
    if target.is_file() {
        return target;
    }
    let there = Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(
        there.is_ok_and(|status| status.success()),
        "install Go 1.22 or later: the verdicts are compared with those of cyclonus, which is built from its Go module"
    );
    let workshop = tempfile::Builder::new().prefix(".build-").tempdir_in(&folder).expect("a folder");
    for (name, text) in SOURCES {
        std::fs::write(workshop.path().join(name), text).expect("a source file");
    }
    let output = Command::new("go")
        .args(["build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", "oracle", "."])
        .current_dir(workshop.path())
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .output()
        .expect("go starts");
    assert!(output.status.success(), "can't build the oracle: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(workshop.path().join("oracle"), &target).expect("the oracle moves into the cache");
    target
}
