//! Fill-in-the-middle by `suffix` and by `/infill`: the prompt that the model gets, the answers' shapes, and
//! models that know none.

use super::{completion, events, fill_model, post_text, serve};
use crate::support::server::Server;
use serde_json::{Value, json};

#[tokio::test]
async fn a_gap_is_filled_by_a_model_that_knows_how() {
    let model = fill_model();
    let source = format!("tiny={}", model.path().display());
    let server = Server::start(&["--model", &source]);
    let ids = async |text: &str| {
        let (_, answer) = server.post("/tokenize", &json!({"prompt": text})).await;
        answer["tokens"].as_array().cloned().expect("tokens")
    };
    let (before, behind) = (ids("hello ").await, ids(" world").await);
    let prompt: Vec<Value> = [vec![json!(317)], before, vec![json!(318)], behind, vec![json!(319)]].concat();
    let more = json!({"prompt": prompt, "temperature": 0, "max_tokens": 8, "return_token_ids": true});
    let (_, by_hand) = server.post("/v1/completions", &completion(more)).await;
    let more = json!({"prompt": "hello ", "suffix": " world", "temperature": 0, "max_tokens": 8, "return_token_ids": true});
    let (status, filled) = server.post("/v1/completions", &completion(more)).await;
    assert_eq!(status, 200, "{filled}");
    assert_eq!(filled["choices"][0]["prompt_token_ids"], json!(prompt));
    assert_eq!(filled["choices"][0]["token_ids"], by_hand["choices"][0]["token_ids"]);
    // The same by llama-server's path; the line of the gap may come on its own.
    let gap = json!({"input_prefix": "hel", "prompt": "lo ", "input_suffix": " world", "temperature": 0,
        "n_predict": 8, "ignore_eos": true, "samplers": ["top_k", "infill"], "t_max_predict_ms": 500});
    let (status, answer) = server.post("/infill", &gap).await;
    assert_eq!((status, &answer["content"]), (200, &by_hand["choices"][0]["text"]), "{answer}");
    assert_eq!((&answer["stop"], &answer["stop_type"]), (&json!(true), &json!("limit")));
    assert_eq!((&answer["tokens_predicted"], &answer["tokens_evaluated"]), (&json!(8), &json!(prompt.len())));
    // 0 computes the prompt alone, for the next request; without a number the filling ends by itself.
    for (predict, least, most) in [(json!(0), 0, 0), (json!(-1), 17, 512), (Value::Null, 17, 512)] {
        let mut gap = gap.clone();
        gap["n_predict"] = predict;
        let (status, answer) = server.post("/infill", &gap).await;
        let predicted = answer["tokens_predicted"].as_u64().unwrap_or(u64::MAX);
        assert!(status == 200 && (least..=most).contains(&predicted), "{answer}");
    }
    let mut streamed = gap.clone();
    streamed["stream"] = true.into();
    let (_, text) = post_text(&server, "/infill", &streamed).await;
    let pieces: Vec<Value> = text
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).expect("JSON"))
        .collect();
    let all: String = pieces.iter().filter_map(|piece| piece["content"].as_str()).collect();
    assert_eq!(all, by_hand["choices"][0]["text"].as_str().expect("text"));
    assert_eq!(pieces.last().expect("a piece")["stop"], true);
    // What looks like a special token is text.
    let more = json!({"prompt": "<|fim_middle|>", "suffix": "x", "return_token_ids": true});
    let (_, answer) = server.post("/v1/completions", &completion(more)).await;
    let prompt = answer["choices"][0]["prompt_token_ids"].as_array().cloned().expect("tokens");
    assert_eq!(prompt.iter().filter(|id| **id == json!(319)).count(), 1, "{prompt:?}");
    assert!(prompt.len() > 10, "its characters: {prompt:?}");
    // Other files stand before.
    let mut with_file = gap;
    with_file["input_extra"] = json!([{"filename": "a.rs", "text": "fn a() {}"}]);
    let (status, longer) = server.post("/infill", &with_file).await;
    assert_eq!(status, 200, "{longer}");
    assert!(longer["tokens_evaluated"].as_u64() > answer["usage"]["prompt_tokens"].as_u64(), "{longer}");
    let more = json!({"prompt": "a", "suffix": "b", "stream": true, "n": 2, "max_tokens": 3});
    let (_, text) = post_text(&server, "/v1/completions", &completion(more)).await;
    assert!(!events(&text).is_empty());
}

#[tokio::test]
async fn a_model_that_knows_no_gaps_says_so() {
    let server = serve(&[]);
    for (path, body, param) in [
        ("/v1/completions", completion(json!({"prompt": "a", "suffix": "b"})), "suffix"),
        ("/infill", json!({"input_prefix": "a", "input_suffix": "b"}), "input_prefix"),
    ] {
        let (status, answer) = server.post(path, &body).await;
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{answer}");
        assert_eq!(answer["error"]["code"], "unsupported_parameter", "{answer}");
    }
    for (path, body, param) in [
        ("/infill", json!({"prompt": "a"}), "input_prefix"),
        ("/infill", json!({"input_prefix": "a", "input_extra": [{}]}), "input_extra[0].text"),
        ("/v1/completions", completion(json!({"suffix": "b"})), "suffix"),
        ("/v1/completions", completion(json!({"prompt": "a", "suffix": "b", "echo": true})), "echo"),
    ] {
        let (status, answer) = server.post(path, &body).await;
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{answer}");
    }
    // Without a suffix it is a prompt like any other.
    let (status, _) = server.post("/v1/completions", &completion(json!({"prompt": "a", "suffix": ""}))).await;
    assert_eq!(status, 200);
}
