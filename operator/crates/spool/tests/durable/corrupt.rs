use std::fs;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use quell_spool::{OpenError, Spool};

use crate::child::{Appender, Job};
use crate::support::{ROOMY, all, number, open, payload};

/// Whether a page reached the disk.
type Reached = fn(usize) -> bool;

const ENTRIES: u64 = 60;

/// The file of a spool whose process was killed, with this many entries.
fn killed(dir: &Path) -> Result<Vec<u8>> {
    let mut child = Appender::start(dir, Job::Obey, &[], "")?;
    ensure!(child.next()?.as_deref() == Some("open"));
    for number in 0..ENTRIES {
        ensure!(child.append(number)? == "kept");
    }
    child.kill()?;
    Ok(fs::read(dir.join("spool.redb"))?)
}

/// Opens a spool whose file is `content`: either it holds entries from the first on, all whole, or it is set aside as it was.
async fn open_broken(content: &[u8], what: &str) -> Result<Option<usize>> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("spool.redb"), content)?;
    match Spool::open(dir.path(), ROOMY) {
        Ok(spool) => {
            let numbers: Vec<u64> = all(&spool).await?.iter().map(number).collect();
            assert_eq!(
                numbers,
                (0..numbers.len() as u64).collect::<Vec<_>>(),
                "{what}: what was answered, from the first on"
            );
            spool.append(payload(1000)).await?;
            Ok(Some(numbers.len()))
        }
        Err(OpenError::Corrupt { path, aside, cause }) => {
            assert!(!path.exists() && !cause.is_empty(), "{what}");
            assert_eq!(fs::read(&aside)?.len(), content.len(), "{what}: nothing of it was taken away");
            let fresh = open(dir.path())?;
            assert_eq!(fresh.pending().entries, 0, "{what}: the next one begins empty");
            fresh.append(payload(1)).await?;
            assert!(aside.exists(), "{what}: and what was set aside stays");
            Ok(None)
        }
        Err(error) => bail!("{what}: {error}"),
    }
}

#[tokio::test]
async fn a_file_that_was_cut_short_opens_with_what_came_first_or_is_set_aside() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let whole = killed(dir.path())?;
    assert_eq!(open_broken(&whole, "whole").await?, Some(usize::try_from(ENTRIES)?));
    for kept in [0, 1, 100, 512, 4096, 5000, whole.len() / 4, whole.len() / 2, whole.len() - 4096, whole.len() - 1] {
        open_broken(&whole[..kept], &format!("cut to {kept} bytes")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn no_flipped_byte_makes_a_panic_or_an_entry_that_was_not_appended() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let whole = killed(dir.path())?;
    let (mut opened, mut set_aside) = (0, 0);
    // The header's every eighth byte, and of the rest one in each page, at ever another place in it.
    let places = (0..512)
        .step_by(8)
        .chain((4096..whole.len()).step_by(4096).enumerate().map(|(page, start)| start + page * 61 % 4096));
    for place in places {
        let mut broken = whole.clone();
        broken[place] ^= 0xa5;
        match open_broken(&broken, &format!("byte {place} flipped")).await? {
            Some(_) => opened += 1,
            None => set_aside += 1,
        }
    }
    assert!(opened > 0 && set_aside > 0, "{opened} opened, {set_aside} set aside");
    Ok(())
}

/// A commit that was under way when the power went: some of its pages are on the disk, others not.
#[tokio::test]
async fn a_torn_last_write_leaves_all_that_was_answered_before_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut child = Appender::start(dir.path(), Job::Obey, &[], "")?;
    ensure!(child.next()?.as_deref() == Some("open"));
    let file = dir.path().join("spool.redb");
    for number in 0..ENTRIES {
        let before = fs::read(&file)?;
        ensure!(child.append(number)? == "kept");
        let after = fs::read(&file)?;
        if number % 7 == 0 {
            tear(&before, &after, number).await?;
        }
    }
    Ok(())
}

/// Every other page of what the last append wrote, in both ways, and without the header or with nothing but it.
async fn tear(before: &[u8], after: &[u8], answered: u64) -> Result<()> {
    let was = |page: usize| before.get(page * 4096..(page + 1) * 4096).unwrap_or(&[0; 4096]);
    let reached: [(&str, Reached); 4] = [
        ("even", |page| page % 2 == 0),
        ("odd", |page| page % 2 == 1),
        ("header", |page| page == 0),
        ("rest", |page| page != 0),
    ];
    for (which, reached) in reached {
        let mut torn = after.to_vec();
        for (page, bytes) in torn.chunks_exact_mut(4096).enumerate() {
            if !reached(page) {
                bytes.copy_from_slice(was(page));
            }
        }
        let opened = open_broken(&torn, &format!("{which} pages of the commit of {answered}")).await?;
        let opened = opened.map(u64::try_from).transpose()?;
        assert!(
            opened.is_some_and(|count| count >= answered),
            "{which} pages of the commit of {answered}: {opened:?} are there"
        );
    }
    Ok(())
}
