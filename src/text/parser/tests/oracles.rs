//! The same raw outputs as tool-parser and reasoning-parser (of the smg gateway) read them, where they cover
//! the format. Where they read otherwise, the reason stands beside the case.

use super::*;
use reasoning_parser::{BaseReasoningParser, ParserConfig, ReasoningParser as _};
use std::collections::BTreeSet;
use tool_parser::ToolParser as Oracle;

fn oracle(format: ToolFormat) -> Option<Box<dyn Oracle>> {
    Some(match format {
        ToolFormat::Hermes => Box::new(tool_parser::QwenParser::new()),
        ToolFormat::LlamaJson => Box::new(tool_parser::LlamaParser::new()),
        ToolFormat::DeepSeekV3 | ToolFormat::DeepSeekR1 => Box::new(tool_parser::DeepSeekParser::new()),
        ToolFormat::DeepSeekV31 => Box::new(tool_parser::DeepSeek31Parser::new()),
        ToolFormat::DeepSeekV32 => Box::new(tool_parser::DeepSeekDsmlParser::v32()),
        ToolFormat::DeepSeekV4 => Box::new(tool_parser::DeepSeekDsmlParser::v4()),
        ToolFormat::MistralList => Box::new(tool_parser::MistralParser::new()),
        ToolFormat::KimiK2 => Box::new(tool_parser::KimiK2Parser::new()),
        ToolFormat::QwenXml => Box::new(tool_parser::parsers::QwenXmlParser::new()),
        ToolFormat::MiniMaxM2 => Box::new(tool_parser::MinimaxM2Parser::new()),
        ToolFormat::Glm4 => Box::new(tool_parser::Glm4MoeParser::glm45()),
        ToolFormat::Pythonic => Box::new(tool_parser::PythonicParser::new()),
        ToolFormat::Mistral | ToolFormat::Harmony => return None,
    })
}

/// The calls and the text, white space aside.
type Read = (Vec<(String, Value)>, String);

fn without_white(text: &str) -> String {
    text.split_whitespace().collect()
}

/// Arguments that are no JSON are compared as text.
fn arguments(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| json.into())
}

fn ours(format: ToolFormat, raw: &str) -> Read {
    let mut read: Read = Default::default();
    let mut json = String::new();
    for event in parse(AnswerFormat { reasoning: None, tools: Some(format) }, false, [raw]) {
        match event.split_once(':').unwrap_or((&event, "")) {
            ("text", text) => read.1.push_str(text),
            ("call", name) => read.0.push((name.split('#').next().unwrap_or_default().into(), Value::Null)),
            ("args", piece) => json.push_str(piece),
            _ => {
                if let Some(call) = read.0.last_mut() {
                    call.1 = arguments(&std::mem::take(&mut json));
                }
            }
        }
    }
    read.1 = without_white(&read.1);
    read
}

fn theirs(oracle: &dyn Oracle, raw: &str) -> Option<Read> {
    let offered: Vec<Value> = tools()
        .iter()
        .map(|tool| json!({"type": "function", "function": {"name": tool.name, "parameters": tool.parameters}}))
        .collect();
    let offered: Vec<_> = serde_json::from_value(offered.into()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (text, calls) = runtime.block_on(oracle.parse_complete_with_tools(raw, &offered[..])).ok()?;
    let calls = calls.into_iter().map(|call| (call.function.name, arguments(&call.function.arguments)));
    Some((calls.collect(), without_white(&text)))
}

const TEXT_AFTER: &str = "it drops the text behind calls";
const ITS_FORM: &str =
    "it reads calls only in the very form that it expects: white space, keys, every marker";
const MARKERS: &str = "it takes a marker within a string, or within a value, for the end";
const CUT: &str =
    "it reads a call that is cut off or broken as text, or leaves it out; ours has sent the name by then";
const REPAIRED: &str = "it makes a broken call whole, or leaves out what breaks it";
const OFFERED: &str = "it reads calls of tools that are not offered";
const OPENER: &str = "it drops an opener that nothing follows";
const TYPES: &str =
    "it converts by rules of its own: no Python literals, quotes around untyped strings are dropped";
const FENCE: &str = "it reads no calls without tags, which Qwen2.5-Coder writes";
const MISTRAL_SPACE: &str =
    "it wants a space before the list, which the template of 7B v0.3 writes and others do not";
const NAME: &str = "it finds no name on the next line";

/// (format, case, why it is read otherwise).
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("hermes", "text before and after", TEXT_AFTER),
    ("hermes", "parallel calls with text between", TEXT_AFTER),
    ("hermes", "arguments keep their white space", ITS_FORM),
    ("hermes", "arguments before the name, parameters for arguments", ITS_FORM),
    ("hermes", "braces, tags and escapes in strings", MARKERS),
    ("hermes", "arguments in a JSON string", ITS_FORM),
    ("hermes", "no arguments in their several spellings", ITS_FORM),
    ("hermes", "other keys are left out", ITS_FORM),
    ("hermes", "an escaped name", ITS_FORM),
    ("hermes", "a tool that is not offered is text, with what it holds", MARKERS),
    ("hermes", "an opener that nothing follows, then a call", OPENER),
    ("hermes", "an attempt that breaks off in early arguments, then a call", ITS_FORM),
    ("hermes", "cut off after the name", CUT),
    ("hermes", "cut off in the arguments", CUT),
    ("hermes", "cut off before the closing marker", CUT),
    ("hermes", "the object's last brace is missing", CUT),
    ("hermes", "arguments that are never closed", CUT),
    ("hermes", "closing markers are missing", CUT),
    ("hermes", "a brace too many", CUT),
    ("hermes", "as Qwen2.5-Coder writes it", FENCE),
    ("hermes", "objects without tags at the beginning, and in text", FENCE),
    ("hermes", "a fence that is not closed", FENCE),
    ("llama3_json", "several, parted by semicolons or lines", ITS_FORM),
    ("llama3_json", "a type, and text before and after", ITS_FORM),
    ("llama3_json", "text after a semicolon", TEXT_AFTER),
    ("llama3_json", "a tool that is not offered", OFFERED),
    ("llama3_json", "cut off in the parameters", CUT),
    ("deepseek_v3", "text before, two calls on two lines, text after", MARKERS),
    ("deepseek_v3", "no fence, no section, no closing markers", ITS_FORM),
    ("deepseek_v3", "no arguments", ITS_FORM),
    ("deepseek_v3", "a tool that is not offered", OFFERED),
    ("deepseek_v3", "a call that breaks off before its name, then one", ITS_FORM),
    ("deepseek_v3", "arguments that are no JSON are passed on as they are", CUT),
    ("deepseek_v3", "arguments that are never closed", CUT),
    ("deepseek_v3", "cut off in the fence", CUT),
    ("deepseek_v31", "a name in white space, arguments in a string", ITS_FORM),
    ("deepseek_r1", "as distillations write it", ITS_FORM),
    ("deepseek_r1", "with spaces", ITS_FORM),
    (
        "deepseek_v32",
        "V4's section, two calls, one without arguments",
        "each of its two parsers knows its own section alone",
    ),
    ("deepseek_v32", "a string that looks like something else, where anything may be", ITS_FORM),
    ("deepseek_v32", "a tool that is not offered", OFFERED),
    ("deepseek_v32", "a section without calls", OPENER),
    ("mistral_list", "one call", MISTRAL_SPACE),
    ("mistral_list", "spaces, two calls, text before and after", TEXT_AFTER),
    ("mistral_list", "one object without a list", ITS_FORM),
    ("mistral_list", "arguments that break off", CUT),
    ("kimi_k2", "white space, and ids of other shapes", ITS_FORM),
    ("kimi_k2", "no arguments", ITS_FORM),
    ("kimi_k2", "cut off in the arguments", CUT),
    ("qwen3_coder", "text before, two calls, text after", TEXT_AFTER),
    ("qwen3_coder", "what does not fit its type is a string, Python's literals are converted", TYPES),
    ("qwen3_coder", "parameters of unknown type", TYPES),
    ("qwen3_coder", "strings keep their lines, and tags within them", MARKERS),
    ("qwen3_coder", "without the section's tags, names in quotes", ITS_FORM),
    ("qwen3_coder", "closing tags are missing", REPAIRED),
    ("qwen3_coder", "a tool that is not offered", OFFERED),
    ("qwen3_coder", "text behind a closing tag makes it none", MARKERS),
    ("qwen3_coder", "a call that breaks off before its parameters", REPAIRED),
    ("qwen3_coder", "cut off in a string", CUT),
    ("qwen3_coder", "cut off in a number", CUT),
    ("qwen3_coder", "cut off behind a value", CUT),
    ("qwen3_coder", "Seed-OSS's tags, which stand on the value's own lines", ITS_FORM),
    ("minimax_m2", "values stand as they are", TYPES),
    ("minimax_m2", "one call that is offered and one that is not", OFFERED),
    ("glm45", "on one line, two calls, text after", MARKERS),
    ("glm45", "the name on a line of its own", NAME),
    ("glm45", "a tool that is not offered", OFFERED),
    ("glm45", "an opener that nothing follows, then a call", NAME),
    ("glm45", "a key without a value", REPAIRED),
    ("pythonic", "every kind of literal", MARKERS),
    ("pythonic", "arguments without names", ITS_FORM),
    ("pythonic", "between LFM2's tags", ITS_FORM),
    ("pythonic", "a tool that is not offered behind one that is", OFFERED),
    (
        "pythonic",
        "arguments that break off",
        "strings that follow each other are one in Python; ours breaks off there",
    ),
    ("pythonic", "an argument too many", CUT),
    ("pythonic", "cut off in a string", CUT),
    ("pythonic", "cut off behind a call", CUT),
];

#[test]
fn tool_parser_reads_the_same_calls() {
    let mut differ = BTreeSet::new();
    let mut same = 0;
    for (format, case) in corpus() {
        let Some(tools) = format.tools.filter(|_| !case.raw.contains("</think>") && !case.is_open) else {
            continue;
        };
        let Some(oracle) = oracle(tools) else { continue };
        let (ours, theirs) = (ours(tools, case.raw), theirs(&*oracle, case.raw));
        if theirs.as_ref() == Some(&ours) {
            same += 1;
        } else {
            differ.insert((tools.name(), case.name));
            println!(
                "{} {}:\n  raw    {:?}\n  ours   {ours:?}\n  theirs {theirs:?}",
                tools.name(),
                case.name,
                case.raw
            );
        }
    }
    println!("{same} are the same");
    let known: BTreeSet<_> = DIFFERENCES.iter().map(|(format, name, _)| (*format, *name)).collect();
    assert_eq!(differ, known);
}

#[test]
fn reasoning_parser_reads_the_same_reasoning() {
    let mut differ = BTreeSet::new();
    for case in think::CASES.1 {
        let config = ParserConfig {
            think_start_token: "<think>".into(),
            think_end_token: "</think>".into(),
            stream_reasoning: true,
            max_buffer_size: 1 << 20,
            always_in_reasoning: case.is_open,
        };
        let theirs = BaseReasoningParser::new(config).detect_and_parse_reasoning(case.raw).unwrap();
        let theirs = (without_white(&theirs.reasoning_text), without_white(&theirs.normal_text));
        let format = AnswerFormat { reasoning: Some(ReasoningFormat::Think), tools: None };
        let mut ours = (String::new(), String::new());
        for event in parse(format, case.is_open, [case.raw]) {
            match event.split_once(':') {
                Some(("think", text)) => ours.0.push_str(&without_white(text)),
                Some((_, text)) => ours.1.push_str(&without_white(text)),
                None => {}
            }
        }
        if ours != theirs {
            differ.insert(case.name);
            println!("{}:\n  raw    {:?}\n  ours   {ours:?}\n  theirs {theirs:?}", case.name, case.raw);
        }
    }
    // Beside the first, it reads an opening tag anywhere, and none again; a lone closing tag stays with it.
    let known = [
        "cut off in the closing tag",
        "closed without opening, at the beginning",
        "a tag in text",
        "tags and parts of tags in reasoning",
        "a second block",
    ];
    assert_eq!(differ, BTreeSet::from(known));
}

/// A call as the family's template writes it.
fn rendered(format: ToolFormat, name: &str, arguments: &serde_json::Map<String, Value>) -> String {
    let json = Value::Object(arguments.clone());
    let plain = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
    let tagged = |write: &dyn Fn(&str, String) -> String| -> String {
        arguments.iter().map(|(key, value)| write(key, plain(value))).collect()
    };
    match format {
        ToolFormat::Hermes => {
            format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {json}}}\n</tool_call>")
        }
        ToolFormat::LlamaJson => format!("{{\"name\": \"{name}\", \"parameters\": {json}}}"),
        ToolFormat::DeepSeekV3 | ToolFormat::DeepSeekR1 => format!(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{json}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        ToolFormat::DeepSeekV31 => format!(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{json}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        ToolFormat::DeepSeekV32 | ToolFormat::DeepSeekV4 => {
            let section = if format == ToolFormat::DeepSeekV4 { "tool_calls" } else { "function_calls" };
            let parameters: String = arguments
                .iter()
                .map(|(key, value)| {
                    let (is_string, value) = (value.is_string(), plain(value));
                    format!("<｜DSML｜parameter name=\"{key}\" string=\"{is_string}\">{value}</｜DSML｜parameter>\n")
                })
                .collect();
            format!(
                "<｜DSML｜{section}>\n<｜DSML｜invoke name=\"{name}\">\n{parameters}</｜DSML｜invoke>\n</｜DSML｜{section}>"
            )
        }
        ToolFormat::Mistral => format!("[TOOL_CALLS]{name}[ARGS]{json}"),
        ToolFormat::MistralList => {
            format!("[TOOL_CALLS] [{{\"name\": \"{name}\", \"arguments\": {json}}}]")
        }
        ToolFormat::KimiK2 => format!(
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>{json}<|tool_call_end|><|tool_calls_section_end|>"
        ),
        ToolFormat::QwenXml => format!(
            "<tool_call>\n<function={name}>\n{}</function>\n</tool_call>",
            tagged(&|key, value| format!("<parameter={key}>\n{value}\n</parameter>\n"))
        ),
        ToolFormat::MiniMaxM2 => format!(
            "<minimax:tool_call>\n<invoke name=\"{name}\">\n{}</invoke>\n</minimax:tool_call>",
            tagged(&|key, value| format!("<parameter name=\"{key}\">{value}</parameter>\n"))
        ),
        ToolFormat::Glm4 => format!(
            "<tool_call>{name}\n{}</tool_call>",
            tagged(&|key, value| format!("<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n"))
        ),
        ToolFormat::Pythonic => {
            let arguments: Vec<String> = arguments
                .iter()
                .map(|(key, value)| {
                    let value = value
                        .to_string()
                        .replace("true", "True")
                        .replace("false", "False")
                        .replace("null", "None");
                    format!("{key}={value}")
                })
                .collect();
            format!("[{name}({})]", arguments.join(", "))
        }
        ToolFormat::Harmony => {
            format!("<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{json}<|call|>")
        }
    }
}

proptest::proptest! {
    /// Calls as the templates write them: both read what was written.
    #[test]
    fn written_calls_are_read_back_by_both(
        path in "[a-zäé/._-]{1,12}",
        content in "[ -~é😀]{0,20}[a-z]",
        lines in proptest::collection::vec(-9i64..999, 0..4),
        force: bool,
        ratio in 1u32..999,
    ) {
        // Their pythonic parser finds the end of a list by its brackets, in strings too.
        let python = content.replace(['[', ']', '(', ')', '\'', '"', '\\'], "");
        for format in ToolFormat::ALL {
            let content = if format == ToolFormat::Pythonic { &python } else { &content };
            // And their parser of Llama's format splits calls at semicolons, in strings too.
            let content = &content.replace(';', ",");
            // In tags, white space around a string, and a string that is a tag, are read in several ways.
            let content = if matches!(format, ToolFormat::QwenXml | ToolFormat::MiniMaxM2 | ToolFormat::Glm4) {
                content.trim().replace(['<', '&'], "")
            } else {
                content.clone()
            };
            let arguments = json!({
                "path": path, "content": content, "lines": lines, "force": force, "ratio": f64::from(ratio) / 8.0,
                "options": {"a": [content], "b": {}},
            });
            let Value::Object(mut arguments) = arguments else { unreachable!() };
            if format == ToolFormat::MiniMaxM2 {
                // Their parser of this format does not follow `$ref`.
                arguments.remove("options");
            }
            let raw = rendered(format, "write_file", &arguments);
            let written = (vec![("write_file".to_owned(), Value::Object(arguments))], String::new());
            assert_eq!(ours(format, &raw), written, "{raw}");
            if let Some(oracle) = oracle(format) {
                assert_eq!(theirs(&*oracle, &raw), Some(written), "{} {raw}", format.name());
            }
        }
    }
}
