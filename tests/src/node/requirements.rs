//! What a machine must have before a node can run on it, and Debian's packages for it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::Plugin;
use crate::missing::Missing;

/// `CAP_NET_ADMIN`, `CAP_SYS_ADMIN`: numbers of `capabilities(7)`.
const CAPABILITIES: [u32; 2] = [12, 21];

/// A program, by the name of its file or its path, and the package it is in.
type Program = (&'static str, &'static str);

const ALL: &[Program] = &[
    ("bash", "bash"),
    ("conntrack", "conntrack"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("ip", "iproute2"),
    ("ipset", "ipset"),
    ("iptables-nft-restore", "iptables"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("runc", "runc"),
    ("unshare", "util-linux"),
    ("/usr/lib/cni/host-local", "containernetworking-plugins"),
];

/// Says with [`Missing`] why no node can run here; installs what Debian has.
pub fn ensure(plugin: Plugin) -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!(Missing::new("Linux: a node runs containers"));
    }
    let capabilities = effective_capabilities()?;
    if CAPABILITIES.iter().any(|bit| capabilities & (1 << bit) == 0) {
        bail!(Missing::new("root with CAP_SYS_ADMIN and CAP_NET_ADMIN: a node has network cards, mounts and cgroups"));
    }
    if !Path::new("/sys/fs/cgroup").is_dir() {
        bail!(Missing::new("cgroups: nothing is mounted at /sys/fs/cgroup"));
    }
    let programs = || ALL.iter().chain(plugin.programs()).copied();
    let mut packages: Vec<&str> = lacking(programs()).into_iter().map(|(_, package)| package).collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    install(&packages)?;
    match lacking(programs()).first() {
        None => Ok(()),
        Some((program, package)) => bail!(Missing::new(format!("{program}: package {package} doesn't bring it"))),
    }
}

fn install(packages: &[&str]) -> Result<()> {
    let all = packages.join(", ");
    eprintln!("installing Debian packages that aren't here: {all}");
    let mut said = Vec::new();
    for arguments in [["install"].as_slice(), &["update"], &["install"]] {
        let mut command = Command::new("apt-get");
        command.arg("--quiet").args(arguments);
        if arguments == ["install"] {
            command.args(["--yes", "--no-install-recommends"]).args(packages);
        }
        let output = command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).output();
        let Ok(output) = output else {
            bail!(Missing::new(format!("{all}: install these, for there is no apt-get that could")));
        };
        if arguments == ["install"] && output.status.success() {
            return Ok(());
        }
        said = output.stderr;
    }
    bail!(Missing::new(format!("{all}: apt-get can't install them: {}", String::from_utf8_lossy(&said).trim())))
}

fn lacking(programs: impl Iterator<Item = Program>) -> Vec<Program> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    programs.filter(|(program, _)| !folders.iter().any(|folder| folder.join(program).is_file())).collect()
}

fn effective_capabilities() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("can't read what this process may do")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("the kernel has no capabilities")?;
    u64::from_str_radix(line.trim(), 16).context("the kernel's capabilities can't be read")
}
