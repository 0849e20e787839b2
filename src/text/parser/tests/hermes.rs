//! `<tool_call>{...}</tool_call>`.

use super::*;

const HERMES: AnswerFormat = AnswerFormat { reasoning: None, tools: Some(ToolFormat::Hermes) };

pub(super) const CASES: Cases = (
    HERMES,
    &[
        case(
            "text alone",
            "a < b <tool> <tool_cal {\"name\": 1}\n",
            &["text:a < b <tool> <tool_cal {\"name\": 1}\n"],
        ),
        case(
            "one call",
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\", \"days\": 3}}\n</tool_call>",
            &["call:get_weather", "args:{\"city\": \"Paris\", \"days\": 3}", "end"],
        ),
        case(
            "text before and after",
            "I look.\n\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n\nDone.\n",
            &["text:I look.", "call:now", "args:{}", "end", "text:\n\nDone.\n"],
        ),
        case(
            "parallel calls with text between",
            "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\":1}}\n</tool_call> and <tool_call>{\"name\":\"now\"}</tool_call>\n",
            &[
                "call:now",
                "args:{}",
                "end",
                "call:now",
                "args:{\"a\":1}",
                "end",
                "text:and",
                "call:now",
                "args:{}",
                "end",
            ],
        ),
        case(
            "arguments keep their white space",
            "<tool_call>{ \"name\" : \"get_weather\" , \"arguments\" :  {\n  \"city\" : \"x\"\n} }</tool_call>",
            &["call:get_weather", "args:{\n  \"city\" : \"x\"\n}", "end"],
        ),
        case(
            "arguments before the name, parameters for arguments",
            "<tool_call>{\"parameters\": {\"a\": [1, {}]}, \"name\": \"now\"}</tool_call>",
            &["call:now", "args:{\"a\": [1, {}]}", "end"],
        ),
        case(
            "braces, tags and escapes in strings",
            r#"<tool_call>{"name": "write_file", "arguments": {"content": "}]\"{ </tool_call> <tool_call> \\", "path": "\u00e9\\\""}}</tool_call>"#,
            &[
                "call:write_file",
                r#"args:{"content": "}]\"{ </tool_call> <tool_call> \\", "path": "\u00e9\\\""}"#,
                "end",
            ],
        ),
        case(
            "arguments in a JSON string",
            r#"<tool_call>{"name": "write_file", "arguments": "{\"path\": \"a\\nb\", \"content\": \"\ud83d\ude00\u00e9\/\"}"}</tool_call>"#,
            &["call:write_file", r#"args:{"path": "a\nb", "content": "😀é/"}"#, "end"],
        ),
        case(
            "no arguments in their several spellings",
            "<tool_call>{\"name\": \"now\", \"arguments\": null}</tool_call><tool_call>{\"name\": \"now\", \"arguments\": \"\"}</tool_call><tool_call>{\"arguments\": {}, \"name\": \"now\"}</tool_call>",
            &["call:now", "args:{}", "end", "call:now", "args:{}", "end", "call:now", "args:{}", "end"],
        ),
        case(
            "other keys are left out",
            r#"<tool_call>{"id": "1}", "type": {"a": "}"}, "name": "now", "x": [1], "arguments": {"a": 1}, "arguments": {}, "name": "y", "n": 3}</tool_call>"#,
            &["call:now", r#"args:{"a": 1}"#, "end"],
        ),
        case(
            "an escaped name",
            r#"<tool_call>{"n\u0061me": "no\u0077", "arguments": {}}</tool_call>"#,
            &["call:now", "args:{}", "end"],
        ),
        case(
            "a tool that is not offered is text, with what it holds",
            "a\n<tool_call>\n{\"name\": \"rm\", \"arguments\": {\"x\": \"<tool_call>{\"name\": \"now\"}\"}}\n</tool_call>\n<tool_call>{\"name\": \"now\"}</tool_call>",
            &[
                "text:a\n<tool_call>\n{\"name\": \"rm\", \"arguments\": {\"x\": \"<tool_call>{\"name\": \"now\"}\"}}\n</tool_call>",
                "call:now",
                "args:{}",
                "end",
            ],
        ),
        case(
            "no JSON",
            "\n <tool_call>\n now() </tool_call> ",
            &["text:\n <tool_call>\n now() </tool_call> "],
        ),
        case(
            "no object with a name",
            "<tool_call>{}</tool_call><tool_call>[1]</tool_call>",
            &["text:<tool_call>{}</tool_call><tool_call>[1]</tool_call>"],
        ),
        case(
            "a name that is no string",
            "<tool_call>{\"name\": 3, \"arguments\": {}}</tool_call>",
            &["text:<tool_call>{\"name\": 3, \"arguments\": {}}</tool_call>"],
        ),
        case(
            "an opener that nothing follows, then a call",
            "<tool_call><tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
            &["text:<tool_call>", "call:now", "args:{}", "end"],
        ),
        case(
            "an attempt that breaks off in early arguments, then a call",
            "<tool_call>{\"arguments\": {\"a\": <tool_call>{\"name\": \"now\"}</tool_call>",
            &["text:<tool_call>{\"arguments\": {\"a\": ", "call:now", "args:{}", "end"],
        ),
        case("cut off in the marker", "Hm.\n<tool_ca", &["text:Hm.\n<tool_ca"]),
        case(
            "cut off before the name is whole",
            "Hm.\n<tool_call>\n{\"name\": \"no",
            &["text:Hm.\n<tool_call>\n{\"name\": \"no"],
        ),
        case("cut off after the name", "<tool_call>\n{\"name\": \"now\", \"argum", &["call:now", "end"]),
        case(
            "cut off in the arguments",
            "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": \"b\\",
            &["call:now", "args:{\"a\": \"b\\", "end"],
        ),
        case(
            "cut off before the closing marker",
            "<tool_call>{\"name\": \"now\", \"arguments\": {}}\n</tool",
            &["call:now", "args:{}", "end"],
        ),
        case(
            "the object's last brace is missing",
            "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": 1}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
            &["call:now", "args:{\"a\": 1}", "end", "call:now", "args:{}", "end"],
        ),
        case(
            "arguments that are never closed",
            "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": [1, <2\n</tool_call>\nSo.",
            &["call:now", "args:{\"a\": [1, <2\n", "end", "text:So."],
        ),
        case(
            "closing markers are missing",
            "<tool_call>{\"name\": \"now\", \"arguments\": {}}\n<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": <tool_call>{\"name\": \"now\"}",
            &["call:now", "args:{}", "end", "call:now", "args:{\"a\": ", "end", "call:now", "args:{}", "end"],
        ),
        case(
            "a brace too many",
            "<tool_call>{\"name\": \"now\", \"arguments\": {}}}\n</tool_call>\n",
            &["call:now", "args:{}", "end", "text:}"],
        ),
        // Qwen2.5-Coder-1.5B-Instruct's own answers, to its own prompts.
        case(
            "as Qwen2.5-Coder writes it",
            "```json\n{\n  \"name\": \"get_weather\",\n  \"arguments\": {\n    \"city\": \"Paris\",\n    \"days\": 3\n  }\n}\n```",
            &["call:get_weather", "args:{\n    \"city\": \"Paris\",\n    \"days\": 3\n  }", "end"],
        ),
        case(
            "as Qwen2.5-Coder writes one of a tool that is not offered",
            "```json\n{\n  \"name\": \"add\",\n  \"arguments\": {\n    \"a\": 2,\n    \"b\": 2\n  }\n}\n```",
            &[
                "text:```json\n{\n  \"name\": \"add\",\n  \"arguments\": {\n    \"a\": 2,\n    \"b\": 2\n  }\n}\n```",
            ],
        ),
        case(
            "objects without tags at the beginning, and in text",
            "\n{\"name\": \"now\", \"arguments\": {}}\n```\n{\"name\": \"now\"}\n``` ```json{\"name\": \"now\"}```\nSo\n{\"name\": \"now\"}",
            &[
                "call:now",
                "args:{}",
                "end",
                "call:now",
                "args:{}",
                "end",
                "call:now",
                "args:{}",
                "end",
                "text:So\n{\"name\": \"now\"}",
            ],
        ),
        case(
            "a fence that is not closed",
            "```json\n{\"name\": \"now\"}\n`So`",
            &["call:now", "args:{}", "end", "text:`So`"],
        ),
        case(
            "code at the beginning",
            "```python\n{\"name\": \"now\"}\n```",
            &["text:```python\n{\"name\": \"now\"}\n```"],
        ),
        case(
            "JSON at the beginning",
            "{\"id\": 1, \"name\": \"now\"}",
            &["text:{\"id\": 1, \"name\": \"now\"}"],
        ),
        case("cut off in a fence", "```js", &["text:```js"]),
        case("a closing marker that nothing opened", "So.</tool_call>", &["text:So.</tool_call>"]),
    ],
);

#[test]
fn hermes_calls() {
    check(CASES);
}

#[test]
fn without_tools_calls_are_text() {
    let raw = "Hm.\n<tool_call>\n{\"name\": \"now\"}\n</tool_call>\n";
    let mut parser = parser(HERMES, false, Arc::new([]));
    let mut events = Vec::new();
    parser.push(raw, &mut events);
    assert_eq!(events, [ParsedEvent::Text(raw.into())], "and goes out at once");
    assert!(!parser.called());
}
