//! Tool calls in the families' formats.

use super::{Walk, accepts, compiler, tokenizer};
use novastack::text::grammar::{
    After, AnswerText, Arguments, CallFormat, CallTexts, Grammar, Tool, ToolCalls,
};
use serde_json::json;

fn tools() -> Vec<Tool> {
    let weather = json!({"type": "object", "properties": {"city": {"type": "string"},
        "unit": {"type": "string", "enum": ["C", "F"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city"], "additionalProperties": false});
    vec![
        Tool { name: "get_weather".into(), parameters: weather, strict: true },
        Tool { name: "now".into(), parameters: json!(null), strict: false },
    ]
}

fn hermes() -> CallFormat {
    CallFormat::Texts(CallTexts {
        before_name: "<tool_call>\n{\"name\": \"".into(),
        after_name: "\", \"arguments\": ".into(),
        after_arguments: "}\n</tool_call>".into(),
        between_calls: "\n".into(),
        ..CallTexts::default()
    })
}

/// With a special token of this vocabulary as a marker.
fn kimi() -> CallFormat {
    CallFormat::Texts(CallTexts {
        begin_all: "<|im_start|>calls\n".into(),
        before_name: "functions.".into(),
        numbered: Some(":".into()),
        after_name: "|".into(),
        after_arguments: ";".into(),
        end_all: "end".into(),
        ..CallTexts::default()
    })
}

fn qwen_xml() -> CallFormat {
    CallFormat::Texts(CallTexts {
        before_name: "<tool_call>\n<function=".into(),
        after_name: ">\n".into(),
        arguments: Arguments::Tagged {
            before_key: "<parameter=".into(),
            after_key: ">\n".into(),
            after_json_key: ">\n".into(),
            after_value: "\n</parameter>\n".into(),
        },
        after_arguments: "</function>\n</tool_call>".into(),
        between_calls: "\n".into(),
        ..CallTexts::default()
    })
}

fn calls(format: CallFormat, required: bool, parallel: bool, text_before: bool) -> Grammar {
    let text = if text_before { AnswerText::Free } else { AnswerText::None };
    Grammar::Tools(Box::new(ToolCalls { tools: tools(), format, required, parallel, text }))
}

#[test]
fn a_required_call_is_one_of_a_tool_with_its_arguments() {
    let grammar = calls(hermes(), true, false, false);
    let call = |name: &str, arguments: &str| {
        format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>")
    };
    for (name, arguments, is) in [
        ("get_weather", r#"{"city": "Oslo"}"#, true),
        ("get_weather", r#"{"city":"</tool_call>","unit":"C","days":3}"#, true),
        ("get_weather", r#"{"unit": "C"}"#, false),
        ("get_weather", r#"{"city": "Oslo", "unit": "K"}"#, false),
        ("get_weather", r#"{"city": "Oslo", "more": 1}"#, false),
        ("now", r#"{"anything": [1]}"#, true),
        ("now", "[]", false),
        ("other", "{}", false),
    ] {
        assert_eq!(accepts(&grammar, &call(name, arguments)), is, "{name} {arguments}");
    }
    assert!(!accepts(&grammar, "text"));
    let two = format!("{}\n{}", call("now", "{}"), call("now", "{}"));
    assert!(!accepts(&grammar, &two));
    assert!(accepts(&calls(hermes(), true, true, false), &two));
    // A text before, where that may be, has no end of its own.
    let with_text = calls(hermes(), true, false, true);
    let (text, one) = ("Let me see <tool", call("now", "{}"));
    assert!(accepts(&with_text, &format!("{text}{one}")) && accepts(&with_text, &one));
    assert!(!accepts(&with_text, text) && !accepts(&with_text, &format!("{one} and more")));
    // Where no call is required, text alone will do, and a call that is begun is one.
    let auto = calls(hermes(), false, false, true);
    assert!(accepts(&auto, text) && accepts(&auto, &format!("{text}{one}")) && accepts(&auto, ""));
    assert!(!accepts(&auto, &call("other", "{}")));
}

#[test]
fn markers_that_are_special_tokens_are_matched_as_those() {
    let grammar = calls(kimi(), true, true, true);
    let special = tokenizer().token_id("<|im_start|>").unwrap();
    let mut walk = Walk::new(&grammar, &After::Nothing);
    walk.write("text <|im_start|>").unwrap();
    assert!(walk.may(special) && !walk.may_end());
    walk.constraint.accept(special).unwrap();
    assert!(!walk.may(special));
    walk.write("calls\nfunctions.now:0|{};functions.get_weather:12|{\"city\":\"a\"};end").unwrap();
    assert!(walk.must_end(), "{:?}", walk.allowed());
}

#[test]
fn tagged_arguments_are_text_where_they_are_strings() {
    let grammar = calls(qwen_xml(), true, false, false);
    let call = |arguments: &str| {
        format!("<tool_call>\n<function=get_weather>\n{arguments}</function>\n</tool_call>")
    };
    let parameter = |key: &str, value: &str| format!("<parameter={key}>\n{value}\n</parameter>\n");
    let city = parameter("city", "São \"Paulo\"\n</param");
    assert!(accepts(&grammar, &call(&city)));
    assert!(accepts(
        &grammar,
        &call(&[city.clone(), parameter("unit", "F"), parameter("days", "3")].concat())
    ));
    assert!(accepts(&grammar, &call(&[city.clone(), parameter("days", "3")].concat())));
    assert!(!accepts(&grammar, &call(&parameter("unit", "F"))), "the city is required");
    assert!(!accepts(&grammar, &call(&[city.clone(), parameter("unit", "K")].concat())));
    assert!(!accepts(&grammar, &call(&[city.clone(), parameter("days", "many")].concat())));
    assert!(!accepts(&grammar, &call(&[city, parameter("other", "1")].concat())));
    assert!(accepts(&grammar, "<tool_call>\n<function=now>\n</function>\n</tool_call>"));
}

#[test]
fn a_schema_that_cannot_be_held_is_an_error_of_strict_tools_alone() {
    let of = |strict: bool| {
        let parameters = json!({"type": "object", "properties": {"a": {"not": {}}}});
        let tools = vec![Tool { name: "odd".into(), parameters, strict }];
        Grammar::Tools(Box::new(ToolCalls {
            tools,
            format: hermes(),
            required: true,
            parallel: false,
            text: AnswerText::None,
        }))
    };
    let error = compiler().compile(&of(true)).expect_err("a strict tool").to_string();
    assert!(error.contains("tool \"odd\": #/properties/a: `not` is not supported"), "{error}");
    assert!(accepts(&of(false), "<tool_call>\n{\"name\": \"odd\", \"arguments\": {\"a\":1}}\n</tool_call>"));
}
