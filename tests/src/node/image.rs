//! Container images that need no registry: one static program each, in the layout of the OCI image specification
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::binaries::goarch;

/// Writes an archive of the image `name` that consists of `program`, called `/NAME-OF-ITS-FILE`, to `archive`.
pub fn write(archive: &Path, name: &str, program: &Path, arguments: &[&str]) -> Result<()> {
    write_with(archive, name, program, &[], arguments)
}

/// The same for a program that isn't static: its libraries are in the image where they are on this machine.
pub fn write_linked(archive: &Path, name: &str, program: &Path) -> Result<()> {
    let output = std::process::Command::new("ldd").arg(program).output().context("can't run ldd")?;
    ensure!(output.status.success(), "ldd fails: {}", String::from_utf8_lossy(&output.stderr).trim());
    write_with(archive, name, program, &libraries(&String::from_utf8(output.stdout)?), &[])
}

/// The files that ldd names. What the kernel brings itself has no path.
fn libraries(told: &str) -> Vec<PathBuf> {
    let of = |line: &str| {
        let after = line.split_once("=> ").map_or(line, |(_, after)| after);
        after.split_whitespace().next().filter(|path| path.starts_with('/')).map(PathBuf::from)
    };
    told.lines().filter_map(of).collect()
}

fn write_with(archive: &Path, name: &str, program: &Path, libraries: &[PathBuf], arguments: &[&str]) -> Result<()> {
    let entry = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
    let mut layer = tar::Builder::new(Vec::new());
    let content = std::fs::read(program).with_context(|| format!("can't read {}", program.display()))?;
    append(&mut layer, &entry, 0o755, &content)?;
    for library in libraries {
        let content = std::fs::read(library).with_context(|| format!("can't read {}", library.display()))?;
        append(&mut layer, library.to_string_lossy().trim_start_matches('/'), 0o755, &content)?;
    }
    let layer = layer.into_inner()?;

    let command: Vec<String> =
        [format!("/{entry}")].into_iter().chain(arguments.iter().map(ToString::to_string)).collect();
    let config = json!({
        "architecture": goarch(), "os": "linux",
        "config": { "Entrypoint": command },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    // The name that containerd stores it under.
    entry["annotations"] = json!({ "io.containerd.image.name": name });
    entry["platform"] = json!({ "architecture": goarch(), "os": "linux" });
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry],
    });

    let file = std::fs::File::create(archive).with_context(|| format!("can't write {}", archive.display()))?;
    let mut image = tar::Builder::new(file);
    append(&mut image, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut image, "index.json", 0o644, index.to_string().as_bytes())?;
    for blob in [&config, &manifest, &layer] {
        append(&mut image, &format!("blobs/{}", digest(blob).replace(':', "/")), 0o644, blob)?;
    }
    image.finish().context("can't finish the image")
}

fn append<W: std::io::Write>(archive: &mut tar::Builder<W>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len().try_into()?);
    header.set_mode(mode);
    archive.append_data(&mut header, path, content).with_context(|| format!("can't put {path} into an image"))
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content), "size": content.len() })
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(content))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use super::*;

    #[test]
    fn libraries_are_the_files_that_ldd_names() {
        let told = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths: Vec<String> = libraries(told).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(paths, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(libraries("\tstatically linked\n").is_empty());
    }

    fn files(archive: impl std::io::Read) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().expect("entries") {
            let mut entry = entry.expect("entry");
            let path = entry.path().expect("path").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            files.insert(path, content);
        }
        files
    }

    #[test]
    fn every_digest_of_an_image_names_a_blob_of_that_content_and_the_layer_holds_the_program() {
        let folder = tempfile::tempdir().expect("folder");
        let (program, archive) = (folder.path().join("tool"), folder.path().join("image.tar"));
        std::fs::write(&program, "program").expect("program");
        write(&archive, "quell.test/tool:1", &program, &["pause"]).expect("image");

        let files = files(std::fs::File::open(&archive).expect("archive"));
        let blob = |descriptor: &Value| {
            let content =
                &files[&format!("blobs/{}", descriptor["digest"].as_str().expect("digest").replace(':', "/"))];
            assert_eq!(descriptor["digest"], digest(content));
            assert_eq!(descriptor["size"], content.len());
            content.clone()
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).expect("index");
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).expect("manifest");
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).expect("config");
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&layer));
        assert_eq!(config["config"]["Entrypoint"], json!(["/tool", "pause"]));
        assert_eq!(self::files(layer.as_slice())["tool"], b"program");
    }
}
