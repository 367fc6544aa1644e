//! `probe` of a quarantine: short-lived pods without any right connect to the pod that was cut off, from outside and from beside it.
//!
//! It begins once the quarantine stands and is recorded, and no step waits for it. Each look does what can be done now: a pod that every
//! probe must be able to reach, then a probe at each place, then the verdict. Their names are the same for each look, so that a process
//! that dies in between makes none twice.

mod job;
mod verdict;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::Api;
use quell_crds::conditions::Reason;
use quell_crds::names;
use quell_crds::v1alpha1::Receipt;
use quell_crds::v1alpha1::step::{Probe, Quarantine};
use quell_playbooks::PodFacts;
use quell_playbooks::probe::Verdict;

use self::job::Place as At;
use self::verdict::{Seen, Told};
use crate::cluster::Probing;
use crate::jobs;
use crate::raw::Raw;
use crate::rights::Place;
use crate::{ActionError, Context, Right};

/// The Jobs are made and looked at, and their pods say what they tried; the one that every probe must reach is deleted at the end.
pub const RIGHTS: &[Right] = &[
    Right::new("batch", "jobs", "create"),
    Right::new("batch", "jobs", "get"),
    Right::new("", "pods", "list"),
    Right::new("batch", "jobs", "create").at(Place::Probing),
    Right::new("batch", "jobs", "delete").at(Place::Probing),
    Right::new("batch", "jobs", "get").at(Place::Probing),
    Right::new("", "pods", "list").at(Place::Probing),
];

/// How the probes stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// They are under way: what is waited for. A Job that they have marked will change.
    UnderWay(String),
    /// They have told.
    Told(Verdict, String),
}

/// Goes on with probing the pod of a quarantine that stands, for the `round`th time.
pub async fn probe(
    parameters: &Quarantine,
    receipt: &Receipt,
    round: u32,
    cx: &Context<'_>,
) -> Result<Answer, ActionError> {
    let Some(wanted) = &parameters.probe else {
        return Ok(Answer::Told(Verdict::NotMade, "nobody asked for it".to_owned()));
    };
    let probing = enabled(cx)?;
    let pods: Api<Pod> = Api::namespaced(cx.writer.client(), &receipt.namespace);
    let pod = cx.writer.get(&pods, &receipt.namespace, &receipt.name).await?;
    let Some(pod) = pod.filter(|pod| pod.uid().as_ref() == Some(&receipt.uid)) else {
        return Err(super::pod::gone(&receipt.namespace, &receipt.name));
    };
    let targets = targets(&pod, wanted)?;
    let title = format!("pod {}/{}", receipt.namespace, receipt.name);
    let jobs = Jobs { round, wanted, probing, namespace: &receipt.namespace, cx };

    let listener = match jobs.there(At::Peer, &[]).await? {
        Stands::UnderWay(job) => job,
        Stands::Ended(job) => {
            let said = jobs::failures(&job, cx).await;
            return Ok(not_made(&title, &format!("the pod that every probe must reach ended early: {said}")));
        }
    };
    let peers = jobs::pods(&listener, cx).await?;
    let running = |pod: &&Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
    let peer = peers.iter().filter(running).find_map(|pod| pod.status.as_ref()?.pod_ip.clone());
    let Some(peer) = peer else {
        return Ok(Answer::UnderWay(format!("waits for Job {}", title_of(&listener))));
    };
    let peer = job::socket(&peer, job::PEER_PORT)
        .ok_or_else(|| ActionError::refused(Reason::ProbeFailed, format!("{peer} is no address")))?;

    let mut told = Vec::new();
    let mut waits = Vec::new();
    for at in [At::Outside, At::Beside] {
        let arguments = job::try_arguments(peer, &targets, wanted);
        match jobs.there(at, &arguments).await? {
            Stands::UnderWay(job) => waits.push(title_of(&job)),
            Stands::Ended(job) => told.push(tell(&job, at, cx).await?),
        }
    }
    if !waits.is_empty() {
        return Ok(Answer::UnderWay(format!("waits for Job {}", waits.join(" and Job "))));
    }
    let namespace_labels = &cx.world.namespace_labels;
    let seen = Seen { pod: &pod, namespace_labels, parameters, probing: &probing.namespace };
    let (verdict, message) = verdict::of(&seen, &told);
    // Its time would be over in some minutes; what failed here leaves that to it.
    let uid = listener.metadata.uid.clone().unwrap_or_default();
    let api: Api<Raw<Job>> = Api::namespaced(cx.writer.client(), &probing.namespace);
    let _ = cx.writer.delete(&api, &probing.namespace, &listener.name_any(), &uid).await;
    Ok(Answer::Told(verdict, message))
}

/// In a rehearsal: the Jobs that would be made. That they could not be made would not keep the pod from being cut off, so it is only said.
pub(super) async fn rehearse(parameters: &Quarantine, pod: &PodFacts, cx: &Context<'_>) -> Option<String> {
    let wanted = parameters.probe.as_ref().filter(|_| cx.writer.is_rehearsal())?;
    let made = async {
        let jobs = Jobs { round: 1, wanted, probing: enabled(cx)?, namespace: &pod.namespace, cx };
        for at in [At::Peer, At::Outside, At::Beside] {
            // What they try is known once the first one runs.
            let arguments = if at == At::Peer { vec![] } else { vec!["probe".to_owned(), "try".to_owned()] };
            let job = jobs.job(at, &arguments);
            let namespace = jobs.namespace_of(at);
            cx.writer.create(&Api::namespaced(cx.writer.client(), namespace), &job).await?;
        }
        Ok::<_, ActionError>(())
    };
    made.await.err().map(|error| format!("; it could not be probed: {error}"))
}

fn enabled<'a>(cx: &'a Context<'_>) -> Result<&'a Probing, ActionError> {
    cx.cluster.probing().ok_or_else(|| {
        ActionError::refused(
            Reason::NotEnabled,
            "probes run as Jobs, and that was not switched on: set probe.enabled=true in the chart, or give the operator --probe-image and \
             --probe-namespace",
        )
    })
}

fn targets(pod: &Pod, wanted: &Probe) -> Result<Vec<std::net::SocketAddr>, ActionError> {
    let title = format!("pod {}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let targets = job::targets(pod, wanted);
    if targets.is_empty() {
        let message = format!(
            "there is nothing to try: {title} has no address, or its containers declare no TCP port; name the ports that it listens on in \
             probe.ports"
        );
        return Err(ActionError::refused(Reason::ProbeFailed, message));
    }
    Ok(targets)
}

fn not_made(title: &str, why: &str) -> Answer {
    Answer::Told(Verdict::NotMade, format!("{title} could not be probed: {why}"))
}

fn title_of(job: &Raw<Job>) -> String {
    format!("{}/{}", job.metadata.namespace.clone().unwrap_or_default(), job.name_any())
}

/// How a Job stands.
enum Stands {
    UnderWay(Raw<Job>),
    Ended(Raw<Job>),
}

/// The Jobs of one round.
struct Jobs<'a> {
    round: u32,
    wanted: &'a Probe,
    probing: &'a Probing,
    /// Of the quarantined pod.
    namespace: &'a str,
    cx: &'a Context<'a>,
}

impl Jobs<'_> {
    fn namespace_of(&self, at: At) -> &str {
        match at {
            At::Peer | At::Outside => &self.probing.namespace,
            At::Beside => self.namespace,
        }
    }

    fn name(&self, at: At) -> String {
        // Runs of the same name in two namespaces have their Jobs in one.
        let run = format!("{}/{}", self.cx.mark.namespace, self.cx.mark.remediation);
        names::created_by(&run, &format!("{}-probe-{}-{}", self.cx.mark.step, self.round, at.name()))
    }

    fn job(&self, at: At, arguments: &[String]) -> Raw<Job> {
        let (name, namespace) = (self.name(at), self.namespace_of(at));
        job::job(&name, namespace, at, arguments, &self.probing.image, self.wanted, self.cx.mark)
    }

    /// The Job at that place, made where it isn't there.
    async fn there(&self, at: At, arguments: &[String]) -> Result<Stands, ActionError> {
        let (name, namespace) = (self.name(at), self.namespace_of(at));
        let api: Api<Raw<Job>> = Api::namespaced(self.cx.writer.client(), namespace);
        let job = match self.cx.writer.get(&api, namespace, &name).await? {
            Some(job) if self.cx.mark.is_on(job.metadata.annotations.as_ref()) => job,
            Some(_) => {
                let message = format!(
                    "Job {namespace}/{name} is there already and does not carry the mark of this step, so it was left alone; see who made \
                     it, and delete it"
                );
                return Err(ActionError::refused(Reason::ProbeFailed, message));
            }
            None => self.cx.writer.create(&api, &self.job(at, arguments)).await?.ok_or_else(|| {
                let message = format!("Job {namespace}/{name} is being made or deleted");
                ActionError::for_now(Reason::ProbeFailed, message)
            })?,
        };
        let ended = ["Complete", "Failed"].iter().any(|kind| jobs::condition(&job, kind).is_some());
        Ok(if ended { Stands::Ended(job) } else { Stands::UnderWay(job) })
    }
}

/// What a probe that has ended says.
async fn tell(job: &Raw<Job>, at: At, cx: &Context<'_>) -> Result<Told, ActionError> {
    if let Some(failed) = jobs::condition(job, "Failed") {
        let [reason, message] = ["reason", "message"].map(|field| failed[field].as_str().unwrap_or_default());
        let said = jobs::failures(job, cx).await;
        let said = if said.is_empty() { String::new() } else { format!("; its container said: {said}") };
        let why = format!("Job {} failed ({reason}: {message}){said}", title_of(job));
        return Ok(Told::nothing(at, why));
    }
    let pods = jobs::pods(job, cx).await?;
    let said = pods.into_iter().find_map(|pod| {
        let statuses = pod.status.as_ref()?.container_statuses.clone()?;
        let ended = statuses.into_iter().find_map(|one| one.state?.terminated)?;
        Some((pod, ended.message.unwrap_or_default()))
    });
    Ok(match said {
        Some((pod, said)) => Told::read(at, pod, &said),
        None => Told::nothing(at, format!("the pod of Job {} is gone, and what it tried with it", title_of(job))),
    })
}
