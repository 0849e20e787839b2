//! Reasoning between tags.

use super::*;

const THINK: AnswerFormat =
    AnswerFormat { reasoning: Some(ReasoningFormat::Think), tools: Some(ToolFormat::Hermes) };

pub(super) const CASES: Cases = (
    THINK,
    &[
        case("no reasoning", "Hello, <b>you</b>.", &["text:Hello, <b>you</b>."]),
        case("a block", "<think>\nHm.\n\nYes.\n</think>\n\nHello.", &["think:Hm.\n\nYes.", "text:Hello."]),
        case("white space before the block", "\n <think>a</think>b", &["think:a", "text:b"]),
        open_case("opened by the template", "Hm.\n</think>\n\nHello.", &["think:Hm.", "text:Hello."]),
        open_case(
            "opened by the template and by the model",
            "<think>\nHm.</think>Hello.",
            &["think:Hm.", "text:Hello."],
        ),
        open_case("never closed", "Hm.\n", &["think:Hm."]),
        case("opened by the model, never closed", "<think>\nHm, <", &["think:Hm, <"]),
        case("cut off in the closing tag", "<think>\nHm</thi", &["think:Hm"]),
        case("an empty block", "<think>\n\n</think>\n\nHello.", &["text:Hello."]),
        case("an empty block on one line", "<think></think>Hello.", &["text:Hello."]),
        open_case("an empty block that the template opened", "\n\n</think>\n\nHello.", &["text:Hello."]),
        case("an empty block and no answer", "<think>\n</think>\n\n", &[]),
        case("closed without opening, at the beginning", "</think>\n\nHello.", &["text:Hello."]),
        case("closed without opening, in text", "Use </think> to end.", &["text:Use </think> to end."]),
        case("a tag in text", "The tag <think> opens.", &["text:The tag <think> opens."]),
        case(
            "indentation after the block stays",
            "<think>a</think>\n\n    x = 1",
            &["think:a", "text:    x = 1"],
        ),
        case(
            "tags and parts of tags in reasoning",
            "<think>a < b, </b>, </thi, <think> and <</think>c",
            &["think:a < b, </b>, </thi, <think> and <", "text:c"],
        ),
        case(
            "white space in reasoning",
            "<think>\n\n  a\n\n\n b \n</think>\n\nc \n\n d\n",
            &["think:  a\n\n\n b", "text:c \n\n d\n"],
        ),
        case("a second block", "<think>a</think>\n<think>b</think>\nc", &["think:a\nb", "text:c"]),
        case(
            "a call in reasoning is reasoning",
            "<think>I could write <tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>.</think>No.",
            &[
                "think:I could write <tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>.",
                "text:No.",
            ],
        ),
        open_case(
            "a call in a block that never closes is reasoning",
            "So\n<tool_call>\n{\"name\": \"now\"}\n</tool_call>",
            &["think:So\n<tool_call>\n{\"name\": \"now\"}\n</tool_call>"],
        ),
        open_case(
            "a call after reasoning",
            "So.\n</think>\n\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
            &["think:So.", "call:now", "args:{}", "end"],
        ),
        case("a tag cut off before anything", "<thin", &["text:<thin"]),
        case("white space alone", " \n", &["text: \n"]),
    ],
);

#[test]
fn reasoning_between_tags_is_set_apart_from_text() {
    check(CASES);
}

#[test]
fn other_spellings_of_the_tags() {
    for (reasoning, raw) in [
        (ReasoningFormat::SeedThink, "<seed:think>a\n</seed:think>b"),
        (ReasoningFormat::BracketThink, "[THINK]a[/THINK]\nb"),
    ] {
        let format = AnswerFormat { reasoning: Some(reasoning), tools: None };
        let pieces: Vec<&str> = raw.split_inclusive(|_| true).collect();
        assert_eq!(parse(format, false, pieces), ["think:a", "text:b"]);
    }
}

#[test]
fn a_prompt_that_ends_with_an_opening_tag_leaves_reasoning_open() {
    assert!(reasoning_is_open(&THINK, "<|im_start|>assistant\n<think>\n"));
    assert!(reasoning_is_open(&THINK, "<｜Assistant｜><think>"));
    assert!(!reasoning_is_open(&THINK, "<think>\n\n</think>\n\n"));
    assert!(!reasoning_is_open(&THINK, "What is <think>?<|im_end|>\n<|im_start|>assistant\n"));
    assert!(!reasoning_is_open(&AnswerFormat::default(), "<think>"));
}
