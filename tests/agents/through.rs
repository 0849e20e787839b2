//! Agents' own programs through the gateway to providers that keep strictly to their published limits, in each
//! provider's format: what an agent sends arrives as what the provider takes, and its answers as what the agent reads.

use super::programs::{
    Agent, CLAUDE_CODE, CODEX, CONTINUE, DONE, OPENCODE, QWEN_CODE, check_requests, workplace,
};
use super::strict::{Api, Script, Strict, Turn};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// What a provider's model answers, by how many results it has seen.
fn script(folder: PathBuf, agent: &'static Agent) -> Script {
    Arc::new(move |seen| {
        if !seen.said.contains("Task 7F3A") || seen.tools.is_empty() {
            return Turn { text: "Two files".into(), ..Turn::default() };
        }
        let Some((text, calls)) = agent.step(seen.results, &folder) else {
            return Turn { thought: "That was it.".into(), text: DONE.into(), calls: Vec::new() };
        };
        Turn { thought: "What is next?".into(), text: text.into(), calls }
    })
}

/// The providers' models, and what the configuration says of them.
const CHAT: (Api, &str) = (Api::Chat, "provider: chat, upstream_name: gpt-5.1");
const CHAT_PLAIN: (Api, &str) = (
    Api::Chat,
    "provider: chat, upstream_name: gpt-4.1, max_output_tokens: 32768, capabilities: [tools, images]",
);
const MESSAGES: (Api, &str) =
    (Api::Messages, "provider: messages, upstream_name: claude-sonnet-4-5, max_output_tokens: 64000");
const MESSAGES_ADAPTIVE: (Api, &str) = (Api::Messages, "provider: messages, upstream_name: claude-opus-4-8");
const RESPONSES: (Api, &str) = (Api::Responses, "provider: responses, upstream_name: gpt-5.1");

/// The three of them, at one address.
fn providers(url: &str) -> String {
    let key = "api_key_env: TEST_OPENAI_KEY";
    format!(
        "providers:\n  chat: {{ preset: openai, base_url: {url}/v1, {key} }}\n  messages: {{ preset: anthropic, base_url: \
         {url}, {key} }}\n  responses: {{ format: responses, base_url: {url}/v1, {key} }}\n"
    )
}

async fn reaches(agent: &'static Agent, (api, model): (Api, &str)) {
    let Some(program) = agent.program() else { return };
    let folder = workplace();
    let strict = Strict::start(script(folder.path().join("work"), agent)).await;
    let config = format!("{}models:\n  m: {{ {model} }}\ndefault_model: m\n", providers(&strict.url));
    let gateway = crate::gateway::start(&config, &[]);
    let told = agent.run(program, &gateway.server.url, folder.path()).await;
    assert_eq!(strict.refused(), [""; 0], "{model}: {told}");
    check_requests(&gateway.server.url, &told).await;
    let asked = strict.asked();
    assert!(asked.len() >= 4 && asked.iter().all(|(one, _)| *one == api), "{}", asked.len());
}

macro_rules! runs {
    ($($name:ident: $agent:ident to $model:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            reaches(&$agent, $model).await;
        }
    )*};
}

runs! {
    claude_code_reaches_chat_completions: CLAUDE_CODE to CHAT,
    claude_code_reaches_a_model_that_does_not_reason: CLAUDE_CODE to CHAT_PLAIN,
    claude_code_reaches_messages: CLAUDE_CODE to MESSAGES,
    claude_code_reaches_a_model_that_adapts: CLAUDE_CODE to MESSAGES_ADAPTIVE,
    claude_code_reaches_responses: CLAUDE_CODE to RESPONSES,
    codex_reaches_chat_completions: CODEX to CHAT,
    codex_reaches_messages: CODEX to MESSAGES,
    codex_reaches_a_model_that_adapts: CODEX to MESSAGES_ADAPTIVE,
    codex_reaches_responses: CODEX to RESPONSES,
    continue_reaches_chat_completions: CONTINUE to CHAT,
    continue_reaches_messages: CONTINUE to MESSAGES,
    continue_reaches_responses: CONTINUE to RESPONSES,
    opencode_reaches_chat_completions: OPENCODE to CHAT,
    opencode_reaches_messages: OPENCODE to MESSAGES,
    opencode_reaches_responses: OPENCODE to RESPONSES,
    qwen_code_reaches_chat_completions: QWEN_CODE to CHAT,
    qwen_code_reaches_a_model_that_does_not_reason: QWEN_CODE to CHAT_PLAIN,
    qwen_code_reaches_messages: QWEN_CODE to MESSAGES,
    qwen_code_reaches_responses: QWEN_CODE to RESPONSES,
}

/// What callers of each format write that another provider takes otherwise.
fn odd_requests() -> Vec<(&'static str, &'static str, Value)> {
    let long_id = "call_".to_owned() + &"x".repeat(59);
    let nothing = json!({"type": "object"});
    let call = |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": ""}});
    let function = |name: &str| json!({"type": "function", "function": {"name": name}});
    let long_name = "mcp__files__".to_owned() + &"x".repeat(70);
    vec![
        (
            "ids and names of other models",
            "/v1/chat/completions",
            json!({"user": "u".repeat(70), "max_tokens": 3000, "tools": [function("files.read"), function(&long_name)],
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Read."},
                {"role": "assistant", "content": "", "tool_calls": [call(&long_id, &long_name), call("functions.files.read:1", "files.read")]},
                {"role": "tool", "tool_call_id": long_id, "content": ""},
                {"role": "tool", "tool_call_id": "functions.files.read:1", "content": "b"},
                {"role": "system", "content": "Be briefer."},
                {"role": "user", "content": " "},
                {"role": "user", "content": "Go on."},
            ]}),
        ),
        (
            "an effort, and a history that begins with an answer",
            "/v1/chat/completions",
            json!({"max_completion_tokens": 3000, "reasoning_effort": "low", "messages": [
                {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Think."}]}),
        ),
        (
            "tools without parameters, marks for a cache, a long name of a user",
            "/v1/messages",
            json!({"max_tokens": 4000, "metadata": {"user_id": "u".repeat(200)}, "service_tier": "auto",
            "thinking": {"type": "enabled", "budget_tokens": 2000},
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "tools": [{"name": "now", "description": "The time.", "input_schema": nothing},
                {"name": "list", "input_schema": {"type": "object", "properties": {"all": {"type": "array"}}}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Now?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "functions.now:0", "name": "now", "input": {}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "functions.now:0", "is_error": true, "content": []},
                    {"type": "text", "text": "Try again."}]},
            ]}),
        ),
        (
            "no tools, and a choice among none",
            "/v1/responses",
            json!({"tools": [], "tool_choice": "auto", "parallel_tool_calls": true, "store": false, "input": "Hello."}),
        ),
        (
            "a custom tool, and reasoning that another has encrypted",
            "/v1/responses",
            json!({"store": false, "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low", "summary": "auto"},
            "tools": [{"type": "function", "name": "now", "parameters": nothing, "strict": false},
                {"type": "custom", "name": "apply_patch", "description": "Applies a patch."}],
            "input": [
                {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
                {"role": "user", "content": "Now?"},
                {"type": "reasoning", "id": "rs_9", "summary": []},
                {"type": "function_call", "call_id": long_id, "name": "now", "arguments": "{}"},
                {"type": "function_call_output", "call_id": long_id, "output": ""},
            ]}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_every_format_arrive_as_every_provider_takes_them() {
    let script: Script = Arc::new(|_| Turn { thought: "Hm.".into(), text: DONE.into(), calls: Vec::new() });
    let strict = Strict::start(script).await;
    let models = [CHAT, MESSAGES, MESSAGES_ADAPTIVE, RESPONSES];
    let rows = models.iter().enumerate().map(|(i, (_, model))| format!("  m{i}: {{ {model} }}\n"));
    let config = format!("{}models:\n{}", providers(&strict.url), rows.collect::<String>());
    let gateway = crate::gateway::start(&config, &[]);
    let mut failed = Vec::new();
    for (what, path, body) in odd_requests() {
        for (i, (_, model)) in models.iter().enumerate() {
            for stream in [false, true] {
                let mut body = body.clone();
                body["model"] = format!("m{i}").into();
                body["stream"] = stream.into();
                let answer = gateway.post(path, &[], &body).await;
                if answer.status != 200 || !answer.text.contains("gamma") {
                    failed
                        .push(format!("{what}, {model}, stream {stream}: {} {}", answer.status, answer.text));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}\n{}", failed.join("\n"), strict.refused().join("\n"));
    assert_eq!(strict.refused(), [""; 0]);
}
