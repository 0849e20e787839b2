//! Reads the events of a Responses stream and whole responses
//! (<https://platform.openai.com/docs/api-reference/responses-streaming>).
//!
//! What a server leaves out is taken from where it says it again: an item's text or arguments from the item's end
//! if no delta came, items from the response's end if no event of theirs came. Summaries and the text of reasoning
//! are both reasoning; of an item that has both the one that comes first counts. Its `encrypted_content` is
//! redacted reasoning, which only a provider that speaks Responses is sent back ([`envelope`](super::envelope)).
//!
//! A call of a custom tool becomes one of a function with one string, `input`. Items of tools that the upstream
//! runs itself, annotations and log-probabilities make no events; nor do events of unknown types.

use super::super::decode::{DecodeError, Progress, parse};
use super::super::{ChatEvent, StopReason, TokenUsage};
use super::custom_input::INPUT;
use super::envelope::{Envelope, mark_foreign};
use super::tools::function_name;
use crate::gateway::wire::frames::Frame;
use crate::gateway::wire::json::{Text, filled};
use crate::gateway::wire::upstream_error;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

/// Items that one response may have.
const ITEMS_MAX: usize = 4096;
/// Bytes of a call's id.
const ID_BYTES_MAX: usize = 1024;

/// A delta of an item's, which most events are.
#[derive(Deserialize)]
struct Delta<'a> {
    output_index: Option<u64>,
    summary_index: Option<u64>,
    #[serde(borrow)]
    delta: Option<Text<'a>>,
}

/// Only what an event is. Some servers' errors say nothing else.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    error: Option<IgnoredAny>,
}

/// A stream's state. There is one choice, 0.
#[derive(Debug, Default)]
pub struct ResponsesDecoder {
    started: bool,
    items: Vec<ItemState>,
    calls: u32,
    finished: bool,
}

#[derive(Debug, Default)]
struct ItemState {
    index: u64,
    /// Of its text, refusal or reasoning something has come.
    spoken: bool,
    /// Its reasoning comes as a summary, and which part of it is under way.
    summary: Option<u64>,
    /// Its reasoning comes as text.
    content: bool,
    /// Its number, if it is a call that has begun.
    call: Option<u32>,
    /// Of its arguments something has come.
    argued: bool,
    done: bool,
}

impl ResponsesDecoder {
    /// Adds the events of one frame.
    pub fn frame(&mut self, frame: &Frame, out: &mut Vec<ChatEvent>) -> Result<Progress, DecodeError> {
        let text = frame.data.trim();
        if text.is_empty() {
            return Ok(Progress::More);
        }
        if text == "[DONE]" {
            // OpenAI's streams have none, some servers' do.
            let early = "[DONE] came before response.completed";
            return if self.finished { Ok(Progress::Done) } else { Err(DecodeError::EndedEarly(early)) };
        }
        let read;
        let kind = match frame.event.as_deref() {
            Some(kind) if kind.starts_with("response.") || kind == "error" => kind,
            // Some servers name no event, or all of them `message`.
            _ => {
                read = parse::<Kind>(text)?;
                match filled(&read.kind) {
                    Some(kind) => kind,
                    None if read.error.is_some() => "error",
                    None => return Err(DecodeError::shape("there is no `type`", text)),
                }
            }
        };
        match kind {
            "response.output_text.delta"
            | "response.refusal.delta"
            | "response.reasoning_text.delta"
            | "response.reasoning_summary_text.delta"
            | "response.function_call_arguments.delta" => {
                let delta: Delta = parse(text)?;
                self.delta(kind, &delta, text, out)?;
            }
            "response.created" | "response.in_progress" | "response.queued" => {
                let event: Value = parse(text)?;
                self.start(&event["response"], out);
            }
            "response.output_item.added" => {
                let event: Value = parse(text)?;
                self.item_added(&event, text, out)?;
            }
            "response.output_item.done" => {
                let event: Value = parse(text)?;
                self.item_done(event["output_index"].as_u64(), &event["item"], text, out)?;
            }
            "response.completed" | "response.incomplete" => {
                let event: Value = parse(text)?;
                self.end(&event["response"], text, out)?;
                return Ok(Progress::Done);
            }
            "response.failed" | "response.cancelled" => {
                let event: Value = parse(text)?;
                return Err(failure(&event["response"]));
            }
            "error" => {
                let event: Value = parse(text)?;
                return Err(DecodeError::Upstream(upstream_error::from_success(&event)));
            }
            // Of parts, ends that items tell again, tools of the upstream's, and whatever will be added.
            _ => {}
        }
        Ok(Progress::More)
    }

    /// Whether the response's end has come.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    fn start(&mut self, response: &Value, out: &mut Vec<ChatEvent>) {
        if !std::mem::replace(&mut self.started, true) {
            let owned = |name: &str| response[name].as_str().map(str::to_owned);
            out.push(ChatEvent::Start { id: owned("id"), model: owned("model") });
        }
    }

    /// An item's state; a new one where none of its events came yet.
    fn item(&mut self, index: u64, text: &str) -> Result<&mut ItemState, DecodeError> {
        if let Some(at) = self.items.iter().rposition(|item| item.index == index) {
            return Ok(&mut self.items[at]);
        }
        if self.items.len() == ITEMS_MAX {
            return Err(DecodeError::shape(format!("more than {ITEMS_MAX} items"), text));
        }
        self.items.push(ItemState { index, ..ItemState::default() });
        Ok(self.items.last_mut().expect("it was pushed"))
    }

    fn delta(
        &mut self,
        kind: &str,
        delta: &Delta,
        text: &str,
        out: &mut Vec<ChatEvent>,
    ) -> Result<(), DecodeError> {
        self.start(&Value::Null, out);
        let Some(piece) = filled(&delta.delta) else { return Ok(()) };
        let item = self.item(delta.output_index.unwrap_or(0), text)?;
        let piece = piece.to_owned();
        match kind {
            "response.output_text.delta" => {
                item.spoken = true;
                out.push(ChatEvent::Text { choice: 0, text: piece });
            }
            "response.refusal.delta" => {
                item.spoken = true;
                out.push(ChatEvent::Refusal { choice: 0, text: piece });
            }
            "response.reasoning_text.delta" => {
                if item.summary.is_none() {
                    (item.spoken, item.content) = (true, true);
                    out.push(ChatEvent::Reasoning { choice: 0, text: piece });
                }
            }
            "response.reasoning_summary_text.delta" => {
                if !item.content {
                    let part = delta.summary_index.unwrap_or(0);
                    let text = match item.summary.replace(part) {
                        Some(before) if before != part => format!("\n\n{piece}"),
                        _ => piece,
                    };
                    item.spoken = true;
                    out.push(ChatEvent::Reasoning { choice: 0, text });
                }
            }
            _ => {
                let call = item.call.ok_or_else(|| {
                    DecodeError::shape("arguments came for a call that did not begin", text)
                })?;
                item.argued = true;
                out.push(ChatEvent::ToolArguments { choice: 0, call, json: piece });
            }
        }
        Ok(())
    }

    fn item_added(&mut self, event: &Value, text: &str, out: &mut Vec<ChatEvent>) -> Result<(), DecodeError> {
        self.start(&Value::Null, out);
        let index = event["output_index"].as_u64().unwrap_or(self.items.len() as u64);
        self.item(index, text)?;
        if event["item"]["type"] == "function_call" {
            self.begin_call(index, &event["item"], text, out)?;
        }
        Ok(())
    }

    /// Begins a call, if it has not begun.
    fn begin_call(
        &mut self,
        index: u64,
        item: &Value,
        text: &str,
        out: &mut Vec<ChatEvent>,
    ) -> Result<u32, DecodeError> {
        let next = self.calls;
        let state = self.item(index, text)?;
        if let Some(call) = state.call {
            return Ok(call);
        }
        state.call = Some(next);
        self.calls += 1;
        let word = |name: &str| item[name].as_str().filter(|word| !word.is_empty());
        let name = word("name").ok_or_else(|| DecodeError::shape("a tool call has no `name`", text))?;
        let id = match word("call_id").or(word("id")) {
            Some(id) if id.len() > ID_BYTES_MAX => {
                return Err(DecodeError::shape(
                    format!("a tool call's id is over {ID_BYTES_MAX} bytes"),
                    text,
                ));
            }
            Some(id) => id.to_owned(),
            None => format!("call_{}", &uuid::Uuid::new_v4().simple().to_string()[..24]),
        };
        out.push(ChatEvent::ToolCall {
            choice: 0,
            call: next,
            id,
            name: function_name(word("namespace"), name),
        });
        Ok(next)
    }

    /// Adds what has not come of an item that is whole.
    fn item_done(
        &mut self,
        index: Option<u64>,
        item: &Value,
        text: &str,
        out: &mut Vec<ChatEvent>,
    ) -> Result<(), DecodeError> {
        self.start(&Value::Null, out);
        let index = index.unwrap_or(self.items.len() as u64);
        let state = self.item(index, text)?;
        if std::mem::replace(&mut state.done, true) {
            return Ok(());
        }
        let (spoken, argued) = (state.spoken, state.argued);
        match item["type"].as_str() {
            Some("message") if !spoken => {
                for part in item["content"].as_array().into_iter().flatten() {
                    let piece =
                        |name: &str| part[name].as_str().filter(|it| !it.is_empty()).map(str::to_owned);
                    out.extend(piece("text").map(|text| ChatEvent::Text { choice: 0, text }));
                    out.extend(piece("refusal").map(|text| ChatEvent::Refusal { choice: 0, text }));
                }
            }
            Some("reasoning") => reasoning(item, spoken, out),
            Some("function_call") => {
                let call = self.begin_call(index, item, text, out)?;
                let arguments = match &item["arguments"] {
                    Value::String(arguments) => arguments.clone(),
                    Value::Null => String::new(),
                    other => other.to_string(),
                };
                if !argued && !arguments.is_empty() {
                    out.push(ChatEvent::ToolArguments { choice: 0, call, json: arguments });
                }
            }
            Some("custom_tool_call") => {
                let call = self.begin_call(index, item, text, out)?;
                let input = item["input"].as_str().unwrap_or_default();
                let json = json!({INPUT: input}).to_string();
                out.push(ChatEvent::ToolArguments { choice: 0, call, json });
            }
            _ => {}
        }
        Ok(())
    }

    /// The end of a response, streamed or not.
    fn end(&mut self, response: &Value, text: &str, out: &mut Vec<ChatEvent>) -> Result<(), DecodeError> {
        self.start(response, out);
        if self.items.is_empty() {
            for (i, item) in response["output"].as_array().into_iter().flatten().enumerate() {
                self.item_done(Some(i as u64), item, text, out)?;
            }
        }
        self.finished = true;
        let reason = match (response["status"].as_str(), response["incomplete_details"]["reason"].as_str()) {
            (Some("incomplete"), Some("content_filter")) => StopReason::Refusal,
            (Some("incomplete"), Some("max_output_tokens") | None) => StopReason::Length,
            (Some("incomplete"), Some(other)) => StopReason::Other(other.to_owned()),
            _ if self.calls > 0 => StopReason::ToolCalls,
            _ => StopReason::End,
        };
        out.push(ChatEvent::Finish { choice: 0, reason });
        if let Some(usage) = usage(&response["usage"]) {
            out.push(ChatEvent::Usage(usage));
        }
        Ok(())
    }
}

/// What a reasoning item has beside the deltas that came.
fn reasoning(item: &Value, spoken: bool, out: &mut Vec<ChatEvent>) {
    let texts = |name: &str| {
        let parts = item[name].as_array().into_iter().flatten();
        parts.filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n\n")
    };
    if !spoken {
        let text = Some(texts("content")).filter(|text| !text.is_empty()).unwrap_or_else(|| texts("summary"));
        if !text.is_empty() {
            out.push(ChatEvent::Reasoning { choice: 0, text });
        }
    }
    let Some(encrypted) = item["encrypted_content"].as_str().filter(|it| !it.is_empty()) else { return };
    // One of a server like this one can be read.
    match Envelope::ours(encrypted) {
        Some(Envelope { signature, data, .. }) => {
            out.extend(signature.map(|signature| ChatEvent::Signature { choice: 0, signature }));
            out.extend(data.map(|data| ChatEvent::RedactedReasoning { choice: 0, data }));
        }
        None => out.push(ChatEvent::RedactedReasoning { choice: 0, data: mark_foreign(encrypted) }),
    }
}

fn usage(usage: &Value) -> Option<TokenUsage> {
    usage.as_object()?;
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let (input, output) = (&usage["input_tokens_details"], &usage["output_tokens_details"]);
    Some(TokenUsage {
        input: count(&usage["input_tokens"]),
        cached: count(&input["cached_tokens"]),
        cache_written: count(&input["cache_write_tokens"]),
        cache_written_1h: 0,
        output: count(&usage["output_tokens"]),
        reasoning: count(&output["reasoning_tokens"]),
    })
}

/// The error of a response that failed.
fn failure(response: &Value) -> DecodeError {
    if response["error"].is_null() {
        let status = response["status"].as_str().unwrap_or("failed");
        let error = json!({"message": format!("the response's status is {status}")});
        return DecodeError::Upstream(upstream_error::from_success(&error));
    }
    DecodeError::Upstream(upstream_error::from_success(response))
}

/// Reads a whole response.
pub fn whole(text: &str) -> Result<Vec<ChatEvent>, DecodeError> {
    let response: Value = parse(text)?;
    if !response["error"].is_null() {
        return Err(failure(&response));
    }
    match response["status"].as_str() {
        None | Some("completed" | "incomplete") => {}
        Some(_) => return Err(failure(&response)),
    }
    if !response["output"].is_array() {
        return Err(DecodeError::shape("there is no `output`", text));
    }
    let mut events = Vec::new();
    ResponsesDecoder::default().end(&response, text, &mut events)?;
    Ok(events)
}
