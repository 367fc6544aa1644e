//! Where etcd, Kubernetes, kwok, Helm, network plugins and the probe come from.
//!
//! In this order: the folder that `KUBEBUILDER_ASSETS` names, the user's cache folder, and a build from the Go modules
//! pinned in `binaries/*/go.mod`, which fills the cache. The pins are part of this library, so it works from anywhere.

mod build;
mod progress;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

/// A program that the test bed uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tool {
    /// The store behind the API server.
    Etcd,
    /// The API server.
    KubeApiserver,
    /// Built-in controllers.
    KubeControllerManager,
    /// The scheduler.
    KubeScheduler,
    /// The command-line client.
    Kubectl,
    /// Fake nodes and their pods.
    Kwok,
    /// The chart installer; used by chart tests only.
    Helm,
    /// The agent that runs pods on a real node.
    Kubelet,
    /// What makes Services work on a real node.
    KubeProxy,
    /// Calico's policy engine.
    CalicoFelix,
    /// Calico's CNI plugin.
    CalicoCni,
    /// Calico's CRDs; a file to apply, no program.
    CalicoCrds,
    /// Cilium's agent.
    CiliumAgent,
    /// Cilium's CNI plugin.
    CiliumCni,
    /// Cilium's tool for looking into the agent.
    CiliumDbg,
    /// Cilium's CRDs; a folder of files to apply.
    CiliumCrds,
    /// The sources that Cilium's agent compiles for the kernel; a folder.
    CiliumBpf,
    /// Servers and clients that tell which connections succeed.
    Probe,
}

/// How a tool comes out of its module.
#[derive(Clone, Copy, Debug)]
enum Recipe {
    /// This package is built.
    Build(&'static str),
    /// This file or folder of that module is taken as it is.
    Copy { module: &'static str, path: &'static str },
}

struct Module {
    name: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
    /// Files of its own, by name; of most there are none.
    sources: &'static [(&'static str, &'static str)],
    ldflags: &'static str,
}

macro_rules! module {
    ($name:literal, $ldflags:expr) => {
        Module {
            name: $name,
            go_mod: include_str!(concat!("../binaries/", $name, "/go.mod")),
            go_sum: include_str!(concat!("../binaries/", $name, "/go.sum")),
            sources: &[],
            ldflags: $ldflags,
        }
    };
}

static ETCD: Module = module!("etcd", "-s -w");
// Without these the API server calls itself v0.0.0-master, which clients that compare versions refuse.
const KUBERNETES_VERSION: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
     -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36";
static KUBERNETES: Module = module!("kubernetes", KUBERNETES_VERSION);
// Beside the control plane, so that what runs without a node isn't built anew for its sake.
static NODE: Module = module!("node", KUBERNETES_VERSION);
static CALICO: Module = module!("calico", "-s -w");
static CILIUM: Module = module!("cilium", "-s -w -X github.com/cilium/cilium/pkg/version.ciliumVersion=1.20.2");
static PROBE: Module = Module {
    name: "probe",
    go_mod: include_str!("../binaries/probe/go.mod"),
    go_sum: "",
    sources: &[
        ("main.go", include_str!("../binaries/probe/main.go")),
        ("client.go", include_str!("../binaries/probe/client.go")),
        ("server.go", include_str!("../binaries/probe/server.go")),
    ],
    ldflags: "-s -w",
};
static KWOK: Module = module!("kwok", "-s -w");
static HELM: Module = module!("helm", "-s -w");

impl Module {
    /// Changes whenever a build would give another binary.
    fn key(&self) -> String {
        let mut hash = Sha256::new();
        let sources = self.sources.iter().flat_map(|(name, content)| [*name, *content]);
        for part in [self.go_mod, self.go_sum, self.ldflags, goos(), goarch()].into_iter().chain(sources) {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        let hash = format!("{:x}", hash.finalize());
        format!("{}-{}", self.name, &hash[..16])
    }
}

impl Tool {
    /// All that a control plane consists of, and kubectl.
    pub const CONTROL_PLANE: &[Self] =
        &[Self::Etcd, Self::KubeApiserver, Self::KubeControllerManager, Self::KubeScheduler, Self::Kubectl, Self::Kwok];

    /// All that a real node needs beside containerd; its network plugin comes on top.
    pub const NODE: &[Self] = &[Self::Kubelet, Self::KubeProxy, Self::Probe];

    /// Calico on a real node.
    pub const CALICO: &[Self] = &[Self::CalicoFelix, Self::CalicoCni, Self::CalicoCrds];

    /// Cilium on a real node.
    pub const CILIUM: &[Self] =
        &[Self::CiliumAgent, Self::CiliumCni, Self::CiliumDbg, Self::CiliumCrds, Self::CiliumBpf];

    /// The file name of the program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubectl => "kubectl",
            Self::Kwok => "kwok",
            Self::Helm => "helm",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::CalicoFelix => "calico-felix",
            Self::CalicoCni => "calico",
            Self::CalicoCrds => "calico-crds.yaml",
            Self::CiliumAgent => "cilium-agent",
            Self::CiliumCni => "cilium-cni",
            Self::CiliumDbg => "cilium-dbg",
            Self::CiliumCrds => "cilium-crds",
            Self::CiliumBpf => "cilium-bpf",
            Self::Probe => "probe",
        }
    }

    fn recipe(self) -> Recipe {
        Recipe::Build(match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3",
            Self::KubeApiserver => "k8s.io/kubernetes/cmd/kube-apiserver",
            Self::KubeControllerManager => "k8s.io/kubernetes/cmd/kube-controller-manager",
            Self::KubeScheduler => "k8s.io/kubernetes/cmd/kube-scheduler",
            Self::Kubectl => "k8s.io/kubernetes/cmd/kubectl",
            Self::Kwok => "sigs.k8s.io/kwok/cmd/kwok",
            Self::Helm => "helm.sh/helm/v3/cmd/helm",
            Self::Kubelet => "k8s.io/kubernetes/cmd/kubelet",
            Self::KubeProxy => "k8s.io/kubernetes/cmd/kube-proxy",
            Self::CalicoFelix => "github.com/projectcalico/calico/felix/cmd/calico-felix",
            Self::CalicoCni => "github.com/projectcalico/calico/cni-plugin/cmd/calico",
            Self::CalicoCrds => {
                return Recipe::Copy { module: "github.com/projectcalico/calico", path: "manifests/crds.yaml" };
            }
            Self::CiliumAgent => "github.com/cilium/cilium/daemon",
            Self::CiliumCni => "github.com/cilium/cilium/plugins/cilium-cni",
            Self::CiliumDbg => "github.com/cilium/cilium/cilium-dbg",
            Self::CiliumCrds => {
                let path = "pkg/k8s/apis/cilium.io/client/crds";
                return Recipe::Copy { module: "github.com/cilium/cilium", path };
            }
            Self::CiliumBpf => return Recipe::Copy { module: "github.com/cilium/cilium", path: "bpf" },
            Self::Probe => ".",
        })
    }

    fn module(self) -> &'static Module {
        match self {
            Self::Etcd => &ETCD,
            Self::KubeApiserver | Self::KubeControllerManager | Self::KubeScheduler | Self::Kubectl => &KUBERNETES,
            Self::Kwok => &KWOK,
            Self::Helm => &HELM,
            Self::Kubelet | Self::KubeProxy => &NODE,
            Self::CalicoFelix | Self::CalicoCni | Self::CalicoCrds => &CALICO,
            Self::CiliumAgent | Self::CiliumCni | Self::CiliumDbg | Self::CiliumCrds | Self::CiliumBpf => &CILIUM,
            Self::Probe => &PROBE,
        }
    }
}

/// The programs found or built, by tool.
#[derive(Clone, Debug, Default)]
pub struct Binaries {
    paths: BTreeMap<Tool, PathBuf>,
}

impl Binaries {
    /// Finds each of `tools`, and builds those that are nowhere to be found.
    ///
    /// The first build of everything takes some minutes; progress is shown on standard error.
    pub async fn ensure(tools: &[Tool]) -> Result<Self> {
        let tools = tools.to_vec();
        tokio::task::spawn_blocking(move || Self::ensure_blocking(&tools, &Places::from_environment()?))
            .await
            .context("the search for binaries was interrupted")?
    }

    fn ensure_blocking(tools: &[Tool], places: &Places) -> Result<Self> {
        let mut paths: BTreeMap<Tool, PathBuf> =
            tools.iter().filter_map(|tool| Some((*tool, places.find(*tool)?))).collect();
        let missing: Vec<Tool> = tools.iter().copied().filter(|tool| !paths.contains_key(tool)).collect();
        if !missing.is_empty() {
            paths.extend(build::build(&missing, places)?);
        }
        Ok(Self { paths })
    }

    /// The path of `tool`, which must have been among those ensured.
    pub fn path(&self, tool: Tool) -> Result<&Path> {
        let path = self
            .paths
            .get(&tool)
            .with_context(|| format!("{} was not asked for: name it in the call of Binaries::ensure", tool.name()))?;
        Ok(path)
    }
}

/// The folders that are searched.
#[derive(Clone, Debug)]
struct Places {
    assets: Option<PathBuf>,
    cache: PathBuf,
}

impl Places {
    fn from_environment() -> Result<Self> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = variable("XDG_CACHE_HOME")
            .or_else(|| Some(variable("HOME")?.join(".cache")))
            .context("neither XDG_CACHE_HOME nor HOME is set: set one, so that built binaries can be kept")?;
        Ok(Self { assets: variable("KUBEBUILDER_ASSETS"), cache: cache.join("quell/bin") })
    }

    fn cached(&self, tool: Tool) -> PathBuf {
        self.cache.join(tool.module().key()).join(tool.name())
    }

    fn find(&self, tool: Tool) -> Option<PathBuf> {
        let asset = self.assets.as_ref().map(|folder| folder.join(tool.name()));
        asset.into_iter().chain([self.cached(tool)]).find(|path| path.exists())
    }
}

fn goos() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

pub(crate) fn goarch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_tells_modules_apart_and_names_them() {
        assert!(ETCD.key().starts_with("etcd-"));
        assert_ne!(ETCD.key().rsplit('-').next(), KWOK.key().rsplit('-').next());
    }

    #[test]
    fn assets_come_before_the_cache_and_the_cache_fills_their_gaps() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { assets: Some(folder.path().join("assets")), cache: folder.path().join("cache") };
        for path in [folder.path().join("assets/etcd"), places.cached(Tool::Etcd), places.cached(Tool::Kwok)] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        assert_eq!(places.find(Tool::Etcd), Some(folder.path().join("assets/etcd")));
        assert_eq!(places.find(Tool::Kwok), Some(places.cached(Tool::Kwok)));
        assert_eq!(places.find(Tool::Helm), None);
    }
}
