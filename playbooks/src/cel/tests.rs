use serde_json::json;

use super::*;

fn scope() -> Scope {
    Scope::default().with("finding", &json!({"rule": "Reverse shell", "count": 3, "tags": ["a", "b"]}))
}

fn compile(source: &str) -> Result<Expression, CompileError> {
    Expression::compile(source, &Names::of(&["finding", "steps"]))
}

#[test]
fn whole_numbers_add_to_the_numbers_of_an_expression() {
    assert_eq!(compile("finding.count + 1").unwrap().evaluate(&scope()).unwrap(), json!(4));
}

#[test]
fn a_pattern_may_ignore_case() {
    assert!(compile("finding.rule.matches('(?i)reverse SHELL')").unwrap().is_true(&scope()).unwrap());
}

#[test]
fn variables_of_a_comprehension_are_known_in_it_and_not_outside() {
    assert!(compile("finding.tags.exists(t, t == 'a')").unwrap().is_true(&scope()).unwrap());
    assert!(matches!(compile("finding.tags.exists(t, t == 'a') && t"), Err(CompileError::UnknownVariable { .. })));
}

#[test]
fn a_name_that_nothing_gives_is_found_when_it_is_written() {
    assert_eq!(
        compile("findings.rule == 'x'").unwrap_err(),
        CompileError::UnknownVariable { name: "findings".into(), known: "finding, steps".into() }
    );
    assert_eq!(compile("finding.rule.lower()").unwrap_err(), CompileError::UnknownFunction("lower".into()));
    assert_eq!(compile("steps.later.outputs.x").unwrap_err(), CompileError::UnknownStep("later".into()));
    assert_eq!(compile("steps['too-late'].outputs.x").unwrap_err(), CompileError::UnknownStep("too-late".into()));
}

#[test]
fn a_pattern_that_is_wrong_is_found_when_it_is_written() {
    assert!(matches!(compile("finding.rule.matches('(')"), Err(CompileError::Pattern(_))));
}

#[test]
fn a_missing_key_is_an_error_and_never_false() {
    let error = compile("finding.nothing == 'x'").unwrap().is_true(&scope()).unwrap_err();
    assert!(error.to_string().contains("nothing"), "{error}");
}

#[test]
fn a_condition_that_is_no_condition_is_an_error() {
    assert!(matches!(compile("finding.rule").unwrap().is_true(&scope()), Err(EvaluationError::NotBoolean { .. })));
}

#[test]
fn deep_nesting_is_refused_before_it_is_parsed() {
    let source = format!("{}1{}", "(".repeat(2000), ")".repeat(2000));
    assert_eq!(compile(&source).unwrap_err(), CompileError::TooDeep);
    let allowed = format!("{}true{}", "(".repeat(MAX_DEPTH), ")".repeat(MAX_DEPTH));
    assert!(compile(&allowed).unwrap().is_true(&scope()).unwrap());
}

#[test]
fn source_that_is_not_cel_says_so() {
    for source in ["", "finding.", "1 +", "\u{0}", "'unclosed"] {
        assert!(matches!(compile(source), Err(CompileError::Syntax(_))), "{source:?}");
    }
}

#[test]
fn what_the_reference_shows_to_authors_works() {
    let names = Names {
        variables: vec!["finding", "target", "steps"],
        steps: ["build".to_owned(), "roll-back".to_owned()].into(),
    };
    let scope = Scope::default()
        .with(
            "finding",
            &json!({"severity": "High", "details": {}, "vulnerabilities": [{"id": "CVE-1", "fixedVersion": ""}]}),
        )
        .with("target", &json!({"labels": {"app": "web", "example.com/team": "a"}}))
        .with("steps", &json!({"build": {"outputs": {}}, "roll-back": {"state": "Failed"}}));
    for source in [
        "!has(finding.details.output_fields)",
        "\"app\" in target.labels",
        "target.labels[\"example.com/team\"] == \"a\"",
        "steps[\"roll-back\"].state == \"Failed\"",
        "!has(steps.build.outputs.image)",
        "finding.severity in [\"High\", \"Critical\"]",
        "finding.vulnerabilities.exists(v, v.fixedVersion == \"\")",
        "finding.vulnerabilities.all(v, v.id.startsWith(\"CVE-\"))",
        "finding.vulnerabilities.exists_one(v, v.id.endsWith(\"1\"))",
        "size(finding.vulnerabilities.filter(v, v.fixedVersion != \"\")) == 0",
        "finding.vulnerabilities.map(v, v.id) == [\"CVE-1\"]",
        "max(1, 2) == 2 && min(1, 2) == 1 && int(\"3\") == 3 && string(3) == \"3\" && double(\"1.5\") > 1.0",
        "timestamp(\"2024-01-01T05:00:00Z\").getHours() == 5 && duration(\"1h\") > duration(\"59m\")",
        "optional.of(1).orValue(2) == 1",
        "(steps.build.outputs == {} ? \"none\" : \"some\") == \"none\"",
    ] {
        let compiled = Expression::compile(source, &names).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(compiled.is_true(&scope), Ok(true), "{source}");
    }
}

/// A list of that many words under `finding.tags`.
fn long(words: usize) -> Scope {
    let tags: Vec<String> = (0..words).map(|number| format!("word-{number}")).collect();
    Scope::default().with("finding", &json!({"tags": tags}))
}

#[test]
fn lists_within_lists_within_lists_are_refused_before_they_are_gone_through() {
    for source in [
        "finding.tags.all(a, finding.tags.all(b, finding.tags.all(c, a + b + c != '')))",
        "size(finding.tags.map(a, finding.tags.map(b, finding.tags.map(c, a + b + c)))) > 0",
        "finding.tags.filter(a, finding.tags.filter(b, finding.tags.exists(c, c == a + b)) == []) == []",
    ] {
        let expression = compile(source).unwrap();
        let error = expression.is_true(&long(2000)).unwrap_err();
        assert!(matches!(error, EvaluationError::TooCostly { .. }), "{error}");
        assert!(error.to_string().contains("at most"), "{error}");
        expression.is_true(&long(4)).expect("over short lists it is nothing");
    }
}

#[test]
fn a_text_that_is_put_together_again_and_again_is_refused_before_it_fills_the_memory() {
    let mut source = "a".to_owned();
    for _ in 0..12 {
        source = format!("[{source}].map(a, a + a + a + a + a + a + a + a)[0]");
    }
    let source = format!("finding.tags.map(a, {source}) == []");
    let error = compile(&source).unwrap().is_true(&long(3)).unwrap_err();
    assert!(matches!(error, EvaluationError::TooCostly { .. }), "{error}");
}

#[test]
fn what_playbooks_ask_of_a_large_finding_is_far_from_the_bound() {
    let vulnerability =
        json!({"id": "CVE-2022-37434", "severity": "Critical", "fixedVersion": "1.2.12-r2", "title": "x".repeat(253)});
    let finding = json!({"vulnerabilities": vec![vulnerability; 50], "tags": ["a"]});
    let scope = Scope::default().with("finding", &finding);
    for source in [
        "finding.vulnerabilities.exists(v, v.severity == 'Critical' && v.fixedVersion != '')",
        "finding.vulnerabilities.all(a, finding.vulnerabilities.exists(b, a.id == b.id))",
        "finding.vulnerabilities.filter(v, v.title.matches('(?i)overflow')).map(v, v.id).size() == 0",
    ] {
        assert!(compile(source).unwrap().is_true(&scope).unwrap(), "{source}");
    }
}

#[test]
fn a_message_of_a_type_is_refused_when_it_is_written() {
    assert_eq!(compile("Finding{rule: 'x'}.rule == 'x'").unwrap_err(), CompileError::Message);
    assert_eq!(compile("finding.tags.exists(t, Tag{name: t} == t)").unwrap_err(), CompileError::Message);
}

#[test]
fn chains_that_would_use_up_the_stack_are_refused_before_they_are_parsed() {
    for source in [
        "!".repeat(4000) + "true",
        "-".repeat(4000) + "1",
        format!("1{}", "+1".repeat(2000)),
        format!("true{}", "||true".repeat(600)),
        format!("true{}", "?true:true".repeat(400)),
        format!("finding{}", ".a".repeat(2000)),
        format!("finding{}", "['a']".repeat(800)),
    ] {
        let error = compile(&source).unwrap_err();
        assert!(matches!(error, CompileError::TooDeep | CompileError::TooManyOperators), "{error}");
    }
    for allowed in [
        "!".repeat(MAX_DEPTH) + "true",
        format!("1{}", "+1".repeat(MAX_OPERATORS)),
        format!("true{}", "||true".repeat(MAX_OPERATORS / 2)),
        format!("true{}", "?true:true".repeat(MAX_DEPTH)),
    ] {
        compile(&allowed).unwrap().evaluate(&scope()).unwrap();
    }
    let _ = compile(&format!("finding{}", ".a".repeat(MAX_OPERATORS))).unwrap().evaluate(&scope());
}

#[test]
fn a_field_of_what_has_none_is_an_error_and_never_false() {
    for source in ["finding.rule.name", "finding.count.name == false", "finding.tags.first", "!finding.rule.name"] {
        let value = compile(source).unwrap().evaluate(&scope());
        assert!(matches!(value, Err(EvaluationError::Failed { .. })), "{source}: {value:?}");
    }
}

#[test]
fn a_field_that_may_be_missing_has_a_default_or_is_null() {
    for (source, expected) in [
        ("finding.?rule", json!("Reverse shell")),
        ("finding.?nothing", Value::Null),
        ("finding.?nothing.further", Value::Null),
        ("finding.?nothing.orValue('x')", json!("x")),
        ("finding.?rule.orValue('x')", json!("Reverse shell")),
        ("finding.tags[?1]", json!("b")),
        ("finding.tags[?7].orValue('none')", json!("none")),
        ("finding[?'rule'].hasValue()", json!(true)),
        ("has(finding.nothing) ? finding.nothing : 3", json!(3)),
    ] {
        assert_eq!(compile(source).unwrap().evaluate(&scope()).unwrap(), expected, "{source}");
    }
    assert_eq!(compile("steps.?later").unwrap_err(), CompileError::UnknownStep("later".into()));
    assert!(matches!(compile("finding.rule.?name").unwrap().evaluate(&scope()), Err(EvaluationError::Failed { .. })));
}

#[test]
fn lists_are_made_of_lists_and_of_the_keys_of_maps() {
    let scope = scope().with("steps", &json!({"a": {"n": 1}, "b": {"n": 2}}));
    let names = Names { variables: vec!["finding", "steps"], steps: ["a".to_owned(), "b".to_owned()].into() };
    for (source, expected) in [
        ("finding.tags.map(t, t + finding.rule)", json!(["aReverse shell", "bReverse shell"])),
        ("finding.tags.filter(t, t != 'a')", json!(["b"])),
        ("finding.tags.map(t, t != 'a', t + t)", json!(["bb"])),
        ("finding.tags.map(t, finding.tags.filter(u, u != t))", json!([["b"], ["a"]])),
        ("[1, 2, 3].filter(n, n > 1).map(n, n * 2)", json!([4, 6])),
        ("{'k': 1}.map(k, k)", json!(["k"])),
        ("[].map(t, t)", json!([])),
        ("size(steps.map(s, s)) == 2", json!(true)),
    ] {
        let compiled = Expression::compile(source, &names).unwrap();
        assert_eq!(compiled.evaluate(&scope).unwrap(), expected, "{source}");
    }
    for source in ["finding.rule.map(t, t)", "finding.tags.filter(t, t)", "finding.tags.map(t, t.nope)"] {
        assert!(compile(source).unwrap().evaluate(&scope).is_err(), "{source}");
    }
}

#[test]
fn a_long_list_is_made_item_by_item() {
    let made = compile("finding.tags.map(t, {'name': t, 'again': t + t}).filter(m, m.name != 'word-7')").unwrap();
    assert_eq!(made.evaluate(&long(5000)).unwrap().as_array().map(Vec::len), Some(4999));
}

fn of_item(source: &str) -> Result<Expression, CompileError> {
    Expression::compile(source, &Names::of(&["finding", "item"]))
}

#[test]
fn a_session_gives_the_same_values_and_an_inner_one_more() {
    let outer = Session::over(scope());
    let inner = outer.with("item", &json!({"n": 2}));
    let mut budget = Budget::of(1000);
    let compiled = of_item("finding.tags.map(t, t + string(item.n))").unwrap();
    assert_eq!(inner.evaluate(&compiled, &mut budget).unwrap(), json!(["a2", "b2"]));
    assert!(outer.evaluate(&compiled, &mut budget).is_err(), "the outer one has no such variable");
    assert_eq!(inner.is_true(&of_item("item.n == 2").unwrap(), &mut budget), Ok(true));
}

#[test]
fn all_evaluations_of_a_session_together_have_a_bound() {
    let session = Session::over(long(2000));
    let mut budget = Budget::of(100_000);
    let compiled = compile("'word-7' in finding.tags").unwrap();
    let evaluated = (0..1000).take_while(|_| session.evaluate(&compiled, &mut budget).is_ok()).count();
    assert!((10..100).contains(&evaluated), "{evaluated}");
    assert_eq!(session.evaluate(&compiled, &mut budget), Err(EvaluationError::BudgetSpent));
    let mut other = Budget::of(1000);
    for _ in 0..100 {
        let small = session.with("item", &json!({"n": 1}));
        small.evaluate(&of_item("item.n").unwrap(), &mut other).expect("what isn't looked at costs nothing");
    }
}
