use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::child::{Appender, Job};
use crate::support::{all, number, open};

/// How often a child is killed, and how long the test may take for it.
const KILLS: usize = 25;
const BOUND: Duration = Duration::from_mins(2);

/// Each child goes on with the spool that the one before left behind.
#[tokio::test]
async fn every_answered_entry_survives_sigkill_and_none_is_invented() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let begun_at = Instant::now();
    let (mut begun, mut kept, mut removed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut kills = 0;
    while kills < KILLS && begun_at.elapsed() < BOUND {
        let first = begun.last().map_or(0, |last: &u64| last + 1);
        let before = format!("export QUELL_SPOOL_CHILD_FIRST={first};");
        let mut child = Appender::start(dir.path(), Job::Append, &[], &before)?;
        let mut said = vec![child.next()?.context("the child has ended")?];
        // A moment of its own for each, from the first write on; fractions of a commit apart.
        let until =
            Instant::now() + Duration::from_micros(u64::from(std::process::id()) * 7919 % 500 + 3_137 * kills as u64);
        while Instant::now() < until {
            said.push(child.next()?.context("the child has ended")?);
        }
        said.extend(child.kill()?);
        for line in said {
            let (what, number) = line.split_once(' ').context("a line of the child")?;
            let number: u64 = number.parse()?;
            match what {
                "begun" => begun.insert(number),
                "kept" => kept.insert(number),
                "removed" => removed.insert(number),
                other => anyhow::bail!("the child said {other:?}"),
            };
        }
        let there: Vec<u64> = all(&open(dir.path())?).await?.iter().map(number).collect();
        let set: BTreeSet<u64> = there.iter().copied().collect();
        assert_eq!(set.len(), there.len(), "none twice");
        let lost: Vec<_> = kept.difference(&removed).filter(|number| !set.contains(number)).collect();
        assert!(lost.is_empty(), "answered and gone after {kills} kills: {lost:?}");
        let invented: Vec<_> = set.difference(&begun).collect();
        assert!(invented.is_empty(), "never appended: {invented:?}");
        kills += 1;
    }
    assert!(kills >= 10, "{kills} kills in {BOUND:?}");
    assert!(kept.len() > kills, "{} entries were answered", kept.len());
    Ok(())
}
