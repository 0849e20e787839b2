//! Anthropic's messages: <https://platform.claude.com/docs/en/api/messages>. Users' or the assistant's turns that
//! follow each other are one turn there, as its documentation says.

use super::answers::signature;
use super::{Checked, Refusal, check, is_name, list, text, unknown};
use serde_json::Value;

/// Fields of a request.
pub const FIELDS: &[&str] = &[
    "cache_control",
    "container",
    "diagnostics",
    "inference_geo",
    "max_tokens",
    "messages",
    "metadata",
    "model",
    "output_config",
    "service_tier",
    "speed",
    "stop_sequences",
    "stream",
    "system",
    "temperature",
    "thinking",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
    "user_profile_id",
    "workspace_id",
];
/// Fields that a beta brings, with the beginning of its name.
pub const BETA_FIELDS: &[(&str, &str)] = &[
    ("compaction", "compact-"),
    ("context_management", "context-management-"),
    ("fallback_credit_token", "fallback-credit-"),
    ("fallbacks", "server-side-fallback-"),
    ("mcp_servers", "mcp-client-"),
    ("thread", "message-threads-"),
];
/// Betas by the beginnings of their names; a date follows.
const BETAS: &[&str] = &[
    "advanced-tool-use-",
    "advisor-tool-",
    "cache-diagnosis-",
    "claude-code-",
    "code-execution-",
    "compact-",
    "computer-use-",
    "context-1m-",
    "context-management-",
    "dev-full-thinking-",
    "effort-",
    "extended-cache-ttl-",
    "fallback-credit-",
    "fast-mode-",
    "files-api-",
    "fine-grained-tool-streaming-",
    "interleaved-thinking-",
    "mcp-client-",
    "mid-conversation-",
    "output-128k-",
    "output-300k-",
    "pdfs-",
    "per-turn-control-",
    "prompt-caching-",
    "redact-thinking-",
    "server-side-fallback-",
    "skills-",
    "structured-outputs-",
    "task-budgets-",
    "thinking-",
    "token-counting-",
    "token-efficient-tools-",
    "tool-search-tool-",
    "web-fetch-",
];
const BLOCKS: &[(&str, &[&str])] = &[
    ("text", &["type", "text", "cache_control", "citations"]),
    ("image", &["type", "source", "cache_control", "transformations"]),
    ("document", &["type", "source", "cache_control", "citations", "context", "title"]),
    ("thinking", &["type", "thinking", "signature"]),
    ("redacted_thinking", &["type", "data"]),
    ("tool_use", &["type", "id", "name", "input", "cache_control", "caller", "toolset_name"]),
    ("tool_result", &["type", "tool_use_id", "content", "is_error", "cache_control", "toolset_name"]),
    ("search_result", &["type", "source", "title", "content", "cache_control", "citations"]),
];
const TOOL_FIELDS: &[&str] = &[
    "allowed_callers",
    "cache_control",
    "defer_loading",
    "description",
    "eager_input_streaming",
    "input_examples",
    "input_schema",
    "name",
    "strict",
    "type",
];
const BUDGET_MIN: u64 = 1024;
const CACHE_MARKS_MAX: usize = 4;
const TOOL_NAME_CHARS_MAX: usize = 128;

/// What a model takes (<https://platform.claude.com/docs/en/about-claude/models/overview>).
struct Model {
    output_tokens_max: u64,
    budget: bool,
    adaptive: bool,
    efforts: &'static [&'static str],
    late_system: bool,
}

fn model(name: &str) -> Model {
    let none =
        Model { output_tokens_max: 64_000, budget: true, adaptive: false, efforts: &[], late_system: false };
    match name {
        name if name.starts_with("claude-3-5") => Model { output_tokens_max: 8192, budget: false, ..none },
        name if name.starts_with("claude-opus-4-5") => Model { efforts: &["low", "medium", "high"], ..none },
        name if name.contains("-4-6") => {
            Model { adaptive: true, efforts: &["low", "medium", "high", "max"], ..none }
        }
        name if name.starts_with("claude-opus-4-8") => Model {
            output_tokens_max: 128_000,
            budget: false,
            adaptive: true,
            efforts: &["low", "medium", "high", "xhigh", "max"],
            late_system: true,
        },
        _ => none,
    }
}

fn extra(path: &str) -> Refusal {
    Refusal::says(format!("{path}: Extra inputs are not permitted"))
}

/// Whether the model takes a request.
pub fn check_request(body: &Value, version: &str, betas: &str) -> Checked {
    check(version == "2023-06-01", || Refusal::says("anthropic-version: header is required"))?;
    let betas: Vec<&str> = betas.split(',').map(str::trim).filter(|beta| !beta.is_empty()).collect();
    for beta in &betas {
        check(BETAS.iter().any(|known| beta.starts_with(known)), || {
            Refusal::says(format!(
                "Unexpected value(s) `{beta}` for the `anthropic-beta` header. Please consult our documentation at \
                 docs.claude.com or try again without the header."
            ))
        })?;
    }
    for name in body.as_object().into_iter().flat_map(|body| body.keys()) {
        let with_beta = BETA_FIELDS.iter().find(|(field, _)| field == name);
        let known = FIELDS.contains(&name.as_str())
            || with_beta.is_some_and(|(_, beta)| betas.iter().any(|given| given.starts_with(beta)));
        check(known, || extra(name))?;
    }
    let model_name = text(&body["model"]);
    let model = model(model_name);
    let bound = body["max_tokens"].as_u64().ok_or_else(|| Refusal::says("max_tokens: Field required"))?;
    check(bound >= 1, || Refusal::says("max_tokens: Input should be greater than or equal to 1"))?;
    check(bound <= model.output_tokens_max, || {
        let most = model.output_tokens_max;
        Refusal::says(format!(
            "max_tokens: {bound} > {most}, which is the maximum allowed number of output tokens for {model_name}"
        ))
    })?;
    check_sampling(body)?;
    check_thinking(body, &model, bound)?;
    check_tools(body)?;
    if let Some(name) = unknown(&body["metadata"], &["user_id"]) {
        return Err(extra(&format!("metadata.{name}")));
    }
    check(text(&body["metadata"]["user_id"]).chars().count() <= 256, || {
        Refusal::says("metadata.user_id: String should have at most 256 characters")
    })?;
    for stop in list(&body["stop_sequences"]) {
        check(!text(stop).trim().is_empty(), || {
            Refusal::says("stop_sequences: each stop sequence must contain non-whitespace")
        })?;
    }
    for (i, block) in list(&body["system"]).iter().enumerate() {
        check_block(&format!("system.{i}"), block, &["text"])?;
    }
    let marks = marks(body);
    check(marks <= CACHE_MARKS_MAX, || {
        Refusal::says(format!("A maximum of 4 blocks with cache_control may be provided. Found {marks}."))
    })?;
    let per_turn = betas.iter().any(|beta| {
        ["per-turn-control-", "mid-conversation-output-config-"].iter().any(|name| beta.starts_with(name))
    });
    check_messages(body, &model, per_turn)
}

/// Blocks and tools with `cache_control`.
fn marks(body: &Value) -> usize {
    let blocks = |content: &Value| {
        let own = list(content).iter().filter(|block| block.get("cache_control").is_some()).count();
        let within = list(content).iter().flat_map(|block| list(&block["content"]));
        own + within.filter(|block| block.get("cache_control").is_some()).count()
    };
    let messages = list(&body["messages"]).iter().map(|message| blocks(&message["content"]));
    blocks(&body["system"]) + blocks(&body["tools"]) + messages.sum::<usize>()
}

fn check_sampling(body: &Value) -> Checked {
    for name in ["temperature", "top_p"] {
        check(body[name].as_f64().is_none_or(|value| (0.0..=1.0).contains(&value)), || {
            Refusal::says(format!("{name}: range: 0..1"))
        })?;
    }
    check(body["temperature"].is_null() || body["top_p"].is_null(), || {
        Refusal::says(
            "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
        )
    })
}

fn check_thinking(body: &Value, model: &Model, bound: u64) -> Checked {
    let (thinking, effort) = (&body["thinking"], &body["output_config"]["effort"]);
    check(effort.is_null() || !model.efforts.is_empty(), || {
        Refusal::says("This model does not support the effort parameter.")
    })?;
    check(effort.is_null() || model.efforts.contains(&text(effort)), || {
        Refusal::says(format!("output_config.effort: Input should be one of {:?}", model.efforts))
    })?;
    let on = match text(&thinking["type"]) {
        "" if thinking.is_null() => false,
        "disabled" => false,
        "enabled" => {
            check(model.budget, || {
                Refusal::says(
                    "\"thinking.type.enabled\" is not supported for this model. Use \"thinking.type.adaptive\" and \
                     \"output_config.effort\" to control thinking behavior.",
                )
            })?;
            let budget = thinking["budget_tokens"]
                .as_u64()
                .ok_or_else(|| Refusal::says("thinking.enabled.budget_tokens: Field required"))?;
            check(budget >= BUDGET_MIN, || {
                Refusal::says("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
            })?;
            check(budget < bound, || {
                Refusal::says("`max_tokens` must be greater than `thinking.budget_tokens`.")
            })?;
            true
        }
        "adaptive" => {
            check(model.adaptive, || Refusal::says("adaptive thinking is not supported on this model"))?;
            check(thinking.get("budget_tokens").is_none(), || extra("thinking.adaptive.budget_tokens"))?;
            true
        }
        other => {
            return Err(Refusal::says(format!(
                "thinking: Input tag '{other}' found using 'type' does not match any of the expected tags: \
                 'adaptive', 'disabled', 'enabled'"
            )));
        }
    };
    let clears = list(&body["context_management"]["edits"])
        .iter()
        .any(|edit| text(&edit["type"]).starts_with("clear_thinking"));
    check(on || !clears, || {
        Refusal::says("`clear_thinking_20251015` strategy requires `thinking` to be enabled or adaptive")
    })?;
    if !on {
        return Ok(());
    }
    check(body["temperature"].as_f64().is_none_or(|value| value == 1.0), || {
        Refusal::says("`temperature` may only be set to 1 when thinking is enabled.")
    })?;
    check(body["top_p"].as_f64().is_none_or(|value| value >= 0.95), || {
        Refusal::says("`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled.")
    })?;
    check(body["top_k"].is_null(), || Refusal::says("`top_k` must be unset when thinking is enabled."))?;
    check(!["any", "tool"].contains(&text(&body["tool_choice"]["type"])), || {
        Refusal::says("Thinking may not be enabled when tool_choice forces tool use.")
    })
}

fn check_tools(body: &Value) -> Checked {
    let tools = list(&body["tools"]);
    let mut names = Vec::new();
    for (i, tool) in tools.iter().enumerate() {
        if tool["type"].as_str().is_some_and(|kind| kind != "custom") {
            continue;
        }
        if let Some(name) = unknown(tool, TOOL_FIELDS) {
            return Err(extra(&format!("tools.{i}.custom.{name}")));
        }
        let name = text(&tool["name"]);
        check(is_name(name, TOOL_NAME_CHARS_MAX), || {
            Refusal::says(format!(
                "tools.{i}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
            ))
        })?;
        check(!names.contains(&name), || Refusal::says("tools: Tool names must be unique."))?;
        names.push(name);
        let schema = &tool["input_schema"];
        check(schema["type"] == "object", || {
            Refusal::says(format!("tools.{i}.custom.input_schema.type: Field required"))
        })?;
        check(["oneOf", "allOf", "anyOf"].iter().all(|word| schema.get(*word).is_none()), || {
            Refusal::says(format!(
                "tools.{i}.custom.input_schema: input_schema does not support oneOf, allOf, or anyOf at the top level"
            ))
        })?;
    }
    let choice = &body["tool_choice"];
    check(choice.is_null() || !tools.is_empty(), || {
        Refusal::says("tool_choice: may only be specified while providing tools.")
    })?;
    check(choice.is_null() || ["auto", "any", "tool", "none"].contains(&text(&choice["type"])), || {
        Refusal::says("tool_choice: Input tag found using 'type' does not match any of the expected tags")
    })?;
    check(choice["type"] != "tool" || names.contains(&text(&choice["name"])), || {
        Refusal::says(format!("Tool '{}' not found in provided tools", text(&choice["name"])))
    })
}

fn check_block(at: &str, block: &Value, types: &[&str]) -> Checked {
    let kind = text(&block["type"]);
    let fields = BLOCKS.iter().find(|(name, _)| *name == kind && types.contains(name));
    let (_, fields) = fields.ok_or_else(|| {
        Refusal::says(format!(
            "{at}: Input tag '{kind}' found using 'type' does not match any of the expected tags"
        ))
    })?;
    if let Some(name) = unknown(block, fields) {
        return Err(extra(&format!("{at}.{kind}.{name}")));
    }
    match kind {
        "text" => {
            check(!text(&block["text"]).is_empty(), || {
                Refusal::says(format!("{at}: text content blocks must be non-empty"))
            })?;
            check(!text(&block["text"]).trim().is_empty(), || {
                Refusal::says(format!("{at}: text content blocks must contain non-whitespace text"))
            })
        }
        "thinking" => {
            let given = block["signature"]
                .as_str()
                .ok_or_else(|| Refusal::says(format!("{at}.thinking.signature: Field required")))?;
            check(given == signature(text(&block["thinking"])), || {
                Refusal::says(format!("{at}: Invalid `signature` in `thinking` block"))
            })
        }
        "tool_use" => {
            check(is_name(text(&block["id"]), 1000), || {
                Refusal::says(format!("{at}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"))
            })?;
            check(is_name(text(&block["name"]), TOOL_NAME_CHARS_MAX), || {
                Refusal::says(format!(
                    "{at}.tool_use.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
                ))
            })?;
            check(block["input"].is_object(), || {
                Refusal::says(format!("{at}.tool_use.input: Input should be a valid dictionary"))
            })
        }
        "tool_result" => {
            let types = &["text", "image", "document", "search_result"];
            let mut inner = list(&block["content"]).iter().enumerate();
            inner.try_for_each(|(i, part)| check_block(&format!("{at}.content.{i}"), part, types))
        }
        _ => Ok(()),
    }
}

/// A turn: its role and blocks.
type Turn<'a> = (&'a str, Vec<&'a Value>);

fn check_messages(body: &Value, model: &Model, per_turn: bool) -> Checked {
    let messages = list(&body["messages"]);
    check(!messages.is_empty(), || Refusal::says("messages: at least one message is required"))?;
    let mut turns: Vec<Turn> = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        let role = text(&message["role"]);
        check(role != "system" || model.late_system, || {
            Refusal::says(
                "messages: Unexpected role \"system\". The Messages API accepts a top-level `system` parameter, not \
                 \"system\" as an input message role.",
            )
        })?;
        check(["user", "assistant", "system"].contains(&role), || {
            Refusal::says(format!("messages.{i}.role: Input should be 'user' or 'assistant'"))
        })?;
        let own: &[&str] = if role == "system" && per_turn { &["output_config"] } else { &[] };
        if let Some(name) = unknown(message, &[&["role", "content"], own].concat()) {
            return Err(extra(&format!("messages.{i}.{name}")));
        }
        let is_last_answer = role == "assistant" && i + 1 == messages.len();
        let content = &message["content"];
        check(
            is_last_answer || content.as_str() != Some("") && content != &Value::Array(Vec::new()),
            || {
                Refusal::says(format!(
                    "messages.{i}: all messages must have non-empty content except for the optional final assistant \
                 message"
                ))
            },
        )?;
        let types: &[&str] = match role {
            "assistant" => &["text", "thinking", "redacted_thinking", "tool_use"],
            "user" => &["text", "image", "document", "tool_result", "search_result"],
            _ => &["text"],
        };
        for (j, block) in list(content).iter().enumerate() {
            check_block(&format!("messages.{i}.content.{j}"), block, types)?;
        }
        let role = if role == "assistant" { role } else { "user" };
        match turns.last_mut() {
            Some((last, blocks)) if *last == role => blocks.extend(list(content)),
            _ => turns.push((role, list(content).iter().collect())),
        }
    }
    check(turns[0].0 == "user", || Refusal::says("messages: first message must use the \"user\" role"))?;
    check_pairs(&turns)?;
    // With a budget, the last answer of a run of calls begins with its thinking.
    let last = turns.iter().rfind(|(role, _)| *role == "assistant").map(|(_, blocks)| blocks.as_slice());
    let last = last.filter(|blocks| blocks.iter().any(|block| block["type"] == "tool_use"));
    let begins = last
        .and_then(|blocks| blocks.first())
        .is_none_or(|first| ["thinking", "redacted_thinking"].contains(&text(&first["type"])));
    check(begins || body["thinking"]["type"] != "enabled", || {
        Refusal::says(
            "messages: Expected `thinking` or `redacted_thinking`, but found `tool_use`. When `thinking` is enabled, a \
             final `assistant` message must start with a thinking block (preceeding the lastmost set of `tool_use` \
             and `tool_result` blocks).",
        )
    })
}

/// Each call has its result at the beginning of the next turn.
fn check_pairs(turns: &[Turn]) -> Checked {
    for (i, (_, blocks)) in turns.iter().enumerate() {
        let ids = |turn: Option<&Turn>, kind: &str, name: &str| -> Vec<String> {
            let blocks = turn.into_iter().flat_map(|(_, blocks)| blocks);
            blocks.filter(|block| block["type"] == kind).map(|block| text(&block[name]).to_owned()).collect()
        };
        let called = ids(i.checked_sub(1).and_then(|i| turns.get(i)), "tool_use", "id");
        let answered = ids(Some(&turns[i]), "tool_result", "tool_use_id");
        for id in &answered {
            check(called.contains(id), || {
                Refusal::says(format!(
                    "messages.{i}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` \
                     block must have a corresponding `tool_use` block in the previous message."
                ))
            })?;
        }
        let own = ids(Some(&turns[i]), "tool_use", "id");
        let unique = own.iter().enumerate().all(|(i, id)| !own[..i].contains(id));
        check(unique, || Refusal::says(format!("messages.{i}: `tool_use` ids must be unique")))?;
        let next = ids(turns.get(i + 1), "tool_result", "tool_use_id");
        for id in &own {
            check(next.contains(id), || {
                Refusal::says(format!(
                    "messages.{i}: `tool_use` ids were found without `tool_result` blocks immediately after: {id}. \
                     Each `tool_use` block must have a corresponding `tool_result` block in the next message."
                ))
            })?;
        }
        let results = blocks.iter().take_while(|block| block["type"] == "tool_result").count();
        check(called.is_empty() || results == answered.len(), || {
            Refusal::says(format!(
                "messages.{i}: tool_result blocks must come FIRST in the content array; any text must come after all \
                 tool results."
            ))
        })?;
    }
    Ok(())
}
