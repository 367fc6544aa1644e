use std::fmt;

/// The value of a key in a Secret. It can't be printed or serialized by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The bytes as they are in the Secret, already decoded from base64.
    #[must_use]
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(value.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The value as text, without the line break that editors and `echo` leave at the end of a file.
    pub(crate) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok().map(|text| text.trim_end_matches(['\r', '\n']))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a receiver said, fit for a condition: one line, short, without any of the secrets. Receivers do repeat what
/// they were sent.
pub(crate) fn scrubbed(said: &str, secrets: &[&str]) -> String {
    // Long enough for any receiver's reason, short enough for an Event.
    const LIMIT: usize = 300;
    // A shorter secret would be found inside ordinary words.
    const SHORTEST: usize = 4;
    let mut said = said.to_owned();
    for secret in secrets {
        if secret.len() >= SHORTEST {
            said = said.replace(secret, "[redacted]");
        } else if !secret.is_empty() && said.contains(secret) {
            return String::new();
        }
    }
    crate::message::cut(crate::message::one_line(&said).trim(), LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_nothing_of_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "[redacted] [redacted]");
    }

    #[test]
    fn what_a_receiver_repeats_of_a_secret_is_removed() {
        assert_eq!(scrubbed("bad key hunter2\n", &["hunter2"]), "bad key [redacted]");
        assert_eq!(scrubbed("bad key abc", &["abc"]), "");
    }
}
