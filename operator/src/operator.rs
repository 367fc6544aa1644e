//! The controller, put together.

mod lead;
mod taken;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Config};
use prometheus_client::metrics::gauge::Gauge;
use quell_notify::Courier;
use thiserror::Error;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::lead::{Queues, lead};
use self::taken::{Changed, Taken, heed, keep_up};
use crate::audit::{Audit, AuditError};
use crate::caches::{Caches, Notices};
use crate::declared::Declared;
use crate::engine::{Bell, Engine, HeldRuns, Library, Permits, Runs, Tellings, Turns};
use crate::fence::Fence;
use crate::guardrails::{self, Watched};
use crate::history::History;
use crate::identity::{Identities, fenced};
use crate::intake::{self, Authority, Backlog, Folder, FollowUps, Intake, ServeError, Server, Sources};
use crate::lanes::Lanes;
use crate::leader::{Election, LEASE};
use crate::metrics::Metrics;
use crate::mirror::Mirrors;
use crate::policies;
use crate::probes::{self, Readiness};
use crate::reviews::Reviews;
use crate::routes;
use crate::settings::Settings;
use crate::suppressions::Suppressions;

/// How long an orderly end may take.
const ORDERLY: Duration = Duration::from_secs(20);
/// How long the end of a leader waits for effects that are under way, before it gives the Lease up: nobody leads meanwhile. What takes longer
/// is taken up by the next leader, as after a crash.
const HAND_OVER: Duration = Duration::from_secs(3);

/// Why the controller ended, other than as it was told.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// No cluster.
    #[error("no cluster: {0}; set KUBECONFIG, or run in a pod with a service account")]
    Kubeconfig(#[from] kube::config::InferConfigError),
    /// The client.
    #[error("no client for the cluster: {0}")]
    Client(#[from] kube::Error),
    /// The Lease was lost: another replica acts now, and this one starts anew.
    #[error("the Lease was lost: another replica leads now")]
    LeaseLost,
    /// A watch ended.
    #[error("a watch ended for good; the process starts anew")]
    WatchEnded,
    /// The intake.
    #[error("the intake: {0}")]
    Intake(#[from] ServeError),
    /// A task of the controller panicked.
    #[error("the intake broke off: {0}; the process starts anew")]
    BrokeOff(tokio::task::JoinError),
    /// Metrics and probes.
    #[error("--metrics-listen {address}: {source}")]
    Probes {
        /// The address.
        address: std::net::SocketAddr,
        /// What is wrong.
        source: std::io::Error,
    },
    /// The audit trail can't begin.
    #[error("--audit-sink: {0}")]
    Audit(#[from] AuditError),
    /// Clients for the outside.
    #[error("calls to the outside: {0}")]
    Outside(String),
}

/// Runs the controller until `end`.
pub async fn run(settings: Settings, end: CancellationToken) -> Result<(), OperatorError> {
    let mut config = Config::infer().await?;
    // Actions and records have tries of their own, with deadlines; a client that tries again by itself could send a create twice.
    config.default_retry = false;
    let client = Client::try_from(config.clone())?;
    let fence = Fence::default();
    let leaders = fenced(config.clone(), &fence)?;
    Box::pin(run_by(Clients { config, client, leaders, fence }, &settings, end)).await
}

/// The same with a client of the caller's, which tests use to see its requests. It knows no fence: for one replica alone.
pub async fn run_with(
    config: Config,
    client: Client,
    settings: Settings,
    end: CancellationToken,
) -> Result<(), OperatorError> {
    let clients = Clients { config, leaders: client.clone(), client, fence: Fence::default() };
    Box::pin(run_by(clients, &settings, end)).await
}

/// Ways to the API server.
struct Clients {
    /// What all connect with.
    config: Config,
    /// Reads, and takes signals in.
    client: Client,
    /// Does what only the leader does.
    leaders: Client,
    /// Open while this replica leads.
    fence: Fence,
}

async fn run_by(clients: Clients, settings: &Settings, end: CancellationToken) -> Result<(), OperatorError> {
    let tasks = TaskTracker::new();
    let ended = Box::pin(run_until(clients, settings, &tasks, end.clone())).await;
    end.cancel();
    tasks.close();
    if tokio::time::timeout(ORDERLY, tasks.wait()).await.is_err() {
        tracing::warn!("not everything came to its end in {} s", ORDERLY.as_secs());
    }
    ended
}

async fn run_until(
    Clients { config, client, leaders, fence }: Clients,
    settings: &Settings,
    tasks: &TaskTracker,
    end: CancellationToken,
) -> Result<(), OperatorError> {
    let metrics = Metrics::default();
    let ready = Readiness::default();
    let backlog = Backlog::open(settings, &metrics).await;
    let probes = spawn_probes(settings, &metrics, &ready, backlog.clone(), tasks, &end);

    let lanes = Lanes::default();
    let queues = Queues::new();
    let (declared, noticed) = unbounded_channel();
    let held = Arc::new(HeldRuns::new(queues.runs.0.clone()));
    let changed = Arc::new(Changed::default());
    let watched = follow_guardrails(&client, &held, &changed, tasks, &end);
    let told = Notices {
        held: held.clone(),
        findings: queues.findings.0.clone(),
        runs: queues.runs.0.clone(),
        namespaces: queues.namespaces.0.clone(),
        declared: declared.clone(),
    };
    let declare = declared;
    let mirrors = Mirrors::new(tasks.clone(), end.clone());
    let caches = Arc::new(Caches::keep(&client, settings, &mirrors, &told));
    tokio::select! {
        complete = caches.wait_until_ready() => complete.map_err(|_| OperatorError::WatchEnded)?,
        ended = probes => return ended,
        () = end.cancelled() => return Ok(()),
    }
    let (told, kinds) = oneshot::channel();
    tasks.spawn(policies::follow(client.clone(), caches.containment.clone(), told, end.clone()));
    let (told, of_gateways) = oneshot::channel();
    tasks.spawn(routes::follow(client.clone(), caches.ingresses.routes.clone(), told, end.clone()));
    // Told, or ended: either way nothing is gained by waiting on.
    let _ = tokio::join!(kinds, of_gateways);
    let library = Arc::new(Library::default());
    library.refresh(&caches);
    let suppressions = Arc::new(Suppressions::default());
    suppressions.refresh(&caches);
    heed(&caches, &library, &suppressions);
    let sources = Sources::new(client.clone());
    sources.refresh(&caches);

    let folder = Folder::new(client.clone(), lanes.clone(), backlog.clone(), tasks.clone(), end.clone());
    let intake = Intake::new(client.clone(), caches.clone(), lanes.clone(), folder, sources.clone(), backlog.clone());
    let intake = Arc::new(intake);
    let recorder = recorder(&client, settings);
    let courier = Arc::new(courier(settings)?);
    let server = server(&intake, sources.clone(), &metrics, courier.http().clone(), &recorder, tasks, &end);
    let authority = Authority::new(&client, &caches, settings);
    let serving =
        tasks.spawn(intake::serve(server, intake::listen(settings)?, settings.clone(), authority, end.clone()));
    if let Some(backlog) = backlog {
        tasks.spawn(intake::deliver(intake.clone(), backlog.clone(), metrics.clone(), end.clone()));
        tasks.spawn(intake::tell(backlog.clone(), recorder.clone(), this_replica(settings), end.clone()));
        tasks.spawn(backlog.keep_open(end.clone()));
    }
    let identities = Arc::new(Identities::new(config, leaders.clone(), fence.clone()));
    let reviews = Arc::new(Reviews::new(identities.clone(), caches.clone(), lanes.clone(), settings));
    library.heed(reviews.clone());
    let declared = Arc::new(Declared {
        client: leaders.clone(),
        caches: caches.clone(),
        library: library.clone(),
        recorder: recorder.clone(),
        guardrails: watched.clone(),
        reviews,
        watching: Arc::default(),
        notices: declare,
    });
    tasks.spawn(keep_up(
        noticed,
        queues.findings.0.clone(),
        caches.clone(),
        Taken { library: library.clone(), suppressions: suppressions.clone(), sources },
        changed.clone(),
        settings.network_plugin.clone(),
    ));
    ready.set();

    let bell = Bell::new(courier.clone(), caches.clone());
    let audit = Arc::new(Audit::begin(settings, &metrics, courier.http(), tasks, end.clone()).await?);
    let engine = Arc::new(Engine {
        client: leaders.clone(),
        identities,
        caches,
        library,
        lanes,
        metrics: metrics.clone(),
        recorder,
        http: courier.http().clone(),
        courier,
        fence: fence.clone(),
        runs: Runs::default(),
        tellings: Tellings::default(),
        turns: Turns::new(queues.runs.0.clone()),
        permits: Permits::new(watched, held.clone()),
        suppressions,
        held,
        bell,
        audit,
    });
    let election = Election::begin(client, settings, fence);
    let lead = lead(engine, declared, intake, queues, changed, History::of(settings), end.clone());
    serve_and_lead(serving, election, Box::pin(lead), &metrics.leads, &end).await
}

/// Takes signals in, and does what a leader does from the moment that the Lease is won, until the end of either.
async fn serve_and_lead(
    serving: JoinHandle<Result<(), ServeError>>,
    mut election: Election,
    lead: impl Future<Output = ()> + Unpin,
    leads: &Gauge,
    end: &CancellationToken,
) -> Result<(), OperatorError> {
    let mut leading = Box::pin(async {
        if !election.won(end).await {
            return Ok(());
        }
        tracing::info!("leads");
        leads.set(1);
        tokio::select! {
            () = lead => Ok(()),
            () = election.lost() => if end.is_cancelled() { Ok(()) } else { Err(OperatorError::LeaseLost) },
        }
    });
    let mut over = None;
    let ended = tokio::select! {
        answered = serving => answered.map_err(OperatorError::BrokeOff)?.map_err(OperatorError::from),
        ended = &mut leading => { over = Some(()); ended }
    };
    end.cancel();
    // Effects that are under way come to their end before another replica leads.
    if over.is_none() && tokio::time::timeout(HAND_OVER, &mut leading).await.is_err() {
        tracing::warn!("what was under way is left to the next leader");
    }
    drop(leading);
    leads.set(0);
    election.resign().await;
    ended
}

fn follow_guardrails(
    client: &Client,
    held: &Arc<HeldRuns>,
    changed: &Arc<Changed>,
    tasks: &TaskTracker,
    end: &CancellationToken,
) -> Arc<Watched> {
    let watched = Arc::new(Watched::default());
    let (held, changed) = (held.clone(), changed.clone());
    let tell = move || {
        held.wake_all();
        changed.guardrails.notify_one();
    };
    tasks.spawn(guardrails::follow(client.clone(), watched.clone(), tell, end.clone()));
    watched
}

fn spawn_probes(
    settings: &Settings,
    metrics: &Metrics,
    ready: &Readiness,
    backlog: Option<Arc<Backlog>>,
    tasks: &TaskTracker,
    end: &CancellationToken,
) -> impl Future<Output = Result<(), OperatorError>> + use<> {
    let address = settings.metrics_listen;
    let served = tasks.spawn(probes::serve(address, metrics.clone(), ready.clone(), backlog, end.clone()));
    async move {
        match served.await {
            Ok(Err(source)) => Err(OperatorError::Probes { address, source }),
            _ => Ok(()),
        }
    }
}

/// What Events about this replica stand at: its pod, or where it has no name, what all replicas share.
fn this_replica(settings: &Settings) -> ObjectReference {
    let namespace = Some(settings.namespace.clone());
    match &settings.identity {
        Some(name) => ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(name.clone()),
            namespace,
            ..ObjectReference::default()
        },
        None => ObjectReference {
            api_version: Some("coordination.k8s.io/v1".to_owned()),
            kind: Some("Lease".to_owned()),
            name: Some(LEASE.to_owned()),
            namespace,
            ..ObjectReference::default()
        },
    }
}

fn recorder(client: &Client, settings: &Settings) -> Recorder {
    let reporter = Reporter { controller: "quell.dev/quell".to_owned(), instance: settings.identity.clone() };
    Recorder::new(client.clone(), reporter)
}

fn server(
    intake: &Arc<Intake>,
    sources: Sources,
    metrics: &Metrics,
    http: reqwest::Client,
    recorder: &Recorder,
    tasks: &TaskTracker,
    end: &CancellationToken,
) -> Server {
    let (intake, metrics) = (intake.clone(), metrics.clone());
    let follow_ups =
        FollowUps::new(http, intake.clone(), recorder.clone(), metrics.clone(), tasks.clone(), end.clone());
    Server { intake, sources, follow_ups: Arc::new(follow_ups), metrics }
}

fn courier(settings: &Settings) -> Result<Courier, OperatorError> {
    let roots = extra_roots(settings)?;
    Courier::new(roots.as_deref()).map_err(|error| OperatorError::Outside(error.to_string()))
}

fn extra_roots(settings: &Settings) -> Result<Option<Vec<u8>>, OperatorError> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|error| OperatorError::Outside(format!("--extra-ca {}: {error}", path.display())))
    };
    settings.extra_ca.as_ref().map(read).transpose()
}
