//! What a random model answers under a grammar: whatever its weights, calls that are asked for come and are valid, and
//! so is JSON.

use crate::support::golden_dir;
use crate::support::server::Server;
use serde_json::{Value, json};

/// A tiny model of random weights whose template knows tools.
pub(super) fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(golden_dir("llama")).expect("goldens").flatten() {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).expect("copied");
    }
    // Room for a client's schema in the prompt and for an answer of mostly white space.
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).expect("a configuration");
    let longer = text.replace("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 4096");
    assert_ne!(longer, text);
    std::fs::write(config, longer).expect("written");
    let template = "{% if tools %}{{ tools | length }} tools\n{% endif %}{% for message in messages %}<|im_start|>\
        {{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";
    std::fs::write(folder.path().join("chat_template.jinja"), template).expect("written");
    folder
}

fn schema() -> Value {
    json!({"type": "object", "required": ["city", "days"], "additionalProperties": false, "properties": {
        "city": {"type": "string", "enum": ["Paris", "R\u{f6}me <b>"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}}})
}

fn is_valid(arguments: &Value) -> bool {
    let city = arguments["city"].as_str().is_some_and(|city| ["Paris", "R\u{f6}me <b>"].contains(&city));
    let days = arguments["days"].as_u64().is_some_and(|days| (1..=9).contains(&days));
    city && days && arguments.as_object().is_some_and(|all| all.len() == 2)
}

/// A server whose model writes calls so, and reasons as models do that write them so. It never stops by itself.
fn server(source: &str, format: &str) -> Server {
    let mut args = vec!["--model", source, "--tool-call-parser", format];
    if format == "openai" {
        args.extend(["--reasoning-parser", "openai"]);
    }
    Server::start(&args)
}

fn parsed(text: &Value) -> Value {
    let text = text.as_str().expect("a text");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn a_call_that_is_required_comes_in_every_format() {
    let folder = model();
    let source = format!("tiny={}", folder.path().display());
    let functions = json!([
        {"type": "function", "function": {"name": "get_weather", "parameters": schema(), "strict": true}},
        {"type": "function", "function": {"name": "get_time", "parameters": schema(), "strict": true}},
    ]);
    for format in [
        "hermes",
        "llama3_json",
        "qwen3_coder",
        "deepseek_v3",
        "deepseek_v31",
        "deepseek_r1",
        "kimi_k2",
        "minimax_m2",
        "glm45",
        "deepseek_v32",
        "deepseek_v4",
        "mistral",
        "mistral_list",
        "pythonic",
        "openai",
    ] {
        let server = server(&source, format);
        for (choice, names) in [
            (json!("required"), &["get_weather", "get_time"][..]),
            (json!({"type": "function", "function": {"name": "get_time"}}), &["get_time"]),
        ] {
            for seed in 0..3 {
                let body = json!({"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "seed": seed,
                    "tools": functions, "tool_choice": choice, "parallel_tool_calls": false, "thinking_budget": 8});
                let (status, answer) = server.post("/v1/chat/completions", &body).await;
                assert_eq!(status, 200, "{format}: {answer}");
                let choice = &answer["choices"][0];
                let calls = choice["message"]["tool_calls"]
                    .as_array()
                    .unwrap_or_else(|| panic!("{format}: {answer}"));
                assert_eq!(
                    (calls.len(), &choice["finish_reason"]),
                    (1, &json!("tool_calls")),
                    "{format}: {answer}"
                );
                let (id, is_mistral) =
                    (calls[0]["id"].as_str().expect("an id"), format.starts_with("mistral"));
                assert_eq!(
                    id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()),
                    is_mistral,
                    "{id}"
                );
                let function = &calls[0]["function"];
                assert!(names.contains(&function["name"].as_str().expect("a name")), "{format}: {answer}");
                assert!(is_valid(&parsed(&function["arguments"])), "{format}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_is_a_call_or_follows_its_schema_where_both_are_asked_for() {
    let folder = model();
    let source = format!("tiny={}", folder.path().display());
    let parameters = json!({"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": false});
    let functions =
        json!([{"type": "function", "function": {"name": "lamp", "parameters": parameters, "strict": true}}]);
    let user = json!([{"role": "user", "content": "hello"}]);
    let named = json!({"name": "answer", "schema": schema(), "strict": true});
    for format in ["hermes", "llama3_json", "pythonic", "openai"] {
        let server = server(&source, format);
        let (mut texts, mut calls) = (0, 0);
        for seed in 0..12 {
            let body = json!({"model": "tiny", "messages": user, "seed": seed, "n": 2, "temperature": 2.0,
                "tools": functions, "tool_choice": "auto", "thinking_budget": 8,
                "response_format": {"type": "json_schema", "json_schema": named}});
            let (status, answer) = server.post("/v1/chat/completions", &body).await;
            assert_eq!(status, 200, "{format}: {answer}");
            for choice in answer["choices"].as_array().expect("choices") {
                let message = &choice["message"];
                match (message["content"].as_str(), message["tool_calls"].as_array()) {
                    (Some(content), None) => {
                        texts += 1;
                        assert!(is_valid(&parsed(&content.into())), "{format}: {choice}");
                    }
                    (None | Some(""), Some(all)) => {
                        calls += all.len();
                        assert_eq!(choice["finish_reason"], "tool_calls", "{format}: {choice}");
                        for call in all {
                            assert_eq!(call["function"]["name"], "lamp", "{format}: {choice}");
                            let arguments = parsed(&call["function"]["arguments"]);
                            assert!(arguments["on"].is_boolean(), "{format}: {choice}");
                        }
                    }
                    _ => panic!("{format}: neither a text nor calls: {choice}"),
                }
            }
        }
        assert!(texts > 0, "{format}: {texts} texts, {calls} calls");
        println!("{format}: {texts} texts, {calls} calls");
        // The final channel's text alone, where there are no tools.
        let alone = json!({"model": "tiny", "messages": user, "thinking_budget": 8, "response_format": {"type": "json_schema", "json_schema": named}});
        let (status, answer) = server.post("/v1/chat/completions", &alone).await;
        assert_eq!(status, 200, "{format}: {answer}");
        assert!(is_valid(&parsed(&answer["choices"][0]["message"]["content"])), "{format}: {answer}");
    }
}

/// What else a request asks for changes nothing of what holds: other requests beside it, a stream, log-probabilities,
/// stop strings, an earliest end, a prompt that is cached, and going on where another answer broke off.
#[tokio::test]
async fn a_schema_holds_together_with_whatever_else_is_asked() {
    let folder = model();
    let source = format!("tiny={}", folder.path().display());
    let server = Server::start(&["--model", &source, "--max-running", "16"]);
    let named = json!({"name": "answer", "schema": schema(), "strict": true});
    let words = "many words of a prompt that fills blocks ".repeat(6);
    let body = |seed: u64, more: Value| {
        let mut body = json!({"model": "tiny", "seed": seed, "temperature": 1.5, "max_tokens": 200,
            "messages": [{"role": "user", "content": format!("{words}{}", seed % 3)}], "return_token_ids": true,
            "response_format": {"type": "json_schema", "json_schema": named}});
        body.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
        body
    };
    let ask = async |body: &Value| {
        let (status, answer) = server.post("/v1/chat/completions", body).await;
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let text =
        |answer: &Value| answer["choices"][0]["message"]["content"].as_str().expect("a text").to_owned();
    let mut alone = Vec::new();
    for seed in 0..16 {
        let answer = ask(&body(seed, json!({}))).await;
        assert!(is_valid(&parsed(&json!(text(&answer)))), "{answer}");
        alone.push(text(&answer));
    }
    let bodies: Vec<Value> = (0..16).map(|seed| body(seed, json!({}))).collect();
    let together = futures_util::future::join_all(bodies.iter().map(ask)).await;
    assert_eq!(together.iter().map(text).collect::<Vec<_>>(), alone, "an answer depends on the batch");
    let cached = &together[15]["usage"]["prompt_tokens_details"]["cached_tokens"];
    assert!(cached.as_u64().is_some_and(|tokens| tokens > 0), "the prompts are known by now: {cached}");

    let scored = ask(&body(3, json!({"logprobs": true, "top_logprobs": 4, "n": 3, "min_tokens": 12}))).await;
    for choice in scored["choices"].as_array().expect("choices") {
        assert!(is_valid(&parsed(&choice["message"]["content"])), "{choice}");
        let tokens = choice["logprobs"]["content"].as_array().expect("log-probabilities");
        let ids = choice["token_ids"].as_array().expect("ids");
        assert!(tokens.len() >= 12 && ids.len() >= 12, "{choice}");
        assert!(
            tokens.iter().all(|token| token["top_logprobs"].as_array().map(Vec::len) == Some(4)),
            "{choice}"
        );
    }
    // A stop string ends it within the document; one that does not come ends nothing.
    let stopped = ask(&body(3, json!({"stop": ["\"days\""]}))).await;
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop", "{stopped}");
    assert_eq!(Some(text(&stopped).as_str()), alone[3].split("\"days\"").next());
    assert_eq!(text(&ask(&body(3, json!({"stop": ["never"]}))).await), alone[3]);
    // Going on behind each beginning gives the rest.
    let whole = ask(&body(5, json!({}))).await;
    let ids = whole["choices"][0]["token_ids"].as_array().expect("ids").clone();
    for done in [1, ids.len() / 2, ids.len() - 2] {
        let rest = ask(&body(5, json!({"resume_token_ids": [ids[..done]]}))).await;
        let more = rest["choices"][0]["token_ids"].as_array().expect("ids");
        assert_eq!(more[..], ids[done..], "behind {done} of {} tokens", ids.len());
    }
}

#[tokio::test]
async fn json_is_valid_in_every_callers_format() {
    let folder = model();
    let source = format!("tiny={}", folder.path().display());
    let server = Server::start(&["--model", &source, "--tool-call-parser", "hermes"]);
    let user = json!([{"role": "user", "content": "hello"}]);
    let named = json!({"name": "answer", "schema": schema(), "strict": true});
    for seed in 0..3 {
        let chat = json!({"model": "tiny", "messages": user, "seed": seed, "n": 2,
            "response_format": {"type": "json_schema", "json_schema": named}});
        let (status, answer) = server.post("/v1/chat/completions", &chat).await;
        assert_eq!(status, 200, "{answer}");
        for choice in answer["choices"].as_array().expect("choices") {
            assert!(is_valid(&parsed(&choice["message"]["content"])), "{answer}");
        }
        let text = json!({"model": "tiny", "prompt": "hello", "seed": seed, "max_tokens": 200, "guided_json": schema()});
        let (status, answer) = server.post("/v1/completions", &text).await;
        assert_eq!(status, 200, "{answer}");
        assert!(is_valid(&parsed(&answer["choices"][0]["text"])), "{answer}");
        let message = json!({"model": "tiny", "max_tokens": 200, "messages": user,
            "output_config": {"format": {"type": "json_schema", "schema": schema()}}});
        let (status, answer) = server.post("/v1/messages", &message).await;
        assert_eq!(status, 200, "{answer}");
        assert!(is_valid(&parsed(&answer["content"][0]["text"])), "{answer}");
        let response = json!({"model": "tiny", "input": "hello", "seed": seed,
            "text": {"format": {"type": "json_schema", "name": "answer", "schema": schema(), "strict": true}}});
        let (status, answer) = server.post("/v1/responses", &response).await;
        assert_eq!(status, 200, "{answer}");
        let items = answer["output"].as_array().expect("items");
        let said = items.iter().find(|item| item["type"] == "message").expect("a message");
        assert!(is_valid(&parsed(&said["content"][0]["text"])), "{answer}");
    }
    let body = json!({"model": "tiny", "messages": user, "guided_choice": ["yes", "no"]});
    let (status, answer) = server.post("/v1/chat/completions", &body).await;
    let said = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    assert!(status == 200 && ["yes", "no"].contains(&said), "{answer}");
}

#[tokio::test]
async fn a_schema_that_cannot_be_held_is_refused_by_its_keyword() {
    let folder = model();
    let source = format!("tiny={}", folder.path().display());
    let server = Server::start(&["--model", &source, "--tool-call-parser", "hermes"]);
    let user = json!([{"role": "user", "content": "hello"}]);
    for (more, param, says) in [
        (
            json!({"guided_json": {"type": "object", "dependentRequired": {}}}),
            "guided_json",
            "dependentRequired",
        ),
        (json!({"guided_json": {"$ref": "https://example.com/schema.json"}}), "guided_json", "$ref"),
        (json!({"guided_regex": "("}), "guided_regex", ""),
    ] {
        let mut body = json!({"model": "tiny", "messages": user});
        body.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
        let (status, answer) = server.post("/v1/chat/completions", &body).await;
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{answer}");
        assert!(
            answer["error"]["message"].as_str().is_some_and(|message| message.contains(says)),
            "{answer}"
        );
    }
}
