//! What a Source says of the tool behind it: where it may be asked, and with what.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac as _};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{ClairNotifier, HarborApi, SecretKey, SourceSpec};
use quell_playbooks::Problem;
use reqwest::{RequestBuilder, Url};
use serde_json::json;
use sha2::Sha256;

use crate::caches::Caches;
use crate::intake::secret_value;

/// For how many seconds a token is good: it is made for one request.
const TOKEN: i64 = 60;
/// How many seconds a token is made to be older than it is, for clocks that go late.
const LATE: i64 = 10;

/// Where a Source's tool may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Under which address; its path ends in a slash.
    base: Url,
    shows: Shows,
}

/// What Quell shows the tool.
#[derive(Clone, PartialEq, Eq)]
enum Shows {
    Nothing,
    Basic { user: String, password: String },
    Token { issuer: String, key: Vec<u8> },
}

impl std::fmt::Debug for Shows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Basic { .. } => "user and password",
            Self::Token { .. } => "a token",
        })
    }
}

impl Tool {
    /// Clair's notifier, where the Source names one.
    pub fn clair(spec: &SourceSpec, caches: &Caches, namespace: &str) -> Option<Result<Self, Problem>> {
        let ClairNotifier { url, pre_shared_key } = spec.clair.as_ref()?;
        let shows = pre_shared_key.as_ref().map_or(Ok(Shows::Nothing), |shared| {
            let at = "spec.clair.preSharedKey.secret";
            let text = first_line(caches, namespace, &shared.secret, at)?;
            let key = STANDARD.decode(&text).map_err(|_| {
                let secret = &shared.secret;
                let message = format!(
                    "the key `{}` of the Secret {namespace}/{} is no Base64: give it as Clair's `auth.psk.key` has it",
                    secret.key, secret.name
                );
                invalid(at, message)
            })?;
            Ok(Shows::Token { issuer: shared.issuer.clone(), key })
        });
        Some(shows.and_then(|shows| Self::at(url, "spec.clair.url", shows)))
    }

    /// Harbor's API, where the Source names it.
    pub fn harbor(spec: &SourceSpec, caches: &Caches, namespace: &str) -> Option<Result<Self, Problem>> {
        let HarborApi { url, basic } = spec.harbor.as_ref()?;
        let shows = basic.as_ref().map_or(Ok(Shows::Nothing), |basic| {
            let at = "spec.harbor.basic.secret";
            let text = first_line(caches, namespace, &basic.secret, at)?;
            let Some((user, password)) = text.split_once(':') else {
                let message = format!("the Secret {namespace}/{} doesn't hold `user:password`", basic.secret.name);
                return Err(invalid(at, message));
            };
            Ok(Shows::Basic { user: user.to_owned(), password: password.to_owned() })
        });
        Some(shows.and_then(|shows| Self::at(url, "spec.harbor.url", shows)))
    }

    fn at(url: &str, field: &str, shows: Shows) -> Result<Self, Problem> {
        let mut base = Url::parse(url).map_err(|error| invalid(field, error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() || !is_plain(&base) {
            return Err(invalid(field, "give http or https, a host and maybe a port and a path".to_owned()));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self { base, shows })
    }

    /// The address that somebody else has written, if it is under the one that the Source names.
    pub fn allows(&self, url: &str) -> Option<Url> {
        let url = Url::parse(url).ok()?;
        let same = url.scheme() == self.base.scheme()
            && url.host() == self.base.host()
            && url.port_or_known_default() == self.base.port_or_known_default();
        (same && is_plain(&url) && url.path().starts_with(self.base.path())).then_some(url)
    }

    /// A path under the address that the Source names. Its parts are encoded already.
    pub fn under(&self, path: &str) -> Option<Url> {
        let url = format!("{}{path}", self.base);
        Url::parse(&url).ok().filter(|parsed| parsed.as_str() == url)
    }

    /// The address that the Source names.
    pub fn url(&self) -> &str {
        self.base.as_str()
    }

    /// The request with what the tool wants to see.
    pub fn show(&self, request: RequestBuilder, now: DateTime<Utc>) -> RequestBuilder {
        match &self.shows {
            Shows::Nothing => request,
            Shows::Basic { user, password } => request.basic_auth(user, Some(password)),
            Shows::Token { issuer, key } => request.bearer_auth(token(issuer, key, now)),
        }
    }
}

/// RFC 7519 and RFC 7515, HS256.
fn token(issuer: &str, key: &[u8], now: DateTime<Utc>) -> String {
    let now = now.timestamp();
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    let claims = json!({ "iss": issuer, "iat": now - LATE, "nbf": now - LATE, "exp": now + TOKEN });
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    // A key of any length will do.
    let code = Hmac::<Sha256>::new_from_slice(key).map(|mut code| {
        code.update(signed.as_bytes());
        code.finalize().into_bytes()
    });
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(code.unwrap_or_default()))
}

/// Whether an address has no user, question or fragment, and nothing encoded in its path that another reader may take for the end of a part
/// of it or for the way up.
fn is_plain(url: &Url) -> bool {
    let path = url.path().to_ascii_lowercase();
    url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
        && !["%2e", "%2f", "%5c"].iter().any(|encoded| path.contains(encoded))
}

/// What a Secret holds for Quell to show: of several values, which are for senders to show, the first.
fn first_line(caches: &Caches, namespace: &str, key: &SecretKey, at: &str) -> Result<String, Problem> {
    let value = secret_value(&caches.secrets, namespace, key).and_then(|value| String::from_utf8(value).ok());
    let line = value.as_deref().and_then(|value| value.lines().next()).map(|line| line.trim().to_owned());
    line.ok_or_else(|| {
        let message = format!("the Secret {namespace}/{} with a key `{}` is not there, or empty", key.name, key.key);
        Problem { reason: Reason::SecretMissing, at: at.to_owned(), message }
    })
}

fn invalid(at: &str, message: String) -> Problem {
    Problem { reason: Reason::ParameterInvalid, at: at.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(url: &str) -> Tool {
        Tool::at(url, "spec.clair.url", Shows::Nothing).unwrap()
    }

    #[test]
    fn only_an_address_under_the_one_that_the_source_names_is_called() {
        let tool = tool("http://clair.example:6060/notifier");
        assert!(tool.allows("http://clair.example:6060/notifier/api/v1/notification/5e4b").is_some());
        assert!(tool.allows("http://CLAIR.example:6060/x/../notifier/5e4b").is_some(), "the same once it is read");
        for url in [
            "https://clair.example:6060/notifier/5e4b",
            "http://clair.example/notifier/5e4b",
            "http://clair.example:6061/notifier/5e4b",
            "http://evil.example:6060/notifier/5e4b",
            "http://clair.example.evil.example:6060/notifier/5e4b",
            "http://a@clair.example:6060/notifier/5e4b",
            "http://clair.example:6060@evil.example/notifier/5e4b",
            "http://clair.example:6060\\@evil.example/notifier/5e4b",
            "http://clair.example:6060/notifiers/5e4b",
            "http://clair.example:6060/notifier/../indexer/5e4b",
            "http://clair.example:6060/notifier/%2e%2e/indexer/5e4b",
            "http://clair.example:6060/notifier/..%2findexer",
            "http://clair.example:6060/notifier/5e4b?next=1",
            "file:///notifier/5e4b",
            "/notifier/5e4b",
            "",
        ] {
            assert!(tool.allows(url).is_none(), "{url}");
        }
    }

    #[test]
    fn the_port_of_the_scheme_may_be_said_or_not() {
        assert!(tool("https://clair.example").allows("https://clair.example:443/x").is_some());
        assert!(tool("https://clair.example:443/").allows("https://clair.example/x").is_some());
    }

    #[test]
    fn an_address_with_a_password_or_a_question_is_refused() {
        for url in ["ftp://a/", "https://u:p@a/", "https://a/?b", "https://a/#b", "https://a/b%2fc/", "a", "http:"] {
            let problem = Tool::at(url, "spec.harbor.url", Shows::Nothing).unwrap_err();
            assert_eq!(problem.at, "spec.harbor.url", "{url}");
        }
    }

    // The signature was computed with openssl: printf … | openssl dgst -sha256 -hmac key -binary | basenc --base64url.
    #[test]
    fn a_token_is_signed_by_the_key_and_good_for_a_minute() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let token = token("quell", b"key", now);
        let parts: Vec<_> = token.split('.').collect();
        let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        assert_eq!(claims, json!({ "iss": "quell", "iat": 1_799_999_990, "nbf": 1_799_999_990, "exp": 1_800_000_060 }));
        assert_eq!(parts[2], "SGadWmM72pRACP4JU9BRMBkZM_aniwdhQDqCYqVuLOQ");
    }

    #[test]
    fn what_is_shown_is_never_told() {
        let shows = Shows::Basic { user: "robot".to_owned(), password: "hush".to_owned() };
        assert!(!format!("{:?}", Tool { shows, ..tool("https://a") }).contains("hush"));
        let shows = Shows::Token { issuer: "quell".to_owned(), key: b"hush".to_vec() };
        assert!(!format!("{shows:?}").contains("hush"));
    }
}
