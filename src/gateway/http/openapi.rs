//! `GET /openapi.json`: the API, described. Made from the handlers' annotations and the types that they write;
//! [`finish`] adds what holds for many operations: the schemas of requests, which the tables of fields give; the
//! base addresses that a path is served under; errors, each as its own constructor writes it.
//!
//! It describes the program, not this server: no model, key or setting is in it, nor the program's release, and it
//! is the same with every configuration. So it needs no key; the page that shows it could not send one.
//! Operations that may be off say how.
//!
//! To describe a new route: `#[utoipa::path]` over its handler, the handler in `paths` below, and in [`bases`] where
//! else it is served. A route that is not described, and a description of none, fail a test.

mod errors;
#[cfg(test)]
mod tests;

use super::{admin, docs};
use crate::gateway::api::{
    chat, completions, count_tokens, embeddings, health, infill, models, rerank, responses, score, scores,
    tokenize,
};
use crate::gateway::chat::openai::known_fields::{
    self, CHAT, EMBEDDINGS, INFILL, MESSAGES, RERANK, SCORE, TEXT,
};
use crate::gateway::chat::responses::request;
use crate::gateway::chat::shapes;
use crate::gateway::target::local::{STOP_BYTES_MAX, STOPS_MAX};
use crate::gateway::wire::error::WireError;
use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::OnceLock;
use utoipa::OpenApi;

/// The API once more, for those who know the gateway by this address.
const ROUTER: &str = "/router";
/// Anthropic's paths once more.
const ANTHROPIC: &str = "/anthropic";
/// What is asked there goes to the model or route of that name.
const TO: &str = "/to/{name}";

/// Other names of one thing: the path, the path that is described, its method, the operation's id.
const OTHER_NAMES: [(&str, &str, &str, &str); 4] = [
    ("/readyz", "/health", "get", "getReadiness"),
    ("/v2/rerank", "/v1/rerank", "post", "rerankAsCohere"),
    ("/rerank", "/v1/rerank", "post", "rerankAsVllm"),
    ("/score", "/v1/score", "post", "scoreTextsAsVllm"),
];

/// What is told of the API as a whole.
const ABOUT: &str = "One server for models of its own and of upstreams, in the formats of OpenAI and Anthropic. A \
    field that is null is the same as one that is left out. To upstreams fields pass through that are not described \
    here, and so do their answers. Where the server has keys, every request needs one, but for operations that say \
    otherwise; where it has none, it asks for none.";

#[derive(OpenApi)]
#[openapi(
    info(title = "NovaStack", description = ABOUT, version = "1"),
    paths(
        chat::completions,
        chat::messages,
        count_tokens::count_tokens,
        responses::create,
        responses::get,
        responses::delete,
        responses::input_items,
        completions::create,
        embeddings::create,
        rerank::create,
        score::create,
        scores::create,
        models::list,
        models::get,
        tokenize::tokenize,
        tokenize::detokenize,
        tokenize::info,
        infill::create,
        health::health,
        health::live,
        health::version,
        health::scrape,
        admin::usage,
        admin::export,
        admin::correction::correct,
        admin::report::report,
        admin::score,
        admin::list,
        admin::create,
        admin::change,
        admin::revoke,
        serve,
        docs::page,
        docs::file,
    ),
    // Those that only the tables of fields name, and errors.
    components(schemas(
        shapes::JsonSchema,
        shapes::openai::ChatMessage,
        shapes::openai::InfillFile,
        shapes::openai::LogitBias,
        shapes::openai::Prompt,
        shapes::openai::ReasoningSwitch,
        shapes::openai::ResponseFormat,
        shapes::openai::Stop,
        shapes::openai::StreamOptions,
        shapes::openai::StructuredOutputs,
        shapes::openai::Thinking,
        shapes::openai::Tool,
        shapes::openai::ToolChoice,
        shapes::pooled::EmbeddingsInput,
        shapes::pooled::OneOrMoreTexts,
        shapes::pooled::RerankDocument,
        shapes::anthropic::MessageParam,
        shapes::anthropic::MessagesError,
        shapes::anthropic::MessagesTool,
        shapes::anthropic::MessagesToolChoice,
        shapes::anthropic::OutputConfig,
        shapes::anthropic::SystemPrompt,
        shapes::responses::ResponseInput,
        shapes::responses::ResponseReasoning,
        shapes::responses::ResponseText,
        shapes::responses::ResponseTool,
        shapes::responses::ResponseToolChoice,
        WireError,
    )),
    tags(
        (name = "OpenAI", description = "OpenAI's formats"),
        (name = "Anthropic", description = "Anthropic's format; errors are in it too"),
        (name = "Text", description = "Tokens, and gaps in texts: models of this server only"),
        (name = "Models", description = "What may be asked"),
        (name = "Usage", description = "What callers think of answers"),
        (name = "Server", description = "How the server is"),
        (name = "Admin", description = "For the operator"),
    ),
)]
struct Described;

/// The handler.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "Server",
    operation_id = "getOpenApi",
    summary = "This description",
    description = "OpenAPI 3.1. Needs no key.",
    responses((status = 200, description = "The description", body = Object)),
)]
pub async fn serve() -> Response {
    static WRITTEN: OnceLock<Bytes> = OnceLock::new();
    let bytes = WRITTEN.get_or_init(|| document().to_string().into()).clone();
    ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

/// The description.
pub fn document() -> Value {
    let mut document = serde_json::to_value(Described::openapi()).expect("string keys only");
    finish(&mut document);
    document
}

fn finish(document: &mut Value) {
    let schemas = &mut document["components"]["schemas"];
    schemas["ChatRequest"] = known_fields::schema(CHAT);
    schemas["CompletionRequest"] = known_fields::schema(TEXT);
    schemas["MessagesRequest"] = known_fields::schema(MESSAGES);
    schemas["CountTokensRequest"] = known_fields::schema(MESSAGES);
    schemas["EmbeddingsRequest"] = known_fields::schema(EMBEDDINGS);
    schemas["RerankRequest"] = known_fields::schema(RERANK);
    schemas["ScoreRequest"] = known_fields::schema(SCORE);
    schemas["InfillRequest"] = known_fields::schema(INFILL);
    schemas["ResponsesRequest"] = request::schema();
    bound(schemas);

    // Who has a key sends it by either header.
    document["components"]["securitySchemes"] = json!({
        "bearer": {"type": "http", "scheme": "bearer", "description": "A key of this server's."},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same."},
        "adminBearer": {"type": "http", "scheme": "bearer", "description": "The admin key: `server.admin_key_env`."},
        "adminApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same."},
    });
    document["security"] = json!([{"bearer": []}, {"apiKey": []}]);

    let paths = document["paths"].as_object_mut().expect("there are paths");
    for (name, of, method, id) in OTHER_NAMES {
        let mut item = paths[of].clone();
        item[method]["operationId"] = id.into();
        item[method]["description"] = format!("The same as {of}.").into();
        paths.insert(name.into(), item);
    }
    for (path, item) in paths.iter_mut() {
        let operations = item.as_object_mut().expect("a path has operations");
        for operation in operations.values_mut() {
            if crate::gateway::ledger::auth::is_open(path) {
                operation["security"] = json!([]);
            } else if path.starts_with("/admin/") {
                operation["security"] = json!([{"adminBearer": []}, {"adminApiKey": []}]);
            }
            if let Some(body) = operation.get_mut("requestBody") {
                body["required"] = true.into();
            }
            errors::add(path, operation);
        }
        let servers = bases(path);
        if servers.len() > 1 {
            item["servers"] = servers.iter().map(|base| server(base)).collect();
        }
    }
}

/// Adds what the types' attributes have no words for.
fn bound(schemas: &mut Value) {
    // Special tokens, dimensions and columns that are not named.
    for open in ["TokenizerInfo", "UsageColumns", "Arm"] {
        schemas[open]["additionalProperties"] = true.into();
    }
    let of_id = json!({"type": "number", "minimum": -100, "maximum": 100});
    schemas["LogitBias"]["additionalProperties"] = of_id;
    schemas["LogitBias"]["propertyNames"] = json!({"pattern": "^[0-9]+$"});
    let stop = json!({"type": "string", "minLength": 1, "maxLength": STOP_BYTES_MAX});
    schemas["Stop"]["oneOf"] = json!([stop, {"type": "array", "items": stop, "maxItems": STOPS_MAX}]);
    for several in schemas["Prompt"]["oneOf"].as_array_mut().into_iter().flatten() {
        if several["type"] == "array" {
            several["minItems"] = 1.into();
        }
    }
}

/// The base addresses that a path is served under.
fn bases(path: &str) -> Vec<&'static str> {
    let mut bases = vec![""];
    let of_api =
        ["/v1/", "/v2/", "/rerank", "/score", "/tokenize", "/detokenize", "/tokenizer_info", "/infill"];
    if of_api.iter().any(|prefix| path.starts_with(prefix)) {
        bases.push(ROUTER);
    }
    if matches!(path, "/v1/messages" | "/v1/messages/count_tokens" | "/v1/scores") {
        bases.push(ANTHROPIC);
    }
    let named = [
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/v1/rerank",
        "/v2/rerank",
        "/v1/score",
    ];
    if named.contains(&path) {
        bases.push(TO);
    }
    bases
}

fn server(base: &str) -> Value {
    match base {
        "" => json!({"url": "/"}),
        TO => json!({
            "url": TO,
            "description": "To one model or route, whatever the body says.",
            "variables": {"name": {"default": "auto", "description": "Its name."}},
        }),
        base => json!({"url": base, "description": "The same."}),
    }
}
