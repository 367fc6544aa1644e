//! A process of its own that uses a spool, for tests that kill it or take its disk away: this test binary, started again.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use quell_spool::Spool;

use crate::support::{open, payload};

const DIRECTORY: &str = "QUELL_SPOOL_CHILD_DIRECTORY";
const JOB: &str = "QUELL_SPOOL_CHILD_JOB";
/// How the child's own lines begin, among those of the test harness.
const MARK: &str = "child: ";

/// What the child does.
#[derive(Clone, Copy, Debug)]
pub enum Job {
    /// Appends as fast as it can, four at a time, and says the number of each that is kept; removes every third.
    Append,
    /// Appends one for each line that it is sent, and says what came of it.
    Obey,
}

/// The child, killed when dropped.
pub struct Appender {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Appender {
    /// Starts the child by a shell that first runs `before`, in which `$DIRECTORY` is the spool's.
    pub fn start(dir: &Path, job: Job, wrapper: &[&str], before: &str) -> Result<Self> {
        let script = format!(r#"DIRECTORY={}; {before} exec "$0" "$@""#, dir.display());
        let mut words = wrapper.iter().copied().chain(["sh", "-c", &script]);
        let mut child = Command::new(words.next().context("no command")?)
            .args(words)
            .arg(std::env::current_exe()?)
            .args(["--exact", "child::in_a_process_of_its_own", "--nocapture", "--test-threads", "1"])
            .env(DIRECTORY, dir)
            .env(JOB, format!("{job:?}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (child.stdin.take().context("stdin")?, child.stdout.take().context("stdout")?);
        Ok(Self { child, input, output: BufReader::new(output).lines() })
    }

    #[cfg(target_os = "linux")]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that the child says.
    pub fn next(&mut self) -> Result<Option<String>> {
        for line in self.output.by_ref() {
            // The harness writes the test's name without an end of line.
            if let Some((_, said)) = line?.split_once(MARK) {
                return Ok(Some(said.to_owned()));
            }
        }
        Ok(None)
    }

    /// Has the child append one, and returns what it says of it.
    pub fn append(&mut self, number: u64) -> Result<String> {
        writeln!(self.input, "{number}")?;
        self.next()?.context("the child has ended")
    }

    #[cfg(target_os = "linux")]
    /// All that a child printed which could not open its spool.
    pub fn failed(mut self) -> Result<String> {
        let lines: Vec<String> = self.output.by_ref().collect::<std::io::Result<_>>()?;
        ensure!(!self.child.wait()?.success(), "the child succeeded");
        Ok(lines.join("\n"))
    }

    /// SIGKILL, and all that the child had said until then.
    pub fn kill(mut self) -> Result<Vec<String>> {
        self.child.kill()?;
        self.child.wait()?;
        std::iter::from_fn(|| self.next().transpose()).collect()
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does nothing unless it was started as a child.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_process_of_its_own() -> Result<()> {
    let (Some(directory), Ok(job)) = (std::env::var_os(DIRECTORY), std::env::var(JOB)) else { return Ok(()) };
    let spool = open(directory.as_ref()).inspect_err(|error| println!("{error:#}"))?;
    match job.as_str() {
        "Append" => append(Arc::new(spool)).await,
        "Obey" => obey(&spool).await,
        other => bail!("no such job: {other}"),
    }
}

/// One write, so that a kill can't cut a line in two that others then complete.
fn say(line: &str) {
    let _ = std::io::stdout().lock().write_all(format!("{MARK}{line}\n").as_bytes());
}

/// Until it is killed.
async fn append(spool: Arc<Spool>) -> Result<()> {
    // Numbers go on where a child before this one was killed: no number is ever used twice.
    let first = std::env::var("QUELL_SPOOL_CHILD_FIRST").map_or(Ok(0), |first| first.parse())?;
    let next = Arc::new(AtomicU64::new(first));
    let tasks = (0..4).map(|_| {
        let (spool, next) = (Arc::clone(&spool), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                say(&format!("begun {number}"));
                let sequence = spool.append(payload(number)).await?;
                say(&format!("kept {number}"));
                if number.is_multiple_of(3) {
                    say(&format!("removed {number}"));
                    spool.remove(sequence);
                }
            }
            #[expect(unreachable_code, reason = "names the type of the error")]
            Ok::<(), anyhow::Error>(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    Ok(())
}

async fn obey(spool: &Spool) -> Result<()> {
    say("open");
    for line in std::io::stdin().lines() {
        match spool.append(payload(line?.trim().parse()?)).await {
            Ok(_) => say("kept"),
            Err(error) => say(&format!("{error}; in trouble: {}", spool.last_error().is_some())),
        }
    }
    Ok(())
}
