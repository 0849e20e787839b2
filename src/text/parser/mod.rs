//! The raw text that a model writes, as events: text, reasoning, and calls of tools. It arrives
//! detokenised, in pieces of any size, and goes on at once.
//!
//! [`AnswerFormat`] says how a family writes both, and is found from the words of its chat template.
//! [`AnswerParser`] is a machine over single characters: what it emits is a function of the text alone,
//! so it cannot matter where pieces end. Every character costs a bounded amount of work; what is held back
//! is never gone through again from its beginning.
//!
//! What is emitted, and when:
//! - Text and reasoning go out as they come. Held back is only what may still be the beginning of a marker;
//!   white space before a marker belongs to it. So white space around calls is left out, except where it
//!   parts two pieces of text, and so are line breaks on the inner sides of reasoning tags and after them,
//!   as chat templates write them.
//! - A reasoning block opens the answer: the template has opened it, or the model's first word does. It
//!   ends at its closing tag, or with the answer; another may follow it directly. A `<think>` later in the
//!   answer is text. Calls inside the block are reasoning: a model that goes from a block that it never
//!   closes straight to a call has made no call. Kimi K2's section of calls alone ends the block: its marker
//!   is a token of its own, and the model is known to go on so.
//! - Of a call the name comes first, then the arguments as pieces of JSON, then the end. Arguments
//!   that the model writes as JSON are passed on as it wrote them. Arguments in tags or as Python literals are
//!   converted by the tool's JSON schema. A finished call without arguments has the arguments `{}`.
//! - What was no call after all is emitted as the text that it was, byte for byte: what breaks off before its
//!   name is whole, and a call of a tool that the request does not offer (its whole text, to its closing
//!   marker). After the name was emitted nothing can be taken back: arguments stay as they were up
//!   to where they broke, the call ends there, and what follows is text, without the call's closing markers.
//! - Where a grammar holds an answer to calls or a text, the first word says which: a text has no calls in it, whatever
//!   it quotes.
//! - An answer may end anywhere. Every call that began also ends; arguments that were cut off stay so.
//!
//! Memory: beside what goes out at once, at most a MiB of an attempt at a call whose name has not come yet
//! (more than that is no call) or of a value that can be typed only as a whole (more than that goes
//! out unchecked), and 256 bytes of white space.
//!
//! Absent on purpose: ids of calls (but those that a format carries itself), validation of arguments by
//! their schema, and dialects of APIs: those are the callers' business.

mod format;
mod harmony;
mod json;
mod json_call;
mod marked_call;
mod output;
mod python_literal;
mod pythonic_call;
mod scan;
mod schema;
mod tagged_call;
mod think;
mod typed_value;

#[cfg(test)]
mod tests;

pub use format::{AnswerFormat, ReasoningFormat, ToolFormat, reasoning_is_open};
pub use output::ParsedEvent;

use harmony::Harmony;
use json_call::JsonCalls;
use marked_call::MarkedCalls;
use output::Output;
use pythonic_call::PythonicCalls;
use serde_json::Value;
use std::sync::Arc;
use tagged_call::TaggedCalls;
use think::Think;

/// The longest attempt at a call, or value of unknown type, that is held back.
const HELD_BYTES_MAX: usize = 1 << 20;
/// The longest run of white space that is held back as the possible beginning of a marker.
const WHITE_BYTES_MAX: usize = 256;
/// The longest name of a tool or of a parameter.
const NAME_BYTES_MAX: usize = 256;

/// A tool that a request offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// What it is called by.
    pub name: String,
    /// The JSON schema of its arguments.
    pub parameters: Value,
}

/// What the parser has to know of a request.
#[derive(Clone, Debug, Default)]
pub struct ParserOptions {
    /// The rendered prompt ends inside the reasoning block (see [`reasoning_is_open`]).
    pub reasoning_is_open: bool,
    /// The tools that the request offers. Where there are none, what looks like a call is text.
    pub tools: Arc<[Tool]>,
    /// The answer is held to a grammar: it is calls or a text, and its beginning says which. What looks like a call
    /// within a text is text.
    pub text_is_held: bool,
}

/// Turns one choice's text into events as it comes.
#[derive(Debug)]
pub struct AnswerParser {
    /// While the answer may still be reasoning.
    think: Option<Think>,
    content: Content,
    output: Output,
    text_is_held: bool,
}

/// What reads the text outside of reasoning.
#[derive(Debug)]
enum Content {
    Text,
    Json(Box<JsonCalls>),
    Marked(Box<MarkedCalls>),
    Tagged(Box<TaggedCalls>),
    Pythonic(Box<PythonicCalls>),
    /// Reasoning too.
    Harmony(Harmony),
}

impl AnswerParser {
    /// For one choice of one request.
    pub fn new(format: &AnswerFormat, options: ParserOptions) -> Self {
        let tools = format.tools.filter(|_| !options.tools.is_empty());
        if format.reasoning == Some(ReasoningFormat::Harmony) || format.tools == Some(ToolFormat::Harmony) {
            let tools = if tools == Some(ToolFormat::Harmony) { options.tools } else { Arc::default() };
            let content = Content::Harmony(Harmony::new(tools, options.reasoning_is_open));
            let text_is_held = options.text_is_held;
            return Self { think: None, content, output: Output::default(), text_is_held };
        }
        let think = format
            .reasoning
            .map(ReasoningFormat::tags)
            .map(|(open, close)| Think::new(open, close, options.reasoning_is_open))
            .map(|think| match tools.and_then(ToolFormat::ends_reasoning) {
                Some(marker) => think.ended_by(marker),
                None => think,
            });
        let marked = |calls: MarkedCalls| Content::Marked(Box::new(calls));
        let tagged = |calls: TaggedCalls| Content::Tagged(Box::new(calls));
        let content = match tools {
            // Harmony has been dealt with.
            None | Some(ToolFormat::Harmony) => Content::Text,
            Some(ToolFormat::Hermes) => {
                let calls = JsonCalls::hermes(options.tools);
                Content::Json(Box::new(if options.text_is_held { calls.in_tags_alone() } else { calls }))
            }
            Some(ToolFormat::LlamaJson) => Content::Json(Box::new(JsonCalls::llama(options.tools))),
            Some(ToolFormat::DeepSeekV3) => marked(MarkedCalls::deepseek_v3(options.tools)),
            Some(ToolFormat::DeepSeekV31) => marked(MarkedCalls::deepseek_v31(options.tools)),
            Some(ToolFormat::DeepSeekR1) => marked(MarkedCalls::deepseek_r1(options.tools)),
            Some(ToolFormat::KimiK2) => marked(MarkedCalls::kimi_k2(options.tools)),
            Some(ToolFormat::Mistral | ToolFormat::MistralList) => {
                Content::Json(Box::new(JsonCalls::mistral(options.tools)))
            }
            Some(ToolFormat::DeepSeekV32 | ToolFormat::DeepSeekV4) => {
                tagged(TaggedCalls::dsml(options.tools))
            }
            Some(ToolFormat::QwenXml) => tagged(TaggedCalls::qwen(options.tools)),
            Some(ToolFormat::MiniMaxM2) => tagged(TaggedCalls::minimax(options.tools)),
            Some(ToolFormat::Pythonic) => Content::Pythonic(Box::new(PythonicCalls::new(options.tools))),
            Some(ToolFormat::Glm4) => tagged(TaggedCalls::glm(options.tools)),
        };
        Self { think, content, output: Output::default(), text_is_held: options.text_is_held }
    }

    /// More of the answer. What is certain by now is added to `events`.
    pub fn push(&mut self, text: &str, events: &mut Vec<ParsedEvent>) {
        for c in text.chars() {
            match &mut self.think {
                None => self.push_content_char(c),
                Some(think) => {
                    if let Some(content) = think.push(c, &mut self.output) {
                        self.think = None;
                        self.push_content(&content);
                    }
                }
            }
        }
        self.output.move_to(events);
    }

    /// The answer has ended: what was held back is emitted, and a call that is open ends.
    pub fn finish(&mut self, events: &mut Vec<ParsedEvent>) {
        if let Some(mut think) = self.think.take() {
            let content = think.finish(&mut self.output);
            self.push_content(&content);
        }
        self.content.finish(&mut self.output);
        self.output.end_call();
        self.output.move_to(events);
    }

    /// Whether the answer has called a tool so far.
    pub fn called(&self) -> bool {
        self.output.calls() > 0
    }

    fn push_content(&mut self, text: &str) {
        text.chars().for_each(|c| self.push_content_char(c));
    }

    fn push_content_char(&mut self, c: char) {
        self.content.push(c, &mut self.output);
        if self.text_is_held && self.output.begins_with_text() && !matches!(self.content, Content::Text) {
            self.content.finish(&mut self.output);
            self.content = Content::Text;
        }
    }
}

impl Content {
    fn push(&mut self, c: char, output: &mut Output) {
        match self {
            Self::Text => output.text_char(c),
            Self::Json(calls) => calls.push(c, output),
            Self::Marked(calls) => calls.push(c, output),
            Self::Tagged(calls) => calls.push(c, output),
            Self::Pythonic(calls) => calls.push(c, output),
            Self::Harmony(messages) => messages.push(c, output),
        }
    }

    fn finish(&mut self, output: &mut Output) {
        match self {
            Self::Text => {}
            Self::Json(calls) => calls.finish(output),
            Self::Marked(calls) => calls.finish(output),
            Self::Tagged(calls) => calls.finish(output),
            Self::Pythonic(calls) => calls.finish(output),
            Self::Harmony(messages) => messages.finish(output),
        }
    }
}
