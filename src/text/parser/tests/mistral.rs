//! Mistral's calls: a list of objects, or a name and an object, behind a marker.

use super::*;

pub(super) const LIST: Cases = (
    AnswerFormat { reasoning: None, tools: Some(ToolFormat::MistralList) },
    &[
        case(
            "one call",
            "[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}, \"id\": \"VvvODy9mT\"}]",
            &["call:get_weather", "args:{\"city\": \"Paris\"}", "end"],
        ),
        case(
            "spaces, two calls, text before and after",
            "I look.\n[TOOL_CALLS] [ {\"name\": \"now\", \"arguments\": {}} ,\n{\"arguments\": {\"city\": \"[TOOL_CALLS]]\"}, \"name\": \"get_weather\"} ]\nDone.",
            &[
                "text:I look.",
                "call:now",
                "args:{}",
                "end",
                "call:get_weather",
                "args:{\"city\": \"[TOOL_CALLS]]\"}",
                "end",
                "text:\nDone.",
            ],
        ),
        case(
            "one object without a list",
            "[TOOL_CALLS]{\"name\": \"now\", \"arguments\": {}}",
            &["call:now", "args:{}", "end"],
        ),
        case(
            "an object without a marker",
            "{\"name\": \"now\", \"arguments\": {}}",
            &["text:{\"name\": \"now\", \"arguments\": {}}"],
        ),
        case(
            "a tool that is not offered",
            "[TOOL_CALLS][{\"name\": \"rm\", \"arguments\": {}}]",
            &["text:[TOOL_CALLS][{\"name\": \"rm\", \"arguments\": {}}]"],
        ),
        case("brackets in text", "a] [b] [TOOL [TOOL_CALLS", &["text:a] [b] [TOOL [TOOL_CALLS"]),
        case(
            "arguments that break off",
            "[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Par",
            &["call:get_weather", "args:{\"city\": \"Par", "end"],
        ),
        case("no calls", "[TOOL_CALLS][]", &["text:[TOOL_CALLS][]"]),
    ],
);

pub(super) const HEADED: Cases = (
    AnswerFormat { reasoning: Some(ReasoningFormat::BracketThink), tools: Some(ToolFormat::Mistral) },
    &[
        case(
            "one call",
            "[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Paris\"}",
            &["call:get_weather", "args:{\"city\": \"Paris\"}", "end"],
        ),
        case(
            "reasoning, text, two calls with ids",
            "[THINK]Hm [TOOL_CALLS]now[ARGS]{}.[/THINK]I look.\n[TOOL_CALLS]now[CALL_ID]VvvODy9mT[ARGS]{}\n[TOOL_CALLS]get_weather[CALL_ID]abcDEF123[ARGS] {\"city\": \"[/THINK][ARGS]\"}",
            &[
                "think:Hm [TOOL_CALLS]now[ARGS]{}.",
                "text:I look.",
                "call:now#VvvODy9mT",
                "args:{}",
                "end",
                "call:get_weather#abcDEF123",
                "args:{\"city\": \"[/THINK][ARGS]\"}",
                "end",
            ],
        ),
        open_case("the prompt has opened the reasoning", "Hm.[/THINK]So.", &["think:Hm.", "text:So."]),
        case(
            "no word before the arguments",
            "[TOOL_CALLS]now{\"a\": 1} So.",
            &["call:now", "args:{\"a\": 1}", "end", "text:So."],
        ),
        case(
            "a tool that is not offered, then one that is",
            "[TOOL_CALLS]rm[ARGS]{\"a\": 1}[TOOL_CALLS]now[ARGS]{}",
            &["text:[TOOL_CALLS]rm[ARGS]{\"a\": 1}", "call:now", "args:{}", "end"],
        ),
        case(
            "a header that breaks off, then a call",
            "[TOOL_CALLS]now[TOOL_CALLS]now[ARGS]{}",
            &["text:[TOOL_CALLS]now[TOOL_CALLS]now[ARGS]{}"],
        ),
        case("a name that is cut off", "[TOOL_CALLS]get_we", &["text:[TOOL_CALLS]get_we"]),
        case("arguments that are none", "[TOOL_CALLS]now[ARGS]no", &["call:now", "end", "text:no"]),
    ],
);

#[test]
fn mistrals_lists() {
    check(LIST);
}

#[test]
fn mistrals_names_and_arguments() {
    check(HEADED);
}
