//! operator/crates/notify
