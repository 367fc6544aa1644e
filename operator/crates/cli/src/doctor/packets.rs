//! The network, by connections that are really tried.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use kube::api::LogParams;
use quell_probe::{Line, Way};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::bed::{Bed, CLIENT};
use super::measure::Lines;
use super::network::Seen;
use super::{Checked, Level, Telling};
use crate::CliError;
use crate::client::{Connection, ask};

const WHAT: &str = "packets";
/// Answers one after the other by which a connection counts as made.
const ENOUGH: usize = 5;
/// How long the connection that was open is watched once new ones are cut.
const HELD: Duration = Duration::from_secs(3);
/// Of that time the beginning is left out: what was under way when the policy came.
const SETTLES: Duration = Duration::from_secs(1);

/// What came of it.
pub(super) struct Found {
    pub(super) checked: Vec<Checked>,
    pub(super) seen: Option<Seen>,
}

/// Tries, and removes what it made, whatever happens in between.
pub(super) async fn tried(
    connection: &Connection,
    image: &str,
    timeout: Duration,
    telling: &mut Telling<'_>,
) -> Result<Found, CliError> {
    let bed = match Bed::make(connection.client.clone()).await {
        Ok(bed) => bed,
        Err(error) => {
            let found = format!("{error}; give --no-packets to look only");
            return Ok(Found { checked: vec![Checked::new(Level::Unknown, WHAT, found)], seen: None });
        }
    };
    let (outcome, interrupted) = tokio::select! {
        outcome = try_all(&bed, image, timeout, telling) => (Some(outcome), false),
        () = interrupted() => (None, true),
    };
    if interrupted {
        telling.progress("interrupted: cleans up")?;
    }
    let removed = bed.remove().await;
    let mut found = match outcome {
        Some(Ok(seen)) => Found { checked: Vec::new(), seen: Some(seen) },
        // What can't be printed can't be told either.
        Some(Err(error @ CliError::Output(_))) => return Err(error),
        Some(Err(error)) => Found { checked: vec![Checked::unknown(WHAT, &error)], seen: None },
        None => Found { checked: vec![Checked::new(Level::Unknown, WHAT, "interrupted")], seen: None },
    };
    match removed {
        Ok(()) => telling.progress(&format!("namespace {} is deleted", bed.namespace))?,
        Err(error) => {
            let left = format!("{error}; delete it: kubectl delete namespace {}", bed.namespace);
            found.checked.push(Checked::new(Level::Note, WHAT, left));
        }
    }
    Ok(found)
}

/// Ctrl-C, or what ends a process in order.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        // Nobody can interrupt it.
        std::future::pending::<()>().await;
    }
}

async fn try_all(bed: &Bed, image: &str, timeout: Duration, telling: &mut Telling<'_>) -> Result<Seen, CliError> {
    telling.progress(&format!("starts two pods in namespace {} with image {image}", bed.namespace))?;
    let target = bed.listen(image, timeout).await?;
    bed.connect(image, &target, timeout).await?;
    let mut watched = Watched::begin(bed).await?;
    telling.progress("connects without any policy")?;
    if !watched.until(timeout, |lines| reaches(lines, 0)).await? {
        let message = "pods can't connect to one another even without a policy of the doctor's: nothing can be told; see whether policies of \
                       the whole cluster deny it, or the pod network is broken";
        return Err(CliError::Refused(message.to_owned()));
    }
    telling.progress("denies it by a NetworkPolicy")?;
    let asked = now();
    bed.deny(false).await?;
    if !watched.until(timeout, |lines| lines.cut(asked).is_some()).await? {
        return Ok(Seen { cut: None, keeps: None, relabelled: None });
    }
    let cut = watched.lines.cut(asked).map(|at| between(asked, at));
    telling.progress("watches the connection that was open")?;
    let since = now() + micros(SETTLES);
    watched.for_time(HELD).await?;
    let (answered, asked_over) = watched.lines.held(since);
    let keeps = (asked_over > 0).then_some(answered > 0);
    telling.progress(
        "allows it again, then denies it to a label that the pod gets: on some networks that takes half a minute",
    )?;
    bed.deny(true).await?;
    bed.allow().await?;
    let allowed = now();
    if !watched.until(timeout, |lines| lines.answers(Way::New, allowed) >= ENOUGH).await? {
        return Err(CliError::Refused("the pod stayed cut off after its policy was deleted".to_owned()));
    }
    let labelled = now();
    bed.label().await?;
    watched.until(timeout, |lines| lines.cut(labelled).is_some()).await?;
    let relabelled = watched.lines.cut(labelled).map(|at| between(labelled, at));
    Ok(Seen { cut, keeps, relabelled })
}

fn reaches(lines: &Lines, since: i64) -> bool {
    lines.answers(Way::New, since) >= ENOUGH && lines.answers(Way::Held, since) >= ENOUGH
}

/// What the pod that connects prints.
struct Watched {
    lines: Lines,
    arrive: UnboundedReceiver<(Line, i64)>,
    reader: JoinHandle<()>,
}

impl Watched {
    async fn begin(bed: &Bed) -> Result<Self, CliError> {
        let follow = LogParams { follow: true, ..LogParams::default() };
        let pods = bed.pods();
        let log = ask("reading what the probe prints", pods.log_stream(CLIENT, &follow)).await?;
        let (send, arrive) = unbounded_channel();
        let reader = tokio::spawn(async move {
            let mut lines = log.lines();
            while let Ok(Some(line)) = lines.try_next().await {
                let arrived = now();
                let Ok(line) = line.parse() else { continue };
                if send.send((line, arrived)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { lines: Lines::default(), arrive, reader })
    }

    /// Takes lines in until it is so, or the time is over.
    async fn until(&mut self, within: Duration, so: impl Fn(&Lines) -> bool) -> Result<bool, CliError> {
        let end = Instant::now() + within;
        while !so(&self.lines) {
            match tokio::time::timeout_at(end, self.arrive.recv()).await {
                Ok(Some((line, arrived))) => self.lines.add(line, arrived),
                Ok(None) => return Err(CliError::Refused("the probe's log broke off".to_owned())),
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn for_time(&mut self, time: Duration) -> Result<(), CliError> {
        self.until(time, |_| false).await.map(drop)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Microseconds since 1970, by our clock.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn between(from: i64, to: i64) -> Duration {
    Duration::from_micros(u64::try_from(to - from).unwrap_or_default())
}
