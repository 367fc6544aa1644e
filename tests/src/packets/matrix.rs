//! Every place against every address.

use std::fmt::Display;
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::attempts::{Attempt, Place, try_each};
use crate::Node;

/// Of so many connections to a Service each pod behind it gets some: all must succeed.
const TRIES_OF_A_SERVICE: usize = 12;
/// Far above what an answer on one machine takes, and below the second after which TCP tries again.
const TIMEOUT: Duration = Duration::from_millis(700);

/// Where attempts begin, by name.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// The place.
    pub place: Place,
}

/// What is tried.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name, such as `victim`, `web (Service)`.
    pub name: String,
    /// The name of the [`Source`] that it is the address of, which doesn't try itself.
    pub of: Option<String>,
    /// `tcp`, `udp` or `connect`.
    pub kind: &'static str,
    /// IP address and port.
    pub address: String,
    /// An address that exists on the node alone.
    pub virtual_address: bool,
}

/// One ordered pair, and what came of it.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Name of the source.
    pub from: String,
    /// Name of the target.
    pub to: String,
    /// `tcp`, `udp`, `connect`, or the kind of a flow.
    pub kind: &'static str,
    /// Whether all attempts were answered.
    pub reached: bool,
    /// Why one was not.
    pub why: String,
}

impl Display for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, to, kind, reached, why } = self;
        let outcome = if *reached { "reached".to_owned() } else { format!("not reached ({why})") };
        write!(f, "{from} -> {to} ({kind}): {outcome}")
    }
}

/// All pairs of these.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Where attempts begin.
    pub sources: Vec<Source>,
    /// What each tries.
    pub targets: Vec<Target>,
}

impl Matrix {
    /// Tries all of it.
    pub async fn try_all(&self, node: &Node) -> Result<Vec<Pair>> {
        let rows: Vec<Vec<Pair>> =
            stream::iter(&self.sources).map(|source| self.row(node, source)).buffered(2).try_collect().await?;
        Ok(rows.into_iter().flatten().collect())
    }

    async fn row(&self, node: &Node, source: &Source) -> Result<Vec<Pair>> {
        let reachable = |target: &&Target| {
            target.of.as_ref() != Some(&source.name) && !(target.virtual_address && source.place == Place::Outside)
        };
        let targets: Vec<&Target> = self.targets.iter().filter(reachable).collect();
        let wanted: Vec<String> = targets
            .iter()
            .flat_map(|target| {
                let tries = if target.virtual_address { TRIES_OF_A_SERVICE } else { 1 };
                std::iter::repeat_n(format!("{}/{}", target.kind, target.address), tries)
            })
            .collect();
        let attempts = try_each(node, &source.place, &wanted, TIMEOUT).await?;
        Ok(targets.into_iter().map(|target| pair(source, target, &attempts)).collect())
    }
}

fn pair(source: &Source, target: &Target, attempts: &[Attempt]) -> Pair {
    let what = format!("{}/{}", target.kind, target.address);
    let failed = attempts.iter().find(|attempt| attempt.target == what && !attempt.ok);
    Pair {
        from: source.name.clone(),
        to: target.name.clone(),
        kind: target.kind,
        reached: failed.is_none(),
        why: failed.map(|attempt| attempt.why.clone()).unwrap_or_default(),
    }
}
