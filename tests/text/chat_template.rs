//! Renderings equal transformers' `apply_chat_template`, byte for byte.

use super::{FAMILIES, demo_gguf, family_file, golden, read_json};
use novastack::checkpoint::Checkpoint;
use novastack::text::{ChatTemplate, RenderInput, TextError};
use serde_json::{Map, Value, json};
use std::time::{Duration, UNIX_EPOCH};

fn array(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// Renders every case and compares; returns how many there were.
fn compare(name: &str, template: &ChatTemplate, cases: &Value) -> usize {
    let shared = golden("conversations.json");
    let now = UNIX_EPOCH + Duration::from_secs(shared["now"].as_u64().unwrap());
    let cases = cases.as_array().unwrap();
    for case in cases {
        let conversation = case["conversation"].as_str().unwrap();
        let options = &shared["options"][case["options"].as_u64().unwrap() as usize];
        let input = RenderInput {
            messages: array(&shared["conversations"][conversation]),
            tools: array(&options["tools"]),
            add_generation_prompt: options["add_generation_prompt"] == true,
            continue_final_message: options["continue_final_message"] == true,
            extra: options["extra"].as_object().cloned().unwrap_or_default(),
        };
        let rendered = template.render_at(&input, now);
        let context = format!("{name}, {conversation}, {options}");
        match (case.get("text"), &case["error"]) {
            (Some(text), _) => assert_eq!(rendered.as_deref().ok(), text.as_str(), "{context}: {rendered:?}"),
            // What raise_exception was given reaches the caller as it is.
            (None, Value::String(message)) => match rendered {
                Err(TextError::Template(got)) => assert_eq!(&got, message, "{context}"),
                other => panic!("{context}: expected the error {message:?}, got {other:?}"),
            },
            (None, _) => assert!(rendered.is_err(), "{context}: expected an error, got {rendered:?}"),
        }
    }
    cases.len()
}

#[test]
fn families_render_as_transformers_does() {
    for family in FAMILIES {
        let Some(path) = family_file(family, "tokenizer_config.json") else { return };
        let config = read_json(&path);
        let template = ChatTemplate::new(config["chat_template"].as_str().unwrap(), &config).unwrap();
        assert!(compare(family, &template, &golden(&format!("{family}_chat.json"))) > 50);
    }
}

#[test]
fn features_render_as_transformers_does() {
    for (name, feature) in golden("features_chat.json").as_object().unwrap() {
        let template = ChatTemplate::new(feature["template"].as_str().unwrap(), &feature["tokens"]).unwrap();
        assert!(compare(name, &template, &feature["cases"]) > 50);
    }
}

#[test]
fn smollm2_renders_as_transformers_does() {
    let golden = golden("smollm2_chat.json");
    let template = ChatTemplate::new(golden["template"].as_str().unwrap(), &golden["tokens"]).unwrap();
    assert!(compare("smollm2", &template, &golden["cases"]) > 50);

    let Some(path) = demo_gguf() else { return };
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.chat_template.as_deref(), golden["template"].as_str());
    let template = ChatTemplate::from_checkpoint(&checkpoint).unwrap();
    compare("smollm2 from GGUF", &template, &golden["cases"]);
}

fn render(template: &str) -> Result<String, TextError> {
    let input = RenderInput { messages: vec![json!({"role": "user", "content": "x"})], ..Default::default() };
    ChatTemplate::new(template, &json!({}))?.render(&input)
}

#[test]
fn a_hostile_template_is_an_error() {
    let cases = [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "instructions"),
        ("{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}", "recursion"),
        (
            "{% set ns = namespace(s='x' * 1000000) %}{% for i in range(100) %}{{ ns.s }}{% endfor %}",
            "longer than",
        ),
        ("{% if %}", "syntax"),
        ("{{ missing.field }}", "undefined"),
        ("{{ messages.append(1) }}", "append"),
        ("{% include 'other' %}", "other"),
        ("{{ strftime_now('%Q') }}", "%Q"),
    ];
    for (template, expected) in cases {
        let error = render(template).expect_err(template).to_string();
        assert!(error.contains(expected), "{template}: {error}");
    }
}

#[test]
fn bad_input_is_named() {
    let template = ChatTemplate::new("{{ messages[0].content }}", &json!({})).unwrap();
    let cases = [
        (RenderInput::default(), "messages must not be empty"),
        (RenderInput { messages: vec![json!("hi")], ..Default::default() }, "must be an object"),
        (
            RenderInput {
                messages: vec![json!({"role": "assistant"})],
                continue_final_message: true,
                ..Default::default()
            },
            "no text in content",
        ),
        (
            RenderInput {
                messages: vec![json!({"role": "assistant", "content": "x"})],
                continue_final_message: true,
                add_generation_prompt: true,
                ..Default::default()
            },
            "exclude each other",
        ),
    ];
    for (input, expected) in cases {
        let error = template.render(&input).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_callers_variables_win_over_special_tokens() {
    let template = ChatTemplate::new("{{ bos_token }}{{ flag }}", &json!({"bos_token": "<s>"})).unwrap();
    let mut input =
        RenderInput { messages: vec![json!({"role": "user", "content": "x"})], ..Default::default() };
    assert_eq!(template.render(&input).unwrap(), "<s>");
    input.extra = Map::from_iter([("bos_token".into(), json!("B")), ("flag".into(), json!(false))]);
    assert_eq!(template.render(&input).unwrap(), "BFalse");
}
