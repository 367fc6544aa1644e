use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use quell_spool::{Limit, MAX_PAYLOAD, Pending, Spool, SpoolError};

use crate::support::{ROOMY, all, number, numbers, open, payload};

#[tokio::test]
async fn entries_are_read_in_the_order_in_which_they_were_appended() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let spool = open(dir.path())?;
    let mut sequences = Vec::new();
    for number in 0..300 {
        sequences.push(spool.append(payload(number)).await?);
    }
    let read = all(&spool).await?;
    assert_eq!(read.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), sequences);
    assert_eq!(read.iter().map(number).collect::<Vec<_>>(), (0..300).collect::<Vec<_>>());
    assert!(sequences.is_sorted());
    Ok(())
}

#[tokio::test]
async fn entries_of_an_earlier_process_come_before_those_of_this_one() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let first = open(dir.path())?;
    for number in 0..10 {
        first.append(payload(number)).await?;
    }
    let (before, oldest) = (all(&first).await?, first.oldest_since());
    drop(first);

    let second = open(dir.path())?;
    assert_eq!(all(&second).await?, before, "with their sequences and their times");
    assert_eq!(second.oldest_since().map(millis), oldest.map(millis));
    second.append(payload(10)).await?;
    assert_eq!(all(&second).await?.iter().map(number).collect::<Vec<_>>(), (0..=10).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_thousand_appends_at_once_are_few_commits() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let spool = open(dir.path())?;
    let before = spool.activity();
    try_join_all((0..1000).map(|number| spool.append(payload(number)))).await?;
    let after = spool.activity();
    assert_eq!(after.appended - before.appended, 1000);
    let (commits, syncs) = (after.commits - before.commits, after.syncs - before.syncs);
    assert!(commits <= 20, "{commits} commits");
    // redb syncs the file's length, too, whenever it doubles it.
    assert!(syncs <= commits + 10, "{syncs} fsyncs in {commits} commits");
    assert_eq!(spool.pending().entries, 1000);
    Ok(())
}

#[tokio::test]
async fn an_append_alone_is_one_commit_and_an_fsync() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let spool = open(dir.path())?;
    let before = spool.activity();
    for number in 0..20 {
        spool.append(payload(number)).await?;
    }
    let after = spool.activity();
    assert_eq!(after.commits - before.commits, 20);
    assert!(after.syncs - before.syncs >= 20, "each was synced before it was answered");
    Ok(())
}

#[tokio::test]
async fn what_is_over_the_limit_is_refused_before_anything_is_written() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let limit = Limit { bytes: 10_000, entries: 3 };
    let spool = Spool::open(dir.path(), limit)?;
    let kilobyte = || Bytes::from(vec![1; 1000]);
    let first = spool.append(kilobyte()).await?;
    let before = spool.activity();
    let refused = spool.append(vec![1; 9001].into()).await;
    assert_eq!(refused, Err(SpoolError::Full { entries: 1, bytes: 1000, limit }), "too many bytes");
    assert_eq!(spool.activity(), before, "nothing was written");

    spool.append(kilobyte()).await?;
    spool.append(kilobyte()).await?;
    let refused = spool.append(Bytes::new()).await;
    assert_eq!(refused, Err(SpoolError::Full { entries: 3, bytes: 3000, limit }), "too many entries");

    spool.remove(first);
    spool.append(kilobyte()).await?;
    assert_eq!(spool.pending(), Pending { entries: 3, bytes: 3000 });
    assert_eq!(spool.last_error(), None, "a full spool is no trouble of the disk");
    Ok(())
}

#[tokio::test]
async fn appends_at_once_never_exceed_the_limit_together() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let spool = Spool::open(dir.path(), Limit { bytes: 50_000, entries: 1000 })?;
    let results = join_all((0..100).map(|_| spool.append(vec![7; 1000].into()))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 50);
    assert_eq!(spool.pending(), Pending { entries: 50, bytes: 50_000 });
    assert_eq!(all(&spool).await?.len(), 50);
    Ok(())
}

#[tokio::test]
async fn an_entry_may_have_a_mebibyte_and_not_a_byte_more() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let spool = open(dir.path())?;
    spool.append(vec![1; MAX_PAYLOAD].into()).await?;
    let refused = spool.append(vec![1; MAX_PAYLOAD + 1].into()).await;
    assert_eq!(refused, Err(SpoolError::TooLarge { bytes: MAX_PAYLOAD + 1 }));
    assert_eq!(all(&spool).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn what_was_removed_is_gone_now_and_after_the_next_start() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let spool = open(dir.path())?;
    let sequences = try_join_all((0..100).map(|number| spool.append(payload(number)))).await?;
    for sequence in sequences.iter().step_by(2) {
        spool.remove(*sequence);
        spool.remove(*sequence);
    }
    assert_eq!(spool.pending().entries, 50, "at once, whether committed or not");
    let left = numbers(&spool).await?;
    assert_eq!(
        left.keys().copied().collect::<Vec<_>>(),
        sequences.iter().copied().skip(1).step_by(2).collect::<Vec<_>>()
    );
    drop(spool);
    let spool = open(dir.path())?;
    assert_eq!(numbers(&spool).await?, left);
    assert_eq!(spool.pending().bytes, left.values().map(|number| payload(*number).len() as u64).sum::<u64>());
    Ok(())
}

#[tokio::test]
async fn a_removal_is_committed_though_nothing_else_comes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let spool = open(dir.path())?;
    let sequence = spool.append(payload(1)).await?;
    let before = spool.activity().commits;
    spool.remove(sequence);
    let committed = async {
        while spool.activity().commits == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), committed).await?;
    Ok(())
}

#[tokio::test]
async fn a_spool_that_is_filled_and_emptied_again_and_again_does_not_grow() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let spool = open(dir.path())?;
    let mut largest = Vec::new();
    for round in 0..12 {
        try_join_all((0..400).map(|number| spool.append(payload(round * 400 + number)))).await?;
        largest.push(std::fs::metadata(dir.path().join("spool.redb"))?.len());
        for entry in all(&spool).await? {
            spool.remove(entry.sequence);
        }
        spool.flush().await?;
    }
    let (early, late) = (largest[2], largest[11]);
    assert!(late <= early * 3 / 2, "{largest:?}");
    Ok(())
}

#[tokio::test]
async fn a_spool_that_was_large_gives_the_disk_back_once_it_is_empty() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let spool = open(dir.path())?;
    let sequences = try_join_all((0..64).map(|_| spool.append(vec![1; MAX_PAYLOAD].into()))).await?;
    let length = || Ok::<_, anyhow::Error>(std::fs::metadata(dir.path().join("spool.redb"))?.len());
    assert!(length()? > 64 << 20);
    for sequence in &sequences {
        spool.remove(*sequence);
    }
    spool.flush().await?;
    assert!(length()? < 4 << 20, "{} bytes", length()?);
    let next = spool.append(payload(1)).await?;
    assert!(sequences.iter().all(|sequence| *sequence < next), "the order goes on");
    drop(spool);
    assert_eq!(numbers(&open(dir.path())?).await?.into_values().collect::<Vec<_>>(), [1]);
    Ok(())
}

#[tokio::test]
async fn an_append_that_is_given_up_leaves_the_books_right() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let spool = open(dir.path())?;
    for number in 0..50 {
        tokio::select! {
            biased;
            result = spool.append(payload(number)) => drop(result?),
            () = tokio::task::yield_now() => {}
        }
    }
    spool.flush().await?;
    assert_eq!(spool.pending().entries, all(&spool).await?.len() as u64);
    assert_eq!(spool.pending().entries, 50);
    Ok(())
}

#[tokio::test]
async fn a_dropped_spool_has_committed_what_it_was_told_and_leaves_no_thread() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let spool = Arc::new(Spool::open(dir.path(), ROOMY)?);
    let sequences = try_join_all((0..100).map(|number| spool.append(payload(number)))).await?;
    sequences.iter().take(99).for_each(|sequence| spool.remove(*sequence));
    drop(spool);
    // The directory is free only when the thread has ended.
    let spool = open(dir.path())?;
    assert_eq!(numbers(&spool).await?.into_values().collect::<Vec<_>>(), [99]);
    Ok(())
}

fn millis(time: SystemTime) -> u128 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()
}
