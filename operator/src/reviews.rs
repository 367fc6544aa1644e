//! Whether the service account of each playbook has the rights that its steps need: found when the playbook is written, not during the
//! incident.
//!
//! The account itself is asked for (`SelfSubjectAccessReview`, acting as it), which needs no right beyond that of acting as it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use quell_actions::rights::{self, Place, Right};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{PlaybookKind, PlaybookReference};
use quell_playbooks::Problem;
use quell_playbooks::compile::Draft;
use tokio::time::Instant;

use crate::identity::{Identities, user};
use crate::lanes::Lanes;

/// What was asked holds so long; who was given a right waits no longer for a playbook to notice.
pub const AGAIN: Duration = Duration::from_mins(10);
/// The same where rights were missing.
pub const AGAIN_WHERE_MISSING: Duration = Duration::from_secs(20);
/// Questions at once.
const AT_ONCE: usize = 4;
/// Most rights that a message names.
const MOST_TOLD: usize = 8;
/// Most namespaces of a ClusterPlaybook that are asked about one by one; one that names more needs its rights in all.
const MOST_NAMESPACES: usize = 16;

/// One question: as whom, where, what.
type Question = (String, String, Right);

/// What is known of the rights of playbooks.
pub struct Reviews {
    identities: Arc<Identities>,
    lanes: Lanes,
    own_namespace: String,
    severing_namespace: Option<String>,
    answers: Mutex<HashMap<Question, (bool, Instant)>>,
    problems: Mutex<HashMap<(String, i64), Problem>>,
}

impl Reviews {
    /// Asks as the identities of playbooks.
    #[must_use]
    pub fn new(
        identities: Arc<Identities>,
        lanes: Lanes,
        own_namespace: &str,
        severing_namespace: Option<String>,
    ) -> Self {
        Self {
            identities,
            lanes,
            own_namespace: own_namespace.to_owned(),
            severing_namespace,
            answers: Mutex::default(),
            problems: Mutex::default(),
        }
    }

    /// What the playbook lacks, as far as was asked.
    #[must_use]
    pub fn problem(&self, playbook: &PlaybookReference) -> Option<Problem> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.get(&(playbook.uid.clone(), playbook.generation)).cloned()
    }

    /// Whether some playbook lacks rights.
    #[must_use]
    pub fn any_problem(&self) -> bool {
        !self.problems.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Asks what isn't known, or was asked too long ago. Gives back whether a playbook lacks other rights than before.
    pub async fn refresh(&self, drafts: &[Arc<Draft>]) -> bool {
        let mut problems = HashMap::new();
        for draft in drafts {
            let key = (draft.reference.uid.clone(), draft.reference.generation);
            match self.review(draft).await {
                Ok(None) => {}
                Ok(Some(problem)) => {
                    problems.insert(key, problem);
                }
                // Nothing is known: what was known before holds.
                Err(error) => {
                    tracing::warn!(playbook = draft.reference.name, %error, "its rights can't be asked for; they are asked for again");
                    if let Some(before) = self.problem(&draft.reference) {
                        problems.insert(key, before);
                    }
                }
            }
        }
        let mut known = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *known != problems;
        *known = problems;
        changed
    }

    async fn review(&self, draft: &Draft) -> Result<Option<Problem>, kube::Error> {
        let who = user(&draft.reference, &draft.namespace).unwrap_or_default();
        let mut has: HashMap<Right, bool> = HashMap::new();
        let asked: Vec<Right> = draft.steps.iter().flat_map(|step| rights::asked_for(&step.kind)).collect();
        let questions: Vec<(Right, String)> = asked
            .into_iter()
            .flat_map(|right| self.places(draft, right).into_iter().map(move |place| (right, place)))
            .collect();
        let mut answers = stream::iter(questions)
            .map(|(right, place)| {
                let who = who.clone();
                async move { self.ask(draft, who, place, right).await.map(|has| (right, has)) }
            })
            .buffer_unordered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok((right, yes)) => {
                    let all = has.entry(right).or_insert(true);
                    *all = *all && yes;
                }
                // Quell itself may not act as the account.
                Err(kube::Error::Api(status)) if status.is_forbidden() && !who.is_empty() => {
                    return Ok(Some(missing(format!(
                        "Quell may not act as {who}: add its namespace to impersonation.namespaces of the chart"
                    ))));
                }
                Err(error) => return Err(error),
            }
        }
        for (i, step) in draft.steps.iter().enumerate() {
            let lacks = rights::missing(&step.kind, &|right| has.get(right).copied().unwrap_or(true));
            if !lacks.is_empty() {
                let who = if who.is_empty() { "Quell" } else { &who };
                let told: Vec<String> = lacks.iter().take(MOST_TOLD).map(|right| self.told(draft, right)).collect();
                let more = lacks.len().saturating_sub(MOST_TOLD);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let mut problem =
                    missing(format!("{who} may not {}{more}; give it a Role with these", told.join(", ")));
                problem.at = format!("spec.steps[{i}]");
                return Ok(Some(problem));
            }
        }
        Ok(None)
    }

    async fn ask(&self, draft: &Draft, who: String, namespace: String, right: Right) -> Result<bool, kube::Error> {
        let key = (who, namespace.clone(), right);
        let known = self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        let lasts = |(has, at): (bool, Instant)| at.elapsed() < if has { AGAIN } else { AGAIN_WHERE_MISSING };
        if let Some((has, _)) = known.filter(|known| lasts(*known)) {
            return Ok(has);
        }
        let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: some(right.group),
                    namespace: some(&namespace),
                    resource: some(resource),
                    subresource: some(subresource),
                    verb: some(right.verb),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.identities.of(&draft.reference, &draft.namespace)?);
        let answer = {
            let _pass = self.lanes.book_keeping().await;
            api.create(&PostParams::default(), &review).await?
        };
        let has = answer.status.is_some_and(|status| status.allowed);
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (has, Instant::now()));
        Ok(has)
    }

    /// Where a right is needed; empty for all namespaces, and for what is in none.
    fn places(&self, draft: &Draft, right: Right) -> Vec<String> {
        let of_cluster = draft.reference.kind == PlaybookKind::ClusterPlaybook;
        match right.place {
            Place::Cluster | Place::Everywhere => vec![String::new()],
            Place::Secrets if of_cluster => vec![self.own_namespace.clone()],
            // Without it the step says so itself.
            Place::Severing => self.severing_namespace.iter().cloned().collect(),
            Place::Finding if of_cluster => match draft.namespaces.include.as_slice() {
                [] => vec![String::new()],
                few if few.len() <= MOST_NAMESPACES => few.to_vec(),
                _ => vec![String::new()],
            },
            Place::Finding | Place::Secrets => vec![draft.namespace.clone()],
        }
    }

    fn told(&self, draft: &Draft, right: &Right) -> String {
        let group = if right.group.is_empty() { String::new() } else { format!(".{}", right.group) };
        let place = match self.places(draft, *right).as_slice() {
            [] => String::new(),
            [one] if one.is_empty() => " in the cluster".to_owned(),
            some => format!(" in {}", some.join(", ")),
        };
        format!("{} {}{group}{place}", right.verb, right.resource)
    }
}

fn missing(message: String) -> Problem {
    Problem { reason: Reason::RightsMissing, at: "spec".to_owned(), message }
}
