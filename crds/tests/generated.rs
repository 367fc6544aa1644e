//! `crds/yaml` holds what the types say.

use std::fs;
use std::path::Path;

use kube::ResourceExt as _;

#[test]
fn the_manifests_in_yaml_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    let mut stale = Vec::new();
    for crd in quell_crds::all() {
        let file = folder.join(format!("{}.yaml", crd.name_any()));
        let wanted = serde_saphyr::to_string(&crd).unwrap();
        if fs::read_to_string(&file).unwrap_or_default() != wanted {
            stale.push(file.display().to_string());
            if std::env::var_os("QUELL_REGENERATE").is_some() {
                fs::create_dir_all(&folder).unwrap();
                fs::write(&file, &wanted).unwrap();
            }
        }
    }
    assert!(stale.is_empty(), "not what the types say: {stale:?}\nrepair: QUELL_REGENERATE=1 cargo test -p quell-crds");
}
