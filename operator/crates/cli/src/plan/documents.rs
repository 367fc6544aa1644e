//! The file: its documents, as the API server takes them. Nothing is decided by this program's own reading of them.

use std::io::Read as _;
use std::path::Path;

use kube::Client;
use kube::api::PostParams;
use kube::core::Request;
use quell_crds::names::GROUP;
use quell_crds::v1alpha1::{Channel, ClusterChannel, ClusterPlaybook, Playbook};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{Connection, ask};
use crate::{CliError, Io};

const VERSION: &str = "v1alpha1";

/// One document of the file.
#[derive(Debug)]
pub(super) struct Document {
    /// `playbook.yaml`, with the number of the document where there are several.
    pub place: String,
    pub kind: String,
    pub name: String,
    pub namespace: Option<String>,
    value: Value,
}

/// A document as the API server would store it.
pub(super) struct Judged {
    pub object: Accepted,
    /// There is an object of that name, which it would change.
    pub is_change: bool,
}

/// What a document is.
pub(super) enum Accepted {
    Playbook(Box<Playbook>),
    ClusterPlaybook(Box<ClusterPlaybook>),
    Channel(Box<Channel>),
    ClusterChannel(Box<ClusterChannel>),
}

/// Reads the file; empty documents are none.
pub(super) fn read(path: &Path, io: &mut Io) -> Result<Vec<Document>, CliError> {
    let file = if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() };
    let wrong = |problem: String| CliError::File { file: file.clone(), problem };
    let text = if path.as_os_str() == "-" {
        let mut text = String::new();
        io.input.read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    let text = text.map_err(|error| wrong(format!("can't be read: {error}")))?;
    let values: Vec<Value> =
        serde_saphyr::from_multiple(&text).map_err(|error| wrong(format!("is not YAML: {error}")))?;
    let values: Vec<Value> = values.into_iter().filter(|value| !value.is_null()).collect();
    if values.is_empty() {
        return Err(wrong("has no document in it: write a Playbook or ClusterPlaybook".to_owned()));
    }
    let several = values.len() > 1;
    let place = |i: usize| if several { format!("{file}, document {}", i + 1) } else { file.clone() };
    values.into_iter().enumerate().map(|(i, value)| document(place(i), value)).collect()
}

fn document(place: String, value: Value) -> Result<Document, CliError> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let wrong = |problem: String| Err(CliError::File { file: place.clone(), problem });
    let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    if version != format!("{GROUP}/{VERSION}") || resource(&kind).is_none() {
        return wrong(format!(
            "apiVersion and kind are `{version}` and `{kind}`; a plan takes {GROUP}/{VERSION} and Playbook, ClusterPlaybook, Channel or \
             ClusterChannel"
        ));
    }
    if name.is_empty() {
        return wrong("metadata.name is missing: give the object a name".to_owned());
    }
    let namespace = Some(text("/metadata/namespace")).filter(|namespace| !namespace.is_empty());
    Ok(Document { place, kind, name, namespace, value })
}

/// The plural of a kind, and whether it is in a namespace.
fn resource(kind: &str) -> Option<(&'static str, bool)> {
    Some(match kind {
        "Playbook" => ("playbooks", true),
        "ClusterPlaybook" => ("clusterplaybooks", false),
        "Channel" => ("channels", true),
        "ClusterChannel" => ("clusterchannels", false),
        _ => return None,
    })
}

impl Document {
    /// The namespace that the object would be in.
    pub fn namespace<'a>(&'a self, connection: &'a Connection) -> &'a str {
        self.namespace.as_deref().unwrap_or(&connection.namespace)
    }

    /// Has the API server judge the object as if it were created, or changed where it is there.
    pub async fn dry_run(&self, connection: &Connection) -> Result<Judged, CliError> {
        let (plural, namespaced) = resource(&self.kind).unwrap_or_default();
        let namespace = if namespaced { self.namespace(connection) } else { "" };
        let path = match namespace {
            "" => format!("/apis/{GROUP}/{VERSION}/{plural}"),
            namespace => format!("/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{plural}"),
        };
        let created = send(&connection.client, "POST", &path, &self.value).await;
        let is_change = created.as_ref().is_err_and(already_exists);
        let value = if is_change { self.dry_run_change(connection, &path).await } else { created }.map_err(
            |error| match error.refusal() {
                Some(message) => CliError::File {
                    file: self.place.clone(),
                    problem: format!("the API server refuses this {}: {message}", self.kind),
                },
                None => error,
            },
        )?;
        Ok(Judged { object: self.typed(value)?, is_change })
    }

    async fn dry_run_change(&self, connection: &Connection, path: &str) -> Result<Value, CliError> {
        let path = format!("{path}/{}", self.name);
        let there = send(&connection.client, "GET", &path, &Value::Null).await?;
        let mut value = self.value.clone();
        for field in ["resourceVersion", "uid"] {
            value["metadata"][field] = there["metadata"][field].clone();
        }
        send(&connection.client, "PUT", &path, &value).await
    }

    fn typed(&self, value: Value) -> Result<Accepted, CliError> {
        Ok(match self.kind.as_str() {
            "Playbook" => Accepted::Playbook(self.parse(value)?),
            "ClusterPlaybook" => Accepted::ClusterPlaybook(self.parse(value)?),
            "Channel" => Accepted::Channel(self.parse(value)?),
            _ => Accepted::ClusterChannel(self.parse(value)?),
        })
    }

    fn parse<T: DeserializeOwned>(&self, value: Value) -> Result<Box<T>, CliError> {
        serde_json::from_value(value).map(Box::new).map_err(|error| CliError::File {
            file: self.place.clone(),
            problem: format!("the API server takes it, this version of kubectl-quell can't read it: {error}"),
        })
    }
}

fn already_exists(error: &CliError) -> bool {
    matches!(error, CliError::Api { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if status.is_already_exists()))
}

/// A request that changes nothing, and that takes no field which the schema doesn't know.
async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value, CliError> {
    let request = async {
        let mut request = if method == "GET" {
            Request::new(path).list(&kube::api::ListParams::default())
        } else {
            let parameters = PostParams { dry_run: true, field_manager: Some("quell/kubectl".to_owned()) };
            Request::new(path).create(&parameters, body.to_string().into_bytes())
        }
        .map_err(kube::Error::BuildRequest)?;
        if method != "GET" {
            let uri = format!("{}&fieldValidation=Strict", request.uri());
            *request.uri_mut() = uri.parse().map_err(|error| kube::Error::Service(Box::new(error)))?;
        }
        if method == "PUT" {
            *request.method_mut() = http::Method::PUT;
        }
        client.request::<Value>(request).await
    };
    ask("asking the API server what it thinks of the playbook", request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &str) -> Result<Vec<Document>, CliError> {
        let sink = || Box::new(std::io::sink());
        let mut io = Io {
            out: sink(),
            err: sink(),
            input: Box::new(std::io::Cursor::new(text.to_owned())),
            colours: false,
            terminal: false,
        };
        read(Path::new("-"), &mut io)
    }

    #[test]
    fn documents_are_told_apart_and_empty_ones_passed_over() {
        let one = "apiVersion: quell.dev/v1alpha1\nkind: Playbook\nmetadata: {name: a, namespace: shop}\n";
        let two = one.replace("name: a", "name: b");
        let read = documents(&format!("---\n{one}---\n---\n{two}")).unwrap();
        assert_eq!(read.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(
            (read[1].place.as_str(), read[1].namespace.as_deref()),
            ("standard input, document 2", Some("shop"))
        );
    }

    #[test]
    fn what_is_no_playbook_is_named_with_its_place() {
        for (text, expected) in [
            ("", "has no document in it"),
            ("a: [", "is not YAML"),
            ("apiVersion: v1\nkind: Pod", "apiVersion and kind are `v1` and `Pod`"),
            ("apiVersion: quell.dev/v1alpha1\nkind: Playbook", "metadata.name is missing"),
        ] {
            let error = documents(text).unwrap_err().to_string();
            assert!(error.starts_with("standard input: ") && error.contains(expected), "{error}");
        }
    }
}
