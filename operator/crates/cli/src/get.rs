//! `get`: findings, and what was done about them.

use std::collections::HashMap;
use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use quell_crds::v1alpha1::{Finding, Remediation};
use serde_json::{Value, json};

use crate::client::{Connection, list};
use crate::flags::{Connect, Get, Output};
use crate::table::{self, Column};
use crate::text::{count, cut, one_line, yaml};
use crate::{CliError, Exit, Io, find, objects, time};

pub async fn run(of: &Get, connect: &Connect, io: &mut Io) -> Result<Exit, CliError> {
    let connection = Connection::new(connect).await?;
    let now = Utc::now();
    if let Some(name) = &of.finding {
        let mut finding = find::finding(&connection, name).await?;
        let text = match of.output {
            None => detail(&finding, &find::runs(&connection, &finding).await?, now, io.terminal),
            Some(Output::Wide) => {
                let runs = find::runs(&connection, &finding).await?;
                rows(&[finding], &runs, now, false, Form::Wide)
            }
            Some(Output::Name) => name_of(&finding),
            Some(Output::Json) => json_text(&plain(&mut finding)),
            Some(Output::Yaml) => yaml(&plain(&mut finding)),
        };
        io.out.write_all(text.as_bytes())?;
        return Ok(Exit::Ok);
    }
    let (client, namespace) = (connection.client.clone(), connection.namespace.as_str());
    let (findings, remediations): (Api<Finding>, Api<Remediation>) = if of.all_namespaces {
        (Api::all(client.clone()), Api::all(client))
    } else {
        (Api::namespaced(client.clone(), namespace), Api::namespaced(client, namespace))
    };
    let mut all = list(&findings, &ListParams::default()).await?;
    all.sort_by_key(|finding| {
        let age = time::created(&finding.metadata).map(|at| at.timestamp()).unwrap_or_default();
        (std::cmp::Reverse(finding.spec.severity), std::cmp::Reverse(age), finding.namespace(), finding.name_any())
    });
    let text = match of.output {
        Some(Output::Name) => all.iter().map(name_of).collect(),
        Some(Output::Json) => json_text(&list_of(&mut all)),
        Some(Output::Yaml) => yaml(&list_of(&mut all)),
        None | Some(Output::Wide) if all.is_empty() => {
            let where_ =
                if of.all_namespaces { "any namespace".to_owned() } else { format!("the namespace {namespace}") };
            writeln!(io.err, "No findings in {where_}.")?;
            return Ok(Exit::Ok);
        }
        None | Some(Output::Wide) => {
            let runs = list(&remediations, &ListParams::default()).await?;
            let form = match (of.output.is_some(), io.terminal) {
                (true, _) => Form::Wide,
                (false, true) => Form::Line,
                (false, false) => Form::Whole,
            };
            rows(&all, &runs, now, of.all_namespaces, form)
        }
    };
    io.out.write_all(text.as_bytes())?;
    Ok(Exit::Ok)
}

fn name_of(finding: &Finding) -> String {
    format!("finding.quell.dev/{}\n", finding.name_any())
}

/// As kubectl prints it: without the bookkeeping of who wrote which field.
fn plain(finding: &mut Finding) -> Value {
    finding.metadata.managed_fields = None;
    json!(finding)
}

fn list_of(findings: &mut [Finding]) -> Value {
    let items: Vec<Value> = findings.iter_mut().map(plain).collect();
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

fn json_text(value: &Value) -> String {
    // A value of JSON has a text.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    format!("{text}\n")
}

/// How much of each finding a table shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// What fits a line.
    Line,
    /// The same columns, with every value whole.
    Whole,
    /// More columns, with every value whole.
    Wide,
}

fn rows(findings: &[Finding], runs: &[Remediation], now: DateTime<Utc>, namespaces: bool, form: Form) -> String {
    let wide = form == Form::Wide;
    let mut of: HashMap<&str, Vec<&Remediation>> = HashMap::new();
    for run in runs {
        of.entry(run.spec.finding.uid.as_str()).or_default().push(run);
    }
    let mut columns = vec![
        Column::kept("NAME", 16),
        Column::kept("SEVERITY", 8),
        Column::new("SOURCE", 6),
        Column::new("RULE", 14),
        Column::new("TARGET", 8),
        Column::kept("STATE", 8),
        Column::new("PLAYBOOK", 8),
        Column::kept("COUNT", 5),
        Column::kept("AGE", 3),
        Column::new("DONE", 15),
    ];
    if namespaces {
        columns.insert(0, Column::kept("NAMESPACE", 9));
    }
    if wide {
        columns.extend(["KIND", "WORKLOAD", "NODE", "IMAGE"].map(|name| Column::new(name, 4)));
    }
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| {
            let spec = &finding.spec;
            let status = finding.status.clone().unwrap_or_default();
            let uid = finding.uid().unwrap_or_default();
            let runs = of.get(uid.as_str()).map(Vec::as_slice).unwrap_or_default();
            let mut row = vec![
                finding.name_any(),
                spec.severity.to_string(),
                spec.source.clone(),
                spec.rule.clone(),
                spec.target.name.clone(),
                status.state.map(|state| state.to_string()).unwrap_or_default(),
                status.playbook,
                status.count.to_string(),
                time::created(&finding.metadata).map(|at| time::age(at, now)).unwrap_or_default(),
                objects::done(runs),
            ];
            if namespaces {
                row.insert(0, finding.namespace().unwrap_or_default());
            }
            if wide {
                let workload = spec.workload.as_ref().map(|workload| format!("{}/{}", workload.kind, workload.name));
                row.extend([
                    spec.target.kind.clone(),
                    workload.unwrap_or_default(),
                    spec.target.node.clone(),
                    objects::image(&spec.target),
                ]);
            }
            row
        })
        .collect();
    table::render(&columns, &rows, form == Form::Line)
}

fn detail(finding: &Finding, runs: &[Remediation], now: DateTime<Utc>, fit: bool) -> String {
    let most = if fit { table::WIDTH - 10 } else { usize::MAX };
    let spec = &finding.spec;
    let status = finding.status.clone().unwrap_or_default();
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<10}{}", cut(&one_line(value), most));
        }
    };
    line("Finding", &format!("{}/{}", finding.namespace().unwrap_or_default(), finding.name_any()));
    line("Rule", &format!("{} ({}, {})", spec.rule, spec.severity, spec.source));
    line("Message", &spec.message);
    line("Target", &objects::target(&spec.target));
    line("Workload", &spec.workload.as_ref().map(objects::workload).unwrap_or_default());
    line("Image", &objects::image(&spec.target));
    line("State", &status.state.map_or_else(|| "not looked at yet".to_owned(), |state| state.to_string()));
    if let Some(first) = time::created(&finding.metadata) {
        let last = status.last_seen.unwrap_or(first).max(first);
        line(
            "Reported",
            &format!(
                "{}, last {}",
                count(usize::try_from(status.count).unwrap_or_default(), "time"),
                time::moment(last, now)
            ),
        );
    }
    if status.episode > 1 {
        let since = status.reopened_at.map(|at| format!(", since {}", time::moment(at, now))).unwrap_or_default();
        line("Episode", &format!("{}{since}", status.episode));
    }
    line("Resolved", &status.resolved_at.map(|at| time::moment(at, now)).unwrap_or_default());
    line("Expired", &status.expired_at.map(|at| time::moment(at, now)).unwrap_or_default());
    for run in runs {
        let status = objects::status(run);
        let done = objects::done(&[run]);
        line(
            "Run",
            &format!("{} ({}): {}", run.name_any(), status.phase, if done.is_empty() { "no step yet" } else { &done }),
        );
    }
    let _ = writeln!(text, "\nMore: kubectl quell explain {}", objects::flags(finding));
    text
}

#[cfg(test)]
mod tests {
    use quell_crds::v1alpha1::{FindingSpec, FindingStatus, Severity};

    use super::*;

    #[test]
    fn long_values_fit_120_characters_a_line() {
        let mut spec = FindingSpec {
            source: "s".repeat(63),
            rule: "r".repeat(253),
            severity: Severity::Critical,
            ..FindingSpec::default()
        };
        spec.target.name = "web-".repeat(60);
        spec.message = "m".repeat(2048);
        let mut finding = Finding::new(&"n".repeat(63), spec);
        finding.metadata.namespace = Some("x".repeat(63));
        finding.status =
            Some(FindingStatus { playbook: "p".repeat(300), count: 1_234_567, ..FindingStatus::default() });
        let now = Utc::now();
        for text in [
            rows(&[finding.clone()], &[], now, true, Form::Line),
            rows(&[finding.clone()], &[], now, false, Form::Line),
            detail(&finding, &[], now, true).split("More:").next().unwrap_or_default().to_owned(),
        ] {
            assert!(text.lines().all(|line| line.chars().count() <= table::WIDTH), "{text}");
        }
        let whole = rows(&[finding.clone()], &[], now, true, Form::Whole);
        assert!(whole.contains(&"r".repeat(253)) && !whole.contains("IMAGE") && !whole.contains('…'), "{whole}");
        assert!(detail(&finding, &[], now, false).contains(&"r".repeat(253)));
        let wide = rows(&[finding], &[], now, true, Form::Wide);
        assert!(wide.contains(&"r".repeat(253)) && wide.contains("IMAGE"), "{wide}");
    }
}
