//! Instants, in the many ways that tools write them.

use chrono::{DateTime, Datelike as _, FixedOffset, NaiveDateTime, TimeZone as _, Utc};

use crate::lenient::known;

/// Ways without a zone, which then is UTC: ISO, SQL's, and AWS EventBridge's `Dec 3, 2021, 6:02:30 PM`.
const WITHOUT_ZONE: [&str; 5] = [
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%b %d, %Y, %I:%M:%S %p",
    "%b %d, %Y %I:%M:%S %p",
    "%B %d, %Y %H:%M:%S",
];

/// The instant of a text: RFC 3339, the same without a zone (then UTC) or with one as `+0100`, a date in words, or a number of seconds,
/// milli-, micro- or nanoseconds since 1970. Nothing for `0001-01-01T00:00:00Z`, which is how Go writes an unset time.
pub(crate) fn time(text: &str) -> Option<DateTime<Utc>> {
    let text = known(text)?;
    let at = DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z"))
        .map(|at| at.to_utc())
        .ok()
        .or_else(|| without_zone(text).map(|at| at.and_utc()))
        .or_else(|| number(text))?;
    (1970..=9999).contains(&at.year()).then_some(at)
}

/// The instant of a text that has no zone and means China's, as Tencent Cloud's products write it.
pub(crate) fn time_in_china(text: &str) -> Option<DateTime<Utc>> {
    let text = known(text)?;
    let Some(local) = without_zone(text) else { return time(text) };
    let zone = FixedOffset::east_opt(8 * 3600)?;
    let at = zone.from_local_datetime(&local).single()?.to_utc();
    (1970..=9999).contains(&at.year()).then_some(at)
}

fn without_zone(text: &str) -> Option<NaiveDateTime> {
    WITHOUT_ZONE.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
}

fn number(text: &str) -> Option<DateTime<Utc>> {
    // Seconds may have a fraction: AWS' command line writes them so.
    let whole = match text.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|byte| byte.is_ascii_digit()) => whole,
        _ => text,
    };
    since_1970(whole.parse().ok()?)
}

fn since_1970(number: i64) -> Option<DateTime<Utc>> {
    // The units are so far apart that for the next centuries the size tells which one it is.
    match number {
        1..100_000_000_000 => DateTime::from_timestamp(number, 0),
        100_000_000_000..100_000_000_000_000 => DateTime::from_timestamp_millis(number),
        100_000_000_000_000..100_000_000_000_000_000 => DateTime::from_timestamp_micros(number),
        100_000_000_000_000_000.. => Some(DateTime::from_timestamp_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_the_ways_that_tools_write_it() {
        let expected = time("2023-05-25T13:44:05.478445995Z").unwrap();
        assert_eq!(expected.timestamp_subsec_nanos(), 478_445_995);
        assert_eq!(time("2023-05-25T15:44:05.478445995+02:00"), Some(expected));
        assert_eq!(time("2023-05-25T15:44:05.478445995+0200"), Some(expected));
        assert_eq!(time("2023-05-25T13:44:05.478445995"), Some(expected));
        assert_eq!(time("2023-05-25 13:44:05.478445995"), Some(expected));
        // Above 2^53: through a float it would be another instant.
        assert_eq!(time("1685022245478445995"), Some(expected));
        for text in ["1685022245", "1685022245000", "1685022245000000", "1685022245.342", "May 25, 2023, 1:44:05 PM"] {
            assert_eq!(time(text).unwrap().timestamp(), 1_685_022_245, "{text}");
        }
        for text in [
            "",
            "<NA>",
            "0001-01-01T00:00:00Z",
            "0",
            "-5",
            "yesterday",
            "99999999999999999999999",
            "+12345-01-01T00:00:00Z",
        ] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn what_has_no_zone_is_chinese_where_the_product_is() {
        let expected = time("2023-10-30T01:24:20Z");
        assert_eq!(time_in_china("2023-10-30 09:24:20"), expected);
        assert_eq!(time_in_china("October 30, 2023 09:24:20"), expected);
        assert_eq!(time_in_china("2023-10-30T09:24:20+08:00"), expected);
        assert_eq!(time_in_china("0001-01-01 00:00:00"), None);
    }
}
