//! What agents need of a local model: tools, reasoning and structured output in every format that they speak, with
//! scripts that say what each family's model writes ([`scripted`]).

mod clients;
mod constrained;
mod families;
mod programs;
pub mod scripted;
mod sdks;
mod strict;
mod through;
mod upstreams;

use crate::text::{family_file, read_json};
use novastack::checkpoint::TokenizerSource;
use novastack::text::{ChatTemplate, Tokenizer};
use serde_json::{Value, json};
use std::sync::Arc;

/// A family's own tokenizer and template; None where they are not there.
fn family(name: &str) -> Option<(Arc<Tokenizer>, ChatTemplate)> {
    let file = family_file(name, "tokenizer.json")?;
    let config = read_json(&family_file(name, "tokenizer_config.json")?);
    let tokenizer = Tokenizer::from_source(&TokenizerSource::Json(file), &config).expect("a tokenizer");
    let template = ChatTemplate::new(config["chat_template"].as_str().expect("a template"), &config);
    Some((Arc::new(tokenizer), template.expect("a template")))
}

/// Two tools, in OpenAI's form.
fn tools() -> Value {
    let parameters = json!({"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}}});
    json!([
        {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": parameters}},
        {"type": "function", "function": {"name": "get_time", "description": "The time.",
            "parameters": {"type": "object", "properties": {}}}},
    ])
}

async fn post(url: &str, path: &str, body: &Value) -> (u16, String) {
    let answer =
        crate::support::client().post(format!("{url}{path}")).json(body).send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a text"))
}

/// The data of a stream's frames but the last.
fn frames(stream: &str) -> Vec<Value> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).expect("JSON")).collect()
}
