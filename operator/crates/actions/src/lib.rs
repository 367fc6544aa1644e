//! operator/crates/actions
