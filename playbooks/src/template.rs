//! Strings with `${…}` in them: the text of CEL expressions, put in place of each.

use serde_json::{Map, Value};
use thiserror::Error;

use crate::cel::{CompileError, EvaluationError, Expression, Names, Scope};

/// Why a template can't be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TemplateError {
    /// A `${` without its `}`.
    #[error("has a ${{ without its }}")]
    Unclosed,
    /// An expression in it can't be used.
    #[error("${{{source_text}}} {error}")]
    Expression {
        /// The expression.
        source_text: String,
        /// What is wrong with it.
        error: CompileError,
    },
}

/// A string with its expressions compiled.
#[derive(Clone, Debug)]
pub struct Template {
    segments: Vec<Segment>,
}

#[derive(Clone, Debug)]
enum Segment {
    Text(String),
    Expression(Expression),
}

impl Template {
    /// Compiles `source`; `$${` stands for a plain `${`.
    pub fn compile(source: &str, names: &Names) -> Result<Self, TemplateError> {
        let mut segments = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('$') {
                text.push_str(before);
                text.push_str("${");
                rest = &from[2..];
                continue;
            }
            text.push_str(before);
            let end = closing(from).ok_or(TemplateError::Unclosed)?;
            let inner = &from[2..end];
            let expression = Expression::compile(inner, names)
                .map_err(|error| TemplateError::Expression { source_text: inner.to_owned(), error })?;
            if !text.is_empty() {
                segments.push(Segment::Text(std::mem::take(&mut text)));
            }
            segments.push(Segment::Expression(expression));
            rest = &from[end + 1..];
        }
        text.push_str(rest);
        if !text.is_empty() {
            segments.push(Segment::Text(text));
        }
        Ok(Self { segments })
    }

    /// The string, with the value of each expression in its place.
    pub fn render(&self, scope: &Scope) -> Result<String, EvaluationError> {
        let mut out = String::new();
        for segment in &self.segments {
            match segment {
                Segment::Text(text) => out.push_str(text),
                Segment::Expression(expression) => match expression.evaluate(scope)? {
                    Value::String(text) => out.push_str(&text),
                    Value::Null => {}
                    other => out.push_str(&other.to_string()),
                },
            }
        }
        Ok(out)
    }

    /// The value: of the expression itself where the whole string is one `${…}`, so that numbers stay numbers; else a string.
    pub fn value(&self, scope: &Scope) -> Result<Value, EvaluationError> {
        match self.segments.as_slice() {
            [Segment::Expression(expression)] => expression.evaluate(scope),
            _ => self.render(scope).map(Value::String),
        }
    }
}

/// Compiles and renders in one go.
pub fn render(source: &str, scope: &Scope, names: &Names) -> Result<String, RenderError> {
    Ok(Template::compile(source, names)?.render(scope)?)
}

/// Why a string could not be filled in.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RenderError {
    /// It isn't a template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// An expression has no value.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
}

/// Compiles every string in a JSON object; the error names the place.
pub fn check_object(object: &Map<String, Value>, names: &Names, at: &str) -> Result<(), (String, TemplateError)> {
    object.iter().try_for_each(|(key, value)| check_value(value, names, &format!("{at}.{key}")))
}

fn check_value(value: &Value, names: &Names, at: &str) -> Result<(), (String, TemplateError)> {
    match value {
        Value::String(text) => Template::compile(text, names).map(|_| ()).map_err(|error| (at.to_owned(), error)),
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(i, item)| check_value(item, names, &format!("{at}[{i}]")))
        }
        Value::Object(object) => check_object(object, names, at),
        _ => Ok(()),
    }
}

/// Fills in every string in a JSON object.
pub fn render_object(
    object: &Map<String, Value>,
    scope: &Scope,
    names: &Names,
) -> Result<Map<String, Value>, RenderError> {
    object.iter().map(|(key, value)| Ok((key.clone(), render_value(value, scope, names)?))).collect()
}

fn render_value(value: &Value, scope: &Scope, names: &Names) -> Result<Value, RenderError> {
    Ok(match value {
        Value::String(text) => Template::compile(text, names)?.value(scope)?,
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| render_value(item, scope, names)).collect::<Result<_, _>>()?)
        }
        Value::Object(object) => Value::Object(render_object(object, scope, names)?),
        other => other.clone(),
    })
}

/// The index of the `}` that closes the `${` at the start; brackets inside, and quoted text, are passed over.
fn closing(source: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut escaped = false;
    for (i, c) in source.char_indices().skip(1) {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(source: &str) -> Result<String, RenderError> {
        let scope = Scope::default().with("finding", &json!({"rule": "shell", "count": 3, "none": null}));
        render(source, &scope, &Names::of(&["finding"]))
    }

    #[test]
    fn text_around_expressions_stays() {
        assert_eq!(rendered("a ${finding.rule} b ${finding.count}!").unwrap(), "a shell b 3!");
    }

    #[test]
    fn braces_and_quotes_inside_an_expression_do_not_end_it() {
        assert_eq!(rendered("${ {'a}': 1}['a}'] } ${'}' + \"{\"}").unwrap(), "1 }{");
    }

    #[test]
    fn a_doubled_dollar_is_text() {
        assert_eq!(rendered("$${HOME} ${finding.rule}").unwrap(), "${HOME} shell");
    }

    #[test]
    fn an_open_bracket_is_an_error() {
        assert_eq!(rendered("${finding.rule").unwrap_err(), RenderError::Template(TemplateError::Unclosed));
    }

    #[test]
    fn one_expression_alone_keeps_its_type_in_an_object() {
        let object = json!({"n": "${finding.count}", "list": ["x${finding.count}"], "k": 1});
        let scope = Scope::default().with("finding", &json!({"count": 3}));
        let filled = render_object(object.as_object().unwrap(), &scope, &Names::of(&["finding"])).unwrap();
        assert_eq!(Value::Object(filled), json!({"n": 3, "list": ["x3"], "k": 1}));
    }

    #[test]
    fn a_mistake_in_an_object_is_named_by_its_place() {
        let object = json!({"a": {"b": ["ok", "${nope}"]}});
        let (at, _) = check_object(object.as_object().unwrap(), &Names::of(&[]), "spec").unwrap_err();
        assert_eq!(at, "spec.a.b[1]");
    }
}
