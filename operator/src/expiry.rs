//! ImageBlocks whose time is over are deleted. Where pods are created the API server's own clock has ended them already; this ends them
//! where it has none, and tidies up.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::api::{Api, DeleteParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource as _, ResourceExt as _};
use quell_crds::v1alpha1::ImageBlock;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::caches::Caches;

/// What could not be deleted is tried again after this.
const AGAIN: Duration = Duration::from_secs(10);
/// No sleep is longer: clocks are set.
const LOOK_ANYWAY: Duration = Duration::from_hours(1);

/// Deletes ImageBlocks as their time comes, until `end`. `changed` tells that there are others than before.
pub async fn keep(client: Client, caches: Arc<Caches>, recorder: Recorder, changed: &Notify, end: CancellationToken) {
    let api: Api<ImageBlock> = Api::all(client);
    loop {
        let mut wait = LOOK_ANYWAY;
        for block in caches.image_blocks.state() {
            match rest(&block, Utc::now()) {
                None => {}
                Some(Duration::ZERO) if delete(&api, &block, &recorder).await => {}
                Some(Duration::ZERO) => wait = wait.min(AGAIN),
                Some(rest) => wait = wait.min(rest),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = changed.notified() => {}
            () = end.cancelled() => return,
        }
    }
}

/// How long the block holds still; `None`: until somebody deletes it.
fn rest(block: &ImageBlock, now: DateTime<Utc>) -> Option<Duration> {
    block.spec.expires_at.map(|end| (end - now).to_std().unwrap_or_default())
}

/// Whether it is deleted. One that was changed since it was seen is left to the next look: it may have been given more time.
async fn delete(api: &Api<ImageBlock>, block: &ImageBlock, recorder: &Recorder) -> bool {
    let name = block.name_any();
    let parameters = DeleteParams {
        preconditions: Some(Preconditions { uid: block.uid(), resource_version: block.resource_version() }),
        ..DeleteParams::default()
    };
    match api.delete(&name, &parameters).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_not_found() => return true,
        Err(error) => {
            tracing::warn!(name, %error, "an ImageBlock whose time is over could not be deleted; it is tried again");
            return false;
        }
    }
    tracing::info!(name, "an ImageBlock is deleted: its time is over");
    let event = Event {
        type_: EventType::Normal,
        reason: "Expired".to_owned(),
        note: Some("its time is over, and the image may start again".to_owned()),
        action: "Delete".to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &block.object_ref(&())).await {
        tracing::warn!(%error, "an Event could not be written");
    }
    true
}

#[cfg(test)]
mod tests {
    use quell_crds::v1alpha1::ImageBlockSpec;

    use super::*;

    #[test]
    fn a_block_without_an_end_holds_and_one_that_is_over_has_no_time_left() {
        let now = Utc::now();
        let of = |expires_at| ImageBlock::new("some", ImageBlockSpec { expires_at, ..ImageBlockSpec::default() });
        assert_eq!(rest(&of(None), now), None);
        assert_eq!(rest(&of(Some(now)), now), Some(Duration::ZERO));
        assert_eq!(rest(&of(Some(now - chrono::TimeDelta::days(9))), now), Some(Duration::ZERO));
        assert_eq!(rest(&of(Some(now + chrono::TimeDelta::seconds(9))), now), Some(Duration::from_secs(9)));
    }
}
