//! `[NAME(KEY=VALUE)]`.

use super::*;

const PYTHONIC: AnswerFormat = AnswerFormat { reasoning: None, tools: Some(ToolFormat::Pythonic) };

pub(super) const CASES: Cases = (
    PYTHONIC,
    &[
        case("text alone", "See [1] and\n[now](x), [now\n] [", &["text:See [1] and\n[now](x), [now\n] ["]),
        case(
            "one call",
            "[get_weather(city='Paris', days=3)]",
            &["call:get_weather", "args:{\"city\": \"Paris\", \"days\": 3}", "end"],
        ),
        case(
            "several calls, white space, no arguments",
            "\n[ now() ,\n get_weather( city = \"it's\" , ) ]\n",
            &["call:now", "args:{}", "end", "call:get_weather", "args:{\"city\": \"it's\"}", "end"],
        ),
        case(
            "every kind of literal",
            r#"[write_file(path='a\'b\n]', lines=[1, -2.5, (3,)], options={'a': {"b": None}, 'c': True}, force=False)]"#,
            &[
                "call:write_file",
                r#"args:{"path": "a'b\n]", "lines": [1, -2.5, [3]], "options": {"a": {"b": null}, "c": true}, "force": false}"#,
                "end",
            ],
        ),
        case(
            "arguments without names",
            "[get_weather('Paris', 3), get_weather(Paris), write_file('a', content=[])]",
            &[
                "call:get_weather",
                "args:{\"city\": \"Paris\", \"days\": 3}",
                "end",
                "call:get_weather",
                "args:{\"city\": \"Paris\"}",
                "end",
                "call:write_file",
                "args:{\"path\": \"a\", \"content\": []}",
                "end",
            ],
        ),
        case(
            "between Llama 4's tags, with text around",
            "I look.\n<|python_start|>[now()]<|python_end|>\nDone.",
            &["text:I look.", "call:now", "args:{}", "end", "text:\nDone."],
        ),
        case(
            "between LFM2's tags",
            "<|tool_call_start|>[get_weather(city=\"Paris\")]<|tool_call_end|>I look.",
            &["call:get_weather", "args:{\"city\": \"Paris\"}", "end", "text:I look."],
        ),
        case("a tool that is not offered", "[rm(x='[now()]')]", &["text:[rm(x='[now()]')]"]),
        case(
            "a tool that is not offered behind one that is",
            "[now(), rm(x=1)]",
            &["call:now", "args:{}", "end", "text:, rm(x=1)]"],
        ),
        case("code behind the tag", "<|python_tag|>print(1)", &["text:<|python_tag|>print(1)"]),
        case(
            "arguments that break off",
            "[get_weather(city='a' 'b')]",
            &["call:get_weather", "args:{\"city\": \"a\"", "end", "text:'b')]"],
        ),
        case("an argument too many", "[now(1)]", &["call:now", "end", "text:1)]"]),
        case("cut off in the name", "[get_wea", &["text:[get_wea"]),
        case(
            "cut off in a string",
            "[get_weather(city='Par\\",
            &["call:get_weather", "args:{\"city\": \"Par", "end"],
        ),
        case("cut off behind a call", "[now(), ", &["call:now", "args:{}", "end", "text:, "]),
    ],
);

#[test]
fn pythonic_calls_become_json() {
    check(CASES);
}
