//! Objects that read as sentences: `deployment("shop").image("registry.example/shop:1.0").replicas(2)`.
//!
//! Every function returns the Kubernetes type itself; the adjectives are traits on it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, Deployment, DeploymentSpec, StatefulSet, StatefulSetSpec};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job, JobSpec, JobTemplateSpec};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, Pod, PodSpec, PodTemplateSpec, Service, ServiceAccount, ServicePort, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use kube::api::ObjectMeta;
use sha2::{Digest as _, Sha256};

/// The label that every fixture sets on its pods and selects by.
pub const APP: &str = "app";

/// The image of a fixture that names none.
pub const IMAGE: &str = "registry.example/app:1.0";

/// The digest that the test bed's nodes report for an image reference that names none.
#[must_use]
pub fn digest_of(image: &str) -> String {
    match image.split_once('@') {
        Some((_, digest)) => digest.to_owned(),
        None => format!("sha256:{:x}", Sha256::digest(image)),
    }
}

/// A Deployment of one replica with one container, `app`.
#[must_use]
pub fn deployment(name: &str) -> Deployment {
    Deployment {
        metadata: named(name),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            selector: select(name),
            template: template(name),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// A StatefulSet of one replica with one container, `app`.
#[must_use]
pub fn stateful_set(name: &str) -> StatefulSet {
    StatefulSet {
        metadata: named(name),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            selector: select(name),
            template: template(name),
            service_name: Some(name.to_owned()),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// A DaemonSet with one container, `app`.
#[must_use]
pub fn daemon_set(name: &str) -> DaemonSet {
    DaemonSet {
        metadata: named(name),
        spec: Some(DaemonSetSpec { selector: select(name), template: template(name), ..DaemonSetSpec::default() }),
        ..DaemonSet::default()
    }
}

/// A Job with one container, `app`, that is not tried twice.
#[must_use]
pub fn job(name: &str) -> Job {
    Job { metadata: named(name), spec: Some(job_spec(name)), ..Job::default() }
}

/// A CronJob, at midnight.
#[must_use]
pub fn cron_job(name: &str) -> CronJob {
    CronJob {
        metadata: named(name),
        spec: CronJobSpec {
            schedule: "0 0 * * *".to_owned(),
            job_template: JobTemplateSpec { spec: Some(job_spec(name)), ..JobTemplateSpec::default() },
            ..CronJobSpec::default()
        },
        ..CronJob::default()
    }
}

/// A pod with one container, `app`.
#[must_use]
pub fn pod(name: &str) -> Pod {
    let template = template(name);
    let mut metadata = template.metadata.unwrap_or_default();
    metadata.name = Some(name.to_owned());
    Pod { metadata, spec: template.spec, ..Pod::default() }
}

/// A Service on port 80 for the pods of the fixture of the same name.
#[must_use]
pub fn service(name: &str) -> Service {
    Service {
        metadata: named(name),
        spec: Some(ServiceSpec {
            selector: Some(app(name)),
            ports: Some(vec![ServicePort {
                port: 80,
                target_port: Some(IntOrString::Int(8080)),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// A service account.
#[must_use]
pub fn service_account(name: &str) -> ServiceAccount {
    ServiceAccount { metadata: named(name), ..ServiceAccount::default() }
}

/// Words about the object itself; for every kind.
pub trait Described: Resource + Sized {
    /// Sets a label of the object.
    #[must_use]
    fn label(mut self, key: &str, value: &str) -> Self {
        self.meta_mut().labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets an annotation of the object.
    #[must_use]
    fn annotation(mut self, key: &str, value: &str) -> Self {
        self.meta_mut().annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets the object's namespace, where it isn't created through a [`crate::TestNamespace`].
    #[must_use]
    fn within(mut self, namespace: &str) -> Self {
        self.meta_mut().namespace = Some(namespace.to_owned());
        self
    }
}

impl<K: Resource> Described for K {}

/// Words about the pod in the object.
pub trait PodCarrier: Sized {
    /// The pod's metadata and specification.
    fn pod_parts(&mut self) -> (&mut ObjectMeta, &mut PodSpec);

    /// Sets the image of the first container.
    #[must_use]
    fn image(mut self, image: &str) -> Self {
        if let Some(container) = self.pod_parts().1.containers.first_mut() {
            container.image = Some(image.to_owned());
        }
        self
    }

    /// Adds a container.
    #[must_use]
    fn container(mut self, name: &str, image: &str) -> Self {
        self.pod_parts().1.containers.push(container(name, image));
        self
    }

    /// Adds an init container.
    #[must_use]
    fn init_container(mut self, name: &str, image: &str) -> Self {
        self.pod_parts().1.init_containers.get_or_insert_default().push(container(name, image));
        self
    }

    /// Sets an environment variable of the first container.
    #[must_use]
    fn env(mut self, name: &str, value: &str) -> Self {
        if let Some(container) = self.pod_parts().1.containers.first_mut() {
            let variable = EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() };
            container.env.get_or_insert_default().push(variable);
        }
        self
    }

    /// Sets a label of the pod.
    #[must_use]
    fn pod_label(mut self, key: &str, value: &str) -> Self {
        self.pod_parts().0.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets an annotation of the pod.
    #[must_use]
    fn pod_annotation(mut self, key: &str, value: &str) -> Self {
        self.pod_parts().0.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Runs the pod as a service account.
    #[must_use]
    fn service_account(mut self, name: &str) -> Self {
        self.pod_parts().1.service_account_name = Some(name.to_owned());
        self
    }

    /// Puts the pod on a node, past the scheduler.
    #[must_use]
    fn on_node(mut self, name: &str) -> Self {
        self.pod_parts().1.node_name = Some(name.to_owned());
        self
    }

    /// Gives the pod its node's network.
    #[must_use]
    fn host_network(mut self) -> Self {
        self.pod_parts().1.host_network = Some(true);
        self
    }

    /// Changes the pod's specification in any other way.
    #[must_use]
    fn with_pod(mut self, change: impl FnOnce(&mut PodSpec)) -> Self {
        change(self.pod_parts().1);
        self
    }
}

fn parts(template: &mut PodTemplateSpec) -> (&mut ObjectMeta, &mut PodSpec) {
    (template.metadata.get_or_insert_default(), template.spec.get_or_insert_default())
}

impl PodCarrier for Pod {
    fn pod_parts(&mut self) -> (&mut ObjectMeta, &mut PodSpec) {
        (&mut self.metadata, self.spec.get_or_insert_default())
    }
}

macro_rules! carries_template {
    ($($kind:ty),*) => {$(
        impl PodCarrier for $kind {
            fn pod_parts(&mut self) -> (&mut ObjectMeta, &mut PodSpec) {
                parts(&mut self.spec.get_or_insert_default().template)
            }
        }
    )*};
}

carries_template!(Deployment, StatefulSet, DaemonSet, Job);

impl PodCarrier for CronJob {
    fn pod_parts(&mut self) -> (&mut ObjectMeta, &mut PodSpec) {
        let job = &mut self.spec.job_template;
        parts(&mut job.spec.get_or_insert_default().template)
    }
}

/// Words about the number of pods.
pub trait Scaled: Sized {
    /// Sets the number of replicas.
    #[must_use]
    fn replicas(self, count: i32) -> Self;
}

impl Scaled for Deployment {
    fn replicas(mut self, count: i32) -> Self {
        self.spec.get_or_insert_default().replicas = Some(count);
        self
    }
}

impl Scaled for StatefulSet {
    fn replicas(mut self, count: i32) -> Self {
        self.spec.get_or_insert_default().replicas = Some(count);
        self
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn app(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(APP.to_owned(), name.to_owned())])
}

fn select(name: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(app(name)), ..LabelSelector::default() }
}

fn container(name: &str, image: &str) -> Container {
    Container { name: name.to_owned(), image: Some(image.to_owned()), ..Container::default() }
}

fn template(name: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(app(name)), ..ObjectMeta::default() }),
        spec: Some(PodSpec { containers: vec![container("app", IMAGE)], ..PodSpec::default() }),
    }
}

fn job_spec(name: &str) -> JobSpec {
    let mut template = template(name);
    template.spec.get_or_insert_default().restart_policy = Some("Never".to_owned());
    JobSpec { backoff_limit: Some(0), template, ..JobSpec::default() }
}
