//! What people are told about a quarantine after it was made: each thing once, and never a flood.

use chrono::{DateTime, Duration, Utc};
use quell_crds::v1alpha1::QuarantineNews;

/// Put back as often as this within [`WINDOW`], it counts as contested: people are told who does it.
pub const CONTESTED: usize = 3;
/// How long it counts that a quarantine was put back, or that a message went out.
pub const WINDOW: Duration = Duration::minutes(10);
/// As many messages about the quarantines of a run go out within [`WINDOW`]. What comes to more than that is told when there is room
/// again, as it is by then.
pub const MOST: usize = 4;
/// A quarantine that is changed again and again is put back no more often than this many seconds apart, so as not to fight for ever.
const LONGEST_WAIT: i64 = 60;

/// What is known of the quarantines of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Something gets through.
    pub open: bool,
    /// Something of the quarantine itself isn't as it was made, and is being put back.
    pub changed: bool,
    /// How often it was put back within [`WINDOW`].
    pub restored: usize,
    /// The last try to put it back failed.
    pub failed: bool,
}

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: people know it all.
    Nothing,
    /// This, now.
    Tell(QuarantineNews),
    /// There will be room for a message then.
    Later(DateTime<Utc>),
}

/// What there is to tell to people who know `told`; nothing yet: then they take it that the quarantine holds. `sent` says when messages
/// went out, oldest first.
#[must_use]
pub fn decide(
    facts: &Facts,
    told: Option<QuarantineNews>,
    sent: impl IntoIterator<Item = DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Decision {
    let known = told.unwrap_or(QuarantineNews::Closed);
    let news = match facts {
        Facts { failed: true, .. } => QuarantineNews::NotKept,
        Facts { restored: CONTESTED.., .. } => QuarantineNews::Contested,
        // What is about to be put back is no news: that it was changed is told when it is done.
        Facts { changed: true, .. } => known,
        Facts { open: true, .. } => QuarantineNews::Opened,
        _ => QuarantineNews::Closed,
    };
    if news == known {
        return Decision::Nothing;
    }
    match room(sent, now) {
        None => Decision::Tell(news),
        Some(at) => Decision::Later(at),
    }
}

/// When there is room for one more message; `None`: now.
#[must_use]
pub fn room(sent: impl IntoIterator<Item = DateTime<Utc>>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let recent: Vec<_> = sent.into_iter().filter(|at| now - *at < WINDOW).collect();
    let first = recent.len().checked_sub(MOST)?;
    recent.get(first).map(|at| *at + WINDOW)
}

/// How long to wait before a quarantine is put back that was put back so often already: not at all after the first time, then a second,
/// doubled each time, up to a minute.
#[must_use]
pub fn wait(restored: usize) -> Duration {
    let exponent = u32::try_from(restored.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    if exponent == 0 { Duration::zero() } else { Duration::seconds((1_i64 << (exponent - 1)).min(LONGEST_WAIT)) }
}
