//! The bodies that the tests read: of samples and of fixtures.

use std::fs;
use std::path::{Path, PathBuf};

use quell_crds::v1alpha1::Format;
use serde_json::Value;

/// A file of a format's folder, each of its YAML documents as JSON.
pub struct Sample {
    /// Folder and file.
    pub name: String,
    pub format: Format,
    pub bodies: Vec<Vec<u8>>,
}

/// The repository is the topmost folder above this crate that has a `Cargo.lock`.
fn shared() -> Option<PathBuf> {
    let repository =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().filter(|at| at.join("Cargo.lock").exists()).last()?;
    let samples = repository.parent()?.join("shared/samples");
    if samples.is_dir() {
        return Some(samples);
    }
    println!("skipped: there is no folder shared/samples beside the repository");
    None
}

/// All samples; none where the folder isn't there.
pub fn samples() -> Vec<Sample> {
    shared().map(|folder| in_folder(&folder)).unwrap_or_default()
}

/// Our own.
pub fn fixtures() -> Vec<Sample> {
    in_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"))
}

fn in_folder(root: &Path) -> Vec<Sample> {
    let mut found = Vec::new();
    for format in Format::ALL {
        let mut files: Vec<PathBuf> = fs::read_dir(root.join(format.to_string()))
            .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
            .unwrap_or_default();
        files.retain(|path| path.extension().is_some_and(|end| end != "md"));
        files.sort();
        for path in files {
            let name = format!("{format}/{}", path.file_name().unwrap().to_string_lossy());
            let bytes = fs::read(&path).unwrap();
            let is_yaml = path.extension().is_some_and(|end| end == "yaml");
            found.push(Sample { name, format, bodies: if is_yaml { documents(&bytes) } else { vec![bytes] } });
        }
    }
    found
}

fn documents(yaml: &[u8]) -> Vec<Vec<u8>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(std::str::from_utf8(yaml).unwrap()).unwrap();
    documents.iter().map(|document| document.to_string().into_bytes()).collect()
}
