//! What stands in the chart and in `docs/install.md`, and is made from code and other files of the repository.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kube::ResourceExt as _;
use quell_operator::rbac::{self, Scope};

const REPAIR: &str = "repair: QUELL_REGENERATE=1 cargo test -p quell-tests --test chart generated";
const BEGIN: &str = "<!-- generated from operator/src/rbac.rs -->";
const END: &str = "<!-- end of what is generated -->";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder holds these files, and no others.
fn folder_holds(folder: &str, wanted: &[(String, String)]) -> Result<()> {
    let path = root().join("charts/quell").join(folder);
    let mut stale = Vec::new();
    for (name, text) in wanted {
        let file = path.join(name);
        if std::fs::read_to_string(&file).ok().as_ref() != Some(text) {
            stale.push(file.display().to_string());
            if regenerates() {
                std::fs::create_dir_all(&path)?;
                std::fs::write(&file, text)?;
            }
        }
    }
    let names: BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    for entry in std::fs::read_dir(&path)? {
        let entry = entry?;
        if !names.contains(entry.file_name().to_string_lossy().as_ref()) {
            stale.push(entry.path().display().to_string());
            if regenerates() {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    assert!(stale.is_empty(), "not what it is made from: {stale:?}\n{REPAIR}");
    Ok(())
}

fn regenerates() -> bool {
    std::env::var_os("QUELL_REGENERATE").is_some()
}

#[test]
fn the_roles_are_those_that_the_code_declares() -> Result<()> {
    let files = [
        ("cluster.yaml", rbac::rules(Scope::Cluster)),
        ("own-namespace.yaml", rbac::rules(Scope::OwnNamespace)),
        ("impersonation.yaml", rbac::rules(Scope::Impersonation)),
        ("sever.yaml", rbac::rules(Scope::Severing)),
        ("probe.yaml", rbac::rules(Scope::Probing)),
        ("revoke.yaml", rbac::rules(Scope::Revoking)),
        ("tokens.yaml", rbac::rules(Scope::Tokens)),
        ("host-network.yaml", rbac::rules(Scope::HostNetwork)),
        ("view.yaml", rbac::for_viewers()),
        ("edit.yaml", rbac::for_editors()),
        ("approve.yaml", rbac::for_approvers()),
    ];
    folder_holds("files/rbac", &files.map(|(name, rules)| (name.to_owned(), rbac::to_yaml(&rules))))
}

#[test]
fn the_crds_are_those_of_the_types_and_stay_when_the_chart_goes() -> Result<()> {
    let mut files = Vec::new();
    for mut crd in quell_crds::all() {
        // Helm's own marks of ownership: what comes from `crds/` becomes an object of the release, and is upgraded with it.
        crd.labels_mut().insert("app.kubernetes.io/managed-by".to_owned(), "Helm".to_owned());
        for (key, value) in [
            ("helm.sh/resource-policy", "keep"),
            ("meta.helm.sh/release-name", "quell"),
            ("meta.helm.sh/release-namespace", "quell"),
        ] {
            crd.annotations_mut().insert(key.to_owned(), value.to_owned());
        }
        files.push((format!("{}.yaml", crd.name_any()), serde_saphyr::to_string(&crd)?));
    }
    folder_holds("crds", &files)
}

#[test]
fn the_library_is_that_of_the_playbooks_crate() -> Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root().join("playbooks/library"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
            files.push((name, std::fs::read_to_string(&path)?));
        }
    }
    folder_holds("files/library", &files)
}

#[test]
fn the_table_of_rights_in_the_docs_is_what_the_code_declares() -> Result<()> {
    let file = root().join("docs/install.md");
    let text = std::fs::read_to_string(&file)?;
    let (before, rest) = text.split_once(BEGIN).context("docs/install.md has lost the place of its table")?;
    let (_, after) = rest.split_once(END).context("docs/install.md has lost the end of its table")?;
    let wanted = format!("{before}{BEGIN}\n{}{END}{after}", rbac::to_markdown());
    if text != wanted && regenerates() {
        std::fs::write(&file, &wanted)?;
    }
    assert!(text == wanted, "the table of rights in docs/install.md is not what the code declares\n{REPAIR}");
    Ok(())
}
