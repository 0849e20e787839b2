//! What the strict providers answer, whole and in streams, in the shapes of their documentation's examples.

use super::Turn;
use super::chat::reasons;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Ids are never given twice.
fn fresh(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    format!("{prefix}{:024x}", COUNT.fetch_add(1, Relaxed))
}

/// What proves that thinking is the model's own, as it wrote it.
pub fn signature(thought: &str) -> String {
    let mut hasher = DefaultHasher::new();
    thought.hash(&mut hasher);
    format!("EqQB{:016x}", hasher.finish())
}

/// Reasoning that only the provider reads.
pub fn encrypted(thought: &str) -> String {
    format!("gAAAA{}.{thought}", signature(thought))
}

/// A text in pieces that end anywhere.
fn pieces(text: &str) -> Vec<String> {
    text.chars().collect::<Vec<_>>().chunks(5).map(|piece| piece.iter().collect()).collect()
}

fn chat_usage() -> Value {
    json!({"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 0, "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0}})
}

fn finish_reason(turn: &Turn) -> &'static str {
    if turn.calls.is_empty() { "stop" } else { "tool_calls" }
}

pub fn chat(body: &Value, turn: &Turn) -> Value {
    let calls: Vec<Value> = (turn.calls.iter())
        .map(|(name, arguments)| {
            json!({"id": fresh("call_"), "type": "function",
                "function": {"name": name, "arguments": arguments.to_string()}})
        })
        .collect();
    let content = if turn.text.is_empty() { Value::Null } else { turn.text.as_str().into() };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null, "annotations": []});
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    json!({"id": fresh("chatcmpl-"), "object": "chat.completion", "created": 1_790_000_000, "model": body["model"],
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason(turn)}],
        "usage": chat_usage(), "service_tier": "default", "system_fingerprint": null})
}

pub fn chat_stream(body: &Value, turn: &Turn) -> String {
    let id = fresh("chatcmpl-");
    let usage = body["stream_options"]["include_usage"] == true;
    let frame = |choices: Value, used: Value| {
        let mut chunk = json!({"id": id, "object": "chat.completion.chunk", "created": 1_790_000_000,
            "model": body["model"], "service_tier": "default", "system_fingerprint": null, "choices": choices,
            "obfuscation": "x7Qz"});
        if usage {
            chunk["usage"] = used;
        }
        format!("data: {chunk}\n\n")
    };
    let delta = |delta: Value, reason: Value| {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason});
        frame(json!([choice]), Value::Null)
    };
    let content = if turn.text.is_empty() { Value::Null } else { "".into() };
    let mut out = delta(json!({"role": "assistant", "content": content, "refusal": null}), Value::Null);
    for piece in pieces(&turn.text) {
        out += &delta(json!({"content": piece}), Value::Null);
    }
    for (i, (name, arguments)) in turn.calls.iter().enumerate() {
        let call = json!({"index": i, "id": fresh("call_"), "type": "function",
            "function": {"name": name, "arguments": ""}});
        out += &delta(json!({"tool_calls": [call]}), Value::Null);
        for piece in pieces(&arguments.to_string()) {
            let call = json!({"index": i, "function": {"arguments": piece}});
            out += &delta(json!({"tool_calls": [call]}), Value::Null);
        }
    }
    out += &delta(json!({}), finish_reason(turn).into());
    if usage {
        out += &frame(json!([]), chat_usage());
    }
    out + "data: [DONE]\n\n"
}

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
}

pub fn message(body: &Value, turn: &Turn) -> Value {
    let mut content = Vec::new();
    if ["enabled", "adaptive"].contains(&body["thinking"]["type"].as_str().unwrap_or_default()) {
        let thought = &turn.thought;
        content.push(json!({"type": "thinking", "thinking": thought, "signature": signature(thought)}));
    }
    if !turn.text.is_empty() {
        content.push(json!({"type": "text", "text": turn.text}));
    }
    for (name, arguments) in &turn.calls {
        content.push(json!({"type": "tool_use", "id": fresh("toolu_"), "name": name, "input": arguments}));
    }
    let reason = if turn.calls.is_empty() { "end_turn" } else { "tool_use" };
    json!({"id": fresh("msg_"), "type": "message", "role": "assistant", "model": body["model"], "content": content,
        "stop_reason": reason, "stop_sequence": null,
        "usage": {"input_tokens": 16, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4,
            "output_tokens": 9, "service_tier": "standard",
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}}})
}

pub fn messages_stream(body: &Value, turn: &Turn) -> String {
    let mut whole = message(body, turn);
    let blocks = std::mem::replace(&mut whole["content"], json!([]));
    let reason = std::mem::replace(&mut whole["stop_reason"], Value::Null);
    let usage = whole["usage"].clone();
    whole["usage"]["output_tokens"] = 1.into();
    let mut out = event(&json!({"type": "message_start", "message": whole}));
    for (index, block) in blocks.as_array().into_iter().flatten().enumerate() {
        let mut start = block.clone();
        let (field, kind, said) = match block["type"].as_str().unwrap_or_default() {
            "thinking" => {
                ("thinking", "thinking_delta", block["thinking"].as_str().unwrap_or_default().to_owned())
            }
            "text" => ("text", "text_delta", block["text"].as_str().unwrap_or_default().to_owned()),
            _ => ("partial_json", "input_json_delta", block["input"].to_string()),
        };
        for (name, empty) in
            [("thinking", json!("")), ("signature", json!("")), ("text", json!("")), ("input", json!({}))]
        {
            if start.get(name).is_some() {
                start[name] = empty;
            }
        }
        out += &event(&json!({"type": "content_block_start", "index": index, "content_block": start}));
        out += &event(&json!({"type": "ping"}));
        for piece in pieces(&said) {
            out += &event(
                &json!({"type": "content_block_delta", "index": index, "delta": {"type": kind, field: piece}}),
            );
        }
        if kind == "thinking_delta" {
            let delta = json!({"type": "signature_delta", "signature": block["signature"]});
            out += &event(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        out += &event(&json!({"type": "content_block_stop", "index": index}));
    }
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    out += &event(&json!({"type": "message_delta", "delta": delta, "usage": usage}));
    out + &event(&json!({"type": "message_stop"}))
}

pub fn response(body: &Value, turn: &Turn) -> Value {
    let mut output = Vec::new();
    if reasons(body["model"].as_str().unwrap_or_default()) {
        let asked = body["reasoning"]["summary"].is_string();
        let summary = if asked { json!([{"type": "summary_text", "text": turn.thought}]) } else { json!([]) };
        let mut item = json!({"type": "reasoning", "id": fresh("rs_"), "summary": summary});
        let include = body["include"].as_array().into_iter().flatten();
        if include.into_iter().any(|name| name == "reasoning.encrypted_content") {
            item["encrypted_content"] = encrypted(&turn.thought).into();
        }
        output.push(item);
    }
    if !turn.text.is_empty() {
        let part = json!({"type": "output_text", "text": turn.text, "annotations": [], "logprobs": []});
        output
            .push(json!({"type": "message", "id": fresh("msg_"), "role": "assistant", "status": "completed",
            "content": [part]}));
    }
    for (name, arguments) in &turn.calls {
        output.push(
            json!({"type": "function_call", "id": fresh("fc_"), "call_id": fresh("call_"), "name": name,
            "arguments": arguments.to_string(), "status": "completed"}),
        );
    }
    json!({"id": fresh("resp_"), "object": "response", "created_at": 1_790_000_000, "status": "completed",
        "background": false, "error": null, "incomplete_details": null, "instructions": body["instructions"],
        "max_output_tokens": body["max_output_tokens"], "model": body["model"], "output": output,
        "parallel_tool_calls": true, "previous_response_id": null,
        "reasoning": {"effort": body["reasoning"]["effort"], "summary": body["reasoning"]["summary"]},
        "store": body["store"] != false, "temperature": 1.0, "text": {"format": {"type": "text"}},
        "tool_choice": "auto", "tools": body["tools"].as_array().cloned().unwrap_or_default(), "top_p": 1.0,
        "truncation": "disabled", "user": null, "metadata": {},
        "usage": {"input_tokens": 20, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 9,
            "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 29}})
}

pub fn responses_stream(body: &Value, turn: &Turn) -> String {
    let whole = response(body, turn);
    let mut begun = whole.clone();
    begun["status"] = "in_progress".into();
    begun["output"] = json!([]);
    begun["usage"] = Value::Null;
    let (mut out, mut sequence) = (String::new(), 0);
    let mut emit = |mut data: Value| {
        data["sequence_number"] = sequence.into();
        sequence += 1;
        out += &event(&data);
    };
    emit(json!({"type": "response.created", "response": begun}));
    emit(json!({"type": "response.in_progress", "response": begun}));
    for (index, item) in whole["output"].as_array().into_iter().flatten().enumerate() {
        let (id, mut start) = (&item["id"], item.clone());
        if item["type"] != "reasoning" {
            start["status"] = "in_progress".into();
        }
        let at = json!({"item_id": id, "output_index": index});
        let with = |kind: &str, more: Value| {
            let mut data = json!({"type": kind});
            for fields in [&at, &more] {
                data.as_object_mut().expect("fields").extend(fields.as_object().cloned().unwrap_or_default());
            }
            data
        };
        let added = |start: Value| json!({"type": "response.output_item.added", "output_index": index, "item": start});
        match item["type"].as_str().unwrap_or_default() {
            "message" => {
                let said = item["content"][0]["text"].as_str().unwrap_or_default();
                start["content"] = json!([]);
                emit(added(start));
                let empty = json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []});
                emit(with("response.content_part.added", json!({"content_index": 0, "part": empty})));
                for piece in pieces(said) {
                    let delta = json!({"content_index": 0, "delta": piece, "logprobs": []});
                    emit(with("response.output_text.delta", delta));
                }
                let done = json!({"content_index": 0, "text": said, "logprobs": []});
                emit(with("response.output_text.done", done));
                let part = json!({"content_index": 0, "part": item["content"][0]});
                emit(with("response.content_part.done", part));
            }
            "function_call" => {
                let arguments = item["arguments"].as_str().unwrap_or_default();
                start["arguments"] = "".into();
                emit(added(start));
                for piece in pieces(arguments) {
                    emit(with("response.function_call_arguments.delta", json!({"delta": piece})));
                }
                let done = json!({"arguments": arguments, "name": item["name"]});
                emit(with("response.function_call_arguments.done", done));
            }
            _ => {
                start["summary"] = json!([]);
                emit(added(start));
                if let Some(part) = item["summary"].get(0) {
                    let empty = json!({"type": "summary_text", "text": ""});
                    let begin = json!({"summary_index": 0, "part": empty});
                    emit(with("response.reasoning_summary_part.added", begin));
                    for piece in pieces(part["text"].as_str().unwrap_or_default()) {
                        let delta = json!({"summary_index": 0, "delta": piece});
                        emit(with("response.reasoning_summary_text.delta", delta));
                    }
                    let done = json!({"summary_index": 0, "text": part["text"]});
                    emit(with("response.reasoning_summary_text.done", done));
                    emit(with(
                        "response.reasoning_summary_part.done",
                        json!({"summary_index": 0, "part": part}),
                    ));
                }
            }
        }
        emit(json!({"type": "response.output_item.done", "output_index": index, "item": item}));
    }
    emit(json!({"type": "response.completed", "response": whole}));
    out
}
