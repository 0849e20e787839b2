//! Embeddings, reranking and scores of upstreams: what passes through, and that they are tried, booked and limited as
//! chats are.

use super::usage::STORE;
use super::{Gateway, fill, start};
use crate::support::upstream::{Act, TEXT_USAGE, Upstream, answer, raw};
use reqwest::Method;
use serde_json::{Value, json};

const CONFIG: &str = r#"
providers:
  open: { format: openai, base_url: @OPENAI/v1, api_key_env: TEST_OPENAI_KEY, timeout_s: 2 }
  open-one: { format: openai, base_url: @OPENAI/v1, timeout_s: 1, max_concurrency: 1 }
  answers: { format: responses, base_url: @OPENAI/v1 }
  anth: { format: anthropic, base_url: @ANTHROPIC, api_key_env: TEST_ANTHROPIC_KEY }
models:
  local: { source: @LOCAL }
  small: { provider: open, upstream_name: text-embedding-small, price: { input: 2.0, output: 0 } }
  bad: { provider: open-one }
  busy: { provider: open }
  answers: { provider: answers }
  claude: { provider: anth }
aliases: { text-embedding-3-small: small }
named_routes:
  safe: [bad, small]
  spare: [busy, small]
  mixed: [claude, answers, local, small]
"#;

async fn gateway(openai: &Upstream, anthropic: &Upstream) -> Gateway {
    start(&(STORE.to_owned() + &fill(CONFIG, openai, anthropic)), &[])
}

fn embed(model: &str) -> Value {
    json!({ "model": model, "input": ["a", "b"], "dimensions": 2, "user": "u" })
}

fn bodies(model: &str) -> [(&'static str, Value); 3] {
    [
        ("/v1/embeddings", embed(model)),
        (
            "/v1/rerank",
            json!({ "model": model, "query": "a", "documents": ["b", { "text": "c" }], "top_n": 1 }),
        ),
        ("/v1/score", json!({ "model": model, "text_1": "a", "text_2": ["b", "c"] })),
    ]
}

#[tokio::test]
async fn embeddings_rerank_and_score_pass_through_priced_and_recorded() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = gateway(&openai, &anthropic).await;
    let mut asked = 0;
    let dollars = TEXT_USAGE as f64 * 2.0 / 1e6;
    for (path, mut body) in bodies("text-embedding-3-small") {
        body["metadata"] = json!({ "team": "search", "task": "index" });
        let alias = path.replacen("/v1", "", 1);
        let mut paths = vec![path.to_owned(), format!("/router{path}"), format!("/to/small{path}")];
        match path {
            "/v1/rerank" => paths.extend([alias, "/v2/rerank".to_owned()]),
            "/v1/score" => paths.push(alias),
            _ => {}
        }
        for path_here in paths {
            let told = gateway.post(&path_here, &[], &body).await;
            assert_eq!(told.status, 200, "{path_here}: {}", told.text);
            // The answer is the upstream's to the byte, but for the model's name.
            let sent = openai.asked();
            let sent = sent.last().expect("a request");
            let wanted = crate::support::upstream::texts_whole(sent).to_string();
            assert_eq!(told.text, wanted.replace("text-embedding-small", "small"), "{path_here}");
            assert_eq!(sent.path, path, "{path_here}");
            assert_eq!(sent.headers["authorization"], "Bearer sk-upstream-1");
            let mut passed = body.clone();
            passed["model"] = "text-embedding-small".into();
            passed.as_object_mut().expect("an object").remove("metadata");
            assert_eq!(sent.body, passed, "{path_here}");
            let headers = &told.headers;
            assert_eq!((&*headers["x-novastack-model"], &*headers["x-novastack-attempts"]), ("small", "1"));
            assert_eq!(headers["x-novastack-cost"], format!("{dollars:.9}"));
            asked += 1;
        }
    }
    let rows = gateway.usage("model").await;
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!(
        (&row["model"], &row["requests"], &row["estimated"]),
        (&json!("small"), &json!(asked), &json!(0))
    );
    assert_eq!((&row["input_tokens"], &row["output_tokens"]), (&json!(TEXT_USAGE * asked), &json!(0)));
    let cost = row["cost"].as_f64().expect("a cost");
    assert!((cost - dollars * asked as f64).abs() < 1e-12, "{row}");
    let rows = gateway.usage("tag:team").await;
    assert_eq!(rows[0]["requests"], asked, "{rows:?}");
    let rows = gateway.usage("task").await;
    assert_eq!(rows[0]["task"], "index", "{rows:?}");
    let metrics = gateway.get("/metrics").await;
    for line in [
        r#"novastack_requests_total{route="/v1/embeddings",model="small",status="200"} 1"#.to_owned(),
        format!(r#"novastack_attempts_total{{model="small",provider="open",outcome="completed"}} {asked}"#),
    ] {
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

/// What an upstream sent in another form than was asked for is the caller's to read.
#[tokio::test]
async fn base64_and_large_answers_pass_through() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = gateway(&openai, &anthropic).await;
    let mut body = embed("small");
    body["encoding_format"] = "float".into();
    let data = json!([{ "object": "embedding", "index": 0, "embedding": "AACAPw==" }]);
    let whole = json!({ "object": "list", "data": data, "model": "there", "usage": { "total_tokens": 3 } });
    openai.once("text-embedding-small", vec![Act::Send(answer("200 OK", &whole))]);
    let told = gateway.post("/v1/embeddings", &[], &body).await.json();
    assert_eq!((&told["data"], &told["model"]), (&data, &json!("small")), "{told}");
    // Some megabytes of numbers, whose model is named at the end: as many as parsed would take gigabytes.
    let vector = format!("[{}]", vec!["-0.0069292834"; 1536].join(","));
    let one = format!(r#"{{"object":"embedding","index":0,"embedding":{vector}}}"#);
    let many = vec![one; 1000].join(",");
    let text =
        format!(r#"{{"object":"list","data":[{many}],"model":"there","usage":{{"prompt_tokens":9}}}}"#);
    let sent = raw("200 OK", "content-type: application/json\r\n", &text);
    openai.once("text-embedding-small", vec![Act::Send(sent)]);
    let told = gateway.post("/v1/embeddings", &[], &body).await;
    assert_eq!(told.status, 200);
    assert!(told.text == text.replace("\"there\"", "\"small\""), "{} bytes", told.text.len());
}

#[tokio::test]
async fn a_failing_upstream_is_tried_again_left_and_rests() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = gateway(&openai, &anthropic).await;
    let failing = |status| vec![Act::Send(answer(status, &json!({ "error": { "message": "overloaded" } })))];
    openai.always("busy", failing("503 Busy"));
    for (path, body) in bodies("spare") {
        let told = gateway.post(path, &[], &body).await;
        assert_eq!(
            (told.status, &*told.headers["x-novastack-model"]),
            (200, "small"),
            "{path}: {}",
            told.text
        );
    }
    for (path, body) in bodies("safe") {
        openai.once("bad", failing("500 Oops"));
        // A failure passes: the same target is asked again.
        let told = gateway.post(path, &[], &body).await;
        assert_eq!((told.status, &*told.headers["x-novastack-model"]), (200, "bad"), "{}", told.text);
        assert_eq!(told.headers["x-novastack-attempts"], "2");
    }
    openai.always("bad", failing("500 Oops"));
    let mut attempts = Vec::new();
    for _ in 0..3 {
        let told = gateway.post("/v1/embeddings", &[], &embed("safe")).await;
        assert_eq!((told.status, &*told.headers["x-novastack-model"]), (200, "small"), "{}", told.text);
        attempts.push(told.headers["x-novastack-attempts"].clone());
    }
    // After five failures in a row it is not asked any more.
    assert_eq!(attempts, ["4", "3", "1"]);
    let told = gateway.post("/v1/embeddings", &[], &embed("bad")).await;
    assert_eq!((told.status, &told.json()["error"]["code"]), (503, &json!("model_resting")), "{}", told.text);
    // What is no answer is a failure too, and is not passed on.
    openai.once("text-embedding-small", vec![Act::Send(answer("200 OK", &json!({ "fine": true })))]);
    let told = gateway.post("/v1/embeddings", &[], &embed("small")).await;
    assert_eq!((told.status, &*told.headers["x-novastack-attempts"]), (200, "2"), "{}", told.text);
}

/// 401 is this server's own key's fault, and what is said of it stays here; 400 is the caller's.
#[tokio::test]
async fn errors_of_upstreams_are_told_without_hints_of_keys() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = gateway(&openai, &anthropic).await;
    let wrong = json!({ "error": { "message": "Incorrect API key provided: sk-ab***yz." } });
    openai.once("text-embedding-small", vec![Act::Send(answer("401 Unauthorized", &wrong))]);
    let told = gateway.post("/v1/embeddings", &[], &embed("small")).await;
    assert_eq!(told.status, 502, "{}", told.text);
    assert!(!told.text.contains("ab***") && told.text.contains("refused this server's key"), "{}", told.text);
    let wrong = json!({ "error": { "message": "This model does not support specifying dimensions.", "param": "dimensions" } });
    openai.once("text-embedding-small", vec![Act::Send(answer("400 Bad Request", &wrong))]);
    let told = gateway.post("/v1/embeddings", &[], &embed("small")).await;
    let error = &told.json()["error"];
    assert_eq!((told.status, &error["param"]), (400, &json!("dimensions")), "{}", told.text);
}

#[tokio::test]
async fn providers_and_models_without_embeddings_say_so() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = gateway(&openai, &anthropic).await;
    for (model, says) in [
        ("claude", ["provider anth", "`format: anthropic`"]),
        ("answers", ["provider answers", "`format: responses`"]),
        ("local", ["`local` is a chat model", ""]),
    ] {
        for (path, body) in bodies(model) {
            let told = gateway.post(path, &[], &body).await;
            let error = &told.json()["error"];
            let message = error["message"].as_str().unwrap_or_default();
            assert_eq!((told.status, &error["code"]), (400, &json!("unsupported_task")), "{path}: {error}");
            assert!(says.iter().all(|says| message.contains(says)), "{path}: {message}");
        }
    }
    let told = gateway.post("/v1/embeddings", &[], &embed("local")).await.json();
    let message = "`local` is a chat model; embeddings are served by models with a pooling layer";
    assert_eq!(told["error"]["message"], message);
    // Another target may have them.
    for (path, body) in bodies("mixed") {
        let told = gateway.post(path, &[], &body).await;
        assert_eq!(
            (told.status, &*told.headers["x-novastack-model"]),
            (200, "small"),
            "{path}: {}",
            told.text
        );
    }
    assert!(anthropic.asked().is_empty());
    let told = gateway.post("/v1/embeddings", &[], &embed("nobody")).await;
    assert_eq!(told.status, 404, "{}", told.text);
    let told = gateway.post("/v1/embeddings", &[], &json!({ "input": "a" })).await;
    assert_eq!((told.status, &told.json()["error"]["param"]), (400, &json!("model")), "{}", told.text);
}

#[tokio::test]
async fn limits_and_credit_of_keys_hold() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = gateway(&openai, &anthropic).await;
    let key = async |settings: Value| {
        let made = gateway.admin(Method::POST, "/admin/keys", Some(settings)).await;
        format!("Bearer {}", made["key"].as_str().unwrap_or_else(|| panic!("{made}")))
    };
    let few = key(json!({ "name": "few", "limits": { "tokens_per_minute": 1000 } })).await;
    let cent = key(json!({ "name": "cent", "credit": 0.01 })).await;
    let other = key(json!({ "name": "other", "models": ["claude"] })).await;
    let ask = async |key: &str, path: &str, body: Value| {
        let told = gateway.post(path, &[("authorization", key)], &body).await;
        (told.status, told.headers.clone(), told.text)
    };
    // Small ones pass, and no output is held: 500 tokens for each would be more than there are.
    for _ in 0..2 {
        let (status, headers, text) = ask(&few, "/v1/embeddings", embed("small")).await;
        assert_eq!(status, 200, "{text}");
        let left: u64 = headers["x-ratelimit-remaining-tokens"].parse().expect("a number");
        assert!(left > 900, "{left}");
    }
    // What multiplies work is held: ids, texts, a query that is read with each document.
    let long = "a ".repeat(4000);
    let ids = json!({ "model": "small", "input": [vec![1; 600], vec![1; 600]] });
    let text = json!({ "model": "small", "input": [long, "b"] });
    let query = json!({ "model": "small", "query": "a ".repeat(100), "documents": vec!["b"; 100] });
    let score = json!({ "model": "small", "text_1": "a ".repeat(100), "text_2": vec!["b"; 100] });
    let before = openai.asked().len();
    for (path, body) in
        [("/v1/embeddings", ids), ("/v1/embeddings", text), ("/v1/rerank", query), ("/v1/score", score)]
    {
        let (status, _, text) = ask(&few, path, body.clone()).await;
        assert_eq!(status, 429, "{path}: {text}");
        assert!(text.contains("rate_limit_exceeded"), "{text}");
    }
    // A cent buys five thousand tokens at two dollars a million.
    let (status, _, text) =
        ask(&cent, "/v1/embeddings", json!({ "model": "small", "input": vec!["a ".repeat(4000); 5] })).await;
    assert_eq!((status, text.contains("insufficient_quota")), (402, true), "{text}");
    let (status, _, text) = ask(&other, "/v1/embeddings", embed("small")).await;
    assert_eq!((status, text.contains("model_not_allowed")), (403, true), "{text}");
    assert_eq!(openai.asked().len(), before, "nobody was asked");
}

/// The access log and the traces have them in their own words.
#[tokio::test]
async fn the_access_log_and_traces_tell_of_them() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let receiver = crate::support::otlp::Receiver::start().await;
    let server =
        format!("server: {{ access_log: access.jsonl, telemetry: {{ otlp_endpoint: {} }} }}\n", receiver.url);
    let config = server + &fill(CONFIG, &openai, &anthropic);
    let gateway = start(&config, &[]);
    for (path, body) in bodies("small") {
        assert_eq!(gateway.post(path, &[("x-request-id", path)], &body).await.status, 200);
    }
    let mut lines = Vec::new();
    for _ in 0..100 {
        let text = std::fs::read_to_string(gateway.file.path().join("access.jsonl")).unwrap_or_default();
        lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect();
        if lines.len() == 3 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(lines.len(), 3, "{lines:?}");
    for ((path, _), line) in bodies("small").iter().zip(&lines) {
        assert_eq!(
            (&line["path"], &line["model"], &line["attempts"]),
            (&json!(path), &json!("small"), &json!(1))
        );
        assert_eq!(
            (&line["input_tokens"], &line["output_tokens"]),
            (&json!(TEXT_USAGE), &json!(0)),
            "{line}"
        );
        assert_eq!(line["cost"], json!(TEXT_USAGE as f64 * 2.0 / 1e6), "{line}");
    }
    let sent = openai.asked();
    assert!(sent.iter().all(|asked| asked.headers.contains_key("traceparent")), "{sent:?}");
    // Of each the request under the caller's name, and its attempt under the provider's.
    let spans = receiver.spans(6).await;
    for operation in ["embeddings", "rerank", "score"] {
        let of_it: Vec<_> =
            spans.iter().filter(|span| span.attributes["gen_ai.operation.name"] == operation).collect();
        assert_eq!(of_it.len(), 2, "{operation}: {spans:?}");
        let is_named = |name: &str| of_it.iter().any(|span| span.name == format!("{operation} {name}"));
        assert!(is_named("small") && is_named("text-embedding-small"), "{spans:?}");
    }
}

/// One that does not answer is not waited for longer than its provider's time.
#[tokio::test]
async fn a_silent_upstream_is_left() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = gateway(&openai, &anthropic).await;
    openai.once("bad", vec![Act::Hang]);
    let told = gateway.post("/v1/embeddings", &[], &embed("safe")).await;
    assert_eq!((told.status, &*told.headers["x-novastack-model"]), (200, "small"), "{}", told.text);
    openai.once("text-embedding-small", vec![Act::Hang]);
    let told = gateway.post("/v1/embeddings", &[], &embed("small")).await;
    assert_eq!(
        (told.status, &told.json()["error"]["code"]),
        (504, &json!("upstream_timeout")),
        "{}",
        told.text
    );
}
