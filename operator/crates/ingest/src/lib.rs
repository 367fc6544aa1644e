//! operator/crates/ingest
