//! Rules of calls that are texts around names and arguments ([`CallTexts`]).

use super::tools::{AnswerText, Arguments, CallTexts, Tool, ToolCalls, Writer, properties};
use super::{Grammar, GrammarError, lark_string, schema};
use serde_json::Value;

/// The body of the first rule.
pub(super) fn start(
    writer: &mut Writer<'_>,
    calls: &ToolCalls,
    format: &CallTexts,
) -> Result<String, GrammarError> {
    // The first text of the calls ends a text before them.
    let (first, begins_first_call) = match format.begin_all.is_empty() {
        false => (format.begin_all.as_str(), false),
        true => (format.before_name.as_str(), true),
    };
    if first.is_empty() && (!calls.required || calls.text == AnswerText::Free) {
        return Err(GrammarError::Invalid(
            "calls without a text that begins them cannot follow a text".into(),
        ));
    }
    if let AnswerText::Held(text @ (Grammar::JsonObject | Grammar::JsonSchema(_))) = &calls.text
        && !calls.required
        && !calls.tools.is_empty()
        && first.starts_with('{')
    {
        return json_or_json(writer, calls, format, text);
    }
    let mut names = Vec::new();
    for (index, tool) in calls.tools.iter().enumerate() {
        call(writer, index, tool, format)?;
        names.push(format!("call_{index}"));
    }
    let lark = |text: &str| writer.vocabulary.lark(text);
    let before_name = lark(&format.before_name);
    let more = match calls.parallel {
        true => format!("({} {before_name} call)*", lark(&format.between_calls)),
        false => String::new(),
    };
    let tail = format!("call {more} {}", lark(&format.end_all));
    // What stands between the first text and the first name.
    let second = if begins_first_call { String::new() } else { before_name };
    let begin = lark(first);
    // The first tag alone makes it a call: what follows it in another form would be none to a parser.
    let (opening, rest) = first.split_at(first.find('>').map_or(first.len(), |at| at + 1));
    let rest = lark(rest);
    if !names.is_empty() {
        writer.rule("call", &names.join(" | "));
        writer.rule("tail", &tail);
    }
    Ok(match &calls.text {
        AnswerText::Held(text) if !calls.required => {
            let answer = writer.text(text, &[])?;
            match names.is_empty() {
                true => answer.to_owned(),
                false => format!("{answer} | {} {rest} {second} tail", writer.opening("opening", opening)),
            }
        }
        AnswerText::Free => {
            let head = writer.until("head", opening);
            let alone = if calls.required { "" } else { "TEXT | " };
            format!("{alone}{head} {rest} {second} tail")
        }
        AnswerText::None | AnswerText::Held(_) => format!("{begin} {second} tail"),
    })
}

/// Calls that are JSON objects, or a JSON document. They share their first brace, so the calls are written in the parts
/// that JSON is read in, with the same white space between them; a document names no tool in its `name`.
fn json_or_json(
    writer: &mut Writer<'_>,
    calls: &ToolCalls,
    format: &CallTexts,
    text: &Grammar,
) -> Result<String, GrammarError> {
    let key = format.after_name.split('"').find(|part| part.chars().any(char::is_alphabetic));
    let key = lark_string(&lark_string(key.unwrap_or("arguments")));
    writer.rule("SPACE", &format!("/{}/", schema::WHITE_SPACE));
    let mut names = Vec::new();
    for (index, tool) in calls.tools.iter().enumerate() {
        let name = lark_string(&lark_string(&tool.name));
        let arguments = writer.json_arguments(tool)?;
        writer.rule(&format!("arguments_{index}"), &arguments);
        writer.rule(
            &format!("call_{index}"),
            &format!(
                r#""{{" SPACE? "\"name\"" SPACE? ":" SPACE? {name} SPACE? "," SPACE? {key} SPACE? ":" SPACE? arguments_{index} SPACE? "}}""#
            ),
        );
        names.push(format!("call_{index}"));
    }
    writer.rule("call", &names.join(" | "));
    let unlike: Vec<&str> = calls.tools.iter().map(|tool| tool.name.as_str()).collect();
    let answer = writer.text(text, &unlike)?;
    let more = match calls.parallel {
        true => format!("({} call)*", writer.vocabulary.lark(&format.between_calls)),
        false => String::new(),
    };
    Ok(format!("{answer} | call {more}"))
}

/// A call from its name on.
fn call(writer: &mut Writer<'_>, index: usize, tool: &Tool, format: &CallTexts) -> Result<(), GrammarError> {
    let arguments = match &format.arguments {
        Arguments::Json => writer.json_arguments(tool)?,
        Arguments::Tagged { before_key, after_key, after_json_key, after_value } => {
            tagged(writer, index, tool, [before_key, after_key, after_json_key, after_value])?
        }
    };
    let lark = |text: &str| writer.vocabulary.lark(text);
    let number = match &format.numbered {
        Some(before) => format!("{} /[0-9]{{1,4}}/", lark(before)),
        None => String::new(),
    };
    let (name, after_name) = (lark_string(&tool.name), lark(&format.after_name));
    let body = format!("{name} {number} {after_name} {arguments} {}", lark(&format.after_arguments));
    writer.rule(&format!("call_{index}"), &body);
    Ok(())
}

/// Arguments one by one: a rule's name.
fn tagged(
    writer: &mut Writer<'_>,
    index: usize,
    tool: &Tool,
    [before_key, after_key, after_json_key, after_value]: [&str; 4],
) -> Result<String, GrammarError> {
    let mut parts = Vec::new();
    for (at, (key, schema, is_required)) in properties(tool).enumerate() {
        let name = format!("value_{index}_{at}");
        let texts = texts(schema);
        let after_key = if texts.is_some() { after_key } else { after_json_key };
        let value = match texts {
            Some(texts) if !texts.is_empty() => {
                let texts: Vec<String> = texts.iter().map(|text| lark_string(text)).collect();
                writer.rule(&name, &texts.join(" | "));
                format!("{name} {}", writer.vocabulary.lark(after_value))
            }
            Some(_) => writer.until(&name, after_value),
            None => {
                let json = writer.argument(tool, schema)?;
                writer.rule(&name, &format!("%json {json}"));
                format!("{name} {}", writer.vocabulary.lark(after_value))
            }
        };
        let opening = writer.vocabulary.lark(&format!("{before_key}{key}{after_key}"));
        let optional = if is_required { "" } else { "?" };
        parts.push(format!("({opening} {value}){optional}"));
    }
    let name = format!("arguments_{index}");
    let body = if parts.is_empty() { "\"\"".to_owned() } else { parts.join(" ") };
    writer.rule(&name, &body);
    Ok(name)
}

/// For a value that is text: the texts that it may be, none where it may be any. None: it is no text.
fn texts(schema: &Value) -> Option<Vec<&str>> {
    let is_string = match schema.get("type") {
        Some(Value::String(name)) => name == "string",
        Some(Value::Array(names)) => names.iter().any(|name| name == "string"),
        _ => false,
    };
    if !is_string {
        return None;
    }
    let values = schema.get("enum").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let texts: Vec<&str> = values.iter().filter_map(Value::as_str).filter(|text| !text.is_empty()).collect();
    Some(if texts.len() == values.len() { texts } else { Vec::new() })
}
