//! Bodies that are cut short, changed, nested and of wrong types: none may panic, and what is still read makes valid Findings.

use quell_crds::v1alpha1::Format;
use serde_json::{Value, json};

use crate::bodies::{Sample, fixtures, samples};
use crate::schema::{check, of_spec};

fn all() -> Vec<Sample> {
    samples().into_iter().chain(fixtures()).collect()
}

/// On both cores: there are many.
fn on_each(work: impl Fn(Format, &[u8], &Value) + Sync) {
    let (all, schema) = (all(), of_spec());
    let half = all.len().div_ceil(2);
    std::thread::scope(|scope| {
        for part in all.chunks(half.max(1)) {
            let (work, schema) = (&work, &schema);
            scope.spawn(move || {
                for sample in part {
                    for body in &sample.bodies {
                        work(sample.format, body, schema);
                    }
                }
            });
        }
    });
}

#[test]
fn a_body_cut_at_each_kilobyte_is_refused_or_read() {
    on_each(|format, body, schema| {
        for end in (0..body.len()).step_by(1024) {
            assert_eq!(check(format, &body[..end], schema), None, "{format} cut at {end}");
        }
    });
}

#[test]
fn a_body_with_changed_bytes_is_refused_or_read() {
    on_each(|format, body, schema| {
        // A small linear generator: the same bytes in every run.
        let mut state = body.len() as u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap()
        };
        let rounds = if body.len() < 32 * 1024 { 24 } else { 6 };
        for round in 0..rounds {
            let mut mutated = body.to_vec();
            for _ in 0..=next() % 4 {
                let at = next() % mutated.len();
                mutated[at] ^= 1 << (next() % 8);
            }
            assert_eq!(check(format, &mutated, schema), None, "{format}, round {round}");
        }
    });
}

/// Ways to every key of a value; of a list only its first element is gone into: the others are alike.
fn ways(value: &Value, here: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(items) => items.first().map(|first| ("0".to_owned(), first)).into_iter().collect(),
        _ => Vec::new(),
    };
    // Maps of packages, as Clair's, have thousands of keys that are alike.
    for (key, child) in children.into_iter().take(12) {
        let way = format!("{here}/{key}");
        ways(child, &way, found);
        found.push(way);
    }
}

#[test]
fn a_wrong_type_at_any_key_is_refused_or_read() {
    let others = [
        json!(null),
        json!(-7),
        json!("\u{1}text <NA> ümlaut"),
        json!([]),
        json!({"a": [1]}),
        json!([[{"kind": 3}]]),
        json!(true),
        json!(1e300),
    ];
    on_each(|format, body, schema| {
        let Ok(value) = serde_json::from_slice::<Value>(body) else { return };
        let mut found = Vec::new();
        ways(&value, "", &mut found);
        for (turn, way) in found.iter().enumerate() {
            // Large bodies get some of the wrong values at each key, small ones all.
            let most = match body.len() {
                0..4096 => others.len(),
                4096..32_768 => 2,
                _ => 1,
            };
            for number in 0..most {
                let mut changed = value.clone();
                *changed.pointer_mut(way).unwrap() = others[(turn + number) % others.len()].clone();
                assert_eq!(check(format, changed.to_string().as_bytes(), schema), None, "{format} {way}");
            }
        }
    });
}

#[test]
fn nesting_that_would_overflow_the_stack_is_refused() {
    let schema = of_spec();
    for sample in fixtures() {
        let Ok(Value::Object(fields)) = serde_json::from_slice(&sample.bodies[0]) else { continue };
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let deep = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
            assert_eq!(check(sample.format, deep.as_bytes(), &schema), None, "{}", sample.name);
            for key in fields.keys() {
                let mut rest = fields.clone();
                rest.shift_remove(key);
                let rest = Value::Object(rest).to_string();
                let comma = if rest == "{}" { "" } else { "," };
                let body = format!("{{{}:{deep}{comma}{}", Value::String(key.clone()), &rest[1..]);
                assert_eq!(check(sample.format, body.as_bytes(), &schema), None, "{} {key}", sample.name);
            }
        }
    }
}

#[test]
fn many_equal_things_cost_no_more_than_their_bytes() {
    let schema = of_spec();
    for format in Format::ALL {
        for body in [
            "[]".repeat(50_000),
            "{}\n".repeat(50_000),
            format!("[{}{{}}]", "{},".repeat(50_000)),
            "null ".repeat(1000),
            "\"a\"\n".repeat(1000),
        ] {
            assert_eq!(check(format, body.as_bytes(), &schema), None, "{format}");
        }
    }
}
