//! Progress that a person sees.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const EVERY: Duration = Duration::from_secs(15);

/// One thing under way: a spinner on a terminal, a line now and then elsewhere.
pub(super) struct Progress {
    what: String,
    started: Instant,
    said: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn start(what: String) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
            let bar = ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
                .with_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            say(&what);
        }
        Self { what, started: Instant::now(), said: Instant::now(), bar }
    }

    /// To be called often; speaks when enough time has gone by.
    pub(super) fn tick(&mut self) {
        if self.bar.is_none() && self.said.elapsed() >= EVERY {
            say(&format!("{}: {} s so far", self.what, self.started.elapsed().as_secs()));
            self.said = Instant::now();
        }
    }

    pub(super) fn done(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        say(&format!("{}: done in {} s", self.what, self.started.elapsed().as_secs()));
    }
}

/// Not `eprintln`, which the test harness holds back until a test has failed.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
