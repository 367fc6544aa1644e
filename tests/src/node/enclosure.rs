//! Namespaces of its own for a node: whatever it mounts, routes, filters and runs is gone when its owner is.
//!
//! The owner holds the write end of a pipe. Two shells hold the read end: the first process inside, whose end is that of every process
//! beside it, and the warden outside, which takes away the cgroups and the folder. A pair of virtual network cards is the only way in or
//! out; the machine forwards nothing that comes over it.

use std::fs::{File, TryLockError};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::missing::Missing;
use crate::wait;

const INIT: &str = include_str!("enclosure/init.sh");
const WARDEN: &str = include_str!("enclosure/warden.sh");
/// Joins the cgroups, which `nsenter` doesn't, then the namespaces.
const ENTER: &str = r#"process=$1; shift
while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 1; shift; done
exec nsenter --target "$process" --mount --uts --ipc --net --pid --cgroup "$@""#;

const CGROUPS: &str = "/sys/fs/cgroup";
/// What kubelet and containerd ask of cgroup v1.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "cpuset", "memory", "pids"];
/// The same of v2.
const UNIFIED_CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// Namespaces in which a node runs.
#[derive(Debug)]
pub struct Enclosure {
    pipe: Option<std::io::PipeWriter>,
    warden: Child,
    folder: PathBuf,
    first: u32,
    cgroups: Vec<PathBuf>,
    place: Place,
}

/// What tells nodes on one machine apart.
#[derive(Debug)]
struct Place {
    index: u8,
    lock: File,
}

impl Place {
    const MOST: u8 = 16;

    fn take() -> Result<Self> {
        for index in 0..Self::MOST {
            let path = std::env::temp_dir().join(format!("quell-node-{index}.lock"));
            let lock = File::options().create(true).append(true).open(&path).context("can't open a lock")?;
            match lock.try_lock() {
                Ok(()) => return Ok(Self { index, lock }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error).context("can't lock"),
            }
        }
        bail!("{} nodes run already", Self::MOST)
    }
}

impl Enclosure {
    /// Makes the namespaces, with the network cards up.
    pub async fn create() -> Result<Self> {
        let place = Place::take()?;
        let cgroups = cgroups(&format!("quell-node-{}", place.index))?;
        let folder = tempfile::Builder::new().prefix("quell-node-").tempdir().context("can't create a folder")?.keep();
        let (reader, pipe) = std::io::pipe().context("can't create the pipe that guards the node")?;
        let warden = Command::new("sh")
            .args(["-c", WARDEN, "quell-warden"])
            .arg(&folder)
            .args([NAME, INIT])
            .args(&cgroups)
            .current_dir("/")
            .stdin(reader)
            // Thus the lock is held until all is cleared away, not only until the owner is gone.
            .stdout(place.lock.try_clone().context("can't share the lock")?)
            .stderr(Stdio::null())
            .spawn()
            .context("can't start `sh`, which guards the node")?;
        let mut enclosure = Self { pipe: Some(pipe), warden, folder, first: 0, cgroups, place };
        enclosure.first = enclosure.wait_until_ready().await?;
        enclosure.connect()?;
        Ok(enclosure)
    }

    async fn wait_until_ready(&self) -> Result<u32> {
        wait::eventually(Duration::from_secs(20), "the node's namespaces are there", async || {
            let outer = std::fs::read_to_string(self.folder.join("box.pid"))?;
            let outer = outer.trim();
            let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
            if !self.folder.join("ready").exists() {
                bail!("{}", std::fs::read_to_string(self.folder.join("init.log"))?.trim());
            }
            Ok(children.split_whitespace().next().map(str::parse).transpose()?)
        })
        .await
    }

    fn connect(&self) -> Result<()> {
        let (outside, inside) = (self.outside().to_string(), self.inside().to_string());
        let (card, first) = (self.card(), self.first.to_string());
        let run = |arguments: &[&str]| succeed(Command::new("ip").args(arguments));
        run(&["link", "add", &card, "type", "veth", "peer", "name", "eth0", "netns", &first])?;
        run(&["address", "add", &format!("{outside}/30"), "dev", &card])?;
        run(&["link", "set", &card, "up"])?;
        // Thus the machine is a peer of the pods that is on no node.
        run(&["route", "add", &self.pods(), "via", &inside])?;
        let run = |arguments: &[&str]| self.run("ip", arguments).map(drop);
        run(&["link", "set", "lo", "up"])?;
        run(&["address", "add", &format!("{inside}/30"), "dev", "eth0"])?;
        run(&["link", "set", "eth0", "up"])?;
        run(&["route", "add", "default", "via", &outside])
    }

    /// The machine's address towards the node. Both are from what RFC 2544 sets aside for benchmarks, so that they are nobody else's.
    #[must_use]
    pub fn outside(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.place.index, 1)
    }

    /// The node's address.
    #[must_use]
    pub fn inside(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.place.index, 2)
    }

    /// The addresses of the node's pods.
    #[must_use]
    pub fn pods(&self) -> String {
        format!("198.19.{}.0/24", self.place.index)
    }

    /// What it adds to the machine while it is there.
    #[must_use]
    pub(super) fn leaves(&self) -> Vec<PathBuf> {
        let card = Path::new("/sys/class/net").join(self.card());
        [self.folder.clone(), card].into_iter().chain(self.cgroups.iter().cloned()).collect()
    }

    fn card(&self) -> String {
        format!("quell{}", self.place.index)
    }

    /// Where logs and state lie; removed at the end.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A command that runs inside. Its files are those of the machine, but for `/run`, and what is written below `/var/lib` and `/var/log`.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", ENTER, "quell-enter", &self.first.to_string()]);
        // Of v2, where the first process went: no process may be where children have controllers.
        let inner = self.cgroups.iter().map(|group| if is_unified() { group.join("init") } else { group.clone() });
        command.args(inner).arg("--").arg(program);
        // Whoever runs the tests may have a cluster of their own; and everything is near.
        for name in ["KUBECONFIG", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            command.env_remove(name);
        }
        command
    }

    /// Gives containerd an image.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let archive = archive.display().to_string();
        self.run("ctr", &["--namespace", "k8s.io", "images", "import", &archive]).map(drop)
    }

    /// Runs a program inside to its end; fails if it does.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        output(self.command(program).args(arguments))
    }
}

impl Drop for Enclosure {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.warden.wait();
    }
}

/// The node's name.
pub const NAME: &str = "quell-node";

/// A cgroup of that name in each hierarchy.
fn cgroups(name: &str) -> Result<Vec<PathBuf>> {
    let root = Path::new(CGROUPS);
    let create = |parent: &Path| {
        let group = parent.join(name);
        match std::fs::create_dir(&group) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(Missing::new(format!("the right to create cgroups ({}: {error})", group.display())))
            }
            _ => Ok(group),
        }
    };
    if is_unified() {
        let group = create(root)?;
        let there = std::fs::read_to_string(group.join("cgroup.controllers")).context("can't read the controllers")?;
        let lacking: Vec<&str> =
            UNIFIED_CONTROLLERS.into_iter().filter(|name| !there.split_whitespace().any(|one| one == *name)).collect();
        ensure!(lacking.is_empty(), Missing::new(format!("cgroup controllers: {}", lacking.join(", "))));
        return Ok(vec![group]);
    }
    let lacking: Vec<&str> =
        CONTROLLERS.into_iter().filter(|name| !root.join(name).join("cgroup.procs").exists()).collect();
    ensure!(lacking.is_empty(), Missing::new(format!("cgroup controllers: {}", lacking.join(", "))));
    let mut groups = Vec::new();
    for entry in std::fs::read_dir(root).context("can't read the cgroups")?.flatten() {
        let path = entry.path();
        if path.is_symlink() || !path.join("cgroup.procs").exists() || entry.file_name() == "unified" {
            continue;
        }
        let group = create(&path)?;
        for inherited in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = std::fs::read(path.join(inherited)) {
                std::fs::write(group.join(inherited), value).context("can't give the node its cores")?;
            }
        }
        groups.push(group);
    }
    Ok(groups)
}

fn is_unified() -> bool {
    Path::new(CGROUPS).join("cgroup.controllers").exists()
}

fn output(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().context("can't start a command of the node")?;
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    // What stands before `--` is the way in.
    let own = arguments.iter().rposition(|argument| argument == "--").map_or(0, |position| position + 1);
    ensure!(
        output.status.success(),
        "`{}` failed ({}): {}",
        arguments[own..].join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output)
}

fn succeed(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}
