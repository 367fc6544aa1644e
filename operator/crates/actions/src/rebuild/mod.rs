//! `rebuild`: an image is built anew, by a Kubernetes Job or behind an HTTP endpoint.

mod answer;
mod http;
mod job;
mod result;

use quell_crds::v1alpha1::step::Rebuild;

use crate::{ActionError, Context, Progress, Right};

/// A Job is created, and looked at as long as it runs; its pods say what it made. The Secret holds the token for an HTTP endpoint.
pub const RIGHTS: &[Right] = &[
    Right::new("batch", "jobs", "create"),
    Right::new("batch", "jobs", "get"),
    Right::new("", "pods", "list"),
    Right::secrets("get"),
];

/// Starts the build, or looks how it stands.
pub async fn perform(parameters: &Rebuild, cx: &Context<'_>) -> Result<Progress, ActionError> {
    match parameters {
        Rebuild::Job(job) => job::perform(job, cx).await,
        Rebuild::Http(http) => http::perform(http, cx).await,
    }
}
