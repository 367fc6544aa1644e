//! The spool on real disks, with real crashes.

mod appends;
mod child;
mod corrupt;
mod crash;
#[cfg(target_os = "linux")]
mod disk;
mod open;
mod support;
