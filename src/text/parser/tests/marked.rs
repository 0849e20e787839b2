//! Calls between markers: DeepSeek V3, V3.1 and R1, Kimi K2.

use super::*;

const fn format(tools: ToolFormat) -> AnswerFormat {
    AnswerFormat { reasoning: Some(ReasoningFormat::Think), tools: Some(tools) }
}

pub(super) const DEEPSEEK_V3: Cases = (
    format(ToolFormat::DeepSeekV3),
    &[
        case(
            "one call",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Paris\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            &["call:get_weather", "args:{\"city\": \"Paris\"}", "end"],
        ),
        case(
            "text before, two calls on two lines, text after",
            "I look.\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{\n  \"a\": \"```<｜tool▁call▁end｜>\"\n}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>\nDone.",
            &[
                "text:I look.",
                "call:now",
                "args:{}",
                "end",
                "call:now",
                "args:{\n  \"a\": \"```<｜tool▁call▁end｜>\"\n}",
                "end",
                "text:\nDone.",
            ],
        ),
        case(
            "no fence, no section, no closing markers",
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n{\"a\": 1}<｜tool▁call▁begin｜>function<｜tool▁sep｜>now{\"a\": 2}",
            &["call:now", "args:{\"a\": 1}", "end", "call:now", "args:{\"a\": 2}", "end"],
        ),
        case(
            "no arguments",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n```<｜tool▁call▁end｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            &["call:now", "args:{}", "end", "call:now", "args:{}", "end"],
        ),
        case(
            "a tool that is not offered",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>rm\n```json\n{}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            &[
                "text:<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>rm\n```json\n{}\n```<｜tool▁call▁end｜>",
                "call:now",
                "args:{}",
                "end",
            ],
        ),
        case(
            "no calls in the section",
            "<｜tool▁calls▁begin｜> none <｜tool▁calls▁end｜>",
            &["text:<｜tool▁calls▁begin｜> none <｜tool▁calls▁end｜>"],
        ),
        case(
            "a call that breaks off before its name, then one",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>func<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n{}",
            &["text:<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>func", "call:now", "args:{}", "end"],
        ),
        case(
            "arguments that are no JSON are passed on as they are",
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\ncity = Paris\n```<｜tool▁call▁end｜>",
            &["call:now", "args:city = Paris", "end"],
        ),
        case(
            "arguments that are never closed",
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{\"a\": 1\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>So.",
            &["call:now", "args:{\"a\": 1\n```", "end", "text:So."],
        ),
        case(
            "cut off in the header",
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>no",
            &["text:<｜tool▁call▁begin｜>function<｜tool▁sep｜>no"],
        ),
        case(
            "cut off in the fence",
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```js",
            &["call:now", "end"],
        ),
        case("cut off in a marker", "So <｜tool▁calls▁be", &["text:So <｜tool▁calls▁be"]),
    ],
);

pub(super) const DEEPSEEK_V31: Cases = (
    format(ToolFormat::DeepSeekV31),
    &[
        open_case(
            "reasoning, then two calls",
            "Hm.</think>I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Paris\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            &[
                "think:Hm.",
                "text:I look.",
                "call:get_weather",
                "args:{\"city\": \"Paris\"}",
                "end",
                "call:now",
                "args:{}",
                "end",
            ],
        ),
        case(
            "a name in white space, arguments in a string",
            "<｜tool▁calls▁begin｜>\n<｜tool▁call▁begin｜> now\n<｜tool▁sep｜>\n\"{\\\"a\\\": \\\"<\\\"}\"\n<｜tool▁call▁end｜>\n<｜tool▁calls▁end｜>\n",
            &["call:now", "args:{\"a\": \"<\"}", "end"],
        ),
        open_case(
            "calls in a block that never closes are reasoning",
            "So<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}",
            &["think:So<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}"],
        ),
    ],
);

pub(super) const DEEPSEEK_R1: Cases = (
    format(ToolFormat::DeepSeekR1),
    &[
        open_case(
            "reasoning, then a call",
            "Hm.\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            &["think:Hm.", "call:now", "args:{}", "end"],
        ),
        case(
            "as distillations write it",
            "<｜tool_calls_begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>",
            &["call:now", "args:{}", "end"],
        ),
        case(
            "with spaces",
            "<｜tool calls begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{\"a\":1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            &["call:now", "args:{\"a\":1}", "end"],
        ),
        case(
            "no call behind the opener",
            "<｜tool▁calls｜>None are needed.",
            &["text:<｜tool▁calls｜>None are needed."],
        ),
    ],
);

pub(super) const KIMI_K2: Cases = (
    format(ToolFormat::KimiK2),
    &[
        case(
            "ids are kept",
            "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{\"city\": \"Paris\"}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
            &[
                "text:I look.",
                "call:get_weather#functions.get_weather:0",
                "args:{\"city\": \"Paris\"}",
                "end",
                "call:now#functions.now:1",
                "args:{}",
                "end",
            ],
        ),
        case(
            "white space, and ids of other shapes",
            "<|tool_calls_section_begin|> <|tool_call_begin|> now:12 <|tool_call_argument_begin|> {} <|tool_call_end|>\n<|tool_call_begin|>now<|tool_call_argument_begin|>{\"a\":\"<|tool_call_end|>\"}<|tool_call_end|> <|tool_calls_section_end|> ",
            &[
                "call:now#now:12",
                "args:{}",
                "end",
                "call:now#now",
                "args:{\"a\":\"<|tool_call_end|>\"}",
                "end",
            ],
        ),
        case(
            "reasoning that the section ends",
            "<think>I look.\n<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
            &["think:I look.", "call:now#functions.now:0", "args:{}", "end"],
        ),
        case(
            "a tool that is not offered",
            "<|tool_call_begin|>functions.rm:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
            &["text:<|tool_call_begin|>functions.rm:0<|tool_call_argument_begin|>{}<|tool_call_end|>"],
        ),
        case(
            "no arguments",
            "<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|><|tool_call_end|>",
            &["call:now#functions.now:0", "args:{}", "end"],
        ),
        case(
            "cut off in the arguments",
            "<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{\"a\"",
            &["call:now#functions.now:0", "args:{\"a\"", "end"],
        ),
    ],
);

#[test]
fn deepseek_v3_calls() {
    check(DEEPSEEK_V3);
}

#[test]
fn deepseek_v31_calls() {
    check(DEEPSEEK_V31);
}

#[test]
fn deepseek_r1_calls() {
    check(DEEPSEEK_R1);
    check((DEEPSEEK_R1.0, DEEPSEEK_V3.1));
}

#[test]
fn kimi_k2_calls_keep_their_ids() {
    check(KIMI_K2);
}
