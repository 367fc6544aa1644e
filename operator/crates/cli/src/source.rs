//! `source test`: what findings the output of a tool would make.

mod mapping;

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use quell_crds::v1alpha1::{Finding, FindingStatus, Format};
use quell_ingest::{Delivery, Signal, Unreadable, finding, place_without_cluster, receive};
use quell_playbooks::mapping::Mapping;
use serde_json::Value;

use crate::flags::{Connect, SourceTest};
use crate::text::one_line;
use crate::{CliError, Exit, Io};

/// Where Findings about what is in no namespace go: Quell's own, as it is by default.
const FALLBACK: &str = "quell";
/// Most bytes of a file, unpacked.
const LARGEST: u64 = 256 << 20;

/// How the files are read.
enum Reads {
    Format { format: Format, data_format: Option<Format> },
    Mapping { mapping: Box<Mapping>, source: String },
}

impl Reads {
    fn of(of: &SourceTest) -> Result<Self, CliError> {
        match (&of.mapping, of.format) {
            (Some(path), _) => {
                let (mapping, name) = mapping::read(path)?;
                Ok(Self::Mapping { mapping: Box::new(mapping), source: of.source.clone().unwrap_or(name) })
            }
            (None, Some(format)) => Ok(Self::Format { format, data_format: of.data_format }),
            (None, None) => Err(CliError::Usage("give one of --format and --mapping".to_owned())),
        }
    }

    /// The name of the Source where none is given.
    fn source(&self) -> String {
        match self {
            Self::Format { format, .. } => format.to_string(),
            Self::Mapping { source, .. } => source.clone(),
        }
    }

    fn read(&self, body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
        match self {
            Self::Format { format, data_format } => {
                receive(&Delivery { data_format: *data_format, ..Delivery::new(*format, body) })
                    .map(|received| received.signals)
            }
            Self::Mapping { mapping, source } => quell_ingest::map(mapping, source, &[], body),
        }
    }
}

pub fn run(of: &SourceTest, connect: &Connect, io: &mut Io) -> Result<Exit, CliError> {
    let reads = Reads::of(of)?;
    let source = of.source.clone().unwrap_or_else(|| reads.source());
    let fallback = connect.namespace.as_deref().unwrap_or(FALLBACK);
    let mut exit = Exit::Ok;
    for path in &of.files {
        let file = if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() };
        let mut problem = |text: String, io: &mut Io| {
            exit = Exit::Failed;
            writeln!(io.err, "{file}: {}", one_line(&text))
        };
        let bodies = match body(path, io).and_then(|body| bodies(path, body)) {
            Ok(bodies) => bodies,
            Err(error) => {
                problem(error, io)?;
                continue;
            }
        };
        let mut made = Made::default();
        let several = bodies.len() > 1;
        for (i, body) in bodies.iter().enumerate() {
            match reads.read(body) {
                Ok(signals) => {
                    for signal in signals.iter().filter(|signal| !signal.resolved) {
                        made.add(finding(&source, signal, &place_without_cluster(signal), fallback));
                    }
                }
                Err(error) => problem(if several { in_document(i + 1, &error) } else { error.to_string() }, io)?,
            }
        }
        for finding in made.findings {
            let line = serde_json::to_string(&finding).map_err(|error| CliError::Output(error.into()))?;
            writeln!(io.out, "{line}")?;
        }
    }
    Ok(exit)
}

fn in_document(number: usize, error: &Unreadable) -> String {
    format!("document {number}, {error}")
}

/// The Findings of a file: what is reported twice is one with a count, as in the cluster.
#[derive(Default)]
struct Made {
    findings: Vec<Finding>,
    places: HashMap<(Option<String>, Option<String>), usize>,
}

impl Made {
    fn add(&mut self, finding: Finding) {
        let key = (finding.metadata.namespace.clone(), finding.metadata.name.clone());
        let known = self.places.get(&key).and_then(|place| self.findings.get_mut(*place));
        let Some(known) = known else {
            self.places.insert(key, self.findings.len());
            self.findings.push(finding);
            return;
        };
        known.status.get_or_insert_with(FindingStatus::default).count += 1;
        known.spec.severity = known.spec.severity.max(finding.spec.severity);
    }
}

/// The file's bytes, unpacked where they are packed by gzip.
fn body(path: &Path, io: &mut Io) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("can't be read: {error}");
    let mut body = Vec::new();
    if path.as_os_str() == "-" {
        io.input.by_ref().take(LARGEST + 1).read_to_end(&mut body).map_err(unreadable)?;
    } else {
        let file = fs::File::open(path).map_err(unreadable)?;
        file.take(LARGEST + 1).read_to_end(&mut body).map_err(unreadable)?;
    }
    if body.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        let unpack = MultiGzDecoder::new(body.as_slice()).take(LARGEST + 1).read_to_end(&mut unpacked);
        unpack.map_err(|error| format!("begins as gzip, and can't be unpacked: {error}"))?;
        body = unpacked;
    }
    if body.len() as u64 > LARGEST {
        return Err(format!("has more than {} MiB", LARGEST >> 20));
    }
    Ok(body)
}

/// The body as it is, or where it is YAML, each of its documents as JSON.
fn bodies(path: &Path, body: Vec<u8>) -> Result<Vec<Vec<u8>>, String> {
    let named = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("yaml") || end.eq_ignore_ascii_case("yml"));
    let start = body.trim_ascii_start();
    let is_json = ["{", "[", "\"", "null", "\u{feff}"].iter().any(|begin| start.starts_with(begin.as_bytes()));
    // A line of a log begins with its time, and reads as a YAML map of one key.
    let is_log = start.first().is_none_or(u8::is_ascii_digit);
    if !named && (is_json || is_log) {
        return Ok(vec![body]);
    }
    let documents = std::str::from_utf8(&body)
        .map_err(|error| format!("is not UTF-8: {error}"))
        .and_then(|text| serde_saphyr::from_multiple::<Value>(text).map_err(|error| error.to_string()));
    match documents {
        // A line of text is YAML, too: what the format has to say about it says more.
        Ok(documents) if !named && !documents.iter().any(|one| one.is_object() || one.is_array()) => Ok(vec![body]),
        Ok(documents) => {
            let bodies: Vec<_> =
                documents.iter().filter(|one| !one.is_null()).map(|one| one.to_string().into_bytes()).collect();
            if bodies.is_empty() { Err("has no YAML document in it".to_owned()) } else { Ok(bodies) }
        }
        Err(error) if named => Err(error),
        Err(_) => Ok(vec![body]),
    }
}
