//! Conversations as clients send them, and what becomes of wishes for thinking and of wide numbers.

use super::{chat, hello};
use crate::gateway::chat::openai::history;
use crate::gateway::wire::fields::{BadField, Fields};
use crate::text::{ChatTemplate, RenderInput};
use serde_json::{Value, json};

/// A whole history with one call, for its arguments as the template gets them.
fn arguments_of(function: Value) -> Value {
    let call = json!({"id": "1", "type": "function", "function": function});
    let body = hello(json!({"messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "12:00"},
    ]}));
    chat(body).unwrap().render.messages[1]["tool_calls"][0]["function"]["arguments"].clone()
}

#[test]
fn calls_with_empty_missing_or_broken_arguments_are_taken() {
    for nothing in [json!({"name": "f"}), json!({"name": "f", "arguments": null})] {
        assert_eq!(arguments_of(nothing), json!({}));
    }
    for (arguments, expected) in [
        (json!(""), json!({})),
        (json!(" \n"), json!({})),
        (json!("null"), json!({})),
        (json!("{}"), json!({})),
        (json!({"a": 1}), json!({"a": 1})),
        (json!("{\"value\": "), json!("{\"value\": ")),
        (json!("[1]"), json!("[1]")),
        (json!("now"), json!("now")),
    ] {
        assert_eq!(arguments_of(json!({"name": "f", "arguments": arguments})), expected, "{arguments}");
    }
}

#[test]
fn integers_beyond_64_bits_are_kept() {
    let wide = "340282366920938463463374607431768211456123456789";
    let body: Value = serde_json::from_str(&format!(
        r#"{{"model": "m", "messages": [
            {{"role": "user", "content": "hi"}},
            {{"role": "assistant", "tool_calls": [{{"function": {{"name": "f", "arguments":
                "{{\"id\": {wide}, \"x\": 1.10000000000000000001}}"}}}}]}},
            {{"role": "tool", "content": "ok"}}]}}"#
    ))
    .unwrap();
    let messages = chat(body).unwrap().render.messages;
    let arguments = messages[1]["tool_calls"][0]["function"]["arguments"].to_string();
    assert_eq!(arguments, format!(r#"{{"id":{wide},"x":1.10000000000000000001}}"#));
    let template = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}\
                    {{ c.function.arguments.id }}{% endfor %}{% endfor %}";
    let template = ChatTemplate::new(template, &json!({})).unwrap();
    let input = RenderInput { messages, ..RenderInput::default() };
    // Of a float Python keeps what a double holds.
    assert_eq!(history::render(&template, &input).unwrap(), format!(r#"{{"id": {wide}, "x": 1.1}}{wide}"#));
}

#[test]
fn contents_that_clients_send_back_are_taken() {
    let call = json!([{"function": {"name": "f", "arguments": "{}"}}]);
    for (message, content, calls) in [
        (json!({"role": "assistant", "content": [], "tool_calls": call}), "", true),
        (json!({"role": "assistant", "content": null}), "", false),
        (json!({"role": "assistant"}), "", false),
        (json!({"role": "assistant", "content": "a", "tool_calls": []}), "a", false),
        (json!({"role": "assistant", "content": null, "tool_calls": null, "refusal": "No."}), "No.", false),
        (json!({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}), "No.", false),
        (
            json!({"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": ""}}),
            "",
            true,
        ),
        (json!({"role": "tool", "tool_call_id": "1", "content": null}), "", false),
        (json!({"role": "tool", "tool_call_id": "1", "content": []}), "", false),
        (json!({"role": "function", "name": "f", "content": "8"}), "8", false),
    ] {
        let user = json!({"role": "user", "content": "hi"});
        let got = chat(hello(json!({"messages": [user, message, user]}))).unwrap().render.messages;
        assert_eq!(
            (got[1]["content"].as_str(), got[1].get("tool_calls").is_some()),
            (Some(content), calls),
            "{message}"
        );
        assert_ne!(got[1]["role"], "function");
        assert!(got[1].get("function_call").is_none());
    }
}

#[test]
fn a_template_that_needs_an_object_gets_one_for_broken_arguments() {
    let by_name = "{% for m in messages %}{% for c in m.tool_calls %}\
                   {% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}{% endfor %}{% endfor %}";
    let as_text = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments }}{% endfor %}{% endfor %}";
    let call = json!({"name": "f", "arguments": "{\"value\": "});
    let messages = json!([{"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [{"function": call}]}]);
    let messages = chat(json!({"model": "m", "messages": messages})).unwrap().render.messages;
    for (source, expected) in [(by_name, "arguments={\"value\": ;"), (as_text, "{\"value\": ")] {
        let template = ChatTemplate::new(source, &json!({})).unwrap();
        let input = RenderInput { messages: messages.clone(), ..RenderInput::default() };
        assert_eq!(history::render(&template, &input).unwrap(), expected);
    }
}

/// As Mistral's templates have it: an error unless each id has nine characters.
#[test]
fn ids_of_calls_are_nine_characters_where_the_template_demands_it() {
    let demanding = "{% for m in messages %}{% for c in m.tool_calls %}{% if c.id|length != 9 %}\
                     {{ raise_exception('length 9') }}{% endif %}call {{ c.id }};{% endfor %}\
                     {% if m.tool_call_id is defined %}{% if m.tool_call_id|length != 9 %}\
                     {{ raise_exception('length 9') }}{% endif %}result {{ m.tool_call_id }};{% endif %}{% endfor %}";
    let rendered = |source: &str, ids: [&str; 2]| {
        let call =
            |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let messages = json!([{"role": "user", "content": "hi"},
            {"role": "assistant", "tool_calls": ids.map(call)},
            {"role": "tool", "tool_call_id": ids[0], "content": "1"},
            {"role": "tool", "tool_call_id": ids[1], "content": "2"}]);
        let messages = chat(json!({"model": "m", "messages": messages})).unwrap().render.messages;
        let template = ChatTemplate::new(source, &json!({})).unwrap();
        history::render(&template, &RenderInput { messages, ..RenderInput::default() }).unwrap()
    };
    let kept = rendered(demanding, ["VvvODy9mT", "abcDEF123"]);
    assert_eq!(kept, "call VvvODy9mT;call abcDEF123;result VvvODy9mT;result abcDEF123;");
    // What another model or a provider gave is told apart, and a result finds its call.
    let given = rendered(demanding, ["toolu_01A09q90qw90lq917835lq9", "VvvODy9mT"]);
    let words: Vec<&str> = given.split([' ', ';']).collect();
    assert_eq!((words[1].len(), words[1]), (9, words[5]), "{given}");
    assert_eq!((words[3], words[7]), ("VvvODy9mT", "VvvODy9mT"), "{given}");
    assert_ne!(words[1], words[3]);
    // A template that takes any id gets the one that was given.
    let easy = demanding.replace("!= 9", "== 0");
    assert!(rendered(&easy, ["call_1", "call_2"]).starts_with("call call_1;call call_2;"));
}

/// What the template's variables become.
fn variables(template: &str, more: Value) -> Result<Value, BadField> {
    let template = ChatTemplate::new(template, &json!({})).unwrap();
    let body = hello(more);
    history::render_input(&Fields::root(&body).unwrap(), Some(&template)).map(|input| input.extra.into())
}

#[test]
fn thinking_is_switched_where_the_template_can() {
    let qwen = "{{ messages }}{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}";
    let granite = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ thinking }}";
    let oss = "{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}\
               {{ reasoning_effort }}<|channel|>analysis";
    let seed = "{% if thinking_budget is defined %}{{ thinking_budget }}{% endif %}<think>";
    let off = [
        json!({"reasoning_effort": "none"}),
        json!({"enable_thinking": false}),
        json!({"thinking": {"type": "disabled"}}),
        json!({"reasoning": {"enabled": false}}),
        json!({"reasoning": {"effort": "none"}}),
        json!({"chat_template_kwargs": {"enable_thinking": false}}),
        json!({"chat_template_kwargs": {"thinking": false, "enable_thinking": false}}),
    ];
    for more in &off {
        assert_eq!(variables(qwen, more.clone()).unwrap(), json!({"enable_thinking": false}), "{more}");
        assert_eq!(variables(granite, more.clone()).unwrap(), json!({"thinking": false}), "{more}");
        // A model that does not think is off already.
        assert_eq!(variables("{{ messages }}", more.clone()).unwrap(), json!({}), "{more}");
        let refused = variables(oss, more.clone()).unwrap_err();
        let (name, _) = more.as_object().unwrap().iter().next().unwrap();
        assert!(refused.param.starts_with(name.as_str()), "{more}: {refused}");
        assert_eq!(refused.code, Some("unsupported_parameter"));
    }
    for more in
        [json!({"reasoning_effort": "high"}), json!({"thinking": {"type": "enabled", "budget_tokens": 9000}})]
    {
        assert_eq!(variables(qwen, more.clone()).unwrap(), json!({"enable_thinking": true}), "{more}");
        assert_eq!(variables(granite, more.clone()).unwrap(), json!({"thinking": true}), "{more}");
        assert_eq!(variables("{{ messages }}", more).unwrap(), json!({}));
    }
    assert_eq!(
        variables(oss, json!({"reasoning_effort": "max"})).unwrap(),
        json!({"reasoning_effort": "high"})
    );
    assert_eq!(
        variables(oss, json!({"reasoning_effort": "minimal"})).unwrap(),
        json!({"reasoning_effort": "low"})
    );
    assert_eq!(variables(seed, json!({"thinking_budget": 512})).unwrap(), json!({"thinking_budget": 512}));
    for (more, param) in [
        (json!({"reasoning_effort": "some"}), "reasoning_effort"),
        (json!({"enable_thinking": "no"}), "enable_thinking"),
        (json!({"thinking": {"type": "maybe"}}), "thinking.type"),
        (json!({"documents": [{"text": "a"}]}), "documents"),
    ] {
        assert_eq!(variables(qwen, more).unwrap_err().param, param);
    }
    let rag = "{% for document in documents or [] %}{{ document.text }}{% endfor %}";
    let documents = json!([{"text": "a"}]);
    assert_eq!(variables(rag, json!({"documents": documents})).unwrap(), json!({"documents": documents}));
}

#[test]
fn seeds_of_64_bits_are_taken() {
    let seed = |seed: &str| {
        let body =
            format!(r#"{{"model": "m", "messages": [{{"role": "user", "content": "hi"}}], "seed": {seed}}}"#);
        chat(serde_json::from_str(&body).unwrap()).map(|read| read.params.sampling.seed)
    };
    assert_eq!(seed("9223372036854775808"), Ok(1 << 63));
    assert_eq!(seed("18446744073709551615"), Ok(u64::MAX));
    assert_eq!(seed("-1"), Ok(u64::MAX));
    assert_eq!(seed("-9223372036854775808"), Ok(1 << 63));
    for (written, says) in [("18446744073709551616", "an integer of 64 bits"), ("1.5", "an integer, got 1.5")]
    {
        let error = seed(written).unwrap_err();
        assert_eq!(error.param, "seed");
        assert!(error.reason.contains(says) && !error.reason.contains("9223372036854775807"), "{error}");
    }
}
