//! Why the API server turned something away, from the message that it gave: what a request, an Event and a Deployment's condition carry.
//!
//! Texts: kubernetes/kubernetes, `staging/src/k8s.io/pod-security-admission`, `apiserver/pkg/admission/plugin/webhook/errors`, and
//! `apiserver/pkg/admission/plugin/policy/validating`.

/// A denial of admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    /// Pod Security admission: the level that the namespace enforces, without its version.
    PodSecurity { level: String },
    /// An admission webhook, and what it said.
    Webhook { name: String, said: String },
    /// A ValidatingAdmissionPolicy.
    Policy { name: String },
}

impl Denial {
    /// The denial that a message tells of, if it does.
    pub(crate) fn parse(message: &str) -> Option<Self> {
        if let Some((_, rest)) = message.split_once("violates PodSecurity") {
            let level = quoted(rest).unwrap_or("unknown");
            let level = level.split_once(':').map_or(level, |(level, _)| level);
            return Some(Self::PodSecurity { level: level.to_owned() });
        }
        if let Some((_, rest)) = message.split_once("admission webhook ") {
            let name = quoted(rest)?;
            let (_, said) = rest.split_once("denied the request")?;
            return Some(Self::Webhook { name: name.to_owned(), said: said.trim_start_matches(':').trim().to_owned() });
        }
        let (_, rest) = message.split_once("ValidatingAdmissionPolicy '")?;
        let (name, rest) = rest.split_once('\'')?;
        rest.contains("denied request").then(|| Self::Policy { name: name.to_owned() })
    }

    /// The name of what was not met.
    pub(crate) fn rule(&self) -> String {
        match self {
            Self::PodSecurity { level } => format!("PodSecurity {level}"),
            Self::Webhook { name, .. } => format!("admission webhook {name}"),
            Self::Policy { name } => format!("ValidatingAdmissionPolicy {name}"),
        }
    }
}

/// The first text in double quotes.
fn quoted(text: &str) -> Option<&str> {
    text.split('"').nth(1).filter(|name| !name.is_empty())
}

/// A message without the generated name of the pod that was refused, which is another for each try.
pub(crate) fn steady(message: &str) -> String {
    let Some((before, rest)) = message.split_once("pods \"") else { return message.to_owned() };
    match rest.split_once('"') {
        Some((_, after)) => format!("{before}pods{after}"),
        None => message.to_owned(),
    }
}

/// The pod that a message says was refused.
pub(crate) fn pod(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("pods \"")?;
    rest.split('"').next().filter(|name| crate::kinds::is_name(name, 253)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_says_what_was_not_met() {
        for (message, rule) in [
            (
                r#"Error creating: pods "web-1" is forbidden: violates PodSecurity "restricted:v1.35": runAsNonRoot != true"#,
                "PodSecurity restricted",
            ),
            (
                r#"admission webhook "policy.sigstore.dev" denied the request: validation failed: x"#,
                "admission webhook policy.sigstore.dev",
            ),
            (
                "ValidatingAdmissionPolicy 'no-latest' with binding 'all' denied request: no",
                "ValidatingAdmissionPolicy no-latest",
            ),
        ] {
            assert_eq!(Denial::parse(message).unwrap().rule(), rule);
        }
        for message in ["exceeded quota: a", "admission webhook \"x\" is slow", "", "admission webhook", "violates"] {
            assert_eq!(Denial::parse(message), None, "{message}");
        }
    }

    #[test]
    fn a_message_is_the_same_for_each_pod_of_a_workload() {
        assert_eq!(steady(r#"pods "web-1" is forbidden: x "a""#), steady(r#"pods "web-2" is forbidden: x "a""#));
        assert_eq!(pod(r#"pods "web-1" is forbidden"#).as_deref(), Some("web-1"));
        assert_eq!((steady("plain"), pod("plain")), ("plain".to_owned(), None));
    }
}
