//! `doctor`: whether this cluster and this installation can hold a quarantine.

mod bed;
mod checks;
mod measure;
mod network;
mod packets;

use std::io::Write as _;

use quell_playbooks::contained::Network;

use crate::client::Connection;
use crate::flags::{Connect, Doctor};
use crate::told::Told;
use crate::{CliError, Exit, Io};

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing; Quell works.
    Note,
    /// It could not be found out.
    Unknown,
    /// Something doesn't work.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Checked {
    level: Level,
    /// What was looked at, in a word or two.
    what: &'static str,
    /// What was found, and what to do.
    found: String,
}

impl Checked {
    fn new(level: Level, what: &'static str, found: impl Into<String>) -> Self {
        Self { level, what, found: found.into() }
    }

    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Ok, what, found)
    }

    fn note(what: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Note, what, found)
    }

    fn bad(what: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Bad, what, found)
    }

    fn unknown(what: &'static str, error: &CliError) -> Self {
        Self::new(Level::Unknown, what, error.to_string())
    }
}

/// What was found, told as it is found.
struct Telling<'a> {
    io: &'a mut Io,
    worst: Level,
    counts: [usize; 4],
}

impl Telling<'_> {
    fn tell(&mut self, all: impl IntoIterator<Item = Checked>) -> Result<(), CliError> {
        for Checked { level, what, found } in all {
            let word = match level {
                Level::Ok => "ok",
                Level::Note => "note",
                Level::Unknown => "unknown",
                Level::Bad => "BAD",
            };
            writeln!(self.io.out, "{word:<8}{what:<20}{found}")?;
            self.io.out.flush()?;
            self.worst = self.worst.max(level);
            self.counts[level as usize] += 1;
        }
        Ok(())
    }

    /// What is being done: people wait for it, and scripts don't read it.
    fn progress(&mut self, doing: &str) -> Result<(), CliError> {
        writeln!(self.io.err, "… {doing}")?;
        self.io.err.flush()?;
        Ok(())
    }
}

pub async fn run(of: &Doctor, connect: &Connect, io: &mut Io) -> Result<Exit, CliError> {
    let connection = Connection::new(connect).await?;
    let mut telling = Telling { io, worst: Level::Ok, counts: [0; 4] };
    telling.progress("looks at the cluster and at what is installed")?;
    telling.tell([checks::server(&connection).await?])?;
    telling.tell(checks::crds(&connection).await)?;
    let told = match Told::read(&connection.client, &of.quell_namespace).await {
        Ok(told) => Some(told),
        Err(error) => {
            telling.tell([Checked::unknown("operator", &error)])?;
            None
        }
    };
    if let Some(told) = &told {
        telling.tell(checks::operator(told, &of.quell_namespace))?;
    }
    telling.tell(checks::leader(&connection, &of.quell_namespace).await)?;
    telling.tell(checks::guards(&connection).await)?;
    if let Some(told) = &told {
        telling.tell(checks::rights(&connection, told, &of.quell_namespace).await)?;
    }
    telling.tell(Box::pin(checks::declared(&connection)).await)?;
    let (network, found) = network::believed(&connection, told.as_ref()).await;
    telling.tell(found)?;
    if of.no_packets {
        telling.tell([Checked::note(
            "packets",
            "not tried (--no-packets): whether this network enforces policies is what Quell believes, not what was seen",
        )])?;
    } else {
        packets(of, &connection, told.as_ref(), network.as_ref(), &mut telling).await?;
    }
    let [fine, notes, unknown, bad] = telling.counts;
    writeln!(telling.io.out, "{fine} ok, {notes} to note, {unknown} unknown, {bad} bad")?;
    Ok(if telling.worst >= Level::Unknown { Exit::Failed } else { Exit::Ok })
}

async fn packets(
    of: &Doctor,
    connection: &Connection,
    told: Option<&Told>,
    network: Option<&Network>,
    telling: &mut Telling<'_>,
) -> Result<(), CliError> {
    let Some(image) = of.image.clone().or_else(|| told.and_then(network::image)) else {
        let found = "no image to try with: the operator has no Deployment here to take it from; give --image, one that holds `quell`, or \
                     --no-packets";
        return telling.tell([Checked::new(Level::Unknown, "packets", found)]);
    };
    let found = packets::tried(connection, &image, of.timeout, telling).await?;
    telling.tell(found.checked)?;
    if let Some(seen) = found.seen {
        telling.tell(network::compared(network, &seen))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_get_worse_in_their_order() {
        assert!(Level::Ok < Level::Note && Level::Note < Level::Unknown && Level::Unknown < Level::Bad);
    }
}
