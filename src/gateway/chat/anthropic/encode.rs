//! Writes a message's stream and whole messages, in Anthropic's order: `message_start`, for each
//! block `content_block_start`, its deltas and `content_block_stop`, then `message_delta` and
//! `message_stop` (<https://docs.anthropic.com/en/docs/build-with-claude/streaming>).
//!
//! Blocks never overlap, while OpenAI's tool calls may: one that begins before the arguments of an
//! earlier one are whole waits for its turn. A message has one choice: others than 0 are left out
//! (requests for several are refused before). A refusal's text becomes text, with the stop reason
//! `refusal`. An upstream's own word for a stop becomes `end_turn`.

use super::super::encode::{AnswerHead, EncodeError, EncodeOptions, Part, collect};
use super::super::{ChatEvent, StopReason, TokenUsage};
use crate::gateway::wire::json::{beginning, push_json};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt::Write;

/// Bytes of blocks that wait for an earlier one to end, and of one call's arguments that are kept
/// to tell whether they are whole.
const WAITING_BYTES_MAX: usize = 2 << 20;

/// A stream's state.
#[derive(Debug)]
pub struct AnthropicEncoder {
    head: AnswerHead,
    usage: TokenUsage,
    started: bool,
    /// The index of the next block.
    next_index: u32,
    open: Option<Block>,
    /// Blocks that begin when those before them have ended.
    waiting: VecDeque<Block>,
    waiting_bytes: usize,
    /// Calls whose blocks have ended.
    ended_calls: Vec<u32>,
    called: bool,
    refused: bool,
    reason: Option<StopReason>,
}

/// A block and, of a call or one that waits, its content so far.
#[derive(Debug)]
struct Block {
    kind: BlockKind,
    content: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum BlockKind {
    Text,
    Thinking,
    Redacted,
    /// The end of a thinking block, not a block of its own unless no thinking is open.
    Signature,
    Call {
        call: u32,
        id: String,
        name: String,
    },
}

impl BlockKind {
    fn is_call(&self, number: u32) -> bool {
        matches!(self, Self::Call { call, .. } if *call == number)
    }
}

impl AnthropicEncoder {
    pub fn new(head: AnswerHead, options: EncodeOptions) -> Self {
        Self {
            head,
            usage: TokenUsage { input: options.input_tokens, ..TokenUsage::default() },
            started: false,
            next_index: 0,
            open: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            ended_calls: Vec::new(),
            called: false,
            refused: false,
            reason: None,
        }
    }

    pub fn event(&mut self, event: &ChatEvent, out: &mut String) -> Result<(), EncodeError> {
        if let ChatEvent::Usage(usage) = event {
            self.usage = *usage;
            return Ok(());
        }
        // The start waits for what comes next: an upstream that knows its prompt's tokens says
        // them right behind it.
        if event.choice() != Some(0) {
            return Ok(());
        }
        self.start(out);
        match event {
            ChatEvent::Text { text, .. } => self.piece(BlockKind::Text, text, out),
            ChatEvent::Refusal { text, .. } => {
                self.refused = true;
                self.piece(BlockKind::Text, text, out)
            }
            ChatEvent::Reasoning { text, .. } => self.piece(BlockKind::Thinking, text, out),
            ChatEvent::Signature { signature, .. } => self.piece(BlockKind::Signature, signature, out),
            ChatEvent::RedactedReasoning { data, .. } => self.piece(BlockKind::Redacted, data, out),
            ChatEvent::ToolCall { call, id, name, .. } => {
                self.called = true;
                self.piece(BlockKind::Call { call: *call, id: id.clone(), name: name.clone() }, "", out)
            }
            ChatEvent::ToolArguments { call, json, .. } => self.arguments(*call, json, out),
            ChatEvent::Finish { reason, .. } => {
                self.end_blocks(out);
                self.reason = Some(reason.clone());
                Ok(())
            }
            // Anthropic's format has no place for tokens.
            ChatEvent::Start { .. } | ChatEvent::Tokens { .. } | ChatEvent::Usage(_) => Ok(()),
        }
    }

    pub fn finish(&mut self, out: &mut String) {
        self.start(out);
        self.end_blocks(out);
        let (word, sequence) = stop_reason(self.reason.as_ref(), self.called, self.refused);
        let delta = json!({
            "type": "message_delta",
            "delta": {"stop_reason": word, "stop_sequence": sequence},
            "usage": usage_value(&self.usage),
        });
        frame("message_delta", &delta, out);
        frame("message_stop", &json!({"type": "message_stop"}), out);
    }

    fn start(&mut self, out: &mut String) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let message = message(&self.head, Vec::new(), None, None, &self.usage);
        frame("message_start", &json!({"type": "message_start", "message": message}), out);
    }

    /// A piece of a block of this kind: of the open one, of the last that waits, or of a new one.
    fn piece(&mut self, kind: BlockKind, text: &str, out: &mut String) -> Result<(), EncodeError> {
        let joins = |block: &Block| {
            block.kind == kind
                && !matches!(kind, BlockKind::Redacted | BlockKind::Call { .. } | BlockKind::Signature)
        };
        match (self.waiting.back_mut(), &mut self.open) {
            (Some(last), _) if joins(last) => {
                last.content.push_str(text);
                self.waiting_bytes += text.len();
            }
            (None, Some(open)) if joins(open) => {
                self.delta(&kind, text, out);
                return Ok(());
            }
            _ => {
                self.waiting_bytes += text.len();
                self.waiting.push_back(Block { kind, content: text.to_owned() });
            }
        }
        self.advance(false, out);
        self.check_waiting()
    }

    fn arguments(&mut self, call: u32, json: &str, out: &mut String) -> Result<(), EncodeError> {
        if let Some(open) = self.open.as_mut().filter(|open| open.kind.is_call(call)) {
            if open.content.len() + json.len() > WAITING_BYTES_MAX {
                return Err(EncodeError::WaitingTooLarge { bytes_max: WAITING_BYTES_MAX });
            }
            open.content.push_str(json);
            let kind = open.kind.clone();
            self.delta(&kind, json, out);
            self.advance(false, out);
            return Ok(());
        }
        if let Some(block) = self.waiting.iter_mut().find(|block| block.kind.is_call(call)) {
            block.content.push_str(json);
            self.waiting_bytes += json.len();
            return self.check_waiting();
        }
        // White space behind complete arguments says nothing.
        if self.ended_calls.contains(&call) && json.trim().is_empty() {
            return Ok(());
        }
        Err(EncodeError::ClosedCall(call))
    }

    fn check_waiting(&self) -> Result<(), EncodeError> {
        if self.waiting_bytes > WAITING_BYTES_MAX {
            return Err(EncodeError::WaitingTooLarge { bytes_max: WAITING_BYTES_MAX });
        }
        Ok(())
    }

    /// Begins the blocks that wait, as far as those before them have ended; all of them where
    /// nothing more will come.
    fn advance(&mut self, all: bool, out: &mut String) {
        while !self.waiting.is_empty() && (all || self.open.as_ref().is_none_or(Block::may_end)) {
            let Some(next) = self.waiting.pop_front() else { return };
            self.waiting_bytes -= next.content.len();
            let thinking = self.open.as_ref().is_some_and(|open| open.kind == BlockKind::Thinking);
            if !(next.kind == BlockKind::Signature && thinking) {
                self.end_block(out);
                self.begin_block(&next, out);
            }
            if !next.content.is_empty() && next.kind != BlockKind::Redacted {
                self.delta(&next.kind, &next.content, out);
            }
            self.open = Some(next);
        }
    }

    fn end_blocks(&mut self, out: &mut String) {
        self.advance(true, out);
        self.end_block(out);
    }

    fn begin_block(&self, block: &Block, out: &mut String) {
        let start = match &block.kind {
            BlockKind::Text => json!({"type": "text", "text": ""}),
            BlockKind::Thinking | BlockKind::Signature => {
                json!({"type": "thinking", "thinking": "", "signature": ""})
            }
            BlockKind::Redacted => json!({"type": "redacted_thinking", "data": block.content}),
            BlockKind::Call { id, name, .. } => {
                json!({"type": "tool_use", "id": id, "name": name, "input": {}})
            }
        };
        let event = json!({"type": "content_block_start", "index": self.next_index, "content_block": start});
        frame("content_block_start", &event, out);
    }

    fn end_block(&mut self, out: &mut String) {
        let Some(block) = self.open.take() else { return };
        if let BlockKind::Call { call, .. } = block.kind {
            self.ended_calls.push(call);
        }
        let index = self.next_index;
        self.next_index += 1;
        frame("content_block_stop", &json!({"type": "content_block_stop", "index": index}), out);
    }

    /// A delta of the open block, which has the next index until it ends.
    fn delta(&self, kind: &BlockKind, text: &str, out: &mut String) {
        let (delta, field) = match kind {
            BlockKind::Text => ("text_delta", "text"),
            BlockKind::Thinking => ("thinking_delta", "thinking"),
            BlockKind::Signature => ("signature_delta", "signature"),
            BlockKind::Call { .. } => ("input_json_delta", "partial_json"),
            BlockKind::Redacted => return,
        };
        out.push_str("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":");
        let _ = write!(out, "{},\"delta\":{{\"type\":\"{delta}\",\"{field}\":", self.next_index);
        push_json(out, text);
        out.push_str("}}\n\n");
    }
}

impl Block {
    /// Whether another block may begin: not while a call's arguments are in pieces.
    fn may_end(&self) -> bool {
        !matches!(self.kind, BlockKind::Call { .. }) || is_complete(&self.content)
    }
}

/// Whether this is the whole JSON of a call's arguments. Pieces that do not end an object are told
/// without parsing.
fn is_complete(json: &str) -> bool {
    json.trim_end().ends_with('}') && serde_json::from_str::<IgnoredAny>(json).is_ok()
}

fn frame(event: &str, data: &Value, out: &mut String) {
    let _ = write!(out, "event: {event}\ndata: ");
    push_json(out, data);
    out.push_str("\n\n");
}

/// `stop_reason` and `stop_sequence`. Many servers of OpenAI's format end a message that calls
/// tools with "stop"; a caller of this one acts on `tool_use` only.
fn stop_reason(reason: Option<&StopReason>, called: bool, refused: bool) -> (&'static str, Option<&str>) {
    match reason {
        Some(StopReason::Length) => ("max_tokens", None),
        Some(StopReason::StopSequence(Some(sequence))) => ("stop_sequence", Some(sequence)),
        Some(StopReason::ToolCalls) => ("tool_use", None),
        Some(StopReason::Refusal) => ("refusal", None),
        Some(StopReason::Pause) => ("pause_turn", None),
        _ if called => ("tool_use", None),
        _ if refused => ("refusal", None),
        Some(StopReason::StopSequence(None)) => ("stop_sequence", None),
        Some(StopReason::End | StopReason::Other(_)) | None => ("end_turn", None),
    }
}

fn usage_value(usage: &TokenUsage) -> Value {
    let cached = usage.cached.saturating_add(usage.cache_written);
    let mut value = json!({
        "input_tokens": usage.input.saturating_sub(cached),
        "cache_creation_input_tokens": usage.cache_written,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.output,
    });
    if usage.reasoning > 0 {
        value["output_tokens_details"] = json!({"thinking_tokens": usage.reasoning});
    }
    value
}

fn message(
    head: &AnswerHead,
    content: Vec<Value>,
    stop_reason: Option<&str>,
    stop_sequence: Option<&str>,
    usage: &TokenUsage,
) -> Value {
    json!({
        "id": head.id,
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "usage": usage_value(usage),
    })
}

/// A whole message. A call that the bound on tokens cut off in its arguments has an empty input;
/// other arguments that are no object are an error.
pub fn whole(head: &AnswerHead, events: &[ChatEvent]) -> Result<Value, EncodeError> {
    let (choices, usage) = collect(events)?;
    let choice = choices.into_iter().find(|choice| choice.choice == 0).unwrap_or_default();
    let (mut content, mut called, mut refused) = (Vec::new(), false, false);
    for part in choice.parts {
        content.push(match part {
            Part::Text(text) => json!({"type": "text", "text": text}),
            Part::Refusal(text) => {
                refused = true;
                json!({"type": "text", "text": text})
            }
            Part::Reasoning { text, signature } => {
                json!({"type": "thinking", "thinking": text, "signature": signature.unwrap_or_default()})
            }
            Part::Redacted(data) => json!({"type": "redacted_thinking", "data": data}),
            Part::Call { id, name, arguments, .. } => {
                called = true;
                let input = input(&arguments);
                let input = match input.or((choice.reason == Some(StopReason::Length)).then(|| json!({}))) {
                    Some(input) => input,
                    None => {
                        return Err(EncodeError::BadArguments {
                            name,
                            beginning: beginning(arguments.as_bytes()),
                        });
                    }
                };
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
        });
    }
    let (word, sequence) = stop_reason(choice.reason.as_ref(), called, refused);
    Ok(message(head, content, Some(word), sequence, &usage.unwrap_or_default()))
}

/// A call's arguments as an object; none at all are an empty one.
fn input(arguments: &str) -> Option<Value> {
    if arguments.trim().is_empty() {
        return Some(json!({}));
    }
    serde_json::from_str::<Value>(arguments).ok().filter(Value::is_object)
}
