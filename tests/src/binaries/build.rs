//! Builds what is missing from the pinned Go modules.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::progress::Progress;
use super::{Module, Places, Recipe, Tool};
use crate::lifeline::Lifeline;
use crate::missing::Missing;

const TICK: Duration = Duration::from_millis(100);

/// Builds `tools` one at a time: each build uses all cores by itself, and some need gigabytes of memory.
pub(super) fn build(tools: &[Tool], places: &Places) -> Result<Vec<(Tool, PathBuf)>> {
    std::fs::create_dir_all(&places.cache)
        .with_context(|| format!("can't create the cache folder {}", places.cache.display()))?;
    let _lock = lock(&places.cache.join("lock"))?;
    let mut built = Vec::new();
    let mut missing = Vec::new();
    for tool in tools {
        // The process that held the lock may have built it.
        match places.find(*tool) {
            Some(path) => built.push((*tool, path)),
            None => missing.push(*tool),
        }
    }
    if !missing.is_empty() {
        require_go(&missing)?;
    }
    for (index, tool) in missing.iter().enumerate() {
        let what = format!("building {} ({} of {}; once, then kept)", tool.name(), index + 1, missing.len());
        built.push((*tool, build_one(*tool, places, Progress::start(what))?));
    }
    Ok(built)
}

/// Held until the file is closed, thus also let go when this process is killed.
fn lock(path: &Path) -> Result<File> {
    let describe = || format!("can't lock {}", path.display());
    let file = File::options().create(true).append(true).open(path).with_context(describe)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(error).with_context(describe),
    }
    let mut progress = Progress::start("waiting for another process that builds binaries".to_owned());
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => std::thread::sleep(TICK),
            Err(TryLockError::Error(error)) => return Err(error).with_context(describe),
        }
        progress.tick();
    }
    progress.done();
    Ok(file)
}

fn require_go(missing: &[Tool]) -> Result<()> {
    let there = Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if there.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|tool| tool.name()).collect();
    bail!(Missing::new(format!(
        "{}: install Go 1.26 or later so that they can be built, or set KUBEBUILDER_ASSETS to a folder that \
         holds them",
        names.join(", ")
    )))
}

fn build_one(tool: Tool, places: &Places, mut progress: Progress) -> Result<PathBuf> {
    let module = tool.module();
    let target = places.cached(tool);
    let folder = target.parent().context("the cache has no folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))?;

    // Beside the target, so that the last step is a rename; whatever a killed build left goes away with a later one.
    let workshop = tempfile::Builder::new()
        .prefix(".build-")
        .tempdir_in(folder)
        .with_context(|| format!("can't create a folder in {}", folder.display()))?;
    let output = workshop.path().join(tool.name());
    let log = workshop.path().join("log");
    write_module(module, workshop.path())?;

    let made = match tool.recipe() {
        Recipe::Build(package) => compile(module, package, &output, &log, &mut progress),
        Recipe::Copy { module, path } => fetch(module, path, workshop.path(), &output),
    };
    made.with_context(|| format!("can't build {} from its Go module", tool.name()))?;
    std::fs::rename(&output, &target).with_context(|| format!("can't move {} into the cache", tool.name()))?;
    progress.done();
    sweep(folder);
    Ok(target)
}

fn compile(module: &Module, package: &str, output: &Path, log: &Path, progress: &mut Progress) -> Result<()> {
    let log_file = File::create(log).context("can't create the log of the build")?;
    let folder = log.parent().context("the log has no folder")?;
    // Killed with this process: an orphaned compiler would go on for minutes beside the next attempt.
    let lifeline = Lifeline::new(None)?;
    lifeline.spawn(
        "go build",
        go(folder)
            .args(["build", "-mod=readonly", "-trimpath", "-ldflags", module.ldflags, "-o"])
            .arg(output)
            .arg(package)
            .stdout(log_file.try_clone().context("can't share the log of the build")?)
            .stderr(log_file),
    )?;
    let status = loop {
        if let Some((_, status)) = lifeline.exited() {
            break status;
        }
        std::thread::sleep(TICK);
        progress.tick();
    };
    if !status.success() {
        bail!("{status}: {}", std::fs::read_to_string(log).unwrap_or_default().trim());
    }
    Ok(())
}

/// Takes what lies at `path` in a module of the build list.
fn fetch(module: &str, path: &str, folder: &Path, output: &Path) -> Result<()> {
    let answer = go(folder).args(["mod", "download", "-json", module]).output().context("can't run go")?;
    if !answer.status.success() {
        bail!("{}: {}", answer.status, String::from_utf8_lossy(&answer.stderr).trim());
    }
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).context("go says no JSON")?;
    let module = answer["Dir"].as_str().with_context(|| format!("go doesn't say where {module} is"))?;
    copy(&Path::new(module).join(path), output)
}

/// The content alone: what lies in Go's cache can't be written to.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let describe = || format!("can't copy {}", from.display());
    if !from.is_dir() {
        let content = std::fs::read(from).with_context(describe)?;
        return std::fs::write(to, content).with_context(describe);
    }
    std::fs::create_dir_all(to).with_context(describe)?;
    for entry in std::fs::read_dir(from).with_context(describe)? {
        let entry = entry.with_context(describe)?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn go(folder: &Path) -> Command {
    let mut command = Command::new("go");
    command
        .current_dir(folder)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .env("GOOS", super::goos())
        .env("GOARCH", super::goarch())
        .stdin(Stdio::null());
    command
}

fn write_module(module: &Module, folder: &Path) -> Result<()> {
    std::fs::write(folder.join("go.mod"), module.go_mod)
        .and_then(|()| std::fs::write(folder.join("go.sum"), module.go_sum))
        .and_then(|()| module.sources.iter().try_for_each(|(name, content)| std::fs::write(folder.join(name), content)))
        .with_context(|| format!("can't write the module of {}", module.name))
}

/// Only the holder of the lock builds, so every workshop that is there has no owner any more.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".build-") {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
