//! Who acts: of several replicas the one that holds the Lease. All of them take signals in.

use kube::Client;
use kube_lease_manager::{DurationSeconds, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::settings::Settings;

/// Name of the Lease in Quell's namespace.
pub const LEASE: &str = "quell";

/// Takes part in the election.
pub struct Election {
    leads: watch::Receiver<bool>,
    task: JoinHandle<Result<kube_lease_manager::LeaseManager, LeaseManagerError>>,
}

impl Election {
    /// Begins to ask for the Lease.
    pub async fn begin(client: Client, settings: &Settings) -> Result<Self, LeaseManagerError> {
        let duration: DurationSeconds = settings.lease_seconds;
        let mut lease = LeaseManagerBuilder::new(client, LEASE)
            .with_namespace(settings.namespace.clone())
            .with_duration(duration)
            // Renewed after a third of its time, so that one slow answer doesn't cost it.
            .with_grace(duration * 2 / 3);
        if let Some(identity) = &settings.identity {
            lease = lease.with_identity(identity.clone()).with_field_manager(format!("quell/{identity}"));
        }
        let (leads, task) = lease.build().await?.watch().await;
        Ok(Self { leads, task })
    }

    /// Waits until this replica leads, or the end.
    pub async fn won(&mut self, end: &CancellationToken) -> bool {
        tokio::select! {
            () = end.cancelled() => false,
            won = self.leads.wait_for(|leads| *leads) => won.is_ok(),
        }
    }

    /// Waits until this replica no longer leads. There is no way back: what was begun as leader may be half done, and a fresh process
    /// starts from what is recorded.
    pub async fn lost(&mut self) {
        let _ = self.leads.wait_for(|leads| !*leads).await;
    }

    /// Gives the Lease up, so that another replica takes over at once.
    pub async fn resign(self) {
        drop(self.leads);
        if let Ok(Ok(lease)) = self.task.await
            && let Err(error) = lease.release().await
        {
            tracing::warn!(%error, "the Lease could not be given up; another replica takes over when it has run out");
        }
    }
}
