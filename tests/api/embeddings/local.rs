//! Embeddings of local models.

use super::pooled::{Fake, registry, serve, serve_all};
use super::{CLS, SEP, embedder, id, info, post, refused, scorer, words};
use novastack::protocol::{EmbeddingInfo, EmbeddingPrompts, ModelTasks, ScoreBy};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The vectors of an answer, in order.
fn vectors(answer: &Value) -> Vec<Vec<f64>> {
    let data = answer["data"].as_array().unwrap_or_else(|| panic!("{answer}"));
    data.iter()
        .enumerate()
        .map(|(index, one)| {
            assert_eq!((&one["index"], &one["object"]), (&json!(index), &json!("embedding")), "{answer}");
            let numbers = one["embedding"].as_array().unwrap_or_else(|| panic!("{answer}"));
            numbers.iter().map(|number| number.as_f64().expect("a number")).collect()
        })
        .collect()
}

/// What the model makes of these tokens.
fn of_ids(ids: &[u32]) -> Vec<f64> {
    let last = ids[ids.len() - 1];
    [ids.len() as u32, ids.iter().sum(), ids[0], last].map(f64::from).to_vec()
}

/// The same with what the tokenizer puts around them.
fn of_words(words: &[&str]) -> Vec<f64> {
    let ids: Vec<u32> = std::iter::once(CLS).chain(words.iter().map(|word| id(word))).chain([SEP]).collect();
    of_ids(&ids)
}

#[tokio::test]
async fn every_form_of_input_is_embedded_in_order() {
    let served = serve(vec![embedder("m", info())]).await;
    let ask = async |input: Value| {
        let (status, answer) =
            post(&served.url, "/v1/embeddings", &json!({ "model": "m", "input": input })).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("m")), "{answer}");
        answer
    };
    let answer = ask(json!("a b")).await;
    assert_eq!(vectors(&answer), [of_words(&["a", "b"])]);
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 4, "total_tokens": 4 }));
    let answer = ask(json!(["a b c", "a", "d e"])).await;
    assert_eq!(vectors(&answer), [of_words(&["a", "b", "c"]), of_words(&["a"]), of_words(&["d", "e"])]);
    assert_eq!(answer["usage"]["prompt_tokens"], 5 + 3 + 4);
    // Ids are read as they are: nothing is put around them.
    assert_eq!(vectors(&ask(json!([5, 6, 7])).await), [of_ids(&[5, 6, 7])]);
    assert_eq!(
        vectors(&ask(json!([[5, 6], [9], [7, 7, 7]])).await),
        [of_ids(&[5, 6]), of_ids(&[9]), of_ids(&[7, 7, 7])]
    );
    // More than an engine has at a time, and than its queue holds.
    let many: Vec<String> = (0..500).map(|n| ["a", "b", "c", "d"][..n % 4 + 1].join(" ")).collect();
    let wanted: Vec<Vec<f64>> =
        many.iter().map(|text| of_words(&text.split(' ').collect::<Vec<_>>())).collect();
    assert_eq!(vectors(&ask(json!(many)).await), wanted);
    // A lone word as a list is a list; specials of the tokenizer can be left out.
    let body = json!({ "model": "m", "input": ["a"], "add_special_tokens": false });
    let (_, answer) = post(&served.url, "/router/v1/embeddings", &body).await;
    assert_eq!(vectors(&answer), [of_ids(&[id("a")])]);
}

#[tokio::test]
async fn base64_is_32_bit_floats_with_the_lowest_byte_first() {
    let served = serve(vec![embedder("m", info())]).await;
    let body = json!({ "model": "m", "input": [[5, 6], [7]], "encoding_format": "base64", "user": "u" });
    let (status, answer) = post(&served.url, "/v1/embeddings", &body).await;
    assert_eq!(status, 200, "{answer}");
    // 2, 11, 5, 6, and 1, 7, 7, 7.
    assert_eq!(answer["data"][0]["embedding"], "AAAAQAAAMEEAAKBAAADAQA==");
    assert_eq!(answer["data"][1]["embedding"], "AACAPwAA4EAAAOBAAADgQA==");
    let body = json!({ "model": "m", "input": "a", "encoding_format": "hex" });
    let (param, message) = refused(&served.url, "/v1/embeddings", &body).await;
    assert_eq!((&*param, message.contains("float or base64")), ("encoding_format", true), "{message}");
}

#[tokio::test]
async fn dimensions_are_cut_and_normalised_where_the_model_allows_it() {
    let whole = embedder("whole", info());
    let matryoshka = EmbeddingInfo { normalised: true, dimensions_may_be_cut: true, ..info() };
    let served = serve(vec![whole, embedder("cut", matryoshka)]).await;
    let ask = async |more: Value| {
        let mut body = json!({ "model": "cut", "input": [[3, 4]] });
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        let (status, answer) = post(&served.url, "/v1/embeddings", &body).await;
        assert_eq!(status, 200, "{answer}");
        vectors(&answer).remove(0)
    };
    // 2, 7, 3, 4. The engine normalises; this one's does not, so that what is done here is seen.
    assert_eq!(ask(json!({})).await, [2.0, 7.0, 3.0, 4.0]);
    assert_eq!(ask(json!({ "dimensions": 4 })).await, [2.0, 7.0, 3.0, 4.0]);
    let close = |found: &[f64], wanted: &[f64]| {
        found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6)
    };
    let cut = ask(json!({ "dimensions": 2 })).await;
    assert!(close(&cut, &[2.0 / 53_f64.sqrt(), 7.0 / 53_f64.sqrt()]), "{cut:?}");
    assert_eq!(ask(json!({ "dimensions": 1 })).await, [1.0]);
    let normal = ask(json!({ "model": "whole", "normalize": true })).await;
    assert!(close(&normal, &[2.0, 7.0, 3.0, 4.0].map(|n| n / 78_f64.sqrt())), "{normal:?}");
    for (model, dimensions, says) in [
        ("whole", json!(2), "must be 4, got 2"),
        ("whole", json!(5), "must be 4, got 5"),
        ("cut", json!(5), "between 1 and 4, got 5"),
        ("cut", json!(0), "between 1 and 4, got 0"),
        ("cut", json!(-1), "between 1 and 4, got -1"),
        ("cut", json!("2"), "an integer, got a string"),
    ] {
        let body = json!({ "model": model, "input": "a", "dimensions": dimensions });
        let (param, message) = refused(&served.url, "/v1/embeddings", &body).await;
        assert_eq!((&*param, message.contains(says)), ("dimensions", true), "{message}");
    }
    let body = json!({ "model": "cut", "input": "a", "normalize": false });
    assert_eq!(refused(&served.url, "/v1/embeddings", &body).await.0, "normalize");
}

#[tokio::test]
async fn bad_input_names_which_one_and_what_is_allowed() {
    let served = serve(vec![embedder("m", info())]).await;
    let long = vec!["a"; 63].join(" ");
    for (input, field, says) in [
        (json!(null), "input", "is required"),
        (json!(""), "input", "must not be empty"),
        (json!([]), "input", "must not be empty"),
        (json!(5), "input", "a string, a list of strings"),
        (json!({ "a": 1 }), "input", "a string, a list of strings"),
        (json!(["a", "b", "c", ""]), "input[3]", "must not be empty"),
        (json!(["a", 5]), "input[1]", "must be a string, as the first"),
        (json!([[1], []]), "input[1]", "must not be empty"),
        (json!([[1], "a"]), "input[1]", "must be a list of token ids"),
        (json!([1, -2]), "input[1]", "a token id"),
        (json!([1, 11]), "input[1]", "below 11"),
        (json!([[1], [1, 2, 1_i64 << 40]]), "input[1][2]", "below 11"),
        (json!([true]), "input", "a string, a list of strings"),
        (json!(vec!["a"; 2049]), "input", "at most 2048 texts, got 2049"),
        // With what stands around it, one token more than the context has.
        (
            json!(["a", "b", "c", long]),
            "input[3]",
            "has 65 tokens with what stands around it, and the model reads 64",
        ),
        (json!(long), "input", "has 65 tokens"),
        (json!(vec![1; 65]), "input", "has 65 tokens"),
    ] {
        let body = json!({ "model": "m", "input": input });
        let (param, message) = refused(&served.url, "/v1/embeddings", &body).await;
        assert_eq!((&*param, message.contains(says)), (field, true), "{input}: {message}");
    }
    // A context's worth fits: nothing is generated behind it.
    let body = json!({ "model": "m", "input": [vec![1; 64], vec![2; 64]] });
    assert_eq!(post(&served.url, "/v1/embeddings", &body).await.0, 200);
    for (more, field, says) in [
        (json!({ "truncate_prompt_tokens": 0 }), "truncate_prompt_tokens", "-1, or between 1 and 64"),
        (json!({ "truncate_prompt_tokens": 65 }), "truncate_prompt_tokens", "between -1 and 64"),
        (json!({ "input_type": "passage" }), "input_type", "query or document"),
        (json!({ "embed_dtype": "float16" }), "embed_dtype", "32-bit floats"),
        (json!({ "temperature": 1 }), "temperature", "is a field of /v1/chat/completions"),
        (json!({ "top_n": 1 }), "top_n", "is a field of /v1/rerank"),
        (json!({ "late_chunking": true }), "late_chunking", "not supported"),
    ] {
        let mut body = json!({ "model": "m", "input": "a" });
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        let (param, message) = refused(&served.url, "/v1/embeddings", &body).await;
        assert_eq!((&*param, message.contains(says)), (field, true), "{more}: {message}");
    }
}

#[tokio::test]
async fn a_text_is_cut_where_its_caller_says_so_and_keeps_its_separators() {
    let served = serve(vec![embedder("m", info())]).await;
    let ask = async |input: Value, limit: i64| {
        let body = json!({ "model": "m", "input": input, "truncate_prompt_tokens": limit });
        let (status, answer) = post(&served.url, "/v1/embeddings", &body).await;
        assert_eq!(status, 200, "{answer}");
        vectors(&answer)
    };
    assert_eq!(ask(json!("a b c d e"), 5).await, [of_words(&["a", "b", "c"])]);
    assert_eq!(ask(json!("a b c"), 5).await, [of_words(&["a", "b", "c"])]);
    assert_eq!(ask(json!([[3, 4, 5], [6]]), 2).await, [of_ids(&[3, 4]), of_ids(&[6])]);
    let long = vec!["a"; 500].join(" ");
    assert_eq!(ask(json!(long), -1).await, [of_words(&["a"; 62])]);
}

#[tokio::test]
async fn what_a_checkpoint_wants_before_texts_is_put_there_when_asked_for() {
    let prompts = EmbeddingPrompts { query: Some("query : ".into()), document: None };
    let served = serve(vec![embedder("m", EmbeddingInfo { prompts, ..info() })]).await;
    let ask = async |more: Value| {
        let mut body = json!({ "model": "m", "input": ["a"] });
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        vectors(&post(&served.url, "/v1/embeddings", &body).await.1).remove(0)
    };
    assert_eq!(ask(json!({})).await, of_words(&["a"]));
    assert_eq!(ask(json!({ "input_type": "query" })).await, of_words(&["query", ":", "a"]));
    assert_eq!(ask(json!({ "input_type": "document" })).await, of_words(&["a"]));
    assert_eq!(ask(json!({ "input_type": "document", "input": [[5]] })).await, of_ids(&[5]));
    let body = json!({ "model": "m", "input": [5], "input_type": "query" });
    assert_eq!(refused(&served.url, "/v1/embeddings", &body).await.0, "input_type");
}

/// Each kind of model refuses what it is not for, in the format of the API that it was asked in.
#[tokio::test]
async fn models_refuse_by_name_what_they_are_not_served_for() {
    let chat = Fake { tasks: ModelTasks::GENERATION, ..embedder("chatty", info()) };
    let served = serve(vec![embedder("m", info()), chat]).await;
    let messages = json!([{ "role": "user", "content": "a" }]);
    for (path, body) in [
        ("/v1/chat/completions", json!({ "model": "m", "messages": messages })),
        ("/v1/completions", json!({ "model": "m", "prompt": "a" })),
        ("/v1/responses", json!({ "model": "m", "input": "a" })),
        ("/infill", json!({ "model": "m", "input_prefix": "a" })),
    ] {
        let (param, message) = refused(&served.url, path, &body).await;
        let says = "`m` is an embedding model, which writes no text: send texts for it to /v1/embeddings";
        assert_eq!((&*param, &*message), ("model", says), "{path}");
    }
    let body = json!({ "model": "m", "messages": messages, "max_tokens": 5 });
    let (status, answer) = post(&served.url, "/v1/messages", &body).await;
    assert_eq!((status, &answer["type"]), (400, &json!("error")), "{answer}");
    assert_eq!(answer["error"]["type"], "invalid_request_error");
    assert!(
        answer["error"]["message"].as_str().is_some_and(|m| m.contains("an embedding model")),
        "{answer}"
    );
    for (path, body) in [
        ("/v1/embeddings", json!({ "model": "chatty", "input": "a" })),
        ("/v1/rerank", json!({ "model": "chatty", "query": "a", "documents": ["b"] })),
        ("/v1/score", json!({ "model": "chatty", "text_1": "a", "text_2": "b" })),
    ] {
        let (param, message) = refused(&served.url, path, &body).await;
        assert_eq!((&*param, message.contains("`chatty` is a chat model")), ("model", true), "{message}");
    }
    // They are listed, without what only text has.
    let list =
        crate::support::client().get(format!("{}/v1/models", served.url)).send().await.expect("an answer");
    let list: Value = list.json().await.expect("JSON");
    assert_eq!((&list["data"][0]["id"], &list["data"][0]["max_model_len"]), (&json!("m"), &json!(64)));
    assert_eq!(
        (list["data"][0].get("defaults"), list["data"][1]["defaults"].is_object()),
        (None, true),
        "{list}"
    );
}

#[tokio::test]
async fn a_caller_who_leaves_frees_the_engine() {
    let model = Fake { step: Duration::from_millis(50), ..embedder("m", info()) };
    let computed = model.computed.clone();
    let served = serve(vec![model]).await;
    let body = json!({ "model": "m", "input": vec!["a b c"; 2000] });
    let asked = crate::support::client().post(format!("{}/v1/embeddings", served.url)).json(&body).send();
    assert!(tokio::time::timeout(Duration::from_millis(400), asked).await.is_err(), "it takes six seconds");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let left = computed.load(Ordering::SeqCst);
    assert!(left > 0 && left < 1000, "{left}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(computed.load(Ordering::SeqCst), left, "the engine went on");
    let (status, answer) = post(&served.url, "/v1/embeddings", &json!({ "model": "m", "input": "a" })).await;
    assert_eq!(status, 200, "{answer}");
}

/// One request has a part of the queue: others come in beside it. A queue that is full is told as to chats.
#[tokio::test]
async fn a_large_request_leaves_room_in_the_queue() {
    let model = Fake { step: Duration::from_millis(20), max_queued: 100, ..embedder("m", info()) };
    let small = Fake { step: Duration::from_millis(300), max_queued: 2, ..embedder("small", info()) };
    let served = serve(vec![model, small]).await;
    let (url, client) = (format!("{}/v1/embeddings", served.url), crate::support::client());
    let large = json!({ "model": "m", "input": vec!["a b c"; 1000] });
    let large = tokio::spawn(client.post(&url).json(&large).send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (status, answer) = post(&served.url, "/v1/embeddings", &json!({ "model": "m", "input": "a" })).await;
    assert_eq!(status, 200, "{answer}");
    assert!(!large.is_finished(), "the large one takes over a second");
    let large = large.await.expect("joined").expect("an answer");
    assert_eq!(large.status(), 200);
    // Sixteen run, two wait, and others are refused; a list that has begun waits for its turn.
    let list = json!({ "model": "small", "input": vec!["a"; 40] });
    let list = tokio::spawn(client.post(&url).json(&list).send());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let one = json!({ "model": "small", "input": "a" });
    let many =
        futures_util::future::join_all((0..30).map(|_| post(&served.url, "/v1/embeddings", &one))).await;
    let refused: Vec<_> = many.into_iter().filter(|(status, _)| *status != 200).collect();
    assert!(!refused.is_empty(), "all thirty found room");
    for (status, answer) in refused {
        assert_eq!((status, &answer["error"]["code"]), (429, &json!("queue_full")), "{answer}");
    }
    assert_eq!(list.await.expect("joined").expect("an answer").status(), 200);
}

#[tokio::test]
async fn the_newcomers_example_is_one_that_the_model_can_answer() {
    let by = ScoreBy::Classifier { labels: 1, sigmoid: true };
    let models = vec![
        embedder("m", info()),
        Fake { tokenizer: None, ..embedder("ids", info()) },
        scorer("cross", by, words(), Arc::new(|_, _| vec![0.5])),
    ];
    let registry = registry(models);
    let served = serve_all(registry.clone()).await;
    for (name, path) in [("m", "/v1/embeddings"), ("ids", "/v1/embeddings"), ("cross", "/v1/rerank")] {
        let example = registry.example_request(name);
        assert_eq!(example.path, path, "{name}");
        let body = serde_json::from_str(&example.body).expect("JSON");
        let (status, answer) = post(&served.url, path, &body).await;
        assert_eq!((status, &answer["model"]), (200, &json!(name)), "{answer}");
    }
}
