//! Access to fields, as the language means it: the interpreter takes a field of what is no map for `false`, and doesn't know that a field
//! behind `.?` may be missing. Its index operators do both right, so each access becomes one. What gathers a list becomes a call.

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::gather;

/// Turns `a.b` into `a["b"]` and `a.?b` into `a[?"b"]`, and `map` and `filter` into calls, everywhere in it. What `has()` asks for stays.
pub(super) fn by_index(expression: &mut IdedExpr) {
    match &mut expression.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => {}
        Expr::Select(select) => {
            by_index(&mut select.operand);
            if !select.test {
                let key = LiteralValue::String(select.field.as_str().into());
                let key = IdedExpr { id: expression.id, expr: Expr::Literal(key) };
                let operand = std::mem::take(&mut *select.operand);
                expression.expr = Expr::Call(CallExpr {
                    func_name: operators::INDEX.to_owned(),
                    target: None,
                    args: vec![operand, key],
                });
            }
        }
        Expr::Call(call) => {
            if call.func_name == operators::OPT_SELECT {
                operators::OPT_INDEX.clone_into(&mut call.func_name);
            }
            call.target.as_deref_mut().into_iter().chain(&mut call.args).for_each(by_index);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(by_index),
        Expr::Map(map) => map.entries.iter_mut().for_each(|entry| in_entry(&mut entry.expr)),
        Expr::Struct(structure) => structure.entries.iter_mut().for_each(|entry| in_entry(&mut entry.expr)),
        Expr::Comprehension(comprehension) => {
            let parts = [
                &mut comprehension.iter_range,
                &mut comprehension.accu_init,
                &mut comprehension.loop_cond,
                &mut comprehension.loop_step,
                &mut comprehension.result,
            ];
            parts.into_iter().for_each(by_index);
            if let Some(call) = gather::as_call(comprehension) {
                expression.expr = Expr::Call(call);
            }
        }
    }
}

fn in_entry(entry: &mut EntryExpr) {
    match entry {
        EntryExpr::StructField(field) => by_index(&mut field.value),
        EntryExpr::MapEntry(entry) => {
            by_index(&mut entry.key);
            by_index(&mut entry.value);
        }
    }
}
