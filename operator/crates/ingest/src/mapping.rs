//! Any JSON, by the mapping of a Source: the expressions are compiled by `quell_playbooks::mapping`, and evaluated here.
//!
//! Nothing is guessed: an expression that fails, a severity that is none, a text where none can be, refuse the body with the item, the field
//! and the reason.

mod target;
mod value;

use quell_crds::v1alpha1::{Category, Severity};
use quell_playbooks::cel::{Budget, EvaluationError, Scope, Session};
use quell_playbooks::mapping::{BODY, Field, HEADERS, ITEM, Mapping};
use serde_json::{Deserializer, Map, Value};

use crate::json::{kind_of, text_of};
use crate::kinds::slug;
use crate::signal::open_wins;
use crate::vulnerabilities::summarise;
use crate::{MAX_SIGNALS, Signal, Unreadable, bound};

/// Steps that all expressions over one body may take together: some half of a second.
const STEPS: u64 = 25_000_000;

/// Reads a body by a mapping; `tool` is who found it where the mapping doesn't say. The headers' names may be in any case.
pub fn map(mapping: &Mapping, tool: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Vec<Signal>, Unreadable> {
    let headers = told(headers);
    let mut reading = Reading { mapping, tool, budget: Budget::of(STEPS), signals: Vec::new(), items: 0 };
    let body = text_of(body)?;
    let mut values = Deserializer::from_slice(body).into_iter::<Value>();
    let (mut start, mut number) = (0, 0_usize);
    while let Some(value) = values.next() {
        let value = value.map_err(|error| Unreadable::json(&error))?;
        number += 1;
        let several = number > 1 || body.get(values.byte_offset()..).is_some_and(|rest| !rest.trim_ascii().is_empty());
        let at = if several { format!("value {number}, ") } else { String::new() };
        reading.value(&at, value, &headers)?;
        start = values.byte_offset();
    }
    if start == 0 {
        return Err(Unreadable::new("line 1, column 1", "the body is empty, JSON was expected"));
    }
    Ok(open_wins(reading.signals))
}

/// Headers as expressions see them. What lets a sender in is not for Findings.
fn told(headers: &[(&str, &str)]) -> Value {
    const CREDENTIALS: [&str; 7] = ["auth", "cookie", "key", "password", "secret", "signature", "token"];
    let mut told = Map::new();
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        if !CREDENTIALS.iter().any(|word| name.contains(word)) {
            told.insert(name, Value::from(*value));
        }
    }
    Value::Object(told)
}

struct Reading<'a> {
    mapping: &'a Mapping,
    tool: &'a str,
    budget: Budget,
    signals: Vec<Signal>,
    items: usize,
}

impl Reading<'_> {
    /// One JSON value of the body.
    fn value(&mut self, at: &str, body: Value, headers: &Value) -> Result<(), Unreadable> {
        let scope = Scope::default().with(BODY, &body).with(HEADERS, headers);
        let whole = Session::over(scope);
        let Some(for_each) = &self.mapping.for_each else { return self.item(at, &whole, &body) };
        let mut place = Place { at: at.to_owned(), session: &whole, budget: &mut self.budget };
        let items = match place.value(for_each)? {
            Value::Array(items) => items,
            Value::Null => Vec::new(),
            other => return Err(place.wrong(for_each, format!("a list was expected, this is {}", kind_of(&other)))),
        };
        // The list's own copies are enough from here on.
        drop(body);
        for (index, item) in items.into_iter().enumerate() {
            self.item(&format!("{at}item {index}, "), &whole, &item)?;
        }
        Ok(())
    }

    fn item(&mut self, at: &str, whole: &Session, item: &Value) -> Result<(), Unreadable> {
        self.items += 1;
        if self.items > MAX_SIGNALS {
            let at = at.trim_end_matches(", ");
            let at = if at.is_empty() { "the body" } else { at };
            return Err(Unreadable::new(
                at,
                format!("at most {MAX_SIGNALS} items are taken in one body: send them in parts"),
            ));
        }
        let session = whole.with(ITEM, item);
        let mut place = Place { at: at.to_owned(), session: &session, budget: &mut self.budget };
        if let Some(signal) = place.signal(self.mapping, self.tool)? {
            self.signals.push(signal);
        }
        Ok(())
    }
}

/// An item, or the body before its items are known.
struct Place<'a> {
    /// Where it is, with a comma after it; empty for a body that is the one item.
    at: String,
    session: &'a Session<'a>,
    budget: &'a mut Budget,
}

impl Place<'_> {
    fn signal(&mut self, mapping: &Mapping, tool: &str) -> Result<Option<Signal>, Unreadable> {
        if let Some(when) = &mapping.when
            && !self.is_true(when)?
        {
            return Ok(None);
        }
        let rule = self.text(Some(&mapping.rule))?;
        let rule = rule.ok_or_else(|| self.wrong(&mapping.rule, "is empty: a Finding says what is wrong"))?;
        let about = target::about(self, &mapping.target)?;
        let tool = self.text(mapping.tool.as_ref())?.map_or_else(|| tool.to_owned(), |tool| slug(&tool));
        let mut identity = Vec::new();
        for part in &mapping.fingerprint {
            let value = self.value(part)?;
            value::identity(&value, &mut identity).map_err(|problem| self.wrong(part, problem))?;
        }
        let mut signal = Signal {
            severity: Severity::Medium,
            identity,
            detected_at: self.read(mapping.detected_at.as_ref(), value::time)?.flatten(),
            details: self
                .read(mapping.details.as_ref(), |value| value::details(value).map(|all| bound::details(&all)))?
                .unwrap_or_default(),
            ..Signal::new(&tool, Category::Other, rule, about)
        };
        if let Some(found) = self.read(mapping.vulnerabilities.as_ref(), value::vulnerabilities)? {
            signal.category = Category::Vulnerability;
            signal = signal.with_vulnerabilities(summarise(found));
        }
        if let Some(category) = self.read(mapping.category.as_ref(), value::category)? {
            signal.category = category;
        }
        if let Some(message) = self.text(mapping.message.as_ref())? {
            signal.message = message;
        }
        if let Some(resolved) = &mapping.resolved {
            signal.resolved = self.is_true(resolved)?;
        }
        if let Some(severity) = self.read(mapping.severity.as_ref(), value::severity)? {
            signal.severity = severity;
        }
        Ok(Some(signal))
    }

    /// The text of a field; nothing where there is no such field, or where it says nothing.
    fn text(&mut self, field: Option<&Field>) -> Result<Option<String>, Unreadable> {
        Ok(self.read(field, value::text)?.flatten())
    }

    fn read<T>(
        &mut self,
        field: Option<&Field>,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Result<Option<T>, Unreadable> {
        let Some(field) = field else { return Ok(None) };
        let value = self.value(field)?;
        read(value).map(Some).map_err(|problem| self.wrong(field, problem))
    }

    fn value(&mut self, field: &Field) -> Result<Value, Unreadable> {
        self.session.evaluate(&field.expression, self.budget).map_err(|error| self.failed(field, &error))
    }

    fn is_true(&mut self, field: &Field) -> Result<bool, Unreadable> {
        self.session.is_true(&field.expression, self.budget).map_err(|error| self.failed(field, &error))
    }

    fn failed(&self, field: &Field, error: &EvaluationError) -> Unreadable {
        self.wrong(
            field,
            match error {
                // The field says which expression it is; what is wrong with it must fit.
                EvaluationError::Failed { problem, .. } => {
                    let missing = problem.strip_prefix("No such key: ");
                    missing.map_or_else(
                        || problem.clone(),
                        |key| format!("`{key}` is missing; where it may be, write `.?{key}`"),
                    )
                }
                EvaluationError::NotBoolean { found, .. } => format!("neither true nor false but a {found}"),
                other => other.to_string(),
            },
        )
    }

    fn wrong(&self, field: &Field, problem: impl AsRef<str>) -> Unreadable {
        Unreadable::new(format!("{}{}", self.at, field.name), problem)
    }
}

#[cfg(test)]
mod tests;
