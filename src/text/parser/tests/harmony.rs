//! gpt-oss's channels.

use super::*;

const HARMONY: AnswerFormat =
    AnswerFormat { reasoning: Some(ReasoningFormat::Harmony), tools: Some(ToolFormat::Harmony) };

pub(super) const CASES: Cases = (
    HARMONY,
    &[
        case(
            "reasoning and an answer",
            "<|channel|>analysis<|message|>Hm.\n<|end|><|start|>assistant<|channel|>final<|message|>Hello, a < b.<|return|>",
            &["think:Hm.\n", "text:Hello, a < b."],
        ),
        case(
            "a call",
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": \"Paris\"}<|call|>",
            &["think:Hm.", "call:get_weather", "args:{\"city\": \"Paris\"}", "end"],
        ),
        case(
            "the recipient before the channel, without the closing marker",
            " to=functions.now<|channel|>commentary json<|message|>{\"a\": \"<|\"}",
            &["call:now", "args:{\"a\": \"<|\"}", "end"],
        ),
        case(
            "a preamble for the user, then two calls",
            "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.now<|channel|>commentary<|message|>{}<|call|><|start|>assistant<|channel|>commentary to=now<|message|><|call|>",
            &["text:I look.", "call:now", "args:{}", "end", "call:now", "args:{}", "end"],
        ),
        case(
            "ends of messages are missing",
            "<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Hello.<|start|>assistant<|channel|>commentary to=functions.now<|message|>{}",
            &["think:Hm.", "text:Hello.", "call:now", "args:{}", "end"],
        ),
        case(
            "a tool that is not offered",
            "<|channel|>commentary to=functions.rm <|constrain|>json<|message|>{\"x\": 1}<|call|>",
            &["text:<|channel|>commentary to=functions.rm <|constrain|>json<|message|>{\"x\": 1}<|call|>"],
        ),
        case(
            "code for the built-in tool is reasoning",
            "<|channel|>analysis to=python code<|message|>1 + 1<|call|>",
            &["think:1 + 1"],
        ),
        open_case(
            "opened by the prompt",
            "Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello.",
            &["think:Hm.", "text:Hello."],
        ),
        case("no headers", "\nHello <|x|> there.\n", &["text:\nHello <|x|> there.\n"]),
        case("text before a header", "So.<|channel|>final<|message|>Hello.", &["text:So.Hello."]),
        case(
            "a header without a message",
            "<|channel|>final<|end|>So.",
            &["text:<|channel|>final<|end|>So."],
        ),
        case(
            "cut off in the header",
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assi",
            &["think:Hm."],
        ),
        case("cut off in a marker", "<|channel|>final<|message|>Hm.<|retu", &["text:Hm."]),
        case("cut off at the very beginning", "<|chan", &[]),
    ],
);

#[test]
fn harmony_channels() {
    check(CASES);
}

#[test]
fn harmony_reasoning_may_be_open() {
    assert!(reasoning_is_open(&HARMONY, "<|start|>assistant<|channel|>analysis<|message|>"));
    assert!(!reasoning_is_open(&HARMONY, "<|start|>assistant"));
}
