//! Reasoning that an upstream leaves in its text, between `<think>` and `</think>`: a vLLM without a reasoning parser,
//! Ollama, a gateway that merges the two. It becomes `reasoning_content` in the upstream's own chunks and whole
//! answers, before anybody reads them, so that callers of every format get it as reasoning.
//!
//! Where the configuration says nothing, an answer is split whose very first text is the tag, and no other: a `<think>`
//! later on is text. The parser is that of our own models' answers. Arguments of tools are never looked into.
//!
//! What may still become a tag is held back, and told with the next piece of its choice, at the latest with its end.

use crate::config::ThinkTags;
use crate::gateway::wire::frames::Frame;
use crate::gateway::wire::json::Text;
use crate::text::{AnswerFormat, AnswerParser, ParsedEvent, ParserOptions, ReasoningFormat};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

/// What an answer without the tag never holds, however its JSON is escaped.
const TAG_LETTERS: &str = "think";
/// Where an upstream that splits by itself has its reasoning.
const REASONING_FIELDS: [&str; 4] = ["reasoning_content", "reasoning", "reasoning_details", "thinking"];

/// Splits one answer.
#[derive(Debug)]
pub struct ThinkSplitter {
    tags: ThinkTags,
    /// Choices whose text has begun.
    choices: Vec<(u64, Told)>,
    /// Choices that were asked for.
    expected: u64,
    /// What a chunk says beside its choices, for one of our own.
    head: Map<String, Value>,
}

/// What is known of a choice's text.
#[derive(Debug)]
enum Told {
    /// It may be reasoning.
    Read(Box<AnswerParser>),
    /// It is what it is, to its end.
    Plain,
}

/// As much of a chunk as says whether its text can begin with a tag.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning: Option<Text<'a>>,
    tool_calls: Option<Vec<IgnoredAny>>,
}

impl Default for ThinkSplitter {
    /// Splits nothing.
    fn default() -> Self {
        Self::new(ThinkTags::Keep, 1)
    }
}

impl ThinkSplitter {
    /// For an answer with so many choices.
    pub fn new(tags: ThinkTags, expected: u64) -> Self {
        Self { tags, choices: Vec::new(), expected, head: Map::new() }
    }

    /// Nothing is left to be split.
    fn is_over(&self) -> bool {
        let plain = self.choices.iter().filter(|(_, text)| matches!(text, Told::Plain)).count();
        self.tags == ThinkTags::Keep || (plain == self.choices.len() && plain as u64 >= self.expected)
    }

    /// Splits a chunk's text.
    pub fn frame(&mut self, frame: &mut Frame) {
        if self.is_over() || !self.may_matter(&frame.data) {
            return;
        }
        let Ok(mut chunk) = serde_json::from_str::<Value>(&frame.data) else { return };
        let Some(choices) = chunk.get_mut("choices").and_then(Value::as_array_mut) else { return };
        let mut changed = false;
        for choice in choices {
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            let ends = choice.get("finish_reason").and_then(Value::as_str).is_some_and(|it| !it.is_empty());
            let text = choice_text(&mut self.choices, self.tags, index);
            // An end may come without a delta.
            if ends && choice.get("delta").is_none_or(Value::is_null) {
                choice["delta"] = json!({});
            }
            if let Some(delta) = choice.get_mut("delta").and_then(Value::as_object_mut) {
                changed |= split(text, delta, ends);
            }
        }
        if changed {
            frame.data = chunk.to_string();
            if let Some(chunk) = chunk.as_object_mut() {
                ["choices", "usage"].iter().for_each(|name| {
                    chunk.shift_remove(*name);
                });
                self.head = std::mem::take(chunk);
            }
        }
    }

    /// What was held back of choices that have no end, before a stream's own.
    pub fn end(&mut self) -> Option<Frame> {
        let mut choices = Vec::new();
        for (index, text) in &mut self.choices {
            let mut delta = Map::new();
            if split(text, &mut delta, true) {
                choices.push(json!({"index": index, "delta": delta, "finish_reason": null}));
            }
        }
        if choices.is_empty() {
            return None;
        }
        let mut chunk = self.head.clone();
        chunk.insert("choices".into(), choices.into());
        Some(Frame { event: None, data: Value::Object(chunk).to_string() })
    }

    /// Splits the texts of a whole answer; what a stream's place is told of it is split then.
    pub fn whole(&mut self, body: &mut Vec<u8>) {
        let may_matter =
            self.tags == ThinkTags::Open || memchr::memmem::find(body, TAG_LETTERS.as_bytes()).is_some();
        if self.is_over() || !may_matter {
            self.tags = ThinkTags::Keep;
            return;
        }
        let tags = std::mem::replace(&mut self.tags, ThinkTags::Keep);
        let Ok(mut answer) = serde_json::from_slice::<Value>(body) else { return };
        let choices = answer.get_mut("choices").and_then(Value::as_array_mut);
        let messages = choices.into_iter().flatten().filter_map(|choice| choice.get_mut("message"));
        let mut changed = false;
        for message in messages.filter_map(Value::as_object_mut) {
            let (mut reasoning, mut text) = (String::new(), String::new());
            let Some(content) = content_of(message, tags) else { continue };
            let (mut parser, mut events) = (parser(tags), Vec::new());
            parser.push(content, &mut events);
            parser.finish(&mut events);
            tell(events, &mut reasoning, &mut text);
            if !reasoning.is_empty() || text != content {
                let text = if text.is_empty() { Value::Null } else { text.into() };
                message.insert("content".into(), text);
                if !reasoning.is_empty() {
                    message.insert("reasoning_content".into(), reasoning.into());
                }
                changed = true;
            }
        }
        if changed {
            *body = answer.to_string().into_bytes();
        }
    }

    /// Whether a chunk has something to be split. Whether an answer begins with a tag shows in its first text, which
    /// most chunks before it have none of.
    fn may_matter(&mut self, data: &str) -> bool {
        if self.tags == ThinkTags::Open || self.choices.iter().any(|(_, text)| matches!(text, Told::Read(_)))
        {
            return true;
        }
        // Another shape is for whoever reads it in earnest.
        let Ok(chunk) = serde_json::from_str::<Chunk>(data) else { return true };
        let mut matters = false;
        for choice in &chunk.choices {
            let Some(delta) = &choice.delta else { continue };
            if self.choices.iter().any(|(index, _)| *index == choice.index) {
                continue;
            }
            let filled = |text: &Option<Text<'_>>| text.as_ref().is_some_and(|text| text.filled().is_some());
            let calls = delta.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
            if filled(&delta.reasoning_content) || filled(&delta.reasoning) || calls {
                self.choices.push((choice.index, Told::Plain));
            } else if let Some(content) = delta.content.as_ref().and_then(Text::filled) {
                match may_begin(content) {
                    true => matters = true,
                    false => self.choices.push((choice.index, Told::Plain)),
                }
            }
        }
        matters
    }
}

/// What is known of a choice's text by now.
fn choice_text(choices: &mut Vec<(u64, Told)>, tags: ThinkTags, index: u64) -> &mut Told {
    let at = choices.iter().position(|(known, _)| *known == index).unwrap_or_else(|| {
        choices.push((index, Told::Read(Box::new(parser(tags)))));
        choices.len() - 1
    });
    &mut choices[at].1
}

fn parser(tags: ThinkTags) -> AnswerParser {
    let format = AnswerFormat { reasoning: Some(ReasoningFormat::Think), tools: None };
    let reasoning_is_open = tags == ThinkTags::Open;
    AnswerParser::new(&format, ParserOptions { reasoning_is_open, ..ParserOptions::default() })
}

/// Whether a text that begins so may begin with the tag.
fn may_begin(text: &str) -> bool {
    matches!(text.trim_start().chars().next(), None | Some('<'))
}

/// A whole message's text, where it is to be split.
fn content_of(message: &Map<String, Value>, tags: ThinkTags) -> Option<&str> {
    if REASONING_FIELDS.iter().any(|name| message.get(*name).is_some_and(is_said)) {
        return None;
    }
    let content = message.get("content")?.as_str()?;
    (tags == ThinkTags::Open || content.trim_start().starts_with("<think>")).then_some(content)
}

fn is_said(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

fn tell(events: Vec<ParsedEvent>, reasoning: &mut String, text: &mut String) {
    for event in events {
        match event {
            ParsedEvent::Reasoning(piece) => reasoning.push_str(&piece),
            ParsedEvent::Text(piece) => text.push_str(&piece),
            // No tools are looked for.
            ParsedEvent::Call { .. } | ParsedEvent::Arguments { .. } | ParsedEvent::EndCall { .. } => {}
        }
    }
}

/// Splits what a delta says; whether it is another one now.
fn split(known: &mut Told, delta: &mut Map<String, Value>, ends: bool) -> bool {
    let Told::Read(parser) = known else { return false };
    let said = |name: &str| delta.get(name).is_some_and(is_said);
    let splits_itself = REASONING_FIELDS.iter().any(|name| said(name));
    let calls = said("tool_calls") || said("function_call");
    let is_parts = delta.get("content").is_some_and(Value::is_array);
    let content = delta.get("content").and_then(Value::as_str).unwrap_or_default();
    let mut events = Vec::new();
    // What comes beside a call, or beside reasoning that has a place of its own, comes after what was held back.
    if !splits_itself && !is_parts {
        parser.push(content, &mut events);
    }
    let is_last = ends || splits_itself || calls || is_parts;
    if is_last {
        parser.finish(&mut events);
    }
    let (mut reasoning, mut text) = (String::new(), String::new());
    tell(events, &mut reasoning, &mut text);
    let is_plain = is_last || !text.is_empty();
    if splits_itself {
        text.push_str(content);
    }
    let changed = text != content || !reasoning.is_empty();
    if is_parts {
        let held = json!({"type": "text", "text": text});
        let parts = delta.get_mut("content").and_then(Value::as_array_mut);
        parts.filter(|_| changed).into_iter().for_each(|parts| parts.insert(0, held.clone()));
    } else if changed {
        let content = if text.is_empty() && !reasoning.is_empty() { Value::Null } else { text.into() };
        delta.insert("content".into(), content);
        if !reasoning.is_empty() {
            delta.insert("reasoning_content".into(), reasoning.into());
        }
    }
    if is_plain {
        *known = Told::Plain;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::chat::{ChatEvent, Dialect, FrameReader, StreamDecoder, decode_whole};

    fn chunk(index: u64, delta: &Value, reason: Option<&str>) -> Value {
        let choice = json!({"index": index, "delta": delta, "finish_reason": reason});
        json!({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})
    }

    /// The chunks as they are passed on, and what they say: reasoning and text.
    fn streamed(tags: ThinkTags, chunks: &[Value]) -> (Vec<Value>, String, String) {
        let mut splitter = ThinkSplitter::new(tags, 1);
        let mut out = Vec::new();
        for chunk in chunks {
            let mut frame = Frame { event: None, data: chunk.to_string() };
            splitter.frame(&mut frame);
            out.push(frame);
        }
        out.extend(splitter.end());
        let (mut decoder, mut events) = (StreamDecoder::new(Dialect::OpenAi), Vec::new());
        for frame in &out {
            decoder.frame(frame, &mut events).unwrap();
        }
        let (reasoning, text) = said(&events);
        (out.iter().map(|frame| serde_json::from_str(&frame.data).unwrap()).collect(), reasoning, text)
    }

    fn said(events: &[ChatEvent]) -> (String, String) {
        let (mut reasoning, mut said) = (String::new(), String::new());
        for event in events {
            match event {
                ChatEvent::Reasoning { text, .. } => reasoning.push_str(text),
                ChatEvent::Text { text, .. } => said.push_str(text),
                _ => {}
            }
        }
        (reasoning, said)
    }

    /// The text in pieces that end at these bytes.
    fn pieces(text: &str, cuts: &[usize]) -> Vec<Value> {
        let mut chunks = vec![chunk(0, &json!({"role": "assistant", "content": ""}), None)];
        let ends = cuts.iter().copied().chain([text.len()]);
        let mut begin = 0;
        for end in ends {
            chunks.push(chunk(0, &json!({"content": &text[begin..end]}), None));
            begin = end;
        }
        chunks.push(chunk(0, &json!({}), Some("stop")));
        chunks
    }

    fn owned(reasoning: &str, text: &str) -> (String, String) {
        (reasoning.to_owned(), text.to_owned())
    }

    const CASES: [(ThinkTags, &str, &str, &str); 11] = [
        (ThinkTags::Auto, "<think>\nIt is 4.\n</think>\n\n2+2=4", "It is 4.", "2+2=4"),
        (ThinkTags::Auto, "\n <think>a</think>b", "a", "b"),
        (ThinkTags::Auto, "<think>\n\n</think>\n\nplain", "", "plain"),
        (ThinkTags::Auto, "<think>never closed", "never closed", ""),
        (ThinkTags::Auto, "<think>a</think>b <think>c</think> d", "a", "b <think>c</think> d"),
        (ThinkTags::Auto, "Write <think>a</think>", "", "Write <think>a</think>"),
        (ThinkTags::Auto, "<thin ice", "", "<thin ice"),
        (ThinkTags::Auto, "  two spaces", "", "  two spaces"),
        (ThinkTags::Open, "It is 4.\n</think>\n\n4", "It is 4.", "4"),
        (ThinkTags::Open, "<think>It is 4.</think>4", "It is 4.", "4"),
        (ThinkTags::Keep, "<think>a</think>b", "", "<think>a</think>b"),
    ];

    #[test]
    fn think_text_is_split_off_over_every_split_of_a_stream() {
        for (tags, text, reasoning, rest) in CASES {
            for first in 0..=text.len() {
                for second in first..=text.len() {
                    let (_, told, said) = streamed(tags, &pieces(text, &[first, second]));
                    assert_eq!((told, said), owned(reasoning, rest), "{tags:?} {text} {first} {second}");
                }
            }
            let bytes: Vec<usize> = (1..text.len()).collect();
            let (_, told, said) = streamed(tags, &pieces(text, &bytes));
            assert_eq!((told, said), owned(reasoning, rest), "{tags:?} {text}");
        }
    }

    #[test]
    fn whole_answers_are_split_as_streams_are() {
        for (tags, text, reasoning, rest) in CASES {
            let message = json!({"role": "assistant", "content": text, "x_unknown": 1});
            let answer = json!({"id": "x", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]});
            // Go escapes the brackets.
            for escaped in
                [answer.to_string(), answer.to_string().replace('<', "\\u003c").replace('>', "\\u003e")]
            {
                let mut body = escaped.into_bytes();
                ThinkSplitter::new(tags, 1).whole(&mut body);
                let events = decode_whole(Dialect::OpenAi, &body).unwrap();
                assert_eq!(said(&events), owned(reasoning, rest), "{tags:?} {text}");
                let body: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(body["choices"][0]["message"]["x_unknown"], 1);
            }
        }
    }

    #[test]
    fn chunks_keep_what_else_they_say_and_plain_ones_stay_as_they_came() {
        let mut begin = chunk(0, &json!({"content": "<think>a</think>b"}), None);
        begin["x_unknown"] = json!({"kept": true});
        begin["choices"][0]["logprobs"] = json!({"content": []});
        let (out, ..) = streamed(ThinkTags::Auto, &[begin.clone(), chunk(0, &json!({}), Some("stop"))]);
        let mut told = begin;
        told["choices"][0]["delta"] = json!({"content": "b", "reasoning_content": "a"});
        assert_eq!(out[0], told);
        for plain in [
            vec![
                chunk(0, &json!({"content": "a<think>"}), None),
                chunk(0, &json!({"content": "<think>"}), None),
            ],
            vec![
                chunk(0, &json!({"reasoning_content": "r"}), None),
                chunk(0, &json!({"content": "<think>x"}), None),
            ],
        ] {
            let plain = [plain, vec![chunk(0, &json!({}), Some("stop"))]].concat();
            assert_eq!(streamed(ThinkTags::Auto, &plain).0, plain);
        }
        // What nobody can read goes on as it came.
        for data in ["[DONE]", "{", "{\"choices\": 3}", "{\"choices\":[{\"delta\":7}]}"] {
            let mut frame = Frame { event: None, data: data.to_owned() };
            ThinkSplitter::new(ThinkTags::Auto, 1).frame(&mut frame);
            assert_eq!(frame.data, data);
        }
    }

    #[test]
    fn calls_end_reasoning_and_their_arguments_are_not_looked_into() {
        let call = json!({"tool_calls": [{"index": 0, "id": "c", "type": "function",
                          "function": {"name": "f", "arguments": "{\"a\":\"<think>x</think>\"}"}}]});
        let chunks = [
            chunk(0, &json!({"content": "<think>So I call</th"}), None),
            chunk(0, &call, None),
            chunk(0, &json!({}), Some("tool_calls")),
        ];
        let (out, reasoning, text) = streamed(ThinkTags::Auto, &chunks);
        // A tag that was cut off is no reasoning.
        assert_eq!((reasoning.as_str(), text.as_str()), ("So I call", ""));
        assert_eq!(out[1]["choices"][0]["delta"]["tool_calls"], call["tool_calls"]);
    }

    #[test]
    fn each_choice_is_read_by_itself_and_what_has_no_end_is_told() {
        let mut splitter = ThinkSplitter::new(ThinkTags::Auto, 3);
        let texts = [(0, "<think>a"), (1, "plain"), (0, "</think>b"), (2, "<"), (1, "<think>"), (2, "3")];
        let mut said = vec![(String::new(), String::new()); 3];
        let mut frames: Vec<Frame> = Vec::new();
        for (index, text) in texts {
            let data = chunk(index, &json!({"content": text}), None).to_string();
            let mut frame = Frame { event: None, data };
            splitter.frame(&mut frame);
            frames.push(frame);
        }
        let data = chunk(2, &json!({"content": "<"}), None).to_string();
        let mut alone = ThinkSplitter::new(ThinkTags::Auto, 1);
        let mut frame = Frame { event: None, data };
        alone.frame(&mut frame);
        let held = alone.end().expect("what was held back");
        assert!(
            held.data.contains("\"model\":\"m\"") && held.data.contains("\"content\":\"<\""),
            "{}",
            held.data
        );
        frames.extend(splitter.end());
        for frame in frames {
            let chunk: Value = serde_json::from_str(&frame.data).unwrap();
            let choice = &chunk["choices"][0];
            let told = &mut said[choice["index"].as_u64().unwrap() as usize];
            told.0 += choice["delta"]["reasoning_content"].as_str().unwrap_or_default();
            told.1 += choice["delta"]["content"].as_str().unwrap_or_default();
        }
        assert_eq!(said, [owned("a", "b"), owned("", "plain<think>"), owned("", "<3")]);
    }

    /// A stream's bytes may be cut anywhere too: a reader of frames is before this.
    #[test]
    fn a_frame_reader_gives_the_same_chunks() {
        let text: String =
            pieces("<think>a</think>b", &[3, 9]).iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
        let mut reader = FrameReader::new(1 << 16);
        let (mut splitter, mut decoder) =
            (ThinkSplitter::new(ThinkTags::Auto, 1), StreamDecoder::new(Dialect::OpenAi));
        let mut events = Vec::new();
        for byte in text.as_bytes().chunks(1) {
            reader.push(byte).unwrap();
            while let Some(mut frame) = reader.next() {
                splitter.frame(&mut frame);
                decoder.frame(&frame, &mut events).unwrap();
            }
        }
        assert_eq!(said(&events), owned("a", "b"));
    }
}
