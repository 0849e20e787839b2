//! Answers: chat and completions, streamed and whole, models, tokenize, metrics.

use super::{chat, completion, events, metric, post_text, serve};
use serde_json::{Value, json};

fn text(chunks: &[Value], index: u64) -> String {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().expect("choices"));
    let of_index = choices.filter(|choice| choice["index"] == index);
    of_index.filter_map(|choice| choice["delta"]["content"].as_str().or(choice["text"].as_str())).collect()
}

fn ids(chunks: &[Value], field: &str, index: u64) -> Vec<u64> {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().expect("choices"));
    let of_index = choices.filter(|choice| choice["index"] == index);
    of_index.filter_map(|c| c[field].as_array()).flatten().filter_map(Value::as_u64).collect()
}

fn u64s(value: &Value) -> Vec<u64> {
    value.as_array().expect("a list").iter().filter_map(Value::as_u64).collect()
}

#[tokio::test]
async fn streams_say_what_whole_answers_say() {
    let server = serve(&[]);
    for (path, body) in [
        (
            "/v1/chat/completions",
            chat(json!({"n": 2, "logprobs": true, "top_logprobs": 2, "max_tokens": 12})),
        ),
        (
            "/router/v1/completions",
            completion(json!({"n": 2, "logprobs": 2, "max_tokens": 12, "echo": true})),
        ),
    ] {
        let mut body = body;
        body["seed"] = 7.into();
        body["return_token_ids"] = true.into();
        let (status, whole) = server.post(path, &body).await;
        assert_eq!(status, 200, "{whole}");
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        let (_, stream) = post_text(&server, path, &body).await;
        let chunks = events(&stream);
        for index in 0..2 {
            let choice = &whole["choices"][index as usize];
            let content = choice["message"]["content"].as_str().or(choice["text"].as_str()).expect("text");
            assert_eq!(text(&chunks, index), content);
            assert_eq!(ids(&chunks, "token_ids", index), u64s(&choice["token_ids"]));
            assert_eq!(ids(&chunks, "prompt_token_ids", index), u64s(&choice["prompt_token_ids"]));
            assert_eq!(choice["token_ids"].as_array().map(Vec::len), Some(12));
        }
        let usage = &chunks.last().expect("chunks")["usage"];
        assert_eq!(usage["completion_tokens"], 24);
        for field in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(usage[field], whole["usage"][field], "{field}");
        }
        assert_ne!(
            whole["choices"][0]["token_ids"], whole["choices"][1]["token_ids"],
            "choices are independent"
        );
    }
}

#[tokio::test]
async fn logprobs_of_a_stream_lose_no_token() {
    let server = serve(&[]);
    let body = chat(json!({"logprobs": true, "top_logprobs": 3, "max_tokens": 40, "seed": 1, "stream": true,
                           "return_token_ids": true, "return_tokens_as_token_ids": true}));
    let (_, stream) = post_text(&server, "/v1/chat/completions", &body).await;
    let chunks = events(&stream);
    let scored = chunks.iter().filter_map(|c| c["choices"][0]["logprobs"]["content"].as_array()).flatten();
    let named: Vec<u64> = scored
        .map(|token| {
            assert_eq!(token["top_logprobs"].as_array().map(Vec::len), Some(3), "{token}");
            assert!(
                token["bytes"].is_array() && token["logprob"].as_f64().is_some_and(|l| l <= 0.0),
                "{token}"
            );
            let name = token["token"].as_str().expect("a name");
            name.strip_prefix("token_id:").expect("token_id:").parse().expect("an id")
        })
        .collect();
    assert_eq!(named, ids(&chunks, "token_ids", 0));
    assert_eq!(named.len(), 40);
}

#[tokio::test]
async fn prompts_of_every_form_and_echo() {
    let server = serve(&[]);
    let greedy =
        |prompt: Value| completion(json!({"prompt": prompt, "temperature": 0, "return_token_ids": true}));
    let (_, one) = server.post("/v1/completions", &greedy(json!([5, 6, 7]))).await;
    let (status, many) = server.post("/v1/completions", &greedy(json!([[5, 6, 7], [9, 10]]))).await;
    assert_eq!((status, many["choices"].as_array().map(Vec::len)), (200, Some(2)), "{many}");
    assert_eq!(many["choices"][0]["token_ids"], one["choices"][0]["token_ids"]);
    assert_eq!(many["choices"][1]["prompt_token_ids"], json!([9, 10]));
    assert_eq!(many["usage"]["prompt_tokens"], 5);

    let echo = completion(json!({"prompt": "hello", "echo": true, "logprobs": 1}));
    let (_, answer) = server.post("/v1/completions", &echo).await;
    let choice = &answer["choices"][0];
    assert!(choice["text"].as_str().is_some_and(|text| text.starts_with("hello")), "{answer}");
    let logprobs = choice["logprobs"]["token_logprobs"].as_array().expect("a list");
    let total = answer["usage"]["total_tokens"].as_u64().expect("a number");
    assert_eq!(logprobs.len() as u64, total, "prompt and output are scored");
    assert!(logprobs[0].is_null() && logprobs[1..].iter().all(Value::is_number), "{answer}");
    // Without the field, 16 tokens.
    let body = completion(json!({"max_tokens": null}));
    let (_, answer) = server.post("/v1/completions", &body).await;
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn stop_strings_and_stop_tokens_end_the_text() {
    let server = serve(&[]);
    let body = |more: Value| {
        super::merged(completion(json!({"temperature": 0, "max_tokens": 24, "return_token_ids": true})), more)
    };
    let (_, free) = server.post("/v1/completions", &body(json!({}))).await;
    let full = free["choices"][0]["text"].as_str().expect("text").to_owned();
    let tokens = u64s(&free["choices"][0]["token_ids"]);
    // A stop string from the middle of what is said without one.
    let chars: Vec<char> = full.chars().collect();
    let stop: String = chars[chars.len() / 2..chars.len() / 2 + 2].iter().collect();
    let at = full.find(&stop).expect("it is there");
    let (_, answer) = server.post("/v1/completions", &body(json!({"stop": stop}))).await;
    let choice = &answer["choices"][0];
    assert_eq!(
        (choice["text"].as_str(), choice["finish_reason"].as_str()),
        (Some(&full[..at]), Some("stop"))
    );
    let counted = u64s(&choice["token_ids"]);
    assert_eq!(answer["usage"]["completion_tokens"], counted.len());
    assert!(counted.len() < 24 && tokens.starts_with(&counted), "tokens after the stop do not count");
    let (_, answer) = server
        .post("/v1/completions", &body(json!({"stop": stop, "include_stop_str_in_output": true})))
        .await;
    assert_eq!(answer["choices"][0]["text"].as_str(), Some(&full[..at + stop.len()]));
    // A stop token counts and is not text.
    let third = tokens[2];
    let upto = tokens.iter().position(|t| *t == third).expect("it is there") + 1;
    let (_, answer) = server.post("/v1/completions", &body(json!({"stop_token_ids": [third]}))).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(u64s(&answer["choices"][0]["token_ids"]), tokens[..upto]);
    let text = answer["choices"][0]["text"].as_str().expect("text");
    assert!(full.starts_with(text) && text.len() < full.len(), "{text:?} of {full:?}");
}

#[tokio::test]
async fn seeds_decide() {
    let server = serve(&[]);
    let body = |seed: Value| completion(json!({"seed": seed, "max_tokens": 24, "return_token_ids": true}));
    let mut said = Vec::new();
    for seed in [json!(1), json!(1), json!(2), json!(null), json!(null)] {
        said.push(server.post("/v1/completions", &body(seed)).await.1["choices"][0]["token_ids"].clone());
    }
    assert_eq!(said[0], said[1]);
    assert_ne!(said[0], said[2]);
    assert_ne!(said[3], said[4]);
}

#[tokio::test]
async fn models_tokenize_and_metrics() {
    let source = format!("org/tiny={}", crate::support::golden_dir("llama").display());
    let server = crate::support::server::Server::start(&["--model", &source]);
    let (status, list) = server.get("/v1/models").await;
    let list: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!((status, &list["data"][0]["id"]), (200, &json!("org/tiny")));
    let context = list["data"][0]["max_model_len"].as_u64().expect("max_model_len");
    for path in ["/v1/models/org/tiny", "/router/v1/models/org/tiny", "/v1/models/org%2Ftiny"] {
        let (status, one) = server.get(path).await;
        assert_eq!(status, 200, "{path}: {one}");
        assert_eq!(serde_json::from_str::<Value>(&one).expect("JSON"), list["data"][0]);
    }
    let (status, answer) =
        server.post("/tokenize", &json!({"prompt": "hello world", "return_token_strs": true})).await;
    let tokens = u64s(&answer["tokens"]);
    assert_eq!(
        (status, &answer["count"], &answer["max_model_len"]),
        (200, &json!(tokens.len()), &json!(context))
    );
    assert_eq!(answer["token_strs"].as_array().map(Vec::len), Some(tokens.len()));
    let body = json!({"prompt": "hello world", "add_special_tokens": false, "model": "org/tiny"});
    let (_, bare) = server.post("/router/tokenize", &body).await;
    let (_, text) = server.post("/detokenize", &json!({"tokens": bare["tokens"]})).await;
    assert_eq!(text, json!({"prompt": "hello world"}));
    let messages = json!([{"role": "user", "content": "hello"}]);
    let (status, answer) = server.post("/tokenize", &json!({"messages": messages})).await;
    assert_eq!(status, 200, "{answer}");
    let chat = json!({"model": "org/tiny", "messages": messages, "max_tokens": 2});
    let (_, said) = server.post("/v1/chat/completions", &chat).await;
    assert_eq!(said["usage"]["prompt_tokens"], answer["count"], "the same prompt");
    assert_eq!(
        metric(&server, "novastack_prompt_tokens_total").await,
        answer["count"].as_f64().expect("count")
    );
    assert_eq!(metric(&server, "novastack_request_seconds_count").await, 1.0);
    assert!(metric(&server, "novastack_kv_blocks").await > 0.0);
}

#[tokio::test]
async fn two_models_side_by_side() {
    let source = |name: &str, dir: &str| format!("{name}={}", crate::support::golden_dir(dir).display());
    let server = crate::support::server::Server::start(&[
        "--model",
        &source("org/llama", "llama"),
        "--model",
        &source("org/qwen", "qwen3"),
    ]);
    let (_, list) = server.get("/v1/models").await;
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let names: Vec<_> = list["data"].as_array().expect("a list").iter().map(|model| &model["id"]).collect();
    assert_eq!(names, ["org/llama", "org/qwen"]);
    let body = |name: &str| {
        completion(json!({"model": name, "temperature": 0, "max_tokens": 60, "return_token_ids": true}))
    };
    let bodies = [body("org/llama"), body("org/qwen")];
    let mut alone = Vec::new();
    for body in &bodies {
        let (status, answer) = server.post("/v1/completions", body).await;
        assert_eq!((status, &answer["model"]), (200, &body["model"]), "{answer}");
        alone.push(answer["choices"][0]["token_ids"].clone());
    }
    assert_ne!(alone[0], alone[1]);
    let many = (0..16).map(|i| server.post("/v1/completions", &bodies[i % 2]));
    for (i, (_, answer)) in futures_util::future::join_all(many).await.into_iter().enumerate() {
        assert_eq!(answer["choices"][0]["token_ids"], alone[i % 2]);
    }
    let (_, text) = server.get("/metrics").await;
    for name in ["org/llama", "org/qwen"] {
        let line = format!(r#"novastack_generations_total{{model="{name}",outcome="finished"}} 9"#);
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}

/// Eight choices of a long prompt in a cache that holds it twice.
#[tokio::test]
async fn choices_share_their_prompts_cache() {
    let server = serve(&["--kv-cache-memory", "640K"]);
    assert_eq!(metric(&server, "novastack_kv_blocks").await, 80.0);
    // 30 blocks; each choice computes the last one for itself and writes to one more.
    let prompt: Vec<u32> = (0..480).map(|i| 5 + i % 97).collect();
    let body = completion(json!({"prompt": prompt, "n": 8, "max_tokens": 20, "seed": 3}));
    let (status, answer) = server.post("/v1/completions", &body).await;
    assert_eq!((status, answer["choices"].as_array().map(Vec::len)), (200, Some(8)), "{answer}");
    assert_eq!(answer["usage"]["prompt_tokens"], 480, "once");
    assert_eq!(metric(&server, "novastack_preemptions_total").await, 0.0, "all ran at once");
    assert_eq!(metric(&server, "novastack_prefix_hit_tokens_total").await, 7.0 * 464.0);
    assert_eq!(metric(&server, "novastack_prefill_tokens_total").await, 480.0 + 7.0 * 16.0);
}

/// Offsets point into the text: beyond split characters, special tokens and tokens named by id.
#[tokio::test]
async fn offsets_point_into_the_text() {
    let server = serve(&[]);
    for ids in [false, true] {
        let body = completion(json!({"prompt": "héllo 你", "echo": true, "logprobs": 0,
            "logit_bias": {"75": 100}, "max_tokens": 5, "return_tokens_as_token_ids": ids}));
        let (_, whole) = server.post("/v1/completions", &body).await;
        let text: Vec<char> = whole["choices"][0]["text"].as_str().expect("text").chars().collect();
        let logprobs = &whole["choices"][0]["logprobs"];
        let offsets = u64s(&logprobs["text_offset"]);
        assert!(offsets.is_sorted() && offsets[offsets.len() - 1] == text.len() as u64 - 1, "{whole}");
        let output = &offsets[offsets.len() - 5..];
        assert_eq!(output, [7, 8, 9, 10, 11], "{whole}");
        let mut body = body;
        body["stream"] = true.into();
        let (_, stream) = post_text(&server, "/v1/completions", &body).await;
        let chunks = events(&stream);
        let streamed = chunks.iter().filter_map(|c| c["choices"][0]["logprobs"]["text_offset"].as_array());
        assert_eq!(streamed.flatten().filter_map(Value::as_u64).collect::<Vec<_>>(), offsets);
    }
}
