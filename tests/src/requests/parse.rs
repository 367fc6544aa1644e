//! From an HTTP request to what the API server will make of it.

use std::time::Instant;

use http::Method;
use kube::client::Body;

use super::{Request, Verb};

pub(super) fn parse(request: &http::Request<Body>, label: &str) -> Request {
    let uri = request.uri();
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    describe(request.method(), uri.path(), uri.query().unwrap_or_default(), header(http::header::CONTENT_TYPE), label)
}

/// What the API server will make of a request with that method, path and query.
pub(crate) fn describe(method: &Method, path: &str, query: &str, content_type: &str, label: &str) -> Request {
    let place = Place::of(path);
    let watches = matches!(parameter(query, "watch").as_deref(), Some("true" | "1"));
    let of_one = !place.name.is_empty();
    let verb = match *method {
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE if of_one => Verb::Delete,
        Method::DELETE => Verb::DeleteCollection,
        _ if place.resource.is_empty() => Verb::Get,
        _ if watches => Verb::Watch,
        _ if of_one => Verb::Get,
        _ => Verb::List,
    };
    let name = if of_one { place.name.to_owned() } else { name_in_fields(query).unwrap_or_default() };
    Request {
        label: label.to_owned(),
        at: Instant::now(),
        method: method.clone(),
        path: path.to_owned(),
        query: query.to_owned(),
        content_type: content_type.to_owned(),
        verb,
        group: place.group.to_owned(),
        version: place.version.to_owned(),
        resource: place.resource.to_owned(),
        subresource: place.subresource.to_owned(),
        namespace: place.namespace.to_owned(),
        name,
        status: None,
    }
}

#[derive(Default)]
struct Place<'a> {
    group: &'a str,
    version: &'a str,
    namespace: &'a str,
    resource: &'a str,
    name: &'a str,
    subresource: &'a str,
}

impl<'a> Place<'a> {
    fn of(path: &'a str) -> Self {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return Self::default(),
        };
        let (namespace, rest) = match rest {
            // These two belong to the namespace; all else below it lies in it.
            ["namespaces", name, "status" | "finalize"] => (*name, rest),
            ["namespaces", name, inside @ ..] if !inside.is_empty() => (*name, inside),
            ["namespaces", name] => (*name, rest),
            _ => ("", rest),
        };
        let part = |index: usize| rest.get(index).copied().unwrap_or_default();
        Self { group, version, namespace, resource: part(0), name: part(1), subresource: part(2) }
    }
}

/// The value of a parameter in a query.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| decode(value))
}

fn name_in_fields(query: &str) -> Option<String> {
    let fields = parameter(query, "fieldSelector")?;
    let name = fields.split(',').find_map(|field| field.strip_prefix("metadata.name="))?;
    Some(name.trim_start_matches('=').to_owned())
}

fn decode(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten();
        let escaped = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (escaped, first) {
            (Some(byte), _) => {
                bytes.push(byte);
                rest = &tail[2..];
                continue;
            }
            (None, b'+') => bytes.push(b' '),
            (None, other) => bytes.push(*other),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right_of(method: &Method, path: &str, query: &str) -> String {
        let request = describe(method, path, query, "", "");
        let right = request.right().map(|right| format!("{} {} [{}]", right.verb, right.resource, right.group));
        format!("{} in {:?} of {:?}", right.unwrap_or_default(), request.namespace, request.name)
    }

    #[test]
    fn requests_are_told_apart_as_the_api_server_does() {
        let cases = [
            (Method::GET, "/api/v1/namespaces/a/pods/b", "", r#"get pods [] in "a" of "b""#),
            (Method::GET, "/api/v1/namespaces/a/pods", "limit=1", r#"list pods [] in "a" of """#),
            (Method::GET, "/api/v1/pods", "&watch=true", r#"watch pods [] in "" of """#),
            (
                Method::GET,
                "/api/v1/namespaces/a/pods",
                "watch=1&fieldSelector=metadata.name%3Db",
                r#"watch pods [] in "a" of "b""#,
            ),
            (Method::GET, "/api/v1/namespaces/a", "", r#"get namespaces [] in "a" of "a""#),
            (Method::GET, "/api/v1/namespaces", "", r#"list namespaces [] in "" of """#),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "", r#"update namespaces/finalize [] in "a" of "a""#),
            (Method::POST, "/api/v1/namespaces/a/pods/b/eviction", "", r#"create pods/eviction [] in "a" of "b""#),
            (
                Method::PATCH,
                "/apis/quell.dev/v1alpha1/namespaces/a/findings/f/status",
                "fieldManager=quell%2Fstatus",
                r#"patch findings/status [quell.dev] in "a" of "f""#,
            ),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments",
                "",
                r#"deletecollection deployments [apps] in "a" of """#,
            ),
            (Method::GET, "/apis/apps/v1", "", r#" in "" of """#),
            (Method::GET, "/version", "", r#" in "" of """#),
        ];
        for (method, path, query, expected) in cases {
            assert_eq!(right_of(&method, path, query), expected, "{method} {path}?{query}");
        }
        let request = describe(&Method::PATCH, "/api/v1/nodes/n", "fieldManager=quell%2Fcordon", "", "");
        assert_eq!(request.field_manager(), "quell/cordon");
    }
}
