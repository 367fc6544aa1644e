//! Disks that are full, or turn so. A user namespace lets anybody mount.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::child::{Appender, Job};
use crate::support::{numbers, open};

const UNSHARE: [&str; 3] = ["unshare", "--user", "--map-root-user"];

fn can_mount() -> bool {
    let [unshare, arguments @ ..] = UNSHARE;
    let mut tried = Command::new(unshare);
    let tried = tried.args(arguments).args(["--mount", "mount", "-t", "tmpfs", "none", "/mnt"]).stderr(Stdio::null());
    let can = tried.status().is_ok_and(|status| status.success());
    if !can {
        println!("skipped: no mounts for a user namespace here");
    }
    can
}

fn own_mounts() -> Vec<&'static str> {
    UNSHARE.into_iter().chain(["--mount"]).collect()
}

/// RLIMIT_FSIZE: writes beyond it fail with EFBIG, as long as SIGXFSZ is ignored.
#[tokio::test]
async fn a_file_that_may_not_grow_fails_appends_by_name_and_works_again_once_it_may() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut child = Appender::start(dir.path(), Job::Obey, &[], "trap '' XFSZ; ulimit -S -f 6144;")?;
    ensure!(child.next()?.as_deref() == Some("open"));
    let mut kept = Vec::new();
    let mut refused = None;
    for number in 0..2000 {
        let said = child.append(number)?;
        if said != "kept" {
            refused = Some((number, said));
            break;
        }
        kept.push(number);
    }
    let (number, said) = refused.context("the limit was not reached")?;
    assert!(
        said.contains("spool.redb") && said.contains("the disk is full") && said.ends_with("in trouble: true"),
        "{said}"
    );

    let again = child.append(number)?;
    assert!(again.contains("the disk is full"), "{again}");

    let lifted = Command::new("prlimit").args(["--pid", &child.id().to_string(), "--fsize=unlimited"]).status()?;
    ensure!(lifted.success());
    assert_eq!(child.append(3000)?, "kept");
    assert_eq!(child.append(3001)?, "kept");
    kept.extend([3000, 3001]);
    child.kill()?;

    let there: Vec<u64> = numbers(&open(dir.path())?).await?.into_values().collect();
    assert_eq!(there, kept, "what was answered, and nothing of what was refused");
    Ok(())
}

#[tokio::test]
async fn a_full_disk_fails_appends_by_name_and_works_again_once_there_is_room() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mount = r#"mount -t tmpfs -o size=8m none "$DIRECTORY"; head -c 4m /dev/zero >"$DIRECTORY/ballast";
        (read -r _; rm "$DIRECTORY/ballast"; echo "child: room") <"$DIRECTORY.fifo" &"#;
    let fifo = format!("{}.fifo", dir.path().display());
    ensure!(Command::new("mkfifo").arg(&fifo).status()?.success());
    let mut child = Appender::start(dir.path(), Job::Obey, &own_mounts(), mount)?;
    ensure!(child.next()?.as_deref() == Some("open"));
    let mut refused = None;
    for number in 0..4000 {
        let said = child.append(number)?;
        if said != "kept" {
            refused = Some(said);
            break;
        }
    }
    let said = refused.context("8 MiB were not filled")?;
    assert!(said.contains("spool.redb") && said.contains("the disk is full"), "{said}");
    std::fs::write(&fifo, "\n")?;
    assert_eq!(child.next()?.as_deref(), Some("room"));
    std::fs::remove_file(&fifo)?;
    assert_eq!(child.append(5000)?, "kept");
    Ok(())
}

#[test]
fn a_read_only_file_system_is_named_with_what_to_do() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mount = r#"mount -t tmpfs -o ro none "$DIRECTORY";"#;
    let child = Appender::start(dir.path(), Job::Obey, &own_mounts(), mount)?;
    let output = child.failed()?;
    assert!(output.contains("the file system is read-only"), "{output}");
    assert!(output.contains(&dir.path().display().to_string()), "{output}");
    Ok(())
}
