//! Whether, and where, two pieces of an object differ.

use serde_json::Value;

/// Most places that are named.
const NAMED: usize = 3;

/// Whether they say the same. A field that is null is a field that isn't there.
pub(crate) fn same(one: &Value, other: &Value) -> bool {
    let mut found = Vec::new();
    walk(one, other, "", &mut found);
    found.is_empty()
}

/// The places where they differ, the first few of them. Places only: values of environment variables are no one's business.
pub(crate) fn differences(one: &Value, other: &Value) -> String {
    let mut found = Vec::new();
    walk(one, other, "", &mut found);
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    let named = found.join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

fn walk(one: &Value, other: &Value, at: &str, found: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            for key in keys {
                let field = |of: &serde_json::Map<String, Value>| of.get(key).cloned().unwrap_or_default();
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                walk(&field(a), &field(b), &at, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                let name = a["name"].as_str().map_or_else(|| index.to_string(), str::to_owned);
                walk(a, b, &format!("{at}[{name}]"), found);
            }
        }
        (a, b) if a == b => {}
        _ => found.push(at.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_are_named_and_values_are_not() {
        let one = json!({"spec": {"containers": [{"name": "app", "image": "a:1", "env": [{"name": "TOKEN", "value": "x"}]}]}});
        let mut other = one.clone();
        assert!(same(&one, &other));
        other["spec"]["containers"][0]["env"][0]["value"] = json!("hunter2");
        assert_eq!(differences(&one, &other), "spec.containers[app].env[TOKEN].value");
        assert!(!same(&one, &other));
    }

    #[test]
    fn null_is_the_same_as_nothing_and_the_order_of_fields_does_not_count() {
        assert!(same(&json!({"a": 1, "b": null, "c": 2}), &json!({"c": 2, "a": 1})));
        assert!(!same(&json!({"a": []}), &json!({"a": [1]})));
    }

    #[test]
    fn a_long_list_is_cut() {
        assert_eq!(differences(&json!({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}), &json!({})), "a, b, c and 2 more");
    }
}
