use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::Exit;
use crate::text::one_line;

/// Why a command failed; each says what a person can do.
#[derive(Debug, Error)]
pub enum CliError {
    /// It was not called as it can be.
    #[error("{0}")]
    Usage(String),
    /// The kubeconfig can't be used.
    #[error("can't use the kubeconfig: {}; see kubectl config view, or say --kubeconfig and --context", causes(.0.as_ref()))]
    Kubeconfig(Box<dyn std::error::Error + Send + Sync>),
    /// The API server did not do what it was asked.
    #[error("{doing}: {}", describe(source))]
    Api {
        /// What was attempted.
        doing: String,
        /// What it answered.
        source: Box<kube::Error>,
    },
    /// No answer.
    #[error("{doing}: no answer from the API server in {} s", .limit.as_secs())]
    Timeout {
        /// What was attempted.
        doing: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// There is no object of that name.
    #[error("{0}")]
    NotFound(String),
    /// A file can't be used.
    #[error("{file}: {problem}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What was asked for can't be done.
    #[error("{0}")]
    Refused(String),
    /// Nothing can be printed.
    #[error("writing the output: {0}")]
    Output(io::Error),
}

impl CliError {
    /// How the program ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if matches!(self, Self::Usage(_)) { Exit::Usage } else { Exit::Failed }
    }

    /// Whether the API server said that the caller may not.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if status.is_forbidden()))
    }

    /// Whether the API server said that there is no such thing, or that it doesn't serve the kind, for which it gives no reason but the code.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 404))
    }

    /// What the API server said, where it refused an object as it is.
    pub(crate) fn refusal(&self) -> Option<&str> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if matches!(status.code, 400 | 409 | 422) => Some(&status.message),
                _ => None,
            },
            _ => None,
        }
    }
}

impl From<io::Error> for CliError {
    /// Commands read files by functions that name the file; what is left is what they write.
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// The API server's own message where there is one, and what to do about it.
fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 404 && status.details.as_ref().is_none_or(|d| d.name.is_empty()) => {
            format!(
                "{}; is Quell installed in this cluster? kubectl get crd findings.quell.dev tells",
                one_line(&status.message)
            )
        }
        kube::Error::Api(status) if status.code == 401 => {
            "the API server does not know who you are: log in again, or choose another --context".to_owned()
        }
        kube::Error::Api(status) => one_line(&status.message),
        kube::Error::Service(_) | kube::Error::HyperError(_) => {
            format!("the API server can't be reached ({}); is the --context right?", causes(error))
        }
        other => causes(other),
    }
}

/// An error and what caused it; a cause that the error has named already isn't said again.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    one_line(&text)
}
