//! What requests get that leave fields out.

use crate::support::golden_dir;
use crate::support::server::Server;
use serde_json::{Value, json};

fn folder(name: &str, generation_config: Option<Value>) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(golden_dir(name)).expect("the golden") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("a copy");
    }
    let file = copy.path().join("generation_config.json");
    let _ = std::fs::remove_file(&file);
    if let Some(config) = generation_config {
        std::fs::write(file, config.to_string()).expect("a config");
    }
    copy
}

async fn defaults(server: &Server) -> Value {
    let (_, text) = server.get("/v1/models").await;
    let models: Value = serde_json::from_str(&text).expect("JSON");
    models["data"][0]["defaults"].clone()
}

#[tokio::test]
async fn sampling_defaults_are_shown_and_used() {
    // Nothing is known of it: usual values.
    let plain = folder("llama", Some(json!({ "eos_token_id": 2 })));
    let source = format!("tiny={}", plain.path().display());
    let server = Server::start(&[&source]);
    let shown = defaults(&server).await;
    let wanted = [0.8f32, 0.95, 40.0, 0.05, 1.0].map(f64::from);
    let names = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty"];
    for (name, wanted) in names.into_iter().zip(wanted) {
        let found = shown[name].as_f64().expect(name);
        assert!((found - wanted).abs() < 1e-6, "{name}: {found}");
    }
    assert_eq!(shown["max_tokens"], 4096);
    assert!(shown["sampling_from"].as_str().expect("text").starts_with("usual values"), "{shown}");
    drop(server);

    // The command line's over the checkpoint's.
    let own = folder("llama", Some(json!({ "temperature": 0.3, "top_p": 0.5, "do_sample": true })));
    let source = format!("tiny={}", own.path().display());
    let server = Server::start(&[&source, "--sampling", "temperature=0", "--default-max-tokens", "3"]);
    let shown = defaults(&server).await;
    assert_eq!(
        (&shown["temperature"], &shown["top_p"], &shown["top_k"]),
        (&json!(0.0), &json!(0.5), &json!(0))
    );
    assert_eq!(shown["sampling_from"], "the command line, then generation_config.json");
    // Greedy: no two requests differ, whatever their seeds; and a chat answer has its default bound.
    let chat = json!({
        "model": "tiny", "messages": [{ "role": "user", "content": "hello" }], "ignore_eos": true,
        "return_token_ids": true,
    });
    let (status, first) = server.post("/v1/chat/completions", &chat).await;
    assert_eq!((status, &first["choices"][0]["finish_reason"]), (200, &json!("length")), "{first}");
    assert_eq!(first["usage"]["completion_tokens"], 3);
    for _ in 0..4 {
        let (_, next) = server.post("/v1/chat/completions", &chat).await;
        assert_eq!(next["choices"][0]["token_ids"], first["choices"][0]["token_ids"]);
    }
    // What the request says counts before everything.
    let mut longer = chat.clone();
    (longer["max_tokens"], longer["temperature"]) = (5.into(), 1.5.into());
    let (_, answer) = server.post("/v1/chat/completions", &longer).await;
    assert_eq!(answer["usage"]["completion_tokens"], 5);
}

#[tokio::test]
async fn a_configuration_sets_sampling_for_its_model() {
    let own = folder("llama", None);
    let config = own.path().join("novastack.yaml");
    let text =
        "models: { tiny: { source: ./, sampling: { temperature: 0.25, top_k: 7 }, default_max_tokens: 2 } }";
    std::fs::write(&config, text).expect("a file");
    let server =
        Server::start(&["--config", config.to_str().expect("UTF-8"), "--sampling", "top_k=9,min_p=0.5"]);
    let shown = defaults(&server).await;
    assert_eq!(
        (&shown["temperature"], &shown["top_k"], &shown["min_p"]),
        (&json!(0.25), &json!(7), &json!(0.5))
    );
    assert_eq!(shown["max_tokens"], 2);
    let from = shown["sampling_from"].as_str().expect("text");
    assert!(from.starts_with("the configuration, then the command line, then "), "{from}");
}
