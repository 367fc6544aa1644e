//! Whether the service account of each playbook has the rights that its steps need: found when the playbook is written, not during the
//! incident.
//!
//! The account itself is asked for (`SelfSubjectAccessReview`, acting as it), which needs no right beyond that of acting as it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use quell_actions::Cluster as _;
use quell_actions::rights::{self, Place, Right};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::step::Rebuild;
use quell_crds::v1alpha1::{PlaybookKind, PlaybookReference, StepKind};
use quell_notify::Destination;
use quell_playbooks::Problem;
use quell_playbooks::compile::Draft;
use tokio::time::Instant;

use crate::caches::Caches;
use crate::identity::{Identities, user};
use crate::lanes::Lanes;
use crate::settings::Settings;

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

/// One question: of which kind of object, where, and of which name where only some are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    right: Right,
    namespace: String,
    name: Option<String>,
}

/// What is known of the rights of playbooks.
pub struct Reviews {
    identities: Arc<Identities>,
    caches: Arc<Caches>,
    lanes: Lanes,
    own_namespace: String,
    severing_namespace: Option<String>,
    probing_namespace: Option<String>,
    /// By who was asked, and what.
    answers: Mutex<HashMap<(String, Question), (bool, Instant)>>,
    problems: Mutex<HashMap<(String, i64), Problem>>,
    /// Something could not be asked.
    unanswered: AtomicBool,
}

impl Reviews {
    /// Asks as the identities of playbooks.
    #[must_use]
    pub fn new(identities: Arc<Identities>, caches: Arc<Caches>, lanes: Lanes, settings: &Settings) -> Self {
        Self {
            identities,
            caches,
            lanes,
            own_namespace: settings.namespace.clone(),
            severing_namespace: settings.severing().map(|severing| severing.namespace),
            probing_namespace: settings.probing().map(|probing| probing.namespace),
            answers: Mutex::default(),
            problems: Mutex::default(),
            unanswered: AtomicBool::default(),
        }
    }

    /// What the playbook lacks, as far as was asked.
    #[must_use]
    pub fn problem(&self, playbook: &PlaybookReference) -> Option<Problem> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.get(&(playbook.uid.clone(), playbook.generation)).cloned()
    }

    /// After which time to ask again.
    #[must_use]
    pub fn again(&self) -> Duration {
        let lacking = !self.problems.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if lacking || self.unanswered.load(Ordering::Relaxed) { AGAIN_WHERE_MISSING } else { AGAIN }
    }

    /// Asks what isn't known, or was asked too long ago. Gives back whether a playbook lacks other rights than before.
    pub async fn refresh(&self, drafts: &[Arc<Draft>]) -> bool {
        let (mut problems, mut unanswered) = (HashMap::new(), false);
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, answer| lasts(*answer));
        for draft in drafts {
            let key = (draft.reference.uid.clone(), draft.reference.generation);
            match self.review(draft).await {
                Ok(None) => {}
                Ok(Some(problem)) => {
                    problems.insert(key, problem);
                }
                // Nothing is known: what was known before holds.
                Err(error) => {
                    unanswered = true;
                    tracing::warn!(playbook = draft.reference.name, %error, "its rights can't be asked for; they are asked for again");
                    if let Some(before) = self.problem(&draft.reference) {
                        problems.insert(key, before);
                    }
                }
            }
        }
        self.unanswered.store(unanswered, Ordering::Relaxed);
        let mut known = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *known != problems;
        *known = problems;
        changed
    }

    async fn review(&self, draft: &Draft) -> Result<Option<Problem>, kube::Error> {
        let who = user(&draft.reference, &draft.namespace);
        for (i, step) in draft.steps.iter().enumerate() {
            let questions: Vec<Question> = rights::asked_for(&step.kind)
                .into_iter()
                .flat_map(|right| self.questions(draft, &step.kind, right))
                .collect();
            let mut answers = stream::iter(questions)
                .map(async |question| self.ask(draft, who.as_deref(), &question).await.map(|has| (question.right, has)))
                .buffer_unordered(AT_ONCE);
            let mut lacking: HashSet<Right> = HashSet::new();
            while let Some(answer) = answers.next().await {
                match (answer, &who) {
                    (Ok((right, has)), _) => {
                        if !has {
                            lacking.insert(right);
                        }
                    }
                    (Err(kube::Error::Api(status)), Some(who)) if status.is_forbidden() => {
                        let message = format!(
                            "Quell may not act as {who}: add its namespace to impersonation.namespaces of the chart"
                        );
                        return Ok(Some(missing(i, message)));
                    }
                    (Err(error), _) => return Err(error),
                }
            }
            let lacks = rights::missing(&step.kind, &|right| !lacking.contains(right));
            if !lacks.is_empty() {
                return Ok(Some(missing(i, self.told(draft, &step.kind, who.as_deref(), &lacks))));
            }
        }
        Ok(None)
    }

    async fn ask(&self, draft: &Draft, who: Option<&str>, question: &Question) -> Result<bool, kube::Error> {
        let key = (who.unwrap_or_default().to_owned(), question.clone());
        let known = self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        if let Some((has, _)) = known.filter(|known| lasts(*known)) {
            return Ok(has);
        }
        let right = question.right;
        let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: some(right.group),
                    namespace: some(&question.namespace),
                    resource: some(resource),
                    subresource: some(subresource),
                    verb: some(right.verb),
                    name: question.name.clone(),
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

    fn questions(&self, draft: &Draft, kind: &StepKind, right: Right) -> Vec<Question> {
        let names = if right.place == Place::Secrets {
            self.secrets(draft, kind).into_iter().map(Some).collect()
        } else {
            vec![None]
        };
        let places = self.places(draft, right);
        let all = places.iter().flat_map(|namespace| {
            names.iter().map(|name| Question { right, namespace: namespace.clone(), name: name.clone() })
        });
        all.collect()
    }

    /// The Secrets that a step reads: who may read these, and no others, may do the step.
    fn secrets(&self, draft: &Draft, kind: &StepKind) -> BTreeSet<String> {
        match kind {
            StepKind::Notify(notify) => {
                let channels = notify
                    .channels
                    .iter()
                    .filter_map(|channel| self.caches.channel(draft.reference.kind, &draft.namespace, &channel.name));
                channels
                    .flat_map(|channel| {
                        Destination::secrets(&channel).into_iter().map(|key| key.name.clone()).collect::<Vec<_>>()
                    })
                    .collect()
            }
            StepKind::Rebuild(Rebuild::Http(http)) => http.bearer_token.iter().map(|key| key.name.clone()).collect(),
            _ => BTreeSet::new(),
        }
    }

    /// Where a right is needed; empty for all namespaces, and for what is in none.
    fn places(&self, draft: &Draft, right: Right) -> Vec<String> {
        let of_cluster = draft.reference.kind == PlaybookKind::ClusterPlaybook;
        match right.place {
            Place::Cluster | Place::Everywhere => vec![String::new()],
            Place::Secrets if of_cluster => vec![self.own_namespace.clone()],
            // Where it isn't switched on, the step says so itself.
            Place::Severing => self.severing_namespace.iter().cloned().collect(),
            Place::Probing => self.probing_namespace.iter().cloned().collect(),
            Place::Finding if of_cluster => match draft.namespaces.include.as_slice() {
                few @ [_, ..] if few.len() <= MOST_NAMESPACES => few.to_vec(),
                _ => vec![String::new()],
            },
            Place::Finding | Place::Secrets => vec![draft.namespace.clone()],
        }
    }

    fn told(&self, draft: &Draft, kind: &StepKind, who: Option<&str>, lacks: &[Right]) -> String {
        let one = |right: &Right| {
            let group = if right.group.is_empty() { String::new() } else { format!(".{}", right.group) };
            let names: BTreeSet<String> =
                self.questions(draft, kind, *right).into_iter().filter_map(|question| question.name).collect();
            let names: Vec<String> = names.into_iter().collect();
            let names = if names.is_empty() { String::new() } else { format!(" {}", names.join(", ")) };
            let place = match self.places(draft, *right).as_slice() {
                [one] if one.is_empty() => " in the whole cluster".to_owned(),
                some => format!(" in {}", some.join(", ")),
            };
            format!("{} {}{group}{names}{place}", right.verb, right.resource)
        };
        let told: Vec<String> = lacks.iter().take(MOST_TOLD).map(one).collect();
        let more = match lacks.len().saturating_sub(MOST_TOLD) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let (who, what_now) = match who {
            Some(who) => (who, "bind it to a Role or ClusterRole that allows this"),
            None => ("Quell", "switch it on in the chart, or name a serviceAccount that has these rights"),
        };
        format!(
            "{who} may not {}{more}; {what_now}. It is looked at again every {} s",
            told.join("; "),
            AGAIN_WHERE_MISSING.as_secs()
        )
    }
}

fn lasts((has, at): (bool, Instant)) -> bool {
    at.elapsed() < if has { AGAIN } else { AGAIN_WHERE_MISSING }
}

fn missing(step: usize, message: String) -> Problem {
    Problem { reason: Reason::RightsMissing, at: format!("spec.steps[{step}]"), message }
}
