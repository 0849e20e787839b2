//! A checkpoint's chat template: messages to prompt text, byte for byte what transformers'
//! `apply_chat_template` gives.
//!
//! Around the Jinja itself ([`super::jinja`]) transformers does this, and so does this module:
//! fields of messages that are null are left out; reasoning is passed under all of its names;
//! `tools` is none when there are none; named special tokens are variables; an open final
//! message is found again in the rendered text and cut there.
//!
//! A checkpoint's template runs in a process of its own ([`super::contained`]); one that the program
//! itself brings may run here.
//!
//! Absent on purpose: named templates to choose from (the checkpoint gives one), and
//! `sanitize_control_tokens`.

use super::TextError;
use super::contained::{Containment, Processes, Role};
use super::jinja::Jinja;
use super::tokenizer::named_special_tokens;
use crate::checkpoint::Checkpoint;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

/// A checkpoint's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    renderer: Renderer,
    /// For `continue_final_message`: the template must read the message's content at all.
    reads_content: bool,
    /// As it was given.
    source: String,
    /// The variables that it reads.
    variables: HashSet<String>,
    special_tokens: Map<String, Value>,
}

/// Where a template runs.
#[derive(Debug)]
enum Renderer {
    Here(Box<Jinja>),
    Contained(Processes),
}

/// What a template sees.
#[derive(Clone, Debug, Default)]
pub struct RenderInput {
    /// Messages in OpenAI's shape, content parts flattened to text where all are text.
    pub messages: Vec<serde_json::Value>,
    /// Tools in OpenAI's shape; empty means none.
    pub tools: Vec<serde_json::Value>,
    /// End with the assistant's header, ready for its answer.
    pub add_generation_prompt: bool,
    /// Leave the last (assistant) message open, to be continued.
    pub continue_final_message: bool,
    /// `chat_template_kwargs`: further variables (`enable_thinking`...).
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// Names that a message's reasoning goes by, the standard one first.
const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Marks the end of the open message in the rendered text.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

impl ChatTemplate {
    /// Compiles the checkpoint's template in this process: it must be trusted. An error when it has none
    /// or it does not parse.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, TextError> {
        Self::new(source_of(checkpoint)?, &checkpoint.tokenizer_config)
    }

    /// The same for a stranger's checkpoint: the template never runs in this process.
    pub fn contained(checkpoint: &Checkpoint, containment: &Containment) -> Result<Self, TextError> {
        Self::new_contained(source_of(checkpoint)?, &checkpoint.tokenizer_config, containment)
    }

    /// Compiles a trusted template; `tokenizer_config` (`{}` when there is none) names special tokens.
    pub fn new(source: &str, tokenizer_config: &Value) -> Result<Self, TextError> {
        let jinja = Jinja::compile(source).map_err(TextError::Template)?;
        let variables = jinja.variables().map_err(TextError::Template)?;
        Ok(Self::with(Renderer::Here(Box::new(jinja)), variables, source, tokenizer_config))
    }

    /// The same for a stranger's template.
    pub fn new_contained(
        source: &str,
        tokenizer_config: &Value,
        containment: &Containment,
    ) -> Result<Self, TextError> {
        let (processes, said) = Processes::start(containment, Role::Template(source.to_owned()))?;
        let variables = serde_json::from_slice(&said)
            .map_err(|error| TextError::Template(format!("its process said something else: {error}")))?;
        Ok(Self::with(Renderer::Contained(processes), variables, source, tokenizer_config))
    }

    fn with(renderer: Renderer, variables: HashSet<String>, source: &str, tokenizer_config: &Value) -> Self {
        Self {
            renderer,
            reads_content: source.contains("content"),
            source: source.to_owned(),
            variables,
            special_tokens: named_special_tokens(tokenizer_config),
        }
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it reads a variable of this name.
    pub fn reads(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// Whether its model thinks before it answers, as far as a template shows it: it has a place for
    /// thinking.
    pub fn makes_think(&self) -> bool {
        ["think>", "reasoning", "<|channel|>"].iter().any(|word| self.source.contains(word))
    }

    /// The prompt, byte for byte what transformers' `apply_chat_template` gives. It contains
    /// BOS where the template writes it, so it is encoded with `add_special = false`.
    pub fn render(&self, input: &RenderInput) -> Result<String, TextError> {
        self.render_at(input, SystemTime::now())
    }

    /// [`ChatTemplate::render`] as if it were `now`, for templates that write the date (UTC).
    pub fn render_at(&self, input: &RenderInput, now: SystemTime) -> Result<String, TextError> {
        let (variables, open) = self.variables(input).map_err(TextError::Template)?;
        let mut prompt = match &self.renderer {
            Renderer::Here(jinja) => jinja.render(variables, now).map_err(TextError::Template)?,
            Renderer::Contained(processes) => {
                let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                let request = json!({ "now": now, "variables": Value::Object(variables) }).to_string();
                let text = processes.ask(request.as_bytes())?;
                String::from_utf8(text).map_err(|error| TextError::Template(error.to_string()))?
            }
        };
        if let Some(content) = open {
            cut_open(&mut prompt, &content).map_err(TextError::Template)?;
        }
        Ok(prompt)
    }

    /// What the template sees, and the text of an open final message.
    fn variables(&self, input: &RenderInput) -> Result<(Map<String, Value>, Option<String>), String> {
        if input.messages.is_empty() {
            return Err("messages must not be empty".into());
        }
        let mut messages = input.messages.iter().map(prepare).collect::<Result<Vec<_>, _>>()?;
        let mut open = None;
        if input.continue_final_message {
            if input.add_generation_prompt {
                return Err("continue_final_message and add_generation_prompt exclude each other".into());
            }
            if !self.reads_content {
                return Err("continue_final_message: the template does not read content".into());
            }
            open = messages.last_mut().map(mark_end).transpose()?;
        }

        let mut variables = self.special_tokens.clone();
        variables.extend(input.extra.clone());
        variables.insert("messages".into(), messages.into());
        variables
            .insert("tools".into(), if input.tools.is_empty() { Value::Null } else { json!(input.tools) });
        variables.entry("documents").or_insert(Value::Null);
        variables.insert("add_generation_prompt".into(), input.add_generation_prompt.into());
        Ok((variables, open))
    }
}

fn source_of(checkpoint: &Checkpoint) -> Result<&str, TextError> {
    checkpoint.chat_template.as_deref().ok_or_else(|| {
        // Callers read it: it says nothing of where the checkpoint lies.
        TextError::Template(
            "the checkpoint has none (chat_template.jinja, chat_template in tokenizer_config.json, or \
             tokenizer.chat_template in a GGUF file); use /v1/completions"
                .into(),
        )
    })
}

/// A message as templates get it.
fn prepare(message: &Value) -> Result<Value, String> {
    let Value::Object(fields) = message else {
        return Err(format!("a message must be an object, got {message}"));
    };
    // A null field is as good as a missing one, but many templates would write "None".
    let mut fields: Map<_, _> =
        fields.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    let reasoning = REASONING_FIELDS.iter().find_map(|name| fields.get(*name)).cloned();
    if let Some(reasoning) = reasoning {
        // In transformers' order, which shows where a template writes the message as a whole.
        fields.shift_insert(0, "thinking".into(), fields.get("thinking").unwrap_or(&reasoning).clone());
        fields.insert("reasoning_content".into(), reasoning);
    }
    Ok(fields.into())
}

/// Puts the tag behind the message's last text and returns that text.
fn mark_end(message: &mut Value) -> Result<String, String> {
    let text = match message.get_mut("content") {
        Some(Value::Array(parts)) => {
            parts.iter_mut().rev().find_map(|part| part.get_mut("text")).filter(|text| text.is_string())
        }
        content => content.filter(|text| text.is_string()),
    };
    match text {
        Some(Value::String(text)) => {
            let content = text.clone();
            text.push_str(CONTINUE_TAG);
            Ok(content)
        }
        _ => Err("continue_final_message: the last message has no text in content to continue".into()),
    }
}

/// Cuts the prompt where the tag is.
fn cut_open(prompt: &mut String, content: &str) -> Result<(), String> {
    let tag = CONTINUE_TAG.trim_end();
    let at = prompt.rfind(tag).filter(|_| prompt.contains(super::python::strip(content)));
    let at = at.ok_or("continue_final_message: the template does not write the last message in full")?;
    let spacing_kept = prompt[at..].starts_with(CONTINUE_TAG);
    prompt.truncate(at);
    if !spacing_kept {
        // The template trims the message, so its trailing space is gone anyway.
        prompt.truncate(super::python::rstrip(prompt).len());
    }
    Ok(())
}
