//! What bad input gets: the status, OpenAI's error shape, and a message that names the field.
//! Every field's own complaint is a unit test of the gateway; here each kind goes over the wire
//! once, and the server goes on.

use super::{chat, completion, serve};
use crate::support::server::Server;
use reqwest::Method;
use serde_json::{Value, json};

/// Checks OpenAI's shape, the status, the code and the param.
fn check(at: &str, status: u16, body: &Value, expected: (u16, &str, Option<&str>)) {
    assert_eq!(status, expected.0, "{at}: {body}");
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{at}: {body}"));
    let keys: Vec<&str> = error.keys().map(String::as_str).collect();
    assert_eq!(keys, ["message", "type", "param", "code"], "{at}");
    assert!(
        error["message"].as_str().is_some_and(|m| !m.is_empty()) && error["type"].is_string(),
        "{at}: {body}"
    );
    assert_eq!(error["code"].as_str(), Some(expected.1), "{at}: {body}");
    assert_eq!(error["param"].as_str(), expected.2, "{at}: {body}");
}

#[tokio::test]
async fn requests_that_make_no_sense() {
    let server = serve(&["--max-body", "4K"]);
    let client = crate::support::client();
    let send = async |method: Method, path: &str, kind: Option<&str>, body: Vec<u8>| {
        let mut request = client.request(method, format!("{}{path}", server.url)).body(body);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let response = request.send().await.expect("an answer");
        (response.status().as_u16(), response.json::<Value>().await.expect("JSON"))
    };
    let path = "/v1/chat/completions";
    let json_type = Some("application/json");
    let mut latin1 = chat(json!({})).to_string().into_bytes();
    let at = latin1.windows(5).position(|w| w == b"hello").expect("it is there");
    latin1[at] = 0xe9;
    for (body, word) in [
        (b"".to_vec(), "line 1"),
        (b"{\n\"model\": }".to_vec(), "line 2 column"),
        (b"{\"model\": \"tiny\"".to_vec(), "EOF"),
        (b"{\"temperature\": NaN}".to_vec(), "line 1"),
        (b"[[[[".repeat(100), "recursion"),
        (latin1, "line 1"),
    ] {
        let (status, answer) = send(Method::POST, path, json_type, body).await;
        check(word, status, &answer, (400, "invalid_json", None));
        assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains(word)), "{answer}");
    }
    let good = chat(json!({})).to_string().into_bytes();
    let (status, answer) = send(Method::POST, path, Some("text/plain"), good.clone()).await;
    check("type", status, &answer, (415, "unsupported_media_type", None));
    let large = chat(json!({"user": "x".repeat(5000)})).to_string().into_bytes();
    let (status, answer) = send(Method::POST, path, json_type, large).await;
    check("large", status, &answer, (413, "body_too_large", None));
    let (status, answer) = send(Method::POST, "/v1/nothing", json_type, good.clone()).await;
    check("path", status, &answer, (404, "unknown_url", None));
    let (status, answer) = send(Method::GET, path, None, Vec::new()).await;
    check("method", status, &answer, (405, "method_not_allowed", None));
    let (status, answer) = send(Method::GET, "/v1/models/a/b", None, Vec::new()).await;
    check("model", status, &answer, (404, "model_not_found", Some("model")));
    let (status, answer) = send(Method::GET, "/v1/models/%ff", None, Vec::new()).await;
    check("model", status, &answer, (400, "invalid_value", Some("model")));
    // Without a type a web page of any origin could send it.
    let (status, answer) = send(Method::POST, path, None, good.clone()).await;
    check("no type", status, &answer, (415, "unsupported_media_type", None));
    // With a parameter to it, JSON is JSON.
    let (status, answer) = send(Method::POST, path, Some("application/json; charset=utf-8"), good).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn fields_that_make_no_sense() {
    let server = serve(&[]);
    let cases = [
        (chat(json!({"model": "other"})), (404, "model_not_found", Some("model"))),
        (chat(json!({"model": null})), (400, "missing_required_parameter", Some("model"))),
        (chat(json!({"messages": []})), (400, "invalid_value", Some("messages"))),
        (
            chat(json!({"messages": [{"role": "user", "content": 1}]})),
            (400, "invalid_value", Some("messages[0].content")),
        ),
        (chat(json!({"temperature": -1})), (400, "invalid_value", Some("temperature"))),
        (chat(json!({"temperature": "x"})), (400, "invalid_type", Some("temperature"))),
        (chat(json!({"tools": [{}]})), (400, "unsupported_parameter", Some("tools"))),
    ];
    for (body, expected) in cases {
        let (status, answer) = server.post("/v1/chat/completions", &body).await;
        check(&body.to_string(), status, &answer, expected);
    }
    // No number of this machine's is so large.
    let large: Value = serde_json::from_str("1e400").expect("JSON");
    let (status, answer) = server.post("/v1/chat/completions", &chat(json!({"temperature": large}))).await;
    check("1e400", status, &answer, (400, "invalid_type", Some("temperature")));
    let long: Vec<u32> = vec![5; 600];
    let cases = [
        (completion(json!({"prompt": long})), (400, "context_length_exceeded", Some("prompt"))),
        (
            completion(json!({"prompt": long, "max_tokens": null})),
            (400, "context_length_exceeded", Some("prompt")),
        ),
        (completion(json!({"prompt": [5, 320]})), (400, "invalid_value", Some("prompt[1]"))),
        (completion(json!({"prompt": ""})), (400, "empty_prompt", Some("prompt"))),
        (completion(json!({"stop": ["x", "x".repeat(5000)]})), (400, "invalid_value", Some("stop[1]"))),
    ];
    for (body, expected) in cases {
        let (status, answer) = server.post("/v1/completions", &body).await;
        check(&body.to_string(), status, &answer, expected);
        if expected.1 == "context_length_exceeded" {
            let message = answer["error"]["message"].as_str().expect("a message");
            assert!(message.contains("600") && message.contains("512"), "both numbers: {message}");
        }
    }
    // Megabytes that cannot fit are refused before they are tokenized.
    let started = std::time::Instant::now();
    for (path, body, param) in [
        ("/v1/completions", completion(json!({"prompt": "so ".repeat(4 << 20)})), "prompt"),
        (
            "/v1/chat/completions",
            chat(json!({"messages": [{"role": "user", "content": "so ".repeat(4 << 20)}]})),
            "messages",
        ),
    ] {
        let (status, answer) = server.post(path, &body).await;
        check(path, status, &answer, (400, "context_length_exceeded", Some(param)));
        let message = answer["error"]["message"].as_str().expect("a message");
        assert!(message.contains("512") && message.contains("at least"), "both numbers: {message}");
    }
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    let (status, answer) = server.post("/detokenize", &json!({"tokens": [1, 320]})).await;
    check("detokenize", status, &answer, (400, "invalid_value", Some("tokens[1]")));
    let (status, _) = server.post("/v1/completions", &completion(json!({}))).await;
    assert_eq!(status, 200, "the server goes on");
}

/// A copy of the tiny llama whose embedding of one token is NaN.
fn with_a_broken_token(token: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(crate::support::golden_dir("llama")).expect("goldens").flatten() {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).expect("copied");
    }
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("read");
    let head = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + head]).expect("a header");
    let table = &header["model.embed_tokens.weight"];
    assert_eq!(table["dtype"], "F32");
    let row = 4 * table["shape"][1].as_u64().expect("a width") as usize;
    let at = 8 + head + table["data_offsets"][0].as_u64().expect("an offset") as usize + token * row;
    bytes[at..at + row].chunks_exact_mut(4).for_each(|x| x.copy_from_slice(&f32::NAN.to_le_bytes()));
    std::fs::write(path, bytes).expect("written");
    folder
}

/// What a model computes for one request may not be finite: that request fails, the others and
/// those who get its blocks after it do not notice.
#[tokio::test]
async fn a_model_that_says_nan() {
    let folder = with_a_broken_token(300);
    let source = format!("tiny={}", folder.path().display());
    // So few blocks that they change hands with every request.
    let server = Server::start(&["--model", &source, "--kv-cache-memory", "64K"]);
    let good = completion(json!({"prompt": vec![5; 40], "temperature": 0, "max_tokens": 20,
                                 "return_token_ids": true}));
    let prompt = [vec![5; 40], vec![300], vec![5; 3]].concat();
    let bad = completion(json!({"prompt": prompt}));
    let (status, alone) = server.post("/v1/completions", &good).await;
    assert_eq!(status, 200, "{alone}");
    for _ in 0..3 {
        let bodies = [&bad, &good, &bad, &good];
        let answers = bodies.map(|body| server.post("/v1/completions", body));
        for (i, (status, answer)) in futures_util::future::join_all(answers).await.into_iter().enumerate() {
            if i % 2 == 0 {
                check("nan", status, &answer, (500, "engine_error", None));
                assert!(
                    answer["error"]["message"].as_str().is_some_and(|m| m.contains("finite")),
                    "{answer}"
                );
            } else {
                assert_eq!(answer["choices"][0]["token_ids"], alone["choices"][0]["token_ids"]);
            }
        }
    }
    let (status, health) = server.get("/health").await;
    assert_eq!(status, 200, "{health}");
    assert_eq!(super::metric(&server, "novastack_kv_blocks_used").await, 0.0);
}
