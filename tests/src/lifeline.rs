//! Child processes that end when their owner ends, however it ends.
//!
//! The owner holds the write end of a pipe. The kernel closes it when the owner exits, is killed, or drops the
//! [`Lifeline`]; all three take the same way out, so the one that tests exercise all the time is the one that matters in
//! a crash. Two small shells hold the read end:
//!
//! - the anchor leads the process group that every child joins. When the pipe closes it kills that group, itself
//!   included. As the group can't outlive the anchor's own membership, no stale number is ever signalled.
//! - the janitor, in a group of its own, waits until that group is gone and removes the directory. It only asks
//!   whether the group exists.
//!
//! The parent-death signal of Linux would not do: it needs code between fork and exec, follows the thread that
//! spawned rather than the process, and exists on Linux only.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal};

const ANCHOR: &str = r#"trap "" HUP INT TERM; read -r _; kill -KILL 0"#;

// Where nothing reaps orphans, the dead members keep the group in existence: wait for a second at most.
const JANITOR: &str = r#"trap "" HUP INT TERM; read -r _
n=0; while [ $n -lt 50 ] && kill -s 0 -- "-$1" 2>/dev/null; do sleep 0.02; n=$((n+1)); done
if [ -n "$2" ]; then rm -rf -- "$2"; fi"#;

/// A group of child processes that is killed when this value, or the process that holds it, is gone.
#[derive(Debug)]
pub struct Lifeline {
    pipe: Option<std::io::PipeWriter>,
    anchor: Child,
    janitor: Child,
    group: i32,
    children: Mutex<Vec<(String, Child)>>,
}

impl Lifeline {
    /// A lifeline with no children yet. `directory`, where given, is removed at the end.
    pub fn new(directory: Option<&Path>) -> Result<Self> {
        let (reader, writer) = std::io::pipe().context("can't create the pipe that guards child processes")?;
        let shell = |script: &str, arguments: &[&std::ffi::OsStr], stdin: std::io::PipeReader| {
            Command::new("sh")
                .arg("-c")
                .arg(script)
                .arg("quell-lifeline")
                .args(arguments)
                .current_dir("/")
                .stdin(stdin)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0)
                .spawn()
                .context("can't start `sh`, which guards child processes")
        };
        let anchor = shell(ANCHOR, &[], reader.try_clone().context("can't share the guarding pipe")?)?;
        let group = i32::try_from(anchor.id()).context("process id out of range")?;
        let janitor =
            shell(JANITOR, &[group.to_string().as_ref(), directory.unwrap_or(Path::new("")).as_os_str()], reader)?;
        Ok(Self { pipe: Some(writer), anchor, janitor, group, children: Mutex::default() })
    }

    /// Starts `command` as a member of the group.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<u32> {
        let child = command
            .process_group(self.group)
            .spawn()
            .with_context(|| format!("can't start {name} ({})", command.get_program().display()))?;
        let id = child.id();
        self.children.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), child));
        Ok(id)
    }

    /// The first child that has exited, if any, with how it did.
    pub fn exited(&self) -> Option<(String, ExitStatus)> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.iter_mut().find_map(|(name, child)| Some((name.clone(), child.try_wait().ok()??)))
    }

    /// Kills the child with that process id (SIGKILL), and returns when it is gone. One that isn't there, or no longer, is none of its
    /// business.
    pub fn kill(&self, id: u32) -> Result<()> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = children.iter().position(|(_, child)| child.id() == id) else { return Ok(()) };
        let (name, mut child) = children.swap_remove(index);
        child.kill().and_then(|()| child.wait()).with_context(|| format!("can't kill {name}"))?;
        Ok(())
    }

    /// Tells the child with that process id to end (SIGTERM).
    pub fn terminate(&self, id: u32) -> Result<()> {
        self.signal(id, Signal::TERM)
    }

    /// Stops the child with that process id where it stands (SIGSTOP).
    pub fn freeze(&self, id: u32) -> Result<()> {
        self.signal(id, Signal::STOP)
    }

    /// Lets a child that was stopped go on (SIGCONT), as if no time had passed.
    pub fn thaw(&self, id: u32) -> Result<()> {
        self.signal(id, Signal::CONT)
    }

    fn signal(&self, id: u32, signal: Signal) -> Result<()> {
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        // A child that is held here is not reaped, so that its number can't be another's.
        let Some((name, child)) = children.iter().find(|(_, child)| child.id() == id) else { return Ok(()) };
        rustix::process::kill_process(Pid::from_child(child), signal).with_context(|| format!("can't signal {name}"))
    }

    /// Name and process id of each child.
    pub fn children(&self) -> Vec<(String, u32)> {
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.iter().map(|(name, child)| (name.clone(), child.id())).collect()
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // The janitor waits for the group to be gone, so everything in the group is reaped first.
        let _ = self.anchor.wait();
        for (_, child) in self.children.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = child.wait();
        }
        let _ = self.janitor.wait();
    }
}
