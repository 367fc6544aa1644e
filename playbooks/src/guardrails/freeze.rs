//! Times at which nothing is done, by the clocks of a time zone.

use chrono::{
    DateTime, Datelike as _, Days, MappedLocalTime, NaiveDateTime, NaiveTime, TimeDelta, TimeZone as _, Utc, Weekday,
};
use chrono_tz::Tz;
use quell_crds::v1alpha1::{Day, Freeze};

/// When a freeze holds.
#[derive(Clone, Debug)]
pub(super) struct Time {
    zone: Tz,
    when: When,
}

#[derive(Clone, Debug)]
enum When {
    Weekly { days: Vec<Weekday>, from: NaiveTime, until: NaiveTime },
    Once { from: NaiveDateTime, until: NaiveDateTime },
}

impl Time {
    /// The time of a freeze; an error names the field.
    pub fn of(freeze: &Freeze, zone: Tz) -> Result<Self, (String, String)> {
        let when = match (&freeze.weekly, &freeze.once) {
            (Some(weekly), None) => When::Weekly {
                days: weekly.days.iter().copied().map(weekday).collect(),
                from: time(weekly.from.as_deref(), "weekly.from")?,
                until: time(weekly.until.as_deref(), "weekly.until")?,
            },
            (None, Some(once)) => {
                let (from, until) = (moment(&once.from, "once.from")?, moment(&once.until, "once.until")?);
                if until <= from {
                    return Err(("once.until".to_owned(), "must be after from".to_owned()));
                }
                When::Once { from, until }
            }
            _ => return Err(("weekly".to_owned(), "give weekly or once".to_owned())),
        };
        Ok(Self { zone, when })
    }

    /// When it ends, where it holds now.
    pub fn until(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.when {
            When::Once { from, until } => self.within(*from, *until, now),
            When::Weekly { days, from, until } => {
                let today = now.with_timezone(&self.zone).date_naive();
                // One that began yesterday may last until today. Days that follow each other without a gap are one.
                let ends =
                    [today.checked_sub_days(Days::new(1)), Some(today)].into_iter().flatten().filter_map(|day| {
                        if !days.contains(&day.weekday()) {
                            return None;
                        }
                        let last = if until <= from { day.checked_add_days(Days::new(1))? } else { day };
                        self.within(day.and_time(*from), last.and_time(*until), now)
                    });
                ends.max()
            }
        }
    }

    /// The end, as people of that time zone tell it.
    pub fn tell(&self, until: DateTime<Utc>) -> String {
        format!("{} {}", until.with_timezone(&self.zone).format("%Y-%m-%d %H:%M"), self.zone.name())
    }

    fn within(&self, from: NaiveDateTime, until: NaiveDateTime, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (from, until) = (self.instant(from, false)?, self.instant(until, true)?);
        (from <= now && now < until).then_some(until)
    }

    /// A local time that clocks show twice is the first one where a freeze begins, the second where it ends; one that they pass over is the
    /// moment at which they do.
    fn instant(&self, local: NaiveDateTime, latest: bool) -> Option<DateTime<Utc>> {
        match self.zone.from_local_datetime(&local) {
            MappedLocalTime::Single(one) => Some(one.to_utc()),
            MappedLocalTime::Ambiguous(first, second) => Some(if latest { second } else { first }.to_utc()),
            // No clock passes over more than a day (Samoa, in 2011), nor at other than a quarter of an hour.
            MappedLocalTime::None => (1..=96).find_map(|quarters| {
                let later = local.checked_add_signed(TimeDelta::minutes(15 * quarters))?;
                self.zone.from_local_datetime(&later).earliest().map(|one| one.to_utc())
            }),
        }
    }
}

fn weekday(day: Day) -> Weekday {
    match day {
        Day::Monday => Weekday::Mon,
        Day::Tuesday => Weekday::Tue,
        Day::Wednesday => Weekday::Wed,
        Day::Thursday => Weekday::Thu,
        Day::Friday => Weekday::Fri,
        Day::Saturday => Weekday::Sat,
        Day::Sunday => Weekday::Sun,
    }
}

fn time(text: Option<&str>, field: &str) -> Result<NaiveTime, (String, String)> {
    let Some(text) = text else { return Ok(NaiveTime::MIN) };
    NaiveTime::parse_from_str(text, "%H:%M")
        .map_err(|_| (field.to_owned(), format!("`{text}` is not a time, such as 18:00")))
}

fn moment(text: &str, field: &str) -> Result<NaiveDateTime, (String, String)> {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M")
        .map_err(|_| (field.to_owned(), format!("`{text}` is not a day and time, such as 2026-12-24T12:00")))
}
