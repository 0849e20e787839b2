//! Rules of calls that are Python, `[f(a=1, b="x"), g()]`: Llama 3.2 and 4, LFM2.
//!
//! Arguments come by their names, in the order of the schema's properties. Truth values, nothing and plain strings are
//! written as Python writes them; numbers, lists and dictionaries are spelled as JSON spells them, which is Python but
//! for three words that every reader of such calls knows.

use super::tools::{AnswerText, Tool, ToolCalls, Writer, of_tool, properties};
use super::{Grammar, GrammarError, lark_string, schema};
use serde_json::Value;

/// What may stand around the list, where the model has tokens for it.
const TAGS: [(&str, &str); 2] =
    [("<|tool_call_start|>", "<|tool_call_end|>"), ("<|python_start|>", "<|python_end|>")];
/// Between a list's parts.
const SPACE: &str = r"/[ \t\n]{0,2}/";
/// A string between single quotes.
const SINGLE_QUOTED: &str = r"/'([^'\\\x00-\x1f\x7f]|\\['\\nrt])*'/";

/// The body of the first rule.
pub(super) fn start(writer: &mut Writer<'_>, calls: &ToolCalls) -> Result<String, GrammarError> {
    let all = 0..calls.tools.len();
    for (index, tool) in calls.tools.iter().enumerate() {
        if !is_name(&tool.name) {
            let reason = "cannot be called by this model, which writes calls as Python: a name must begin with a \
                          letter and have letters, digits, `_`, `-` and `.` alone";
            return Err(of_tool(tool, GrammarError::Invalid(reason.into())));
        }
        arguments(writer, index, tool)?;
        writer.rule(&format!("rest_{index}"), &format!("\"(\" SPACE? arguments_{index} \")\""));
        writer.rule(&format!("call_{index}"), &format!("{} rest_{index}", lark_string(&tool.name)));
    }
    writer.rule("SPACE", SPACE);
    let one_of = |rule: &str| all.clone().map(|i| format!("{rule}_{i}")).collect::<Vec<_>>().join(" | ");
    writer.rule("call", &one_of("call"));
    let more = if calls.parallel { "(\",\" SPACE? call)*" } else { "" };
    writer.rule("more", &format!("{more} \"]\""));
    writer.rule("list", "\"[\" call more");
    let is_special = |text: &str| writer.vocabulary.split_at_special(text).is_some();
    let has_tags = |(open, close): &&(&str, &str)| is_special(open) && is_special(close);
    let tagged: Vec<String> = TAGS
        .iter()
        .filter(has_tags)
        .map(|(open, close)| {
            format!("{} list {}", writer.vocabulary.lark(open), writer.vocabulary.lark(close))
        })
        .collect();
    let mut parts = Vec::new();
    match &calls.text {
        AnswerText::Held(text) if !calls.required => {
            parts.push(writer.text(text, &[])?.to_owned());
            match text {
                // A document's bracket and a list's are the same, so that both may come.
                Grammar::JsonObject | Grammar::JsonSchema(_) => parts.push("list".into()),
                _ => parts.extend(heads(writer, calls, "")),
            }
            parts.extend(tagged);
        }
        AnswerText::Free => {
            if !calls.required {
                parts.push("TEXT".into());
            }
            parts.extend(heads(writer, calls, r"((.|\n)*\n|[ \t]*)"));
            parts.extend(tagged.into_iter().map(|list| format!("TEXT? {list}")));
        }
        AnswerText::None | AnswerText::Held(_) => {
            parts.push("list".into());
            parts.extend(tagged);
        }
    }
    Ok(parts.join(" | "))
}

/// Lists whose beginning, behind a text, ends what could be text: a list is one by its bracket and the tool's name.
fn heads(writer: &mut Writer<'_>, calls: &ToolCalls, before: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for (index, tool) in calls.tools.iter().enumerate() {
        let name = tool.name.replace('.', r"\.").replace('-', r"\-");
        writer.rule(&format!("head_{index}[lazy]"), &format!(r"/{before}\[[ \t\n]*{name}[ \t\n]*\(/"));
        parts.push(format!("head_{index} SPACE? arguments_{index} \")\" more"));
    }
    parts
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

/// The arguments of a tool: those that must be there and any of the others, with commas between them.
fn arguments(writer: &mut Writer<'_>, index: usize, tool: &Tool) -> Result<(), GrammarError> {
    let mut parts = Vec::new();
    for (at, (key, schema, is_required)) in properties(tool).enumerate() {
        if !is_name(key) {
            if !is_required {
                continue;
            }
            let reason = format!(
                "its argument {key:?} cannot be written by this model, which writes calls as Python: a name must \
                 begin with a letter and have letters, digits, `_`, `-` and `.` alone"
            );
            return Err(of_tool(tool, GrammarError::Invalid(reason)));
        }
        let schema = writer.argument(tool, schema)?;
        let mut values = Vec::new();
        alternatives(&schema, &mut values).map_err(|error| of_tool(tool, error))?;
        let name = format!("value_{index}_{at}");
        writer.rule(&name, &values.join(" | "));
        parts.push((format!("{} {name}", lark_string(&format!("{key}="))), is_required));
    }
    // From the last one on: the arguments from this one on, where one has come, and where none has.
    let (mut others, mut first) = ("\"\"".to_owned(), "\"\"".to_owned());
    for (at, (part, is_required)) in parts.iter().enumerate().rev() {
        let optional = if *is_required { "" } else { "?" };
        let begins = match is_required {
            true => format!("{part} {others}"),
            false => format!("{part} {others} | {first}"),
        };
        let (others_name, first_name) = (format!("others_{index}_{at}"), format!("first_{index}_{at}"));
        writer.rule(&others_name, &format!("(\",\" SPACE? {part}){optional} {others}"));
        writer.rule(&first_name, &begins);
        (others, first) = (others_name, first_name);
    }
    writer.rule(&format!("arguments_{index}"), &first);
    Ok(())
}

/// How a value of a checked schema may be written: bodies of a rule.
fn alternatives(checked: &Value, parts: &mut Vec<String>) -> Result<(), GrammarError> {
    let none = serde_json::Map::new();
    let map = checked.as_object().unwrap_or(&none);
    let said = |key: &&String| !matches!(key.as_str(), "x-guidance" | "$defs" | "definitions" | "$schema");
    let keys: Vec<&str> = map.keys().filter(said).map(String::as_str).collect();
    let with_type = |value: &str| {
        let mut one = checked.clone();
        one["type"] = value.into();
        one
    };
    match (&keys[..], map.get("type"), map.get("anyOf"), map.get("enum")) {
        (["type"], Some(Value::Array(types)), _, _) => {
            for value in types.iter().filter_map(Value::as_str) {
                alternatives(&with_type(value), parts)?;
            }
        }
        (["type"], Some(Value::String(value)), _, _) if value == "boolean" => {
            parts.extend(["\"True\"".into(), "\"False\"".into()]);
        }
        (["type"], Some(Value::String(value)), _, _) if value == "null" => parts.push("\"None\"".into()),
        (["type"], Some(Value::String(value)), _, _) if value == "string" => {
            parts.extend([format!("%json {checked}"), SINGLE_QUOTED.into()]);
        }
        (["anyOf"], _, Some(Value::Array(schemas)), _) => {
            for schema in schemas {
                let schema = schema::checked(&super::tools::with_definitions(schema, checked))?;
                alternatives(&schema, parts)?;
            }
        }
        (["enum"], _, _, Some(Value::Array(values))) if values.iter().all(|value| !is_container(value)) => {
            values.iter().for_each(|value| parts.extend(literals(value)));
        }
        (["type", "enum"] | ["enum", "type"], Some(Value::String(value)), _, Some(Value::Array(values)))
            if value == "string" && values.iter().all(Value::is_string) =>
        {
            values.iter().for_each(|value| parts.extend(literals(value)));
        }
        _ => parts.push(format!("%json {checked}")),
    }
    Ok(())
}

fn is_container(value: &Value) -> bool {
    value.is_array() || value.is_object()
}

/// A value as Python writes it, a string in either of its quotes.
fn literals(value: &Value) -> Vec<String> {
    let written = match value {
        Value::Null => vec!["None".to_owned()],
        Value::Bool(true) => vec!["True".to_owned()],
        Value::Bool(false) => vec!["False".to_owned()],
        Value::String(text) => {
            let double = value.to_string();
            let is_plain = !text.contains(|c: char| c == '\'' || c == '\\' || c.is_control());
            let single = is_plain.then(|| format!("'{text}'"));
            [Some(double), single].into_iter().flatten().collect()
        }
        other => vec![other.to_string()],
    };
    written.iter().map(|text| lark_string(text)).collect()
}
