//! Where the parameters of each kind of step may hold `${…}`.

use quell_crds::v1alpha1::StepKind;
use quell_crds::v1alpha1::step::{HttpBuild, JobBuild, Rebuild};

use crate::cel::{Expression, Names, Scope};
use crate::template::{self, RenderError, Template};

/// Variables of the address that asks for a build's result, beside those of the step.
pub const STARTED: &str = "started";
/// Variable of the answer that says how a build stands.
pub const RESPONSE: &str = "response";

/// Checks every template and expression in a step's parameters. The error is the field and what is wrong with it.
pub fn check(kind: &StepKind, names: &Names) -> Result<(), (String, String)> {
    let text = |at: &str, source: &str, names: &Names| {
        Template::compile(source, names).map(|_| ()).map_err(|error| (at.to_owned(), error.to_string()))
    };
    match kind {
        StepKind::Quarantine(_)
        | StepKind::DenyImage(_)
        | StepKind::Rollback(_)
        | StepKind::SeverConnections(_)
        | StepKind::RevokeAccess(_)
        | StepKind::Wait(_) => Ok(()),
        StepKind::SetImage(set) => {
            text("setImage.image", &set.image, names)?;
            set.container.iter().try_for_each(|container| text("setImage.container", container, names))
        }
        StepKind::Notify(notify) => {
            notify.message.iter().try_for_each(|message| text("notify.message", message, names))
        }
        StepKind::Rebuild(Rebuild::Job(job)) => {
            template::check_object(&job.spec, names, "rebuild.job.spec").map_err(|(at, error)| (at, error.to_string()))
        }
        StepKind::Rebuild(Rebuild::Http(http)) => {
            text("rebuild.http.url", &http.url, names)?;
            template::check_object(&http.body, names, "rebuild.http.body")
                .map_err(|(at, error)| (at, error.to_string()))?;
            for (header, value) in &http.headers {
                text(&format!("rebuild.http.headers.{header}"), value, names)?;
            }
            let started = with(names, &[STARTED]);
            text("rebuild.http.poll.url", &http.poll.url, &started)?;
            let answered = with(names, &[STARTED, RESPONSE]);
            for (field, source) in [("succeeded", &http.poll.succeeded), ("failed", &http.poll.failed)] {
                Expression::compile(source, &answered)
                    .map_err(|error| (format!("rebuild.http.poll.{field}"), error.to_string()))?;
            }
            for (output, source) in &http.poll.outputs {
                text(&format!("rebuild.http.poll.outputs.{output}"), source, &answered)?;
            }
            Ok(())
        }
    }
}

/// Fills in every template whose variables are known when the step begins. What reads `started` or `response` stays as it is: the step
/// fills it in when it has them.
pub fn render(kind: &StepKind, scope: &Scope, names: &Names) -> Result<StepKind, (String, RenderError)> {
    let text = |at: &str, source: &str| template::render(source, scope, names).map_err(|error| (at.to_owned(), error));
    let mut kind = kind.clone();
    match &mut kind {
        StepKind::Quarantine(_)
        | StepKind::DenyImage(_)
        | StepKind::Rollback(_)
        | StepKind::SeverConnections(_)
        | StepKind::RevokeAccess(_)
        | StepKind::Wait(_) => {}
        StepKind::SetImage(set) => {
            set.image = text("setImage.image", &set.image)?;
            if let Some(container) = &mut set.container {
                *container = text("setImage.container", container)?;
            }
        }
        StepKind::Notify(notify) => {
            if let Some(message) = &mut notify.message {
                *message = text("notify.message", message)?;
            }
        }
        StepKind::Rebuild(Rebuild::Job(JobBuild { spec })) => {
            *spec =
                template::render_object(spec, scope, names).map_err(|error| ("rebuild.job.spec".to_owned(), error))?;
        }
        StepKind::Rebuild(Rebuild::Http(HttpBuild { url, body, headers, .. })) => {
            *url = text("rebuild.http.url", url)?;
            *body =
                template::render_object(body, scope, names).map_err(|error| ("rebuild.http.body".to_owned(), error))?;
            for (header, value) in headers {
                *value = text(&format!("rebuild.http.headers.{header}"), value)?;
            }
        }
    }
    Ok(kind)
}

/// The names, and more variables.
#[must_use]
pub fn with(names: &Names, variables: &[&'static str]) -> Names {
    let mut names = names.clone();
    names.variables.extend(variables);
    names
}
