use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use quell_spool::{DiskFault, OpenError, Spool};

use crate::child::{Appender, Job};
use crate::support::{ROOMY, numbers, open, payload};

#[tokio::test]
async fn the_directory_is_created_for_its_owner_alone() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let dir = parent.path().join("a/spool");
    let spool = open(&dir)?;
    spool.append(payload(1)).await?;
    assert_eq!(fs::metadata(&dir)?.permissions().mode() & 0o777, 0o700);
    for file in fs::read_dir(&dir)? {
        assert_eq!(file?.metadata()?.permissions().mode() & 0o777, 0o600);
    }
    Ok(())
}

#[tokio::test]
async fn a_second_opening_fails_and_names_the_directory() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let first = open(dir.path())?;
    first.append(payload(1)).await?;
    let error = Spool::open(dir.path(), ROOMY).expect_err("it is open");
    assert_eq!(error, OpenError::InUse { dir: dir.path().to_owned() });
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    first.append(payload(2)).await?;
    drop(first);
    assert_eq!(numbers(&open(dir.path())?).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_second_process_is_refused_until_the_first_has_ended() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut child = Appender::start(dir.path(), Job::Obey, &[], "")?;
    assert_eq!(child.next()?.as_deref(), Some("open"));
    assert!(matches!(Spool::open(dir.path(), ROOMY), Err(OpenError::InUse { .. })));
    child.kill()?;
    open(dir.path())?;
    Ok(())
}

#[test]
fn a_file_in_the_directorys_place_is_named_and_left_alone() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let file = parent.path().join("spool");
    fs::write(&file, "a note")?;
    for dir in [file.clone(), file.join("below")] {
        assert_eq!(Spool::open(&dir, ROOMY).expect_err("no directory"), OpenError::NotADirectory { dir });
    }
    assert_eq!(fs::read_to_string(&file)?, "a note");
    Ok(())
}

/// The rights of a directory don't bind root: a mount does.
#[test]
fn a_read_only_directory_is_named_with_what_to_do() -> Result<()> {
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), Permissions::from_mode(0o500))?;
    match Spool::open(dir.path(), ROOMY) {
        Err(OpenError::Disk(error)) => {
            assert_eq!((error.path.as_path(), error.fault), (dir.path(), DiskFault::Forbidden));
            assert!(error.to_string().contains("writable"), "{error}");
        }
        Ok(_) => println!("skipped: root may write everywhere"),
        Err(error) => panic!("{error}"),
    }
    Ok(())
}
