//! Reads the events of a message's stream and whole messages
//! (<https://docs.anthropic.com/en/docs/build-with-claude/streaming>).
//!
//! Blocks of tools that the upstream runs itself (`server_tool_use`, `web_search_tool_result` and
//! so on) and citations have no place in OpenAI's format and make no events; so do events and deltas
//! of unknown types, as Anthropic asks. What passes through to the same dialect keeps them all.
//! Adjacent blocks of text become one text. A server may send a whole tool input, text or
//! signature in a block's start; it counts.

use super::super::decode::{DecodeError, Progress, error_in, parse};
use super::super::{ChatEvent, StopReason, TokenUsage};
use crate::gateway::wire::frames::Frame;
use crate::gateway::wire::json::{Count, Text, filled};
use serde::Deserialize;
use serde_json::Value;

/// Blocks that one message may have.
const BLOCKS_MAX: usize = 4096;
/// Bytes of signatures and inputs that wait for their blocks' ends.
const WAITING_BYTES_MAX: usize = 2 << 20;

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    index: Option<u32>,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    #[serde(borrow)]
    content_block: Option<Block<'a>>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    content: Option<Vec<Block<'a>>>,
    #[serde(borrow)]
    stop_reason: Option<Text<'a>>,
    #[serde(borrow)]
    stop_sequence: Option<Text<'a>>,
    stop_details: Option<StopDetails>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(borrow)]
    signature: Option<Text<'a>>,
    /// Of redacted thinking; other blocks have something else under this name.
    data: Option<Value>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    input: Option<Value>,
}

/// A delta of a block or of the message.
#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(borrow)]
    signature: Option<Text<'a>>,
    #[serde(borrow)]
    partial_json: Option<Text<'a>>,
    #[serde(borrow)]
    stop_reason: Option<Text<'a>>,
    #[serde(borrow)]
    stop_sequence: Option<Text<'a>>,
    stop_details: Option<StopDetails>,
}

#[derive(Deserialize)]
struct StopDetails {
    explanation: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    input_tokens: Count,
    cache_creation_input_tokens: Count,
    cache_read_input_tokens: Count,
    cache_creation: Option<CacheCreation>,
    output_tokens: Count,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Deserialize)]
struct CacheCreation {
    ephemeral_1h_input_tokens: Count,
}

#[derive(Deserialize)]
struct OutputDetails {
    thinking_tokens: Count,
}

/// A stream's state. There is one choice, 0.
#[derive(Debug, Default)]
pub struct AnthropicDecoder {
    started: bool,
    blocks: Vec<BlockState>,
    calls: u32,
    usage: UsageState,
    finished: bool,
}

#[derive(Debug)]
struct BlockState {
    index: u32,
    kind: BlockKind,
    /// The signature, which is whole only when the block ends.
    signature: String,
    /// A tool's input as the start of the block gave it.
    input: Option<String>,
    open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockKind {
    /// Text, thinking, redacted thinking.
    Plain,
    /// A tool call and whether arguments of it have come.
    Call { call: u32, arguments: bool },
    /// Not for us.
    Ignored,
}

/// The counts so far, which each later report replaces where it names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct UsageState {
    uncached: u64,
    read: u64,
    written: u64,
    written_1h: u64,
    output: u64,
    reasoning: u64,
    reported: Option<TokenUsage>,
}

impl UsageState {
    fn update(&mut self, usage: &Usage, out: &mut Vec<ChatEvent>) {
        // A closing report of no input at all comes from servers that counted it at the start only.
        let counts = [usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens];
        if counts.iter().flatten().any(|&count| count > 0) {
            self.uncached = usage.input_tokens.unwrap_or(self.uncached);
            self.read = usage.cache_read_input_tokens.unwrap_or(self.read);
            self.written = usage.cache_creation_input_tokens.unwrap_or(self.written);
            let for_an_hour = usage.cache_creation.as_ref().and_then(|it| it.ephemeral_1h_input_tokens);
            self.written_1h = for_an_hour.unwrap_or(self.written_1h);
        }
        self.output = usage.output_tokens.unwrap_or(self.output);
        let thinking = usage.output_tokens_details.as_ref().and_then(|details| details.thinking_tokens);
        self.reasoning = thinking.unwrap_or(self.reasoning);
        let tokens = TokenUsage {
            input: [self.uncached, self.read, self.written].into_iter().fold(0, u64::saturating_add),
            cached: self.read,
            cache_written: self.written,
            cache_written_1h: self.written_1h,
            output: self.output,
            reasoning: self.reasoning,
        };
        if self.reported != Some(tokens) {
            self.reported = Some(tokens);
            out.push(ChatEvent::Usage(tokens));
        }
    }
}

impl AnthropicDecoder {
    pub fn frame(&mut self, frame: &Frame, out: &mut Vec<ChatEvent>) -> Result<Progress, DecodeError> {
        let text = frame.data.trim();
        if text.is_empty() {
            return Ok(Progress::More);
        }
        if frame.event.as_deref() == Some("error") {
            return Err(error_in(text));
        }
        let event: Event = parse(text)?;
        match filled(&event.kind).or(frame.event.as_deref()) {
            Some("message_start") => self.start(event.message.as_ref(), out),
            Some("content_block_start") => {
                let block = event.content_block.as_ref();
                let block = block.ok_or_else(|| DecodeError::shape("there is no `content_block`", text))?;
                self.block_start(event.index.unwrap_or(0), block, text, out)?;
            }
            Some("content_block_delta") => {
                let delta = event.delta.as_ref();
                let delta = delta.ok_or_else(|| DecodeError::shape("there is no `delta`", text))?;
                self.block_delta(event.index.unwrap_or(0), delta, text, out)?;
            }
            Some("content_block_stop") => self.block_stop(event.index.unwrap_or(0), out),
            Some("message_delta") => {
                if let Some(usage) = &event.usage {
                    self.usage.update(usage, out);
                }
                if let Some(delta) = &event.delta
                    && let Some(word) = filled(&delta.stop_reason)
                {
                    self.finish(word, filled(&delta.stop_sequence), delta.stop_details.as_ref(), out);
                }
            }
            Some("message_stop") => {
                if !self.started {
                    return Err(DecodeError::EndedEarly("message_stop came before message_start"));
                }
                if !self.finished {
                    self.finish(if self.calls > 0 { "tool_use" } else { "end_turn" }, None, None, out);
                }
                return Ok(Progress::Done);
            }
            Some("error") => return Err(error_in(text)),
            // ping, and whatever will be added.
            Some(_) => {}
            None => return Err(DecodeError::shape("there is no `type`", text)),
        }
        Ok(Progress::More)
    }

    pub fn is_finished(&self) -> bool {
        self.finished
    }

    fn start(&mut self, message: Option<&Message>, out: &mut Vec<ChatEvent>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let owned = |text: Option<&Option<Text>>| text.and_then(filled).map(str::to_owned);
        let (id, model) = (owned(message.map(|m| &m.id)), owned(message.map(|m| &m.model)));
        out.push(ChatEvent::Start { id, model });
        if let Some(usage) = message.and_then(|message| message.usage.as_ref()) {
            self.usage.update(usage, out);
        }
    }

    fn block_start(
        &mut self,
        index: u32,
        block: &Block,
        text: &str,
        out: &mut Vec<ChatEvent>,
    ) -> Result<(), DecodeError> {
        if !self.started {
            return Err(DecodeError::shape("a block came before message_start", text));
        }
        if self.blocks.len() == BLOCKS_MAX {
            return Err(DecodeError::shape(format!("more than {BLOCKS_MAX} blocks"), text));
        }
        let mut input = None;
        let kind = match &*block.kind.0 {
            "text" => {
                out.extend(filled(&block.text).map(text_event));
                BlockKind::Plain
            }
            "thinking" => {
                out.extend(filled(&block.thinking).map(reasoning_event));
                BlockKind::Plain
            }
            "redacted_thinking" => {
                let data = block.data.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
                out.push(ChatEvent::RedactedReasoning { choice: 0, data });
                BlockKind::Plain
            }
            "tool_use" => {
                let name = filled(&block.name);
                let name = name.ok_or_else(|| DecodeError::shape("a tool call has no `name`", text))?;
                let id = match filled(&block.id) {
                    Some(id) => id.to_owned(),
                    None => format!("toolu_{}", &uuid::Uuid::new_v4().simple().to_string()[..24]),
                };
                let call = self.calls;
                self.calls += 1;
                out.push(ChatEvent::ToolCall { choice: 0, call, id, name: name.to_owned() });
                input = match &block.input {
                    Some(Value::Object(map)) if !map.is_empty() => block.input.as_ref().map(Value::to_string),
                    _ => None,
                };
                BlockKind::Call { call, arguments: false }
            }
            _ => BlockKind::Ignored,
        };
        let signature = filled(&block.signature).unwrap_or_default().to_owned();
        self.blocks.push(BlockState { index, kind, signature, input, open: true });
        self.check_waiting(0, text)
    }

    /// Whether so many bytes more may wait.
    fn check_waiting(&self, more: usize, text: &str) -> Result<(), DecodeError> {
        let waiting =
            |block: &BlockState| block.signature.len() + block.input.as_ref().map_or(0, String::len);
        if self.blocks.iter().map(waiting).sum::<usize>() + more > WAITING_BYTES_MAX {
            let reason = format!("over {WAITING_BYTES_MAX} bytes of blocks wait for their ends");
            return Err(DecodeError::shape(reason, text));
        }
        Ok(())
    }

    fn block_delta(
        &mut self,
        index: u32,
        delta: &Delta,
        text: &str,
        out: &mut Vec<ChatEvent>,
    ) -> Result<(), DecodeError> {
        if let Some(signature) = &delta.signature {
            self.check_waiting(signature.0.len(), text)?;
        }
        let Some(block) = self.blocks.iter_mut().rfind(|block| block.index == index) else {
            return Err(DecodeError::shape(format!("block {index} did not begin"), text));
        };
        match (filled(&delta.kind), &mut block.kind) {
            (_, BlockKind::Ignored) => {}
            (Some("text_delta"), _) => out.extend(filled(&delta.text).map(text_event)),
            (Some("thinking_delta"), _) => out.extend(filled(&delta.thinking).map(reasoning_event)),
            (Some("signature_delta"), _) => {
                block.signature.push_str(filled(&delta.signature).unwrap_or_default());
            }
            (Some("input_json_delta"), BlockKind::Call { call, arguments }) => {
                if let Some(json) = filled(&delta.partial_json) {
                    *arguments = true;
                    out.push(ChatEvent::ToolArguments { choice: 0, call: *call, json: json.to_owned() });
                }
            }
            (Some("input_json_delta"), BlockKind::Plain) => {
                return Err(DecodeError::shape(format!("block {index} is no tool call"), text));
            }
            // citations_delta, and whatever will be added.
            _ => {}
        }
        Ok(())
    }

    fn block_stop(&mut self, index: u32, out: &mut Vec<ChatEvent>) {
        if let Some(block) = self.blocks.iter_mut().rfind(|block| block.index == index) {
            block.stop(out);
        }
    }

    fn finish(
        &mut self,
        word: &str,
        sequence: Option<&str>,
        details: Option<&StopDetails>,
        out: &mut Vec<ChatEvent>,
    ) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.blocks.iter_mut().for_each(|block| block.stop(out));
        let reason = match word {
            "end_turn" => StopReason::End,
            "max_tokens" | "model_context_window_exceeded" => StopReason::Length,
            "stop_sequence" => StopReason::StopSequence(sequence.map(str::to_owned)),
            "tool_use" => StopReason::ToolCalls,
            "refusal" => StopReason::Refusal,
            "pause_turn" => StopReason::Pause,
            other => StopReason::Other(other.to_owned()),
        };
        if let (StopReason::Refusal, Some(text)) = (&reason, details.and_then(|d| d.explanation.clone())) {
            out.push(ChatEvent::Refusal { choice: 0, text });
        }
        out.push(ChatEvent::Finish { choice: 0, reason });
    }
}

impl BlockState {
    /// Says what is known only at a block's end. A call without arguments has an empty object.
    fn stop(&mut self, out: &mut Vec<ChatEvent>) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        let (input, signature) = (self.input.take(), std::mem::take(&mut self.signature));
        match self.kind {
            BlockKind::Call { call, arguments: false } => {
                let json = input.unwrap_or_else(|| "{}".to_owned());
                out.push(ChatEvent::ToolArguments { choice: 0, call, json });
            }
            BlockKind::Plain if !signature.is_empty() => {
                out.push(ChatEvent::Signature { choice: 0, signature });
            }
            _ => {}
        }
    }
}

fn text_event(text: &str) -> ChatEvent {
    ChatEvent::Text { choice: 0, text: text.to_owned() }
}

fn reasoning_event(text: &str) -> ChatEvent {
    ChatEvent::Reasoning { choice: 0, text: text.to_owned() }
}

/// Reads a whole message.
pub fn whole(text: &str) -> Result<Vec<ChatEvent>, DecodeError> {
    let message: Message = parse(text)?;
    if filled(&message.kind) == Some("error") {
        return Err(error_in(text));
    }
    let Some(blocks) = &message.content else {
        // A proxy's error of another shape than Anthropic's.
        let value: Value = parse(text)?;
        if value.get("error").is_some_and(|error| !error.is_null()) {
            return Err(error_in(text));
        }
        return Err(DecodeError::shape("there is no `content`", text));
    };
    let mut decoder = AnthropicDecoder::default();
    let mut events = Vec::new();
    decoder.start(Some(&message), &mut events);
    // The usage, the last event so far, is moved to the end.
    let usage = decoder.usage.reported.and_then(|_| events.pop());
    for (index, block) in blocks.iter().enumerate() {
        decoder.block_start(index as u32, block, text, &mut events)?;
        decoder.block_stop(index as u32, &mut events);
    }
    let word =
        filled(&message.stop_reason).unwrap_or(if decoder.calls > 0 { "tool_use" } else { "end_turn" });
    let (sequence, details) = (filled(&message.stop_sequence), message.stop_details.as_ref());
    decoder.finish(word, sequence, details, &mut events);
    events.extend(usage);
    Ok(events)
}
