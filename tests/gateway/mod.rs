//! The gateway as its callers see it: the program with a `novastack.yaml`, mock upstreams of both formats,
//! and a tiny model of its own.

mod access_log;
mod broken_models;
mod budgets;
mod clients;
mod connections;
mod counts;
mod embeddings;
mod endings;
mod faults;
mod kills;
mod hedging;
mod https;
mod memory;
mod metrics;
mod packed;
mod pages;
mod providers;
mod replicas;
mod report;
mod resume;
mod secrets;
mod shared;
mod silence;
mod tenants;
mod text_only;
mod think_text;
mod tls;
mod trace;
mod usage;

use crate::support::golden_dir;
use crate::support::server::Server;
use crate::support::upstream::{TEXT, USAGE, Upstream, openai_stream};
use serde_json::{Value, json};
use std::collections::HashMap;

/// A server with this configuration, in which `@OPENAI` and `@ANTHROPIC` are the mocks' URLs and `@LOCAL` is a
/// tiny model.
pub struct Gateway {
    pub server: Server,
    pub file: tempfile::TempDir,
    client: reqwest::Client,
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The data of a stream's events.
    pub fn data(&self) -> Vec<Value> {
        let data = self.text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).expect("JSON")).collect()
    }

    /// The text of the answer or stream, in either dialect.
    pub fn says(&self) -> String {
        if self.text.starts_with('{') {
            let answer = self.json();
            let openai = answer["choices"][0]["message"]["content"].as_str();
            return openai.or(answer["content"][0]["text"].as_str()).unwrap_or_default().to_owned();
        }
        let piece = |data: &Value| {
            let openai = data["choices"][0]["delta"]["content"].as_str();
            openai.or(data["delta"]["text"].as_str()).unwrap_or_default().to_owned()
        };
        self.data().iter().map(piece).collect()
    }
}

/// The program's environment: keys that the mocks expect from it, and its own.
const UPSTREAM_KEYS: [(&str, &str); 3] = [
    ("TEST_OPENAI_KEY", "sk-upstream-1"),
    ("TEST_ANTHROPIC_KEY", "sk-upstream-2"),
    ("TEST_ADMIN_KEY", "the-key-of-the-admin"),
];

pub fn fill(config: &str, openai: &Upstream, anthropic: &Upstream) -> String {
    let local = golden_dir("llama").display().to_string();
    config.replace("@OPENAI", &openai.url).replace("@ANTHROPIC", &anthropic.url).replace("@LOCAL", &local)
}

pub fn start(config: &str, arguments: &[&str]) -> Gateway {
    let file = tempfile::tempdir().expect("a folder");
    std::fs::write(file.path().join("novastack.yaml"), config).expect("a file");
    start_in(file, arguments)
}

/// The same, in a folder that has a configuration.
pub fn start_in(file: tempfile::TempDir, arguments: &[&str]) -> Gateway {
    start_with(file, arguments, &[])
}

/// The same, with more of an environment.
pub fn start_with(file: tempfile::TempDir, arguments: &[&str], environment: &[(&str, &str)]) -> Gateway {
    let path = file.path().join("novastack.yaml").display().to_string();
    let arguments = [&["--config", &path], arguments].concat();
    let server = Server::try_start_with(&arguments, &[&UPSTREAM_KEYS, environment].concat());
    let server = server.unwrap_or_else(|log| panic!("novastack serve {arguments:?}:\n{log}"));
    Gateway { server, file, client: crate::support::client() }
}

impl Gateway {
    /// Ends the program as a service manager does; its folder.
    pub fn stop(self) -> tempfile::TempDir {
        self.server.terminate();
        assert_eq!(self.server.wait(), Some(0));
        self.file
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut request = self.client.post(format!("{}{path}", self.server.url)).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        let headers = response.headers().iter();
        let headers =
            headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().into()));
        let headers = headers.collect();
        Answer { status, headers, text: response.text().await.expect("a body") }
    }

    pub async fn get(&self, path: &str) -> String {
        let url = format!("{}{path}", self.server.url);
        self.client.get(url).send().await.expect("an answer").text().await.expect("a body")
    }

    pub async fn chat(&self, model: &str, stream: bool) -> Answer {
        self.post("/v1/chat/completions", &[], &chat(model, stream)).await
    }

    pub async fn message(&self, model: &str, stream: bool) -> Answer {
        self.post("/v1/messages", &[], &message(model, stream)).await
    }
}

pub fn chat(model: &str, stream: bool) -> Value {
    json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "Explain async/await" }] })
}

pub fn message(model: &str, stream: bool) -> Value {
    let mut body = chat(model, stream);
    body["max_tokens"] = 64.into();
    body
}

/// The events of a mock's stream up to its first text.
pub fn begun_stream() -> Vec<u8> {
    let whole = openai_stream(&json!({ "model": "mock" }));
    let text = whole.find("Hello, ").expect("text");
    let end = text + whole[text..].find("\n\n").expect("its end") + 2;
    whole[..end].into()
}

pub const CONFIG: &str = r#"
providers:
  open: { format: openai, base_url: @OPENAI/v1, api_key_env: TEST_OPENAI_KEY, headers: { x-team: search } }
  anth: { format: anthropic, base_url: @ANTHROPIC, api_key_env: TEST_ANTHROPIC_KEY }
models:
  qwen3-235b: { source: @LOCAL, price: { input: 2.0, output: 4.0 } }
  deepseek-v4-pro: { provider: open, upstream_name: deepseek-upstream, context: 1000, price: { input: 1.0, output: 10.0, cached_input: 0.5 } }
  claude-opus-4.7: { provider: anth, upstream_name: claude-upstream, price: { input: 5.0, output: 25.0 }, capabilities: [images, tools] }
aliases: { gpt-4o: deepseek-v4-pro, claude: claude-opus-4.7 }
"#;

/// Both dialects, from and to both formats, streamed and whole: the same text and the same usage.
#[tokio::test]
async fn any_dialect_reaches_any_upstream() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    for model in ["deepseek-v4-pro", "claude-opus-4.7"] {
        for prefix in ["", "/router"] {
            let body = chat(model, false);
            let answer = gateway.post(&format!("{prefix}/v1/chat/completions"), &[], &body).await;
            let whole = answer.json();
            assert_eq!((answer.status, answer.says().as_str()), (200, TEXT), "{}", answer.text);
            assert_eq!(
                (&whole["model"], &whole["choices"][0]["finish_reason"]),
                (&json!(model), &json!("stop"))
            );
            let usage = &whole["usage"];
            let counted = (
                &usage["prompt_tokens"],
                &usage["prompt_tokens_details"]["cached_tokens"],
                &usage["completion_tokens"],
            );
            assert_eq!(counted, (&json!(USAGE.0), &json!(USAGE.1), &json!(USAGE.2)), "{usage}");
            assert_eq!(answer.headers["x-novastack-model"], model);
            assert_eq!(answer.headers["x-novastack-attempts"], "1");
        }
        for prefix in ["", "/router", "/anthropic"] {
            let answer = gateway.post(&format!("{prefix}/v1/messages"), &[], &message(model, false)).await;
            let whole = answer.json();
            assert_eq!((answer.status, answer.says().as_str()), (200, TEXT), "{}", answer.text);
            assert_eq!((&whole["type"], &whole["model"]), (&json!("message"), &json!(model)));
            assert_eq!(whole["stop_reason"], "end_turn");
            let usage = &whole["usage"];
            let counted =
                (&usage["input_tokens"], &usage["cache_read_input_tokens"], &usage["output_tokens"]);
            assert_eq!(counted, (&json!(USAGE.0 - USAGE.1), &json!(USAGE.1), &json!(USAGE.2)), "{usage}");
        }
        let mut body = chat(model, true);
        body["stream_options"] = json!({ "include_usage": true });
        let answer = gateway.post("/v1/chat/completions", &[], &body).await;
        assert_eq!((answer.status, answer.says().as_str()), (200, TEXT), "{}", answer.text);
        assert!(answer.text.ends_with("data: [DONE]\n\n"), "{}", answer.text);
        let data = answer.data();
        assert!(data.iter().all(|chunk| chunk["model"] == model), "{}", answer.text);
        assert_eq!(data.last().expect("chunks")["usage"]["completion_tokens"], USAGE.2, "{}", answer.text);
        // Who does not ask for the usage does not get a chunk without choices.
        let answer = gateway.chat(model, true).await;
        assert!(answer.data().iter().all(|chunk| chunk["choices"][0].is_object()), "{}", answer.text);

        let answer = gateway.message(model, true).await;
        assert_eq!((answer.status, answer.says().as_str()), (200, TEXT), "{}", answer.text);
        let kinds: Vec<_> =
            answer.data().iter().map(|data| data["type"].as_str().unwrap_or_default().to_owned()).collect();
        assert_eq!(kinds.first().map(String::as_str), Some("message_start"));
        assert_eq!(kinds[kinds.len() - 2..], ["message_delta", "message_stop"], "{kinds:?}");
        let delta = &answer.data()[kinds.len() - 2];
        assert_eq!(
            (&delta["delta"]["stop_reason"], &delta["usage"]["output_tokens"]),
            (&json!("end_turn"), &json!(USAGE.2))
        );
    }
}

/// What an upstream is sent: its own key and name, the provider's headers, nothing of the caller's key.
#[tokio::test]
async fn upstreams_see_what_is_theirs() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &["--api-key", "a-callers-own-secret"]);
    let headers = [
        ("authorization", "Bearer a-callers-own-secret"),
        ("x-novastack-budget", "0.5"),
        ("anthropic-beta", "b1"),
    ];
    for (model, stream) in [("deepseek-v4-pro", false), ("claude-opus-4.7", false), ("deepseek-v4-pro", true)]
    {
        let mut body = message(model, stream);
        body["metadata"] = json!({ "task": "chat", "user_id": "u1" });
        body["x_unknown"] = json!({ "kept": true });
        for path in ["/v1/chat/completions", "/v1/messages"] {
            assert_eq!(gateway.post(path, &headers, &body).await.status, 200);
        }
    }
    for (mock, key, model) in [
        (&openai, ("authorization", "Bearer sk-upstream-1"), "deepseek-upstream"),
        (&anthropic, ("x-api-key", "sk-upstream-2"), "claude-upstream"),
    ] {
        for asked in mock.asked() {
            assert_eq!(asked.headers[key.0], key.1);
            assert_eq!(asked.body["model"], model);
            assert!(!format!("{asked:?}").contains("a-callers-own-secret"), "{asked:?}");
            assert!(!asked.headers.contains_key("x-novastack-budget"), "{asked:?}");
            assert!(asked.body.pointer("/metadata/task").is_none(), "{asked:?}");
        }
    }
    let asked = openai.asked();
    assert_eq!(asked[0].headers["x-team"], "search");
    assert_eq!(asked[0].body["x_unknown"]["kept"], true, "the same dialect passes on what is not known here");
    assert!(!asked[0].headers.contains_key("anthropic-beta"));
    let asked = anthropic.asked();
    assert_eq!(asked[1].body["x_unknown"]["kept"], true);
    assert_eq!(
        (asked[1].headers["anthropic-version"].as_str(), asked[1].headers["anthropic-beta"].as_str()),
        ("2023-06-01", "b1")
    );
    let refused = gateway.post("/v1/messages", &[], &message("claude", false)).await;
    assert_eq!((refused.status, refused.json()["type"].clone()), (401, json!("error")), "{}", refused.text);
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
}

/// Our own model, asked in Anthropic's format.
#[tokio::test]
async fn a_local_model_answers_messages() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let mut body = message("qwen3-235b", false);
    (body["max_tokens"], body["temperature"]) = (6.into(), 0.into());
    body["system"] = "Be brief.".into();
    let whole = gateway.post("/v1/messages", &[], &body).await;
    let answer = whole.json();
    assert_eq!((whole.status, &answer["stop_reason"]), (200, &json!("max_tokens")), "{}", whole.text);
    assert_eq!((&answer["usage"]["output_tokens"], &answer["role"]), (&json!(6), &json!("assistant")));
    let mut same = body.clone();
    same["messages"] = json!([{ "role": "system", "content": "Be brief." }, body["messages"][0]]);
    same.as_object_mut().unwrap().remove("system");
    let openai_answer = gateway.post("/v1/chat/completions", &[], &same).await;
    assert_eq!(openai_answer.says(), whole.says());
    // Here what the prefix cache held is counted apart.
    let prompt = |usage: &Value| {
        usage["input_tokens"].as_u64().expect("tokens")
            + usage["cache_read_input_tokens"].as_u64().unwrap_or(0)
    };
    assert_eq!(openai_answer.json()["usage"]["prompt_tokens"], prompt(&answer["usage"]));
    body["stream"] = true.into();
    let streamed = gateway.post("/v1/messages", &[], &body).await;
    assert_eq!(streamed.says(), whole.says());
    assert!(streamed.text.starts_with("event: message_start\ndata: "), "{}", streamed.text);
    assert_eq!(prompt(&streamed.data()[0]["message"]["usage"]), prompt(&answer["usage"]));
    body["max_tokens"] = "many".into();
    let wrong = gateway.post("/v1/messages", &[], &body).await;
    let error = wrong.json();
    assert_eq!(
        (wrong.status, &error["error"]["type"]),
        (400, &json!("invalid_request_error")),
        "{}",
        wrong.text
    );
    assert!(error["error"]["message"].as_str().unwrap().contains("max_tokens"), "{error}");
}

/// Both spellings of the rules choose as written.
#[tokio::test]
async fn rules_choose() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let rest = r#"
providers:
  any: { format: openai, base_url: @OPENAI/v1 }
models:
  kimi-2.6: { provider: any, price: { input: 0.6, output: 0.6 }, capabilities: [images] }
  qwen3-235b: { provider: any, price: { input: 0.9, output: 0.9 }, capabilities: [tools] }
  deepseek-v4-pro: { provider: any, price: { input: 0.5, output: 0.5 }, context: 2000, capabilities: [tools] }
named_routes:
  cheap: { cheapest: [qwen3-235b, deepseek-v4-pro, kimi-2.6] }
  long: [kimi-2.6, qwen3-235b]
keys:
  ci: { sha256: fe5cf6eef1dc1ca10d8bfa761cf662da62aba67f81b3dd7665e5feaec19643d8, models: [auto, cheap] }
"#;
    let matches = r#"
routes:
- match: context_length > 80000
  model: kimi-2.6
- match: task_type == "reasoning"
  model: qwen3-235b
- match: header["x-forwarded-to"] == "claude"
  model: kimi-2.6
- default: deepseek-v4-pro
"#;
    let ifs = r#"
route:
- if: task == "long_document_qa" and context_length > 100000
  use: kimi-2.6
  fallback: qwen3-235b
- if: task == "reasoning" and budget < 0.0005
  use: deepseek-v4-pro
"#;
    let key = ("x-api-key", "a-key-of-the-tests");
    let answered = async |gateway: &Gateway, model: &str, headers: &[(&str, &str)], body: Value| {
        let mut all = chat(model, false);
        all.as_object_mut().unwrap().extend(body.as_object().cloned().unwrap());
        let answer = gateway.post("/v1/chat/completions", &[&[key], headers].concat(), &all).await;
        answer
            .headers
            .get("x-novastack-model")
            .cloned()
            .unwrap_or_else(|| answer.json()["error"]["code"].to_string())
    };
    let long = json!({ "messages": [{ "role": "user", "content": "word ".repeat(90_000) }] });
    let gateway = start(&fill(&(matches.to_owned() + rest), &openai, &anthropic), &[]);
    for (headers, body, expected) in [
        (&[][..], json!({}), "deepseek-v4-pro"),
        (&[], long.clone(), "kimi-2.6"),
        (&[("x-novastack-task", "reasoning")], json!({}), "qwen3-235b"),
        (&[], json!({ "metadata": { "task": "reasoning" } }), "qwen3-235b"),
        (&[], json!({ "reasoning_effort": "high" }), "qwen3-235b"),
        (&[("X-Forwarded-To", "claude")], json!({}), "kimi-2.6"),
        (&[("X-Forwarded-To", "cheap")], json!({}), "deepseek-v4-pro"),
    ] {
        assert_eq!(answered(&gateway, "auto", headers, body).await, expected, "{headers:?}");
    }
    // The cheapest that can: by price, by what fits, by what it takes.
    let image = json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "data:image/png;base64,AA==" } }] }] });
    assert_eq!(answered(&gateway, "cheap", &[], json!({})).await, "deepseek-v4-pro");
    assert_eq!(answered(&gateway, "cheap", &[], json!({ "max_tokens": 2000 })).await, "kimi-2.6");
    assert_eq!(answered(&gateway, "cheap", &[], image).await, "kimi-2.6");
    assert_eq!(answered(&gateway, "long", &[], json!({})).await, "\"model_not_allowed\"");
    assert_eq!(answered(&gateway, "nothing", &[], json!({})).await, "\"model_not_allowed\"");
    let gateway = start(&fill(&(ifs.to_owned() + rest), &openai, &anthropic), &[]);
    let budget = |budget: &'static str| [("x-novastack-task", "reasoning"), ("x-novastack-budget", budget)];
    assert_eq!(answered(&gateway, "auto", &budget("0.0001"), json!({})).await, "deepseek-v4-pro");
    assert_eq!(answered(&gateway, "auto", &budget("0.1"), json!({})).await, "\"no_route\"");
    let long = json!({ "messages": [{ "role": "user", "content": "word ".repeat(90_000) }] });
    assert_eq!(answered(&gateway, "auto", &[], long.clone()).await, "kimi-2.6");
    openai.always("kimi-2.6", vec![]);
    assert_eq!(answered(&gateway, "auto", &[], long).await, "qwen3-235b");
}

/// Nine tenths of keys go to one arm, each key to the same every time.
#[tokio::test]
async fn a_split_is_sticky() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = r#"
providers: { any: { format: openai, base_url: @OPENAI/v1 } }
models: { a: { provider: any }, b: { provider: any } }
named_routes: { ab: { split: { a: 90, b: 10 } } }
"#;
    let gateway = start(&fill(config, &openai, &anthropic), &[]);
    let mut counts = HashMap::new();
    for caller in 0..200 {
        let key = format!("caller-{caller}");
        let mut arms = Vec::new();
        for _ in 0..2 {
            let answer =
                gateway.post("/v1/chat/completions", &[("x-api-key", &key)], &chat("ab", false)).await;
            arms.push(answer.headers["x-novastack-model"].clone());
        }
        assert_eq!(arms[0], arms[1]);
        *counts.entry(arms[0].clone()).or_insert(0) += 1;
    }
    // Five standard deviations of a binomial distribution.
    assert!((counts["a"] - 180i32).abs() < 22, "{counts:?}");
}

#[tokio::test]
async fn costs_are_told() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let cost = |answer: &Answer| answer.headers["x-novastack-cost"].parse::<f64>().expect("a number");
    let expected = ((USAGE.0 - USAGE.1) as f64 * 1.0 + USAGE.1 as f64 * 0.5 + USAGE.2 as f64 * 10.0) / 1e6;
    assert!((cost(&gateway.chat("gpt-4o", false).await) - expected).abs() < 1e-9);
    let mut body = chat("qwen3-235b", false);
    (body["max_tokens"], body["ignore_eos"]) = (4.into(), true.into());
    let local = gateway.post("/v1/chat/completions", &[], &body).await;
    let expected = (local.json()["usage"]["prompt_tokens"].as_f64().expect("tokens") * 2.0 + 4.0 * 4.0) / 1e6;
    assert!((cost(&local) - expected).abs() < 1e-9, "{}", local.text);
    let expected = (USAGE.0 as f64 * 5.0 + USAGE.2 as f64 * 25.0) / 1e6;
    assert!((cost(&gateway.message("claude", false).await) - expected).abs() < 1e-9);
}

/// A request that one target cannot do goes on to the next.
#[tokio::test]
async fn what_one_cannot_do_another_may() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = fill(CONFIG, &openai, &anthropic)
        + "named_routes: { safe: [qwen3-235b, claude-opus-4.7, deepseek-v4-pro] }\n";
    let gateway = start(&config, &[]);
    let answered = async |body: Value| {
        let mut all = chat("safe", false);
        all.as_object_mut().unwrap().extend(body.as_object().cloned().unwrap());
        let answer = gateway.post("/v1/chat/completions", &[], &all).await;
        answer.headers.get("x-novastack-model").cloned().unwrap_or(answer.text)
    };
    let tool = json!({ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } });
    assert_eq!(answered(json!({ "max_tokens": 4 })).await, "qwen3-235b");
    assert_eq!(answered(json!({ "tools": [tool] })).await, "claude-opus-4.7");
    // A bound that is more than the context holds is what it holds.
    assert_eq!(answered(json!({ "max_tokens": 1_000_000 })).await, "qwen3-235b");
    // Anthropic's format has no second choice.
    assert_eq!(answered(json!({ "tools": [tool], "n": 2 })).await, "deepseek-v4-pro");
    assert!(answered(json!({ "messages": 3 })).await.contains("messages"));
}

/// A new file takes hold by itself, a wrong one does not; what runs goes on.
#[tokio::test]
async fn the_configuration_is_read_again() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = fill(CONFIG, &openai, &anthropic);
    let gateway = start(&config, &[]);
    let file = gateway.file.path().join("novastack.yaml");
    let names = async || gateway.server.get("/v1/models").await.1;
    let until = async |wanted: &dyn Fn(&str) -> bool| {
        for _ in 0..100 {
            if wanted(&names().await) {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        false
    };
    assert!(names().await.contains("\"claude-opus-4.7\""));
    std::fs::write(&file, config.replace("claude-opus-4.7", "claude-opus-5")).expect("a file");
    assert!(until(&|names| names.contains("\"claude-opus-5\"")).await);
    // Wrong, with another local model, with another address: all are refused.
    let address = "server: { host: 0.0.0.0 }\n".to_owned() + &config;
    for wrong in [config.clone() + "modles: {}\n", config.replace("qwen3-235b:", "other:"), address] {
        std::fs::write(&file, wrong).expect("a file");
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        let names = names().await;
        assert!(names.contains("claude-opus-5") && names.contains("qwen3-235b"), "{names}");
    }
    std::fs::write(&file, &config).expect("a file");
    assert!(until(&|names| names.contains("\"claude-opus-4.7\"")).await);
}
