//! What survives: signals while the API server is away, and the operator's own end.

mod intake;
mod leaders;
mod records;
mod support;
