//! What the lines of a probe tell, whose clock is another one than ours.
//!
//! A line carries when its attempt began, by the pod's clock, and arrives some time later by ours. The smallest difference of all lines is
//! that of the clocks and the quickest way of a line; by it every attempt has a time by our clock, too late by that way at most.

use quell_probe::{Line, Way};

/// New connections that fail one after the other: then it counts as cut.
const STREAK: usize = 5;

/// The lines so far.
#[derive(Debug, Default)]
pub(super) struct Lines {
    all: Vec<Line>,
    /// From the pod's clock to ours, in microseconds.
    offset: Option<i64>,
}

impl Lines {
    /// A line has arrived, at that time by our clock.
    pub(super) fn add(&mut self, line: Line, arrived: i64) {
        let offset = arrived.saturating_sub(began(&line));
        self.offset = Some(self.offset.map_or(offset, |known| known.min(offset)));
        self.all.push(line);
    }

    fn at(&self, line: &Line) -> i64 {
        began(line).saturating_add(self.offset.unwrap_or_default())
    }

    /// Attempts of one way that began since, by our clock.
    fn since(&self, way: Way, since: i64) -> impl Iterator<Item = &Line> {
        self.all.iter().filter(move |line| line.way == way && self.at(line) >= since)
    }

    /// As many attempts of one way were answered since, one after the other, the last ones.
    pub(super) fn answers(&self, way: Way, since: i64) -> usize {
        let all: Vec<bool> = self.since(way, since).map(|line| line.ok).collect();
        all.iter().rev().take_while(|ok| **ok).count()
    }

    /// When the last new connection got through that began since, where they have failed ever since; `since` itself where none did.
    pub(super) fn cut(&self, since: i64) -> Option<i64> {
        let all: Vec<&Line> = self.since(Way::New, since).collect();
        let failed = all.iter().rev().take_while(|line| !line.ok).count();
        let last = all.iter().rev().find(|line| line.ok).map_or(since, |line| self.at(line));
        (failed >= STREAK).then_some(last)
    }

    /// How many requests over the held connection were answered, of those since.
    pub(super) fn held(&self, since: i64) -> (usize, usize) {
        let all = self.since(Way::Held, since);
        all.fold((0, 0), |(answered, asked), line| (answered + usize::from(line.ok), asked + 1))
    }
}

/// By the pod's clock.
fn began(line: &Line) -> i64 {
    i64::try_from(line.began).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our clock is 1000 ahead; lines take 5 at best.
    fn lines(all: &[(Way, u64, bool)]) -> Lines {
        let mut lines = Lines::default();
        for (index, (way, began, ok)) in all.iter().enumerate() {
            let slow = if index == 0 { 0 } else { 40 };
            let line = Line { way: *way, began: *began, ok: *ok };
            lines.add(line, super::began(&line) + 1000 + 5 + slow);
        }
        lines
    }

    #[test]
    fn times_are_by_our_clock_and_only_a_streak_of_failures_is_a_cut() {
        let mut all = vec![(Way::New, 0, true), (Way::New, 10, true), (Way::New, 20, false), (Way::New, 30, true)];
        all.extend((4..8).map(|i| (Way::New, i * 10, false)));
        assert_eq!(lines(&all).cut(1010), None, "four failures");
        all.push((Way::New, 90, false));
        assert_eq!(lines(&all).cut(1010), Some(30 + 1005));
        assert_eq!(lines(&all).cut(1040), Some(1040), "nothing got through since");
    }

    #[test]
    fn answers_are_counted_from_the_end() {
        let told = lines(&[
            (Way::New, 0, true),
            (Way::New, 1, false),
            (Way::New, 2, true),
            (Way::Held, 3, true),
            (Way::New, 4, true),
        ]);
        assert_eq!((told.answers(Way::New, 0), told.answers(Way::Held, 0)), (2, 1));
        assert_eq!(told.held(0), (1, 1));
        assert_eq!(told.held(5000), (0, 0));
    }
}
