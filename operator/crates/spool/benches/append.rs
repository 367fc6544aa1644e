//! What an append costs: `cargo bench -p quell-spool`. `QUELL_BENCH_DIR` names a directory on the disk that is meant, else it is the
//! temporary one.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use futures::future::try_join_all;
use quell_spool::{Activity, Limit, Spool};

const LIMIT: Limit = Limit { bytes: 1 << 30, entries: 1_000_000 };
/// About what Falco sends for one alert.
const PAYLOAD: usize = 2048;
const PERIOD: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<()> {
    let parent = std::env::var_os("QUELL_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    for callers in [1, 32, 1000] {
        let dir = tempfile::tempdir_in(&parent)?;
        let spool = Arc::new(Spool::open(dir.path(), LIMIT)?);
        let begun = Instant::now();
        let mut times = append(&spool, callers).await?;
        let elapsed = begun.elapsed();
        times.sort_unstable();
        print(&format!("append, {callers} at once"), &times, elapsed, &spool.activity());
        let file = std::fs::metadata(dir.path().join("spool.redb"))?;
        #[expect(clippy::cast_precision_loss, reason = "figures to look at")]
        let ratio = (file.blocks() * 512) as f64 / spool.pending().bytes as f64;
        println!("  {:.1} MiB wait, and take {ratio:.2} times that on disk", mebibytes(spool.pending().bytes));
        drop(spool);
        let begun = Instant::now();
        let spool = Spool::open(dir.path(), LIMIT)?;
        println!("  opened again in {:.2?}", begun.elapsed());
        let before = spool.activity();
        let begun = Instant::now();
        let drained = drain(&spool).await?;
        let after = spool.activity();
        println!(
            "  drained: {:.0}/s read and removed, {} commits, {:.1} MiB on disk",
            rate(drained, begun.elapsed()),
            after.commits - before.commits,
            mebibytes(std::fs::metadata(dir.path().join("spool.redb"))?.blocks() * 512)
        );
    }
    Ok(())
}

/// Callers that append one after another each, until the time is up. How long each append took.
async fn append(spool: &Arc<Spool>, callers: usize) -> Result<Vec<Duration>> {
    let end = Instant::now() + PERIOD;
    let tasks = (0..callers).map(|_| {
        let spool = Arc::clone(spool);
        tokio::spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let begun = Instant::now();
                spool.append(Bytes::from_static(&[b'x'; PAYLOAD])).await?;
                times.push(begun.elapsed());
            }
            Ok::<_, anyhow::Error>(times)
        })
    });
    let times = try_join_all(tasks).await?.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(times.concat())
}

async fn drain(spool: &Spool) -> Result<usize> {
    let mut drained = 0;
    loop {
        let page = spool.page(None, 1 << 20).await?;
        if page.is_empty() {
            spool.flush().await?;
            return Ok(drained);
        }
        drained += page.len();
        for entry in page {
            spool.remove(entry.sequence);
        }
    }
}

fn print(what: &str, times: &[Duration], elapsed: Duration, activity: &Activity) {
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "figures to look at")]
    let (per_commit, per_payload, syncs) = (
        activity.appended as f64 / activity.commits as f64,
        activity.written_bytes as f64 / activity.appended_bytes as f64,
        activity.syncs as f64 / activity.commits as f64,
    );
    println!(
        "{what}: {:.0}/s, p50 {:.2?}, p99 {:.2?}, {per_commit:.1} a commit, {syncs:.2} fsyncs a commit, {per_payload:.2} bytes written a byte",
        rate(times.len(), elapsed),
        at(50),
        at(99)
    );
}

#[expect(clippy::cast_precision_loss, reason = "figures to look at")]
fn rate(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "figures to look at")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
