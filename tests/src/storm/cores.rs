//! Which core does what, so that a sender's work isn't counted as Quell's.

use anyhow::{Context as _, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores that this process may use.
pub fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("the cores of this machine")?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Binds the calling thread to one core.
pub fn bind_thread(core: usize) -> Result<()> {
    sched_setaffinity(None, &only(core)).with_context(|| format!("core {core} for the sender"))
}

/// Binds all threads of a process, and so all that they start, to one core.
pub fn bind_process(process: u32, core: usize) -> Result<()> {
    for thread in std::fs::read_dir(format!("/proc/{process}/task")).context("the threads of a process")? {
        let name = thread?.file_name();
        let id = name.to_str().and_then(|id| id.parse().ok()).and_then(Pid::from_raw).context("a thread's id")?;
        sched_setaffinity(Some(id), &only(core)).with_context(|| format!("core {core} for a thread"))?;
    }
    Ok(())
}

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
}
