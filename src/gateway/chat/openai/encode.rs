//! Writes chunks and whole chat completions
//! (<https://platform.openai.com/docs/api-reference/chat-streaming>).
//!
//! Beyond OpenAI's own format: reasoning is `reasoning_content` and `reasoning`; what Anthropic needs back to
//! continue from its thinking, the signature with its text and redacted thinking, is
//! `reasoning_details` in OpenRouter's form, with the `format` that tells whose signature it is; a
//! caller may send it back as it came. A stop string that matched is `stop_reason`, and token ids are
//! `prompt_token_ids` and `token_ids`, as vLLM writes them. A caller that knows none of these ignores them.
//!
//! Log-probabilities and ids of tokens that have made no piece yet go out with the choice's next chunk, at the
//! latest with its end.

use super::super::anthropic::thinking::is_claude;
use super::super::custom_tools;
use super::super::encode::{AnswerHead, Collected, EncodeError, EncodeOptions, Part, collect};
use super::super::responses::custom_input::CustomInput;
use super::super::{ChatEvent, StopReason, TokenUsage};
use super::fit::CLAUDE_FORMAT;
use super::logprobs::ChatLogprobs;
use crate::gateway::chat::TokenScore;
use crate::gateway::wire::json::push_json;
use crate::protocol::TokenId;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Bytes of thinking kept until its signature comes; a longer one's signature goes out alone.
const THINKING_BYTES_MAX: usize = 2 << 20;

/// A stream's state.
#[derive(Debug)]
pub struct OpenAiEncoder {
    /// A chunk up to its choices.
    prefix: String,
    options: EncodeOptions,
    choices: Vec<ChoiceState>,
    usage: Option<TokenUsage>,
    /// Whose signatures these are.
    format: Option<&'static str>,
}

#[derive(Debug, Default)]
struct ChoiceState {
    choice: u32,
    /// The thinking since the last signature.
    thinking: String,
    /// Reasoning details so far.
    details: usize,
    /// Custom calls: their numbers, and what is read of their arguments.
    custom: Vec<(u32, CustomInput)>,
    /// Tokens whose piece has not gone out.
    ids: Vec<TokenId>,
    scores: Vec<TokenScore>,
}

impl ChoiceState {
    fn is_custom(&self, call: u32) -> bool {
        self.custom.iter().any(|(custom, _)| *custom == call)
    }
}

impl OpenAiEncoder {
    pub fn new(head: &AnswerHead, options: EncodeOptions) -> Self {
        let mut prefix = String::from("data: {\"id\":");
        push_json(&mut prefix, &head.id);
        let _ = write!(
            prefix,
            ",\"object\":\"chat.completion.chunk\",\"created\":{},\"model\":",
            head.created_unix_s
        );
        push_json(&mut prefix, &head.model);
        prefix.push_str(",\"system_fingerprint\":null,\"choices\":[");
        Self { prefix, options, choices: Vec::new(), usage: None, format: None }
    }

    pub fn event(&mut self, event: &ChatEvent, out: &mut String) -> Result<(), EncodeError> {
        if let ChatEvent::Usage(usage) = event {
            self.usage = Some(*usage);
            return Ok(());
        }
        if let ChatEvent::Start { model, .. } = event {
            self.format = format_of(model.as_deref());
        }
        // The start of the answer is that of all choices that were asked for, or the first's.
        let Some(choice) = event.choice() else {
            for choice in 0..self.options.choices.max(1) {
                self.begin(choice, out);
            }
            return Ok(());
        };
        let at = self.begin(choice, out);
        match event {
            ChatEvent::Start { .. } | ChatEvent::Usage(_) => {}
            ChatEvent::Tokens { ids, scores, .. } => {
                let state = &mut self.choices[at];
                state.ids.extend(ids);
                state.scores.extend_from_slice(scores);
            }
            // Without text a piece is of use for its tokens only.
            ChatEvent::Text { text, .. } if text.is_empty() && !self.has_tokens(at) => {}
            ChatEvent::Text { text, .. } => self.text(at, "{\"content\":", text, out),
            ChatEvent::Refusal { text, .. } => self.text(at, "{\"refusal\":", text, out),
            ChatEvent::Reasoning { text, .. } => {
                let thinking = &mut self.choices[at].thinking;
                if thinking.len() + text.len() <= THINKING_BYTES_MAX {
                    thinking.push_str(text);
                }
                let open = self.open(at, out);
                open.push_str("{\"reasoning_content\":");
                push_json(open, text);
                // vLLM's newer name and OpenRouter's: clients know one of them.
                open.push_str(",\"reasoning\":");
                push_json(open, text);
                open.push('}');
                self.close(at, "null", out);
            }
            ChatEvent::Signature { signature, .. } => {
                let thinking = std::mem::take(&mut self.choices[at].thinking);
                self.detail(at, signed(&thinking, signature), out);
            }
            ChatEvent::RedactedReasoning { data, .. } => self.detail(at, encrypted(data), out),
            ChatEvent::ToolCall { call, id, name, .. } if self.options.custom_tools.has(name) => {
                self.choices[at].custom.push((*call, CustomInput::default()));
                let _ = write!(self.open(at, out), "{{\"tool_calls\":[{{\"index\":{call},\"id\":");
                push_json(out, id);
                out.push_str(",\"type\":\"custom\",\"custom\":{\"name\":");
                push_json(out, name);
                out.push_str(",\"input\":\"\"}}]}");
                self.close(at, "null", out);
            }
            ChatEvent::ToolCall { call, id, name, .. } => {
                let _ = write!(self.open(at, out), "{{\"tool_calls\":[{{\"index\":{call},\"id\":");
                push_json(out, id);
                out.push_str(",\"type\":\"function\",\"function\":{\"name\":");
                push_json(out, name);
                out.push_str(",\"arguments\":\"\"}}]}");
                self.close(at, "null", out);
            }
            ChatEvent::ToolArguments { call, json, .. } if self.choices[at].is_custom(*call) => {
                let input = &mut self.choices[at].custom;
                let pieces = input.iter_mut().filter(|(it, _)| it == call).map(|(_, input)| input.push(json));
                let piece: String = pieces.collect();
                self.custom_input(at, *call, &piece, out);
            }
            ChatEvent::ToolArguments { call, json, .. } => {
                let open = self.open(at, out);
                let _ = write!(open, "{{\"tool_calls\":[{{\"index\":{call},\"function\":{{\"arguments\":");
                push_json(out, json);
                out.push_str("}}]}");
                self.close(at, "null", out);
            }
            ChatEvent::Finish { reason, .. } => {
                for (call, mut input) in std::mem::take(&mut self.choices[at].custom) {
                    self.custom_input(at, call, &input.end(), out);
                }
                self.open(at, out).push_str("{}");
                let mut word = serde_json::to_string(finish_reason(reason)).expect("a string");
                if let StopReason::StopSequence(Some(matched)) = reason {
                    word.push_str(",\"stop_reason\":");
                    push_json(&mut word, matched);
                }
                self.close(at, &word, out);
            }
        }
        Ok(())
    }

    pub fn finish(&mut self, out: &mut String) {
        if let Some(usage) = self.usage.filter(|_| self.options.include_usage) {
            out.push_str(&self.prefix);
            out.push_str("],\"usage\":");
            push_json(out, &usage_value(&usage));
            out.push_str("}\n\n");
        }
        out.push_str("data: [DONE]\n\n");
    }

    /// The place of a choice's state; the role goes out before its first delta.
    fn begin(&mut self, choice: u32, out: &mut String) -> usize {
        if let Some(at) = self.choices.iter().position(|state| state.choice == choice) {
            return at;
        }
        self.choices.push(ChoiceState { choice, ..ChoiceState::default() });
        let at = self.choices.len() - 1;
        self.open(at, out).push_str("{\"role\":\"assistant\",\"content\":\"\"}");
        out.push_str(",\"logprobs\":null,\"finish_reason\":null");
        if let Some(ids) = &self.options.prompt_ids {
            out.push_str(",\"prompt_token_ids\":");
            push_json(out, &**ids);
        }
        self.end_chunk(out);
        at
    }

    fn has_tokens(&self, at: usize) -> bool {
        !self.choices[at].ids.is_empty()
    }

    /// A chunk up to its delta.
    fn open<'a>(&self, at: usize, out: &'a mut String) -> &'a mut String {
        out.push_str(&self.prefix);
        let _ = write!(out, "{{\"index\":{},\"delta\":", self.choices[at].choice);
        out
    }

    /// The rest of a chunk, with the tokens that wait.
    fn close(&mut self, at: usize, finish_reason: &str, out: &mut String) {
        let state = &mut self.choices[at];
        out.push_str(",\"logprobs\":");
        match std::mem::take(&mut state.scores) {
            scores if scores.is_empty() || !self.options.logprobs => out.push_str("null"),
            scores => push_json(out, &ChatLogprobs::of(&scores)),
        }
        out.push_str(",\"finish_reason\":");
        out.push_str(finish_reason);
        let ids = std::mem::take(&mut state.ids);
        if self.options.token_ids {
            out.push_str(",\"token_ids\":");
            push_json(out, &ids);
        }
        self.end_chunk(out);
    }

    /// A chunk's last fields: the usage is there, null or absent.
    fn end_chunk(&self, out: &mut String) {
        out.push_str("}]");
        if self.options.continuous_usage {
            out.push_str(",\"usage\":");
            push_json(out, &usage_value(&self.usage.unwrap_or_default()));
        } else if self.options.include_usage {
            out.push_str(",\"usage\":null");
        }
        out.push_str("}\n\n");
    }

    /// More of a custom call's text.
    fn custom_input(&mut self, at: usize, call: u32, piece: &str, out: &mut String) {
        if piece.is_empty() {
            return;
        }
        let open = self.open(at, out);
        let _ = write!(open, "{{\"tool_calls\":[{{\"index\":{call},\"custom\":{{\"input\":");
        push_json(out, piece);
        out.push_str("}}]}");
        self.close(at, "null", out);
    }

    fn text(&mut self, at: usize, field: &str, text: &str, out: &mut String) {
        self.open(at, out).push_str(field);
        push_json(out, text);
        out.push('}');
        self.close(at, "null", out);
    }

    fn detail(&mut self, at: usize, mut detail: Value, out: &mut String) {
        let state = &mut self.choices[at];
        detail["index"] = state.details.into();
        if let Some(format) = self.format {
            detail["format"] = format.into();
        }
        state.details += 1;
        push_json(self.open(at, out), &json!({"reasoning_details": [detail]}));
        self.close(at, "null", out);
    }
}

/// OpenRouter's name for a model's signatures.
fn format_of(model: Option<&str>) -> Option<&'static str> {
    model.map(|model| if is_claude(model) { CLAUDE_FORMAT } else { "unknown" })
}

fn signed(thinking: &str, signature: &str) -> Value {
    json!({"type": "reasoning.text", "text": thinking, "signature": signature})
}

fn encrypted(data: &str) -> Value {
    json!({"type": "reasoning.encrypted", "data": data})
}

/// OpenAI has no word for a paused turn; other words go out as they came.
fn finish_reason(reason: &StopReason) -> &str {
    match reason {
        StopReason::End | StopReason::StopSequence(_) | StopReason::Pause => "stop",
        StopReason::Length => "length",
        StopReason::ToolCalls => "tool_calls",
        StopReason::Refusal => "content_filter",
        StopReason::Other(word) => word,
    }
}

fn usage_value(usage: &TokenUsage) -> Value {
    let mut prompt = json!({"cached_tokens": usage.cached});
    if usage.cache_written > 0 {
        prompt["cache_write_tokens"] = usage.cache_written.into();
    }
    json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input.saturating_add(usage.output),
        "prompt_tokens_details": prompt,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    })
}

/// A whole chat completion.
pub fn whole(head: &AnswerHead, options: &EncodeOptions, events: &[ChatEvent]) -> Result<Value, EncodeError> {
    let (choices, usage) = collect(events)?;
    let format = events.iter().find_map(|event| match event {
        ChatEvent::Start { model, .. } => format_of(model.as_deref()),
        _ => None,
    });
    let choices: Vec<Value> =
        choices.into_iter().map(|choice| choice_value(choice, format, options)).collect();
    let mut answer = json!({
        "id": head.id,
        "object": "chat.completion",
        "created": head.created_unix_s,
        "model": head.model,
        "system_fingerprint": null,
        "choices": choices,
    });
    if let Some(usage) = usage {
        answer["usage"] = usage_value(&usage);
    }
    Ok(answer)
}

fn choice_value(choice: Collected, format: Option<&str>, options: &EncodeOptions) -> Value {
    let (mut content, mut refusal, mut reasoning) = (None::<String>, None::<String>, None::<String>);
    let (mut calls, mut details) = (Vec::new(), Vec::new());
    let add = |all: &mut Option<String>, text: &str| all.get_or_insert_default().push_str(text);
    for part in choice.parts {
        match part {
            Part::Text(text) => add(&mut content, &text),
            Part::Refusal(text) => add(&mut refusal, &text),
            Part::Reasoning { text, signature } => {
                if !text.is_empty() {
                    add(&mut reasoning, &text);
                }
                details.extend(signature.map(|signature| signed(&text, &signature)));
            }
            Part::Redacted(data) => details.push(encrypted(&data)),
            Part::Call { id, name, arguments, .. } if options.custom_tools.has(&name) => calls.push(json!({
                "id": id, "type": "custom",
                "custom": {"name": name, "input": custom_tools::input(&arguments)},
            })),
            Part::Call { id, name, arguments, .. } => calls.push(json!({
                "id": id, "type": "function", "function": {"name": name, "arguments": arguments},
            })),
        }
    }
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    // Null only where something else is the answer.
    let content = content.or_else(|| (calls.is_empty() && refusal.is_none()).then(String::new));
    message.insert("content".into(), content.into());
    message.insert("refusal".into(), refusal.into());
    if let Some(reasoning) = reasoning {
        message.insert("reasoning_content".into(), reasoning.as_str().into());
        message.insert("reasoning".into(), reasoning.into());
    }
    if let Some(format) = format {
        details.iter_mut().for_each(|detail| detail["format"] = format.into());
    }
    if !details.is_empty() {
        message.insert("reasoning_details".into(), details.into());
    }
    if !calls.is_empty() {
        message.insert("tool_calls".into(), calls.into());
    }
    let reason = choice.reason.unwrap_or(StopReason::End);
    let mut value = json!({
        "index": choice.choice,
        "message": message,
        "logprobs": options.logprobs.then(|| ChatLogprobs::of(&choice.scores)),
        "finish_reason": finish_reason(&reason),
    });
    if let StopReason::StopSequence(Some(matched)) = reason {
        value["stop_reason"] = matched.into();
    }
    if let Some(prompt_ids) = &options.prompt_ids {
        value["prompt_token_ids"] = json!(**prompt_ids);
        value["token_ids"] = json!(choice.ids);
    }
    value
}
