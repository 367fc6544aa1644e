//! A Finding on disk.

use std::time::SystemTime;

use quell_crds::v1alpha1::{Counted, Finding, FindingStatus};
use quell_spool::Sequence;
use serde::{Deserialize, Serialize};

/// A Finding as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The process that took it in.
    pub process: String,
    /// What is to be stored. [`names::REPORT`] says which report made it.
    pub finding: Finding,
    /// Of a repeat that its process is to count together with others: these, as the Finding's status names them once they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Counted>,
    /// How many reports this is: repeats that came at the same time are kept as one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub repeats: i64,
    /// It is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_over: bool,
}

fn one() -> i64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_one(repeats: &i64) -> bool {
    *repeats == 1
}

/// One that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its place in the order.
    pub sequence: Sequence,
    /// When it was kept.
    pub since: SystemTime,
    /// What is kept.
    pub record: Record,
}

impl Waiting {
    /// Whether the Finding's count has it already.
    pub fn is_counted(&self, status: &FindingStatus) -> bool {
        let batch = self.record.batch.as_ref();
        batch.is_some_and(|batch| status.has_counted(&batch.by, batch.through))
            || status.has_counted(&self.counted_by(), self.number())
    }

    /// Notes that the Finding's count has it.
    pub fn mark_counted(&self, status: &mut FindingStatus) {
        status.mark_counted(&self.counted_by(), self.number());
    }

    /// What its process left uncounted of a batch is counted for itself: others of the same process may be counted further than that.
    fn counted_by(&self) -> String {
        match &self.record.batch {
            Some(batch) => format!("{}.{}", batch.by, batch.through),
            None => self.record.process.clone(),
        }
    }

    /// Number of the report among those that its process kept.
    fn number(&self) -> i64 {
        i64::try_from(u64::from(self.sequence)).unwrap_or(i64::MAX)
    }

    /// The Source, within which the order is kept.
    pub fn source(&self) -> &str {
        &self.record.finding.spec.source
    }
}
