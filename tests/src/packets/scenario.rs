//! The incident, from a network without policies to the undo.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

use super::attempts::{Flow, Place, try_each};
use super::expected::{Situation, expected, flow_survives, time_to_settle, undo_holds_at_once};
use super::matrix::Pair;
use super::model::Said;
use super::world::{self, PORT, World};
use super::{between, now, probed, quell, severed};
use crate::fixtures::APP;
use crate::node::Plugin;
use crate::{Node, Operator, wait};

/// What was tried, and what came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many ordered pairs, each in each situation.
    pub pairs: usize,
    /// Those that came out other than expected, and whatever else didn't hold; for people.
    pub wrong: Vec<String>,
}

impl Report {
    fn matrix(&mut self, plugin: Plugin, situation: Situation, tried: &Tried) {
        let pairs = &tried.pairs;
        let reached = pairs.iter().filter(|pair| pair.reached).count();
        let wrong: Vec<_> = pairs.iter().filter(|pair| pair.reached != expected(plugin, situation, pair)).collect();
        println!("  {} pairs, {reached} reached, {} other than expected", pairs.len(), wrong.len());
        self.pairs += pairs.len();
        for pair in wrong {
            self.wrong(format!("{}: {pair}", situation.describe()));
        }
        // What enforces nothing isn't what the model speaks of.
        if plugin == Plugin::None {
            return;
        }
        let told = tried.said.iter().filter(|said| said.is_some()).count();
        println!("  the isolation model tells {told} of them");
        for (pair, said) in pairs.iter().zip(&tried.said) {
            if said.is_some_and(|said| said != pair.reached) {
                self.wrong(format!("{}: the isolation model says otherwise of {pair}", situation.describe()));
            }
        }
    }

    async fn flow(&mut self, what: &str, flow: &NamedFlow, expected: bool) {
        let silent = async || flow.flow.silent_for(SILENCE, Duration::from_secs(5)).await.is_ok();
        let goes_on = flow.flow.answered_within(SILENCE) && (expected || !silent().await);
        let outcome = if goes_on { "goes on" } else { "is silent" };
        println!("  {:<48} {outcome}", flow.name);
        self.pairs += 1;
        if goes_on != expected {
            self.wrong(format!("{what}: {} {outcome}", flow.name));
        }
    }

    /// Says whether something holds that must.
    pub fn claim(&mut self, what: &str, holds: bool) {
        println!("  {} {what}", if holds { "ok   " } else { "WRONG" });
        if !holds {
            self.wrong.push(what.to_owned());
        }
    }

    fn wrong(&mut self, what: String) {
        println!("  WRONG {what}");
        self.wrong.push(what);
    }
}

const SILENCE: Duration = Duration::from_millis(800);
/// kube-proxy gathers changes for a second.
const PROXY: Duration = Duration::from_millis(1200);

struct NamedFlow {
    name: &'static str,
    flow: Flow,
}

/// Plays the incident.
pub async fn play(node: &Node, operator: &Operator, world: &World) -> Result<Report> {
    let mut report = Report::default();
    let plugin = node.plugin();
    let address = world.victim_address()?;

    before(node, world, &mut report).await?;

    println!("an alert about the victim");
    let client = World::place(&world.shop, world::CLIENT).await?;
    let flows = flows(node, world, &client).await?;
    let new = Flow::start(node, &client, format!("tcp/{address}:{PORT}"), Duration::from_millis(5)).await?;
    let service = format!("tcp/{}", world.service(world::WEB).await?);
    let service = Flow::start(node, &client, service, Duration::from_millis(20)).await?;

    let contained = quell::report(operator, &world.shop, &world.victim.name_any()).await?;
    let left = out_of_the_service(world).await?;
    let run = contained.remediated(&world.shop).await?;
    println!("  out of the EndpointSlice after {:.1?}", between(contained.posted, left));
    if plugin == Plugin::None {
        report.claim("new connections go on: nothing enforces policies", new.answered_within(SILENCE));
    } else {
        let last = new.silent_for(SILENCE, wait::DEADLINE).await?;
        println!("  last new connection answered after {:.1?}", between(contained.posted, last));
    }
    drop(new);
    clone_serves(world, &service).await?;
    served_all_along(&mut report, plugin, &service, contained.posted, left);

    println!("{}", Situation::Quarantined.describe());
    for flow in &flows {
        report.flow("under the quarantine", flow, flow_survives(plugin)).await;
    }
    report.matrix(plugin, Situation::Quarantined, &matrix(node, world).await?);
    let victim: Pod = world.shop.api().get(&world.victim.name_any()).await?;
    report.claim("the victim still runs, ready, never restarted", runs_untouched(&victim));
    for claim in probed::answer(world, &run, contained.posted, plugin).await? {
        report.claim(&claim.what, claim.holds);
    }

    if plugin != Plugin::None {
        println!("established connections are severed");
        sever(node, world, &flows, &mut report).await?;
        for flow in &flows {
            report.flow("severed", flow, false).await;
        }
    }
    drop(flows);

    let situation = Situation::QuarantinedBesideAllowForAll;
    println!("{}", situation.describe());
    quell::policy(&world.shop, "allow-all-pods", &json!({}), &quell::everything()).await?;
    settled(node, world, plugin, situation, &mut report).await?;
    quell::delete_policy(&world.shop, "allow-all-pods").await?;
    if plugin != Plugin::None {
        // Else the undo would seem to do what that policy still does.
        cut_off(node, world).await.context("without the allow-all for every pod")?;
    }

    println!("{}", Situation::Undone.describe());
    quell::undo(&world.shop, &run).await?;
    settled(node, world, plugin, Situation::Undone, &mut report).await?;
    let failed = Failures::since(&service, left + micros(PROXY));
    if undo_holds_at_once(plugin) {
        report.claim(&format!("requests to the Service that failed since: {failed}"), failed.count == 0);
    } else {
        println!("  requests to the Service that failed since: {failed}");
    }
    Ok(report)
}

/// Without any policy, and with the deny-all that doesn't help.
async fn before(node: &Node, world: &World, report: &mut Report) -> Result<()> {
    println!("{}", Situation::Open.describe());
    settled(node, world, node.plugin(), Situation::Open, report).await?;

    println!("{}", Situation::DenyBesideAllow.describe());
    let victim = json!({ "matchLabels": { "victim": "yes" } });
    let web = json!({ "matchLabels": { APP: world::WEB } });
    let label = Patch::Merge(json!({ "metadata": { "labels": { "victim": "yes" } } }));
    let pods = world.shop.api::<Pod>();
    quell::policy(&world.shop, "deny-all", &victim, &quell::nothing()).await?;
    pods.patch(&world.victim.name_any(), &PatchParams::default(), &label).await?;
    if node.plugin() != Plugin::None {
        // Thus it is in force, and what opens it again is the other one.
        cut_off(node, world).await.context("with the deny-all alone")?;
        println!("  alone, the deny-all cuts the victim off");
    }
    quell::policy(&world.shop, "allow-web", &web, &quell::everything()).await?;
    settled(node, world, node.plugin(), Situation::DenyBesideAllow, report).await?;
    quell::delete_policy(&world.shop, "deny-all").await
}

/// Waits until the victim is not reached any more.
async fn cut_off(node: &Node, world: &World) -> Result<()> {
    let target = [format!("tcp/{}:{PORT}", world.victim_address()?)];
    let peer = World::place(&world.other, world::PEER).await?;
    wait::eventually(wait::DEADLINE, "the victim is cut off", async || {
        let attempts = try_each(node, &peer, &target, SILENCE).await?;
        Ok(attempts.iter().all(|attempt| !attempt.ok).then_some(()))
    })
    .await
}

/// Tries all pairs until they are as expected or the plugin has had time enough; no API tells when a policy is in force.
async fn settled(node: &Node, world: &World, plugin: Plugin, situation: Situation, report: &mut Report) -> Result<()> {
    let began = now();
    let tried = loop {
        let late = between(began, now()) > time_to_settle(plugin);
        match matrix(node, world).await {
            Ok(tried) if late || tried.pairs.iter().all(|pair| pair.reached == expected(plugin, situation, pair)) => {
                break tried;
            }
            Err(error) if late => return Err(error),
            // A pod that ends while it is asked is not there the next time.
            Ok(_) | Err(_) => {}
        }
    };
    report.matrix(plugin, situation, &tried);
    Ok(())
}

/// Every pair, and what the isolation model says of it.
struct Tried {
    pairs: Vec<Pair>,
    said: Vec<Option<bool>>,
}

async fn matrix(node: &Node, world: &World) -> Result<Tried> {
    wait::rolled_out::<Deployment>(&world.shop.api(), world::WEB, wait::DEADLINE).await?;
    let matrix = world.matrix().await?;
    let pairs = matrix.try_all(node).await?;
    let model = Said::read(node).await?;
    let said = pairs.iter().map(|pair| model.of(&matrix, pair)).collect::<Result<_>>()?;
    Ok(Tried { pairs, said })
}

/// Connections that are there before the quarantine.
async fn flows(node: &Node, world: &World, client: &Place) -> Result<Vec<NamedFlow>> {
    let every = Duration::from_millis(50);
    let victim = format!("{}:{PORT}", world.victim_address()?);
    let own = world.matrix().await?.targets.into_iter().find(|target| target.name == world::PEER);
    let peer = own.map(|target| target.address).unwrap_or_default();
    let mut flows = Vec::new();
    for (name, from, what) in [
        ("client -> victim, a held TCP connection", client, format!("held/{victim}")),
        ("victim -> client, pushed over that of the client", client, format!("pushed/{victim}")),
        ("client -> victim, datagrams", client, format!("datagram/{victim}")),
        ("victim -> peer, a held TCP connection", &world.victim(), format!("held/{peer}")),
    ] {
        flows.push(NamedFlow { name, flow: Flow::start(node, from, what, every).await? });
    }
    Ok(flows)
}

/// Cuts what is established, by the step's Job on the node; a quarantine's policy alone leaves that alone on some plugins.
async fn sever(node: &Node, world: &World, flows: &[NamedFlow], report: &mut Report) -> Result<()> {
    let severed = severed::sever(world).await?;
    println!("  {}", severed.message);
    println!("  the step was done {:.1?} after its Finding", between(severed.asked, severed.done));
    let last = flows.iter().filter_map(|flow| flow.flow.last_answer()).filter(|last| *last > severed.asked).max();
    if let Some(last) = last {
        println!("  the last answer over a connection from before came {:.1?} after it", between(severed.asked, last));
    }
    if node.plugin() == Plugin::Calico {
        report.claim("the Job deleted entries of connection tracking", severed.deleted > 0);
    }
    let forgotten = node.forget_flows(&world.victim_address()?)?;
    println!("  the node itself knew {forgotten} flows after that");
    Ok(())
}

/// When the victim's address is in no EndpointSlice of the web any more.
async fn out_of_the_service(world: &World) -> Result<i64> {
    let slices: Api<EndpointSlice> = world.shop.api();
    let of_the_web = ListParams::default().labels(&format!("kubernetes.io/service-name={}", world::WEB));
    let address = world.victim_address()?;
    wait::eventually(wait::DEADLINE, "the victim is out of the EndpointSlice", async || {
        let all = slices.list(&of_the_web).await?;
        let there = all
            .items
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten())
            .any(|endpoint| endpoint.addresses.contains(&address));
        Ok((!there).then(now))
    })
    .await
}

/// Waits until a pod that wasn't there before answers for the Service.
async fn clone_serves(world: &World, service: &Flow) -> Result<()> {
    let before: BTreeSet<String> =
        service.attempts().into_iter().take(20).map(|attempt| attempt.by).chain([world.victim.name_any()]).collect();
    wait::eventually(wait::DEADLINE, "the clone answers for the Service", async || {
        Ok(service.attempts().iter().any(|attempt| attempt.ok && !before.contains(&attempt.by)).then_some(()))
    })
    .await
}

/// Requests to the Service fail only while kube-proxy still sends some of them to the victim.
fn served_all_along(report: &mut Report, plugin: Plugin, service: &Flow, posted: i64, left: i64) {
    let attempts = service.attempts();
    let failed: Vec<_> = attempts.iter().filter(|attempt| !attempt.ok).collect();
    let last = failed.iter().map(|attempt| attempt.began).max();
    let answered = attempts.iter().filter(|attempt| attempt.ok);
    let by: BTreeSet<&str> = answered.map(|attempt| attempt.by.as_str()).collect();
    println!("  {} requests to the Service, {} failed; answered by {} pods", attempts.len(), failed.len(), by.len());
    if let Some(last) = last {
        println!("  the last one that failed began {:.1?} after the alert", between(posted, last));
    }
    report.claim("no request failed before the alert", !failed.iter().any(|attempt| attempt.ended < posted));
    let limit = left + micros(PROXY);
    let late = Failures::since(service, limit);
    report.claim(&format!("requests that failed after kube-proxy had left the victim out: {late}"), late.count == 0);
    if plugin == Plugin::None {
        report.claim("none failed at all: the victim still answers", failed.is_empty());
    }
}

/// Its memory and files are evidence; the probes of its kubelet get through.
fn runs_untouched(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    wait::is_ready(pod) && containers.clone().count() > 0 && containers.into_iter().all(|one| one.restart_count == 0)
}

/// Requests that failed.
struct Failures {
    count: usize,
    /// From the first to the last.
    time: Duration,
}

impl Failures {
    /// Those that began after that time.
    fn since(service: &Flow, since: i64) -> Self {
        let attempts = service.attempts();
        let began: Vec<i64> = attempts
            .iter()
            .filter(|attempt| !attempt.ok && attempt.began > since)
            .map(|attempt| attempt.began)
            .collect();
        let (first, last) = (began.iter().min().copied(), began.iter().max().copied());
        Self { count: began.len(), time: between(first.unwrap_or_default(), last.unwrap_or_default()) }
    }
}

impl Display for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.count {
            0 => write!(f, "none"),
            count => write!(f, "{count}, within {:.1?}", self.time),
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
