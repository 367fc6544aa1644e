//! Calico as policy engine and CNI plugin, on the Kubernetes datastore, without the daemons that more than one node would need.

use anyhow::{Context as _, Result, ensure};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::enclosure::NAME;
use super::join::Starter;
use crate::binaries::Tool;
use crate::{ControlPlane, crds, wait};

/// What the binaries' pins are.
const VERSION: &str = "v3.28.5";
const READY: &str = "127.0.0.1:9099";
/// Felix ends with 129 to begin anew with another configuration; any other end is one.
const AGAIN: &str = r#"while :; do "$@"; status=$?; [ $status = 129 ] || exit $status; done"#;

/// The datastore's kinds and its two objects, without which Felix waits for ever.
pub(super) async fn prepare(starter: &Starter<'_>, control_plane: &ControlPlane) -> Result<()> {
    let text = std::fs::read_to_string(starter.binaries.path(Tool::CalicoCrds)?).context("can't read Calico's CRDs")?;
    let definitions = serde_saphyr::from_multiple(&text).context("can't parse Calico's CRDs")?;
    crds::install_these(control_plane, definitions).await?;
    let objects = [
        (
            "ClusterInformation",
            "clusterinformations",
            json!({
                "clusterGUID": "00000000000000000000000000000001", "clusterType": "k8s,kdd", "datastoreReady": true,
                "calicoVersion": VERSION,
            }),
        ),
        ("FelixConfiguration", "felixconfigurations", json!({ "usageReportingEnabled": false, "ipv6Support": false })),
    ];
    for (kind, plural, spec) in objects {
        apply(control_plane, kind, plural, &spec).await?;
    }
    Ok(())
}

async fn apply(control_plane: &ControlPlane, kind: &str, plural: &str, spec: &Value) -> Result<()> {
    let group = GroupVersionKind::gvk("crd.projectcalico.org", "v1", kind);
    let api: Api<DynamicObject> =
        Api::all_with(control_plane.client().await?, &ApiResource::from_gvk_with_plural(&group, plural));
    let object = json!({
        "apiVersion": group.api_version(), "kind": kind, "metadata": { "name": "default" }, "spec": spec,
    });
    api.patch("default", &PatchParams::apply("quell-tests").force(), &Patch::Apply(&object)).await?;
    Ok(())
}

pub(super) fn network(starter: &Starter<'_>, control_plane: &ControlPlane) -> Result<()> {
    let plugin = starter.cni_programs().join("calico");
    std::os::unix::fs::symlink(starter.binaries.path(Tool::CalicoCni)?, plugin)
        .context("can't link Calico's plugin")?;
    let nodename = starter.file("nodename");
    std::fs::write(&nodename, NAME).context("can't write the node's name")?;
    starter.network(&json!([{
        "type": "calico", "datastore_type": "kubernetes", "nodename": NAME, "nodename_file": nodename, "mtu": 1500,
        "log_level": "info", "log_file_path": starter.file("calico-cni.log"),
        "ipam": { "type": "host-local", "subnet": "usePodCidr" },
        "policy": { "type": "k8s" },
        "kubernetes": { "kubeconfig": control_plane.kubeconfig_path() },
    }]))
}

/// Starts Felix once the node is there, and waits until it is in sync.
pub(super) async fn felix(starter: &Starter<'_>, control_plane: &ControlPlane) -> Result<()> {
    let (address, port) = READY.split_once(':').context("an address has a port")?;
    starter.start(
        "calico-felix",
        starter
            .enclosure
            .command("sh")
            .args(["-c", AGAIN, "felix"])
            .arg(starter.binaries.path(Tool::CalicoFelix)?)
            .envs([
                ("DATASTORE_TYPE", "kubernetes"),
                ("FELIX_DATASTORETYPE", "kubernetes"),
                ("FELIX_FELIXHOSTNAME", NAME),
                ("FELIX_IPV6SUPPORT", "false"),
                ("FELIX_USAGEREPORTINGENABLED", "false"),
                ("FELIX_DEFAULTENDPOINTTOHOSTACTION", "ACCEPT"),
                ("FELIX_LOGFILEPATH", "none"),
                ("FELIX_LOGSEVERITYFILE", "none"),
                ("FELIX_LOGSEVERITYSYS", "none"),
                ("FELIX_LOGSEVERITYSCREEN", "info"),
                ("FELIX_HEALTHENABLED", "true"),
                ("FELIX_HEALTHHOST", address),
                ("FELIX_HEALTHPORT", port),
                ("FELIX_BPFENABLED", "false"),
                ("FELIX_IPTABLESBACKEND", "NFT"),
                ("FELIX_VXLANENABLED", "false"),
                ("FELIX_IPINIPENABLED", "false"),
                ("FELIX_INTERFACEPREFIX", "cali"),
            ])
            .env("KUBECONFIG", control_plane.kubeconfig_path()),
    )?;
    wait::eventually(wait::DEADLINE, "Felix is in sync", async || {
        starter.check()?;
        // The address is loopback of the node's own network.
        let answer = starter.enclosure.run("bash", &["-c", HEALTH, "health", address, port])?;
        let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
        ensure!(answer.split(' ').nth(1).is_some_and(|status| status.starts_with('2')), "{}", answer.trim());
        Ok(Some(()))
    })
    .await
}

const HEALTH: &str = r#"exec 3<>"/dev/tcp/$1/$2"; printf 'GET /readiness HTTP/1.0\r\n\r\n' >&3; cat <&3"#;
