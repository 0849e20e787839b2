//! A model of ours that cannot be loaded: it is told of, its fallbacks answer, and everything else serves.

use super::{fill, start};
use crate::support::server::Server;
use crate::support::upstream::{TEXT, Upstream};
use serde_json::json;

const CONFIG: &str = r#"
providers:
  open: { format: openai, base_url: @OPENAI/v1 }
models:
  broken: { source: /nowhere/secret-folder/model.gguf }
  alone: { source: /nowhere/secret-folder/model.gguf }
  ours: { source: @LOCAL }
  theirs: { provider: open }
fallbacks: { broken: [theirs] }
named_routes:
  first-that-serves: [alone, theirs]
"#;

#[tokio::test]
async fn one_broken_model_does_not_end_the_gateway() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    gateway.server.log_line(&["cannot be loaded", "broken", "secret-folder"]).await;
    let (status, health) = gateway.server.get("/health").await;
    let health: serde_json::Value = serde_json::from_str(&health).expect("JSON");
    assert_eq!((status, &health["status"]), (200, &json!("degraded")), "{health}");
    assert_eq!(health["models"], json!({ "broken": "failed", "alone": "failed", "ours": "ready" }));
    let reason = health["failures"]["broken"].as_str().expect("a reason");
    // Whoever may ask does not learn the folders.
    assert!(reason.contains("model.gguf") && !reason.contains("secret-folder"), "{reason}");
    let (_, models) = gateway.server.get("/v1/models").await;
    assert!(models.contains("\"ours\"") && models.contains("\"theirs\""), "{models}");
    assert!(!models.contains("\"broken\"") && !models.contains("\"alone\""), "{models}");

    for stream in [false, true] {
        for model in ["broken", "first-that-serves", "theirs"] {
            let answer = gateway.chat(model, stream).await;
            assert_eq!((answer.status, answer.says().as_str()), (200, TEXT), "{model}: {}", answer.text);
            assert_eq!(answer.headers["x-novastack-model"], "theirs");
            assert_eq!(gateway.message(model, stream).await.says(), TEXT);
        }
        let refused = gateway.chat("alone", stream).await;
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("model_failed")));
        assert!(!refused.text.contains("secret-folder"), "{}", refused.text);
        let refused = gateway.message("alone", stream).await.json();
        assert_eq!(
            (&refused["type"], &refused["error"]["type"]),
            (&json!("error"), &json!("overloaded_error"))
        );
    }
    let body = json!({ "model": "ours", "prompt": [5], "max_tokens": 1 });
    assert_eq!(gateway.post("/v1/completions", &[], &body).await.status, 200);
    let body = json!({ "model": "alone", "prompt": [5], "max_tokens": 1 });
    assert_eq!(gateway.post("/v1/completions", &[], &body).await.status, 503);
}

/// Where nothing is left to serve, the program ends and names all of it.
#[test]
fn without_any_model_that_loads_the_program_ends() {
    let options = ["--model", "a=/nowhere/a.gguf", "--model", "b=/nowhere/b.gguf"];
    let log = Server::try_start(&options).err().expect("it ends");
    assert!(log.contains("a.gguf") && log.contains("b.gguf"), "{log}");
    assert!(Server::try_start(&options[..2]).err().expect("it ends").contains("a.gguf"));
}
