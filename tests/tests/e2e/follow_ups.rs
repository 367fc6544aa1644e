//! What a tool doesn't send, but asks to be fetched or confirmed. Clair and Harbor are servers on this host that speak as they do.

mod sns;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::Utc;
use hmac::{Hmac, Mac as _};
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use quell_crds::conditions::{self, ConditionType};
use quell_crds::v1alpha1::{Finding, Severity, Source};
use quell_tests::fixtures::digest_of;
use quell_tests::operator::{Answer, NAMESPACE, source_spec};
use quell_tests::wait;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{Bed, DEADLINE, apply, falco};

/// A namespace with a shop of an image of its own, and a Source and a Secret of the namespace's name.
struct Registry {
    bed: Bed,
    image: String,
}

impl Registry {
    async fn new(prefix: &str, secret: &str) -> Result<Self> {
        let bed = Bed::new(prefix).await?;
        let image = format!("registry.example/{}:1.0", bed.name());
        bed.shop(&image).await?;
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": bed.name() }, "stringData": { "value": secret },
        });
        let secrets: Api<Secret> = Api::namespaced(bed.namespace.client().clone(), NAMESPACE);
        let parameters = PatchParams::apply("quell-tests").force();
        secrets.patch(bed.name(), &parameters, &Patch::Apply(&object)).await?;
        Ok(Self { bed, image })
    }

    fn digest(&self) -> String {
        digest_of(&self.image)
    }

    fn secret(&self) -> Value {
        json!({ "name": self.bed.name(), "key": "value" })
    }

    fn sources(&self) -> Api<Source> {
        Api::all(self.bed.namespace.client().clone())
    }

    /// The Source, once it is Ready; `more` is beside a webhook with the tests' token.
    async fn source(&self, format: &str, more: Value) -> Result<()> {
        let mut spec = source_spec(format);
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        apply(&self.sources(), "Source", self.bed.name(), &spec).await?;
        let is_ready = |source: &Source| {
            let status = source.status.as_ref();
            status.is_some_and(|status| {
                status.observed_generation == source.metadata.generation
                    && conditions::is_true(&status.conditions, ConditionType::Ready)
            })
        };
        wait::until_present(&self.sources(), self.bed.name(), "Ready", DEADLINE, is_ready).await?;
        Ok(())
    }

    async fn post(&self, body: &Value) -> Result<Answer> {
        self.bed.operator.post(self.bed.name(), body).await
    }

    /// Sends until the answer has that status, as the tools do.
    async fn comes_to(&self, wanted: u16, body: &Value) -> Result<Answer> {
        wait::eventually(DEADLINE, &format!("an answer {wanted}"), async || {
            let answer = self.post(body).await?;
            anyhow::ensure!(answer.status == wanted, "it is {answer:?}");
            Ok(Some(answer))
        })
        .await
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        let mut all = self.bed.findings().list(&ListParams::default()).await?.items;
        all.sort_by(|one, other| one.spec.rule.cmp(&other.spec.rule));
        Ok(all)
    }

    /// What an Event at the Source says.
    async fn event(&self, reason: &str) -> Result<String> {
        let events: Api<Event> = Api::namespaced(self.bed.namespace.client().clone(), "default");
        let about = ListParams::default().fields(&format!("involvedObject.name={}", self.bed.name()));
        wait::eventually(DEADLINE, &format!("an Event {reason} at the Source"), async || {
            let all = events.list(&about).await?.items;
            let found = all.into_iter().find(|event| event.reason.as_deref() == Some(reason));
            Ok(found.and_then(|event| event.message))
        })
        .await
    }

    async fn close(self) -> Result<()> {
        self.sources().delete(self.bed.name(), &DeleteParams::default()).await?;
        let secrets: Api<Secret> = Api::namespaced(self.bed.namespace.client().clone(), NAMESPACE);
        secrets.delete(self.bed.name(), &DeleteParams::default()).await?;
        self.bed.finish().await
    }
}

/// Serves on this host; gives its address.
async fn serve(router: Router) -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

const PSK: &[u8] = b"a key of Clair";

/// One notification of three pages, and what was asked for it.
#[derive(Default)]
struct Clair {
    digest: String,
    /// The second page fails so often.
    failures: usize,
    asked: Vec<String>,
    served: HashSet<String>,
    /// The pages that had been served when the notification was deleted.
    deleted: Vec<usize>,
}

const NOTIFICATION: &str = "/notifier/api/v1/notification/5e4b387e-88d3-4364-86fd-063447a6fad2";

/// Whether a request shows a token that Clair would take.
fn is_signed(headers: &HeaderMap) -> bool {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some((signed, code)) = shown.strip_prefix("Bearer ").and_then(|token| token.rsplit_once('.')) else {
        return false;
    };
    let Ok(mut made) = Hmac::<Sha256>::new_from_slice(PSK) else { return false };
    made.update(signed.as_bytes());
    let claims = signed.split_once('.').and_then(|(_, claims)| URL_SAFE_NO_PAD.decode(claims).ok()).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
    let now = Utc::now().timestamp();
    let in_time =
        claims["nbf"].as_i64().is_some_and(|time| time <= now) && claims["exp"].as_i64().is_some_and(|time| time > now);
    code == URL_SAFE_NO_PAD.encode(made.finalize().into_bytes()) && claims["iss"] == "quell" && in_time
}

async fn clair(State(clair): State<Arc<Mutex<Clair>>>, request: Request) -> Response {
    let mut clair = clair.lock().unwrap_or_else(PoisonError::into_inner);
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    clair.asked.push(format!("{} {path}?{query}", request.method()));
    if !is_signed(request.headers()) || path != NOTIFICATION {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if request.method() == Method::DELETE {
        let served = clair.served.len();
        clair.deleted.push(served);
        return StatusCode::OK.into_response();
    }
    let one = |name: &str, severity: &str| {
        json!([{ "id": name, "manifest": clair.digest, "reason": "added",
            "vulnerability": { "name": name, "severity": severity, "package": { "name": "apt", "version": "1" } } }])
    };
    let page = match query.as_str() {
        "page_size=500" => json!({ "page": { "size": 500, "next": "two" }, "notifications": one("CVE-1", "High") }),
        "page_size=500&next=two" if clair.failures > 0 => {
            clair.failures -= 1;
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        "page_size=500&next=two" => {
            json!({ "page": { "size": 500, "next": "three" }, "notifications": one("CVE-2", "Low") })
        }
        "page_size=500&next=three" => json!({ "page": { "size": 500 }, "notifications": null }),
        _ => return StatusCode::BAD_REQUEST.into_response(),
    };
    clair.served.insert(query);
    axum::Json(page).into_response()
}

#[tokio::test]
async fn clairs_notifications_are_fetched_stored_and_only_then_deleted() -> Result<()> {
    let registry = Registry::new("clair", &STANDARD.encode(PSK)).await?;
    let state = Arc::new(Mutex::new(Clair { digest: registry.digest(), failures: 1, ..Clair::default() }));
    let address = serve(Router::new().fallback(clair).with_state(state.clone())).await?;
    let callback = format!("http://{address}{NOTIFICATION}");
    let notified = json!({ "notification_id": "5e4b387e-88d3-4364-86fd-063447a6fad2", "callback": callback });

    registry.source("clair", json!({})).await?;
    let unset = registry.comes_to(422, &notified).await?;
    assert!(unset.body["message"].as_str().is_some_and(|said| said.contains("spec.clair.url")), "{unset:?}");
    assert!(registry.event("NotEnabled").await?.contains("spec.clair.url"));

    let shared = json!({ "issuer": "quell", "secret": registry.secret() });
    let url = format!("http://{address}/notifier/");
    registry.source("clair", json!({ "clair": { "url": url, "preSharedKey": shared } })).await?;
    let foreign =
        json!({ "notification_id": "1", "callback": format!("http://{address}/indexer/api/v1/index_report/x") });
    assert_eq!(registry.comes_to(403, &foreign).await?.body["reason"], "NotFetched");
    assert!(registry.event("NotFetched").await?.contains("not under spec.clair.url"));
    assert!(state.lock().expect("whole").asked.is_empty(), "what the Source doesn't name is not asked");

    // It is not told that all went well while a page is missing.
    assert_eq!(registry.post(&notified).await?.status, 503);
    registry.comes_to(200, &notified).await?;
    let found = registry.findings().await?;
    let told: Vec<_> = found.iter().map(|one| (one.spec.rule.as_str(), one.spec.severity)).collect();
    assert_eq!(told, [("CVE-1", Severity::High), ("CVE-2", Severity::Low)]);
    assert_eq!(found[0].spec.target.name, "shop");
    assert!(found.iter().all(|one| one.status.as_ref().is_none_or(|status| status.count <= 1)), "no page counts twice");
    assert_eq!(registry.post(&notified).await?.status, 200, "the answer may not have come through");
    {
        let state = state.lock().expect("whole");
        assert_eq!(state.deleted, [3], "{:?}", state.asked);
    }
    let metrics = registry.bed.operator.metrics().await?;
    for outcome in ["done", "failed", "refused", "unset"] {
        let name = registry.bed.name();
        let labels = format!("quell_follow_ups_total{{source=\"{name}\",kind=\"clair\",outcome=\"{outcome}\"}}");
        assert!(metrics.contains(&labels), "{labels}");
    }
    registry.close().await
}

#[derive(Default)]
struct Harbor {
    /// The lists, by the path as it is sent.
    lists: Mutex<HashMap<String, Value>>,
}

async fn harbor(State(harbor): State<Arc<Harbor>>, request: Request) -> Response {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if header("authorization") != format!("Basic {}", STANDARD.encode("robot$quell:hush")) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let kind = "application/vnd.security.vulnerability.report; version=1.1";
    match harbor.lists.lock().unwrap_or_else(PoisonError::into_inner).get(request.uri().path()) {
        Some(list) if header("x-accept-vulnerabilities") == kind => {
            axum::Json(json!({ (kind): { "severity": "Critical", "vulnerabilities": list } })).into_response()
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn scanned(image: &str, digest: &str) -> Value {
    let overview = json!({ "application/vnd.security.vulnerability.report; version=1.1": {
        "report_id": "r", "scan_status": "Success", "severity": "High", "summary": { "total": 2, "fixable": 1, "summary": { "High": 2 } },
    }});
    json!({ "type": "SCANNING_COMPLETED", "occur_at": 1_767_323_045, "operator": "auto", "event_data": {
        "resources": [{ "digest": digest, "tag": "1.0", "resource_url": image, "scan_overview": overview }],
        "repository": { "name": "team/web", "namespace": "shop", "repo_full_name": "shop/team/web" },
    }})
}

#[tokio::test]
async fn what_harbor_counts_is_listed_in_the_finding() -> Result<()> {
    let registry = Registry::new("harbor", "robot$quell:hush").await?;
    let digest = registry.digest();
    let path = |digest: &str| {
        format!("/api/v2.0/projects/shop/repositories/team%252Fweb/artifacts/{digest}/additions/vulnerabilities")
    };
    let list = json!([
        { "id": "CVE-2026-1", "package": "openssl", "version": "3.0", "fix_version": "3.1", "severity": "Critical" },
        { "id": "CVE-2026-2", "package": "zlib", "version": "1.2", "severity": "Low" },
    ]);
    let state = Arc::new(Harbor { lists: Mutex::new([(path(&digest), list.clone())].into()) });
    let address = serve(Router::new().fallback(harbor).with_state(state.clone())).await?;
    let spec = json!({ "harbor": { "url": format!("http://{address}"), "basic": { "secret": registry.secret() } } });
    registry.source("harbor", spec).await?;

    let answer = registry.comes_to(200, &scanned(&registry.image, &digest)).await?;
    let (_, name) = answer.finding()?;
    let finding = registry.bed.findings().get(&name).await?;
    let listed: Vec<_> = finding.spec.vulnerabilities.iter().map(|one| one.id.as_str()).collect();
    assert_eq!((listed, finding.spec.severity), (vec!["CVE-2026-1", "CVE-2026-2"], Severity::Critical));
    assert_eq!((&finding.spec.target.digest, finding.spec.target.name.as_str()), (&digest, "shop"));
    let counts = finding.spec.vulnerability_counts.context("no counts")?;
    assert_eq!((counts.critical, counts.low, counts.fixable), (1, 1, 1));

    // Of what can't be fetched the counts are kept, and it is said why there is no more; once it can, it is there.
    let idle = format!("registry.example/{}-idle:1.0", registry.bed.name());
    let answer = registry.post(&scanned(&idle, &digest_of(&idle))).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    let (namespace, name) = answer.finding()?;
    let findings: Api<Finding> = Api::namespaced(registry.bed.namespace.client().clone(), &namespace);
    let counted = findings.get(&name).await?;
    assert!(counted.spec.vulnerabilities.is_empty());
    assert_eq!(counted.spec.vulnerability_counts.map(|counts| counts.high), Some(2));
    let why = counted.spec.details.get("notFetched").and_then(Value::as_str).context("no reason")?;
    assert!(why.contains("500") && registry.event("NotFetched").await?.contains("500"), "{why}");
    state.lists.lock().unwrap_or_else(PoisonError::into_inner).insert(path(&digest_of(&idle)), list);
    let is_listed = |finding: &Finding| finding.spec.vulnerabilities.len() == 2;
    let whole = wait::until_present(&findings, &name, "listed", DEADLINE, is_listed).await?;
    assert!(!whole.spec.details.contains_key("notFetched") && whole.spec.severity == Severity::Critical);
    assert!(whole.status.is_none_or(|status| status.count <= 1), "it was reported once");
    findings.delete(&name, &DeleteParams::default()).await?;
    assert!(!registry.bed.operator.log()?.contains("hush"));
    registry.close().await
}

#[tokio::test]
async fn a_source_of_sns_takes_only_what_sns_has_signed_for_its_topic() -> Result<()> {
    let registry = Registry::new("sns", "unused").await?;
    let topic = "arn:aws:sns:us-east-1:123456789012:findings";
    registry.source("falco", json!({ "webhook": { "sns": { "topicArn": topic } } })).await?;
    let alert = falco(registry.bed.name(), "web", &json!({}));
    let message = |kind: &str, topic: &str, certificate: &str| {
        json!({
            "Type": kind, "MessageId": "m-1", "TopicArn": topic, "Message": alert.to_string(),
            "Timestamp": Utc::now().to_rfc3339(), "SignatureVersion": "2", "Signature": STANDARD.encode([0; 256]),
            "SigningCertURL": certificate, "Token": "t", "SubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription",
        })
    };
    let aws = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem";
    let another = "arn:aws:sns:us-east-1:999999999999:findings";
    let mut old = message("Notification", topic, aws);
    old["Timestamp"] = json!("2026-01-01T00:00:00.000Z");
    for (body, reason) in [
        (alert.clone(), "TopicForeign"),
        (message("Notification", another, aws), "TopicForeign"),
        (message("SubscriptionConfirmation", another, aws), "TopicForeign"),
        (message("Notification", topic, "https://evil.example/SimpleNotificationService-0.pem"), "SignatureInvalid"),
        (old, "Stale"),
    ] {
        let answer = registry.comes_to(403, &body).await?;
        assert_eq!(answer.body["reason"], reason, "{answer:?}");
    }
    assert!(registry.findings().await?.is_empty());
    registry.close().await
}
