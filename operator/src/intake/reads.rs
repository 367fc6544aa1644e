//! How what a Source sends, or writes into the cluster, is read: by a format, or by a mapping of its own.

use std::fmt;
use std::sync::Arc;

use kube::ResourceExt as _;
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{Format, Source};
use quell_ingest::{Delivery, Received, Unreadable};
use quell_playbooks::Problem;
use quell_playbooks::mapping::{self, Mapping};

/// Larger bodies are mapped where they hold up no other request: their expressions may take half a second.
const LARGE: usize = 64 << 10;

/// How a Source is read.
#[derive(Clone, Debug)]
pub enum Reads {
    /// As a tool writes it.
    Format {
        /// The Source's format.
        format: Format,
        /// What is in its CloudEvents whose type doesn't tell.
        data_format: Option<Format>,
    },
    /// By expressions.
    Mapping {
        /// Compiled.
        mapping: Arc<Mapping>,
        /// The Source, which is also the tool where the mapping names none.
        source: String,
    },
}

impl Reads {
    /// As the Source says.
    pub fn compile(source: &Source) -> Result<Self, Problem> {
        let spec = &source.spec;
        match (&spec.mapping, spec.format) {
            (Some(mapping), _) => {
                let mapping = Arc::new(mapping::compile(mapping)?);
                Ok(Self::Mapping { mapping, source: source.name_any() })
            }
            (None, Some(format)) => Ok(Self::Format { format, data_format: spec.data_format }),
            (None, None) => Err(Problem {
                reason: Reason::ParameterInvalid,
                at: "spec.format".to_owned(),
                message: "give one of format and mapping".to_owned(),
            }),
        }
    }

    /// What a body says, in a request or in a watched object, which has no headers.
    pub fn read(&self, headers: &[(&str, &str)], body: &[u8]) -> Result<Received, Unreadable> {
        match self {
            Self::Format { format, data_format } => {
                quell_ingest::receive(&Delivery { format: *format, data_format: *data_format, headers, body })
            }
            Self::Mapping { mapping, source } => quell_ingest::map(mapping, source, headers, body).map(Received::from),
        }
    }

    /// The Source's format, where it has one.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        match self {
            Self::Format { format, .. } => Some(*format),
            Self::Mapping { .. } => None,
        }
    }

    /// Whether reading the body may take so long that it has to be out of the way of others.
    #[must_use]
    pub fn takes_long(&self, body: &[u8]) -> bool {
        matches!(self, Self::Mapping { .. }) && body.len() > LARGE
    }
}

impl fmt::Display for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format { format, .. } => write!(f, "this is not what a Source of format {format} sends"),
            Self::Mapping { .. } => f.write_str("spec.mapping of the Source can't read this"),
        }
    }
}
