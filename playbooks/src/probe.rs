//! What the probes of a quarantine have told so far: kept in its step's outputs, weighed into `Contained`, and when they are made again.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use quell_crds::conditions::{Reason, Status};

/// Output of the step: what the probes told, see [`Verdict`].
pub const VERDICT: &str = "probe";
/// Output of the step: the same for people.
pub const MESSAGE: &str = "probeMessage";
/// Output of the step: how often they were made.
pub const ROUND: &str = "probeRound";
/// Output of the step: when they answered last.
pub const AT: &str = "probedAt";

/// A pod that answers, or could not be probed, is probed again this often: for most of a working day.
const MOST_ROUNDS: u32 = 12;
/// The wait before the second time; doubled for each further one.
const FIRST_WAIT: TimeDelta = TimeDelta::minutes(1);
const LONGEST_WAIT: TimeDelta = TimeDelta::hours(1);
/// Longest message that is kept, in bytes.
const LONGEST: usize = 1024;

/// What the probes of a quarantine told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    #[default]
    UnderWay,
    /// No connection was made, from any place, though each place could connect to what must answer.
    NothingGotThrough,
    /// A connection was made.
    GotThrough,
    /// They could not be made, or prove nothing.
    NotMade,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Verdict {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [Self::UnderWay, Self::NothingGotThrough, Self::GotThrough, Self::NotMade];
        all.into_iter().find(|verdict| verdict.to_string() == text).ok_or(())
    }
}

/// How the probes of a quarantine stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// What they told last.
    pub verdict: Verdict,
    /// For people.
    pub message: String,
    /// How often they told.
    pub round: u32,
    /// When they told last.
    pub at: Option<DateTime<Utc>>,
}

impl Probed {
    /// As a step's outputs have it; where they have nothing, the probes are still to come.
    #[must_use]
    pub fn of(outputs: &BTreeMap<String, String>) -> Self {
        let said = |key: &str| outputs.get(key).map(String::as_str).unwrap_or_default();
        Self {
            verdict: said(VERDICT).parse().unwrap_or_default(),
            message: said(MESSAGE).to_owned(),
            round: said(ROUND).parse().unwrap_or_default(),
            at: said(AT).parse().ok(),
        }
    }

    /// This answer, after what was told before.
    #[must_use]
    pub fn then(&self, verdict: Verdict, message: &str, now: DateTime<Utc>) -> Self {
        Self { verdict, message: crate::progress::shorten(message, LONGEST), round: self.round + 1, at: Some(now) }
    }

    /// Into a step's outputs.
    pub fn write(&self, outputs: &mut BTreeMap<String, String>) {
        let at = self.at.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default();
        let (verdict, round) = (self.verdict.to_string(), self.round.to_string());
        for (key, value) in [(VERDICT, verdict), (MESSAGE, self.message.clone()), (ROUND, round), (AT, at)] {
            outputs.insert(key.to_owned(), value);
        }
    }

    /// Which time the probes are made next, and when; `None`: they have told what they can.
    #[must_use]
    pub fn due(&self) -> Option<(u32, Option<DateTime<Utc>>)> {
        match self.verdict {
            Verdict::UnderWay => Some((self.round + 1, None)),
            Verdict::NothingGotThrough => None,
            Verdict::GotThrough | Verdict::NotMade if self.round >= MOST_ROUNDS => None,
            Verdict::GotThrough | Verdict::NotMade => {
                let doublings = self.round.clamp(1, 16) - 1;
                let wait = (FIRST_WAIT * (1 << doublings)).min(LONGEST_WAIT);
                Some((self.round + 1, self.at.and_then(|at| at.checked_add_signed(wait))))
            }
        }
    }
}

/// What was computed, and what was tried, in one condition. A probe can take certainty away, and never give it: that nothing answers here
/// and now is no proof of what a policy lets through elsewhere.
#[must_use]
pub fn weigh(computed: (Status, Reason, String), probed: &Probed) -> (Status, Reason, String) {
    let (status, reason, message) = computed;
    if reason == Reason::TargetGone {
        return (status, reason, message);
    }
    let told = &probed.message;
    match (status, probed.verdict) {
        (_, Verdict::GotThrough) => (Status::False, Reason::ProbeGotThrough, format!("{told}; computed: {message}")),
        (Status::True, Verdict::UnderWay) => {
            (Status::Unknown, Reason::ProbeUnderWay, format!("{message}; probes are trying it"))
        }
        (Status::True, Verdict::NotMade) => {
            (Status::Unknown, Reason::ProbeFailed, format!("{message}; but it could not be tried: {told}"))
        }
        (status, Verdict::UnderWay) => (status, reason, format!("{message}; probes are trying it")),
        (status, Verdict::NotMade) => (status, reason, format!("{message}; it could not be tried: {told}")),
        (status, Verdict::NothingGotThrough) => (status, reason, format!("{message}; {told}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probed(verdict: Verdict, round: u32) -> Probed {
        Probed { verdict, message: "said".to_owned(), round, at: DateTime::from_timestamp(1_000, 0) }
    }

    #[test]
    fn a_probe_takes_certainty_away_and_never_gives_it() {
        use Status::{False, True, Unknown};
        use Verdict::{GotThrough, NotMade, NothingGotThrough, UnderWay};
        for (computed, verdict, status) in [
            (True, NothingGotThrough, True),
            (True, UnderWay, Unknown),
            (True, NotMade, Unknown),
            (True, GotThrough, False),
            (Unknown, NothingGotThrough, Unknown),
            (Unknown, UnderWay, Unknown),
            (Unknown, NotMade, Unknown),
            (Unknown, GotThrough, False),
            (False, NothingGotThrough, False),
            (False, UnderWay, False),
            (False, NotMade, False),
            (False, GotThrough, False),
        ] {
            let before = (computed, Reason::NothingGetsThrough, "computed".to_owned());
            let (found, _, message) = weigh(before, &probed(verdict, 1));
            assert_eq!(found, status, "{computed:?} {verdict}: {message}");
            assert!(message.contains("computed"), "{message}");
        }
        let gone = (True, Reason::TargetGone, "gone".to_owned());
        assert_eq!(weigh(gone.clone(), &probed(GotThrough, 1)), gone);
    }

    #[test]
    fn what_was_told_is_read_again_as_it_was_written() {
        for one in [probed(Verdict::GotThrough, 3), probed(Verdict::NotMade, 1), probed(Verdict::NothingGotThrough, 2)]
        {
            let mut outputs = BTreeMap::new();
            one.write(&mut outputs);
            assert_eq!(Probed::of(&outputs), one);
        }
        assert_eq!(Probed::of(&BTreeMap::new()), Probed::default());
    }

    #[test]
    fn it_is_probed_until_nothing_gets_through_less_and_less_often_and_not_for_ever() {
        assert_eq!(Probed::default().due(), Some((1, None)));
        assert_eq!(probed(Verdict::NothingGotThrough, 1).due(), None);
        for verdict in [Verdict::GotThrough, Verdict::NotMade] {
            let at = |round| probed(verdict, round).due().and_then(|(_, at)| at).map(|at| at.timestamp());
            assert_eq!([at(1), at(2), at(3)], [Some(1_060), Some(1_120), Some(1_240)]);
            assert_eq!(at(11), Some(1_000 + 3_600));
            assert_eq!(probed(verdict, 12).due(), None);
        }
        let next = Probed::default().then(Verdict::GotThrough, "x", DateTime::UNIX_EPOCH);
        assert_eq!(next.round, 1);
    }
}
