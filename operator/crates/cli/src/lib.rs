//! operator/crates/cli
