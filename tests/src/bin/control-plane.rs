//! A control plane to try things on: runs until Ctrl-C.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use quell_tests::{ControlPlane, Options};

/// Boots a control plane with fake nodes on loopback, prints how to use it, and ends it on Ctrl-C.
#[derive(Parser)]
struct Arguments {
    /// Number of nodes.
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// Keep an audit log.
    #[arg(long)]
    audit: bool,
    /// A further flag of kube-apiserver, such as `--profiling=true`; may be given more than once.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    api_server_flag: Vec<String>,
    /// Write the kubeconfig to this file, too.
    #[arg(long, value_name = "FILE")]
    kubeconfig_out: Option<PathBuf>,
    /// Look at this cluster in place of booting one.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let started = std::time::Instant::now();
    let options = Options {
        nodes: arguments.nodes,
        audit: arguments.audit,
        api_server_flags: arguments.api_server_flag,
        kubeconfig: arguments.kubeconfig,
        ..Options::default()
    };
    let cluster = tokio::select! {
        cluster = ControlPlane::start(options) => cluster?,
        // Ends what has been started, too; returning would wait for a build under way.
        _ = tokio::signal::ctrl_c() => std::process::exit(130),
    };
    let mut path = cluster.kubeconfig_path().to_owned();
    if let Some(out) = arguments.kubeconfig_out {
        std::fs::copy(&path, &out).with_context(|| format!("can't write {}", out.display()))?;
        path = std::path::absolute(&out).unwrap_or(out);
    }
    let version = cluster.client().await?.apiserver_version().await?.git_version;
    eprintln!(
        "Kubernetes {version} after {:.1} s, logs in {}",
        started.elapsed().as_secs_f32(),
        cluster.dir().display()
    );
    println!("{}", path.display());
    println!("export KUBECONFIG={}", path.display());
    eprintln!("Ctrl-C ends it");
    tokio::signal::ctrl_c().await.context("can't wait for Ctrl-C")?;
    cluster.stop().await
}
