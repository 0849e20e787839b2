//! What one key learns of another: nothing.

use super::{Gateway, start};
use crate::support::golden_dir;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const A: &str = "the-key-of-tenant-a";
const B: &str = "the-key-of-tenant-b";
const C: &str = "the-key-of-tenant-c";
const ADMIN: [(&str, &str); 1] = [("authorization", "Bearer the-key-of-the-admin")];

pub(super) fn sha256(key: &str) -> String {
    Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn config(text: &str) -> String {
    text.replace("@LOCAL", &golden_dir("llama").display().to_string())
        .replace("@A", &sha256(A))
        .replace("@B", &sha256(B))
        .replace("@C", &sha256(C))
}

async fn get(gateway: &Gateway, path: &str, key: Option<&str>) -> (u16, Value) {
    let mut request = gateway.client.get(format!("{}{path}", gateway.server.url));
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("text");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Tokens of this prompt that were in the cache, for this key.
async fn cached(gateway: &Gateway, key: Option<&str>, prompt: &[u32]) -> u64 {
    let body = json!({ "model": "m", "prompt": prompt, "max_tokens": 1, "ignore_eos": true });
    let bearer = key.map(|key| format!("Bearer {key}"));
    let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    let answer = gateway.post("/v1/completions", &headers, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0)
}

/// Six whole blocks and the beginning of a seventh.
fn prompt(secret: u32) -> Vec<u32> {
    (0..100).map(|at| if at == 40 { secret } else { 3 + at % 50 }).collect()
}

/// The attack: B asks for what A may have asked, digit by digit.
#[tokio::test]
async fn no_key_learns_from_the_prefix_cache_what_another_has_prompted() {
    let text = "models: { m: { source: @LOCAL } }\nkeys: { c: { sha256: @C } }";
    let gateway = start(&config(text), &["--api-key", A, "--api-key", B]);
    let secret = prompt(7);
    assert_eq!(cached(&gateway, Some(A), &secret).await, 0);
    for guess in 0..10 {
        for key in [B, C] {
            // Two blocks come before the guess: those of its own guess before.
            let own = if guess == 0 { 0 } else { 32 };
            assert_eq!(cached(&gateway, Some(key), &prompt(guess)).await, own, "{key} guesses {guess}");
            let found = cached(&gateway, Some(key), &prompt(guess)).await;
            assert_eq!(found, 96, "{key} finds what it has asked itself");
        }
        if guess == 0 {
            // What the wrong guess and the secret have in common is cached, for A alone.
            assert_eq!(cached(&gateway, Some(A), &prompt(guess)).await, 32);
        }
    }
    assert_eq!(cached(&gateway, Some(A), &secret).await, 96, "A finds its own");
}

/// Keys of the command line have no names, and are as apart as those that have.
#[tokio::test]
async fn no_key_reads_what_another_has_stored() {
    let gateway = start(&config("models: { m: { source: @LOCAL } }"), &["--api-key", A, "--api-key", B]);
    let bearer = |key: &str| format!("Bearer {key}");
    let body = json!({ "model": "m", "input": "a secret", "max_output_tokens": 16 });
    let answer = gateway.post("/v1/responses", &[("authorization", &bearer(A))], &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    for (key, status) in [(A, 200), (B, 404)] {
        let (got, json) = get(&gateway, &format!("/v1/responses/{id}"), Some(key)).await;
        assert_eq!(got, status, "{json}");
        let body =
            json!({ "model": "m", "input": "go on", "previous_response_id": id, "max_output_tokens": 16 });
        let got = gateway.post("/v1/responses", &[("authorization", &bearer(key))], &body).await;
        assert_eq!(got.status == 200, key == A, "{}", got.text);
    }
}

#[tokio::test]
async fn prompts_are_shared_without_keys_in_a_group_and_where_the_operator_says_so() {
    let plain = "models: { m: { source: @LOCAL } }";
    let gateway = start(&config(plain), &[]);
    assert_eq!([cached(&gateway, None, &prompt(7)).await, cached(&gateway, None, &prompt(7)).await], [0, 96]);
    let found = async |text: &str, arguments: &[&str]| {
        let gateway = start(&config(text), arguments);
        cached(&gateway, Some(A), &prompt(7)).await;
        [cached(&gateway, Some(B), &prompt(7)).await, cached(&gateway, Some(C), &prompt(7)).await]
    };
    let grouped = format!(
        "{plain}\nkeys: {{ a: {{ sha256: @A, share_prefix: team }}, b: {{ sha256: @B, share_prefix: team }}, \
         c: {{ sha256: @C }} }}"
    );
    assert_eq!(found(&grouped, &[]).await, [96, 0]);
    let apart = format!("{plain}\nkeys: {{ a: {{ sha256: @A }}, b: {{ sha256: @B }}, c: {{ sha256: @C }} }}");
    assert_eq!(found(&apart, &["--share-prefix"]).await, [96, 96]);
    let server = format!("server: {{ share_prefix: true }}\n{plain}");
    assert_eq!(found(&server, &["--api-key", A, "--api-key", B, "--api-key", C]).await, [96, 96]);
}

const SEVERAL: &str = "
server: { admin_key_env: TEST_ADMIN_KEY }
providers: { p: { format: openai, base_url: \"http://127.0.0.1:9\" } }
models: { m: { source: @LOCAL }, private-model: { source: @LOCAL }, hidden-upstream: { provider: p } }
aliases: { mine: m, secret-alias: hidden-upstream }
named_routes: { quick: m, secret-route: [private-model, m] }
keys: { a: { sha256: @A }, b: { sha256: @B, models: [mine, quick] }, c: { sha256: @C, models: [] } }
";

/// Names that only A may use.
const FOREIGN: [&str; 4] = ["private-model", "hidden-upstream", "secret-alias", "secret-route"];

#[tokio::test]
async fn a_key_sees_only_the_models_that_it_may_use_and_no_paths() {
    let gateway = start(&config(SEVERAL), &[]);
    let ids = async |key| {
        let (status, models) = get(&gateway, "/v1/models", Some(key)).await;
        assert_eq!(status, 200);
        let data = models["data"].as_array().expect("a list").clone();
        data.iter().map(|model| model["id"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    const KNOWN: [&str; 5] = ["m", "private-model", "hidden-upstream", "quick", "secret-route"];
    assert_eq!(ids(A).await, [&KNOWN[..], &["mine", "secret-alias"]].concat());
    assert_eq!(ids(B).await, ["mine", "quick"]);
    assert!(ids(C).await.is_empty());
    assert_eq!(get(&gateway, "/v1/models/mine", Some(B)).await.1["id"], "mine");
    // What is there and what is not look alike, in every endpoint.
    let mut refusals = Vec::new();
    for name in FOREIGN.into_iter().chain(["no-such-model"]) {
        let (status, models) = get(&gateway, &format!("/v1/models/{name}"), Some(B)).await;
        assert_eq!((status, &models["error"]["code"]), (404, &json!("model_not_found")), "{name}");
        let mut told = models.to_string();
        let bearer = format!("Bearer {B}");
        let key = [("authorization", bearer.as_str()), ("x-request-id", "the-same")];
        let messages = json!([{ "role": "user", "content": "hi" }]);
        for (path, body) in [
            ("/v1/chat/completions", json!({ "model": name, "messages": messages })),
            ("/v1/messages", json!({ "model": name, "messages": messages, "max_tokens": 1 })),
            ("/v1/messages/count_tokens", json!({ "model": name, "messages": messages })),
            ("/v1/completions", json!({ "model": name, "prompt": [5], "max_tokens": 1 })),
            ("/tokenize", json!({ "model": name, "prompt": "hi" })),
            ("/detokenize", json!({ "model": name, "tokens": [5] })),
            ("/infill", json!({ "model": name, "input_prefix": "a", "input_suffix": "b" })),
        ] {
            let answer = gateway.post(path, &key, &body).await;
            assert_eq!(answer.status, 403, "{path} {name}: {}", answer.text);
            told += &answer.text;
            let forced = [key[0], key[1], ("x-forwarded-to", name)];
            let body = json!({ "model": "mine", "messages": messages, "max_tokens": 1 });
            let answer = gateway.post("/v1/chat/completions", &forced, &body).await;
            told += &format!("forced: {}", answer.status);
        }
        let (status, info) = get(&gateway, &format!("/tokenizer_info?model={name}"), Some(B)).await;
        assert_eq!(status, 403);
        told += &info.to_string();
        let foreign = FOREIGN.into_iter().filter(|foreign| *foreign != name);
        foreign.for_each(|foreign| assert!(!told.contains(foreign), "{foreign} in {told}"));
        refusals.push(told.replace(name, "NAME"));
    }
    assert!(refusals.iter().all(|told| *told == refusals[0]), "{refusals:#?}");
    // Nobody is told where a model lies.
    let folder = golden_dir("llama").display().to_string();
    let mut paths = vec!["/v1/models".to_owned(), "/health".into(), "/tokenizer_info?model=m".into()];
    paths.extend(["/v1/models/m".to_owned(), "/v1/models/private-model".into()]);
    for path in paths {
        let (status, told) = get(&gateway, &path, Some(A)).await;
        assert_eq!(status, 200, "{path}");
        assert!(!told.to_string().contains(&folder), "{path}: {told}");
    }
    assert_eq!(get(&gateway, "/v1/models/m", Some(A)).await.1["root"], "llama");
}

#[tokio::test]
async fn metrics_and_healths_details_are_their_operators() {
    let gateway = start(&config(SEVERAL), &[]);
    let health = async |key| get(&gateway, "/health", key).await;
    assert_eq!(health(None).await, (200, json!({ "status": "ready" })));
    assert_eq!(health(Some("a-key-that-is-none")).await.1, json!({ "status": "ready" }));
    assert_eq!(health(Some(C)).await.1["models"], json!({}));
    let all = json!({ "m": "ready", "private-model": "ready" });
    for key in [A, "the-key-of-the-admin"] {
        assert_eq!(health(Some(key)).await.1["models"], all);
    }
    let metrics = async |key| get(&gateway, "/metrics", key).await.0;
    assert_eq!([metrics(None).await, metrics(Some("a-key-that-is-none")).await], [401, 401]);
    assert_eq!([metrics(Some(A)).await, metrics(Some(B)).await], [403, 403]);
    assert_eq!(metrics(Some("the-key-of-the-admin")).await, 200);
    assert_eq!(
        gateway.post("/v1/completions", &ADMIN, &json!({})).await.status,
        401,
        "it is no caller's key"
    );
    // With one key alone there is nobody to keep apart.
    let gateway = start(&config("models: { m: { source: @LOCAL } }"), &["--api-key", A]);
    assert_eq!(get(&gateway, "/metrics", Some(A)).await.0, 200);
    assert_eq!(get(&gateway, "/metrics", None).await.0, 401);
}
