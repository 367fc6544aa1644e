//! What a Finding says of the risk that is accepted.

use quell_crds::conditions::{Reason, Status};
use quell_crds::v1alpha1::Suppressed;
use quell_playbooks::suppress::Judgement;

/// For columns and scripts.
pub(super) fn of(judgement: &Judgement) -> Option<Suppressed> {
    let by = judgement.by();
    let first = judgement.whole.as_ref().or_else(|| by.first().copied())?;
    let name = format!("{}/{}", first.kind, first.name);
    Some(Suppressed {
        by: if by.len() > 1 { format!("{name} +{}", by.len() - 1) } else { name },
        owner: first.owner.clone(),
        reason: first.reason.clone(),
        until: by.iter().filter_map(|one| one.expires_at).min(),
        whole: judgement.whole.is_some(),
        vulnerabilities: i32::try_from(judgement.vulnerabilities.len()).unwrap_or(i32::MAX),
    })
}

/// For people.
pub(super) fn told(judgement: &Judgement) -> Option<(Status, Reason, String)> {
    let by: Vec<String> = judgement.by().iter().map(|one| one.told()).collect();
    if judgement.whole.is_some() {
        return Some((Status::True, Reason::AcceptedRisk, format!("accepted by {}", by.join("; "))));
    }
    if let Some(error) = judgement.failed.first() {
        let message = format!("whether it is suppressed can't be told, so it is not: {error}");
        return Some((Status::Unknown, Reason::ExpressionFailed, message));
    }
    let taken = judgement.vulnerabilities.len();
    (taken > 0).then(|| {
        let message = format!("{taken} of its vulnerabilities are accepted by {}; the others are not", by.join("; "));
        (Status::False, Reason::PartlyAccepted, message)
    })
}
