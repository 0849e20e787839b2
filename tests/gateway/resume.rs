//! Streams that break off at a provider that continues a partial answer.

use super::{chat, fill, message, start};
use crate::support::upstream::{Act, TEXT, USAGE, Upstream, anthropic_stream, openai_stream, stream_head};
use serde_json::{Value, json};

const CONFIG: &str = r#"
providers:
  plain: { format: openai, base_url: @OPENAI/v1, continues_partial: true }
  deep: { preset: deepseek, base_url: @OPENAI/v1, api_key_env: TEST_OPENAI_KEY, continues_partial: true }
  moon: { preset: moonshot, base_url: @OPENAI/v1, api_key_env: TEST_OPENAI_KEY, continues_partial: true }
  vllm: { preset: vllm, base_url: @OPENAI/v1, continues_partial: true }
  anth: { format: anthropic, base_url: @ANTHROPIC, continues_partial: true, max_concurrency: 1 }
  nova: { preset: novastack, base_url: @OPENAI/v1 }
  never: { preset: vllm, base_url: @OPENAI/v1 }
models:
  plain: { provider: plain }
  deep: { provider: deep }
  moon: { provider: moon }
  vllm: { provider: vllm }
  anth: { provider: anth }
  never: { provider: never }
  nova: { provider: nova }
  other: { provider: plain }
fallbacks: { never: [other], plain: [other] }
"#;

/// The stream up to its first text, and what follows that text: with the space that was not handed on.
fn parts(stream: &str) -> (Vec<Act>, Vec<Act>) {
    let end = stream.find("Hello, ").expect("the first piece");
    let end = end + stream[end..].find("\n\n").expect("its end") + 2;
    let rest = stream.replace("\"Hello, \"", "\" \"").replace("mock", "other");
    let send = |text: &str| vec![Act::Send(stream_head()), Act::Send(text.as_bytes().to_vec())];
    (send(&stream[..end]), send(&rest))
}

#[tokio::test]
async fn what_a_provider_continues_is_one_stream() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let marks = [
        ("plain", json!({}), json!({})),
        ("deep", json!({ "prefix": true }), json!({})),
        ("moon", json!({ "partial": true }), json!({})),
        ("vllm", json!({}), json!({ "continue_final_message": true, "add_generation_prompt": false })),
        ("anth", json!({}), json!({})),
    ];
    for (model, in_message, in_body) in marks {
        let (mock, stream) = match model {
            "anth" => (&anthropic, anthropic_stream(&json!({ "model": model }))),
            _ => (
                &openai,
                openai_stream(&json!({ "model": model, "stream_options": { "include_usage": true } })),
            ),
        };
        let (first, rest) = parts(&stream);
        for dialect in ["openai", "anthropic"] {
            [first.clone(), rest.clone()].into_iter().for_each(|acts| mock.once(model, acts));
            let mut body = chat(model, true);
            body["stream_options"] = json!({ "include_usage": true });
            let told = match dialect {
                "openai" => gateway.post("/v1/chat/completions", &[], &body).await,
                _ => gateway.post("/v1/messages", &[], &message(model, true)).await,
            };
            assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{model} {dialect}: {}", told.text);
            let data = told.data();
            let count = |is: &dyn Fn(&Value) -> bool| data.iter().filter(|data| is(data)).count();
            let output = match dialect {
                "openai" => {
                    assert!(data.iter().all(|chunk| chunk["id"] == data[0]["id"]), "{}", told.text);
                    assert_eq!(
                        count(&|chunk| !chunk["choices"][0]["delta"]["role"].is_null()),
                        1,
                        "{}",
                        told.text
                    );
                    assert!(told.text.ends_with("data: [DONE]\n\n"), "{}", told.text);
                    data.iter().find_map(|chunk| chunk["usage"]["completion_tokens"].as_u64())
                }
                _ => {
                    for once in ["message_start", "content_block_start", "content_block_stop", "message_stop"]
                    {
                        assert_eq!(count(&|event| event["type"] == once), 1, "{once}: {}", told.text);
                    }
                    data.iter()
                        .find(|it| it["type"] == "message_delta")
                        .and_then(|it| it["usage"]["output_tokens"].as_u64())
                }
            };
            assert_eq!(output, Some(USAGE.2 + 1), "one piece before: {}", told.text);
            let asked = mock.asked().pop().expect("it was asked").body;
            let mut partial = json!({ "role": "assistant", "content": "Hello," });
            partial.as_object_mut().unwrap().extend(in_message.as_object().cloned().unwrap());
            assert_eq!(asked["messages"].as_array().unwrap().last(), Some(&partial), "{model} {dialect}");
            assert!(
                in_body.as_object().unwrap().iter().all(|(name, value)| asked[name] == *value),
                "{asked}"
            );
            if dialect == "anthropic" {
                let bound = asked.get("max_tokens").or(asked.get("max_completion_tokens"));
                assert_eq!(bound, Some(&json!(63)), "{asked}");
            }
        }
    }
}

/// Nobody else goes on with an answer, and half a tool call is none.
#[tokio::test]
async fn nothing_else_goes_on() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let (first, _) = parts(&openai_stream(&json!({ "model": "never" })));
    openai.once("never", first.clone());
    let told = gateway.chat("never", true).await;
    assert!(told.data().pop().unwrap()["error"].is_object() && told.says() == "Hello, ", "{}", told.text);
    let call = json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [
        { "index": 0, "id": "c", "type": "function", "function": { "name": "f", "arguments": "{\"a\":" } } ] } }] });
    let acts = vec![Act::Send(stream_head()), Act::Send(format!("data: {call}\n\n").into_bytes())];
    openai.once("plain", acts);
    let told = gateway.chat("plain", true).await;
    assert!(told.data().pop().unwrap()["error"].is_object(), "{}", told.text);
    // One that breaks off again and again comes to an end.
    openai.always("plain", first);
    let told = gateway.chat("plain", true).await;
    assert!(told.data().pop().unwrap()["error"].is_object(), "{}", told.text);
    let asked = openai.asked();
    assert!(asked.iter().all(|asked| asked.body["model"] != "other"), "another model was asked");
    assert_eq!(asked.iter().filter(|asked| asked.body["model"] == "plain").count(), 1 + 4);
}

/// One that claims to be a NovaStack and names no tokens is not asked again, and token ids go to nobody else.
#[tokio::test]
async fn token_ids_are_for_those_who_know_them() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let (first, _) = parts(&openai_stream(&json!({ "model": "nova" })));
    openai.once("nova", first);
    let told = gateway.chat("nova", true).await;
    assert!(told.data().pop().unwrap()["error"].is_object() && told.says() == "Hello, ", "{}", told.text);
    let asked = openai.asked();
    assert_eq!((asked.len(), &asked[0].body["resumable"]), (1, &json!(true)));
    assert!(asked[0].body["seed"].as_u64().is_some_and(|seed| seed < 1 << 31), "{}", asked[0].body);

    let mut body = chat("vllm", true);
    (body["resumable"], body["seed"]) = (true.into(), 7.into());
    assert_eq!(gateway.post("/v1/chat/completions", &[], &body).await.says(), TEXT);
    let asked = openai.asked().pop().expect("it was asked").body;
    assert!(asked.get("resumable").is_none() && asked["seed"] == 7, "{asked}");
    body["resume_token_ids"] = json!([[1, 2]]);
    let told = gateway.post("/v1/chat/completions", &[], &body).await;
    assert_eq!(
        (told.status, &told.json()["error"]["param"]),
        (400, &json!("resume_token_ids")),
        "{}",
        told.text
    );
}

/// What comes after the text of the rest is told under numbers that follow, also in Anthropic's own format.
#[tokio::test]
async fn a_call_after_the_rest_of_a_text() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let stream = anthropic_stream(&json!({ "model": "anth" }));
    let event = |data: Value| format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap());
    let tool = json!({ "type": "tool_use", "id": "t", "name": "f", "input": {} });
    let call = [
        json!({ "type": "content_block_start", "index": 1, "content_block": tool }),
        json!({ "type": "content_block_delta", "index": 1, "delta": { "type": "input_json_delta", "partial_json": "{}" } }),
        json!({ "type": "content_block_stop", "index": 1 }),
    ];
    let call: String = call.into_iter().map(event).collect();
    let end = stream.find("event: message_delta").expect("the end");
    let (first, rest) = parts(&(stream[..end].to_owned() + &call + &stream[end..]));
    [first, rest].into_iter().for_each(|acts| anthropic.once("anth", acts));
    let told = gateway.post("/v1/messages", &[], &message("anth", true)).await;
    let data = told.data();
    let blocks = data.iter().filter_map(|event| Some((event["type"].as_str()?, event["index"].as_u64()?)));
    let blocks: Vec<_> = blocks.filter(|(kind, _)| *kind != "content_block_delta").collect();
    let (start, stop) = ("content_block_start", "content_block_stop");
    assert_eq!(blocks, [(start, 0), (stop, 0), (start, 1), (stop, 1)], "{}", told.text);
    let json = data.iter().find(|event| event["delta"]["partial_json"] == "{}").expect("the call");
    assert_eq!(json["index"], 1, "{}", told.text);
}
