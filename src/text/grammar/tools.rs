//! Grammars of tool calls, in a family's own format: which tools there are, whether one must be called, and what
//! their arguments are.
//!
//! A format is data: the texts around names and arguments ([`CallFormat`]). Texts that are special tokens of the
//! model are matched as those tokens, all others as bytes. Absent on purpose: Python-like calls (`[f(x=1)]`).

use super::vocabulary::Vocabulary;
use super::{GrammarError, lark_string, schema};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// A tool that may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments, an object's; null: any object.
    pub parameters: Value,
    /// A schema that cannot be held is an error. Otherwise the arguments are any object then.
    pub strict: bool,
}

/// How a family writes its calls: `begin_all`, then each call with `between_calls` between them, then `end_all`.
/// A call is `before_name`, the name, `numbered` with a number where there is that, `after_name`, the arguments,
/// `after_arguments`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CallFormat {
    pub begin_all: String,
    pub before_name: String,
    pub numbered: Option<String>,
    pub after_name: String,
    pub arguments: Arguments,
    pub after_arguments: String,
    pub between_calls: String,
    pub end_all: String,
}

/// How a call's arguments are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Arguments {
    /// As a JSON object.
    #[default]
    Json,
    /// Each by itself, in the order of the schema's properties: strings as they are, other values in JSON.
    Tagged {
        /// `<parameter=`.
        before_key: String,
        /// `>\n`.
        after_key: String,
        /// `\n</parameter>\n`: a string goes on until this comes.
        after_value: String,
    },
}

/// What calls an answer may have.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCalls {
    /// The tools that may be called, one at the least.
    pub tools: Vec<Tool>,
    /// How.
    pub format: CallFormat,
    /// The answer must have a call.
    pub required: bool,
    /// It may have several.
    pub parallel: bool,
    /// Text may stand before the first call; where no call is required, always.
    pub text_before: bool,
}

/// Tools that may be named in one grammar.
const TOOLS_MAX: usize = 512;
/// Bytes of all their schemas.
const SCHEMAS_BYTES_MAX: usize = 2 << 20;

/// The grammar in llguidance's Lark.
pub(super) fn lark(calls: &ToolCalls, vocabulary: &Vocabulary) -> Result<String, GrammarError> {
    if calls.tools.is_empty() {
        return Err(GrammarError::Invalid("there must be at least one tool to call".into()));
    }
    let within = |what, found, limit| match found <= limit {
        true => Ok(()),
        false => Err(GrammarError::TooLarge { what, limit, found }),
    };
    within("tools", calls.tools.len(), TOOLS_MAX)?;
    let bytes = calls.tools.iter().map(|tool| tool.parameters.to_string().len()).sum();
    within("bytes of the tools' schemas", bytes, SCHEMAS_BYTES_MAX)?;
    let mut writer = Writer { vocabulary, rules: String::new() };
    let format = &calls.format;
    let text = |text: &str| vocabulary.lark(text);
    // The first text of the calls ends a text before them.
    let (first, rest_of_begin) = match (format.begin_all.is_empty(), format.before_name.is_empty()) {
        (false, _) => (format.begin_all.as_str(), String::new()),
        (true, _) => (format.before_name.as_str(), format.before_name.clone()),
    };
    let has_head = calls.text_before || !calls.required;
    if has_head && first.is_empty() {
        return Err(GrammarError::Invalid(
            "calls without a text that begins them cannot follow a text".into(),
        ));
    }
    let mut names = Vec::new();
    for (index, tool) in calls.tools.iter().enumerate() {
        writer.call(index, tool, format)?;
        names.push(format!("call_{index}"));
    }
    let one = names.join(" | ");
    let between = text(&format.between_calls);
    let before_name = text(&format.before_name);
    let more = match calls.parallel {
        true => format!("({between} {before_name} call)*"),
        false => String::new(),
    };
    let _ = writeln!(writer.rules, "call: {one}");
    let _ = writeln!(writer.rules, "tail: call {more} {}", text(&format.end_all));
    // What stands between the first text and the first name.
    let second = if rest_of_begin.is_empty() { before_name } else { String::new() };
    let start = match has_head {
        false => format!("start: {} {second} tail", text(first)),
        true => {
            // The first tag alone makes it a call: what follows it in another form would be none to a parser.
            let (opening, rest) = first.split_at(first.find('>').map_or(first.len(), |at| at + 1));
            let head = format!("{} {}", writer.head(opening), text(rest));
            match calls.required {
                true => format!("start: {head} {second} tail"),
                false => format!("start: TEXT | {head} {second} tail"),
            }
        }
    };
    Ok(format!("{start}\n{}TEXT: /(.|\\n)*/\n", writer.rules))
}

struct Writer<'v> {
    vocabulary: &'v Vocabulary,
    rules: String,
}

impl Writer<'_> {
    fn rule(&mut self, name: &str, body: &str) {
        let _ = writeln!(self.rules, "{name}: {body}");
    }

    /// Any text, up to and with the first occurrence of a text: a rule's name, or the parts of one.
    fn head(&mut self, until: &str) -> String {
        self.until("head", until)
    }

    fn until(&mut self, name: &str, until: &str) -> String {
        match self.vocabulary.lark_parts(until) {
            // No text has a special token, so there is nothing to look out for.
            (special, _) if special => format!("TEXT {}", self.vocabulary.lark(until)),
            _ => {
                self.rule(&format!("{name}[lazy]"), &format!("TEXT {}", lark_string(until)));
                name.to_owned()
            }
        }
    }

    /// A call from its name on.
    fn call(&mut self, index: usize, tool: &Tool, format: &CallFormat) -> Result<(), GrammarError> {
        let named = |error: GrammarError| GrammarError::Invalid(format!("tool {:?}: {error}", tool.name));
        let any = json!({"type": "object"});
        let parameters = if tool.parameters.is_null() { &any } else { &tool.parameters };
        let arguments = match &format.arguments {
            Arguments::Json => {
                let schema = match object_of(parameters) {
                    Err(error) if tool.strict => return Err(named(error)),
                    Err(_) => schema::checked(&any)?,
                    Ok(schema) => schema,
                };
                format!("%json {schema}")
            }
            Arguments::Tagged { before_key, after_key, after_value } => {
                self.tagged(index, tool, parameters, [before_key, after_key, after_value]).map_err(named)?
            }
        };
        let text = |text: &str| self.vocabulary.lark(text);
        let number = match &format.numbered {
            Some(before) => format!("{} /[0-9]{{1,4}}/", text(before)),
            None => String::new(),
        };
        let (name, after_name) = (lark_string(&tool.name), text(&format.after_name));
        let body = format!("{name} {number} {after_name} {arguments} {}", text(&format.after_arguments));
        self.rule(&format!("call_{index}"), &body);
        Ok(())
    }

    /// Arguments one by one: a rule's name.
    fn tagged(
        &mut self,
        index: usize,
        tool: &Tool,
        parameters: &Value,
        [before_key, after_key, after_value]: [&str; 3],
    ) -> Result<String, GrammarError> {
        let none = Map::new();
        let properties = parameters.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let required =
            parameters.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mut parts = Vec::new();
        for (at, (key, schema)) in properties.iter().enumerate() {
            let name = format!("value_{index}_{at}");
            let value = match texts(schema) {
                Some(texts) if !texts.is_empty() => {
                    let texts: Vec<String> = texts.iter().map(|text| lark_string(text)).collect();
                    self.rule(&name, &texts.join(" | "));
                    format!("{name} {}", self.vocabulary.lark(after_value))
                }
                Some(_) => self.until(&name, after_value),
                None => {
                    let json = match schema::checked(&with_definitions(schema, parameters)) {
                        Ok(schema) => schema,
                        Err(error) if tool.strict => return Err(error),
                        Err(_) => schema::checked(&json!({}))?,
                    };
                    self.rule(&name, &format!("%json {json}"));
                    format!("{name} {}", self.vocabulary.lark(after_value))
                }
            };
            let opening = self.vocabulary.lark(&format!("{before_key}{key}{after_key}"));
            let is_required = required.iter().any(|name| name == key);
            let optional = if is_required { "" } else { "?" };
            parts.push(format!("({opening} {value}){optional}"));
        }
        let name = format!("arguments_{index}");
        let body = if parts.is_empty() { "\"\"".to_owned() } else { parts.join(" ") };
        self.rule(&name, &body);
        Ok(name)
    }
}

/// The schema of an object.
fn object_of(parameters: &Value) -> Result<Value, GrammarError> {
    let mut checked = schema::checked(parameters)?;
    match checked.get("type").map(|name| name == "object") {
        Some(true) => {}
        Some(false) => return Err(GrammarError::Invalid("#: `type` must be \"object\"".into())),
        // Arguments are an object, whether the schema says so or not.
        None => checked["type"] = "object".into(),
    }
    Ok(checked)
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

fn with_definitions(schema: &Value, root: &Value) -> Value {
    let mut schema = schema.clone();
    for keyword in ["$defs", "definitions"] {
        if let (Some(definitions), Some(map)) = (root.get(keyword), schema.as_object_mut()) {
            map.entry(keyword).or_insert_with(|| definitions.clone());
        }
    }
    schema
}
