//! What happens when the store has failed. A disk that fails an fsync can't be had at will; what is done about it can.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::state::{Limit, Pending};

use super::*;

fn writer(dir: &Path) -> Writer {
    let directory = Directory::claim(dir).expect("a directory");
    let tally = Arc::new(Tally::default());
    let (store, kept) = Store::open(&directory, &tally).expect("a store");
    let state = Arc::new(Mutex::new(State::new(Limit { bytes: 1 << 20, entries: 100 }, kept)));
    Writer::new(directory, store, 0, state, tally)
}

fn append(writer: &mut Writer, payload: &'static str) -> Result<(), DiskError> {
    lock(&writer.state).reserve(payload.len() as u64).expect("there is room");
    let additions = writer.number(vec![Bytes::from_static(payload.as_bytes())]);
    let result = writer.commit(&additions, Vec::new());
    writer.record(&additions, result.as_ref().err());
    result
}

fn payloads(writer: &mut Writer) -> Vec<Bytes> {
    writer.page(None, usize::MAX).expect("a page").into_iter().map(|entry| entry.payload).collect()
}

#[test]
fn after_an_fsync_that_failed_everything_kept_is_written_to_a_new_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut writer = writer(dir.path());
    append(&mut writer, "one").expect("kept");
    append(&mut writer, "two").expect("kept");
    lock(&writer.state).remove(0);
    let before = fs::metadata(writer.directory.store()).expect("the store").ino();

    writer.store = None;
    writer.in_doubt = true;
    append(&mut writer, "three").expect("kept");

    assert_ne!(fs::metadata(writer.directory.store()).expect("the store").ino(), before, "a file of its own");
    assert_eq!(payloads(&mut writer), ["two", "three"]);
    assert!(!writer.in_doubt);
    writer.store = None;
    assert_eq!(payloads(&mut writer), ["two", "three"], "and so it is on disk");
}

#[test]
fn what_a_failed_commit_left_in_the_store_is_taken_out_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut writer = writer(dir.path());
    let unanswered = writer.number(vec![Bytes::from_static(b"refused, though it reached the disk")]);
    writer.with_store(|store| store.commit(&unanswered, &[])).expect("written");
    writer.store = None;

    append(&mut writer, "kept").expect("kept");
    assert_eq!(payloads(&mut writer), ["kept"]);
    writer.store = None;
    let (_, there) = Store::open(&writer.directory, &writer.tally).expect("the store");
    assert_eq!(there.len(), 1, "{there:?}");
}

#[test]
fn a_store_that_breaks_while_it_is_open_is_set_aside_and_its_loss_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut writer = writer(dir.path());
    append(&mut writer, "one").expect("kept");
    writer.store = None;
    fs::write(writer.directory.store(), "no store at all").expect("written");

    let error = append(&mut writer, "two").expect_err("the store is broken");
    assert_eq!(error.fault, DiskFault::Corrupt);
    assert!(lock(&writer.state).trouble().is_some());
    append(&mut writer, "three").expect("a new store takes its place");
    let state = lock(&writer.state);
    assert_eq!((state.activity().lost, state.kept()), (1, Pending { entries: 1, bytes: 5 }));
    assert_eq!(state.trouble(), None);
    drop(state);
    let aside = fs::read_dir(dir.path()).expect("the directory").map(|file| file.expect("a file").file_name());
    assert_eq!(aside.filter(|name| name.to_string_lossy().contains("corrupt-")).count(), 1);
}

#[test]
fn pages_read_after_the_store_has_failed_are_of_the_store_opened_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut writer = writer(dir.path());
    append(&mut writer, "one").expect("kept");
    writer.store = None;
    assert_eq!(payloads(&mut writer), ["one"]);
}
