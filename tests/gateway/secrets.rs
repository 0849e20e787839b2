//! A provider, or whoever stands in its place, repeats what it was sent: the key goes no further.

use super::{Gateway, chat, fill, message, start_with};
use crate::support::otlp::Receiver;
use crate::support::upstream::{Act, Upstream, answer, raw, stream_head};
use serde_json::{Value, json};

const KEY: &str = "provider/key+0123456789";
const CALLER: &str = "the-key-of-a-caller";
const REDIS: &str = "redis-password-7";

const CONFIG: &str = "
server: { access_log: access.jsonl, admin_key_env: TEST_ADMIN_KEY, telemetry: { otlp_endpoint: \"@OTLP\" } }
providers:
  open: { format: openai, base_url: @OPENAI/v1, api_key_env: TEST_LONG_KEY }
  anth: { format: anthropic, base_url: @ANTHROPIC, api_key_env: TEST_LONG_KEY }
";

/// The key as it stands, in a URL, in base64 with something before it, and others' keys.
fn echo() -> String {
    let base64 = "dXNlcjpwcm92aWRlci9rZXkrMDEyMzQ1Njc4OQ==";
    format!("<{KEY}> <provider%2Fkey%2B0123456789> <{base64}> <{CALLER}> <the-key-of-the-admin> <{REDIS}>")
}

/// Pieces of the secrets that would be left of any of their forms.
const TRACES: [&str; 6] = ["0123456789", "%2Fkey", "ci9rZXkr", "of-a-caller", "of-the-admin", REDIS];

fn assert_clean(what: &str, text: &str) {
    for trace in TRACES {
        assert!(!text.contains(trace), "{trace} in {what}:\n{text}");
    }
}

fn both(body: &Value) -> [Value; 2] {
    [body.clone(), {
        let mut body = body.clone();
        body["stream"] = true.into();
        body
    }]
}

async fn ask(gateway: &Gateway, model: &str) -> Vec<String> {
    let headers =
        [("authorization", &*format!("Bearer {CALLER}"))].map(|(name, value)| (name, value.to_owned()));
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut answers = Vec::new();
    for (path, body) in
        [("/v1/chat/completions", chat(model, false)), ("/v1/messages", message(model, false))]
    {
        for body in both(&body) {
            let answer = gateway.post(path, &headers, &body).await;
            answers.push(format!("{} {:?}\n{}", answer.status, answer.headers, answer.text));
        }
    }
    answers
}

#[tokio::test]
async fn known_secrets_are_cut_out_of_everything_that_leaves() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let receiver = Receiver::start().await;
    let file = tempfile::tempdir().expect("a folder");
    // A model of its own for each answer: who fails again and again is left alone.
    let models = (0..20).map(|n| format!("  o{n}: {{ provider: open }}\n  a{n}: {{ provider: anth }}\n"));
    let config = fill(CONFIG, &openai, &anthropic).replace("@OTLP", &receiver.url);
    let config = format!("{config}models:\n{}", models.collect::<String>());
    std::fs::write(file.path().join("novastack.yaml"), config).expect("a file");
    let environment = [("TEST_LONG_KEY", KEY), ("NOVASTACK_LOG", "trace"), ("PGPASSWORD", REDIS)];
    let gateway = start_with(file, &["--api-key", CALLER], &environment);
    let echo = echo();
    let whole = |more: &str| {
        json!({
            "id": format!("id {more}"), "object": "chat.completion", "created": 1, "model": more,
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": more }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2 },
        })
    };
    let message = |more: &str| {
        json!({
            "id": format!("msg {more}"), "type": "message", "role": "assistant", "model": more,
            "content": [{ "type": "text", "text": more }], "stop_reason": "end_turn", "stop_sequence": null,
            "usage": { "input_tokens": 1, "output_tokens": 1 },
        })
    };
    let delta = |text: &str| {
        let choice = json!({ "index": 0, "delta": { "content": text }, "finish_reason": null });
        format!("data: {}\n\n", json!({ "id": text, "model": text, "choices": [choice] }))
    };
    let error = json!({ "type": "error", "error": { "type": "invalid_request_error", "message": echo, "param": echo } });
    let text = |model: &str, bytes: Vec<u8>| {
        openai.always(model, vec![Act::Send(bytes.clone())]);
        anthropic.always(model, vec![Act::Send(bytes)]);
    };
    let begun = [stream_head(), delta(&echo).into_bytes()].concat();
    let event = |data: &Value| format!("event: {}\ndata: {data}\n\n", data["type"].as_str().expect("text"));
    let anthropic_begun = [
        json!({ "type": "message_start", "message": message(&echo) }),
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": echo } }),
    ];
    let anthropic_begun = anthropic_begun.iter().map(event).collect::<String>().into_bytes();
    // A message that is cut off in the middle of a key, when it is shortened.
    let long = format!("{}{KEY}", "x".repeat(1995));
    let answers: Vec<(&str, Vec<u8>)> = vec![
        ("401", answer("401 Unauthorized", &error)),
        ("400", answer("400 Bad Request", &error)),
        ("429", answer("429 Too Many Requests", &error)),
        ("500 of a proxy", raw("500 Oh No", "content-type: text/html\r\n", &format!("<p>{echo}</p>"))),
        (
            "headers",
            raw("400 Bad Request", &format!("x-echo: {KEY}\r\nx-request-id: {KEY}\r\n"), &error.to_string()),
        ),
        ("a wrong type", raw("200 OK", &format!("content-type: {KEY}\r\n"), "x")),
        ("no JSON", raw("200 OK", "content-type: application/json\r\n", &echo)),
        ("shortened", answer("400 Bad Request", &json!({ "error": { "message": long } }))),
        ("whole", answer("200 OK", &whole(&echo))),
        ("a message", answer("200 OK", &message(&echo))),
        ("an error in a stream", [begun.clone(), format!("data: {error}\n\n").into_bytes()].concat()),
        ("an error at once", [stream_head(), format!("data: {error}\n\n").into_bytes()].concat()),
        ("broken off", [begun, format!("data: {{\"{KEY}").into_bytes()].concat()),
        ("anthropic's stream", [stream_head(), anthropic_begun, event(&error).into_bytes()].concat()),
        (
            "an odd event",
            [stream_head(), format!("event: {KEY}\ndata: {{\"type\":\"{KEY}\"}}\n\n").into_bytes()].concat(),
        ),
    ];
    let mut repeated = 0;
    for (n, (what, bytes)) in answers.into_iter().enumerate() {
        for model in [format!("o{n}"), format!("a{n}")] {
            text(&model, bytes.clone());
            for answer in ask(&gateway, &model).await {
                repeated += usize::from(answer.contains("***"));
                assert_clean(&format!("{what} of {model}"), &answer);
            }
        }
    }
    assert!(repeated > 30, "the mocks did repeat it: {repeated}");
    // The key reached who it is for.
    let asked = openai.asked();
    assert_eq!(asked[0].headers["authorization"], format!("Bearer {KEY}"));
    assert!(!receiver.spans(60).await.is_empty());
    assert_clean("the traces", &String::from_utf8_lossy(&receiver.raw()));
    let health = gateway.server.get("/health").await.1;
    assert_clean("/health", &health);
    gateway.server.log_line(&["refused", "***"]).await;
    assert_clean("the log", &gateway.server.log());
    let folder = gateway.stop();
    let access = std::fs::read_to_string(folder.path().join("access.jsonl")).expect("a log");
    assert!(access.contains("***"), "{access}");
    assert_clean("the access log", &access);
}

/// At `trace` libraries write out what passes through them, one of them every letter of a prompt.
#[tokio::test]
async fn prompts_and_answers_are_in_no_log_whatever_is_asked_for() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let file = tempfile::tempdir().expect("a folder");
    let config = "
providers: { open: { format: openai, base_url: @OPENAI/v1 } }
models: { o: { provider: open }, local: { source: @LOCAL } }
";
    std::fs::write(file.path().join("novastack.yaml"), fill(config, &openai, &anthropic)).expect("a file");
    let gateway = start_with(file, &[], &[("NOVASTACK_LOG", "trace,tokenizers=trace,hyper=trace")]);
    for model in ["o", "local"] {
        for (path, body) in
            [("/v1/chat/completions", chat(model, false)), ("/v1/messages", message(model, false))]
        {
            for mut body in both(&body) {
                (body["messages"][0]["content"], body["max_tokens"]) =
                    ("Quokka-PROMPT-\u{211a}".into(), 2.into());
                assert_eq!(gateway.post(path, &[], &body).await.status, 200, "{path} {model}");
            }
        }
    }
    let body = json!({ "model": "local", "prompt": "Quokka-PROMPT-\u{211a}" });
    assert_eq!(gateway.post("/tokenize", &[], &body).await.status, 200);
    gateway.server.log_line(&["answered", "/tokenize"]).await;
    let log = gateway.server.log();
    assert!(!log.contains("Quokka") && !log.contains("Hello, "), "{log}");
    assert!(!log.contains("tokenizers::") && !log.contains('\u{211a}'), "{log}");
    let others = log.lines().filter(|line| line.contains(" TRACE ") && !line.contains("novastack"));
    assert_eq!(others.count(), 0, "{log}");
}
