//! Real processes and real signals; their cgroup alone is made up, for only a kubelet makes one of a pod.

#![allow(clippy::unwrap_used, reason = "a test that can not set its scene has failed")]

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use quell_sever::processes::{ProcessError, Target, signal};
use quell_sever::{Report, Signal};

const UID: &str = "3a9f5f0e-6f0c-4f43-9f1b-0d6f3a0c2b11";
const CONTAINER: &str = "4c01db0b339c4f1f8d5c0a4e2b6f7d8e9a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d";
const SANDBOX: &str = "99c1db0b339c4f1f8d5c0a4e2b6f7d8e9a0b1c2d3e4f5a6b7c8d9e0f1a2b3c99";

/// Ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn sleeping() -> Self {
        Self::of("sleep", &["1000"])
    }

    fn of(program: &str, arguments: &[&str]) -> Self {
        Self(Command::new(program).args(arguments).stdout(Stdio::null()).spawn().unwrap())
    }

    /// Is seen in `proc` with these cgroups.
    fn seen(self, proc: &Path, cgroups: &str) -> Self {
        let folder = proc.join(self.0.id().to_string());
        fs::create_dir(&folder).unwrap();
        symlink(format!("/proc/{}/stat", self.0.id()), folder.join("stat")).unwrap();
        fs::write(folder.join("cgroup"), cgroups).unwrap();
        self
    }

    fn state(&self) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }
}

fn target() -> Target {
    Target { pod_uid: UID.to_owned(), containers: [CONTAINER.to_owned()].into() }
}

/// The cgroup of a container, as the two drivers name it on both versions.
fn cgroups(uid: &str, container: &str) -> [String; 4] {
    let slice = uid.replace('-', "_");
    [
        format!(
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{container}.scope\n"
        ),
        // A container of the guest's own, seen from the cgroup namespace of another pod.
        format!("0::/../../../kubepods-pod{slice}.slice/crio-{container}.scope/init/system.slice\n"),
        format!("12:memory:/kubepods/besteffort/pod{uid}/{container}\n11:cpuset:/\n"),
        format!("0::/kubepods/pod{uid}/{container}\n"),
    ]
}

#[test]
fn processes_of_the_containers_stand_still_and_go_on_and_nobody_else_does() {
    for ours in cgroups(UID, CONTAINER) {
        let proc = tempfile::tempdir().unwrap();
        let proc = proc.path();
        let (first, second) = (Process::sleeping().seen(proc, &ours), Process::sleeping().seen(proc, &ours));
        let other_uid = format!("{UID}0");
        let others: Vec<Process> = [
            cgroups(UID, SANDBOX)[0].as_str(),
            &cgroups(&other_uid, CONTAINER)[0],
            &cgroups(&other_uid, CONTAINER)[2],
            &format!("0::/system.slice/pod{UID}.service\n"),
            &format!("0::/{CONTAINER}/pod{UID}\n"),
            "0::/\n",
        ]
        .into_iter()
        .map(|cgroups| Process::sleeping().seen(proc, cgroups))
        .collect();

        let report = signal(proc, &target(), Signal::Stop).unwrap();
        assert_eq!(report, Report { deleted: None, signalled: Some(2), remaining: 0 }, "{ours}");
        assert_eq!([first.state(), second.state()], ['T', 'T'], "{ours}");
        assert!(others.iter().all(|one| one.state() == 'S'), "{ours}");

        let again = signal(proc, &target(), Signal::Stop).unwrap();
        assert_eq!(again, Report { deleted: None, signalled: Some(0), remaining: 0 }, "{ours}");

        let report = signal(proc, &target(), Signal::Continue).unwrap();
        assert_eq!(report, Report { deleted: None, signalled: Some(2), remaining: 0 }, "{ours}");
        assert_eq!([first.state(), second.state()], ['S', 'S'], "{ours}");
    }
}

#[test]
fn what_does_not_end_when_it_is_asked_is_made_to_and_what_does_ends_by_itself() {
    let proc = tempfile::tempdir().unwrap();
    let ours = &cgroups(UID, CONTAINER)[0];
    let mut obedient = Process::sleeping().seen(proc.path(), ours);
    // Ignored signals stay ignored in the program that takes the shell's place.
    let mut deaf = Process::of("sh", &["-c", "trap '' TERM; exec sleep 1000"]).seen(proc.path(), ours);
    let is_deaf = || fs::read_to_string(format!("/proc/{}/comm", deaf.0.id())).unwrap().trim() == "sleep";
    while !is_deaf() {
        std::thread::yield_now();
    }
    let report = signal(proc.path(), &target(), Signal::Kill).unwrap();
    assert_eq!(report, Report { deleted: None, signalled: Some(2), remaining: 0 });
    assert_eq!(obedient.0.wait().unwrap().signal(), Some(15));
    assert_eq!(deaf.0.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_process_that_stands_still_is_ended_as_well() {
    let proc = tempfile::tempdir().unwrap();
    let mut still = Process::sleeping().seen(proc.path(), &cgroups(UID, CONTAINER)[0]);
    signal(proc.path(), &target(), Signal::Stop).unwrap();
    signal(proc.path(), &target(), Signal::Kill).unwrap();
    assert!(still.0.wait().unwrap().signal().is_some());
}

#[test]
fn a_pod_without_processes_is_an_error_that_says_what_may_be_wrong() {
    let proc = tempfile::tempdir().unwrap();
    let _other = Process::sleeping().seen(proc.path(), &cgroups(UID, SANDBOX)[0]);
    let error = signal(proc.path(), &target(), Signal::Stop).unwrap_err();
    assert!(matches!(error, ProcessError::NotFound { .. }));
    assert!(error.to_string().contains("does not see its node's processes"), "{error}");
}

#[test]
fn a_name_with_brackets_and_spaces_does_not_hide_how_a_process_stands() {
    let proc = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sly = folder.path().join("a) T 1");
    // A link and no copy: a file that was just written may still be open for writing in a process that another test is starting.
    symlink("/bin/sleep", &sly).unwrap();
    let sly = Process::of(sly.to_str().unwrap(), &["1000"]).seen(proc.path(), &cgroups(UID, CONTAINER)[0]);
    signal(proc.path(), &target(), Signal::Stop).unwrap();
    assert_eq!(sly.state(), 'T');
}
