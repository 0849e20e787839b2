//! Providers that keep to what they publish: each request is held against the documented limits of its API and, where
//! it breaks one, refused in the provider's words and shape. What is allowed is answered by a script.
//!
//! Which fields there are is from the types of the official SDKs (`tests/sdk/test_strict_fields.py` holds the lists
//! here against them); the rules are from <https://platform.openai.com/docs/api-reference> and
//! <https://platform.claude.com/docs/en/api/messages>, and their messages as the providers write them.

mod answers;
mod anthropic;
mod chat;
mod responses;
mod rules;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// The key that the providers know.
const KEY: &str = "sk-upstream-1";

/// A provider's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    Chat,
    Messages,
    Responses,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub message: String,
    /// OpenAI names the field and a code.
    pub param: Option<String>,
    pub code: Option<&'static str>,
}

impl Refusal {
    /// Of OpenAI's, about a field.
    fn of(param: &str, code: &'static str, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(param.to_owned()), code: Some(code) }
    }

    /// A sentence alone.
    fn says(message: impl Into<String>) -> Self {
        Self { message: message.into(), param: None, code: None }
    }
}

type Checked = Result<(), Refusal>;

fn check(holds: bool, refusal: impl FnOnce() -> Refusal) -> Checked {
    if holds { Ok(()) } else { Err(refusal()) }
}

/// Elements of a list, none of anything else.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The first field of an object that is not among these.
fn unknown<'a>(value: &'a Value, known: &[&str]) -> Option<&'a str> {
    value.as_object()?.keys().map(String::as_str).find(|name| !known.contains(name))
}

/// Letters, digits, `_` and `-`, so many of them.
fn is_name(name: &str, chars_max: usize) -> bool {
    (1..=chars_max).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// What the provider's model is asked, as far as a script needs it.
pub struct Seen {
    /// What users said.
    pub said: String,
    pub tools: Vec<String>,
    /// Tools' results in the conversation.
    pub results: usize,
}

/// What the model answers.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// For models that reason, where they are asked to show it.
    pub thought: String,
    pub text: String,
    /// Names and arguments.
    pub calls: Vec<(String, Value)>,
}

pub type Script = Arc<dyn Fn(&Seen) -> Turn + Send + Sync>;

/// A provider with all three APIs.
pub struct Strict {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    refused: Vec<String>,
    asked: Vec<(Api, Value)>,
}

struct Shared {
    script: Script,
    log: Arc<Mutex<Log>>,
}

impl Strict {
    pub async fn start(script: Script) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let log = Arc::<Mutex<Log>>::default();
        let shared = Arc::new(Shared { script, log: log.clone() });
        let app = axum::Router::new().fallback(serve).with_state(shared);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, log }
    }

    /// What was refused, with the requests.
    pub fn refused(&self) -> Vec<String> {
        self.log.lock().expect("the log").refused.clone()
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<(Api, Value)> {
        self.log.lock().expect("the log").asked.clone()
    }
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let api = match (&method, uri.path()) {
        (&Method::POST, "/v1/chat/completions") => Api::Chat,
        (&Method::POST, "/v1/messages") => Api::Messages,
        (&Method::POST, "/v1/responses") => Api::Responses,
        _ => return (StatusCode::NOT_FOUND, "no such path").into_response(),
    };
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    shared.log.lock().expect("the log").asked.push((api, body.clone()));
    if let Err(refusal) = judge(api, &headers, &body) {
        let told = format!("{api:?}: {} {:?}\n{body}", refusal.message, refusal.param);
        shared.log.lock().expect("the log").refused.push(told);
        return (StatusCode::BAD_REQUEST, axum::Json(error(api, &refusal))).into_response();
    }
    let turn = (shared.script)(&seen(api, &body));
    if body["stream"] == true {
        let events = match api {
            Api::Chat => answers::chat_stream(&body, &turn),
            Api::Messages => answers::messages_stream(&body, &turn),
            Api::Responses => answers::responses_stream(&body, &turn),
        };
        return ([(CONTENT_TYPE, "text/event-stream; charset=utf-8")], events).into_response();
    }
    axum::Json(match api {
        Api::Chat => answers::chat(&body, &turn),
        Api::Messages => answers::message(&body, &turn),
        Api::Responses => answers::response(&body, &turn),
    })
    .into_response()
}

/// Whether the API takes a request.
pub fn judge(api: Api, headers: &HeaderMap, body: &Value) -> Checked {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let key = if api == Api::Messages { "x-api-key" } else { "authorization" };
    check(header(key).trim_start_matches("Bearer ") == KEY, || Refusal::says("Incorrect API key provided."))?;
    check(body.is_object(), || Refusal::says("We could not parse the JSON body of your request."))?;
    match api {
        Api::Chat => chat::check_body(body),
        Api::Messages => {
            anthropic::check_request(body, header("anthropic-version"), header("anthropic-beta"))
        }
        Api::Responses => responses::check_body(body),
    }
}

/// The provider's own shape of an error.
fn error(api: Api, refusal: &Refusal) -> Value {
    match api {
        Api::Messages => json!({"type": "error", "request_id": "req_strict",
            "error": {"type": "invalid_request_error", "message": refusal.message}}),
        Api::Chat | Api::Responses => {
            json!({"error": {"message": refusal.message, "type": "invalid_request_error",
            "param": refusal.param, "code": refusal.code}})
        }
    }
}

fn seen(api: Api, body: &Value) -> Seen {
    let turns = list(&body[if api == Api::Responses { "input" } else { "messages" }]);
    let is_users = |turn: &&Value| turn["role"] == "user";
    let said = turns.iter().filter(is_users).map(|turn| turn["content"].to_string());
    let said = said.chain([body["input"].as_str().unwrap_or_default().to_owned()]).collect::<String>();
    let name = |tool: &Value| {
        let name = if api == Api::Chat { &tool["function"]["name"] } else { &tool["name"] };
        text(name).to_owned()
    };
    let results = match api {
        Api::Chat => turns.iter().filter(|turn| turn["role"] == "tool").count(),
        Api::Messages => turns
            .iter()
            .flat_map(|turn| list(&turn["content"]))
            .filter(|block| block["type"] == "tool_result")
            .count(),
        Api::Responses => turns.iter().filter(|item| text(&item["type"]).ends_with("_call_output")).count(),
    };
    Seen { said, tools: list(&body["tools"]).iter().map(name).collect(), results }
}
