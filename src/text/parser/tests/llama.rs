//! `{"name": ..., "parameters": {...}}`.

use super::*;

const LLAMA: AnswerFormat = AnswerFormat { reasoning: None, tools: Some(ToolFormat::LlamaJson) };

pub(super) const CASES: Cases = (
    LLAMA,
    &[
        case(
            "text alone",
            "Use {\"name\": \"now\"} or\n{ or {x}\n",
            &["text:Use {\"name\": \"now\"} or\n{ or {x}\n"],
        ),
        case(
            "one call",
            r#"{"name": "get_weather", "parameters": {"city": "Paris"}}"#,
            &["call:get_weather", r#"args:{"city": "Paris"}"#, "end"],
        ),
        case(
            "behind white space and the tag",
            "\n\n<|python_tag|> {\"name\": \"now\", \"parameters\": {}}\n",
            &["call:now", "args:{}", "end"],
        ),
        case(
            "several, parted by semicolons or lines",
            "{\"name\": \"now\", \"parameters\": {}}; {\"name\": \"now\", \"arguments\": {\"a\": 1}};\n{\"name\": \"now\"}\n{\"parameters\": {}, \"name\": \"now\"}",
            &[
                "call:now",
                "args:{}",
                "end",
                "call:now",
                "args:{\"a\": 1}",
                "end",
                "call:now",
                "args:{}",
                "end",
                "call:now",
                "args:{}",
                "end",
            ],
        ),
        case(
            "a type, and text before and after",
            "I look.\n{\"type\": \"function\", \"name\": \"now\", \"parameters\": {}}\nDone; really.",
            &["text:I look.", "call:now", "args:{}", "end", "text:\nDone; really."],
        ),
        case(
            "text after a semicolon",
            "{\"name\": \"now\"}; well",
            &["call:now", "args:{}", "end", "text:; well"],
        ),
        case(
            "JSON that is an answer",
            "{\"name\": \"John\", \"age\": 3}\n{\"city\": {\"name\": \"now\"}}\n{}",
            &["text:{\"name\": \"John\", \"age\": 3}\n{\"city\": {\"name\": \"now\"}}\n{}"],
        ),
        case(
            "a tool that is not offered",
            "{\"name\": \"rm\", \"parameters\": {\"x\": {\"name\": \"now\"}}}",
            &["text:{\"name\": \"rm\", \"parameters\": {\"x\": {\"name\": \"now\"}}}"],
        ),
        case("code behind the tag", "<|python_tag|>print({})", &["text:<|python_tag|>print({})"]),
        case(
            "an object in code",
            "```json\n  {\"name\": \"now\"}\n```",
            &["text:```json\n  {\"name\": \"now\"}\n```"],
        ),
        case("cut off before the name is whole", "{\"name\": \"no", &["text:{\"name\": \"no"]),
        case(
            "cut off in the parameters",
            "{\"name\": \"now\", \"parameters\": {\"a\": [",
            &["call:now", "args:{\"a\": [", "end"],
        ),
    ],
);

#[test]
fn llama_json_calls() {
    check(CASES);
}
