//! Rules of gpt-oss' answers, whose messages stand in channels: `<|channel|>final<|message|>...` for the user,
//! `<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}` to a function.
//!
//! Reasoning, the channel `analysis`, is over before the grammar begins ([`super::After`]); behind it the next message
//! begins with `<|start|>assistant`. A call ends the turn: there is one in an answer.

use super::tools::{AnswerText, ToolCalls, Writer};
use super::{GrammarError, lark_string};

const BEGIN: &str = "<|start|>assistant";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const JSON: &str = " <|constrain|>json";
const END: &str = "<|end|>";

/// The body of the first rule.
pub(super) fn start(writer: &mut Writer<'_>, calls: &ToolCalls) -> Result<String, GrammarError> {
    let mut to_functions = Vec::new();
    for (index, tool) in calls.tools.iter().enumerate() {
        let arguments = writer.json_arguments(tool)?;
        writer.rule(&format!("call_{index}"), &format!("{} message {arguments}", lark_string(&tool.name)));
        to_functions.push(format!("call_{index}"));
    }
    let lark = |text: &str| writer.vocabulary.lark(text);
    let (begin, channel) = (lark(BEGIN), lark(CHANNEL));
    let message = format!("{}? {}", group(&lark(JSON)), lark(MESSAGE));
    writer.rule("message", &message);
    writer.rule("begin", &begin);
    writer.rule("channel", &channel);
    let call = "\"commentary to=functions.\" call";
    if !to_functions.is_empty() {
        writer.rule("call", &to_functions.join(" | "));
    }
    let (mut parts, mut before) = (Vec::new(), String::new());
    match &calls.text {
        AnswerText::Held(text) if !calls.required => {
            let answer = writer.text(text, &[])?;
            parts.push(format!("\"final\" message {answer}"));
        }
        // Words to the user before a call have a message of their own.
        AnswerText::Free => {
            let said = writer.until("said", END);
            before = format!("(\"commentary\" message {said} begin channel)?");
            if !calls.required {
                parts.push("\"final\" message TEXT".to_owned());
            }
        }
        AnswerText::None | AnswerText::Held(_) => {}
    }
    if !to_functions.is_empty() {
        parts.push(call.to_owned());
    }
    Ok(format!("begin? channel {before} {}", group(&parts.join(" | "))))
}

fn group(parts: &str) -> String {
    format!("({parts})")
}
