//! The one place where Kubernetes' `jiff` and Quell's `chrono` meet.

use chrono::{DateTime, SubsecRound as _, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;

/// A `metav1.Time`, which Kubernetes keeps in whole seconds.
#[must_use]
pub fn to_kubernetes(at: DateTime<Utc>) -> Time {
    Time(timestamp(at.trunc_subsecs(0)))
}

/// A `metav1.MicroTime`, which Kubernetes keeps in microseconds.
#[must_use]
pub fn to_kubernetes_micro(at: DateTime<Utc>) -> MicroTime {
    MicroTime(timestamp(at.trunc_subsecs(6)))
}

/// The instant of a `metav1.Time`.
#[must_use]
pub fn from_kubernetes(time: &Time) -> DateTime<Utc> {
    let at = time.0;
    DateTime::from_timestamp(at.as_second(), at.subsec_nanosecond().unsigned_abs()).unwrap_or_default()
}

fn timestamp(at: DateTime<Utc>) -> Timestamp {
    // Both clocks cover the years that a cluster can live in; what neither can hold is the epoch.
    Timestamp::new(at.timestamp(), at.timestamp_subsec_nanos().cast_signed()).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_survive_the_way_there_and_back() {
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        assert_eq!(from_kubernetes(&to_kubernetes(at)), at);
    }

    #[test]
    fn parts_of_a_second_are_cut_as_kubernetes_does() {
        let at = DateTime::from_timestamp(1_700_000_000, 999_999_999).unwrap();
        assert_eq!(from_kubernetes(&to_kubernetes(at)).timestamp_subsec_nanos(), 0);
    }
}
