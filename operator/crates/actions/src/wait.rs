//! `wait`: time passes.

use quell_crds::v1alpha1::step::Wait;

use crate::{Context, Progress, Right, State};

/// None.
pub const RIGHTS: &[Right] = &[];

/// Done once the time has passed since the step began.
#[must_use]
pub fn perform(parameters: &Wait, cx: &Context<'_>) -> Progress {
    let wanted = parameters.r#for.get();
    let since = cx.record.started_at.map(|began| cx.now - began).and_then(|passed| passed.to_std().ok());
    match wanted.checked_sub(since.unwrap_or_default()) {
        None | Some(std::time::Duration::ZERO) => Progress::done(format!("waited {}", parameters.r#for), None),
        Some(rest) => Progress::pending(State::Again(rest), format!("waits {}", parameters.r#for), None),
    }
}
