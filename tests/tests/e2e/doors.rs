//! Who is let in by a Source, how much of it, and about what.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use chrono::Utc;
use flate2::Compression;
use flate2::write::GzEncoder;
use hmac::{Hmac, Mac as _};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::Source;
use quell_tests::fixtures::service_account;
use quell_tests::operator::NAMESPACE;
use quell_tests::wait;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Bed, DEADLINE, apply, falco};

/// A Source of its own for a test, with a Secret of the same name.
struct Door {
    bed: Bed,
    http: reqwest::Client,
}

impl Door {
    fn name(&self) -> &str {
        self.bed.name()
    }

    fn sources(&self) -> Api<Source> {
        Api::all(self.bed.namespace.client().clone())
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.bed.namespace.client().clone(), NAMESPACE)
    }

    async fn secret(&self, value: &str) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": self.name() }, "stringData": { "value": value },
        });
        self.secrets().patch(self.name(), &PatchParams::apply("quell-tests").force(), &Patch::Apply(&secret)).await?;
        Ok(())
    }

    async fn ready_is(&self, status: &str) -> Result<String> {
        let message = |source: &Source| {
            let status_of = source.status.as_ref()?;
            (status_of.observed_generation == source.metadata.generation).then_some(())?;
            let ready = conditions::find(&status_of.conditions, ConditionType::Ready)?;
            (ready.status == status).then(|| ready.message.clone())
        };
        let what = format!("Ready={status}");
        let is = |source: &Source| message(source).is_some();
        let source = wait::until_present(&self.sources(), self.name(), &what, DEADLINE, is).await?;
        message(&source).context("no message")
    }

    fn alert(&self) -> String {
        falco(self.name(), "web", &json!({})).to_string()
    }

    fn post(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.http.post(format!("{}/v1/sources/{}", self.bed.operator.url(), self.name())).body(body)
    }

    /// The status that a request comes to; a change of a Secret takes a moment to be seen.
    async fn comes_to(&self, wanted: u16, request: impl Fn() -> RequestBuilder) -> Result<()> {
        wait::eventually(DEADLINE, &format!("an answer {wanted}"), async || {
            let answer = request().send().await?;
            let status = answer.status().as_u16();
            anyhow::ensure!(status == wanted, "it is {status}: {}", answer.text().await?);
            Ok(Some(()))
        })
        .await
    }

    async fn findings(&self) -> Result<usize> {
        Ok(self.bed.findings().list(&ListParams::default()).await?.items.len())
    }

    async fn close(self) -> Result<()> {
        self.sources().delete(self.name(), &DeleteParams::default()).await?;
        self.secrets().delete(self.name(), &DeleteParams::default()).await?;
        self.bed.finish().await
    }
}

fn secret_of(bed: &str) -> Value {
    json!({ "name": bed, "key": "value" })
}

async fn refused(request: RequestBuilder, status: StatusCode, reason: &str) -> Result<()> {
    let answer = request.send().await?;
    let found = answer.status();
    let body: Value = answer.json().await?;
    assert_eq!((found, body["reason"].as_str()), (status, Some(reason)), "{body}");
    Ok(())
}

/// The Source's `webhook`, made of the name of the Secret, which the bed gives: names are known only then.
async fn door(prefix: &str, secret: &str, credential: fn(&Value) -> Value, more: fn(&str) -> Value) -> Result<Door> {
    // The Secret has the name of the namespace, which is made first.
    let bed = Bed::new(prefix).await?;
    let name = bed.name().to_owned();
    let door = Door { bed, http: reqwest::Client::new() };
    door.secret(secret).await?;
    let mut spec = json!({ "format": "falco", "webhook": credential(&secret_of(&name)) });
    for (key, value) in more(&name).as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    apply(&door.sources(), "Source", &name, &spec).await?;
    door.ready_is("True").await?;
    Ok(door)
}

fn bearer(secret: &Value) -> Value {
    json!({ "bearerToken": { "secret": secret } })
}

fn nothing(_: &str) -> Value {
    json!({})
}

#[tokio::test]
async fn two_tokens_are_good_while_senders_move_from_one_to_the_next() -> Result<()> {
    let door = door("rotate", "first\nsecond\n", bearer, nothing).await?;
    for token in ["first", "second"] {
        assert_eq!(door.post(door.alert()).bearer_auth(token).send().await?.status(), 200, "{token}");
    }
    refused(door.post(door.alert()).bearer_auth("third"), StatusCode::UNAUTHORIZED, "Unauthorized").await?;
    door.secret("second").await?;
    door.comes_to(401, || door.post(door.alert()).bearer_auth("first")).await?;
    assert_eq!(door.post(door.alert()).bearer_auth("second").send().await?.status(), 200);
    door.close().await
}

#[tokio::test]
async fn the_token_of_another_source_is_not_let_in() -> Result<()> {
    let door = door("others", "its-own", bearer, nothing).await?;
    refused(
        door.post(door.alert()).bearer_auth(quell_tests::operator::TOKEN),
        StatusCode::UNAUTHORIZED,
        "Unauthorized",
    )
    .await?;
    let answer = door.bed.operator.post_text("falco", &door.alert(), Some("its-own")).await?;
    assert_eq!((answer.status, door.findings().await?), (401, 0));
    door.close().await
}

#[tokio::test]
async fn user_and_password_are_let_in_and_others_are_not() -> Result<()> {
    let door =
        door("basic", "falco:pass:word", |secret: &Value| json!({ "basic": { "secret": secret } }), nothing).await?;
    assert_eq!(door.post(door.alert()).basic_auth("falco", Some("pass:word")).send().await?.status(), 200);
    for (user, password) in [("falco", "pass"), ("", "pass:word"), ("falco:pass", "word2")] {
        let request = door.post(door.alert()).basic_auth(user, Some(password));
        refused(request, StatusCode::UNAUTHORIZED, "Unauthorized").await?;
    }
    door.close().await
}

fn sign(key: &str, text: &str) -> Result<String> {
    let mut code = Hmac::<Sha256>::new_from_slice(key.as_bytes())?;
    code.update(text.as_bytes());
    Ok(format!("{:x}", code.finalize().into_bytes()))
}

#[tokio::test]
async fn a_signed_request_is_taken_once() -> Result<()> {
    let credential = |secret: &Value| {
        json!({ "hmac": {
            "secret": secret, "header": "X-Signature", "prefix": "sha256=", "timestamp": { "header": "X-Time", "tolerance": "1m" },
        }})
    };
    let door = door("hmac", "the-key", credential, nothing).await?;
    let body = door.alert();
    let signed = |key: &str, time: i64| {
        let signature = format!("sha256={}", sign(key, &format!("{time}.{body}"))?);
        anyhow::Ok(door.post(body.clone()).header("X-Signature", signature).header("X-Time", time.to_string()))
    };
    let now = Utc::now().timestamp();
    assert_eq!(signed("the-key", now)?.send().await?.status(), 200);
    refused(signed("the-key", now)?, StatusCode::UNAUTHORIZED, "Replayed").await?;
    refused(signed("the-key", now - 120)?, StatusCode::UNAUTHORIZED, "Stale").await?;
    refused(signed("another", now)?, StatusCode::UNAUTHORIZED, "Unauthorized").await?;
    let tampered = signed("the-key", now - 1)?.body(body.replace("Critical", "Warning"));
    refused(tampered, StatusCode::UNAUTHORIZED, "Unauthorized").await?;
    refused(door.post(body.clone()), StatusCode::UNAUTHORIZED, "Unauthorized").await?;
    assert_eq!(door.findings().await?, 1);
    door.close().await
}

#[tokio::test]
async fn the_token_of_an_allowed_service_account_for_quell_is_let_in_and_no_other() -> Result<()> {
    let more = |name: &str| {
        json!({ "webhook": { "serviceAccount": {
            "audience": "quell", "accounts": [{ "namespace": name, "name": "falco" }],
        }}})
    };
    let door = door("account", "unused", bearer, more).await?;
    let accounts: Api<ServiceAccount> = door.bed.namespace.api();
    let token = async |account: &str, audience: &str| {
        let spec = TokenRequestSpec { audiences: Some(vec![audience.to_owned()]), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
        answer.status.and_then(|status| status.token).context("no token")
    };
    for account in ["falco", "other"] {
        door.bed.namespace.create_object(&service_account(account)).await?;
    }
    let good = token("falco", "quell").await?;
    for _ in 0..3 {
        assert_eq!(door.post(door.alert()).bearer_auth(&good).send().await?.status(), 200);
    }
    let mut forged = good.clone();
    forged.replace_range(good.len() - 8.., "AAAAAAAA");
    for bad in [token("other", "quell").await?, token("falco", "elsewhere").await?, forged, "x".to_owned()] {
        refused(door.post(door.alert()).bearer_auth(bad), StatusCode::UNAUTHORIZED, "Unauthorized").await?;
    }
    door.close().await
}

#[tokio::test]
async fn a_source_without_its_secret_says_where_and_lets_nobody_in() -> Result<()> {
    let door = door("missing", "token", bearer, nothing).await?;
    door.secrets().delete(door.name(), &DeleteParams::default()).await?;
    let message = door.ready_is("False").await?;
    assert!(message.contains("spec.webhook.bearerToken.secret") && message.contains(door.name()), "{message}");
    door.comes_to(503, || door.post(door.alert()).bearer_auth("token")).await?;
    door.secret("token").await?;
    door.ready_is("True").await?;
    door.close().await
}

#[tokio::test]
async fn a_bound_source_says_nothing_about_other_namespaces() -> Result<()> {
    let door = door("bound", "stolen", bearer, |name| json!({ "namespaces": { "include": [name] } })).await?;
    let neighbours = Bed::new("neighbours").await?;
    let pod = neighbours.shop("registry.example/shop:1.0").await?;
    let foreign = falco(neighbours.name(), &pod.name_any(), &json!({})).to_string();
    refused(door.post(foreign).bearer_auth("stolen"), StatusCode::FORBIDDEN, "Foreign").await?;
    // By the id of a container of the neighbours, with nothing said of where it is.
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
    let id = statuses.first().and_then(|status| status.container_id.clone()).context("no container")?;
    let id = id.split_once("://").map_or(id.as_str(), |(_, id)| id).to_owned();
    let mut by_id = falco("", "", &json!({ "container.id": id, "k8s.ns.name": null, "k8s.pod.name": null }));
    by_id["hostname"] = json!("node-1");
    refused(door.post(by_id.to_string()).bearer_auth("stolen"), StatusCode::FORBIDDEN, "Foreign").await?;
    let node = falco("", "", &json!({ "container.id": "host", "k8s.ns.name": null, "k8s.pod.name": null }));
    refused(door.post(node.to_string()).bearer_auth("stolen"), StatusCode::FORBIDDEN, "Foreign").await?;
    assert_eq!(neighbours.findings().list(&ListParams::default()).await?.items.len(), 0);
    assert_eq!(door.post(door.alert()).bearer_auth("stolen").send().await?.status(), 200);
    neighbours.finish().await?;
    door.close().await
}

#[tokio::test]
async fn a_bound_source_cannot_blame_an_image_that_does_not_run_in_its_namespaces() -> Result<()> {
    let door = door("blame", "stolen", bearer, |name| json!({ "namespaces": { "include": [name] } })).await?;
    let fields = json!({ "container.image.repository": "registry.example/neighbours", "container.image.tag": "1.0" });
    let alert = falco(door.name(), "ghost", &fields).to_string();
    assert_eq!(door.post(alert).bearer_auth("stolen").send().await?.status(), 200);
    let all = door.bed.findings().list(&ListParams::default()).await?.items;
    assert_eq!(all.iter().map(|finding| finding.spec.target.image.as_str()).collect::<Vec<_>>(), [""]);
    door.close().await
}

fn zipped(text: &[u8]) -> Result<Vec<u8>> {
    let mut zip = GzEncoder::new(Vec::new(), Compression::best());
    zip.write_all(text)?;
    Ok(zip.finish()?)
}

#[tokio::test]
async fn what_is_too_large_too_deep_or_a_bomb_is_refused() -> Result<()> {
    let limits = |_: &str| json!({ "limits": { "maxBodyBytes": 65536, "maxDepth": 8, "maxHeaderBytes": 1024 } });
    let door = door("limits", "token", bearer, limits).await?;
    let post = |body: Vec<u8>| door.post(body).bearer_auth("token");
    refused(post(vec![b' '; 70_000]), StatusCode::PAYLOAD_TOO_LARGE, "TooLarge").await?;
    let bomb = zipped(&vec![b' '; 32 << 20])?;
    assert!(bomb.len() < 65536, "{}", bomb.len());
    let small = zipped(&vec![b' '; 1 << 20])?;
    assert!(small.len() < 65536);
    for body in [bomb, small] {
        let answer = post(body).header("Content-Encoding", "gzip").send().await?;
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    refused(post("[".repeat(10_000).into_bytes()), StatusCode::BAD_REQUEST, "TooDeep").await?;
    let large = post(b"{}".to_vec()).header("X-Large", "x".repeat(2000));
    refused(large, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "HeadersTooLarge").await?;
    let huge = post(b"{}".to_vec()).header("X-Huge", "x".repeat(200_000)).send().await;
    assert!(huge.is_err() || huge.is_ok_and(|answer| answer.status() == 431), "the connection is closed, or 431 said");
    let zip = post(zipped(door.alert().as_bytes())?).header("Content-Encoding", "gzip").send().await?;
    assert_eq!(zip.status(), 200, "an honest sender may compress");
    assert_eq!(door.findings().await?, 1);
    door.close().await
}

#[tokio::test]
async fn one_source_over_its_rate_is_told_so_and_another_goes_on() -> Result<()> {
    let limits = |_: &str| json!({ "limits": { "requestsPerSecond": 1, "burst": 3 } });
    let door = door("rate", "token", bearer, limits).await?;
    // Whoever isn't let in doesn't use up the rate of those who are.
    for _ in 0..5 {
        assert_eq!(door.post(door.alert()).bearer_auth("wrong").send().await?.status(), 401);
    }
    let answers = futures::future::try_join_all((0..12).map(|_| door.post(door.alert()).bearer_auth("token").send()));
    let answers = answers.await?;
    let limited: Vec<_> = answers.iter().filter(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS).collect();
    assert!(answers.iter().filter(|answer| answer.status() == 200).count() >= 3 && !limited.is_empty());
    assert!(limited.iter().all(|answer| answer.headers().contains_key("retry-after")));
    assert_eq!(door.bed.operator.post("falco", &falco(door.name(), "web", &json!({}))).await?.status, 200);
    door.close().await
}

#[tokio::test]
async fn bodies_that_never_end_are_given_up_and_hold_up_no_other_source() -> Result<()> {
    let limits = |_: &str| json!({ "limits": { "timeout": "2s", "maxConcurrent": 4 } });
    let door = door("slow", "token", bearer, limits).await?;
    let address = door.bed.operator.url().replace("http://", "");
    let mut slow = Vec::new();
    for _ in 0..16 {
        let mut stream = TcpStream::connect(&address).await?;
        let head = format!(
            "POST /v1/sources/{} HTTP/1.1\r\nHost: quell\r\nAuthorization: Bearer token\r\nContent-Length: 1000\r\n\r\n{{",
            door.name()
        );
        stream.write_all(head.as_bytes()).await?;
        slow.push(stream);
    }
    assert_eq!(door.bed.operator.post("falco", &falco(door.name(), "web", &json!({}))).await?.status, 200);
    for mut stream in slow {
        let mut answer = vec![0; 12];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut answer)).await??;
        assert_eq!(std::str::from_utf8(&answer)?, "HTTP/1.1 408");
    }
    door.comes_to(200, || door.post(door.alert()).bearer_auth("token")).await?;
    door.close().await
}

#[tokio::test]
async fn a_source_names_exactly_one_credential_and_some_namespace() -> Result<()> {
    let bed = Bed::new("rules").await?;
    let sources: Api<Source> = Api::all(bed.namespace.client().clone());
    let secret = secret_of("x");
    for (spec, message) in [
        (json!({ "format": "falco", "webhook": {} }), "exactly one of"),
        (
            json!({ "format": "falco", "webhook": { "bearerToken": { "secret": secret }, "basic": { "secret": secret } } }),
            "exactly one of",
        ),
        (json!({ "format": "falco", "webhook": bearer(&secret), "namespaces": {} }), "must name some"),
        (
            json!({ "format": "falco", "webhook": { "clientCertificate": { "ca": {} } } }),
            "give one of secret and configMap",
        ),
        (json!({ "format": "falco", "webhook": bearer(&secret), "limits": { "timeout": "10m" } }), "from 1s to 5m"),
    ] {
        let refused = apply(&sources, "Source", bed.name(), &spec).await.expect_err(message).to_string();
        assert!(refused.contains(message), "{refused}");
    }
    bed.finish().await
}
