//! Messages that no step of a run sends: that an approval is waited for, how a quarantine fares, that a guardrail holds runs.
//!
//! Those of a run go by its playbook's channels and rights, as its `notify` steps do; those of a guardrail by Quell's own.

use std::time::Duration;

use quell_actions::Mark;
use quell_crds::v1alpha1::StepKind;
use quell_crds::v1alpha1::step::{ChannelReference, Notify};
use quell_playbooks::Outcome;

use crate::engine::Stage;

/// The waits between tries, of which there is one more.
const WAITS: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(10), Duration::from_mins(1)];

/// The tries that a message has in the background, where nothing else would try it again.
pub(super) struct Tries(std::array::IntoIter<Duration, 3>);

impl Tries {
    pub(super) fn new() -> Self {
        Self(WAITS.into_iter())
    }

    /// Waits for the next try; `false`: there is none.
    pub(super) async fn another(&mut self) -> bool {
        let Some(wait) = self.0.next() else { return false };
        tokio::time::sleep(wait).await;
        true
    }
}

/// Tells channels as a step of the name `as_step` would. Messages have their keys by that name: a receiver that can tell takes each once.
pub(super) async fn say(
    stage: &Stage<'_>,
    step: usize,
    as_step: String,
    channels: Vec<ChannelReference>,
    message: String,
) -> Outcome {
    let mark = Mark { step: as_step, ..stage.mark(step) };
    let told = StepKind::Notify(Notify { channels, message: Some(message) });
    quell_actions::perform(&told, &stage.context(&mark, step)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_is_tried_again_three_times_less_and_less_often() {
        let (begun, mut tries) = (tokio::time::Instant::now(), Tries::new());
        let mut at = Vec::new();
        while tries.another().await {
            at.push(begun.elapsed().as_secs());
        }
        assert_eq!(at, [2, 12, 72]);
        assert!(!tries.another().await, "and not for ever");
    }
}
