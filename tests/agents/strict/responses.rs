//! OpenAI's Responses: <https://platform.openai.com/docs/api-reference/responses/create>.

use super::answers::encrypted;
use super::chat::{check_labels, check_schema, one_of, reasons};
use super::{Checked, Refusal, check, is_name, list, text, unknown};
use serde_json::Value;

/// Fields of a request.
pub const FIELDS: &[&str] = &[
    "access_programs",
    "background",
    "context_management",
    "conversation",
    "image",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "model",
    "moderation",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
];
/// Values of `include`.
pub const INCLUDABLE: &[&str] = &[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
];
/// Items of the input by type, with their fields and the beginning of their ids.
const ITEMS: &[(&str, &[&str], &str)] = &[
    ("message", &["type", "id", "role", "content", "status", "phase"], "msg"),
    ("reasoning", &["type", "id", "summary", "content", "encrypted_content", "status"], "rs"),
    ("function_call", &["type", "id", "call_id", "name", "arguments", "status", "caller", "namespace"], "fc"),
    (
        "function_call_output",
        &["type", "id", "call_id", "output", "status", "caller", "name", "namespace"],
        "fc",
    ),
    ("custom_tool_call", &["type", "id", "call_id", "name", "input", "caller", "namespace"], "ctc"),
    ("custom_tool_call_output", &["type", "id", "call_id", "output", "caller"], "ctc"),
    ("item_reference", &["type", "id"], ""),
];
/// Tools by type, with the fields of those that callers run.
const TOOLS: &[(&str, Option<&[&str]>)] = &[
    (
        "function",
        Some(&[
            "type",
            "name",
            "description",
            "parameters",
            "strict",
            "allowed_callers",
            "defer_loading",
            "output_schema",
        ]),
    ),
    ("custom", Some(&["type", "name", "description", "format", "allowed_callers", "defer_loading"])),
    ("apply_patch", None),
    ("code_interpreter", None),
    ("computer_use_preview", None),
    ("file_search", None),
    ("image_generation", None),
    ("local_shell", None),
    ("mcp", None),
    ("namespace", None),
    ("shell", None),
    ("tool_search", None),
    ("web_search", None),
    ("web_search_preview", None),
];
/// Of a call's id and an item's.
const ID_CHARS_MAX: usize = 64;
const OUTPUT_TOKENS_MIN: u64 = 16;

fn unknown_parameter(param: String) -> Refusal {
    Refusal::of(&param, "unknown_parameter", format!("Unknown parameter: '{param}'."))
}

fn missing(param: String) -> Refusal {
    Refusal::of(&param, "missing_required_parameter", format!("Missing required parameter: '{param}'."))
}

/// Whether the model takes a request.
pub fn check_body(body: &Value) -> Checked {
    if let Some(name) = unknown(body, FIELDS) {
        return Err(unknown_parameter(name.to_owned()));
    }
    check(body["model"].is_string(), || missing("model".into()))?;
    let reasons = reasons(text(&body["model"]));
    check_labels(body)?;
    check(body["max_output_tokens"].as_u64().is_none_or(|tokens| tokens >= OUTPUT_TOKENS_MIN), || {
        let message = "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16.";
        Refusal::of("max_output_tokens", "integer_below_min_value", message)
    })?;
    one_of("truncation", &body["truncation"], &["auto", "disabled"])?;
    one_of("service_tier", &body["service_tier"], &["auto", "default", "flex", "scale", "priority"])?;
    for included in list(&body["include"]) {
        one_of("include", included, INCLUDABLE)?;
        check(included != "reasoning.encrypted_content" || reasons, || {
            Refusal::of("include", "invalid_value", "Encrypted content is not supported with this model.")
        })?;
    }
    check_reasoning(body, reasons)?;
    check_text(&body["text"])?;
    let tools = list(&body["tools"]);
    tools.iter().enumerate().try_for_each(|(i, tool)| check_tool(i, tool))?;
    let choice = &body["tool_choice"];
    check(choice.is_null() || choice == "auto" || choice == "none" || !tools.is_empty(), || {
        let message = "Tool choice 'required' must be specified with 'tools' parameter.";
        Refusal::of("tool_choice", "invalid_value", message)
    })?;
    if choice.is_object() {
        check(choice["type"] != "function" || choice["name"].is_string(), || {
            missing("tool_choice.name".into())
        })?;
    } else {
        one_of("tool_choice", choice, &["none", "auto", "required"])?;
    }
    check(body["previous_response_id"].is_null(), || {
        let message =
            format!("Previous response with id '{}' not found.", text(&body["previous_response_id"]));
        Refusal::of("previous_response_id", "previous_response_not_found", message)
    })?;
    match &body["input"] {
        Value::String(_) => Ok(()),
        Value::Array(items) => check_items(items, body["store"] != false),
        _ => Err(missing("input".into())),
    }
}

fn check_reasoning(body: &Value, reasons: bool) -> Checked {
    let reasoning = &body["reasoning"];
    if let Some(name) = unknown(reasoning, &["context", "effort", "generate_summary", "mode", "summary"]) {
        return Err(unknown_parameter(format!("reasoning.{name}")));
    }
    check(reasons || reasoning["effort"].is_null() && reasoning["summary"].is_null(), || {
        let message = "Unsupported parameter: 'reasoning.effort' is not supported with this model.";
        Refusal::of("reasoning.effort", "unsupported_parameter", message)
    })?;
    one_of("reasoning.effort", &reasoning["effort"], &["none", "minimal", "low", "medium", "high"])?;
    one_of("reasoning.summary", &reasoning["summary"], &["auto", "concise", "detailed"])?;
    for name in ["temperature", "top_p"] {
        check(!reasons || body[name].as_f64().is_none_or(|value| value == 1.0), || {
            let message = format!("Unsupported parameter: '{name}' is not supported with this model.");
            Refusal::of(name, "unsupported_parameter", message)
        })?;
    }
    Ok(())
}

fn check_text(value: &Value) -> Checked {
    if let Some(name) = unknown(value, &["format", "verbosity"]) {
        return Err(unknown_parameter(format!("text.{name}")));
    }
    one_of("text.verbosity", &value["verbosity"], &["low", "medium", "high"])?;
    let format = &value["format"];
    if format.is_null() {
        return Ok(());
    }
    one_of("text.format.type", &format["type"], &["text", "json_object", "json_schema"])?;
    if let Some(name) = unknown(format, &["type", "name", "schema", "strict", "description"]) {
        return Err(unknown_parameter(format!("text.format.{name}")));
    }
    check(format["type"] != "json_schema" || is_name(text(&format["name"]), 64), || {
        missing("text.format.name".into())
    })
}

fn check_tool(i: usize, tool: &Value) -> Checked {
    let at = format!("tools[{i}]");
    let kind = text(&tool["type"]);
    let Some((_, fields)) = TOOLS.iter().find(|(name, _)| *name == kind) else {
        let names: Vec<&str> = TOOLS.iter().map(|(name, _)| *name).collect();
        return one_of(&format!("{at}.type"), &tool["type"], &names).and(Err(missing(format!("{at}.type"))));
    };
    let Some(fields) = fields else { return Ok(()) };
    if let Some(name) = unknown(tool, fields) {
        return Err(unknown_parameter(format!("{at}.{name}")));
    }
    let name = text(&tool["name"]);
    check(!name.is_empty(), || missing(format!("{at}.name")))?;
    check(is_name(name, 64), || {
        let param = format!("{at}.name");
        let message = format!(
            "Invalid '{param}': string does not match pattern. Expected a string that matches the pattern \
             '^[a-zA-Z0-9_-]+$'."
        );
        Refusal::of(&param, "invalid_value", message)
    })?;
    if kind == "custom" {
        return Ok(());
    }
    let (param, schema) = (format!("{at}.parameters"), &tool["parameters"]);
    check_schema(name, &param, schema)?;
    // Strict is what a function is that says nothing.
    if tool["strict"] == false || schema.is_null() {
        return Ok(());
    }
    let refuse = |why: &str| {
        let message = format!("Invalid schema for function '{name}': In context=(), {why}");
        Refusal::of(&param, "invalid_function_parameters", message)
    };
    check(schema["additionalProperties"] == false, || {
        refuse("'additionalProperties' is required to be supplied and to be false.")
    })?;
    let properties = schema["properties"].as_object().into_iter().flat_map(|properties| properties.keys());
    let required = list(&schema["required"]);
    check(properties.into_iter().all(|name| required.iter().any(|one| one == name)), || {
        refuse("'required' is required to be supplied and to be an array including every key in properties.")
    })
}

fn check_items(items: &[Value], stored: bool) -> Checked {
    for (i, item) in items.iter().enumerate() {
        let at = format!("input[{i}]");
        let kind = item["type"].as_str().unwrap_or(if item["role"].is_string() { "message" } else { "" });
        let known = ITEMS.iter().find(|(name, ..)| *name == kind);
        let (_, fields, prefix) = known.ok_or_else(|| {
            let names: Vec<String> = ITEMS.iter().map(|(name, ..)| format!("'{name}'")).collect();
            let message = format!("Invalid value: '{kind}'. Supported values are: {}.", names.join(", "));
            Refusal::of(&format!("{at}.type"), "invalid_value", message)
        })?;
        if let Some(name) = unknown(item, fields) {
            return Err(unknown_parameter(format!("{at}.{name}")));
        }
        if let Some(id) = item["id"].as_str() {
            check(id.starts_with(prefix), || {
                let message =
                    format!("Invalid '{at}.id': '{id}'. Expected an ID that begins with '{prefix}'.");
                Refusal::of(&format!("{at}.id"), "invalid_value", message)
            })?;
        }
        for name in ["id", "call_id"] {
            let (length, param) = (text(&item[name]).len(), format!("{at}.{name}"));
            check(length <= ID_CHARS_MAX, || {
                let message = format!(
                    "Invalid '{param}': string too long. Expected a string with maximum length {ID_CHARS_MAX}, but \
                     got a string with length {length} instead."
                );
                Refusal::of(&param, "string_above_max_length", message)
            })?;
        }
        match kind {
            "message" => check_content(&at, item)?,
            "reasoning" => check_reasoning_item(items, i, stored)?,
            "function_call" | "custom_tool_call" => {
                let payload = if kind == "function_call" { "arguments" } else { "input" };
                for name in ["call_id", "name", payload] {
                    check(item[name].is_string(), || missing(format!("{at}.{name}")))?;
                }
                let answer = format!("{kind}_output");
                let answered = |later: &Value| later["type"] == answer && later["call_id"] == item["call_id"];
                check(items[i..].iter().any(answered), || {
                    let message =
                        format!("No tool output found for function call {}.", text(&item["call_id"]));
                    Refusal { param: Some("input".into()), ..Refusal::says(message) }
                })?;
            }
            "function_call_output" | "custom_tool_call_output" => {
                let call = kind.trim_end_matches("_output");
                let made = |earlier: &Value| earlier["type"] == call && earlier["call_id"] == item["call_id"];
                check(items[..i].iter().any(made), || {
                    let message = format!(
                        "No tool call found for function call output with call_id {}.",
                        text(&item["call_id"])
                    );
                    Refusal { param: Some("input".into()), ..Refusal::says(message) }
                })?;
                check(item["output"].is_string() || item["output"].is_array(), || {
                    missing(format!("{at}.output"))
                })?;
            }
            _ => return Err(not_found(text(&item["id"]))),
        }
    }
    Ok(())
}

/// Nothing is stored by these mocks; so is nothing with `store: false` by the provider.
fn not_found(id: &str) -> Refusal {
    let message = format!(
        "Item with id '{id}' not found. Items are not persisted when `store` is set to false. Try again with `store` \
         set to true, or remove this item from your input."
    );
    Refusal { param: Some("input".into()), ..Refusal::says(message) }
}

fn check_content(at: &str, item: &Value) -> Checked {
    let role = text(&item["role"]);
    one_of(&format!("{at}.role"), &role.into(), &["assistant", "system", "developer", "user"])?;
    let types: &[&str] = match role {
        "assistant" => &["output_text", "refusal"],
        _ => &["input_text", "input_image", "input_file"],
    };
    check(item["content"].is_string() || item["content"].is_array(), || missing(format!("{at}.content")))?;
    let mut parts = list(&item["content"]).iter().enumerate();
    parts.try_for_each(|(i, part)| one_of(&format!("{at}.content[{i}].type"), &part["type"], types))
}

fn check_reasoning_item(items: &[Value], i: usize, stored: bool) -> Checked {
    let (item, id) = (&items[i], text(&items[i]["id"]));
    check(item["summary"].is_array(), || missing(format!("input[{i}].summary")))?;
    let next = items[i..].iter().find(|item| item["type"] != "reasoning");
    let followed =
        next.is_some_and(|next| text(&next["type"]).ends_with("_call") || next["role"] == "assistant");
    check(followed, || {
        let message =
            format!("Item '{id}' of type 'reasoning' was provided without its required following item.");
        Refusal { param: Some("input".into()), ..Refusal::says(message) }
    })?;
    match item["encrypted_content"].as_str() {
        Some(content) => check(encrypted_by_us(content), || {
            let message = format!("The encrypted content {content} could not be verified.");
            Refusal::of("input", "invalid_encrypted_content", message)
        }),
        None if stored && id.starts_with("rs_") => Ok(()),
        None => Err(not_found(id)),
    }
}

fn encrypted_by_us(content: &str) -> bool {
    content.split_once('.').is_some_and(|(_, thought)| encrypted(thought) == content)
}
