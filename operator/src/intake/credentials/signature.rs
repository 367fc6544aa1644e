//! Signatures of bodies: HMAC with a key that both sides know.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use quell_crds::conditions::Reason;
use quell_crds::v1alpha1::{self as api, HmacEncoding};
use quell_playbooks::Problem;
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};

use super::Values;

const TOLERANCE: Duration = Duration::from_mins(5);
const SEPARATOR: &str = ".";
/// Requests that are remembered so that they are not taken again. Beyond these the oldest are forgotten.
const REMEMBERED: usize = 100_000;

type Code = [u8; 32];

/// How a Source's bodies are signed.
#[derive(Debug)]
pub struct Signature {
    keys: Values,
    header: HeaderName,
    prefix: String,
    encoding: HmacEncoding,
    stamp: Option<Stamp>,
}

#[derive(Debug)]
struct Stamp {
    header: HeaderName,
    tolerance: Duration,
    separator: String,
}

/// What a signature says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    /// It is of somebody who has a key, and new.
    Good(Code),
    /// It isn't there, or not of a key of the Source.
    Bad,
    /// It is too old, or of a time to come.
    Stale,
    /// It was taken before.
    Again,
}

impl Signature {
    /// As the Source says.
    pub fn compile(hmac: &api::Hmac, keys: Values) -> Result<Self, Problem> {
        let name = |name: &str, at: &str| {
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| Problem {
                reason: Reason::ParameterInvalid,
                at: format!("spec.webhook.hmac.{at}"),
                message: format!("`{name}` is not the name of a header"),
            })
        };
        let stamp = hmac.timestamp.as_ref().map(|stamp| {
            Ok(Stamp {
                header: name(&stamp.header, "timestamp.header")?,
                tolerance: stamp.tolerance.map_or(TOLERANCE, api::Duration::get),
                separator: stamp.separator.clone().unwrap_or_else(|| SEPARATOR.to_owned()),
            })
        });
        let header = name(&hmac.header, "header")?;
        Ok(Self { keys, header, prefix: hmac.prefix.clone(), encoding: hmac.encoding, stamp: stamp.transpose()? })
    }

    /// Judges a body as it was sent; `now` in seconds since 1970.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8], now: i64, seen: &Seen) -> Signed {
        let Some(shown) = self.shown(headers) else { return Signed::Bad };
        let mut stamped = Vec::new();
        let mut time = None;
        if let Some(stamp) = &self.stamp {
            let Some(text) = headers.get(&stamp.header).and_then(|value| value.to_str().ok()) else {
                return Signed::Bad;
            };
            let Ok(seconds) = text.trim().parse::<i64>() else { return Signed::Bad };
            stamped.extend_from_slice(text.trim().as_bytes());
            stamped.extend_from_slice(stamp.separator.as_bytes());
            time = Some((seconds, stamp.tolerance));
        }
        let mut good = Choice::from(0);
        for key in &self.keys.0 {
            // A key of any length will do.
            let Ok(mut code) = Hmac::<Sha256>::new_from_slice(key) else { continue };
            code.update(&stamped);
            code.update(body);
            good |= code.finalize().into_bytes().as_slice().ct_eq(&shown);
        }
        if !bool::from(good) {
            return Signed::Bad;
        }
        let Some((seconds, tolerance)) = time else { return Signed::Good(shown) };
        let tolerance = tolerance.as_secs();
        if seconds.abs_diff(now) > tolerance {
            return Signed::Stale;
        }
        let until = seconds.saturating_add_unsigned(tolerance);
        if seen.is_new(shown, until, now) { Signed::Good(shown) } else { Signed::Again }
    }

    fn shown(&self, headers: &HeaderMap) -> Option<Code> {
        let text = headers.get(&self.header)?.to_str().ok()?.trim().strip_prefix(&self.prefix)?;
        match self.encoding {
            HmacEncoding::Hex => hexadecimal(text),
            HmacEncoding::Base64 => STANDARD.decode(text).ok()?.try_into().ok(),
        }
    }

    /// What a sender is told to show.
    #[must_use]
    pub fn wanted(&self) -> String {
        let time = self.stamp.as_ref().map(|stamp| format!(" and the time of sending in `{}`", stamp.header));
        format!("a signature of the body in the header `{}`{}", self.header, time.unwrap_or_default())
    }
}

fn hexadecimal(text: &str) -> Option<Code> {
    let mut code = Code::default();
    let digits = text.as_bytes();
    if digits.len() != 2 * code.len() {
        return None;
    }
    for (byte, pair) in code.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
    }
    Some(code)
}

/// The requests with a time that were taken, until they are too old to be taken again.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    codes: HashSet<Code>,
    oldest_first: VecDeque<(i64, Code)>,
}

impl Seen {
    /// Whether a request was not taken before; it is then taken to be. Times are in seconds since 1970; it is forgotten after `until`.
    pub fn is_new(&self, code: Code, until: i64, now: i64) -> bool {
        let Ok(mut taken) = self.0.lock() else { return false };
        while let Some((expires, oldest)) = taken.oldest_first.front().copied()
            && (expires < now || taken.codes.len() >= REMEMBERED)
        {
            taken.oldest_first.pop_front();
            taken.codes.remove(&oldest);
        }
        if !taken.codes.insert(code) {
            return false;
        }
        taken.oldest_first.push_back((until, code));
        true
    }

    /// The request was not taken after all: its sender may send it again.
    pub fn forget(&self, code: &Code) {
        if let Ok(mut taken) = self.0.lock()
            && taken.codes.remove(code)
        {
            taken.oldest_first.retain(|(_, known)| known != code);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn signature(timestamp: bool) -> Signature {
        let stamp = api::HmacTimestamp { header: "X-Time".to_owned(), tolerance: None, separator: None };
        let hmac = api::Hmac {
            header: "X-Signature".to_owned(),
            prefix: "sha256=".to_owned(),
            timestamp: timestamp.then_some(stamp),
            ..api::Hmac::default()
        };
        Signature::compile(&hmac, Values(vec![b"old".to_vec(), b"new".to_vec()])).unwrap()
    }

    fn headers(key: &str, time: Option<i64>, body: &str) -> HeaderMap {
        let mut code = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
        let mut headers = HeaderMap::new();
        if let Some(time) = time {
            code.update(format!("{time}.").as_bytes());
            headers.insert("x-time", time.into());
        }
        code.update(body.as_bytes());
        let text = format!("{:X}", code.finalize().into_bytes());
        headers.insert("x-signature", HeaderValue::from_str(&format!("sha256={text}")).unwrap());
        headers
    }

    #[test]
    fn a_signature_by_each_key_is_good_and_by_another_or_of_another_body_is_not() {
        let signature = signature(false);
        let verify =
            |headers: &HeaderMap, body: &str| signature.verify(headers, body.as_bytes(), NOW, &Seen::default());
        for key in ["old", "new"] {
            assert!(matches!(verify(&headers(key, None, "{}"), "{}"), Signed::Good(_)), "{key}");
        }
        assert_eq!(verify(&headers("other", None, "{}"), "{}"), Signed::Bad);
        assert_eq!(verify(&headers("old", None, "{}"), "{ }"), Signed::Bad);
        assert_eq!(verify(&HeaderMap::new(), "{}"), Signed::Bad);
        let mut cut = headers("old", None, "{}");
        cut.insert("x-signature", HeaderValue::from_static("sha256=00"));
        assert_eq!(verify(&cut, "{}"), Signed::Bad);
    }

    // RFC 4231, test case 2.
    #[test]
    fn the_signature_is_hmac_with_sha_256() {
        let hmac = api::Hmac { header: "s".to_owned(), ..api::Hmac::default() };
        let signature = Signature::compile(&hmac, Values(vec![b"Jefe".to_vec()])).unwrap();
        let mut headers = HeaderMap::new();
        headers
            .insert("s", HeaderValue::from_static("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"));
        let judged = signature.verify(&headers, b"what do ya want for nothing?", NOW, &Seen::default());
        assert!(matches!(judged, Signed::Good(_)));
    }

    #[test]
    fn with_a_time_a_request_is_taken_once_and_not_when_it_is_old() {
        let (signature, seen) = (signature(true), Seen::default());
        let verify = |headers: &HeaderMap, now: i64| signature.verify(headers, b"{}", now, &seen);
        let sent = headers("new", Some(NOW), "{}");
        let Signed::Good(code) = verify(&sent, NOW + 10) else { panic!("it is new") };
        assert_eq!(verify(&sent, NOW + 11), Signed::Again);
        seen.forget(&code);
        assert_eq!(verify(&sent, NOW + 12), Signed::Good(code), "what was not stored may be sent again");
        assert_eq!(verify(&sent, NOW + 301), Signed::Stale);
        assert_eq!(verify(&headers("new", Some(NOW + 301), "{}"), NOW), Signed::Stale);
        let mut moved = sent.clone();
        moved.insert("x-time", (NOW + 300).into());
        assert_eq!(verify(&moved, NOW + 300), Signed::Bad, "the time is signed, too");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let seen = Seen::default();
        for number in 0..REMEMBERED as u64 + 10 {
            let mut code = Code::default();
            code[..8].copy_from_slice(&number.to_le_bytes());
            assert!(seen.is_new(code, NOW, NOW));
        }
        assert_eq!(seen.0.lock().unwrap().codes.len(), REMEMBERED);
    }
}
