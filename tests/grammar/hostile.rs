//! Schemas and grammars that are meant to cost, or cannot be held: an answer comes in time, names the place and the
//! keyword, and what is large but fair is taken.

use super::{accepts, compiler};
use novastack::text::grammar::Grammar;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

fn named(count: usize, schema: impl Fn(usize) -> (String, Value)) -> Value {
    Value::Object((0..count).map(schema).collect::<Map<_, _>>())
}

#[test]
fn what_cannot_be_held_is_named_by_its_place_and_its_keyword() {
    let within = |schema: Value| {
        json!({"type": "object", "required": ["a"],
        "properties": {"z": {"type": "string"}, "a": {"type": "array", "minItems": 1, "items": schema}}})
    };
    for (schema, keyword, says) in [
        (json!({"type": "string", "pattern": "^(?=a)b"}), "pattern", "look-around"),
        (json!({"type": "string", "pattern": "(a)\\1"}), "pattern", "backreferences"),
        (json!({"type": "string", "pattern": "("}), "pattern", "unclosed group"),
        (json!({"type": "string", "format": "email", "maxLength": 2}), "format", "no text is one of it"),
        (json!({"type": "integer", "minimum": 1e308}), "minimum", "too large"),
        (json!({"type": "integer", "minimum": 3, "maximum": 2}), "minimum", ""),
        (json!({"type": "number", "multipleOf": 0}), "multipleOf", "must be more than 0"),
        (json!({"type": "integer", "multipleOf": -3}), "multipleOf", "must be more than 0"),
        (json!({"type": "array", "items": false, "minItems": 1}), "items", "no item"),
        (
            json!({"oneOf": [{"type": "object", "properties": {"a": {}}}, {"type": "object", "properties": {"b": {}}}]}),
            "oneOf",
            "must exclude each other",
        ),
        (
            json!({"type": "object", "patternProperties": named(300, |i| (format!("^p{i}"), json!({"type": "null"})))}),
            "patternProperties",
            "not disjoint",
        ),
        (
            json!({"allOf": (0..20).map(|i| json!({"anyOf": [{"properties": {format!("a{i}"): {"type": "string"}}},
                {"properties": {format!("b{i}"): {"type": "null"}}}]})).collect::<Vec<_>>()}),
            "allOf",
            "too large",
        ),
        (
            json!({"type": "object", "required": vec!["a"; 5_001]}),
            "",
            "names of `required` in the schema: at most 5000",
        ),
        (json!({"$ref": "#/$defs//a"}), "$ref", "must not have empty parts"),
    ] {
        for (at, schema) in [("#", schema.clone()), ("#/properties/a/items", within(schema))] {
            let begun = Instant::now();
            let error = compiler().compile(&Grammar::JsonSchema(schema.clone())).err();
            let error = error.unwrap_or_else(|| panic!("{keyword} at {at} is not refused")).to_string();
            assert!(begun.elapsed() < Duration::from_secs(5), "{keyword} took {:?}", begun.elapsed());
            let place = if keyword.is_empty() { String::new() } else { format!("{at}: `{keyword}` ") };
            assert!(error.starts_with(&place) && error.contains(says), "{keyword}: {error}");
        }
    }
}

#[test]
fn thousands_of_references_and_alternatives_are_taken_in_time() {
    let last = 3_999;
    let link = |i: usize| {
        let to =
            if i == last { json!({"type": "null"}) } else { json!({"$ref": format!("#/$defs/d{}", i + 1)}) };
        (format!("d{i}"), to)
    };
    let chain = json!({"$defs": named(last + 1, link), "$ref": "#/$defs/d0"});
    let objects: Vec<Value> = (0..3_000).map(|i| json!({"a": i, "b": [i]})).collect();
    let kinds: Vec<Value> = (0..1_000)
        .map(|i| json!({"type": "object", "properties": {"kind": {"const": format!("k{i}")}, "n": {"type": "null"}},
            "required": ["kind", "n"], "additionalProperties": false}))
        .collect();
    let nested: Vec<String> =
        (1..=200).map(|len| "a".repeat(len)).chain(["b/\\\"\n".to_owned(), String::new()]).collect();
    for (name, grammar, valid, invalid) in [
        ("a chain of references", Grammar::JsonSchema(chain), "null", "1"),
        (
            "an enum of objects",
            Grammar::JsonSchema(json!({ "enum": objects })),
            r#"{"a":2999,"b":[2999]}"#,
            r#"{"a":2999,"b":[1]}"#,
        ),
        (
            "many kinds of objects",
            Grammar::JsonSchema(json!({ "anyOf": kinds })),
            r#"{"kind":"k999","n":null}"#,
            r#"{"kind":"k1000","n":null}"#,
        ),
        ("texts that begin each other", Grammar::Choice(nested.clone()), "aaaaa", "ab"),
        ("a text with marks", Grammar::Choice(nested), "b/\\\"\n", "b/"),
    ] {
        let begun = Instant::now();
        assert!(accepts(&grammar, valid), "{name}: {valid}");
        assert!(!accepts(&grammar, invalid), "{name}: {invalid}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{name} took {:?}", begun.elapsed());
    }
}

/// A schema within a Lark grammar keeps to what a schema alone does: the trap of endless white space is closed there too.
#[test]
fn a_schema_in_a_lark_grammar_has_the_same_bounds() {
    let object = r#"{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false}"#;
    let grammar = Grammar::Lark(format!("start: \"x\" value\nvalue: %json {object} \";\"?"));
    assert!(accepts(&grammar, "x{\"a\": 1};") && accepts(&grammar, "x{\n  \"a\": 1\n}"));
    for spaces in [3, 100, 250] {
        assert!(!accepts(&grammar, &format!("x{{\"a\":{}1}}", " ".repeat(spaces))), "{spaces} spaces");
    }
    // The word in a text, in a regular expression and in a comment is none of a schema.
    let words = "// %json {\"not\": {}}\nstart: \"%json {\\\"not\\\": {}}\" | /[%]json\\/%json/ # %json x\n";
    assert!(accepts(&Grammar::Lark(words.into()), "%json {\"not\": {}}"));
    assert!(accepts(&Grammar::Lark(words.into()), "%json/%json"));
    for (schema, says) in [
        (r#"{"not": {}}"#, "line 2: the schema behind %json: #: `not` is not supported"),
        (
            r#"{"type": "string", "maxLength": 100000000}"#,
            "`maxLength` must be a whole number from 0 to 20000",
        ),
        (r#"{"$ref": "https://example.com/x.json"}"#, "nothing is fetched"),
        (r#"{"x-guidance": {"whitespace_pattern": " *"}}"#, "`x-guidance` is not supported"),
        ("{", "line 2: the schema behind %json: "),
        ("", "line 2: the schema behind %json: there is none"),
    ] {
        let lark = format!("start: value\nvalue: %json {schema}");
        let error = compiler().compile(&Grammar::Lark(lark)).expect_err("refused").to_string();
        assert!(error.contains(says), "{schema}: {error}");
    }
}
