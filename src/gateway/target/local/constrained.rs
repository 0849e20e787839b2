//! What a request says that an answer must be: `response_format` in OpenAI's form, and what vLLM (`guided_json` and its
//! like, `structured_outputs`), SGLang (`regex`, `ebnf`) and llama-server (`json_schema`, `grammar`) call it.
//!
//! Compiling takes a moment and a thread: it is text work. What was compiled for a model is kept for requests with the
//! same grammar ([`Grammars`]).

use super::LocalError;
use crate::gateway::chat::reasoning::{self, Wanted};
use crate::gateway::wire::fields::{BadField, Fields};
use crate::protocol::ConstraintFactory;
use crate::text::Tokenizer;
use crate::text::grammar::{After, CompiledGrammar, Grammar, GrammarCompiler, GrammarError};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Compiled grammars of one model that are kept, the last used first.
const KEPT_MAX: usize = 32;

/// Fields that name a grammar, each by itself; one of them may be there.
const FIELDS: [&str; 10] = [
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "json_schema",
    "regex",
    "grammar",
    "ebnf",
];

/// Fields that bound how much a model thinks: Qwen's and Seed-OSS', llama-server's, vLLM's.
const BUDGETS: [&str; 5] = [
    "thinking_budget",
    "reasoning_budget",
    "reasoning_budget_tokens",
    "thinking_budget_tokens",
    "thinking_token_budget",
];

/// Reads what the answer must be, and which field says so.
pub fn read(fields: &Fields<'_>) -> Result<Option<(String, Grammar)>, BadField> {
    let mut found: Option<(String, Grammar)> = None;
    for name in FIELDS {
        let Some(value) = fields.get(name).filter(|value| asks_something(value)) else { continue };
        let path = fields.path(name);
        let grammar = match name {
            "response_format" => response_format(fields)?,
            "structured_outputs" => structured_outputs(fields)?,
            "guided_choice" => Some(choice(&path, value)?),
            "guided_json" | "json_schema" => Some(schema(&path, value)?),
            "guided_regex" | "regex" => Some(Grammar::Regex(text(&path, value)?)),
            "grammar" | "ebnf" => Some(Grammar::Gbnf(text(&path, value)?)),
            _ => Some(Grammar::Lark(text(&path, value)?)),
        };
        let Some(grammar) = grammar else { continue };
        if let Some((first, _)) = &found {
            return Err(BadField::new(path, format!("and `{first}` exclude each other: send one of them")));
        }
        found = Some((path, grammar));
    }
    Ok(found)
}

/// Tokens that a model may think at the most; None: as many as it likes. Off is the template's to do.
pub fn reasoning_budget(fields: &Fields<'_>) -> Result<Option<u32>, BadField> {
    for name in BUDGETS {
        // -1 is llama-server's word for no bound.
        if let Some(tokens) = fields.integer(name, -1, i64::from(u32::MAX))? {
            return Ok(u32::try_from(tokens).ok());
        }
    }
    Ok(match reasoning::of_openai(fields)? {
        Some(Wanted::Budget(tokens)) => Some(u32::try_from(tokens).unwrap_or(u32::MAX)),
        _ => None,
    })
}

/// Not null, nor an empty text or list.
fn asks_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

fn response_format(fields: &Fields<'_>) -> Result<Option<Grammar>, BadField> {
    let Some(format) = fields.object("response_format")? else { return Ok(None) };
    match format.required_str("type", "text, json_object or json_schema")? {
        "text" => Ok(None),
        // llama-server takes a schema here too.
        "json_object" => match format.get("schema") {
            Some(value) => schema(&format.path("schema"), value).map(Some),
            None => Ok(Some(Grammar::JsonObject)),
        },
        "json_schema" => {
            let inner = format.object("json_schema")?;
            let inner = inner
                .ok_or_else(|| BadField::missing(format.path("json_schema"), "its name and its schema"))?;
            schema(&inner.path("schema"), inner.required("schema", "a JSON schema")?).map(Some)
        }
        other => {
            let reason = format!("must be text, json_object or json_schema, got `{other}`");
            Err(BadField::unsupported(format.path("type"), reason))
        }
    }
}

/// vLLM's: one of its fields says what the answer is.
fn structured_outputs(fields: &Fields<'_>) -> Result<Option<Grammar>, BadField> {
    let Some(outputs) = fields.object("structured_outputs")? else { return Ok(None) };
    let mut found = None;
    for (name, value) in outputs.map().iter().filter(|(_, value)| asks_something(value)) {
        let path = outputs.path(name);
        let grammar = match name.as_str() {
            "json" => schema(&path, value)?,
            "regex" => Grammar::Regex(text(&path, value)?),
            "choice" => choice(&path, value)?,
            "grammar" => Grammar::Lark(text(&path, value)?),
            "json_object" if *value == false => continue,
            "json_object" => Grammar::JsonObject,
            // How white space and other keys are written is fixed here.
            "disable_any_whitespace" | "disable_additional_properties" | "disable_fallback" => continue,
            _ => {
                let reason = "is not supported: json, json_object, regex, choice and grammar are";
                return Err(BadField::unsupported(path, reason));
            }
        };
        if found.replace(grammar).is_some() {
            let reason = "must have one of json, json_object, regex, choice and grammar";
            return Err(BadField::new(fields.path("structured_outputs"), reason));
        }
    }
    Ok(found)
}

/// A schema as it is, or as the text of one.
fn schema(path: &str, value: &Value) -> Result<Grammar, BadField> {
    match value {
        Value::Object(_) | Value::Bool(_) => Ok(Grammar::JsonSchema(value.clone())),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(Grammar::JsonSchema(schema)),
            _ => Err(BadField::new(path, "must be a JSON schema, or its text")),
        },
        other => Err(BadField::wrong_type(path.to_owned(), "a JSON schema", other)),
    }
}

fn choice(path: &str, value: &Value) -> Result<Grammar, BadField> {
    let items = value.as_array().ok_or_else(|| BadField::new(path, "must be a list of strings"))?;
    let text = |(i, item): (usize, &Value)| text(&format!("{path}[{i}]"), item);
    Ok(Grammar::Choice(items.iter().enumerate().map(text).collect::<Result<_, _>>()?))
}

fn text(path: &str, value: &Value) -> Result<String, BadField> {
    value.as_str().map(str::to_owned).ok_or_else(|| BadField::wrong_type(path.to_owned(), "a string", value))
}

/// Compiled grammars of one model.
#[derive(Debug, Default)]
pub struct Grammars {
    /// Made with the first grammar: most models are never asked for one.
    compiler: OnceLock<Result<GrammarCompiler, GrammarError>>,
    kept: Mutex<VecDeque<(Grammar, Arc<CompiledGrammar>)>>,
}

impl Grammars {
    /// Constraints by a grammar, which begins there. Blocks while it is compiled.
    pub fn constraint(
        &self,
        tokenizer: &Tokenizer,
        grammar: Option<&Grammar>,
        after: &After,
    ) -> Result<Arc<dyn ConstraintFactory>, LocalError> {
        let compiler = self.compiler.get_or_init(|| GrammarCompiler::new(tokenizer));
        let compiler = compiler.as_ref().map_err(|error| LocalError::Grammar(error.clone()))?;
        let made = match grammar {
            None => compiler.reasoning(after),
            Some(grammar) => self.compiled(compiler, grammar).and_then(|compiled| compiled.factory(after)),
        };
        made.map_err(LocalError::Grammar)
    }

    fn compiled(
        &self,
        compiler: &GrammarCompiler,
        grammar: &Grammar,
    ) -> Result<Arc<CompiledGrammar>, GrammarError> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut kept = lock();
            if let Some(at) = kept.iter().position(|(other, _)| other == grammar)
                && let Some(found) = kept.remove(at)
            {
                let compiled = found.1.clone();
                kept.push_front(found);
                return Ok(compiled);
            }
        }
        let compiled = compiler.compile(grammar)?;
        let mut kept = lock();
        kept.push_front((grammar.clone(), compiled.clone()));
        kept.truncate(KEPT_MAX);
        Ok(compiled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_body(body: &Value) -> Result<Option<(String, Grammar)>, BadField> {
        read(&Fields::root(body).unwrap())
    }

    #[test]
    fn every_spelling_is_one_grammar() {
        let object = json!({"type": "object"});
        for (body, expected) in [
            (json!({"response_format": {"type": "text"}}), None),
            (json!({"response_format": null, "guided_json": null, "guided_choice": [], "regex": ""}), None),
            (json!({"response_format": {"type": "json_object"}}), Some(Grammar::JsonObject)),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": object}}}),
                Some(Grammar::JsonSchema(object.clone())),
            ),
            (json!({"guided_json": object}), Some(Grammar::JsonSchema(object.clone()))),
            (json!({"guided_json": object.to_string()}), Some(Grammar::JsonSchema(object.clone()))),
            (json!({"json_schema": object}), Some(Grammar::JsonSchema(object.clone()))),
            (json!({"guided_regex": "a+"}), Some(Grammar::Regex("a+".into()))),
            (json!({"regex": "a+"}), Some(Grammar::Regex("a+".into()))),
            (json!({"guided_choice": ["a", "b"]}), Some(Grammar::Choice(vec!["a".into(), "b".into()]))),
            (json!({"guided_grammar": "start: \"a\""}), Some(Grammar::Lark("start: \"a\"".into()))),
            (json!({"grammar": "root ::= \"a\""}), Some(Grammar::Gbnf("root ::= \"a\"".into()))),
            (json!({"ebnf": "root ::= \"a\"", "grammar": ""}), Some(Grammar::Gbnf("root ::= \"a\"".into()))),
            (json!({"structured_outputs": {"json_object": true}}), Some(Grammar::JsonObject)),
            (
                json!({"structured_outputs": {"choice": ["a"], "regex": null}}),
                Some(Grammar::Choice(vec!["a".into()])),
            ),
            (json!({"structured_outputs": {}}), None),
        ] {
            assert_eq!(read_body(&body).unwrap().map(|(_, grammar)| grammar), expected, "{body}");
        }
    }

    #[test]
    fn what_is_no_grammar_is_named() {
        for (body, param, says) in [
            (json!({"response_format": {}}), "response_format.type", "required"),
            (json!({"response_format": {"type": "xml"}}), "response_format.type", "json_schema"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema", "schema"),
            (json!({"guided_json": "{"}), "guided_json", "JSON schema"),
            (json!({"guided_choice": ["a", 1]}), "guided_choice[1]", "a string"),
            (json!({"guided_regex": 1}), "guided_regex", "a string"),
            (
                json!({"structured_outputs": {"structural_tag": "x"}}),
                "structured_outputs.structural_tag",
                "json",
            ),
            (json!({"structured_outputs": {"regex": "a", "json": {}}}), "structured_outputs", "one of"),
            (json!({"regex": "a", "guided_json": {}}), "regex", "exclude"),
        ] {
            let error = read_body(&body).unwrap_err();
            assert_eq!(error.param, param, "{body}: {error}");
            assert!(error.to_string().contains(says), "{body}: {error}");
        }
    }
}
