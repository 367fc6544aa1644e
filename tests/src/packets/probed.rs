//! Quell's own probes of the quarantined pod, and what they have a say in.

use anyhow::{Result, bail};
use kube::ResourceExt as _;
use kube::api::Api;
use quell_crds::conditions::{ConditionType, find};
use quell_crds::v1alpha1::Remediation;

use super::expected::{probes_tell, time_to_settle};
use super::world::World;
use super::{between, now};
use crate::node::Plugin;
use crate::wait;

/// Something that must hold.
#[derive(Clone, Debug)]
pub struct Claim {
    /// For people.
    pub what: String,
    /// Whether it does.
    pub holds: bool,
}

/// Waits for what the probes tell, and compares it with what must be so.
pub async fn answer(world: &World, run: &Remediation, posted: i64, plugin: Plugin) -> Result<Vec<Claim>> {
    println!("Quell's probes");
    let runs: Api<Remediation> = world.shop.api();
    let run = wait::eventually(wait::DEADLINE + 2 * time_to_settle(plugin), "the probes have told", async || {
        let run = runs.get(&run.name_any()).await?;
        match output(&run, "probe") {
            Some(verdict) if verdict != "UnderWay" => Ok(Some(run)),
            verdict => bail!("{verdict:?}: {:?}", output(&run, "probeMessage")),
        }
    })
    .await?;
    println!(
        "  told {:.1?} after the alert: {}",
        between(posted, now()),
        output(&run, "probeMessage").unwrap_or_default()
    );
    let told = output(&run, "probe").unwrap_or_default();
    let wanted = probes_tell(plugin);
    let mut claims = vec![Claim { what: format!("they tell {told}"), holds: told == wanted }];
    let conditions = run.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let contained = find(conditions, ConditionType::Contained);
    if let Some(contained) = contained {
        println!("  Contained {}: {}: {}", contained.status, contained.reason, contained.message);
    }
    let through = contained.is_some_and(|one| one.status == "False" && one.reason == "ProbeGotThrough");
    let what = "Contained is False because a probe got through exactly where one did".to_owned();
    claims.push(Claim { what, holds: through == (wanted == "GotThrough") });
    Ok(claims)
}

fn output<'a>(run: &'a Remediation, key: &str) -> Option<&'a str> {
    run.status.as_ref()?.steps.first()?.outputs.get(key).map(String::as_str)
}
