//! `source test`: what findings the output of a tool would make.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use quell_crds::v1alpha1::Format;
use quell_ingest::{finding, place_without_cluster, read};
use serde_json::Value;

use crate::flags::{Connect, SourceTest};
use crate::text::one_line;
use crate::{CliError, Exit, Io};

/// Where Findings about what is in no namespace go: Quell's own, as it is by default.
const FALLBACK: &str = "quell";

pub fn run(of: &SourceTest, connect: &Connect, io: &mut Io) -> Result<Exit, CliError> {
    let source = of.source.clone().unwrap_or_else(|| of.format.to_string());
    let fallback = connect.namespace.as_deref().unwrap_or(FALLBACK);
    let mut exit = Exit::Ok;
    for path in &of.files {
        let file = if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() };
        let mut problem = |text: String, io: &mut Io| {
            exit = Exit::Failed;
            writeln!(io.err, "{file}: {}", one_line(&text))
        };
        let bodies = match body(path, io).and_then(|body| bodies(path, of.format, body)) {
            Ok(bodies) => bodies,
            Err(error) => {
                problem(error, io)?;
                continue;
            }
        };
        let several = bodies.len() > 1;
        for (i, body) in bodies.iter().enumerate() {
            let signals = match read(of.format, body) {
                Ok(signals) => signals,
                Err(error) if several => {
                    problem(format!("document {}, {error}", i + 1), io)?;
                    continue;
                }
                Err(error) => {
                    problem(error.to_string(), io)?;
                    continue;
                }
            };
            for signal in &signals {
                let finding = finding(&source, signal, &place_without_cluster(signal), fallback);
                let line = serde_json::to_string(&finding).map_err(|error| CliError::Output(error.into()))?;
                writeln!(io.out, "{line}")?;
            }
        }
    }
    Ok(exit)
}

fn body(path: &Path, io: &mut Io) -> Result<Vec<u8>, String> {
    if path.as_os_str() != "-" {
        return fs::read(path).map_err(|error| format!("can't be read: {error}"));
    }
    let mut body = Vec::new();
    io.input.read_to_end(&mut body).map_err(|error| format!("can't be read: {error}"))?;
    Ok(body)
}

/// The body as it is, or where it is YAML, each of its documents as JSON.
fn bodies(path: &Path, format: Format, body: Vec<u8>) -> Result<Vec<Vec<u8>>, String> {
    let named = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("yaml") || end.eq_ignore_ascii_case("yml"));
    // kubectl prints reports as YAML or JSON; only the latter begins with a bracket.
    let looks = path.as_os_str() == "-"
        && format == Format::TrivyOperator
        && !body.trim_ascii_start().starts_with(b"{")
        && !body.trim_ascii_start().starts_with(b"[");
    if !named && !looks {
        return Ok(vec![body]);
    }
    let text = std::str::from_utf8(&body).map_err(|error| format!("is not UTF-8: {error}"))?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
    if documents.is_empty() {
        return Err("has no YAML document in it".to_owned());
    }
    Ok(documents.iter().map(|document| document.to_string().into_bytes()).collect())
}
