//! What is wrong with an expression is found when a playbook is written, not during an incident: names that nothing gives, functions that
//! aren't there, patterns that are none.

use std::collections::HashMap;
use std::sync::Arc;

use cel::Program;
use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, LiteralValue, operators};
use cel::context::Context;
use cel::objects::Value as CelValue;

use super::{CompileError, Names, Scope, one_line};

/// Functions that the interpreter has, and the operators and macros of the language, which appear as functions.
const FUNCTIONS: &[&str] = &[
    "bytes",
    "contains",
    "double",
    "duration",
    "endsWith",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "hasValue",
    "int",
    "matches",
    "max",
    "min",
    "optional.none",
    "optional.of",
    "optional.ofNonZeroValue",
    "or",
    "orValue",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "uint",
    "value",
];

/// Looks for names that nothing gives.
pub(super) fn check(program: &IdedExpr, names: &Names) -> Result<(), CompileError> {
    Check { names, bound: Vec::new() }.visit(program)
}

/// Walks an expression, with the names that it binds itself.
struct Check<'a> {
    names: &'a Names,
    bound: Vec<String>,
}

impl Check<'_> {
    fn visit(&mut self, expression: &IdedExpr) -> Result<(), CompileError> {
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => {
                if matches!(&select.operand.expr, Expr::Ident(name) if name == "steps" && !self.bound.contains(name)) {
                    self.step(&select.field)?;
                }
                self.visit(&select.operand)
            }
            Expr::Call(call) => self.call(call),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.visit(element)),
            Expr::Map(map) => self.entries(&map.entries),
            // The interpreter panics when it comes to one.
            Expr::Struct(_) => Err(CompileError::Message),
            Expr::Comprehension(comprehension) => {
                self.visit(&comprehension.iter_range)?;
                let before = self.bound.len();
                self.bound.push(comprehension.iter_var.clone());
                self.bound.extend(comprehension.iter_var2.clone());
                self.bound.push(comprehension.accu_var.clone());
                for part in [
                    &comprehension.accu_init,
                    &comprehension.loop_cond,
                    &comprehension.loop_step,
                    &comprehension.result,
                ] {
                    self.visit(part)?;
                }
                self.bound.truncate(before);
                Ok(())
            }
        }
    }

    fn call(&mut self, call: &CallExpr) -> Result<(), CompileError> {
        let name = call.func_name.as_str();
        let operator = !name.starts_with(|c: char| c.is_ascii_alphabetic());
        let optional =
            matches!(&call.target.as_deref(), Some(IdedExpr { expr: Expr::Ident(t), .. }) if t == "optional");
        if !operator && !optional && !FUNCTIONS.contains(&name) {
            return Err(CompileError::UnknownFunction(name.to_owned()));
        }
        if name == "matches" {
            Self::pattern(call)?;
        }
        if [operators::INDEX, operators::OPT_INDEX, operators::OPT_SELECT].contains(&name)
            && let [IdedExpr { expr: Expr::Ident(of), .. }, IdedExpr { expr: Expr::Literal(key), .. }] =
                call.args.as_slice()
            && of == "steps"
            && !self.bound.contains(of)
            && let Some(step) = text(key)
        {
            self.step(&step)?;
        }
        if let (false, Some(target)) = (optional, &call.target) {
            self.visit(target)?;
        }
        call.args.iter().try_for_each(|argument| self.visit(argument))
    }

    /// A pattern that is written out is tried: the interpreter would find its mistake only when a Finding comes.
    fn pattern(call: &CallExpr) -> Result<(), CompileError> {
        let Some(IdedExpr { expr: Expr::Literal(literal), .. }) = call.args.last() else { return Ok(()) };
        let Some(pattern) = text(literal) else { return Ok(()) };
        let probe = Program::compile("''.matches(pattern)").map_err(|error| CompileError::Syntax(error.to_string()))?;
        let scope = Scope { variables: HashMap::from([("pattern", CelValue::String(pattern))]) };
        let mut context = Context::default();
        context.set_variable_resolver(&scope);
        probe.execute(&context).map(|_| ()).map_err(|error| CompileError::Pattern(one_line(&error.to_string())))
    }

    fn entries(&mut self, entries: &[IdedEntryExpr]) -> Result<(), CompileError> {
        entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::StructField(field) => self.visit(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key)?;
                self.visit(&entry.value)
            }
        })
    }

    fn variable(&self, name: &str) -> Result<(), CompileError> {
        if self.bound.iter().any(|bound| bound == name) || self.names.variables.contains(&name) {
            return Ok(());
        }
        Err(CompileError::UnknownVariable { name: name.to_owned(), known: self.names.variables.join(", ") })
    }

    fn step(&self, name: &str) -> Result<(), CompileError> {
        if !self.names.variables.contains(&"steps") || self.names.steps.contains(name) {
            return Ok(());
        }
        Err(CompileError::UnknownStep(name.to_owned()))
    }
}

/// The text of a literal that is a string.
pub(super) fn text(literal: &LiteralValue) -> Option<Arc<String>> {
    let value = literal.to_val();
    match CelValue::try_from(value.as_ref()) {
        Ok(CelValue::String(text)) => Some(text),
        _ => None,
    }
}
