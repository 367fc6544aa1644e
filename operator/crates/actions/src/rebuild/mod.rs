//! In the making.

use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::step::Rebuild;

use crate::{ActionError, Context, Progress, Right};

/// Rights.
pub const RIGHTS: &[Right] = &[];

/// Does it.
pub async fn perform(_parameters: &Rebuild, _cx: &Context<'_>) -> Result<Progress, ActionError> {
    Err(ActionError::refused(Reason::TargetUnsupported, "in the making"))
}
