//! `audit verify`: whether an audit trail is what Quell wrote.

use quell_audit::{Head, Verifier};

use crate::flags::AuditVerify;
use crate::text::one_line;
use crate::{CliError, Exit, Io};

/// Reads the files in the order of what is in them: a file that was begun anew has the number of its last line as its ending.
pub fn run(of: &AuditVerify, io: &mut Io) -> Result<Exit, CliError> {
    let mut verifier = Verifier::default();
    let mut paths = of.files.clone();
    paths.sort_by_key(|path| {
        let number = path.extension().and_then(|ending| ending.to_str()?.parse::<u64>().ok());
        number.unwrap_or(u64::MAX)
    });
    for path in &paths {
        let file = path.display().to_string();
        let bytes = std::fs::read(path)
            .map_err(|error| CliError::File { file: file.clone(), problem: format!("can't be read: {error}") })?;
        verifier.read(&file, &bytes);
    }
    let report = verifier.finish(&of.head);
    for one in &report.breaks {
        let place = if one.line == 0 { one.file.clone() } else { format!("{}:{}", one.file, one.line) };
        let chain = match (one.chain.as_str(), one.number) {
            ("", _) => String::new(),
            (chain, Some(number)) => format!("chain {}, line {number}: ", one_line(chain)),
            (chain, None) => format!("chain {}: ", one_line(chain)),
        };
        writeln!(io.err, "{place}: {chain}{}", one.fault)?;
    }
    for (first, head) in &report.chains {
        let known = of.head.iter().any(|known: &Head| known.chain == head.chain);
        let begin = if *first == 0 {
            String::new()
        } else {
            format!(", begins with line {first}: what was before isn't in these files")
        };
        let end = if known { "" } else { "; its end is as it is here: give --head to prove it" };
        writeln!(io.out, "{head}{begin}{end}")?;
    }
    let (lines, chains, breaks) = (report.lines, report.chains.len(), report.breaks.len());
    if breaks == 0 {
        writeln!(io.out, "{lines} lines of {chains} chains: unbroken")?;
        return Ok(Exit::Ok);
    }
    writeln!(io.out, "{lines} lines of {chains} chains: {breaks} breaks")?;
    Ok(Exit::Failed)
}
