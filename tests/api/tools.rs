//! What other programs send, replayed: lm-eval's `local-completions` with its remote tokenizer (0.4.13:
//! `lm_eval/models/openai_completions.py`, `api_models.py`, `utils.py`), and Open WebUI
//! (`backend/open_webui/routers/openai.py`, `utils/task.py`). Answers have what they read.

use super::{events, fill_model, post_text, serve};
use crate::support::server::Server;
use serde_json::{Value, json};

fn f64s(value: &Value) -> Vec<Option<f64>> {
    value.as_array().expect("a list").iter().map(Value::as_f64).collect()
}

/// `LocalCompletionsAPI._create_payload` of a log-likelihood.
fn likelihood(prompt: &Value, max_tokens: u32) -> Value {
    json!({"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": max_tokens, "logprobs": 1,
        "seed": 1234, "echo": true})
}

/// `parse_logprobs`: the sum over the continuation, whether each of its tokens is the likeliest.
fn parse(choice: &Value, ctxlen: usize, skip_last: bool) -> (f64, bool) {
    let logprobs = &choice["logprobs"];
    let tokens = f64s(&logprobs["token_logprobs"]);
    let end = tokens.len() - usize::from(skip_last);
    let sum = tokens[ctxlen..end].iter().map(|logprob| logprob.expect("a score")).sum();
    let tops = logprobs["top_logprobs"].as_array().expect("a list");
    let greedy = tokens[ctxlen..end].iter().zip(&tops[ctxlen..end]).all(|(own, top)| {
        let best = top.as_object().expect("an object").values().filter_map(Value::as_f64);
        *own == best.max_by(f64::total_cmp)
    });
    (sum, greedy)
}

#[tokio::test]
async fn lm_evals_local_completions_are_replayed() {
    let server = serve(&[]);
    // `check_remote_tokenizer_support`, then `RemoteTokenizer`.
    let (status, info) = server.get("/tokenizer_info").await;
    let info: Value = serde_json::from_str(&info).expect("JSON");
    assert_eq!(
        (status, &info["eos_token"], &info["pad_token"]),
        (200, &json!("<|im_end|>"), &json!("<|endoftext|>"))
    );
    assert!(info["chat_template"].as_str().is_some_and(|template| template.contains("im_start")), "{info}");
    let encode = async |text: &str| {
        let body = json!({"prompt": text, "add_special_tokens": false});
        let (status, answer) = server.post("/tokenize", &body).await;
        assert_eq!(status, 200, "{answer}");
        answer["tokens"].as_array().cloned().expect("tokens")
    };
    assert_eq!(encode("<|im_end|>").await, [json!(319)], "the prefix token of a rolling likelihood");
    let text = "hello world, hello";
    let tokens = encode(text).await;
    let (_, decoded) = server.post("/detokenize", &json!({"tokens": tokens})).await;
    assert_eq!(decoded["prompt"], text);

    // loglikelihood: context and continuation, as token ids, in a batch.
    let (context, all) = (encode("hello world,").await, tokens);
    let batch = json!([all, all[..all.len() - 1]]);
    let (status, answer) = server.post("/v1/completions", &likelihood(&batch, 1)).await;
    assert_eq!(status, 200, "{answer}");
    let mut choices = answer["choices"].as_array().cloned().expect("choices");
    choices.sort_by_key(|choice| choice["index"].as_u64());
    let (sum, greedy) = parse(&choices[0], context.len(), true);
    assert!(sum < 0.0 && sum.is_finite() && !greedy, "{sum}");
    // The same with nothing generated: the prompt's scores alone.
    let (status, scored) = server.post("/v1/completions", &likelihood(&batch, 0)).await;
    assert_eq!((status, &scored["usage"]["completion_tokens"]), (200, &json!(0)), "{scored}");
    assert_eq!(scored["choices"][0]["finish_reason"], "length");
    assert_eq!(scored["choices"][0]["text"], text);
    let lists = &scored["choices"][0]["logprobs"];
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(lists[name].as_array().map(Vec::len), Some(all.len()), "{name}");
    }
    assert_eq!(parse(&scored["choices"][0], context.len(), false), (sum, greedy));
    // What the model itself goes on with is the likeliest.
    let generate = json!({"model": "tiny", "prompt": [context], "temperature": 0, "max_tokens": 4, "seed": 1234,
        "stop": ["<|im_end|>", "\n\n"], "return_token_ids": true});
    let (_, said) = server.post("/v1/completions", &generate).await;
    let own = said["choices"][0]["token_ids"].as_array().cloned().expect("tokens");
    let said = [context.clone(), own].concat();
    let (_, scored) = server.post("/v1/completions", &likelihood(&json!([said]), 1)).await;
    let (sum, greedy) = parse(&scored["choices"][0], context.len(), true);
    assert!(greedy && sum < 0.0, "{scored}");
    // loglikelihood_rolling begins with the prefix token.
    let rolling = [vec![json!(319)], all.clone()].concat();
    let (_, scored) = server.post("/v1/completions", &likelihood(&json!([rolling]), 1)).await;
    assert!(parse(&scored["choices"][0], 1, true).0 < 0.0);
    // As text, where the tokenizer is elsewhere; in a stream; several answers of one prompt.
    let mut body = likelihood(&json!(text), 0);
    body["stream"] = true.into();
    let (_, stream) = post_text(&server, "/v1/completions", &body).await;
    let chunks = events(&stream);
    assert_eq!(chunks[0]["choices"][0]["text"], text);
    assert_eq!(chunks.last().expect("a chunk")["choices"][0]["finish_reason"], "length");
    body = likelihood(&json!(text), 0);
    body["n"] = 2.into();
    let (_, answer) = server.post("/v1/completions", &body).await;
    assert_eq!(answer["choices"].as_array().map(Vec::len), Some(2));
    let (status, answer) =
        server.post("/v1/completions", &json!({"model": "tiny", "prompt": "a", "max_tokens": 0})).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("max_tokens")), "only with echo");
}

#[tokio::test]
async fn open_webuis_calls_are_replayed() {
    let server = serve(&["--api-key", "sk-the-key-of-open-webui"]);
    let client = crate::support::client();
    // The connection is verified, and models are listed.
    let answer =
        client.get(format!("{}/v1/models", server.url)).bearer_auth("sk-the-key-of-open-webui").send().await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    let models: Value = answer.json().await.expect("JSON");
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("tiny")), "{models}");
    assert!(models["data"][0]["created"].is_u64() && models["data"][0]["owned_by"].is_string(), "{models}");
    let send = async |body: &Value| {
        let request = client
            .post(format!("{}/v1/chat/completions", server.url))
            .bearer_auth("sk-the-key-of-open-webui");
        let request =
            request.header("X-OpenWebUI-User-Name", "a").header("HTTP-Referer", "https://openwebui.com/");
        let answer = request.json(body).send().await.expect("an answer");
        let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
        (answer.status().as_u16(), kind, answer.text().await.expect("text"))
    };
    // A chat: streamed, with usage where the model is said to tell it.
    let chat = json!({"stream": true, "model": "tiny", "stream_options": {"include_usage": true}, "max_tokens": 6,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"},
                     {"role": "assistant", "content": ""}, {"role": "user", "content": "hello again"}]});
    let (status, kind, text) = send(&chat).await;
    assert_eq!((status, kind.starts_with("text/event-stream")), (200, true), "{text}");
    let chunks = events(&text);
    assert!(chunks.iter().any(|chunk| chunk["choices"][0]["delta"]["content"].is_string()));
    let usage = &chunks.last().expect("a chunk")["usage"];
    assert!(usage["prompt_tokens"].is_u64() && usage["completion_tokens"].is_u64(), "{usage}");
    // Fields that it leaves in the body: sampling by its advanced parameters, and what is its own.
    let advanced = json!({"stream": false, "model": "tiny", "max_tokens": 4, "temperature": 0.8, "top_p": 0.9, "top_k": 40,
        "min_p": 0, "frequency_penalty": 0, "presence_penalty": 0, "seed": 42, "stop": ["###"],
        "logit_bias": {"5": 1}, "reasoning_effort": "medium", "files": [], "features": {"web_search": false},
        "user": {"name": "a", "id": "1", "email": "a@example.org", "role": "user"}, "tools": [],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]});
    let (status, kind, text) = send(&advanced).await;
    assert_eq!((status, kind.starts_with("application/json")), (200, true), "{text}");
    // Its tasks: title, tags, follow-ups, queries, autocompletion; read from the first choice's message.
    for task in [
        "### Task:\nGenerate a concise, 3-5 word title",
        "### Task:\nGenerate 1-3 broad tags",
        "### Task:\nSuggest 3-5 relevant follow-up questions",
    ] {
        for bound in ["max_tokens", "max_completion_tokens"] {
            let mut body =
                json!({"model": "tiny", "stream": false, "messages": [{"role": "user", "content": task}]});
            body[bound] = 9.into();
            let (status, _, text) = send(&body).await;
            let answer: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(status, 200, "{text}");
            assert!(answer["choices"][0]["message"]["content"].is_string(), "{text}");
        }
    }
    // Errors are shown by `error.message`, or `detail`.
    let (status, _, text) =
        send(&json!({"model": "gone", "messages": [{"role": "user", "content": "x"}]})).await;
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status, 404);
    assert!(answer["error"]["message"].as_str().is_some_and(|message| message.contains("gone")), "{text}");
}

/// A base model has no chat template, and names its special tokens all the same.
#[tokio::test]
async fn special_tokens_are_told_without_a_template() {
    let model = fill_model();
    let _ = std::fs::remove_file(model.path().join("chat_template.jinja"));
    let file = model.path().join("tokenizer_config.json");
    let text = std::fs::read_to_string(&file).expect("tokenizer_config.json");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config.as_object_mut().expect("an object").remove("chat_template");
    std::fs::write(&file, config.to_string()).expect("written");
    let server = Server::start(&["--model", &format!("tiny={}", model.path().display())]);
    let (status, info) = server.get("/tokenizer_info").await;
    let info: Value = serde_json::from_str(&info).expect("JSON");
    assert_eq!((status, &info["pad_token"]), (200, &json!("<|endoftext|>")), "{info}");
    assert!(info.get("chat_template").is_none(), "{info}");
}
