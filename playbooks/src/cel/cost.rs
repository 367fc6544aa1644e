//! What an expression can cost at most, told before it is evaluated: the interpreter itself knows no end.
//!
//! Only `all`, `exists`, `exists_one`, `filter` and `map` repeat anything, and each as often as its list is long, so the bound is a
//! product over nested ones. Lists that come from the scope count with the length that they have; what an expression makes itself counts
//! with the most that it can be.

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, operators};
use cel::objects::{Key, Value as CelValue};

use super::Scope;
use super::check::text;
use super::gather::GATHER;

/// Most steps that an evaluation may take. A step is looking at a value or copying eight bytes: some ten nanoseconds.
pub const MAX_COST: u64 = 10_000_000;
/// Bytes that are copied in the time of a step.
const BYTES: usize = 8;
/// The most that a value without parts becomes as a text, in the measure of [`weight`].
const SCALAR_TEXT: u64 = 48;

/// Steps that the expression may take over these variables, at most.
pub(super) fn most(expression: &IdedExpr, scope: &Scope) -> u64 {
    if !repeats(expression) {
        return 0;
    }
    Estimate { scope, bound: Vec::new() }.of(expression).steps
}

/// The same for any expression, and with what it takes to look at its value.
pub(super) fn with_result(expression: &IdedExpr, scope: &Scope) -> u64 {
    let estimated = Estimate { scope, bound: Vec::new() }.of(expression);
    add(&[estimated.steps, estimated.shape.size().weight])
}

/// Whether there is a comprehension in it. Without one an expression is over in as many steps as it has characters.
fn repeats(expression: &IdedExpr) -> bool {
    match &expression.expr {
        Expr::Comprehension(_) => true,
        Expr::Select(select) => repeats(&select.operand),
        Expr::Call(call) if call.func_name == GATHER => true,
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).any(repeats),
        Expr::List(list) => list.elements.iter().any(repeats),
        Expr::Map(map) => map.entries.iter().flat_map(parts).any(repeats),
        Expr::Struct(structure) => structure.entries.iter().flat_map(parts).any(repeats),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => false,
    }
}

fn parts(entry: &IdedEntryExpr) -> impl Iterator<Item = &IdedExpr> {
    let (key, value) = match &entry.expr {
        EntryExpr::StructField(field) => (None, &field.value),
        EntryExpr::MapEntry(entry) => (Some(&entry.key), &entry.value),
    };
    key.into_iter().chain([value])
}

/// What is known of a value before it is computed.
#[derive(Clone, Copy)]
enum Shape<'a> {
    /// It is this one.
    Known(&'a CelValue),
    /// It is no larger than that.
    AtMost(Size),
}

/// How large a value is.
#[derive(Clone, Copy)]
struct Size {
    /// All of it, in steps that it takes to look at it.
    weight: u64,
    /// How many parts it has.
    length: u64,
    /// The largest of them.
    part: u64,
}

impl Size {
    /// Of what is known no better, all of it may be one part, and each step of it a part.
    fn of(weight: u64) -> Self {
        Self { weight, length: weight, part: weight }
    }
}

impl Shape<'_> {
    fn size(self) -> Size {
        match self {
            Self::Known(value) => {
                let (length, part) = match value {
                    CelValue::List(items) => (items.len(), items.iter().map(weight).max().unwrap_or_default()),
                    // Who goes through a map goes through its keys.
                    CelValue::Map(map) => (map.map.len(), map.map.keys().map(key_weight).max().unwrap_or_default()),
                    _ => (0, 0),
                };
                Size { weight: weight(value), length: length as u64, part }
            }
            Self::AtMost(size) => size,
        }
    }
}

fn weight(value: &CelValue) -> u64 {
    let bytes = |length: usize| 1 + (length / BYTES) as u64;
    match value {
        CelValue::List(items) => 1 + items.iter().map(weight).sum::<u64>(),
        CelValue::Map(map) => 1 + map.map.iter().map(|(key, value)| key_weight(key) + weight(value)).sum::<u64>(),
        CelValue::String(text) => bytes(text.len()),
        CelValue::Bytes(all) => bytes(all.len()),
        _ => 1,
    }
}

fn key_weight(key: &Key) -> u64 {
    match key {
        Key::String(text) => 1 + (text.len() / BYTES) as u64,
        _ => 1,
    }
}

/// Steps and result of a part of an expression.
#[derive(Clone, Copy)]
struct Estimated<'a> {
    steps: u64,
    shape: Shape<'a>,
}

struct Estimate<'a> {
    scope: &'a Scope,
    bound: Vec<(&'a str, Shape<'a>)>,
}

impl<'a> Estimate<'a> {
    fn of(&mut self, expression: &'a IdedExpr) -> Estimated<'a> {
        match &expression.expr {
            Expr::Unspecified => at_most(1, Size::of(1)),
            Expr::Literal(literal) => {
                let long = text(literal).map_or(0, |text| (text.len() / BYTES) as u64);
                at_most(1, Size::of(1 + long))
            }
            Expr::Ident(name) => Estimated { steps: 1, shape: self.variable(name) },
            // What is left of these is `has()`.
            Expr::Select(select) => at_most(self.of(&select.operand).steps.saturating_add(1), Size::of(1)),
            Expr::Call(call) if call.func_name == GATHER => self.gather(call),
            Expr::Call(call) => self.field(call).unwrap_or_else(|| self.call(call)),
            Expr::List(list) => self.holder(&mut list.elements.iter()),
            Expr::Map(map) => self.holder(&mut map.entries.iter().flat_map(parts)),
            Expr::Struct(structure) => self.holder(&mut structure.entries.iter().flat_map(parts)),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
        }
    }

    /// A field, or an element, whose key is written out.
    fn field(&mut self, call: &'a CallExpr) -> Option<Estimated<'a>> {
        let (true, [of, IdedExpr { expr: Expr::Literal(key), .. }]) =
            ([operators::INDEX, operators::OPT_INDEX].contains(&call.func_name.as_str()), call.args.as_slice())
        else {
            return None;
        };
        let key = text(key)?;
        let of = self.of(of);
        let shape = match of.shape {
            Shape::Known(CelValue::Map(map)) => {
                map.map.get(&Key::String(key)).map_or(Shape::AtMost(Size::of(1)), Shape::Known)
            }
            other => Shape::AtMost(Size::of(other.size().weight)),
        };
        Some(Estimated { steps: of.steps.saturating_add(1), shape })
    }

    fn variable(&self, name: &str) -> Shape<'a> {
        let bound = self.bound.iter().rev().find(|(bound, _)| *bound == name).map(|(_, shape)| *shape);
        let given = || self.scope.variables.get(name).map(Shape::Known);
        bound.or_else(given).unwrap_or(Shape::AtMost(Size::of(1)))
    }

    /// A list or a map that is written out.
    fn holder(&mut self, parts: &mut dyn Iterator<Item = &'a IdedExpr>) -> Estimated<'a> {
        let empty = (1, Size { weight: 1, length: 0, part: 0 });
        let (steps, size) = parts.fold(empty, |(steps, size), part| {
            let part = self.of(part);
            let weight = part.shape.size().weight;
            let steps = add(&[steps, part.steps, weight]);
            (steps, Size { weight: add(&[size.weight, weight]), length: size.length + 1, part: size.part.max(weight) })
        });
        at_most(steps, size)
    }

    fn call(&mut self, call: &'a CallExpr) -> Estimated<'a> {
        let given: Vec<Estimated<'a>> =
            call.target.as_deref().into_iter().chain(&call.args).map(|part| self.of(part)).collect();
        let steps = given.iter().fold(1_u64, |sum, part| sum.saturating_add(part.steps));
        match call.func_name.as_str() {
            operators::LOGICAL_AND
            | operators::LOGICAL_OR
            | operators::LOGICAL_NOT
            | operators::NOT_STRICTLY_FALSE
            | operators::GREATER
            | operators::GREATER_EQUALS
            | operators::LESS
            | operators::LESS_EQUALS => at_most(steps, Size::of(1)),
            operators::INDEX | operators::OPT_INDEX => {
                // A value of a map may be larger than any of its keys.
                let of = given.first().map(|of| of.shape);
                let part = match of {
                    Some(Shape::Known(CelValue::Map(map))) => map.map.values().map(weight).max().unwrap_or_default(),
                    other => other.map_or(1, |of| of.size().part),
                };
                at_most(steps, Size::of(part))
            }
            name => looks_through(name, steps, &given),
        }
    }

    /// A list that is made of another, item by item.
    fn gather(&mut self, call: &'a CallExpr) -> Estimated<'a> {
        let [range, IdedExpr { expr: Expr::Ident(variable), .. }, parts @ ..] = call.args.as_slice() else {
            return at_most(1, Size::of(1));
        };
        let range = self.of(range);
        let over = range.shape.size();
        self.bound.push((variable, Shape::AtMost(Size::of(over.part))));
        let parts: Vec<Estimated> = parts.iter().map(|part| self.of(part)).collect();
        self.bound.pop();
        let made = parts.first().map_or(1, |made| made.shape.size().weight);
        let each = parts.iter().fold(add(&[made, over.part, 1]), |sum, part| sum.saturating_add(part.steps));
        let steps = add(&[range.steps, over.weight, over.length.saturating_mul(each)]);
        let weight = add(&[1, over.length.saturating_mul(made)]);
        at_most(steps, Size { weight, length: over.length, part: made })
    }

    fn comprehension(&mut self, of: &'a ComprehensionExpr) -> Estimated<'a> {
        let range = self.of(&of.iter_range);
        let start = self.of(&of.accu_init);
        let (over, before) = (range.shape.size(), start.shape.size());
        let depth = self.bound.len();
        let item = Shape::AtMost(Size::of(over.part));
        self.bound.push((&of.iter_var, item));
        if let Some(second) = &of.iter_var2 {
            self.bound.push((second, item));
        }
        self.bound.push((&of.accu_var, Shape::AtMost(before)));
        let (condition, step) = (self.of(&of.loop_cond), self.of(&of.loop_step));
        // What is gathered grows by the same with each item, and is copied for each.
        let after = step.shape.size();
        let grown =
            |before: u64, after: u64| before.saturating_add(over.length.saturating_mul(after.saturating_sub(before)));
        let gathered = Size {
            weight: grown(before.weight, after.weight),
            length: grown(before.length, after.length),
            part: before.part.max(after.part),
        };
        if let Some(last) = self.bound.last_mut() {
            last.1 = Shape::AtMost(gathered);
        }
        let result = self.of(&of.result);
        self.bound.truncate(depth);
        let each = add(&[condition.steps, step.steps, gathered.weight, 1]);
        let steps = add(&[range.steps, start.steps, result.steps, over.length.saturating_mul(each)]);
        at_most(steps, result.shape.size())
    }
}

/// A call that takes longer the larger is what it is given.
fn looks_through<'a>(name: &str, steps: u64, given: &[Estimated]) -> Estimated<'a> {
    let sizes: Vec<Size> = given.iter().map(|part| part.shape.size()).collect();
    let all = sizes.iter().fold(0_u64, |sum, size| sum.saturating_add(size.weight));
    let most = |of: fn(&Size) -> u64| sizes.iter().map(of).max().unwrap_or_default();
    match name {
        operators::CONDITIONAL => {
            let (weight, length) = (most(|size| size.weight), most(|size| size.length));
            at_most(steps, Size { weight, length, part: most(|size| size.part) })
        }
        operators::ADD => {
            let length = sizes.iter().fold(0_u64, |sum, size| sum.saturating_add(size.length));
            at_most(add(&[steps, all]), Size { weight: all, length, part: most(|size| size.part) })
        }
        // They look through what they are given, and answer with a number or a truth.
        operators::EQUALS | operators::NOT_EQUALS | operators::IN | "contains" | "startsWith" | "endsWith" | "size" => {
            at_most(add(&[steps, all]), Size::of(1))
        }
        // A pattern is a program that is run over each character of a text.
        "matches" => at_most(add(&[steps, all.saturating_mul(BYTES as u64)]), Size::of(1)),
        _ => at_most(add(&[steps, all, SCALAR_TEXT]), Size::of(add(&[all, SCALAR_TEXT]))),
    }
}

fn at_most<'a>(steps: u64, size: Size) -> Estimated<'a> {
    Estimated { steps, shape: Shape::AtMost(size) }
}

fn add(all: &[u64]) -> u64 {
    all.iter().fold(0, |sum, one| sum.saturating_add(*one))
}
