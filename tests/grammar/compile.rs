//! What is refused, by name and limit, and in bounded time.

use super::{accepts, compiled, compiler};
use novastack::text::grammar::{ANNOTATIONS, Grammar, KEYWORDS};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn refusal(grammar: &Grammar) -> String {
    let begun = Instant::now();
    let refused = compiler().compile(grammar);
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?} for a refusal", begun.elapsed());
    match refused {
        Err(error) => error.to_string(),
        Ok(_) => panic!("not refused: {}", format!("{grammar:?}").chars().take(300).collect::<String>()),
    }
}

fn schema_refusal(schema: Value) -> String {
    refusal(&Grammar::JsonSchema(schema))
}

#[test]
fn a_keyword_that_would_be_passed_over_is_refused_by_name() {
    for keyword in [
        "not",
        "if",
        "then",
        "else",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "contains",
        "minContains",
        "maxContains",
        "uniqueItems",
        "propertyNames",
        "unevaluatedProperties",
        "unevaluatedItems",
        "$dynamicRef",
        "$dynamicAnchor",
        "$recursiveRef",
        "$vocabulary",
        "nullable",
        "x-guidance",
        "maxItem",
    ] {
        for (at, schema) in [
            ("#", json!({"type": "object", keyword: {}})),
            ("#/properties/a/items", json!({"properties": {"a": {"items": {keyword: true}}}})),
            (
                "#/$defs/d/anyOf/1",
                json!({"$ref": "#/$defs/d", "$defs": {"d": {"anyOf": [{}, {keyword: 1}]}}}),
            ),
        ] {
            let error = schema_refusal(schema);
            let wanted = format!("{at}: `{keyword}` is not supported");
            assert!(error.starts_with(&wanted), "{keyword}: {error}");
        }
    }
}

#[test]
fn annotations_are_passed_over() {
    let mut schema = json!({"type": "object", "properties": {"a": {"type": "integer", "x-order": 3}},
        "required": ["a"], "additionalProperties": false, "x-ours": {}});
    for keyword in ANNOTATIONS {
        schema[keyword] = json!("words");
        if !matches!(keyword, "$id" | "id") {
            schema["properties"]["a"][keyword] = json!("words");
        }
    }
    assert!(accepts(&Grammar::JsonSchema(schema.clone()), r#"{"a": 1}"#));
    assert!(!accepts(&Grammar::JsonSchema(schema), r#"{"a": "1"}"#));
}

/// Each keyword of the list: a document that is valid, and one that is not for that keyword alone.
#[test]
fn every_keyword_holds() {
    let cases = [
        ("type", json!({"type": "integer"}), "3", "\"3\""),
        ("enum", json!({"enum": ["a", 2]}), "2", "3"),
        ("const", json!({"const": {"a": [1, null]}}), r#"{"a":[1,null]}"#, r#"{"a":[1]}"#),
        (
            "properties",
            json!({"type": "object", "properties": {"a": {"type": "null"}}}),
            r#"{"a":null}"#,
            r#"{"a":1}"#,
        ),
        (
            "required",
            json!({"type": "object", "properties": {"a": {}}, "required": ["a"]}),
            r#"{"a":1}"#,
            "{}",
        ),
        (
            "additionalProperties",
            json!({"type": "object", "additionalProperties": {"type": "null"}}),
            r#"{"a":null}"#,
            r#"{"a":1}"#,
        ),
        (
            "patternProperties",
            json!({"type": "object", "patternProperties": {"^n": {"type": "null"}}}),
            r#"{"na":null}"#,
            r#"{"na":1}"#,
        ),
        ("minProperties", json!({"type": "object", "minProperties": 1}), r#"{"a":1}"#, "{}"),
        ("maxProperties", json!({"type": "object", "maxProperties": 1}), r#"{"a":1}"#, r#"{"a":1,"b":1}"#),
        ("items", json!({"type": "array", "items": {"type": "null"}}), "[null]", "[1]"),
        ("prefixItems", json!({"type": "array", "prefixItems": [{"type": "null"}]}), "[null,1]", "[1]"),
        ("minItems", json!({"type": "array", "minItems": 1}), "[1]", "[]"),
        ("maxItems", json!({"type": "array", "maxItems": 1}), "[1]", "[1,2]"),
        ("minLength", json!({"type": "string", "minLength": 1}), "\"a\"", "\"\""),
        ("maxLength", json!({"type": "string", "maxLength": 1}), "\"a\"", "\"ab\""),
        ("pattern", json!({"type": "string", "pattern": "^a+$"}), "\"aa\"", "\"ab\""),
        ("format", json!({"type": "string", "format": "date"}), "\"2024-02-29\"", "\"2024-02-30\""),
        ("minimum", json!({"type": "integer", "minimum": 3}), "3", "2"),
        ("maximum", json!({"type": "integer", "maximum": 3}), "3", "4"),
        ("exclusiveMinimum", json!({"type": "integer", "exclusiveMinimum": 3}), "4", "3"),
        ("exclusiveMaximum", json!({"type": "integer", "exclusiveMaximum": 3}), "2", "3"),
        ("multipleOf", json!({"type": "integer", "multipleOf": 3}), "9", "10"),
        ("anyOf", json!({"anyOf": [{"type": "null"}, {"type": "string"}]}), "null", "1"),
        ("oneOf", json!({"oneOf": [{"type": "null"}, {"type": "string"}]}), "null", "1"),
        ("allOf", json!({"allOf": [{"type": "integer"}, {"minimum": 2}]}), "2", "1"),
        ("$ref", json!({"$ref": "#/$defs/d", "$defs": {"d": {"type": "null"}}}), "null", "1"),
        (
            "definitions",
            json!({"$ref": "#/definitions/d", "definitions": {"d": {"type": "null"}}}),
            "null",
            "1",
        ),
    ];
    for (keyword, schema, valid, invalid) in &cases {
        let grammar = Grammar::JsonSchema(schema.clone());
        assert!(accepts(&grammar, valid), "{keyword}: {valid} under {schema}");
        assert!(!accepts(&grammar, invalid), "{keyword}: {invalid} under {schema}");
    }
    let tried = |keyword: &&str| cases.iter().any(|(tried, ..)| tried == keyword);
    let untried: Vec<_> = KEYWORDS.iter().filter(|keyword| !tried(keyword)).collect();
    assert_eq!(untried, [&"$defs", &"$schema", &"additionalItems"], "tried elsewhere or of draft 7");
}

#[test]
fn references_stay_within_the_schema_and_come_to_an_end() {
    let tree = json!({"$defs": {"node": {"type": "object", "properties": {
        "value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        "required": ["value", "next"], "additionalProperties": false}}, "$ref": "#/$defs/node"});
    assert!(accepts(&Grammar::JsonSchema(tree), r#"{"value":1,"next":{"value":2,"next":null}}"#));
    let list = json!({"type": "array", "items": {"$ref": "#"}});
    assert!(accepts(&Grammar::JsonSchema(list), "[[],[[]]]"));
    for (schema, wanted) in [
        (json!({"$ref": "https://example.com/schema.json"}), "nothing is fetched"),
        (json!({"$ref": "other.json#/a"}), "nothing is fetched"),
        (json!({"$ref": "#anchor"}), "must point within the schema"),
        (json!({"$ref": "#/$defs/missing"}), "points at nothing"),
        (json!({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {}}}), "escape"),
        (json!({"$ref": 3}), "must be a string"),
        (json!({"$ref": "#"}), "without an end"),
        (
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
            "without an end",
        ),
        (json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}), "without an end"),
        (json!({"type": "array", "items": {"$ref": "#"}, "minItems": 1}), "without an end"),
        (json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}), "without an end"),
    ] {
        let error = schema_refusal(schema.clone());
        assert!(error.contains("`$ref`") && error.contains(wanted), "{schema}: {error}");
    }
    let nested = schema_refusal(json!({"properties": {"a": {"$id": "https://example.com/a"}}}));
    assert!(nested.starts_with("#/properties/a: `$id`"), "{nested}");
}

#[test]
fn what_no_document_can_be_is_refused() {
    for schema in [
        json!(false),
        json!({"type": "string", "enum": [1]}),
        json!({"type": "integer", "minimum": 3, "maximum": 2}),
        json!({"type": "array", "minItems": 3, "maxItems": 2}),
        json!({"type": "string", "minLength": 3, "maxLength": 2}),
        json!({"allOf": [{"type": "string"}, {"type": "null"}]}),
        json!({"type": "object", "properties": {"a": false}, "required": ["a"]}),
    ] {
        let error = schema_refusal(schema.clone());
        assert!(!error.contains("panic") && !error.contains('<'), "{schema}: {error}");
    }
}

#[test]
fn wrong_values_of_keywords_are_named() {
    for (keyword, value) in [
        ("type", json!("text")),
        ("type", json!([])),
        ("type", json!(3)),
        ("enum", json!([])),
        ("enum", json!(3)),
        ("properties", json!([])),
        ("required", json!("a")),
        ("required", json!([1])),
        ("anyOf", json!([])),
        ("anyOf", json!({})),
        ("minItems", json!(-1)),
        ("maxItems", json!(1.5)),
        ("minLength", json!("3")),
        ("maxProperties", json!(null)),
        ("minimum", json!("3")),
        ("multipleOf", json!(null)),
        ("pattern", json!(3)),
        ("format", json!(3)),
        ("format", json!("credit-card")),
        ("exclusiveMinimum", json!(true)),
    ] {
        let error = schema_refusal(json!({"properties": {"a": {keyword: value}}}));
        assert!(error.starts_with(&format!("#/properties/a: `{keyword}` ")), "{keyword}: {error}");
    }
    for broken in [json!([]), json!("object"), json!(3), json!(null), json!({"items": 3})] {
        assert!(schema_refusal(broken).contains("must be an object or a boolean"));
    }
    assert!(schema_refusal(json!({"type": "string", "pattern": "("})).len() > 3);
    // A format that says something of numbers restricts nothing.
    assert!(accepts(&Grammar::JsonSchema(json!({"type": "integer", "format": "int32"})), "7"));
}

#[test]
fn every_limit_is_named() {
    let nested = |depth: usize| {
        (0..depth).fold(json!({"type": "null"}), |inner, _| json!({"type": "array", "items": inner}))
    };
    let properties = |count: usize| {
        let all: serde_json::Map<_, _> =
            (0..count).map(|i| (format!("p{i}"), json!({"type": "null"}))).collect();
        json!({"type": "object", "properties": all})
    };
    for (schema, words) in [
        (nested(65), "schemas within each other: at most 64"),
        (properties(5_001), "properties in the schema: at most 5000, got 5001"),
        (json!({"enum": (0..10_001).collect::<Vec<_>>()}), "values of `enum` in the schema: at most 10000"),
        (
            json!({"type": "string", "description": "x".repeat(600_000)}),
            "bytes of the schema: at most 524288",
        ),
        (json!({"anyOf": vec![json!({"type": "null"}); 10_001]}), "schemas in the schema: at most 10000"),
        (
            json!({"type": "array", "maxItems": 1_001}),
            "`maxItems` must be a whole number from 0 to 1000, got 1001",
        ),
        (
            json!({"type": "string", "maxLength": 20_001}),
            "`maxLength` must be a whole number from 0 to 20000",
        ),
        (json!({"type": "string", "minLength": 1u64 << 40}), "`minLength` must be a whole number"),
        (
            json!({"type": "string", "pattern": "a".repeat(2_049)}),
            "`pattern` must have at most 2048 bytes, got 2049",
        ),
    ] {
        let error = schema_refusal(schema);
        assert!(error.contains(words), "{error}, not {words}");
    }
    for (grammar, words) in [
        (Grammar::Regex("a".repeat(70_000)), "bytes of the regular expression: at most 65536, got 70000"),
        (Grammar::Lark("a".repeat(70_000)), "bytes of the grammar: at most 65536"),
        (Grammar::Choice(vec![]), "at least one"),
        (Grammar::Choice(vec!["a".into(); 10_001]), "texts to choose from: at most 10000"),
        (Grammar::Choice(vec!["a".repeat(600_000)]), "bytes of the texts to choose from"),
    ] {
        let error = refusal(&grammar);
        assert!(error.contains(words), "{error}, not {words}");
    }
    // Just within.
    compiled(&Grammar::JsonSchema(nested(30)));
}

/// Whatever is asked, an answer comes in time, and nothing ends the process.
#[test]
fn attacks_on_time_and_memory_are_refused_or_harmless() {
    let wide = |n: usize, m: usize| {
        let inner: serde_json::Map<_, _> =
            (0..m).map(|i| (format!("q{i}"), json!({"type": "string"}))).collect();
        let all: serde_json::Map<_, _> =
            (0..n).map(|i| (format!("p{i}"), json!({"type": "object", "properties": inner}))).collect();
        json!({"type": "object", "properties": all, "additionalProperties": false})
    };
    let doubling = |n: usize| {
        let mut defs = serde_json::Map::new();
        defs.insert("d0".into(), json!({"type": "null"}));
        for i in 1..n {
            let inner = format!("#/$defs/d{}", i - 1);
            defs.insert(format!("d{i}"), json!({"allOf": [{"$ref": inner}, {"$ref": inner}]}));
        }
        json!({"$ref": format!("#/$defs/d{}", n - 1), "$defs": defs})
    };
    let crossed = |n: usize| {
        let branch = |i: usize| {
            let all: Vec<_> = (0..n)
                .map(|j| json!({"type": "object", "properties": {format!("p{i}{j}"): {"const": j}}}))
                .collect();
            json!({"anyOf": all})
        };
        json!({"allOf": (0..n).map(branch).collect::<Vec<_>>()})
    };
    let attacks = [
        ("counted regex", Grammar::Regex("((a{1,1000}){1,1000}){1,1000}".into())),
        ("exponential states", Grammar::Regex("(.*a.{60}){3}".into())),
        ("long intersection", Grammar::Regex("(a|b|ab)*(.{1,900}x){1,900}".into())),
        ("deep groups", Grammar::Regex(format!("{}a{}", "(".repeat(30_000), ")".repeat(30_000)))),
        (
            "deep groups of a schema",
            Grammar::JsonSchema(
                json!({"type": "string", "pattern": format!("{}a{}", "(".repeat(1000), ")".repeat(1000))}),
            ),
        ),
        (
            "counted pattern",
            Grammar::JsonSchema(json!({"type": "string", "pattern": "^((a{1,999}b){1,999}c){1,999}$"})),
        ),
        (
            "long string",
            Grammar::JsonSchema(json!({"type": "string", "minLength": 20_000, "maxLength": 20_000})),
        ),
        (
            "patterns and lengths",
            Grammar::JsonSchema(json!({"type": "string", "pattern": "a.*b.*c", "maxLength": 20_000})),
        ),
        (
            "nested arrays",
            Grammar::JsonSchema(
                (0..60)
                    .fold(json!({}), |inner, _| json!({"type": "array", "items": inner, "minItems": 1000})),
            ),
        ),
        (
            "many items",
            Grammar::JsonSchema(
                json!({"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "maxItems": 1000}, "maxItems": 1000}),
            ),
        ),
        ("wide objects", Grammar::JsonSchema(wide(60, 60))),
        ("doubling references", Grammar::JsonSchema(doubling(40))),
        ("crossed choices", Grammar::JsonSchema(crossed(8))),
        (
            "pattern properties",
            Grammar::JsonSchema(json!({"type": "object", "patternProperties":
            (0..60).map(|i| (format!("^(a|b){{{i}}}.*c{i}$"), json!({"type": "null"}))).collect::<serde_json::Map<_, _>>()})),
        ),
        (
            "a number",
            Grammar::JsonSchema(
                json!({"type": "number", "minimum": 1e-300, "maximum": 1e300, "multipleOf": 1e-9}),
            ),
        ),
        ("multiples", Grammar::JsonSchema(json!({"type": "integer", "multipleOf": 999_999_937}))),
        (
            "a large enum",
            Grammar::JsonSchema(
                json!({"enum": (0..9_000).map(|i| format!("value {i}")).collect::<Vec<_>>()}),
            ),
        ),
        ("many choices", Grammar::Choice((0..9_000).map(|i| format!("text {i}")).collect())),
        ("a looping grammar", Grammar::Lark("start: start".into())),
        ("an empty grammar", Grammar::Lark("start: start start | \"\"".into())),
        ("ambiguity", Grammar::Lark("start: a a a a a a a a\na: a a | \"a\" | \"\"".into())),
        ("no grammar", Grammar::Lark("this is { no grammar".into())),
        ("no start", Grammar::Lark("a: \"a\"".into())),
        ("deep rules", Grammar::Lark(format!("start: {}\"a\"{}", "(".repeat(20_000), ")".repeat(20_000)))),
    ];
    for (name, grammar) in attacks {
        let begun = Instant::now();
        let compiled = compiler().compile(&grammar);
        let took = begun.elapsed();
        println!("{name}: {took:?}, {:?}", compiled.as_ref().err().map(ToString::to_string));
        assert!(took < Duration::from_secs(6), "{name} took {took:?}");
    }
}
