//! Times, as people read them.

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A length of time in at most two units, as kubectl writes ages; parts of a second only below ten seconds.
pub fn length(of: TimeDelta) -> String {
    let of = of.max(TimeDelta::zero());
    let seconds = of.num_seconds();
    let millis = of.num_milliseconds();
    if seconds < 10 && millis % 1000 > 0 {
        return if millis < 1000 { format!("{millis}ms") } else { format!("{seconds}.{}s", millis % 1000 / 100) };
    }
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => two(seconds, MINUTE, "m", 1, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(seconds, HOUR, "h", MINUTE, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(seconds, DAY, "d", HOUR, "h"),
        _ => format!("{}d", seconds / DAY),
    }
}

fn two(seconds: i64, large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    match seconds % large / small {
        0 => format!("{}{large_unit}", seconds / large),
        rest => format!("{}{large_unit}{rest}{small_unit}", seconds / large),
    }
}

/// How old, in whole seconds.
pub fn age(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    length(TimeDelta::seconds((now - at).num_seconds()))
}

/// `2026-11-21 03:12:45 UTC (5m ago)`.
pub fn moment(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let absolute = at.format("%Y-%m-%d %H:%M:%S UTC");
    if at > now { format!("{absolute} (in {})", age(now, at)) } else { format!("{absolute} ({} ago)", age(at, now)) }
}

/// When the API server created it.
pub fn created(metadata: &ObjectMeta) -> Option<DateTime<Utc>> {
    metadata.creation_timestamp.as_ref().map(quell_crds::time::from_kubernetes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_as_kubectl_writes_them() {
        let of = |millis| length(TimeDelta::milliseconds(millis));
        let told = [0, 340, 1250, 12_400, 119_000, 185_000, 3_600_000, 12_600_000, 90_000_000, 700_000_000].map(of);
        assert_eq!(told, ["0s", "340ms", "1.2s", "12s", "119s", "3m5s", "60m", "3h30m", "25h", "8d"]);
        assert_eq!(of(-5000), "0s");
    }
}
