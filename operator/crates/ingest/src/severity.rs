//! One scale for the words and numbers of every tool.

use quell_crds::v1alpha1::Severity;

/// The severity of a word, in any case: Falco's (which are syslog's), scanners', Prometheus' customs, clouds'. A word that no tool has is
/// worth knowing, and nothing more: it is neither dropped nor an error.
pub(crate) fn severity(word: &str) -> Severity {
    known(word).unwrap_or_default()
}

/// The same, where it matters whether the word is one.
pub(crate) fn known(word: &str) -> Option<Severity> {
    Some(match word.trim().to_ascii_lowercase().as_str() {
        "emergency" | "emerg" | "alert" | "critical" | "crit" | "fatal" | "defcon1" | "严重" => Severity::Critical,
        "error" | "err" | "high" | "major" | "important" | "page" | "高危" | "高" => Severity::High,
        "warning" | "warn" | "medium" | "middle" | "moderate" | "中危" | "中" => Severity::Medium,
        "notice" | "low" | "minor" | "低危" | "低" => Severity::Low,
        "info" | "informational" | "information" | "debug" | "negligible" | "none" | "unknown" | "untriaged"
        | "提示" => Severity::Info,
        _ => return None,
    })
}

/// The severity of a CVSS base score, as FIRST rates it: 9.0 critical, 7.0 high, 4.0 medium, more than 0 low.
pub(crate) fn of_cvss(score: f64) -> Severity {
    match score {
        score if score >= 9.0 => Severity::Critical,
        score if score >= 7.0 => Severity::High,
        score if score >= 4.0 => Severity::Medium,
        score if score > 0.0 => Severity::Low,
        _ => Severity::Info,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_every_tool_have_a_severity_in_any_case_and_unknown_ones_are_info() {
        for (word, expected) in [
            ("Emergency", Severity::Critical),
            ("ALERT", Severity::Critical),
            ("critical", Severity::Critical),
            ("Fatal", Severity::Critical),
            ("Defcon1", Severity::Critical),
            ("Error", Severity::High),
            ("HIGH", Severity::High),
            ("高危", Severity::High),
            ("Warning", Severity::Medium),
            ("MEDIUM", Severity::Medium),
            ("MIDDLE", Severity::Medium),
            ("Notice", Severity::Low),
            ("LOW", Severity::Low),
            ("Informational", Severity::Info),
            ("info", Severity::Info),
            ("Debug", Severity::Info),
            ("UNKNOWN", Severity::Info),
            ("NONE", Severity::Info),
            ("Negligible", Severity::Info),
            ("Spicy", Severity::Info),
            ("", Severity::Info),
        ] {
            assert_eq!(severity(word), expected, "{word}");
        }
        assert_eq!((known("Spicy"), known(" none ")), (None, Some(Severity::Info)));
    }

    #[test]
    fn scores_have_the_bounds_of_cvss() {
        for (score, expected) in [
            (10.0, Severity::Critical),
            (9.0, Severity::Critical),
            (8.9, Severity::High),
            (7.0, Severity::High),
            (6.9, Severity::Medium),
            (4.0, Severity::Medium),
            (3.9, Severity::Low),
            (0.1, Severity::Low),
            (0.0, Severity::Info),
            (-1.0, Severity::Info),
            (f64::NAN, Severity::Info),
        ] {
            assert_eq!(of_cvss(score), expected, "{score}");
        }
    }
}
