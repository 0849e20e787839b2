//! Which tokens end an answer.
//!
//! What a checkpoint says is often not the whole of it: a GGUF file names one EOS token, where the
//! model also ends documents with `<|endoftext|>`; a config names a wrong one. So three sources
//! count: what the files say; what the chat template writes behind an assistant's answer; and the
//! names by which the families' tokenizers call such tokens, as llama.cpp does
//! (`special_eog_ids`). Of the names only tokens count that are special in this tokenizer, so that
//! a word is never an end, and only those that the template does not write within an answer.
//!
//! Absent on purpose: ends that are text (`stop` in a request).

use super::chat_template::{ChatTemplate, RenderInput};
use super::stop::Stop;
use super::tokenizer::Tokenizer;
use crate::protocol::TokenId;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fmt;

/// A token that ends an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndToken {
    /// Its id.
    pub id: TokenId,
    /// As the vocabulary spells it.
    pub token: String,
    /// Who says so, the most binding first.
    pub sources: Vec<EndSource>,
}

/// Who says that a token ends an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndSource {
    /// A file of the checkpoint, by its name or what it is.
    File(&'static str),
    /// The chat template writes it behind an assistant's answer.
    Template,
    /// Its name is one that families use for it.
    Name,
}

impl EndSource {
    /// The lower, the more binding.
    pub(super) fn rank(self) -> u8 {
        match self {
            EndSource::File(_) => 0,
            EndSource::Template => 1,
            EndSource::Name => 2,
        }
    }
}

impl fmt::Display for EndSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndSource::File(name) => name,
            EndSource::Template => "chat template",
            EndSource::Name => "name",
        })
    }
}

impl fmt::Display for EndToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources: Vec<String> = self.sources.iter().map(EndSource::to_string).collect();
        write!(f, "{} {} ({})", self.id, self.token, sources.join(", "))
    }
}

/// End of a turn, of a text, or of a file: behind the last, models that fill in code begin
/// another file.
const NAMES: &[&str] = &[
    // Turns.
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|EOT|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "<|END_OF_TURN_TOKEN|>",
    "[EOT]",
    "<EOT>",
    "_<EOT>",
    "[e~[",
    // Texts.
    "<|endoftext|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
    "</s>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
    // Files.
    "<|file_sep|>",
    "<file_sep>",
    "<|repo_name|>",
    "<repo_name>",
    "<reponame>",
    "<|fim_repo|>",
    "<fim-repo>",
    "<REPO>",
    "<|fim_pad|>",
    "<fim_pad>",
    "<fim-pad>",
];

/// Whether an added token is meant as a special one, whatever its flag says: tokenizer.json of
/// Qwen lists `<|file_sep|>` as an ordinary one. llama.cpp's converter goes by the same marks.
pub(super) fn looks_special(token: &str) -> bool {
    let within = |open, close| token.len() > 4 && token.starts_with(open) && token.ends_with(close);
    within("<|", "|>") || within("<｜", "｜>")
}

/// Tokens that end an answer by their names.
pub(super) fn by_name(tokenizer: &Tokenizer) -> Vec<TokenId> {
    let id = |name: &str| tokenizer.token_id(name).filter(|id| tokenizer.is_marker(*id));
    // Where an answer has parts (analysis, call, final), each of them ends with <|end|>, and the
    // last alone with another: gpt-oss, Solar.
    let parts = (id("<|return|>").is_some() && id("<|call|>").is_some())
        || (id("<|flush|>").is_some() && (id("<|call|>").is_some() || id("<|calls|>").is_some()));
    NAMES.iter().filter(|name| !(parts && **name == "<|end|>")).filter_map(|name| id(name)).collect()
}

/// What a template writes around an assistant's answer.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// The special token behind it.
    pub end: Option<TokenId>,
    /// Special tokens within it, before and between reasoning, text and tool calls.
    pub within: HashSet<TokenId>,
}

/// Words that no template changes, and that are found again in what it renders.
const QUESTION: &str = "Askedbyprobe";
const REASONING: &str = "Thoughtofprobe";
const ANSWER: &str = "Answeredtoprobe";
const ARGUMENT: &str = "Argumentofprobe";

/// Renders small conversations to see what stands around the answer. A template that refuses one
/// tells nothing of it.
pub(super) fn probe(template: &ChatTemplate, tokenizer: &Tokenizer) -> Turn {
    let user = json!({"role": "user", "content": QUESTION});
    let answer = json!({"role": "assistant", "content": ANSWER});
    let thought = json!({"role": "assistant", "content": ANSWER, "reasoning_content": REASONING});
    let mut call = thought.clone();
    call["tool_calls"] = json!([{
        "id": "probe0001", "type": "function",
        "function": {"name": "probe", "arguments": {"argument": ARGUMENT}},
    }]);
    let render = |messages: &[&Value], add_generation_prompt: bool| {
        let messages = messages.iter().map(|message| (*message).clone()).collect();
        let input = RenderInput { messages, add_generation_prompt, ..RenderInput::default() };
        // One that cannot be rendered in time is not tried again and again.
        Stop::check_current().ok().and_then(|()| template.render(&input).ok())
    };
    let markers = |text: &str| -> Vec<TokenId> {
        let ids = tokenizer.encode(text, false).unwrap_or_default();
        ids.into_iter().filter(|id| tokenizer.is_marker(*id)).collect()
    };

    // With a turn behind it first: some templates leave the last one open.
    let mut turn = Turn::default();
    for conversation in [&[&user, &answer, &user][..], &[&user, &answer]] {
        let text = render(conversation, false);
        let behind = text.as_deref().and_then(|text| Some(text.split_once(ANSWER)?.1.trim_start()));
        let first = behind.and_then(|text| tokenizer.encode(text, false).ok()?.first().copied());
        turn.end = turn.end.or(first.filter(|id| tokenizer.is_marker(*id)));
    }
    let Some(prompt) = render(&[&user], true) else { return turn };
    for (message, last) in [(&thought, ANSWER), (&call, ARGUMENT)] {
        let Some(text) = render(&[&user, message], false) else { continue };
        let same = text.chars().zip(prompt.chars()).take_while(|(a, b)| a == b);
        let own = &text[same.map(|(c, _)| c.len_utf8()).sum()..];
        if let Some((within, _)) = own.rsplit_once(last) {
            turn.within.extend(markers(within));
        }
    }
    turn
}
