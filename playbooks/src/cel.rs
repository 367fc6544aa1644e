//! CEL: the one module that knows the interpreter.
//!
//! Expressions are compiled once, checked for names that nothing gives, and evaluated over a [`Scope`]. An expression that fails
//! never counts as false; callers refuse what hangs on it.

mod access;
mod check;
mod cost;
mod extent;
mod gather;
mod session;

pub use cost::MAX_COST;
pub use session::{Budget, Session};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, RwLock};

use cel::common::ast::IdedExpr;
use cel::context::{Context, VariableResolver};
use cel::extractors::This;
use cel::objects::{Key, Map, OptionalValue, Value as CelValue};
use cel::parser::Parser;
use cel::{ExecutionError, FunctionContext};
use regex::Regex;
use serde_json::Value;
use thiserror::Error;

/// Longest source of an expression in bytes.
pub const MAX_SOURCE: usize = 4096;
/// Deepest nesting of brackets: the interpreter's parser recurses for each, and its stack is bounded.
pub const MAX_DEPTH: usize = 32;

/// Most operators, dots and signs: each is a step deeper for the interpreter, which recurses, too.
pub const MAX_OPERATORS: usize = 200;

/// Why an expression can't be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CompileError {
    /// Longer than [`MAX_SOURCE`].
    #[error("is longer than {MAX_SOURCE} bytes")]
    TooLong,
    /// Deeper than [`MAX_DEPTH`].
    #[error("nests brackets, signs and conditions deeper than {MAX_DEPTH}")]
    TooDeep,
    /// More operators than [`MAX_OPERATORS`].
    #[error("has more than {MAX_OPERATORS} operators and dots; compare with a list (`in`), or use a pattern")]
    TooManyOperators,
    /// Not CEL.
    #[error("is not CEL: {0}")]
    Syntax(String),
    /// Names a variable that isn't there.
    #[error("names `{name}`, which is not there; there is {known}")]
    UnknownVariable {
        /// The name.
        name: String,
        /// What there is.
        known: String,
    },
    /// Calls a function that isn't there.
    #[error("calls `{0}`, which is not a function of CEL here")]
    UnknownFunction(String),
    /// Names the outputs of a step that doesn't come before.
    #[error("names the step `{0}`, which does not come before this one")]
    UnknownStep(String),
    /// Makes a message of a type, of which there is none here.
    #[error(
        "makes a message (`Type{{…}}`), and there are no types of messages here; a map is written `{{\"key\": value}}`"
    )]
    Message,
    /// A pattern that is not a regular expression.
    #[error("has a pattern that is not a regular expression: {0}")]
    Pattern(String),
}

/// Why an expression has no value.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EvaluationError {
    /// The interpreter failed: a missing key, wrong types.
    #[error("`{source_text}` failed: {problem}")]
    Failed {
        /// The expression.
        source_text: String,
        /// What the interpreter says.
        problem: String,
    },
    /// A condition that is neither true nor false.
    #[error("`{source_text}` is neither true nor false but a {found}")]
    NotBoolean {
        /// The expression.
        source_text: String,
        /// The type it has.
        found: String,
    },
    /// It could take longer than anybody can wait.
    #[error(
        "`{source_text}` could take {steps} steps here, and at most {MAX_COST} are allowed: it goes through long lists within each other, \
         or puts long texts together; go through fewer, or filter first"
    )]
    TooCostly {
        /// The expression.
        source_text: String,
        /// Steps that it could take.
        steps: u64,
    },
    /// All the evaluations together take longer than anybody can wait.
    #[error(
        "with all that was evaluated before it takes more steps than are allowed: go through fewer items, or look at less of each"
    )]
    BudgetSpent,
    /// A value that has no JSON form.
    #[error("`{source_text}` has a value that can't be written down")]
    NotJson {
        /// The expression.
        source_text: String,
    },
}

/// The names that an expression may use.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Variables.
    pub variables: Vec<&'static str>,
    /// Steps whose outputs may be read, where `steps` is among the variables.
    pub steps: BTreeSet<String>,
}

impl Names {
    /// The names given, and no steps.
    #[must_use]
    pub fn of(variables: &[&'static str]) -> Self {
        Self { variables: variables.to_vec(), steps: BTreeSet::new() }
    }
}

/// A compiled expression.
#[derive(Clone)]
pub struct Expression {
    source: String,
    program: Arc<IdedExpr>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.source).finish()
    }
}

impl Expression {
    /// Compiles `source`, which may use `names`.
    pub fn compile(source: &str, names: &Names) -> Result<Self, CompileError> {
        if source.len() > MAX_SOURCE {
            return Err(CompileError::TooLong);
        }
        let shape = extent::of(source);
        if shape.depth > MAX_DEPTH {
            return Err(CompileError::TooDeep);
        }
        if shape.operators > MAX_OPERATORS {
            return Err(CompileError::TooManyOperators);
        }
        let parsed = Parser::default().enable_optional_syntax(true).parse(source);
        let mut program = parsed.map_err(|error| CompileError::Syntax(one_line(&error.to_string())))?;
        check::check(&program, names)?;
        access::by_index(&mut program);
        Ok(Self { source: source.to_owned(), program: Arc::new(program) })
    }

    /// The text it was compiled from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Its value, in the terms of JSON. What is optional and isn't there is null.
    pub fn evaluate(&self, scope: &Scope) -> Result<Value, EvaluationError> {
        to_json(&self.execute(scope)?).ok_or_else(|| EvaluationError::NotJson { source_text: self.source.clone() })
    }

    /// Its value as a condition.
    pub fn is_true(&self, scope: &Scope) -> Result<bool, EvaluationError> {
        self.condition(self.execute(scope)?)
    }

    fn condition(&self, value: CelValue) -> Result<bool, EvaluationError> {
        match value {
            CelValue::Bool(value) => Ok(value),
            other => Err(EvaluationError::NotBoolean {
                source_text: self.source.clone(),
                found: other.type_of().to_string(),
            }),
        }
    }

    fn execute(&self, scope: &Scope) -> Result<CelValue, EvaluationError> {
        let steps = cost::most(&self.program, scope);
        if steps > MAX_COST {
            return Err(EvaluationError::TooCostly { source_text: self.source.clone(), steps });
        }
        let mut context = functions();
        context.set_variable_resolver(scope);
        self.run(&context)
    }

    fn run(&self, context: &Context) -> Result<CelValue, EvaluationError> {
        CelValue::resolve(&self.program, context).map_err(|error| EvaluationError::Failed {
            source_text: self.source.clone(),
            problem: one_line(&error.to_string()),
        })
    }
}

/// What every expression can call.
fn functions() -> Context<'static> {
    let mut context = Context::default();
    context.add_function("matches", matches);
    context.add_function(gather::GATHER, gather::gather);
    context
}

/// The value in the terms of JSON, where it has them.
fn to_json(value: &CelValue) -> Option<Value> {
    let CelValue::Opaque(opaque) = value else { return value.json().ok() };
    opaque.downcast_ref::<OptionalValue>()?.value().map_or(Some(Value::Null), to_json)
}

/// Patterns that are kept compiled. Playbooks have few; an expression that makes up a pattern for each Finding must not fill the memory.
const PATTERNS: usize = 512;

/// CEL's `matches`. The interpreter's own compiles the pattern anew for each Finding, which takes longer than everything else between an
/// alert and the request that contains it.
#[allow(clippy::needless_pass_by_value, reason = "the interpreter hands functions their arguments")]
fn matches(cx: &FunctionContext, This(text): This<Arc<String>>, pattern: Arc<String>) -> Result<bool, ExecutionError> {
    // Shared, not cloned: each clone of a Regex makes scratch space of its own when it is used.
    static COMPILED: RwLock<BTreeMap<String, Arc<Regex>>> = RwLock::new(BTreeMap::new());
    if let Some(regex) = COMPILED.read().ok().and_then(|known| known.get(pattern.as_str()).cloned()) {
        return Ok(regex.is_match(&text));
    }
    let regex =
        Regex::new(&pattern).map_err(|error| cx.error(format!("`{pattern}` is not a regular expression: {error}")))?;
    let found = regex.is_match(&text);
    if let Ok(mut known) = COMPILED.write() {
        if known.len() >= PATTERNS {
            known.clear();
        }
        known.insert(pattern.as_ref().clone(), Arc::new(regex));
    }
    Ok(found)
}

/// The variables that an expression sees.
#[derive(Clone, Default)]
pub struct Scope {
    variables: HashMap<&'static str, CelValue>,
}

impl Scope {
    /// The scope with one more variable, or another value for one that is there.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &Value) -> Self {
        self.set(name, value);
        self
    }

    /// Gives a variable a value.
    pub fn set(&mut self, name: &'static str, value: &Value) {
        self.variables.insert(name, from_json(value));
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl VariableResolver for Scope {
    fn resolve(&self, variable: &str) -> Option<CelValue> {
        self.variables.get(variable).cloned()
    }
}

/// JSON's numbers become CEL's `int` where they are whole: `finding.count + 1` must not fail for want of an overload.
fn from_json(value: &Value) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(value) => CelValue::Bool(*value),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| CelValue::Float(number.as_f64().unwrap_or_default()), CelValue::Int)
        }
        Value::String(text) => CelValue::String(Arc::new(text.clone())),
        Value::Array(items) => CelValue::List(Arc::new(items.iter().map(from_json).collect())),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (Key::String(Arc::new(key.clone())), from_json(value)));
            CelValue::Map(Map { map: Arc::new(fields.collect()) })
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
