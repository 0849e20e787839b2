//! Writes the events of a Responses stream, and whole responses
//! (<https://platform.openai.com/docs/api-reference/responses-streaming>).
//!
//! Text and refusals are parts of a message, reasoning is an item before it: its text (`reasoning_text`), as open
//! models have it, or, for a caller who asked for a summary, one (`summary_text`). An item ends before the next
//! begins, as OpenAI has it; only calls whose arguments come interleaved are open together. Numbers of events and
//! items are in the order in which they come. Ids of items are the response's with a number; a call's id is the
//! upstream's own.
//!
//! Of several choices the first is written: a response has one.

use super::super::anthropic::thinking::is_claude;
use super::super::encode::{AnswerHead, EncodeError};
use super::super::openai::fit::CLAUDE_FORMAT;
use super::super::openai::logprobs::ChatLogprobs;
use super::super::{ChatEvent, StopReason, TokenUsage, UpstreamError};
use super::custom_input::{CustomInput, is_object};
use super::envelope::Envelope;
use super::object::{Status, response};
use super::parts::{CONTENT, Part, ReasoningWay, SUMMARY};
use super::request::Asked;
use super::tools::{Tool, ToolKind, typed_call};
use crate::gateway::wire::json::push_json;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// A stream's state.
#[derive(Debug)]
pub struct ResponsesEncoder {
    head: AnswerHead,
    asked: Arc<Asked>,
    begun: bool,
    /// The next event's number.
    sequence: u64,
    /// Items so far; null stands for one that is open.
    output: Vec<Value>,
    open: Option<Open>,
    calls: Vec<Call>,
    usage: Option<TokenUsage>,
    reason: Option<StopReason>,
    /// Whose signatures these are.
    format: Option<&'static str>,
    /// Log-probabilities of the tokens that the next piece is made of.
    scores: Vec<Value>,
    /// The response as its last event has it.
    last: Option<Value>,
}

/// The message or reasoning that is open.
#[derive(Debug)]
enum Open {
    Message { at: Place, parts: Vec<Value>, part: Option<OpenPart> },
    Reasoning { at: Place, text: Option<String> },
}

/// The part of a message that is open.
#[derive(Debug)]
struct OpenPart {
    kind: Part,
    text: String,
    scores: Vec<Value>,
}

/// An item's id and number.
#[derive(Clone, Debug)]
struct Place {
    id: String,
    index: usize,
}

/// A call that is open, or was.
#[derive(Debug)]
struct Call {
    call: u32,
    call_id: String,
    function: String,
    tool: Tool,
    /// None while a typed call's item has not begun: it begins when it is whole.
    at: Option<Place>,
    arguments: String,
    custom: CustomInput,
    closed: bool,
}

impl ResponsesEncoder {
    /// An encoder at a stream's beginning.
    pub fn new(head: AnswerHead, asked: Arc<Asked>) -> Self {
        Self {
            head,
            asked,
            begun: false,
            sequence: 0,
            output: Vec::new(),
            open: None,
            calls: Vec::new(),
            usage: None,
            reason: None,
            format: None,
            scores: Vec::new(),
            last: None,
        }
    }

    /// Adds the events before the answer, once; they may go out before anything is known of it.
    pub fn begin(&mut self, out: &mut String) {
        if self.begun {
            return;
        }
        self.begun = true;
        let response = self.response(Status::InProgress, None);
        for kind in ["response.created", "response.in_progress"] {
            self.emit(kind, &[("response", &response)], out);
        }
    }

    /// Adds the events that an event makes; some make none yet.
    pub fn event(&mut self, event: &ChatEvent, out: &mut String) -> Result<(), EncodeError> {
        self.begin(out);
        if event.choice().is_some_and(|choice| choice != 0) {
            return Ok(());
        }
        match event {
            ChatEvent::Start { model, .. } => {
                let of = |model: &String| if is_claude(model) { CLAUDE_FORMAT } else { "unknown" };
                self.format = model.as_ref().map(of);
            }
            ChatEvent::Tokens { scores, .. } => {
                if self.asked.logprobs {
                    let told = serde_json::to_value(ChatLogprobs::of(scores)).expect("string keys only");
                    self.scores.extend(told["content"].as_array().into_iter().flatten().cloned());
                }
            }
            // Without text a piece is of use for its tokens only.
            ChatEvent::Text { text, .. } if text.is_empty() && self.scores.is_empty() => {}
            ChatEvent::Text { text, .. } => self.say(Part::Text, text, out),
            ChatEvent::Refusal { text, .. } => self.say(Part::Refusal, text, out),
            ChatEvent::Reasoning { text, .. } => self.think(text, out),
            ChatEvent::Signature { signature, .. } => {
                self.open_reasoning(out);
                self.close_reasoning(true, Some(signature.clone()), None, out);
            }
            ChatEvent::RedactedReasoning { data, .. } => {
                self.close_open(true, out);
                self.open_reasoning(out);
                self.close_reasoning(true, None, Some(data.clone()), out);
            }
            ChatEvent::ToolCall { call, id, name, .. } => self.call(*call, id, name, out),
            ChatEvent::ToolArguments { call, json, .. } => self.arguments(*call, json, out)?,
            ChatEvent::Finish { reason, .. } => self.reason = Some(reason.clone()),
            ChatEvent::Usage(usage) => self.usage = Some(*usage),
        }
        // Those of reasoning and calls are not told.
        if !matches!(event, ChatEvent::Tokens { .. } | ChatEvent::Usage(_)) {
            self.scores.clear();
        }
        Ok(())
    }

    /// Adds the end.
    pub fn finish(&mut self, out: &mut String) {
        self.begin(out);
        let status = match &self.reason {
            Some(StopReason::Length) => Status::Incomplete("max_output_tokens"),
            Some(StopReason::Refusal) => Status::Incomplete("content_filter"),
            _ => Status::Completed,
        };
        let whole = status == Status::Completed;
        self.close_open(whole, out);
        for at in 0..self.calls.len() {
            self.close_call(at, whole, out);
        }
        self.end(status, None, out);
    }

    /// Adds the end of a response that failed; nothing comes after it.
    pub fn error(&mut self, error: &UpstreamError, out: &mut String) {
        self.begin(out);
        self.end(Status::Failed, Some(error), out);
    }

    /// The response as its last event has it: what a store keeps.
    pub fn response_told(&self) -> Option<&Value> {
        self.last.as_ref()
    }

    /// The same, at the end.
    pub fn into_response(self) -> Option<Value> {
        self.last
    }

    fn end(&mut self, status: Status, error: Option<&UpstreamError>, out: &mut String) {
        let response = self.response(status, error);
        self.emit(&format!("response.{}", status.word()), &[("response", &response)], out);
        self.last = Some(response);
    }

    fn response(&self, status: Status, error: Option<&UpstreamError>) -> Value {
        let whole: Vec<Value> = self.output.iter().filter(|item| !item.is_null()).cloned().collect();
        response(&self.head, &self.asked.echo, status, &whole, self.usage.as_ref(), error)
    }

    /// Adds an event.
    fn emit(&mut self, kind: &str, fields: &[(&str, &Value)], out: &mut String) {
        self.begin_event(kind, out);
        for (name, value) in fields {
            let _ = write!(out, ",\"{name}\":");
            push_json(out, value);
        }
        out.push_str("}\n\n");
    }

    /// Adds an event of a part of an item: `index` is the part's own number, by its name.
    fn emit_part(
        &mut self,
        kind: &str,
        at: &Place,
        index: Option<(&str, usize)>,
        fields: &[(&str, &Value)],
        out: &mut String,
    ) {
        self.begin_event(kind, out);
        at.push_to(index, out);
        for (name, value) in fields {
            let _ = write!(out, ",\"{name}\":");
            push_json(out, value);
        }
        out.push_str("}\n\n");
    }

    /// Adds a delta: these are most of a stream, so they are written without a value in between.
    fn delta(&mut self, kind: &str, at: &Place, index: Option<(&str, usize)>, delta: &str, out: &mut String) {
        self.begin_event(kind, out);
        at.push_to(index, out);
        out.push_str(",\"delta\":");
        push_json(out, delta);
        if kind == "response.output_text.delta" {
            out.push_str(",\"logprobs\":[]");
        }
        out.push_str("}\n\n");
    }

    fn begin_event(&mut self, kind: &str, out: &mut String) {
        let _ =
            write!(out, "event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{}", self.sequence);
        self.sequence += 1;
    }

    /// Begins an item.
    fn place(&mut self, prefix: &str) -> Place {
        let index = self.output.len();
        self.output.push(Value::Null);
        let hex = self.head.id.strip_prefix("resp_").unwrap_or(&self.head.id);
        Place { id: format!("{prefix}_{hex}_{index}"), index }
    }

    fn item_added(&mut self, at: &Place, item: &Value, out: &mut String) {
        self.emit("response.output_item.added", &[("output_index", &at.index.into()), ("item", item)], out);
    }

    fn item_done(&mut self, at: &Place, item: Value, out: &mut String) {
        self.emit("response.output_item.done", &[("output_index", &at.index.into()), ("item", &item)], out);
        self.output[at.index] = item;
    }

    /// Ends what must end before another item begins.
    fn make_room(&mut self, out: &mut String) {
        self.close_open(true, out);
        for at in 0..self.calls.len() {
            let call = &self.calls[at];
            let complete = match call.tool.kind {
                ToolKind::Custom => call.custom.is_complete(),
                _ => is_object(&call.arguments),
            };
            if complete {
                self.close_call(at, true, out);
            }
        }
    }

    fn say(&mut self, kind: Part, text: &str, out: &mut String) {
        if !matches!(self.open, Some(Open::Message { .. })) {
            self.make_room(out);
            let at = self.place("msg");
            let item = message(&at, "in_progress", Vec::new());
            self.item_added(&at, &item, out);
            self.open = Some(Open::Message { at, parts: Vec::new(), part: None });
        }
        let same = matches!(&self.open, Some(Open::Message { part: Some(part), .. }) if part.kind == kind);
        if !same {
            self.close_part(out);
        }
        let scores = if kind == Part::Text { std::mem::take(&mut self.scores) } else { Vec::new() };
        let Some(Open::Message { at, parts, part }) = &mut self.open else { unreachable!("it is open") };
        let (at, number) = (at.clone(), Some(("content_index", parts.len())));
        let open = part.get_or_insert_with(|| OpenPart { kind, text: String::new(), scores: Vec::new() });
        open.text.push_str(text);
        open.scores.extend_from_slice(&scores);
        if !same {
            let added = kind.value("", Vec::new());
            self.emit_part("response.content_part.added", &at, number, &[("part", &added)], out);
        }
        if kind == Part::Text && !scores.is_empty() {
            let fields = [("delta", &text.into()), ("logprobs", &scores.into())];
            return self.emit_part(kind.delta(), &at, number, &fields, out);
        }
        self.delta(kind.delta(), &at, number, text, out);
    }

    /// Ends the part of the message that is open.
    fn close_part(&mut self, out: &mut String) {
        let Some(Open::Message { at, parts, part }) = &mut self.open else { return };
        let Some(OpenPart { kind, text, scores }) = part.take() else { return };
        let (at, number) = (at.clone(), Some(("content_index", parts.len())));
        let value = kind.value(&text, scores);
        parts.push(value.clone());
        match kind {
            Part::Text => {
                let fields = [("text", &value["text"]), ("logprobs", &value["logprobs"])];
                self.emit_part("response.output_text.done", &at, number, &fields, out);
            }
            Part::Refusal => {
                let fields = [("refusal", &value["refusal"])];
                self.emit_part("response.refusal.done", &at, number, &fields, out);
            }
        }
        self.emit_part("response.content_part.done", &at, number, &[("part", &value)], out);
    }

    fn think(&mut self, text: &str, out: &mut String) {
        self.open_reasoning(out);
        let way = self.way();
        let Some(Open::Reasoning { at, text: all }) = &mut self.open else { unreachable!("it was opened") };
        let (at, begins) = (at.clone(), all.is_none());
        all.get_or_insert_default().push_str(text);
        let number = Some((way.index, 0));
        if begins {
            self.emit_part(way.part_added, &at, number, &[("part", &way.part(""))], out);
        }
        self.delta(way.delta, &at, number, text, out);
    }

    /// How reasoning is told.
    fn way(&self) -> &'static ReasoningWay {
        if self.asked.summary { &SUMMARY } else { &CONTENT }
    }

    fn open_reasoning(&mut self, out: &mut String) {
        if !matches!(self.open, Some(Open::Reasoning { .. })) {
            self.make_room(out);
            let at = self.place("rs");
            let item = json!({"id": at.id, "type": "reasoning", "status": "in_progress", "summary": []});
            self.item_added(&at, &item, out);
            self.open = Some(Open::Reasoning { at, text: None });
        }
    }

    /// Ends the reasoning that is open: each signature ends an item, so that it stays with its text.
    fn close_reasoning(
        &mut self,
        whole: bool,
        signature: Option<String>,
        data: Option<String>,
        out: &mut String,
    ) {
        let way = self.way();
        let Some(Open::Reasoning { at, text }) = self.open.take_if(|it| matches!(it, Open::Reasoning { .. }))
        else {
            return;
        };
        let status = if whole { "completed" } else { "incomplete" };
        let mut item = json!({"id": at.id, "type": "reasoning", "status": status, "summary": []});
        if let Some(text) = &text {
            let (number, part) = (Some((way.index, 0)), way.part(text));
            self.emit_part(way.text_done, &at, number, &[("text", &part["text"])], out);
            self.emit_part(way.part_done, &at, number, &[("part", &part)], out);
            item[way.field] = json!([part]);
        }
        let format = self.format.map(str::to_owned);
        let envelope = Envelope { format, text: text.unwrap_or_default(), signature, data };
        if self.asked.encrypted || envelope.is_signed() {
            item["encrypted_content"] = envelope.seal().into();
        }
        self.item_done(&at, item, out);
    }

    /// Ends the message or the reasoning that is open.
    fn close_open(&mut self, whole: bool, out: &mut String) {
        self.close_reasoning(whole, None, None, out);
        self.close_part(out);
        if let Some(Open::Message { at, parts, .. }) = self.open.take() {
            let item = message(&at, if whole { "completed" } else { "incomplete" }, parts);
            self.item_done(&at, item, out);
        }
    }

    fn call(&mut self, call: u32, id: &str, name: &str, out: &mut String) {
        self.make_room(out);
        let tool = self.asked.tools.of(name);
        let at = match tool.kind {
            ToolKind::Function => Some(self.place("fc")),
            ToolKind::Custom => Some(self.place("ctc")),
            ToolKind::LocalShell | ToolKind::Shell | ToolKind::ApplyPatch | ToolKind::ToolSearch => None,
        };
        let call = Call {
            call,
            call_id: id.to_owned(),
            function: name.to_owned(),
            tool,
            at,
            arguments: String::new(),
            custom: CustomInput::default(),
            closed: false,
        };
        if let Some(at) = call.at.clone() {
            let item = call.item(&at, "in_progress");
            self.item_added(&at, &item, out);
        }
        self.calls.push(call);
    }

    fn arguments(&mut self, call: u32, json: &str, out: &mut String) -> Result<(), EncodeError> {
        let found = self.calls.iter_mut().rev().find(|open| open.call == call && !open.closed);
        let open = found.ok_or(EncodeError::ClosedCall(call))?;
        if open.tool.kind != ToolKind::Custom {
            open.arguments.push_str(json);
            if let Some(at) = open.at.clone() {
                self.delta("response.function_call_arguments.delta", &at, None, json, out);
            }
            return Ok(());
        }
        let text = open.custom.push(json);
        if let Some(at) = open.at.clone().filter(|_| !text.is_empty()) {
            self.delta("response.custom_tool_call_input.delta", &at, None, &text, out);
        }
        Ok(())
    }

    /// Ends a call; `whole` is false where the answer was cut off.
    fn close_call(&mut self, at: usize, whole: bool, out: &mut String) {
        let call = &mut self.calls[at];
        if std::mem::replace(&mut call.closed, true) {
            return;
        }
        match (call.tool.kind, call.at.clone()) {
            (ToolKind::Custom, Some(at)) => {
                let rest = if whole { call.custom.end() } else { String::new() };
                let item = call.item(&at, if whole { "completed" } else { "incomplete" });
                if !rest.is_empty() {
                    self.delta("response.custom_tool_call_input.delta", &at, None, &rest, out);
                }
                let fields = [("input", &item["input"])];
                self.emit_part("response.custom_tool_call_input.done", &at, None, &fields, out);
                self.item_done(&at, item, out);
            }
            (_, Some(at)) => {
                // Clients parse the arguments; none are an empty object.
                let none = call.arguments.trim().is_empty() && whole;
                if none {
                    call.arguments = "{}".to_owned();
                }
                let whole = whole || is_object(&call.arguments);
                let item = call.item(&at, if whole { "completed" } else { "incomplete" });
                if none {
                    self.delta("response.function_call_arguments.delta", &at, None, "{}", out);
                }
                let fields = [("arguments", &item["arguments"]), ("name", &item["name"])];
                self.emit_part("response.function_call_arguments.done", &at, None, &fields, out);
                self.item_done(&at, item, out);
            }
            (kind, None) => self.typed_call(at, kind, whole, out),
        }
    }

    /// Writes a typed call as the item that it is; one whose arguments do not fit as the function's.
    fn typed_call(&mut self, at: usize, kind: ToolKind, whole: bool, out: &mut String) {
        let status = if whole { "completed" } else { "incomplete" };
        let prefix = match kind {
            ToolKind::LocalShell => "lsh",
            ToolKind::Shell => "sh",
            ToolKind::ApplyPatch => "apc",
            ToolKind::ToolSearch => "tsc",
            ToolKind::Function | ToolKind::Custom => "fc",
        };
        let typed = typed_call(kind, &self.calls[at].arguments);
        let place = self.place(if typed.is_some() { prefix } else { "fc" });
        let call = &self.calls[at];
        let item = match typed {
            Some(mut item) => {
                item["id"] = place.id.as_str().into();
                item["call_id"] = call.call_id.as_str().into();
                item["status"] = status.into();
                item
            }
            None => json!({
                "id": place.id, "type": "function_call", "status": status, "call_id": call.call_id,
                "name": call.function, "arguments": call.arguments,
            }),
        };
        let mut added = item.clone();
        added["status"] = "in_progress".into();
        self.item_added(&place, &added, out);
        self.item_done(&place, item, out);
    }
}

impl Place {
    fn push_to(&self, index: Option<(&str, usize)>, out: &mut String) {
        out.push_str(",\"item_id\":");
        push_json(out, &self.id);
        let _ = write!(out, ",\"output_index\":{}", self.index);
        if let Some((name, index)) = index {
            let _ = write!(out, ",\"{name}\":{index}");
        }
    }
}

impl Call {
    fn item(&self, at: &Place, status: &str) -> Value {
        let mut item = match self.tool.kind {
            ToolKind::Custom => json!({
                "id": at.id, "type": "custom_tool_call", "status": status, "call_id": self.call_id,
                "name": self.tool.name, "input": self.custom.text(),
            }),
            _ => json!({
                "id": at.id, "type": "function_call", "status": status, "call_id": self.call_id,
                "name": self.tool.name, "arguments": self.arguments,
            }),
        };
        if let Some(namespace) = &self.tool.namespace {
            item["namespace"] = namespace.as_str().into();
        }
        item
    }
}

fn message(at: &Place, status: &str, content: Vec<Value>) -> Value {
    json!({"id": at.id, "type": "message", "status": status, "role": "assistant", "content": content})
}

/// A whole response that is not streamed.
pub fn whole(head: &AnswerHead, asked: Arc<Asked>, events: &[ChatEvent]) -> Result<Value, EncodeError> {
    let mut encoder = ResponsesEncoder::new(head.clone(), asked);
    // The same states without a stream: what they write is not wanted.
    let mut unwanted = String::new();
    for event in events {
        encoder.event(event, &mut unwanted)?;
        unwanted.clear();
    }
    encoder.finish(&mut unwanted);
    Ok(encoder.into_response().expect("it has finished"))
}
