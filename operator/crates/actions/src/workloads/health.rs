//! Whether a workload is rolled out, judged as `kubectl rollout status` does.

use serde_json::{Map, Value};

use super::{EXCEEDED_BEFORE, Kind, Live};

/// How a roll-out stands; each says in numbers how it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Every pod is of the newest template, and available.
    RolledOut(String),
    /// Not yet.
    Rolling(String),
    /// It won't get there by itself.
    Unhealthy(String),
}

impl Live {
    /// Whether the controller has seen the newest change.
    pub(crate) fn is_observed(&self) -> bool {
        self.metadata.generation.unwrap_or_default() <= number(&self.status, "observedGeneration")
    }

    /// How the roll-out stands. `before` is what a receipt remembers: a roll-out that had run out of its time before the step leaves its
    /// condition on the workload until the step's own makes progress, so that one doesn't count.
    pub(crate) fn health(&self, before: &Map<String, Value>) -> Health {
        if !self.is_observed() {
            return Health::Rolling("its controller has not seen the change yet".to_owned());
        }
        match self.kind {
            Kind::Deployment => self.deployment(before),
            Kind::StatefulSet => self.stateful_set(),
            Kind::DaemonSet => self.daemon_set(),
        }
    }

    /// When the roll-out of a Deployment ran out of `progressDeadlineSeconds`.
    pub(crate) fn deadline_exceeded_at(&self) -> Option<&str> {
        self.exceeded()?["lastUpdateTime"].as_str()
    }

    fn exceeded(&self) -> Option<&Value> {
        let mut conditions = self.status["conditions"].as_array()?.iter();
        conditions.find(|one| one["type"] == "Progressing" && one["reason"] == "ProgressDeadlineExceeded")
    }

    fn deployment(&self, before: &Map<String, Value>) -> Health {
        if let Some(condition) = self.exceeded()
            && before.get(EXCEEDED_BEFORE) != Some(&condition["lastUpdateTime"])
        {
            let said = condition["message"].as_str().unwrap_or("no progress within its progressDeadlineSeconds");
            return Health::Unhealthy(said.to_owned());
        }
        if self.spec["paused"] == true {
            return Health::Rolling(format!("somebody has paused it; kubectl rollout resume {}", self.kubectl_name()));
        }
        let wanted = self.spec["replicas"].as_i64().unwrap_or(1);
        let [all, updated, available] =
            ["replicas", "updatedReplicas", "availableReplicas"].map(|field| number(&self.status, field));
        if updated < wanted {
            return Health::Rolling(format!("{updated} of {wanted} pods are new"));
        }
        if all > updated {
            return Health::Rolling(format!("{} old pods have still to end", all - updated));
        }
        if available < updated {
            return Health::Rolling(format!("{available} of {updated} new pods are available"));
        }
        Health::RolledOut(format!("{available} of {wanted} pods are available"))
    }

    fn stateful_set(&self) -> Health {
        let wanted = self.spec["replicas"].as_i64().unwrap_or(1);
        let [ready, updated] = ["readyReplicas", "updatedReplicas"].map(|field| number(&self.status, field));
        let available = self.status["availableReplicas"].as_i64().unwrap_or(ready);
        let usable = ready.min(available);
        if usable < wanted {
            return Health::Rolling(format!("{usable} of {wanted} pods are ready"));
        }
        let partition = number(&self.spec["updateStrategy"]["rollingUpdate"], "partition");
        if partition > 0 {
            let new = (wanted - partition).max(0);
            if updated < new {
                return Health::Rolling(format!("{updated} of {new} pods are new"));
            }
            let old = wanted.min(partition);
            return Health::RolledOut(format!(
                "{updated} of {wanted} pods are new; the StatefulSet's partition keeps {old} as they were"
            ));
        }
        if self.status["updateRevision"] != self.status["currentRevision"] {
            return Health::Rolling(format!("{updated} of {wanted} pods are new"));
        }
        Health::RolledOut(format!("{usable} of {wanted} pods are ready"))
    }

    fn daemon_set(&self) -> Health {
        let [wanted, updated, available] =
            ["desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable"].map(|f| number(&self.status, f));
        if updated < wanted {
            return Health::Rolling(format!("{updated} of {wanted} pods are new"));
        }
        if available < wanted {
            return Health::Rolling(format!("{available} of {wanted} pods are available"));
        }
        Health::RolledOut(format!("{available} of {wanted} pods are available"))
    }
}

fn number(object: &Value, field: &str) -> i64 {
    object[field].as_i64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::json;

    use super::*;

    fn live(kind: Kind, spec: Value, mut status: Value) -> Live {
        status["observedGeneration"] = json!(3);
        let metadata = ObjectMeta { generation: Some(3), ..ObjectMeta::default() };
        Live { kind, metadata, spec, status }
    }

    fn of(kind: Kind, spec: Value, status: Value) -> Health {
        live(kind, spec, status).health(&Map::new())
    }

    #[test]
    fn nothing_is_judged_before_the_controller_has_seen_the_change() {
        let mut object = live(Kind::Deployment, json!({}), json!({"updatedReplicas": 1, "availableReplicas": 1}));
        object.metadata.generation = Some(4);
        assert!(matches!(object.health(&Map::new()), Health::Rolling(_)));
    }

    #[test]
    fn a_deployment_is_rolled_out_when_all_pods_are_new_and_available_and_no_old_one_is_left() {
        let numbers = |all, updated, available| {
            let status = json!({"replicas": all, "updatedReplicas": updated, "availableReplicas": available});
            of(Kind::Deployment, json!({"replicas": 2}), status)
        };
        assert!(matches!(numbers(2, 2, 2), Health::RolledOut(_)));
        for (all, updated, available) in [(3, 1, 2), (3, 2, 3), (2, 2, 1), (0, 0, 0)] {
            assert!(matches!(numbers(all, updated, available), Health::Rolling(_)), "{all} {updated} {available}");
        }
        assert!(matches!(of(Kind::Deployment, json!({"replicas": 0}), json!({})), Health::RolledOut(_)));
    }

    #[test]
    fn a_deployment_that_ran_out_of_its_time_is_unhealthy_unless_it_had_done_so_before_the_step() {
        let at = "2026-11-21T12:00:00Z";
        let condition = json!({"type": "Progressing", "reason": "ProgressDeadlineExceeded", "lastUpdateTime": at});
        let object = live(Kind::Deployment, json!({}), json!({"conditions": [condition]}));
        assert!(matches!(object.health(&Map::new()), Health::Unhealthy(_)));
        let before = super::super::remember(&object, []);
        assert!(matches!(object.health(&before), Health::Rolling(_)));
    }

    #[test]
    fn a_stateful_set_is_rolled_out_when_its_revisions_agree_or_its_partition_says_so() {
        let status = |ready: i64, updated: i64, revision: &str| json!({"readyReplicas": ready, "updatedReplicas": updated, "currentRevision": "a", "updateRevision": revision});
        let all = json!({"replicas": 3});
        assert!(matches!(of(Kind::StatefulSet, all.clone(), status(3, 3, "a")), Health::RolledOut(_)));
        assert!(matches!(of(Kind::StatefulSet, all.clone(), status(3, 2, "b")), Health::Rolling(_)));
        assert!(matches!(of(Kind::StatefulSet, all, status(2, 3, "a")), Health::Rolling(_)));
        let part = json!({"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 2}}});
        assert!(
            matches!(of(Kind::StatefulSet, part.clone(), status(3, 1, "b")), Health::RolledOut(how) if how.contains("keeps 2"))
        );
        assert!(matches!(of(Kind::StatefulSet, part, status(3, 0, "b")), Health::Rolling(_)));
    }

    #[test]
    fn a_daemon_set_counts_the_nodes_that_it_is_meant_for() {
        let status = |updated: i64, available: i64| json!({"desiredNumberScheduled": 2, "updatedNumberScheduled": updated, "numberAvailable": available});
        assert!(matches!(of(Kind::DaemonSet, json!({}), status(2, 2)), Health::RolledOut(_)));
        assert!(matches!(of(Kind::DaemonSet, json!({}), status(1, 2)), Health::Rolling(_)));
        assert!(matches!(of(Kind::DaemonSet, json!({}), status(2, 1)), Health::Rolling(_)));
    }
}
