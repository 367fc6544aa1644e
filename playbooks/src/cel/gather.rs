//! `map` and `filter`: the interpreter copies the whole list that it has for each item that it adds; here each is added once.

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::objects::{Key, Value};
use cel::{ExecutionError, FunctionContext};

/// The function that does it: list, variable, what is made of each, and which of them. No source can call it.
pub(super) const GATHER: &str = "@gather";

/// What a comprehension is as a call, if it gathers a list; its parts are taken out of it then.
pub(super) fn as_call(of: &mut ComprehensionExpr) -> Option<CallExpr> {
    let accumulated = of.accu_var.clone();
    let is_accumulated = |one: &IdedExpr| matches!(&one.expr, Expr::Ident(name) if *name == accumulated);
    let starts_empty = matches!(&of.accu_init.expr, Expr::List(list) if list.elements.is_empty());
    let goes_through = matches!(&of.loop_cond.expr, Expr::Literal(LiteralValue::Boolean(always)) if *always.inner());
    if !starts_empty || !goes_through || of.iter_var2.is_some() || !is_accumulated(&of.result) {
        return None;
    }
    let (made, condition) = match &mut of.loop_step.expr {
        Expr::Call(call) if call.func_name == operators::CONDITIONAL => {
            let [condition, IdedExpr { expr: Expr::Call(adds), .. }, otherwise] = call.args.as_mut_slice() else {
                return None;
            };
            (added(adds).filter(|_| is_accumulated(otherwise))?, Some(std::mem::take(condition)))
        }
        Expr::Call(adds) => (added(adds)?, None),
        _ => return None,
    };
    let variable = IdedExpr { id: 0, expr: Expr::Ident(std::mem::take(&mut of.iter_var)) };
    let args = [std::mem::take(&mut of.iter_range), variable, made].into_iter().chain(condition).collect();
    Some(CallExpr { func_name: GATHER.to_owned(), target: None, args })
}

/// The one element of what is added.
fn added(call: &mut CallExpr) -> Option<IdedExpr> {
    match call.args.as_mut_slice() {
        [_, IdedExpr { expr: Expr::List(list), .. }]
            if call.func_name == operators::ADD && list.elements.len() == 1 =>
        {
            list.elements.pop()
        }
        _ => None,
    }
}

/// Its arguments are evaluated here, the parts for each item.
pub(super) fn gather(cx: &FunctionContext) -> Result<Value, ExecutionError> {
    let [range, IdedExpr { expr: Expr::Ident(variable), .. }, made, condition @ ..] = cx.args else {
        return Err(cx.error("is not called like this"));
    };
    let items: Vec<Value> = match Value::resolve(range, cx.ptx)? {
        Value::List(items) => items.iter().cloned().collect(),
        Value::Map(map) => map.map.keys().map(key).collect(),
        _ => return Err(ExecutionError::NoSuchOverload),
    };
    let mut scope = cx.ptx.new_inner_scope();
    let mut gathered = Vec::new();
    for item in items {
        scope.add_variable_from_value(variable, item);
        let is_meant = match condition.first() {
            None => true,
            Some(condition) => match Value::resolve(condition, &scope)? {
                Value::Bool(is_meant) => is_meant,
                _ => return Err(ExecutionError::NoSuchOverload),
            },
        };
        if is_meant {
            gathered.push(Value::resolve(made, &scope)?);
        }
    }
    Ok(Value::List(gathered.into()))
}

fn key(key: &Key) -> Value {
    match key {
        Key::Int(number) => Value::Int(*number),
        Key::Uint(number) => Value::UInt(*number),
        Key::Bool(truth) => Value::Bool(*truth),
        Key::String(text) => Value::String(text.clone()),
    }
}
