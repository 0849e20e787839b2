//! OpenAI's chat completions: <https://platform.openai.com/docs/api-reference/chat/create>.

use super::{Checked, Refusal, check, is_name, list, text, unknown};
use serde_json::Value;

/// Fields of a request.
pub const FIELDS: &[&str] = &[
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "modalities",
    "model",
    "moderation",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
];
/// Fields of messages by role.
pub const MESSAGE_FIELDS: &[(&str, &[&str])] = &[
    ("system", &["content", "role", "name"]),
    ("developer", &["content", "role", "name"]),
    ("user", &["content", "role", "name"]),
    ("assistant", &["role", "audio", "content", "function_call", "name", "refusal", "tool_calls"]),
    ("tool", &["content", "role", "tool_call_id"]),
];
const TOOLS_MAX: usize = 128;
const STOP_MAX: usize = 4;
/// Of `user` and its kin, and of a tool's name.
const NAME_CHARS_MAX: usize = 64;
const CALL_ID_CHARS_MAX: usize = 40;

/// Models that reason: they take no sampling and one name for the bound.
pub fn reasons(model: &str) -> bool {
    !["gpt-4", "gpt-3", "chatgpt-4"].iter().any(|old| model.starts_with(old))
}

fn too_long(param: &str, max: usize, length: usize) -> Refusal {
    let message = format!(
        "Invalid '{param}': string too long. Expected a string with maximum length {max}, but got a string with \
         length {length} instead."
    );
    Refusal::of(param, "string_above_max_length", message)
}

fn array_too_long(param: &str, max: usize, length: usize) -> Refusal {
    let message = format!(
        "Invalid '{param}': array too long. Expected an array with maximum length {max}, but got an array with \
         length {length} instead."
    );
    Refusal::of(param, "array_above_max_length", message)
}

fn empty(param: &str) -> Refusal {
    let message = format!(
        "Invalid '{param}': empty array. Expected an array with minimum length 1, but got an empty array instead."
    );
    Refusal::of(param, "empty_array", message)
}

fn unsupported(param: &str) -> Refusal {
    let message = format!("Unsupported parameter: '{param}' is not supported with this model.");
    Refusal::of(param, "unsupported_parameter", message)
}

/// One of these words.
pub fn one_of(param: &str, value: &Value, words: &[&str]) -> Checked {
    let known = value.is_null() || value.as_str().is_some_and(|word| words.contains(&word));
    check(known, || {
        let words = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ");
        let message = format!("Invalid value: {value}. Supported values are: {words}.");
        Refusal::of(param, "invalid_value", message)
    })
}

/// Strings that both of OpenAI's APIs bound, and metadata.
pub fn check_labels(body: &Value) -> Checked {
    for name in ["user", "safety_identifier", "prompt_cache_key"] {
        let chars = text(&body[name]).chars().count();
        check(chars <= NAME_CHARS_MAX, || too_long(name, NAME_CHARS_MAX, chars))?;
    }
    let Some(metadata) = body["metadata"].as_object() else { return Ok(()) };
    check(metadata.len() <= 16, || {
        let message =
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties.";
        Refusal::of("metadata", "object_above_max_properties", message)
    })?;
    for (name, value) in metadata {
        let param = format!("metadata.{name}");
        check(name.chars().count() <= 64, || too_long(&param, 64, name.len()))?;
        let message = format!("Invalid type for '{param}': expected a string.");
        let value = value.as_str().ok_or_else(|| Refusal::of(&param, "invalid_type", message))?;
        check(value.chars().count() <= 512, || too_long(&param, 512, value.len()))?;
    }
    Ok(())
}

/// A function's JSON schema, at its outside and in the places that are known to fail.
pub fn check_schema(name: &str, param: &str, schema: &Value) -> Checked {
    let refuse = |why: String| {
        let message = format!("Invalid schema for function '{name}': {why}");
        Refusal::of(param, "invalid_function_parameters", message)
    };
    if schema.is_null() {
        return Ok(());
    }
    check(schema["type"] == "object", || {
        let kind = schema["type"].as_str().unwrap_or("None");
        refuse(format!("schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."))
    })?;
    for word in ["oneOf", "anyOf", "allOf", "enum", "not"] {
        check(schema.get(word).is_none(), || {
            refuse("schema must have type 'object' and not have 'oneOf'/'anyOf'/'allOf'/'enum'/'not' at the top \
                    level."
                .into())
        })?;
    }
    check(schema["properties"].is_object(), || {
        refuse("In context=(), object schema missing properties.".into())
    })?;
    fn arrays_have_items(schema: &Value) -> Result<(), String> {
        match schema {
            Value::Object(fields) => {
                if fields.get("type").is_some_and(|kind| kind == "array") && !fields.contains_key("items") {
                    return Err("array schema missing items.".into());
                }
                fields.values().try_for_each(arrays_have_items)
            }
            Value::Array(all) => all.iter().try_for_each(arrays_have_items),
            _ => Ok(()),
        }
    }
    arrays_have_items(&schema["properties"]).map_err(refuse)
}

/// Whether the model takes a request.
pub fn check_body(body: &Value) -> Checked {
    if let Some(name) = unknown(body, FIELDS) {
        return Err(Refusal::says(format!("Unrecognized request argument supplied: {name}")));
    }
    for name in ["model", "messages"] {
        check(!body[name].is_null(), || {
            let message = format!("Missing required parameter: '{name}'.");
            Refusal::of(name, "missing_required_parameter", message)
        })?;
    }
    let reasons = reasons(text(&body["model"]));
    check_bounds(body, reasons)?;
    check_labels(body)?;
    let tools = list(&body["tools"]);
    check(!(body["tools"].is_array() && tools.is_empty()), || empty("tools"))?;
    check(tools.len() <= TOOLS_MAX, || array_too_long("tools", TOOLS_MAX, tools.len()))?;
    tools.iter().enumerate().try_for_each(|(i, tool)| check_tool(i, tool))?;
    for name in ["tool_choice", "parallel_tool_calls"] {
        check(body[name].is_null() || !tools.is_empty(), || {
            let message =
                format!("Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified.");
            Refusal::of(name, "invalid_value", message)
        })?;
    }
    if !body["tool_choice"].is_object() {
        one_of("tool_choice", &body["tool_choice"], &["none", "auto", "required"])?;
    }
    check(body["stream_options"].is_null() || body["stream"] == true, || {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        Refusal::of("stream_options", "invalid_value", message)
    })?;
    if let Some(name) = unknown(&body["stream_options"], &["include_usage", "include_obfuscation"]) {
        return Err(Refusal::says(format!("Unknown parameter: 'stream_options.{name}'.")));
    }
    check_format(body)?;
    check_messages(list(&body["messages"]))
}

fn check_bounds(body: &Value, reasons: bool) -> Checked {
    check(body["max_tokens"].is_null() || body["max_completion_tokens"].is_null(), || {
        Refusal::says("Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
    })?;
    for name in ["max_tokens", "max_completion_tokens"] {
        let most = if reasons { 128_000 } else { 32_768 };
        check(body[name].as_u64().is_none_or(|tokens| (1..=most).contains(&tokens)), || {
            let message = format!(
                "{name} is too large: {}. This model supports at most {most} completion tokens.",
                body[name]
            );
            Refusal::of(name, "invalid_value", message)
        })?;
    }
    let between = |name: &str, low: f64, high: f64| {
        let value = body[name].as_f64();
        check(value.is_none_or(|value| (low..=high).contains(&value)), || {
            let message = format!("Invalid '{name}': expected a value between {low} and {high}.");
            Refusal::of(name, "decimal_out_of_range", message)
        })
    };
    between("temperature", 0.0, 2.0)?;
    between("top_p", 0.0, 1.0)?;
    between("frequency_penalty", -2.0, 2.0)?;
    between("presence_penalty", -2.0, 2.0)?;
    between("n", 1.0, 128.0)?;
    between("top_logprobs", 0.0, 20.0)?;
    let stops = list(&body["stop"]).len();
    check(stops <= STOP_MAX, || array_too_long("stop", STOP_MAX, stops))?;
    one_of("service_tier", &body["service_tier"], &["auto", "default", "flex", "scale", "priority"])?;
    one_of("verbosity", &body["verbosity"], &["low", "medium", "high"])?;
    if !reasons {
        return check(body["reasoning_effort"].is_null(), || {
            Refusal::says("Unrecognized request argument supplied: reasoning_effort")
        });
    }
    one_of("reasoning_effort", &body["reasoning_effort"], &["none", "minimal", "low", "medium", "high"])?;
    check(body["max_tokens"].is_null(), || {
        let message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use \
                       'max_completion_tokens' instead.";
        Refusal::of("max_tokens", "unsupported_parameter", message)
    })?;
    check(body["temperature"].as_f64().is_none_or(|value| value == 1.0), || {
        let message = "Unsupported value: 'temperature' does not support this value with this model. Only the \
                       default (1) value is supported.";
        Refusal::of("temperature", "unsupported_value", message)
    })?;
    for name in
        ["top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias", "stop"]
    {
        check(body[name].is_null(), || unsupported(name))?;
    }
    Ok(())
}

fn check_tool(i: usize, tool: &Value) -> Checked {
    let at = format!("tools[{i}]");
    one_of(&format!("{at}.type"), &tool["type"], &["function", "custom"])?;
    if tool["type"] == "custom" {
        return Ok(());
    }
    let function = &tool["function"];
    check(unknown(tool, &["type", "function"]).is_none() && function.is_object(), || {
        let message = format!("Missing required parameter: '{at}.function'.");
        Refusal::of(&at, "missing_required_parameter", message)
    })?;
    if let Some(name) = unknown(function, &["name", "description", "parameters", "strict"]) {
        let param = format!("{at}.function.{name}");
        return Err(Refusal::of(&param, "unknown_parameter", format!("Unknown parameter: '{param}'.")));
    }
    let (name, param) = (text(&function["name"]), format!("{at}.function.name"));
    check(name.len() <= NAME_CHARS_MAX, || too_long(&param, NAME_CHARS_MAX, name.len()))?;
    check(is_name(name, NAME_CHARS_MAX), || {
        let message = format!(
            "Invalid '{param}': string does not match pattern. Expected a string that matches the pattern \
             '^[a-zA-Z0-9_-]+$'."
        );
        Refusal::of(&param, "invalid_value", message)
    })?;
    check_schema(name, &format!("{at}.function.parameters"), &function["parameters"])
}

fn check_format(body: &Value) -> Checked {
    let format = &body["response_format"];
    if format.is_null() {
        return Ok(());
    }
    one_of("response_format.type", &format["type"], &["text", "json_object", "json_schema"])?;
    if format["type"] == "json_object" {
        let says = body["messages"].to_string().to_lowercase().contains("json");
        check(says, || {
            let message = "'messages' must contain the word 'json' in some form, to use 'response_format' of type \
                           'json_object'.";
            Refusal::of("messages", "invalid_value", message)
        })?;
    }
    if format["type"] == "json_schema" {
        check(is_name(text(&format["json_schema"]["name"]), NAME_CHARS_MAX), || {
            let param = "response_format.json_schema.name";
            Refusal::of(
                param,
                "missing_required_parameter",
                format!("Missing required parameter: '{param}'."),
            )
        })?;
    }
    Ok(())
}

fn check_messages(messages: &[Value]) -> Checked {
    check(!messages.is_empty(), || empty("messages"))?;
    // Calls that wait for their results.
    let mut open: Vec<&str> = Vec::new();
    let unanswered = |open: &[&str], i: usize| {
        check(open.is_empty(), || {
            let message = format!(
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each \
                 'tool_call_id'. The following tool_call_ids did not have response messages: {}",
                open.join(", ")
            );
            Refusal { param: Some(format!("messages.[{i}].role")), ..Refusal::says(message) }
        })
    };
    for (i, message) in messages.iter().enumerate() {
        let at = format!("messages[{i}]");
        let role = text(&message["role"]);
        let Some((_, fields)) = MESSAGE_FIELDS.iter().find(|(name, _)| *name == role) else {
            let message = format!(
                "Invalid value: '{role}'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', \
                 and 'developer'."
            );
            return Err(Refusal::of(&format!("{at}.role"), "invalid_value", message));
        };
        if let Some(name) = unknown(message, fields) {
            let param = format!("{at}.{name}");
            return Err(Refusal::of(&param, "unknown_parameter", format!("Unknown parameter: '{param}'.")));
        }
        if role == "tool" {
            let id = text(&message["tool_call_id"]);
            let place = open.iter().position(|open| *open == id).ok_or_else(|| {
                let message = "Invalid parameter: messages with role 'tool' must be a response to a preceeding \
                               message with 'tool_calls'.";
                Refusal { param: Some(format!("messages.[{i}].role")), ..Refusal::says(message) }
            })?;
            open.remove(place);
        } else {
            unanswered(&open, i)?;
        }
        check_content(&at, role, message)?;
        let calls = list(&message["tool_calls"]);
        check(!(message["tool_calls"].is_array() && calls.is_empty()), || {
            empty(&format!("{at}.tool_calls"))
        })?;
        for (j, call) in calls.iter().enumerate() {
            let (id, param) = (text(&call["id"]), format!("{at}.tool_calls[{j}].id"));
            check(!id.is_empty() && call["function"]["arguments"].is_string(), || {
                Refusal::of(
                    &param,
                    "missing_required_parameter",
                    format!("Missing required parameter: '{param}'."),
                )
            })?;
            check(id.len() <= CALL_ID_CHARS_MAX, || too_long(&param, CALL_ID_CHARS_MAX, id.len()))?;
            let (name, param) =
                (text(&call["function"]["name"]), format!("{at}.tool_calls[{j}].function.name"));
            check(is_name(name, NAME_CHARS_MAX), || {
                let message = format!(
                    "Invalid '{param}': string does not match pattern. Expected a string that matches the pattern \
                     '^[a-zA-Z0-9_-]+$'."
                );
                Refusal::of(&param, "invalid_value", message)
            })?;
            open.push(id);
        }
    }
    unanswered(&open, messages.len())
}

fn check_content(at: &str, role: &str, message: &Value) -> Checked {
    let (content, param) = (&message["content"], format!("{at}.content"));
    let types: &[&str] = match role {
        "user" => &["text", "image_url", "input_audio", "file"],
        "assistant" => &["text", "refusal"],
        _ => &["text"],
    };
    let may_lack =
        role == "assistant" && (message["tool_calls"].is_array() || message["refusal"].is_string());
    match content {
        Value::String(_) => Ok(()),
        Value::Array(parts) => {
            check(!parts.is_empty(), || empty(&param))?;
            let mut parts = parts.iter().enumerate();
            parts.try_for_each(|(i, part)| one_of(&format!("{param}[{i}].type"), &part["type"], types))
        }
        Value::Null if may_lack => Ok(()),
        _ => {
            let message = format!("Invalid value for '{param}': expected a string, got null.");
            Err(Refusal::of(&param, "invalid_type", message))
        }
    }
}
