use quell_crds::v1alpha1::Format;

use crate::Signal;

/// What came in, and how its Source says it is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The format of the Source.
    pub format: Format,
    /// For CloudEvents: the format of what is in those whose type doesn't tell.
    pub data_format: Option<Format>,
    /// Names, in any case, and values of the request's headers. Only those of CloudEvents' binary mode are read: `content-type` and `ce-*`.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body, unpacked.
    pub body: &'a [u8],
}

impl<'a> Delivery<'a> {
    /// A body that came without headers, as an object of a watch or a file.
    #[must_use]
    pub fn new(format: Format, body: &'a [u8]) -> Self {
        Self { format, data_format: None, headers: &[], body }
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }
}

/// What a body says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Received {
    /// What the tool found, and what it says is no longer there.
    pub signals: Vec<Signal>,
    /// What the tool asks to be fetched or confirmed; the body alone doesn't hold it.
    pub follow_ups: Vec<FollowUp>,
    /// Why parts of the body were passed over, one line each, at most 16; what is no finding by its nature isn't among them.
    pub ignored: Vec<String>,
}

/// Most reasons that are told.
const REASONS: usize = 16;

impl Received {
    pub(crate) fn ignore(&mut self, reason: String) {
        if self.ignored.len() < REASONS && !self.ignored.contains(&reason) {
            self.ignored.push(reason);
        }
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.signals.extend(other.signals);
        self.follow_ups.extend(other.follow_ups);
        other.ignored.into_iter().for_each(|reason| self.ignore(reason));
    }
}

impl From<Vec<Signal>> for Received {
    fn from(signals: Vec<Signal>) -> Self {
        Self { signals, ..Self::default() }
    }
}

/// What has to be asked for elsewhere before a body says all. Every address in it was written by whoever sent the body: it is to be compared
/// with what the Source allows before anything is fetched from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FollowUp {
    /// Clair's notifier has notifications ready: `GET` the pages, read each as [`Format::Clair`], then `DELETE` the address.
    ClairNotifications {
        /// The notification's id.
        id: String,
        /// Where the pages are.
        callback: String,
    },
    /// Harbor has scanned an artifact: its vulnerabilities are at
    /// `/api/v2.0/projects/{project}/repositories/{repository}/artifacts/{digest}/additions/vulnerabilities`, read as [`Format::Harbor`].
    HarborVulnerabilities {
        /// The project.
        project: String,
        /// The repository in the project; a slash in it is to be encoded twice.
        repository: String,
        /// The artifact.
        digest: String,
    },
    /// AWS SNS asks whether its messages of a topic are wanted: `GET` the address if the topic is the Source's and the
    /// [signature](crate::sns) holds.
    SnsSubscription {
        /// The topic's ARN.
        topic: String,
        /// What confirms it.
        confirm: String,
    },
}
