//! The items of a Responses conversation as messages of a chat completion.
//!
//! | item | message |
//! | --- | --- |
//! | `message` of user, system, developer | the same; one text is a string |
//! | `message` of the assistant, calls, `reasoning`, up to the next other item | one message |
//! | a call of any kind of tool | `tool_calls` |
//! | its output | a message with role tool, right behind the calls; images in a user message behind those |
//! | `reasoning` | `reasoning_content`; signed or redacted: also `reasoning_details` |
//! | calls of tools that OpenAI's servers ran | text of the assistant's |
//! | `item_reference` | the item, where it is kept |
//! | `additional_tools`, tools that a `tool_search_output` found | more tools |
//!
//! As OpenAI has it, each output answers a call before it and each call has its output; an item that is none of
//! these is refused. Reasoning behind which nothing was said or called is left out.

use super::custom_input::INPUT;
use super::envelope::Envelope;
use super::tools::{Reader as ToolReader, function_name};
use crate::gateway::wire::fields::{BadField, Fields};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

const KINDS: &str = "must be a message, a call of a tool or its output, reasoning or item_reference";

/// Messages while they are read.
#[derive(Debug, Default)]
pub struct Reader {
    entries: Vec<Entry>,
    /// Where each call stands, and its own place until it is answered.
    calls: HashMap<String, Call>,
    /// Tools that came as items.
    pub tools: ToolReader,
}

#[derive(Debug)]
struct Call {
    entry: usize,
    path: String,
    answered: bool,
}

#[derive(Debug)]
enum Entry {
    Message(Value),
    Assistant(Turn),
}

/// What the assistant said and did, and what its tools returned.
#[derive(Debug, Default)]
struct Turn {
    content: Option<String>,
    refusal: Option<String>,
    reasoning: String,
    details: Vec<Value>,
    calls: Vec<Value>,
    outputs: Vec<Value>,
    /// What outputs show that is no text.
    shown: Vec<Value>,
}

impl Reader {
    /// A text that stands before everything else.
    pub fn instructions(&mut self, text: &str) {
        if !text.is_empty() {
            self.entries.push(Entry::Message(json!({"role": "system", "content": text})));
        }
    }

    /// An item; references must have been resolved.
    pub fn item(&mut self, item: &Fields) -> Result<(), BadField> {
        let kind = match item.str("type")? {
            Some(kind) => kind,
            None if item.get("role").is_some() => "message",
            None => return Err(BadField::missing(item.path("type"), "the item's type")),
        };
        match kind {
            "message" => self.message(item),
            "reasoning" => self.reasoning(item),
            "function_call" => {
                let name = item.required_str("name", "the function's name")?;
                let arguments = match item.get("arguments") {
                    Some(object @ Value::Object(_)) => object.to_string(),
                    _ => item.str("arguments")?.unwrap_or_default().to_owned(),
                };
                self.call(item, &function_name(item.str("namespace")?, name), arguments)
            }
            "custom_tool_call" => {
                let name = item.required_str("name", "the tool's name")?;
                let input = item.str("input")?.unwrap_or_default();
                let arguments = json!({INPUT: input}).to_string();
                self.call(item, &function_name(item.str("namespace")?, name), arguments)
            }
            "local_shell_call" => {
                let action = required_object(item, "action", "what was run")?;
                self.call(
                    item,
                    "local_shell",
                    fields_of(&action, &["command", "working_directory", "timeout_ms"]),
                )
            }
            "shell_call" => {
                let action = required_object(item, "action", "what was run")?;
                self.call(item, "shell", fields_of(&action, &["commands", "timeout_ms", "max_output_length"]))
            }
            "apply_patch_call" => {
                let operation = required_object(item, "operation", "what was done")?;
                self.call(item, "apply_patch", fields_of(&operation, &["type", "path", "diff"]))
            }
            "tool_search_call" if item.get("call_id").is_some() => {
                let arguments = item.get("arguments").map_or_else(|| "{}".to_owned(), Value::to_string);
                self.call(item, "tool_search", arguments)
            }
            "function_call_output" | "custom_tool_call_output" => self.output(item),
            "local_shell_call_output" | "shell_call_output" | "apply_patch_call_output" => {
                let text = match item.get("output") {
                    None => String::new(),
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                };
                let failed = item.str("status")? == Some("failed");
                self.answer(item, if failed { format!("Failed. {text}") } else { text }, Vec::new())
            }
            "tool_search_output" if item.get("call_id").is_some() => {
                let found = item.array("tools")?.unwrap_or_default();
                self.tools.list(&item.path("tools"), found)?;
                let names: Vec<&str> = found.iter().filter_map(|tool| tool["name"].as_str()).collect();
                self.answer(item, format!("Found: {}", names.join(", ")), Vec::new())
            }
            "additional_tools" => {
                self.tools.list(&item.path("tools"), item.array("tools")?.unwrap_or_default())
            }
            "web_search_call"
            | "file_search_call"
            | "code_interpreter_call"
            | "image_generation_call"
            | "computer_call"
            | "computer_call_output"
            | "mcp_call"
            | "mcp_list_tools"
            | "mcp_approval_request"
            | "mcp_approval_response"
            | "tool_search_call"
            | "tool_search_output" => {
                self.say(&server_call(kind, item));
                Ok(())
            }
            "compaction" | "compaction_summary" | "context_compaction" | "compaction_trigger" => {
                let reason = format!("`{kind}` is for OpenAI's own servers: nothing is compacted here");
                Err(BadField::unsupported(item.path("type"), reason))
            }
            other => Err(BadField::unsupported(item.path("type"), format!("{KINDS}, got `{other}`"))),
        }
    }

    /// The messages.
    pub fn finish(self) -> Result<(Vec<Value>, ToolReader), BadField> {
        if let Some((id, call)) =
            self.calls.iter().filter(|(_, call)| !call.answered).min_by_key(|it| it.1.entry)
        {
            let reason = format!("has no output: the call `{id}` must be answered before the model goes on");
            return Err(BadField::new(call.path.clone(), reason));
        }
        let mut messages = Vec::with_capacity(self.entries.len());
        for entry in self.entries {
            match entry {
                Entry::Message(message) => messages.push(message),
                Entry::Assistant(turn) => turn.push_to(&mut messages),
            }
        }
        Ok((messages, self.tools))
    }

    /// The turn that the assistant is in.
    fn turn(&mut self) -> &mut Turn {
        let open = matches!(self.entries.last(), Some(Entry::Assistant(turn)) if turn.outputs.is_empty());
        if !open {
            self.entries.push(Entry::Assistant(Turn::default()));
        }
        match self.entries.last_mut() {
            Some(Entry::Assistant(turn)) => turn,
            _ => unreachable!("it was pushed"),
        }
    }

    fn say(&mut self, text: &str) {
        let content = &mut self.turn().content;
        match content.as_mut().filter(|content| !content.is_empty()) {
            Some(content) => {
                content.push_str("\n\n");
                content.push_str(text);
            }
            None => *content = Some(text.to_owned()),
        }
    }

    fn message(&mut self, message: &Fields) -> Result<(), BadField> {
        let role = message.required_str("role", "user, assistant, system or developer")?;
        let content = message.required("content", "a string or a list of parts")?;
        match role {
            "assistant" => {
                let (text, refusal) = said(&message.path("content"), content)?;
                self.say(&text);
                if let Some(refusal) = refusal {
                    self.turn().refusal.get_or_insert_default().push_str(&refusal);
                }
            }
            "user" | "system" | "developer" => {
                let content = match content {
                    Value::String(text) => Value::from(text.as_str()),
                    other => one_text(parts(&message.path("content"), other)?),
                };
                self.entries.push(Entry::Message(json!({"role": role, "content": content})));
            }
            other => {
                let reason = format!("must be user, assistant, system or developer, got `{other}`");
                return Err(BadField::new(message.path("role"), reason));
            }
        }
        Ok(())
    }

    fn reasoning(&mut self, item: &Fields) -> Result<(), BadField> {
        let texts = |name: &str| -> Result<String, BadField> {
            let mut texts = Vec::new();
            for (i, part) in item.array(name)?.unwrap_or_default().iter().enumerate() {
                let part = Fields::object_at(format!("{}[{i}]", item.path(name)), part)?;
                texts.push(part.required_str("text", "the part's text")?);
            }
            Ok(texts.join("\n\n"))
        };
        let envelope = match item.str("encrypted_content")?.filter(|encrypted| !encrypted.is_empty()) {
            None => Envelope::default(),
            Some(encrypted) => Envelope::open(encrypted).ok_or_else(|| {
                BadField::new(item.path("encrypted_content"), "is damaged: it must come back as it was sent")
            })?,
        };
        let mut text = envelope.text.clone();
        for name in ["content", "summary"] {
            let other = texts(name)?;
            if text.is_empty() {
                text = other;
            }
        }
        let turn = self.turn();
        turn.reasoning.push_str(&text);
        envelope.push_detail(&mut turn.details);
        Ok(())
    }

    fn call(&mut self, item: &Fields, function: &str, arguments: String) -> Result<(), BadField> {
        let id = item.required_str("call_id", "the call's id")?;
        self.turn().calls.push(json!({
            "id": id, "type": "function", "function": {"name": function, "arguments": arguments},
        }));
        let call = Call { entry: self.entries.len() - 1, path: item.path("call_id"), answered: false };
        self.calls.insert(id.to_owned(), call);
        Ok(())
    }

    fn output(&mut self, item: &Fields) -> Result<(), BadField> {
        let (mut texts, mut shown) = (Vec::new(), Vec::new());
        match item.get("output") {
            None => {}
            Some(Value::String(text)) => texts.push(text.clone()),
            // Of older clients: `{"content": "...", "success": false}`.
            Some(Value::Object(fields)) if fields.get("content").is_some_and(Value::is_string) => {
                texts.extend(fields["content"].as_str().map(str::to_owned));
            }
            Some(list) => {
                for part in parts(&item.path("output"), list)? {
                    match part["text"].as_str() {
                        Some(text) => texts.push(text.to_owned()),
                        None => shown.push(part),
                    }
                }
            }
        }
        self.answer(item, texts.join("\n"), shown)
    }

    /// The output of a call, behind it.
    fn answer(&mut self, item: &Fields, text: String, shown: Vec<Value>) -> Result<(), BadField> {
        // The old local shell's output has the call's id under the name of its own.
        let at = if item.get("call_id").is_some() { "call_id" } else { "id" };
        let id =
            item.str(at)?.ok_or_else(|| BadField::missing(item.path("call_id"), "the id of the call"))?;
        let Some(call) = self.calls.get_mut(id) else {
            let reason = format!("answers no call of this conversation: there is no call `{id}` before it");
            return Err(BadField::new(item.path(at), reason));
        };
        call.answered = true;
        let Entry::Assistant(turn) = &mut self.entries[call.entry] else {
            unreachable!("calls are the assistant's")
        };
        turn.outputs.push(json!({"role": "tool", "tool_call_id": id, "content": text}));
        if !shown.is_empty() {
            turn.shown.push(text_part(&format!("Shown by the tool call {id}:")));
            turn.shown.extend(shown);
        }
        Ok(())
    }
}

impl Turn {
    fn push_to(self, messages: &mut Vec<Value>) {
        if self.content.is_none() && self.refusal.is_none() && self.calls.is_empty() {
            return;
        }
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        let content = self.content.filter(|content| !content.is_empty() || self.calls.is_empty());
        message.insert("content".into(), content.into());
        if let Some(refusal) = self.refusal {
            message.insert("refusal".into(), refusal.into());
        }
        if !self.reasoning.is_empty() {
            message.insert("reasoning_content".into(), self.reasoning.into());
        }
        if !self.details.is_empty() {
            message.insert("reasoning_details".into(), self.details.into());
        }
        if !self.calls.is_empty() {
            message.insert("tool_calls".into(), self.calls.into());
        }
        messages.push(message.into());
        messages.extend(self.outputs);
        if !self.shown.is_empty() {
            messages.push(json!({"role": "user", "content": self.shown}));
        }
    }
}

fn required_object<'a>(item: &Fields<'a>, name: &str, what: &str) -> Result<Fields<'a>, BadField> {
    item.object(name)?.ok_or_else(|| BadField::missing(item.path(name), what))
}

/// Some fields of an object, as JSON text.
fn fields_of(object: &Fields, names: &[&str]) -> String {
    let fields = names.iter().filter_map(|name| Some(((*name).to_owned(), object.get(name)?.clone())));
    Value::Object(fields.collect()).to_string()
}

/// What an item says of a call that a server made: all but what is of no use to a model.
fn server_call(kind: &str, item: &Fields) -> String {
    const LEFT_OUT: [&str; 6] = ["id", "type", "status", "result", "call_id", "encrypted_content"];
    let fields =
        item.map().iter().filter(|(name, value)| !LEFT_OUT.contains(&name.as_str()) && !value.is_null());
    let fields: Map<String, Value> = fields.map(|(name, value)| (name.clone(), value.clone())).collect();
    format!("[{kind}: {}]", Value::Object(fields))
}

fn text_part(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

/// Parts that are one text as a string.
fn one_text(mut parts: Vec<Value>) -> Value {
    match parts.as_mut_slice() {
        [] => "".into(),
        [only] if only["type"] == "text" => only["text"].take(),
        _ => parts.into(),
    }
}

/// What the assistant has said and refused.
fn said(path: &str, content: &Value) -> Result<(String, Option<String>), BadField> {
    let Value::Array(parts) = content else {
        return match content {
            Value::String(text) => Ok((text.clone(), None)),
            other => Err(BadField::wrong_type(path.to_owned(), "a string or a list of parts", other)),
        };
    };
    let (mut text, mut refusal) = (String::new(), None::<String>);
    for (i, part) in parts.iter().enumerate() {
        let part = Fields::object_at(format!("{path}[{i}]"), part)?;
        match part.required_str("type", "output_text or refusal")? {
            "output_text" | "input_text" | "text" => {
                text.push_str(part.required_str("text", "the part's text")?)
            }
            "refusal" => {
                let said = part.required_str("refusal", "the refusal's text")?;
                refusal.get_or_insert_default().push_str(said);
            }
            other => {
                let reason =
                    format!("must be output_text or refusal in a message of the assistant's, got `{other}`");
                return Err(BadField::new(part.path("type"), reason));
            }
        }
    }
    Ok((text, refusal))
}

/// Parts of a message or of a tool's output.
fn parts(path: &str, content: &Value) -> Result<Vec<Value>, BadField> {
    let Value::Array(parts) = content else {
        return Err(BadField::wrong_type(path.to_owned(), "a string or a list of parts", content));
    };
    let part = |(i, part): (usize, &Value)| part_of(&Fields::object_at(format!("{path}[{i}]"), part)?);
    parts.iter().enumerate().map(part).collect()
}

fn part_of(part: &Fields) -> Result<Value, BadField> {
    let kept = |name: &str| {
        let reason = "names a file of OpenAI's servers, which this server has not; send the content itself";
        BadField::unsupported(part.path(name), reason)
    };
    match part.required_str("type", "input_text, input_image or input_file")? {
        "input_text" | "output_text" | "text" => Ok(text_part(part.required_str("text", "the part's text")?)),
        "input_image" => {
            if part.get("file_id").is_some() {
                return Err(kept("file_id"));
            }
            let url = part.required_str("image_url", "the image's address, or a data: URL")?;
            let mut image = json!({"url": url});
            if let Some(detail) = part.str("detail")? {
                // Chat completions have no word for an image's own size.
                image["detail"] = if detail == "original" { "high" } else { detail }.into();
            }
            Ok(json!({"type": "image_url", "image_url": image}))
        }
        "input_file" => {
            for name in ["file_id", "file_url"] {
                if part.get(name).is_some() {
                    return Err(if name == "file_id" {
                        kept(name)
                    } else {
                        BadField::unsupported(part.path(name), "is not fetched here; send `file_data`")
                    });
                }
            }
            let data = part.required_str("file_data", "the file as a data: URL")?;
            let mut file = json!({"file_data": data});
            if let Some(name) = part.str("filename")? {
                file["filename"] = name.into();
            }
            Ok(json!({"type": "file", "file": file}))
        }
        "input_audio" => {
            let audio = required_object(part, "input_audio", "an object with `data` and `format`")?;
            Ok(json!({"type": "input_audio", "input_audio": audio.map()}))
        }
        other => {
            let reason = format!("must be input_text, input_image, input_file or input_audio, got `{other}`");
            Err(BadField::unsupported(part.path("type"), reason))
        }
    }
}
