//! In the making.

use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::Receipt;
use quell_crds::v1alpha1::step::SetImage;

use crate::{ActionError, Context, Progress, Right};

/// Rights.
pub const RIGHTS: &[Right] = &[];

/// Does it.
pub async fn perform(_parameters: &SetImage, _cx: &Context<'_>) -> Result<Progress, ActionError> {
    Err(ActionError::refused(Reason::TargetUnsupported, "in the making"))
}

/// Undoes it.
pub async fn undo(_receipt: &Receipt, _cx: &Context<'_>) -> Result<String, ActionError> {
    Err(ActionError::refused(Reason::TargetUnsupported, "in the making"))
}
