//! What the operator can be told: flags, and environment variables of the same names.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use quell_actions::{Probing, Severing};
use quell_playbooks::contained::Network;

use crate::audit::Destination;

/// Turns security findings into finished, proven, reversible remediation.
#[derive(Debug, Parser)]
#[command(name = "quell", version, propagate_version = true, max_term_width = 100)]
pub struct Command {
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "a process has one")]
pub enum Task {
    /// Run the controller: in a cluster, or outside of one with KUBECONFIG.
    #[command(after_help = EXAMPLES)]
    Operator(Box<Settings>),
    /// Sever the connections of a pod, on its node: what the Job of a severConnections step runs.
    #[cfg(target_os = "linux")]
    Sever(quell_sever::Arguments),
    /// Try connections, from a pod: what the probes of a quarantine and kubectl quell doctor run.
    Probe(quell_probe::Arguments),
}

const EXAMPLES: &str = "\
Examples:
  In a cluster, as the chart starts it:
    quell operator --ingest-tls-cert /tls/tls.crt --ingest-tls-key /tls/tls.key

  On your own machine, against the cluster of your kubeconfig, signals on loopback without TLS:
    KUBECONFIG=~/.kube/config quell operator --namespace quell --ingest-listen 127.0.0.1:8443 --ingest-plaintext";

/// Settings of the controller.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Where signals are taken in: POST /v1/sources/<Source's name>
    #[arg(long, env = "QUELL_INGEST_LISTEN", default_value = "0.0.0.0:8443")]
    pub ingest_listen: SocketAddr,
    /// Take signals in without TLS; only on a loopback address
    #[arg(long, env = "QUELL_INGEST_PLAINTEXT")]
    pub ingest_plaintext: bool,
    /// Certificate chain of the intake (PEM), read again when it changes; without one, Quell makes and renews its own
    #[arg(long, env = "QUELL_INGEST_TLS_CERT", requires = "ingest_tls_key")]
    pub ingest_tls_cert: Option<PathBuf>,
    /// Private key of the intake (PEM)
    #[arg(long, env = "QUELL_INGEST_TLS_KEY", requires = "ingest_tls_cert")]
    pub ingest_tls_key: Option<PathBuf>,
    /// Directory, of this replica alone, for signals that the API server doesn't take at once; without one their senders are told to try again
    #[arg(long, env = "QUELL_SPOOL")]
    pub spool: Option<PathBuf>,
    /// How many bytes of signals may wait there; its file may take up to four times as much
    #[arg(long, env = "QUELL_SPOOL_MAX_BYTES", default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub spool_max_bytes: u64,
    /// Further names or IP addresses, with commas between them, that the certificate which Quell makes is good for
    #[arg(long, env = "QUELL_INGEST_TLS_NAMES", value_delimiter = ',', value_name = "NAME")]
    pub ingest_tls_names: Vec<String>,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, env = "QUELL_METRICS_LISTEN", default_value = "0.0.0.0:9090")]
    pub metrics_listen: SocketAddr,
    /// Quell's own namespace: its Lease, the Secrets of Sources and ClusterChannels, Findings about what is in no namespace
    #[arg(long, env = "QUELL_NAMESPACE", default_value = "quell")]
    pub namespace: String,
    /// How the log is written to standard error
    #[arg(long, env = "QUELL_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
    /// What is logged, as `RUST_LOG` has it
    #[arg(long, env = "QUELL_LOG", default_value = "info,kube_runtime=warn,kube_client=warn,kube_client::client=off")]
    pub log: String,
    /// Name of this replica in the Lease; the pod's name in a cluster
    #[arg(long, env = "QUELL_IDENTITY")]
    pub identity: Option<String>,
    /// Seconds after which another replica takes over from a leader that is silent
    #[arg(long, env = "QUELL_LEASE_SECONDS", default_value_t = 4, value_parser = clap::value_parser!(u64).range(3..=300))]
    pub lease_seconds: u64,
    /// The cluster's network plugin, such as calico, cilium or none; by default it is told by the DaemonSets that are there
    #[arg(long, env = "QUELL_NETWORK_PLUGIN", value_parser = network_plugin)]
    pub network_plugin: Option<String>,
    /// Certificates (PEM) that channels and builders are trusted by, beside those of the system
    #[arg(long, env = "QUELL_EXTRA_CA")]
    pub extra_ca: Option<PathBuf>,
    /// Where the audit trail goes: stdout, file:/a/path of this replica alone, or https://… for POSTs of JSON lines; nowhere by default
    #[arg(long, env = "QUELL_AUDIT_SINK", value_name = "stdout|file:PATH|URL")]
    pub audit_sink: Option<Destination>,
    /// The file of the audit trail is begun anew beyond this, in bytes; the old one stays, with the number of its last line as its ending
    #[arg(long, env = "QUELL_AUDIT_FILE_BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(1 << 16..))]
    pub audit_file_bytes: u64,
    /// A file with the bearer token that the receiver of the audit trail wants
    #[arg(long, env = "QUELL_AUDIT_TOKEN_FILE")]
    pub audit_token_file: Option<PathBuf>,
    /// How long Findings and Remediations are kept after they are done with, such as 720h; 0s for ever
    #[arg(long, env = "QUELL_HISTORY_TTL", default_value = "720h", value_parser = duration)]
    pub history_ttl: Duration,
    /// How many Findings that are done with are kept; beyond that the oldest go
    #[arg(long, env = "QUELL_HISTORY_LIMIT", default_value_t = 10_000)]
    pub history_limit: usize,
    /// Image of the Jobs that sever connections, Quell's own; without one, severConnections is refused
    #[arg(long, env = "QUELL_SEVER_IMAGE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub sever_image: Option<String>,
    /// Namespace of the Jobs that sever connections; it must let pods use their node's network and processes
    #[arg(long, env = "QUELL_SEVER_NAMESPACE", default_value = "quell-sever")]
    pub sever_namespace: String,
    /// Image of the probes of quarantines, Quell's own; without one, no quarantine is probed
    #[arg(long, env = "QUELL_PROBE_IMAGE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub probe_image: Option<String>,
    /// Namespace of the probes that try quarantined pods as an outsider would
    #[arg(long, env = "QUELL_PROBE_NAMESPACE", default_value = "quell-probe")]
    pub probe_namespace: String,
}

impl Settings {
    /// How long the lease holds without renewal.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    /// How connections may be severed; `None` where that was not switched on.
    #[must_use]
    pub fn severing(&self) -> Option<Severing> {
        let image = self.sever_image.clone()?;
        Some(Severing { image, namespace: self.sever_namespace.clone() })
    }

    /// How quarantined pods may be probed; `None` where that was not switched on.
    #[must_use]
    pub fn probing(&self) -> Option<Probing> {
        let image = self.probe_image.clone()?;
        Some(Probing { image, namespace: self.probe_namespace.clone() })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Option<kube::core::Duration> = text.parse().ok().filter(|_| !text.starts_with('-'));
    parsed.map(Duration::from).ok_or_else(|| "a duration is written as 30s, 10m or 720h".to_owned())
}

fn network_plugin(name: &str) -> Result<String, String> {
    let known = Network::named(name).map(|_| name.to_owned());
    known.ok_or_else(|| format!("not a network plugin that Quell knows: {}, or none", Network::KNOWN.join(", ")))
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A JSON object a line.
    Json,
    /// For people.
    Text,
}
