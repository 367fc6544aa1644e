//! Lines to a file: fsynced, and begun anew when it is large. Old files stay: to throw records away is not for Quell to decide.

use std::fs::{File as Handle, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use quell_audit::Head;

use crate::audit::{AuditError, FileHead};

/// The last line is in the last so many bytes: entries are bounded by the bounds of the records that they tell of.
const TAIL: u64 = 4 << 20;

/// A file that is open, and this process's alone.
pub(super) struct File {
    path: PathBuf,
    most: u64,
    /// How much of it is known to be whole lines.
    length: u64,
    open: Option<Open>,
}

struct Open {
    handle: Handle,
    length: u64,
}

impl File {
    /// Opens the file, cuts a last line off that a crash left half written, and says what the last line is.
    pub async fn open(path: PathBuf, most: u64) -> Result<(Self, FileHead), AuditError> {
        blocking(move || {
            let (open, head) = open(&path)?;
            Ok((Self { path, most, length: open.length, open: Some(open) }, head))
        })
        .await
    }

    /// Returns when the lines are on the disk. After a failure none of them is in the file.
    pub async fn put(&mut self, lines: &str) -> Result<(), AuditError> {
        let (path, most, length, lines) = (self.path.clone(), self.most, self.length, lines.to_owned());
        let there = self.open.take();
        let open = blocking(move || {
            let mut open = match there {
                Some(open) => open,
                None => open_again(&path, length)?,
            };
            if open.length > 0 && open.length + lines.len() as u64 > most {
                open = rotate(&path, open)?;
            }
            append(&mut open, lines.as_bytes()).map_err(|source| AuditError::File { path: path.clone(), source })?;
            Ok(open)
        })
        .await?;
        self.length = open.length;
        self.open = Some(open);
        Ok(())
    }
}

/// After a failure the file is opened anew, without what of the lines had reached it: they are written again.
fn open_again(path: &Path, length: u64) -> Result<Open, AuditError> {
    let (mut open, _) = open(path)?;
    if open.length > length {
        let cut = open.handle.set_len(length).and_then(|()| open.handle.sync_all());
        cut.map_err(|source| AuditError::File { path: path.to_owned(), source })?;
        open.length = length;
    }
    Ok(open)
}

fn open(path: &Path) -> Result<(Open, FileHead), AuditError> {
    let failed = |source: io::Error| AuditError::File { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    let mut handle = options.open(path).map_err(failed)?;
    match handle.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(AuditError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let mut length = handle.metadata().map_err(failed)?.len();
    let from = length.saturating_sub(TAIL);
    handle.seek(SeekFrom::Start(from)).map_err(failed)?;
    let mut tail = Vec::new();
    handle.read_to_end(&mut tail).map_err(failed)?;
    if let Err(at) = Head::of(&tail)
        && !tail.ends_with(b"\n")
    {
        tracing::warn!(path = %path.display(), bytes = tail.len() - at, "the last line of the audit trail was cut off by a crash; it is removed");
        tail.truncate(at);
        length = from + at as u64;
        handle.set_len(length).and_then(|()| handle.sync_all()).map_err(failed)?;
    }
    let head = Head::of(&tail).map_err(|_| AuditError::NotOurs(path.to_owned()))?;
    // The first line of a file that was begun anew follows the last of the file before.
    let head = match head {
        Some(head) => Some(head),
        None => latest(path).map_err(failed)?,
    };
    Ok((Open { handle, length }, head))
}

/// The head of the file that was written before this one, by its number.
fn latest(path: &Path) -> io::Result<FileHead> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(None);
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut last = None;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|other| other.strip_prefix(name)?.strip_prefix('.')?.parse::<u64>().ok());
        last = last.max(number.map(|number| (number, entry.path())));
    }
    let Some((_, path)) = last else { return Ok(None) };
    Ok(Head::of(&std::fs::read(path)?).unwrap_or_default())
}

/// The file gets the number of its last line as its ending, and another takes its place.
fn rotate(path: &Path, full: Open) -> Result<Open, AuditError> {
    let failed = |source: io::Error| AuditError::File { path: path.to_owned(), source };
    let mut handle = full.handle;
    let mut tail = Vec::new();
    handle.seek(SeekFrom::Start(full.length.saturating_sub(TAIL))).map_err(failed)?;
    handle.read_to_end(&mut tail).map_err(failed)?;
    let number = Head::of(&tail).ok().flatten().map_or(0, |head| head.number);
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{number}"));
    std::fs::rename(path, &aside).map_err(failed)?;
    drop(handle);
    let (open, _) = open(path)?;
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        Handle::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    }
    Ok(open)
}

fn append(open: &mut Open, lines: &[u8]) -> io::Result<()> {
    let written = open.handle.write_all(lines).and_then(|()| open.handle.sync_data());
    open.length += if written.is_ok() { lines.len() as u64 } else { 0 };
    written
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AuditError> + Send + 'static,
) -> Result<T, AuditError> {
    tokio::task::spawn_blocking(work).await?
}

#[cfg(test)]
mod tests {
    use quell_audit::{Chain, Entry, Verifier};

    use super::*;

    fn line(chain: &mut Chain) -> String {
        format!("{}\n", chain.seal(&Entry::default()).expect("a line"))
    }

    #[tokio::test]
    async fn a_chain_goes_on_over_rotation_restart_and_a_line_that_was_cut_off() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.jsonl");
        let mut chain = Chain::new("one");
        let (mut file, head) = File::open(path.clone(), 1000).await.expect("open");
        assert_eq!(head, None);
        assert!(matches!(File::open(path.clone(), 1000).await, Err(AuditError::InUse(_))));
        for _ in 0..10 {
            file.put(&line(&mut chain)).await.expect("written");
        }
        drop(file);
        let torn = Handle::options().append(true).open(&path).and_then(|mut file| file.write_all(b"{\"chain\":\"one"));
        torn.expect("torn");
        let (mut file, head) = File::open(path.clone(), 1000).await.expect("open");
        assert_eq!(head, chain.head());
        file.put(&line(&mut chain)).await.expect("written");
        drop(file);

        let mut files: Vec<_> = std::fs::read_dir(directory.path())
            .expect("a directory")
            .map(|entry| entry.expect("entry").path())
            .collect();
        assert!(files.len() > 2, "it was begun anew");
        files
            .sort_by_key(|file| file.extension().and_then(|end| end.to_str()?.parse::<u64>().ok()).unwrap_or(u64::MAX));
        let mut verifier = Verifier::default();
        for file in &files {
            verifier.read(&file.display().to_string(), &std::fs::read(file).expect("read"));
        }
        let report = verifier.finish(&[chain.head().expect("a head")]);
        assert_eq!((report.breaks, report.lines), (Vec::new(), 11));
    }
}
