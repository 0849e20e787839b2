//! Grammars of answers that may or must call tools, in a family's own format: which tools there are, whether one must
//! be called, what their arguments are, and what a text must be where no tool is called.
//!
//! Most formats are data: the texts around names and arguments ([`CallTexts`], written by [`super::marked`]). Calls that
//! are Python ([`super::pythonic`]) and messages in channels ([`super::channels`]) have rules of their own. Texts that
//! are special tokens of the model are matched as those tokens, all others as bytes.
//!
//! Where a text is held to a grammar, an answer is that text or calls, never both: its first text says which. What
//! opens a call is matched lazily, so that a text which begins with it is no text.

use super::vocabulary::Vocabulary;
use super::{Grammar, GrammarError, channels, lark_string, marked, pythonic, schema};
use serde_json::{Value, json};
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

/// How a family writes its calls.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a request has one of them")]
pub enum CallFormat {
    /// Texts around names and arguments.
    Texts(CallTexts),
    /// `[f(a=1), g(b="x")]`.
    Pythonic,
    /// gpt-oss: each message in a channel, a call as a message to a function.
    Channels,
}

/// Calls in texts: `begin_all`, then each call with `between_calls` between them, then `end_all`.
/// A call is `before_name`, the name, `numbered` with a number where there is that, `after_name`, the arguments,
/// `after_arguments`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CallTexts {
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
        /// Before a string: `>\n`.
        after_key: String,
        /// Before any other value.
        after_json_key: String,
        /// `\n</parameter>\n`: a string goes on until this comes.
        after_value: String,
    },
}

/// What calls an answer may have.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCalls {
    /// The tools that may be called. None at all: the answer is its text, which is held then.
    pub tools: Vec<Tool>,
    /// How.
    pub format: CallFormat,
    /// The answer must have a call.
    pub required: bool,
    /// It may have several.
    pub parallel: bool,
    /// What it may have beside calls, or instead of them.
    pub text: AnswerText,
}

/// The text of an answer that may have calls.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerText {
    /// There is none: the answer is calls.
    None,
    /// Any, before the first call, or alone where no call is required.
    Free,
    /// A text of this grammar instead of calls. Nothing where a call is required.
    Held(Grammar),
}

/// Tools that may be named in one grammar.
const TOOLS_MAX: usize = 512;
/// Bytes of all their schemas.
const SCHEMAS_BYTES_MAX: usize = 2 << 20;

/// The grammar in llguidance's Lark.
pub(super) fn lark(calls: &ToolCalls, vocabulary: &Vocabulary) -> Result<String, GrammarError> {
    if calls.tools.is_empty() && !matches!(calls.text, AnswerText::Held(_)) {
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
    let start = match &calls.format {
        CallFormat::Texts(texts) => marked::start(&mut writer, calls, texts)?,
        CallFormat::Pythonic => pythonic::start(&mut writer, calls)?,
        CallFormat::Channels => channels::start(&mut writer, calls)?,
    };
    Ok(format!("start: {start}\n{}TEXT: /(.|\\n)*/\n", writer.rules))
}

/// Collects the rules of a grammar.
pub(super) struct Writer<'v> {
    pub vocabulary: &'v Vocabulary,
    rules: String,
}

impl Writer<'_> {
    pub fn rule(&mut self, name: &str, body: &str) {
        let _ = writeln!(self.rules, "{name}: {body}");
    }

    /// Any text, up to and with the first occurrence of a text: a rule's name, or the parts of one.
    pub fn until(&mut self, name: &str, until: &str) -> String {
        match self.vocabulary.split_at_special(until) {
            None => {
                self.rule(&format!("{name}[lazy]"), &format!("TEXT {}", lark_string(until)));
                name.to_owned()
            }
            // No text has a special token, so there is nothing to look out for.
            Some(("", special)) => format!("TEXT {}", self.vocabulary.lark(special)),
            Some((literal, special)) => {
                let terminal = name.to_uppercase();
                self.rule(&terminal, &format!("TEXT {}", lark_string(literal)));
                format!("{terminal} {}", self.vocabulary.lark(special))
            }
        }
    }

    /// A text that opens a call at once, whatever else could begin with it: a rule's name, or the parts of one.
    pub fn opening(&mut self, name: &str, text: &str) -> String {
        if self.vocabulary.split_at_special(text).is_some() {
            return self.vocabulary.lark(text);
        }
        self.rule(&format!("{name}[lazy]"), &lark_string(text));
        name.to_owned()
    }

    /// The text that an answer without calls must be: a rule's name. An object of JSON has none of these names, so
    /// that it cannot be mistaken for a call.
    pub fn text(&mut self, grammar: &Grammar, unlike: &[&str]) -> Result<&'static str, GrammarError> {
        let source = match grammar {
            Grammar::Tools(_) => {
                return Err(GrammarError::Invalid("calls of tools are no text of an answer".into()));
            }
            grammar => {
                let source = super::source(grammar, self.vocabulary)?;
                match (source.json_schema, source.lark_grammar) {
                    (Some(schema), _) => format!("%json {}", schema::without_names(schema, unlike)),
                    (_, lark) => format!("%lark {{\n{}\n}}", lark.unwrap_or_default()),
                }
            }
        };
        self.rule("answer", &source);
        Ok("answer")
    }

    /// A call's arguments as a JSON object: the body of a rule.
    pub fn json_arguments(&self, tool: &Tool) -> Result<String, GrammarError> {
        let any = json!({"type": "object"});
        let parameters = if tool.parameters.is_null() { &any } else { &tool.parameters };
        let schema = match object_of(parameters) {
            Err(error) if tool.strict => return Err(of_tool(tool, error)),
            Err(_) => schema::checked(&any)?,
            Ok(schema) => schema,
        };
        Ok(format!("%json {schema}"))
    }

    /// The schema of one of a tool's arguments, checked; any value where it cannot be held and need not be.
    pub fn argument(&self, tool: &Tool, schema: &Value) -> Result<Value, GrammarError> {
        match schema::checked(&with_definitions(schema, &tool.parameters)) {
            Ok(schema) => Ok(schema),
            Err(error) if tool.strict => Err(of_tool(tool, error)),
            Err(_) => schema::checked(&json!({})),
        }
    }
}

/// Names the tool in an error.
pub(super) fn of_tool(tool: &Tool, error: GrammarError) -> GrammarError {
    GrammarError::Invalid(format!("tool {:?}: {error}", tool.name))
}

/// The properties of a tool's arguments, and whether each must be there.
pub(super) fn properties(tool: &Tool) -> impl Iterator<Item = (&String, &Value, bool)> {
    let required = tool.parameters.get("required").and_then(Value::as_array);
    let is_required = move |key: &str| required.is_some_and(|names| names.iter().any(|name| name == key));
    let properties = tool.parameters.get("properties").and_then(Value::as_object);
    properties.into_iter().flatten().map(move |(key, schema)| (key, schema, is_required(key)))
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

/// The schema with the definitions that it may refer to at the root it is cut from.
pub(super) fn with_definitions(schema: &Value, root: &Value) -> Value {
    let mut schema = schema.clone();
    for keyword in ["$defs", "definitions"] {
        if let (Some(definitions), Some(map)) = (root.get(keyword), schema.as_object_mut()) {
            map.entry(keyword).or_insert_with(|| definitions.clone());
        }
    }
    schema
}
