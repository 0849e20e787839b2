//! Reads chunks and whole chat completions. One type serves both: a whole answer's `message` is
//! one large delta.
//!
//! What OpenAI's kin do differently and is understood:
//! - reasoning as `reasoning_content` (DeepSeek, Qwen, SGLang, older vLLM), `reasoning` (OpenRouter,
//!   newer vLLM) or `thinking` parts of `content` (Mistral); its signatures and encrypted parts as
//!   `reasoning_details` (OpenRouter);
//! - tool calls without `index`, without `id`, all with index 0, with the id or the name repeated
//!   in every delta, with arguments as an object; the old `function_call`;
//! - usage in the last chunk, beside `finish_reason`, in every chunk or within a choice; cached
//!   tokens as `prompt_cache_hit_tokens` (DeepSeek) or `cached_tokens` (Moonshot); reasoning that
//!   `completion_tokens` leaves out (xAI, Gemini: seen from the total);
//! - the stop string as `stop_reason` (vLLM) or `matched_stop` (SGLang);
//! - `finish_reason` as "" for none; null for anything that is absent.
//!
//! Not carried by events, so lost in translation: logprobs, audio, annotations,
//! `system_fingerprint`, `service_tier`.

use super::super::decode::{DecodeError, Progress, error_in, parse};
use super::super::{ChatEvent, StopReason, TokenUsage};
use crate::gateway::wire::frames::Frame;
use crate::gateway::wire::json::{Count, JsonText, Text, filled};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// Choices that one answer may have.
const CHOICES_MAX: u32 = 128;
/// Tool calls that one choice may have.
const CALLS_MAX: usize = 1024;
/// Bytes of arguments that may come before the names of a choice's calls.
const NAMELESS_BYTES_MAX: usize = 1 << 20;
/// Bytes of a call's id.
const ID_BYTES_MAX: usize = 1024;

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    object: Option<Text<'a>>,
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    usage: Option<Usage>,
    /// Only whether it is there: errors are read again, at leisure.
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: Option<u32>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    message: Option<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
    /// A string is the stop string that matched; a number is a token.
    stop_reason: Option<Value>,
    matched_stop: Option<Value>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Content<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning: Option<Text<'a>>,
    reasoning_details: Option<Vec<ReasoningDetail>>,
    #[serde(borrow)]
    refusal: Option<Text<'a>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolDelta<'a>>>,
    #[serde(borrow)]
    function_call: Option<Function<'a>>,
}

/// A string, or parts (Mistral).
#[derive(Deserialize)]
#[serde(untagged)]
enum Content<'a> {
    #[serde(borrow)]
    Text(Text<'a>),
    Parts(Vec<Value>),
}

#[derive(Deserialize)]
struct ReasoningDetail {
    text: Option<String>,
    signature: Option<String>,
    data: Option<String>,
}

impl ReasoningDetail {
    fn text(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct ToolDelta<'a> {
    index: Option<u32>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    arguments: Option<JsonText<'a>>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Count,
    completion_tokens: Count,
    total_tokens: Count,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
    prompt_cache_hit_tokens: Count,
    cached_tokens: Count,
    cache_creation_input_tokens: Count,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Count,
    cache_write_tokens: Count,
}

#[derive(Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Count,
}

impl Usage {
    fn tokens(&self) -> TokenUsage {
        let prompt = self.prompt_tokens_details.as_ref();
        let input = self.prompt_tokens.unwrap_or(0);
        let output = self.completion_tokens.unwrap_or(0);
        let reasoning = self.completion_tokens_details.as_ref().and_then(|d| d.reasoning_tokens).unwrap_or(0);
        let sum = |parts: [u64; 3]| parts.into_iter().fold(0, u64::saturating_add);
        // Where the total has the reasoning on top of both, the completion leaves it out.
        let apart = reasoning > 0 && self.total_tokens == Some(sum([input, output, reasoning]));
        TokenUsage {
            input,
            cached: prompt
                .and_then(|d| d.cached_tokens)
                .or(self.prompt_cache_hit_tokens)
                .or(self.cached_tokens)
                .unwrap_or(0),
            cache_written: prompt
                .and_then(|d| d.cache_write_tokens)
                .or(self.cache_creation_input_tokens)
                .unwrap_or(0),
            cache_written_1h: 0,
            output: if apart { output.saturating_add(reasoning) } else { output },
            reasoning,
        }
    }
}

/// A stream's state.
#[derive(Debug, Default)]
pub struct OpenAiDecoder {
    started: bool,
    choices: Vec<ChoiceState>,
    usage: Option<TokenUsage>,
}

#[derive(Debug)]
struct ChoiceState {
    choice: u32,
    calls: Vec<CallState>,
    finished: bool,
}

#[derive(Debug)]
struct CallState {
    /// The upstream's index.
    index: Option<u32>,
    /// The upstream's id.
    id: String,
    /// Whether the call's event is out; before it, its name has not come.
    begun: bool,
    /// Arguments that came before the name.
    early: String,
}

impl OpenAiDecoder {
    pub fn frame(&mut self, frame: &Frame, out: &mut Vec<ChatEvent>) -> Result<Progress, DecodeError> {
        let text = frame.data.trim();
        if text.is_empty() {
            return Ok(Progress::More);
        }
        if text == "[DONE]" {
            if !self.started {
                return Err(DecodeError::EndedEarly("[DONE] came before anything else"));
            }
            self.finish_all(text, out)?;
            return Ok(Progress::Done);
        }
        if frame.event.as_deref() == Some("error") {
            return Err(error_in(text));
        }
        let chunk: Chunk = parse(text)?;
        self.chunk(&chunk, text, out)?;
        Ok(Progress::More)
    }

    pub fn is_finished(&self) -> bool {
        !self.choices.is_empty() && self.choices.iter().all(|choice| choice.finished)
    }

    /// Choices that have begun.
    pub fn choices(&self) -> usize {
        self.choices.len()
    }

    fn chunk(&mut self, chunk: &Chunk, text: &str, out: &mut Vec<ChatEvent>) -> Result<(), DecodeError> {
        if chunk.error.is_some() || filled(&chunk.object) == Some("error") {
            return Err(error_in(text));
        }
        if chunk.choices.is_none() && chunk.usage.is_none() {
            return Err(DecodeError::shape("there are no `choices`", text));
        }
        if !self.started {
            self.started = true;
            let owned = |text| filled(text).map(str::to_owned);
            out.push(ChatEvent::Start { id: owned(&chunk.id), model: owned(&chunk.model) });
        }
        let mut usage = chunk.usage.as_ref();
        for choice in chunk.choices.iter().flatten() {
            self.choice(choice, text, out)?;
            usage = usage.or(choice.usage.as_ref());
        }
        if let Some(usage) = usage.map(Usage::tokens)
            && self.usage != Some(usage)
        {
            self.usage = Some(usage);
            out.push(ChatEvent::Usage(usage));
        }
        Ok(())
    }

    fn choice(&mut self, wire: &Choice, text: &str, out: &mut Vec<ChatEvent>) -> Result<(), DecodeError> {
        let choice = wire.index.unwrap_or(0);
        if choice >= CHOICES_MAX {
            return Err(DecodeError::shape(
                format!("a choice's index is {choice}; at most {} is read", CHOICES_MAX - 1),
                text,
            ));
        }
        let at = self.choices.iter().position(|state| state.choice == choice).unwrap_or_else(|| {
            self.choices.push(ChoiceState { choice, calls: Vec::new(), finished: false });
            self.choices.len() - 1
        });
        let state = &mut self.choices[at];
        if let Some(delta) = wire.delta.as_ref().or(wire.message.as_ref()) {
            state.delta(delta, wire.delta.is_none(), text, out)?;
        }
        if let Some(word) = filled(&wire.finish_reason)
            && !state.finished
        {
            let matched =
                [&wire.stop_reason, &wire.matched_stop].into_iter().flatten().find_map(Value::as_str);
            let reason = match (word, matched) {
                ("stop", Some(matched)) => StopReason::StopSequence(Some(matched.to_owned())),
                _ => stop_reason(word),
            };
            state.finish(reason, text, out)?;
        }
        Ok(())
    }

    /// Ends what the upstream left open when it said that it was done.
    fn finish_all(&mut self, text: &str, out: &mut Vec<ChatEvent>) -> Result<(), DecodeError> {
        for state in self.choices.iter_mut().filter(|state| !state.finished) {
            let reason = if state.calls.is_empty() { StopReason::End } else { StopReason::ToolCalls };
            state.finish(reason, text, out)?;
        }
        Ok(())
    }
}

fn stop_reason(word: &str) -> StopReason {
    match word {
        "stop" => StopReason::End,
        "length" => StopReason::Length,
        "tool_calls" | "function_call" => StopReason::ToolCalls,
        "content_filter" => StopReason::Refusal,
        other => StopReason::Other(other.to_owned()),
    }
}

impl ChoiceState {
    /// `whole`: it is a message, each of whose calls is another one.
    fn delta(
        &mut self,
        delta: &Delta,
        whole: bool,
        text: &str,
        out: &mut Vec<ChatEvent>,
    ) -> Result<(), DecodeError> {
        let choice = self.choice;
        let reasoning = filled(&delta.reasoning_content).or(filled(&delta.reasoning));
        let details = delta.reasoning_details.as_deref().unwrap_or_default();
        // The details repeat the reasoning of their own delta, piece by piece between signatures
        // (OpenRouter), or are all there is (MiniMax). A signed text without reasoning beside it
        // repeats what came before ([`super::encode`]).
        let repeats =
            reasoning.is_some_and(|all| details.iter().map(ReasoningDetail::text).collect::<String>() == all);
        if let Some(text) = reasoning.filter(|_| !repeats) {
            out.push(ChatEvent::Reasoning { choice, text: text.to_owned() });
        }
        for detail in details {
            let signature = detail.signature.clone().filter(|signature| !signature.is_empty());
            if !detail.text().is_empty() && (repeats || (reasoning.is_none() && signature.is_none())) {
                out.push(ChatEvent::Reasoning { choice, text: detail.text().to_owned() });
            }
            if let Some(signature) = signature {
                out.push(ChatEvent::Signature { choice, signature });
            }
            if let Some(data) = detail.data.clone().filter(|data| !data.is_empty()) {
                out.push(ChatEvent::RedactedReasoning { choice, data });
            }
        }
        match &delta.content {
            Some(Content::Text(text)) => {
                if let Some(text) = text.filled() {
                    out.push(ChatEvent::Text { choice, text: text.to_owned() });
                }
            }
            Some(Content::Parts(parts)) => parts.iter().for_each(|part| part_events(choice, part, out)),
            None => {}
        }
        if let Some(text) = filled(&delta.refusal) {
            out.push(ChatEvent::Refusal { choice, text: text.to_owned() });
        }
        for call in delta.tool_calls.iter().flatten() {
            let id = filled(&call.id);
            let named = call.function.as_ref().is_some_and(|function| filled(&function.name).is_some());
            let found = if whole { None } else { self.find_call(call.index, id, named) };
            self.call(found, call.index, id, call.function.as_ref(), text, out)?;
        }
        if let Some(function) = &delta.function_call {
            let found = self.find_call(Some(0), None, filled(&function.name).is_some());
            self.call(found, Some(0), None, Some(function), text, out)?;
        }
        Ok(())
    }

    /// The call that a delta belongs to; None for a new one.
    fn find_call(&self, index: Option<u32>, id: Option<&str>, named: bool) -> Option<usize> {
        let by = |found: &dyn Fn(&CallState) -> bool| self.calls.iter().rposition(found);
        let last = self.calls.len().checked_sub(1);
        match (index, id) {
            (Some(index), id) => by(&|call| call.index == Some(index)).filter(|&at| {
                // A server that gives every call the index 0 tells them apart by id and name; one
                // that makes up an id for every delta sends the name only once.
                !(named && id.is_some_and(|id| !self.calls[at].id.is_empty() && self.calls[at].id != id))
            }),
            (None, Some(id)) => by(&|call| call.id == id).or(if named { None } else { last }),
            (None, None) => last.filter(|_| !named),
        }
    }

    /// A piece of the call at this place, or of a new one.
    fn call(
        &mut self,
        found: Option<usize>,
        index: Option<u32>,
        id: Option<&str>,
        function: Option<&Function>,
        text: &str,
        out: &mut Vec<ChatEvent>,
    ) -> Result<(), DecodeError> {
        let choice = self.choice;
        let name = function.and_then(|function| filled(&function.name));
        let json = function.and_then(|function| function.arguments.as_ref()).and_then(|json| json.0.filled());
        if id.is_some_and(|id| id.len() > ID_BYTES_MAX) {
            let reason = format!("a tool call's id is over {ID_BYTES_MAX} bytes");
            return Err(DecodeError::shape(reason, text));
        }
        let at = match found {
            Some(at) => at,
            None if self.calls.len() == CALLS_MAX => {
                return Err(DecodeError::shape(format!("more than {CALLS_MAX} tool calls"), text));
            }
            None => {
                let id = id.unwrap_or_default().to_owned();
                self.calls.push(CallState { index, id, begun: false, early: String::new() });
                self.calls.len() - 1
            }
        };
        let nameless: usize = self.calls.iter().map(|call| call.early.len()).sum();
        let state = &mut self.calls[at];
        if state.id.is_empty() {
            id.unwrap_or_default().clone_into(&mut state.id);
        }
        let call = at as u32;
        if let Some(name) = name.filter(|_| !state.begun) {
            state.begun = true;
            if state.id.is_empty() {
                state.id = format!("call_{}", &uuid::Uuid::new_v4().simple().to_string()[..24]);
            }
            out.push(ChatEvent::ToolCall { choice, call, id: state.id.clone(), name: name.to_owned() });
            if !state.early.is_empty() {
                out.push(ChatEvent::ToolArguments { choice, call, json: std::mem::take(&mut state.early) });
            }
        }
        let Some(json) = json else { return Ok(()) };
        if state.begun {
            out.push(ChatEvent::ToolArguments { choice, call, json: json.to_owned() });
        } else if nameless + json.len() > NAMELESS_BYTES_MAX {
            let reason =
                format!("over {NAMELESS_BYTES_MAX} bytes of arguments came before their calls' names");
            return Err(DecodeError::shape(reason, text));
        } else {
            state.early.push_str(json);
        }
        Ok(())
    }

    fn finish(
        &mut self,
        reason: StopReason,
        text: &str,
        out: &mut Vec<ChatEvent>,
    ) -> Result<(), DecodeError> {
        if self.calls.iter().any(|call| !call.begun) {
            return Err(DecodeError::shape("a tool call has no name", text));
        }
        self.finished = true;
        out.push(ChatEvent::Finish { choice: self.choice, reason });
        Ok(())
    }
}

/// A part of `content`: `{"type": "text", "text"}` or `{"type": "thinking", "thinking": [parts]}`.
fn part_events(choice: u32, part: &Value, out: &mut Vec<ChatEvent>) {
    let text_of = |part: &Value| part.get("text").and_then(Value::as_str).map(str::to_owned);
    if let Some(text) = text_of(part).filter(|text| !text.is_empty()) {
        out.push(ChatEvent::Text { choice, text });
    }
    let thinking = match part.get("thinking") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().filter_map(text_of).collect(),
        _ => return,
    };
    if !thinking.is_empty() {
        out.push(ChatEvent::Reasoning { choice, text: thinking });
    }
}

/// Reads a whole chat completion.
pub fn whole(text: &str) -> Result<Vec<ChatEvent>, DecodeError> {
    let chunk: Chunk = parse(text)?;
    let mut decoder = OpenAiDecoder::default();
    let mut events = Vec::new();
    decoder.chunk(&chunk, text, &mut events)?;
    if decoder.choices.is_empty() {
        return Err(DecodeError::shape("`choices` is empty", text));
    }
    if chunk.choices.iter().flatten().any(|choice| choice.message.is_none()) {
        return Err(DecodeError::shape("a choice has no `message`", text));
    }
    // Choices that name no reason finish before the usage, which stays last.
    let usage = decoder.usage.and_then(|_| events.pop());
    decoder.finish_all(text, &mut events)?;
    events.extend(usage);
    Ok(events)
}
