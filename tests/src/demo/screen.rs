//! What is printed: for people on a terminal, and plain where it goes to a file or a program.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

/// How a line is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Something that is bad.
    Alarm,
    /// Something that was done.
    Action,
    /// Something that is good.
    Good,
    /// Something beside the point.
    Quiet,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Alarm => "31;1",
            Self::Action => "33",
            Self::Good => "32;1",
            Self::Quiet => "2",
        }
    }
}

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    colours: bool,
}

impl Screen {
    /// With colours on a terminal, unless NO_COLOR is set (<https://no-color.org>).
    #[must_use]
    pub fn of_stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        Self { colours: std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb }
    }

    /// One line.
    // Not `println`, which panics when the reader has gone.
    pub fn line(self, text: &str) {
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// A line that begins something new.
    pub fn heading(self, text: &str) {
        self.line("");
        self.line(&self.painted("1", text));
    }

    /// A part of the stage that stands now, and how long it took.
    pub fn standing(self, what: &str, detail: &str, took: Duration) {
        self.line(&format!("  {what:<14}{detail} {}", self.toned(Tone::Quiet, &format!("({})", span(took)))));
    }

    /// What has happened, this long after the alert.
    pub fn beat(self, after: Duration, word: &str, tone: Tone, text: &str) {
        self.line(&format!("{:>9}  {} {text}", span(after), self.toned(tone, &format!("{word:<12}"))));
    }

    /// Whether a claim holds, and what was seen.
    pub fn verdict(self, holds: bool, claim: &str, seen: &str) {
        let word = if holds { self.toned(Tone::Good, "ok   ") } else { self.toned(Tone::Alarm, "WRONG") };
        self.line(&format!("  {word} {claim}: {seen}"));
    }

    /// A command with its output.
    pub fn transcript(self, command: &str, output: &str) {
        self.line(&self.painted("1", &format!("$ {command}")));
        self.line(output.trim_end());
    }

    fn toned(self, tone: Tone, text: &str) -> String {
        self.painted(tone.code(), text)
    }

    fn painted(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A time as people say it.
#[must_use]
pub fn span(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_the_unit_that_fits() {
        assert_eq!(span(Duration::from_micros(12_700)), "12 ms");
        assert_eq!(span(Duration::from_millis(1_230)), "1.23 s");
    }

    #[test]
    fn plain_output_has_no_escape_sequences() {
        let screen = Screen { colours: false };
        assert_eq!(screen.toned(Tone::Alarm, "found"), "found");
        assert_eq!(Screen { colours: true }.toned(Tone::Good, "ok"), "\x1b[32;1mok\x1b[0m");
    }
}
