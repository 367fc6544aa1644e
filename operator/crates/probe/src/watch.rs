//! One address, connected to again and again, and one connection that is held: what `kubectl quell doctor` measures with.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::str::FromStr;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;

use crate::ProbeError;
use crate::attempt::{Outcome, connect};

/// Between two new connections.
const EVERY: Duration = Duration::from_millis(10);
/// How long a new connection is waited for.
const TIMEOUT: Duration = Duration::from_millis(300);
/// Between two requests over the connection that is held.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long their answers are waited for.
const ANSWER: Duration = Duration::from_millis(500);

/// Prints a line for each attempt, see [`Line`].
#[derive(Args, Clone, Debug)]
pub struct Watch {
    /// What is connected to
    #[arg(long, value_name = "IP:PORT")]
    pub target: SocketAddr,
    /// Seconds after which it ends
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub lasts: u64,
}

/// How it was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// A new connection.
    New,
    /// A request over the connection that is held.
    Held,
}

/// An attempt, as it is printed: `new 1700000000000000 ok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// How.
    pub way: Way,
    /// When it began, in microseconds since 1970 by the pod's clock.
    pub began: u64,
    /// Whether it was answered.
    pub ok: bool,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.way == Way::New { "new" } else { "held" };
        write!(f, "{way} {} {}", self.began, if self.ok { "ok" } else { "no" })
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unreadable = || format!("not a line of a probe: {text}");
        let words: Vec<&str> = text.split_whitespace().collect();
        let [way, began, outcome] = words[..] else { return Err(unreadable()) };
        let way = match way {
            "new" => Way::New,
            "held" => Way::Held,
            _ => return Err(unreadable()),
        };
        let began = began.parse().map_err(|_| unreadable())?;
        match outcome {
            "ok" => Ok(Self { way, began, ok: true }),
            "no" => Ok(Self { way, began, ok: false }),
            _ => Err(unreadable()),
        }
    }
}

pub(crate) fn run(watch: &Watch) -> Result<(), ProbeError> {
    let end = Instant::now() + Duration::from_secs(watch.lasts);
    let (lines, printed) = channel();
    let held = lines.clone();
    let target = watch.target;
    std::thread::spawn(move || hold(target, end, &held));
    std::thread::spawn(move || again_and_again(target, end, &lines));
    let mut out = std::io::stdout();
    for line in printed {
        let written = writeln!(out, "{line}").and_then(|()| out.flush());
        written.map_err(|source| ProbeError::Write { what: "standard output".to_owned(), source })?;
    }
    Ok(())
}

fn again_and_again(target: SocketAddr, end: Instant, lines: &Sender<Line>) {
    while Instant::now() < end {
        let began = now();
        let ok = connect(target, TIMEOUT) == Outcome::Connected;
        if lines.send(Line { way: Way::New, began, ok }).is_err() {
            return;
        }
        std::thread::sleep(EVERY);
    }
}

/// Holds a connection as long as it is answered; then it goes on waiting for the answers, for a connection that is frozen may live on.
fn hold(target: SocketAddr, end: Instant, lines: &Sender<Line>) {
    let connection = loop {
        match TcpStream::connect_timeout(&target, TIMEOUT) {
            Ok(connection) => break connection,
            Err(_) if Instant::now() < end => std::thread::sleep(EVERY),
            Err(_) => return,
        }
    };
    let set = connection.set_read_timeout(Some(ANSWER)).and_then(|()| connection.set_nodelay(true));
    if set.is_err() {
        return;
    }
    let mut connection = connection;
    let mut broken = false;
    while Instant::now() < end {
        let began = now();
        let answered = if broken { Err(std::io::ErrorKind::BrokenPipe.into()) } else { ask(&mut connection) };
        broken |= answered.as_ref().is_err_and(|error| !is_silence(error));
        if lines.send(Line { way: Way::Held, began, ok: answered.is_ok() }).is_err() {
            return;
        }
        std::thread::sleep(ASK_EVERY);
    }
}

fn ask(connection: &mut TcpStream) -> std::io::Result<()> {
    connection.write_all(b".")?;
    let mut answer = [0; 64];
    match connection.read(&mut answer)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_line_reads_as_it_was_written() {
        for line in [Line { way: Way::New, began: 7, ok: true }, Line { way: Way::Held, began: u64::MAX, ok: false }] {
            assert_eq!(line.to_string().parse(), Ok(line));
        }
        for wrong in ["", "new 7", "old 7 ok", "new x ok", "new 7 perhaps"] {
            assert!(wrong.parse::<Line>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_connection_is_held_while_new_ones_are_made() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                std::thread::spawn(move || crate::listen::echo(connection));
            }
        });
        let (lines, printed) = channel();
        let held = lines.clone();
        let end = Instant::now() + Duration::from_millis(400);
        std::thread::spawn(move || hold(target, end, &held));
        std::thread::spawn(move || again_and_again(target, end, &lines));
        let all: Vec<Line> = printed.iter().collect();
        for way in [Way::New, Way::Held] {
            assert!(all.iter().filter(|line| line.way == way && line.ok).count() > 1, "{all:?}");
        }
        assert!(all.iter().all(|line| line.ok), "{all:?}");
    }
}
