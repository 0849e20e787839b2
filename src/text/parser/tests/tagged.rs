//! Parameters between tags: Qwen3-Coder, MiniMax-M2, GLM-4.x.

use super::*;

const fn format(tools: ToolFormat) -> AnswerFormat {
    AnswerFormat { reasoning: Some(ReasoningFormat::Think), tools: Some(tools) }
}

pub(super) const QWEN: Cases = (
    format(ToolFormat::QwenXml),
    &[
        case(
            "one call",
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
            &["call:get_weather", "args:{\"city\": \"Paris\", \"days\": 3}", "end"],
        ),
        case(
            "text before, two calls, text after",
            "I look.\n\n<tool_call>\n<function=now>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>\n\nDone.",
            &["text:I look.", "call:now", "args:{}", "end", "call:now", "args:{}", "end", "text:\n\nDone."],
        ),
        open_case(
            "reasoning, then a call",
            "Hm.\n</think>\n\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
            &["think:Hm.", "call:now", "args:{}", "end"],
        ),
        case(
            "types by the schema",
            "<tool_call>\n<function=write_file>\n<parameter=path>\n12\n</parameter>\n<parameter=mode>\nnull\n</parameter>\n<parameter=lines>\n[1, 2]\n</parameter>\n<parameter=options>\n{\"a\": {\"b\": [ ]}}\n</parameter>\n<parameter=force>\nTrue\n</parameter>\n<parameter=ratio>\n0.50\n</parameter>\n<parameter=limit>\nNone\n</parameter>\n</function>\n</tool_call>",
            &[
                "call:write_file",
                "args:{\"path\": \"12\", \"mode\": null, \"lines\": [1, 2], \"options\": {\"a\": {\"b\": [ ]}}, \"force\": true, \"ratio\": 0.50, \"limit\": null}",
                "end",
            ],
        ),
        case(
            "what does not fit its type is a string, Python's literals are converted",
            "<tool_call>\n<function=write_file>\n<parameter=mode>\nnullable\n</parameter>\n<parameter=lines>\n(1, 2)\n</parameter>\n<parameter=options>\n{'a': None}\n</parameter>\n<parameter=force>\nmaybe\n</parameter>\n<parameter=limit>\n{}\n</parameter>\n</function>\n</tool_call>",
            &[
                "call:write_file",
                "args:{\"mode\": \"nullable\", \"lines\": [1, 2], \"options\": {\"a\": null}, \"force\": \"maybe\", \"limit\": \"{}\"}",
                "end",
            ],
        ),
        case(
            "parameters of unknown type",
            "<tool_call><function=write_file><parameter=any>1e3</parameter><parameter=x>1.2.3</parameter><parameter=y>{\"a\": 1}</parameter><parameter=z>{a}</parameter><parameter=q>\"a\"</parameter><parameter=t>true </parameter></function></tool_call>",
            &[
                "call:write_file",
                "args:{\"any\": 1e3, \"x\": \"1.2.3\", \"y\": {\"a\": 1}, \"z\": \"{a}\", \"q\": \"\\\"a\\\"\", \"t\": true}",
                "end",
            ],
        ),
        case(
            "strings keep their lines, and tags within them",
            "<tool_call>\n<function=write_file>\n<parameter=content>\n\n  <parameter=x>\n</parameter> \"</function>\\\n\t</parameter>\u{1}\n\n</parameter>\n<parameter=path>\n</parameter>\n</function>\n</tool_call>",
            &[
                "call:write_file",
                "args:{\"content\": \"\\n  <parameter=x>\\n</parameter> \\\"</function>\\\\\\n\\t</parameter>\\u0001\\n\", \"path\": \"\"}",
                "end",
            ],
        ),
        case(
            "without the section's tags, names in quotes",
            "<function=\"now\">\n</function>\n<function=get_weather><parameter=\"city\">a</parameter></function>",
            &["call:now", "args:{}", "end", "call:get_weather", "args:{\"city\": \"a\"}", "end"],
        ),
        case(
            "closing tags are missing",
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</tool_call>\nSo.",
            &[
                "call:get_weather",
                "args:{\"city\": \"Paris\"}",
                "end",
                "call:now",
                "args:{}",
                "end",
                "text:So.",
            ],
        ),
        case(
            "a tool that is not offered",
            "<tool_call>\n<function=rm>\n<parameter=x>\n<function=now>\n</parameter>\n</function>\n</tool_call>",
            &[
                "text:<tool_call>\n<function=rm>\n<parameter=x>\n<function=now>\n</parameter>\n</function>\n</tool_call>",
            ],
        ),
        case(
            "what is no call",
            "<tool_call>\n<func> a <function=<function=now\n>",
            &["text:<tool_call>\n<func> a <function=<function=now\n>"],
        ),
        case(
            "text behind a closing tag makes it none",
            "<tool_call>\n<function=get_weather>\n<parameter=city>\na\n</parameter>\nand\n</function>\n</tool_call>",
            &["call:get_weather", "args:{\"city\": \"a\\n</parameter>\\nand\"}", "end"],
        ),
        case(
            "a call that breaks off before its parameters",
            "<tool_call>\n<function=now>\n{}\n</function>\n</tool_call>\nSo.",
            &["call:now", "end", "text:{}\nSo."],
        ),
        case("cut off in the name", "<tool_call>\n<function=no", &["text:<tool_call>\n<function=no"]),
        case(
            "cut off in a string",
            "<function=get_weather>\n<parameter=city>\nPar\n</para",
            &["call:get_weather", "args:{\"city\": \"Par", "end"],
        ),
        case(
            "cut off in a number",
            "<function=get_weather>\n<parameter=days>\n12",
            &["call:get_weather", "args:{\"days\": ", "end"],
        ),
        case(
            "cut off behind a value",
            "<function=get_weather>\n<parameter=days>\n12\n</parameter>\n",
            &["call:get_weather", "args:{\"days\": 12", "end"],
        ),
        case(
            "Seed-OSS's tags, which stand on the value's own lines",
            "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Paris\n</parameter>\n</function>\n</seed:tool_call>",
            &["call:get_weather", "args:{\"city\": \"Paris\\n\"}", "end"],
        ),
    ],
);

pub(super) const MINIMAX: Cases = (
    format(ToolFormat::MiniMaxM2),
    &[
        open_case(
            "reasoning, text, two calls in a section",
            "Hm.\n</think>\n\nI look.\n<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter name=\"city\">Paris</parameter>\n<parameter name=\"days\">3</parameter>\n</invoke>\n<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>",
            &[
                "think:Hm.",
                "text:I look.",
                "call:get_weather",
                "args:{\"city\": \"Paris\", \"days\": 3}",
                "end",
                "call:now",
                "args:{}",
                "end",
            ],
        ),
        case(
            "values stand as they are",
            "<minimax:tool_call><invoke name=\"write_file\"><parameter name=\"content\">\n a\n</parameter><parameter name=\"options\"> {\"a\": 1} </parameter></invoke></minimax:tool_call>",
            &["call:write_file", "args:{\"content\": \"\\n a\\n\", \"options\": {\"a\": 1}}", "end"],
        ),
        case(
            "one call that is offered and one that is not",
            "<minimax:tool_call>\n<invoke name=\"now\">\n</invoke>\n<invoke name=\"rm\">\n</invoke>\n<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>",
            &[
                "call:now",
                "args:{}",
                "end",
                "text:<invoke name=\"rm\">\n</invoke>",
                "call:now",
                "args:{}",
                "end",
            ],
        ),
    ],
);

pub(super) const DSML: Cases = (
    format(ToolFormat::DeepSeekV32),
    &[
        case(
            "one call",
            "<think>Hm.</think>I look.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"get_weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">Paris</｜DSML｜parameter>\n<｜DSML｜parameter name=\"days\" string=\"false\">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
            &[
                "think:Hm.",
                "text:I look.",
                "call:get_weather",
                "args:{\"city\": \"Paris\", \"days\": 3}",
                "end",
            ],
        ),
        case(
            "V4's section, two calls, one without arguments",
            "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"now\">\n\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"write_file\">\n<｜DSML｜parameter name=\"content\" string=\"true\">\na </｜DSML｜parameter> b\n</｜DSML｜parameter>\n<｜DSML｜parameter name=\"lines\" string=\"false\">[1, 2]</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>\nDone.",
            &[
                "call:now",
                "args:{}",
                "end",
                "call:write_file",
                "args:{\"content\": \"\\na </｜DSML｜parameter> b\\n\", \"lines\": [1, 2]}",
                "end",
                "text:Done.",
            ],
        ),
        case(
            "a string that looks like something else, where anything may be",
            "<｜DSML｜invoke name=\"write_file\"><｜DSML｜parameter name=\"any\" string=\"true\">12</｜DSML｜parameter><｜DSML｜parameter name=\"ratio\" string=\"false\">0.5</｜DSML｜parameter><｜DSML｜parameter name=\"other\" string=\"false\">{\"a\": 1}</｜DSML｜parameter></｜DSML｜invoke>",
            &["call:write_file", "args:{\"any\": \"12\", \"ratio\": 0.5, \"other\": {\"a\": 1}}", "end"],
        ),
        case(
            "a tool that is not offered",
            "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"rm\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
            &[
                "text:<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"rm\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
            ],
        ),
        case(
            "a section without calls",
            "<｜DSML｜function_calls> none",
            &["text:<｜DSML｜function_calls> none"],
        ),
    ],
);

pub(super) const GLM: Cases = (
    format(ToolFormat::Glm4),
    &[
        case(
            "one call",
            "\n<think>Hm.</think>\nI look.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
            &[
                "think:Hm.",
                "text:I look.",
                "call:get_weather",
                "args:{\"city\": \"Paris\", \"days\": 3}",
                "end",
            ],
        ),
        case(
            "on one line, two calls, text after",
            "<tool_call>get_weather<arg_key>city</arg_key><arg_value>a < </arg_value> b</arg_value></tool_call><tool_call>now</tool_call>\nDone.",
            &[
                "call:get_weather",
                "args:{\"city\": \"a < </arg_value> b\"}",
                "end",
                "call:now",
                "args:{}",
                "end",
                "text:Done.",
            ],
        ),
        case(
            "the name on a line of its own",
            "<tool_call>\nnow\n</tool_call>",
            &["call:now", "args:{}", "end"],
        ),
        case(
            "a tool that is not offered",
            "<tool_call>rm\n<arg_key>x</arg_key>\n<arg_value>y</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
            &[
                "text:<tool_call>rm\n<arg_key>x</arg_key>\n<arg_value>y</arg_value>\n</tool_call>",
                "call:now",
                "args:{}",
                "end",
            ],
        ),
        case(
            "an opener that nothing follows, then a call",
            "<tool_call>\n<tool_call>now</tool_call>",
            &["text:<tool_call>\n", "call:now", "args:{}", "end"],
        ),
        case(
            "a key without a value",
            "<tool_call>get_weather\n<arg_key>city</arg_key>\n</tool_call>\nSo.",
            &["call:get_weather", "end", "text:So."],
        ),
        case("cut off in the name", "<tool_call>no", &["text:<tool_call>no"]),
    ],
);

#[test]
fn qwen_xml_calls_have_the_types_of_their_schema() {
    check(QWEN);
}

#[test]
fn minimax_m2_calls() {
    check(MINIMAX);
}

#[test]
fn glm_calls() {
    check(GLM);
    check(DSML);
}
