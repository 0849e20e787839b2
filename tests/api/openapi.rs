//! `/openapi.json` against the running program: its examples are good requests, its types are those that the readers
//! hold requests to, and it is the same for everybody.

use super::embeddings::words_file;
use super::fill_model;
use crate::support::golden_dir;
use crate::support::server::Server;
use novastack::gateway::http::openapi::document;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

const ADMIN: &str = "the-key-of-the-admin";

/// A server with all that can be on, whose model fills gaps too.
struct Whole {
    server: Server,
    client: reqwest::Client,
    _folders: [tempfile::TempDir; 4],
}

/// A golden of the BERT family with a tokenizer.
fn of_texts(golden: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(golden_dir("embeddings").join(golden)).expect("a golden").flatten() {
        std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name())).expect("a link");
    }
    std::fs::write(folder.path().join("tokenizer.json"), words_file().to_string()).expect("a file");
    folder
}

impl Whole {
    fn start(more: &str) -> Self {
        let (model, folder) = (fill_model(), tempfile::tempdir().expect("a folder"));
        let [embeds, reranks] = ["bert", "bert-reranker"].map(of_texts);
        let config = format!(
            "server: {{ store: sqlite:usage.db, admin_key_env: TEST_ADMIN_KEY }}\n\
             models:\n  qwen3-8b: {{ source: {} }}\n  qwen3-embedding-0.6b: {{ source: {} }}\n  \
             qwen3-reranker-0.6b: {{ source: {} }}\n{more}",
            model.path().display(),
            embeds.path().display(),
            reranks.path().display(),
        );
        let path = folder.path().join("novastack.yaml");
        std::fs::write(&path, config).expect("a file");
        let arguments = ["--config", path.to_str().expect("a path")];
        let server = Server::try_start_with(&arguments, &[("TEST_ADMIN_KEY", ADMIN)]);
        let server = server.unwrap_or_else(|log| panic!("{log}"));
        Self { server, client: crate::support::client(), _folders: [model, folder, embeds, reranks] }
    }

    /// Sends a request to a path of the description.
    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        let method = method.to_uppercase().parse().expect("a method");
        let mut request = self.client.request(method, format!("{}{path}", self.server.url));
        if path.starts_with("/admin/") {
            request = request.bearer_auth(ADMIN);
        }
        if let Some(body) = body {
            request = request.header("x-request-id", "req-1").json(body);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }
}

/// What the description has: method, path, operation.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let mut found = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().expect("operations") {
            if method != "servers" {
                found.push((method.as_str(), path.as_str(), operation));
            }
        }
    }
    found
}

fn body_of(operation: &Value) -> Option<&Value> {
    operation.get("requestBody").map(|body| &body["content"]["application/json"])
}

#[tokio::test]
async fn every_example_is_answered_as_described() {
    let document = document();
    let whole = Whole::start("");
    // Keys come last: once there is one, requests need it.
    let mut operations = operations(&document);
    operations.sort_by_key(|(method, path, operation)| {
        (
            path.starts_with("/admin/keys"),
            *method == "delete",
            body_of(operation).is_none(),
            *path != "/v1/chat/completions",
        )
    });
    let (mut response_id, mut is_recorded) = (String::new(), false);
    let (mut lines, mut answers) = (String::new(), 0);
    for (method, path, operation) in operations {
        if path.contains("/scores") || path.ends_with("/correct") {
            while !is_recorded {
                tokio::time::sleep(Duration::from_millis(100)).await;
                is_recorded =
                    whole.ask("get", "/admin/usage/export?format=jsonl", None).await.1.contains("req-1");
            }
        }
        let named = match path {
            path if path.starts_with("/v1/responses/") => response_id.clone(),
            path if path.starts_with("/v1/models/") => "qwen3-8b".into(),
            path if path.starts_with("/docs/") => "swagger-ui.css".into(),
            _ => "team-a".into(),
        };
        let path_with_query = if path == "/tokenizer_info" { "/tokenizer_info?model=qwen3-8b" } else { path };
        let filled =
            path_with_query.replace("{id}", &named).replace("{name}", &named).replace("{file}", &named);
        let example = body_of(operation).map(|body| &body["example"]);
        let (status, text) = whole.ask(method, &filled, example).await;
        assert!((200..300).contains(&status), "{method} {filled}: {status} {text}");
        let described = &operation["responses"][status.to_string()];
        assert!(described.is_object(), "{method} {path} answers {status}, which is not described");
        if let Some(content) = described["content"].get("application/json") {
            let mut schema = content["schema"].clone();
            schema["components"] = document["components"].clone();
            lines += &format!("{}\n", json!({"schema": schema, "closed": true, "answer": text}));
            answers += 1;
        }
        if path == "/v1/responses" {
            let answer: Value = serde_json::from_str(&text).expect("JSON");
            response_id = answer["id"].as_str().expect("an id").to_owned();
        }
    }
    assert!(answers > 20, "{answers}");
    jsonschema_takes(&lines);
}

/// Python's jsonschema; scripts/test.sh names a Python that has it.
fn jsonschema_takes(lines: &str) {
    let named = std::env::var("NOVASTACK_TEST_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let has_it = Command::new(&python).args(["-c", "import jsonschema"]).stderr(Stdio::null()).status();
    if !has_it.is_ok_and(|status| status.success()) {
        assert!(named.is_none(), "{python} has no jsonschema");
        eprintln!("SKIPPED: python3 has no jsonschema; answers were not held against their schemas");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/check_schemas.py");
    let mut child = Command::new(&python).arg(script).stdin(Stdio::piped()).spawn().expect("python");
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("python reads");
    assert!(child.wait().expect("python").success(), "answers are not as described: see above");
}

/// The types that a schema allows: JSON Schema's words. Empty: any.
fn types(document: &Value, schema: &Value) -> BTreeSet<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return types(document, document.pointer(&reference[1..]).expect("a schema"));
    }
    for alternatives in ["anyOf", "oneOf"] {
        if let Some(list) = schema[alternatives].as_array() {
            return list.iter().flat_map(|schema| types(document, schema)).collect();
        }
    }
    match &schema["type"] {
        Value::String(kind) => BTreeSet::from([kind.clone()]),
        Value::Array(kinds) => kinds.iter().filter_map(|kind| kind.as_str().map(str::to_owned)).collect(),
        _ => BTreeSet::new(),
    }
}

/// Values that a schema does not allow.
fn wrong(document: &Value, schema: &Value) -> Vec<Value> {
    let types = types(document, schema);
    if types.is_empty() {
        return Vec::new();
    }
    let is = |kind: &str| types.contains(kind);
    let mut wrong = Vec::new();
    for (kind, value) in [
        ("boolean", json!(true)),
        ("string", json!("something")),
        ("array", json!([{"a": 1}])),
        ("object", json!({"a": [1]})),
    ] {
        if !is(kind) {
            wrong.push(value);
        }
    }
    if !is("number") {
        wrong.push(json!(7.5));
    }
    let bound = |name: &str| schema[name].as_f64();
    for value in [
        bound("minimum").map(|low| low - 1.0),
        bound("exclusiveMinimum"),
        bound("maximum").map(|high| high + 1.0),
    ]
    .into_iter()
    .flatten()
    .filter(|value| value.abs() < 1e9)
    {
        wrong.push(if is("integer") { json!(value as i64) } else { json!(value) });
    }
    if schema["enum"].is_array() {
        wrong.push(json!("no such word"));
    }
    wrong
}

/// Values that a schema allows, where it says enough.
fn right(schema: &Value) -> Vec<Value> {
    if let Some(words) = schema["enum"].as_array() {
        return words.clone();
    }
    let is = |kind: &str| schema["type"] == kind || schema["type"][0] == kind;
    let mut right = vec![json!(null)];
    if is("boolean") {
        right.extend([json!(true), json!(false)]);
    }
    if let Some(low) = schema["minimum"].as_i64().filter(|low| *low > -1000) {
        right.push(if is("integer") { json!(low) } else { json!(low as f64) });
    }
    if let Some(low) = schema["exclusiveMinimum"].as_f64() {
        right.push(json!(low + 0.5));
    }
    right
}

/// Whether an answer complains of this field, in either format.
fn complains_of(text: &str, name: &str) -> bool {
    let answer: Value = serde_json::from_str(text).unwrap_or_default();
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    message.contains(&format!("`{name}"))
}

#[tokio::test]
async fn fields_have_the_types_that_are_described() {
    let document = document();
    let whole = Whole::start("");
    let (mut asked, mut faults) = (0, Vec::new());
    // To the last, the store has no keys: nothing here makes one.
    for (method, path, operation) in operations(&document) {
        let Some(body) = body_of(operation) else { continue };
        let schema = &body["schema"];
        let schema = match schema["$ref"].as_str() {
            Some(reference) => document.pointer(&reference[1..]).expect("a schema"),
            None => schema,
        };
        let filled = path.replace("{name}", "nobody");
        let ask = async |name: &str, value: Option<&Value>| {
            let mut changed = body["example"].clone();
            match value {
                Some(value) => changed[name] = value.clone(),
                None => drop(changed.as_object_mut().expect("an object").remove(name)),
            }
            match name {
                "max_completion_tokens" => changed["max_tokens"] = Value::Null,
                "max_tokens" if path == "/v1/completions" => changed["echo"] = true.into(),
                "stream_options" => changed["stream"] = true.into(),
                "top_logprobs" => {
                    changed["logprobs"] = true.into();
                    changed["include"] = json!(["message.output_text.logprobs"]);
                }
                "prompt" | "messages" if path == "/tokenize" => {
                    ["prompt", "messages"]
                        .iter()
                        .filter(|it| **it != name)
                        .for_each(|it| changed[*it] = Value::Null);
                }
                // Other names of the two texts, which are read where the first names are not there.
                "queries" | "documents" | "items" | "data_1" | "data_2" if path.ends_with("/score") => {
                    ["text_1", "text_2"].iter().for_each(|it| changed[*it] = Value::Null);
                    let other = match name {
                        "queries" => "documents",
                        "documents" | "items" => "queries",
                        "data_1" => "data_2",
                        _ => "data_1",
                    };
                    changed[other] = "a".into();
                }
                "add_generation_prompt" | "continue_final_message" | "chat_template_kwargs"
                    if path == "/tokenize" =>
                {
                    changed["messages"] = json!([{"role": "user", "content": "hi"}]);
                    changed["prompt"] = Value::Null;
                }
                _ => {}
            }
            whole.ask(method, &filled, Some(&changed)).await
        };
        for (name, of) in schema["properties"].as_object().expect("properties") {
            for value in wrong(&document, of) {
                let (status, text) = ask(name, Some(&value)).await;
                asked += 1;
                if status != 400 || !complains_of(&text, name) {
                    faults.push(format!("{path}: {name}: {value} should be refused, gives {status} {text}"));
                }
            }
            let is_required = schema["required"].as_array().is_some_and(|all| all.contains(&json!(name)));
            if is_required {
                for value in [None, Some(&Value::Null)] {
                    let (status, text) = ask(name, value).await;
                    if status != 400 || !complains_of(&text, name) {
                        faults.push(format!("{path}: without {name}: {status} {text}"));
                    }
                }
                continue;
            }
            // What a vector may be cut to, and whether it has another length, is the model's to say.
            if path == "/admin/keys" || matches!(name.as_str(), "dimensions" | "normalize") {
                continue;
            }
            // Of these one has to be there.
            let alone = ["/tokenize prompt", "/tokenize messages", "/v1/responses input"];
            let alone = alone.contains(&format!("{path} {name}").as_str())
                || name.starts_with("text_")
                // Which it is has to be said here, where there are several.
                || name == "model";
            for value in right(of).iter().filter(|value| !alone || !value.is_null()) {
                let (status, text) = ask(name, Some(value)).await;
                asked += 1;
                if complains_of(&text, name) {
                    faults.push(format!("{path}: {name}: {value} should be taken, gives {status} {text}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(asked > 400, "only {asked} values were sent");
}

#[tokio::test]
async fn the_description_and_its_page_are_open_and_the_same_everywhere() {
    let plain = super::serve(&[]);
    let keyed = Whole::start("routes: [{ default: qwen3-8b }]\n");
    let (status, key) = keyed.ask("post", "/admin/keys", Some(&json!({"name": "a"}))).await;
    assert_eq!(status, 201, "{key}");
    assert_eq!(keyed.ask("get", "/v1/models", None).await.0, 401);
    for path in
        ["/openapi.json", "/docs", "/docs/start.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"]
    {
        let (status, text) = keyed.ask("get", path, None).await;
        assert_eq!(status, 200, "{path}: {text}");
        assert_eq!(plain.get(path).await, (200, text), "{path}");
    }
    let (_, text) = plain.get("/openapi.json").await;
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), document());
    // Nor does it say which release this is: strangers learn that nowhere.
    let (_, version) = plain.get("/version").await;
    let version: Value = serde_json::from_str(&version).expect("JSON");
    assert!(!text.contains(&format!("\"{}\"", version["version"].as_str().expect("a version"))));
    for path in
        ["/docs/", "/docs/nothing.js", "/docs/oauth2-redirect.html", "/docs/..%2Fopenapi.json", "/docs/a/b"]
    {
        let (status, _) = plain.get(path).await;
        assert_eq!(status, 404, "{path}");
    }
    assert_eq!(keyed.ask("get", "/docs/a/b", None).await.0, 401);
    assert_eq!(keyed.ask("get", "/docs/../v1/models", None).await.0, 401);
}

/// What a page loads, by its own words.
#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let server = super::serve(&[]);
    let client = crate::support::client();
    let page = client.get(format!("{}/docs", server.url)).send().await.expect("an answer");
    let policy = page.headers()["content-security-policy"].to_str().expect("text").to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    let text = page.text().await.expect("text");
    let mut loaded = 0;
    for attribute in ["src=\"", "href=\""] {
        for (at, _) in text.match_indices(attribute) {
            let address = text[at + attribute.len()..].split('"').next().expect("an end");
            assert!(!address.contains(':') && !address.starts_with('/'), "{address} is not relative");
            for packed in [true, false] {
                let coding = if packed { "gzip" } else { "identity" };
                let request =
                    client.get(format!("{}/{address}", server.url)).header("accept-encoding", coding);
                let file = request.send().await.expect("an answer");
                assert_eq!(file.status(), 200, "{address}");
                let is_packed = file.headers().contains_key("content-encoding");
                assert!(packed || !is_packed, "{address}");
                let bytes = file.bytes().await.expect("bytes");
                assert_eq!(bytes.starts_with(&[0x1f, 0x8b]), is_packed, "{address}");
            }
            loaded += 1;
        }
    }
    assert_eq!(loaded, 6, "{text}");
    let (_, css) = server.get("/docs/swagger-ui.css").await;
    assert!(!css.contains("url(http") && !css.contains("@import"), "a style that fetches");
}

/// In a real browser, where there is one: the description is drawn, the policy of the page is broken by nothing,
/// and nothing is asked of anybody else.
#[test]
fn a_browser_draws_the_page() {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.iter().find(|name| Command::new(name).arg("--version").output().is_ok());
    let Some(browser) = found else {
        eprintln!("SKIPPED: there is no Chromium to draw /docs with");
        return;
    };
    let server = super::serve(&[]);
    let profile = tempfile::tempdir().expect("a folder");
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"])
        .args(["--virtual-time-budget=20000", "--timeout=60000", "--dump-dom"])
        // Whoever is not this machine is not found, and that is told.
        .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("{}/docs", server.url))
        .output()
        .expect("the browser runs");
    let (drawn, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for operation in ["createChatCompletion", "createMessage", "createResponse", "getUsage"] {
        assert!(drawn.contains(&format!("-{operation}\"")), "{operation} is not drawn:\n{drawn}\n{told}");
    }
    let console: Vec<&str> = told.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "{console:#?}");
}
