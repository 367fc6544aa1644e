//! Readers of foreign text bear everything: the bodies of the fuzz targets, on texts that proptest makes up.

use proptest::prelude::*;
use quell_tests::bad_input;

const SAMPLES: &[&str] = &[
    r#"{"hostname":"node-1","output":"a shell","priority":"Critical","rule":"Terminal shell in container","source":"syscall","tags":["shell"],"time":"2026-11-21T10:00:00Z","output_fields":{"container.id":"ee97d9c4186f","k8s.ns.name":"shop","k8s.pod.name":"web-1","evt.time":1685022245478445995}}"#,
    r#"{"SchemaVersion":2,"ArtifactName":"registry.example/app:1","ArtifactType":"container_image","Metadata":{"RepoTags":["registry.example/app:1"]},"Results":[{"Target":"app","Class":"os-pkgs","Type":"alpine","Vulnerabilities":[{"VulnerabilityID":"CVE-2022-37434","PkgName":"zlib","InstalledVersion":"1","FixedVersion":"2","Severity":"CRITICAL","CVSS":{"nvd":{"V3Score":9.8}}}]}]}"#,
    r#"{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"a","namespace":"shop"},"spec":{"podSelector":{"matchLabels":{"app":"web"}},"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}}],"ports":[{"port":80,"endPort":90}]}]}}"#,
    r#"{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"a","namespace":"shop"},"spec":{"endpointSelector":{},"ingress":[{"fromEndpoints":[{}],"toPorts":[{"ports":[{"port":"80","protocol":"TCP"}]}]}]}}"#,
    r#"{"apiVersion":"crd.projectcalico.org/v1","kind":"NetworkPolicy","metadata":{"name":"a","namespace":"shop"},"spec":{"selector":"app == 'web' && has(x)","order":10,"ingress":[{"action":"Allow","protocol":"TCP","source":{"nets":["10.0.0.0/8"]},"destination":{"ports":[80,"90:100"]}}]}}"#,
];

const EXPRESSIONS: &[&str] = &[
    "finding.vulnerabilities.exists(v, v.severity == 'Critical' && v.id.matches('^CVE'))",
    "finding.vulnerabilities.filter(v, v.severity == 'High').map(v, v.id).size() > 3 ? 'many' : 'few'",
    "target.kind == \"Pod\" && finding.rule in ['a', 'b'] || has(workload.name) && -1 < 2.5e3",
    "duration('1h') + duration('2s') > duration('1m') && timestamp('2026-01-01T00:00:00Z').getFullYear() == 2026",
    "{'a': [1, 2u, null], 'b': {true: b'x'}}['a'][0] + int('7') % 3",
];

/// A sample with a piece taken out, doubled, or put in another's place.
fn spoilt(samples: &'static [&'static str]) -> impl Strategy<Value = String> {
    let indices = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<prop::sample::Index>());
    (prop::sample::select(samples), prop::sample::select(samples), indices, 0..4_u8).prop_map(
        |(one, other, at, how)| {
            let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
            let (mut from, mut to) = (at.0.index(one.len()), at.1.index(one.len()));
            if from > to {
                std::mem::swap(&mut from, &mut to);
            }
            let piece = &other[at.2.index(other.len())..];
            let piece = &piece[..piece.len().min(20)];
            let parts: [&[char]; 4] = match how {
                0 => [&one[..from], &one[to..], &[], &[]],
                1 => [&one[..to], &one[from..], &[], &[]],
                2 => [&one[..from], piece, &one[from..], &[]],
                _ => [&one[..from], piece, &one[to..], &[]],
            };
            parts.concat().into_iter().collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        bad_input::signal(&bytes);
        bad_input::policy(&bytes);
    }

    #[test]
    fn spoilt_reports_and_policies_are_read_or_refused(text in spoilt(SAMPLES)) {
        bad_input::signal(text.as_bytes());
        bad_input::policy(text.as_bytes());
    }

    #[test]
    fn any_text_is_an_expression_or_refused(text in "\\PC{0,200}") {
        bad_input::expression(&text);
        bad_input::text(&text);
        bad_input::playbook(&text);
    }

    #[test]
    fn spoilt_expressions_have_a_value_or_an_error(text in spoilt(EXPRESSIONS)) {
        bad_input::expression(&text);
        bad_input::text(&format!("a ${{{text}}} b"));
    }

    #[test]
    fn spoilt_playbooks_compile_or_are_refused(
        (_, text) in prop::sample::select(quell_playbooks::library::library()),
        cut in any::<prop::sample::Index>(),
        put in "\\PC{0,8}",
    ) {
        let text: Vec<char> = text.chars().collect();
        let at = cut.index(text.len());
        let spoilt: String = text[..at].iter().copied().chain(put.chars()).chain(text[at..].iter().copied()).collect();
        bad_input::playbook(&spoilt);
    }
}

#[test]
fn what_is_as_large_as_it_may_be_is_read() {
    let long = "x".repeat(1 << 20);
    for sample in SAMPLES {
        bad_input::signal(sample.replace("web-1", &long).replace("zlib", &long).as_bytes());
        bad_input::policy(sample.replace("web", &long).as_bytes());
    }
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    bad_input::signal(deep.as_bytes());
    bad_input::policy(deep.as_bytes());
    bad_input::expression(&"(".repeat(4096));
    bad_input::expression(&"!".repeat(4096));
    bad_input::expression(&"-".repeat(4096));
    bad_input::expression(&format!("1{}", "+1".repeat(2000)));
    bad_input::expression(&format!("true{}", " ? true : true".repeat(290)));
    bad_input::expression(&format!("finding{}", ".a".repeat(2000)));
    bad_input::text(&"${".repeat(100_000));
}
