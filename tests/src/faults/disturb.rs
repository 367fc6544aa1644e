//! What goes wrong beside single requests: leaders that are killed, sent home and frozen, an API server and an etcd that are away. And how
//! long it takes until another leader goes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;

use super::audit::is_of_the_leader;
use super::replica::Replica;
use super::{Bed, PATIENCE, Upheaval};
use crate::operator::NAMESPACE;
use crate::{Tool, wait};

/// How long the API server, and etcd, stay away.
const AWAY: Duration = Duration::from_secs(3);
/// One that is frozen wakes up this long after another has taken its place; one that is alone, after as long again as its Lease.
const LATE: Duration = Duration::from_secs(5);

/// A leader that went.
#[derive(Clone, Debug)]
pub struct Succession {
    what: &'static str,
    who: String,
    at: Instant,
}

impl Bed {
    /// Spread over the load, and further where that is too short for it.
    pub(super) async fn disturb(&self, seconds: u32, upheaval: Upheaval) -> Result<Vec<Succession>> {
        let pause = Duration::from_secs(seconds.into()) / 6;
        let mut successions = Vec::new();
        for number in 1..=5_u32 {
            tokio::time::sleep(pause).await;
            match number {
                1 if upheaval.of_replicas => successions.push(self.kill().await?),
                2 if upheaval.of_the_cluster => self.outage(Tool::KubeApiserver).await?,
                3 if upheaval.of_replicas => successions.push(self.send_home().await?),
                4 if upheaval.of_the_cluster => self.outage(Tool::Etcd).await?,
                5 if upheaval.of_replicas => successions.push(self.freeze().await?),
                _ => {}
            }
        }
        Ok(successions)
    }

    async fn kill(&self) -> Result<Succession> {
        let leader = self.leader().await?;
        println!("  the leader {} is killed", leader.identity);
        leader.kill()?;
        let succession = Succession { what: "was killed", who: leader.identity.clone(), at: Instant::now() };
        if self.replicas.len() > 1 {
            self.another_than(&leader.identity).await?;
        }
        leader.run()?;
        Ok(succession)
    }

    async fn send_home(&self) -> Result<Succession> {
        let leader = self.leader().await?;
        println!("  the leader {} is told to end", leader.identity);
        leader.terminate()?;
        let succession = Succession { what: "was told to end", who: leader.identity.clone(), at: Instant::now() };
        let status = leader.ended().await?;
        anyhow::ensure!(status.success(), "{} ended ({status}), and not in order", leader.identity);
        leader.kill()?;
        leader.run()?;
        self.leader().await?;
        Ok(succession)
    }

    /// The leader stands still until another leads, and wakes up.
    async fn freeze(&self) -> Result<Succession> {
        let leader = self.leader().await?;
        println!("  the leader {} is frozen", leader.identity);
        leader.freeze(true)?;
        let succession = Succession { what: "was frozen", who: leader.identity.clone(), at: Instant::now() };
        if self.replicas.len() > 1 {
            self.another_than(&leader.identity).await?;
        } else {
            tokio::time::sleep(LATE).await;
        }
        tokio::time::sleep(LATE).await;
        leader.freeze(false)?;
        println!("  {} wakes up after {:.0} s", leader.identity, succession.at.elapsed().as_secs_f64());
        if self.replicas.len() > 1 {
            // It learns that another leads, and its process ends.
            leader.ended().await?;
        }
        self.leader().await?;
        Ok(succession)
    }

    async fn outage(&self, tool: Tool) -> Result<()> {
        println!("  {} is killed, and away for {} s", tool.name(), AWAY.as_secs());
        self.control_plane.kill(tool)?;
        tokio::time::sleep(AWAY).await;
        self.control_plane.start_again(tool)
    }

    /// The replica that leads, and says so.
    pub(super) async fn leader(&self) -> Result<&Replica> {
        wait::eventually(PATIENCE, "a replica leads", async || {
            for replica in &self.replicas {
                replica.keep_running()?;
            }
            let holder = self.holder().await?;
            let replica = self.replicas.iter().find(|replica| replica.identity == holder).context("no holder")?;
            Ok(if replica.is_frozen() || !replica.leads().await { None } else { Some(replica) })
        })
        .await
    }

    async fn another_than(&self, before: &str) -> Result<()> {
        wait::eventually(PATIENCE, "another replica holds the Lease", async || {
            // The one that is to take over may have lost the Lease a moment before, and ended.
            for replica in &self.replicas {
                replica.keep_running()?;
            }
            let holder = self.holder().await?;
            Ok((!holder.is_empty() && holder != before).then_some(()))
        })
        .await
    }

    async fn holder(&self) -> Result<String> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let spec = leases.get_opt("quell").await?.and_then(|lease| lease.spec);
        Ok(spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
    }

    /// How long each time nobody led, and until the first write of the next leader: told by what the proxies saw.
    pub(super) fn tell_of(&self, successions: &[Succession], namespace: &str) {
        for Succession { what, who, at } in successions {
            let mut firsts: BTreeMap<&str, (Instant, &str)> = BTreeMap::new();
            for replica in &self.replicas {
                if self.replicas.len() > 1 && replica.identity == *who {
                    continue;
                }
                let later = replica.proxy.records().select(|record| record.request.at > *at && record.is_effect());
                for record in later {
                    let taken = record.is_lease_of(&replica.identity);
                    let kind = if taken {
                        "holds the Lease"
                    } else if is_of_the_leader(&record, namespace) {
                        "writes"
                    } else {
                        continue;
                    };
                    let first = firsts.entry(kind).or_insert((record.request.at, &replica.identity));
                    if record.request.at < first.0 {
                        *first = (record.request.at, &replica.identity);
                    }
                }
            }
            let told: Vec<String> = firsts
                .iter()
                .map(|(kind, (when, by))| format!("{by} {kind} after {:.2} s", (*when - *at).as_secs_f64()))
                .collect();
            println!("{who} {what}: {}", told.join(", "));
        }
    }
}
