//! Tools of a Responses request as functions of a chat completion, and their calls on the way back.
//!
//! | Responses | function |
//! | --- | --- |
//! | `function` | the same |
//! | `custom` | one string parameter, `input`; a grammar stands in the description |
//! | a tool of a `namespace` | `NAMESPACE__NAME` |
//! | `local_shell`, `shell` on the caller's machine, `apply_patch` | by these names, with the schema of their calls |
//! | `tool_search` that the client runs | `tool_search` |
//! | tools that OpenAI's servers run | none: the answer comes without them |
//!
//! The last are dropped because clients send them unasked (Codex `web_search`); a `tool_choice` that names one is
//! refused. A tool whose loading is deferred is there from the beginning.

use super::custom_input::INPUT;
use crate::gateway::wire::fields::{BadField, Fields};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// What a call becomes on the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolKind {
    /// `function_call`.
    Function,
    /// `custom_tool_call`.
    Custom,
    /// `local_shell_call`.
    LocalShell,
    /// `shell_call`.
    Shell,
    /// `apply_patch_call`.
    ApplyPatch,
    /// `tool_search_call`.
    ToolSearch,
}

/// A tool as its caller knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// What its calls are.
    pub kind: ToolKind,
    /// Within its namespace.
    pub name: String,
    /// The namespace, where it is in one.
    pub namespace: Option<String>,
}

/// The tools of one request, by the names of their functions.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    by_function: HashMap<String, Tool>,
}

impl Tools {
    /// The tool that a function stands for. A model may call what nobody offered: a function.
    pub fn of(&self, function: &str) -> Tool {
        self.by_function.get(function).cloned().unwrap_or_else(|| Tool {
            kind: ToolKind::Function,
            name: function.to_owned(),
            namespace: None,
        })
    }
}

/// Kinds of tools that OpenAI's servers run. Some have dates behind them (`web_search_2025_08_26`).
const SERVER_TOOLS: [&str; 6] =
    ["web_search", "file_search", "code_interpreter", "image_generation", "mcp", "programmatic_tool_calling"];
const KINDS: &str = "must be function, custom, namespace, local_shell, shell, apply_patch, tool_search or a tool of OpenAI's servers";

/// The name of a tool's function.
pub fn function_name(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{namespace}__{name}"),
        None => name.to_owned(),
    }
}

/// Tools while they are read.
#[derive(Debug, Default)]
pub struct Reader {
    /// As functions of a chat completion.
    functions: Vec<Value>,
    /// As the caller wrote them, without those that were dropped.
    pub echo: Vec<Value>,
    tools: Tools,
}

impl Reader {
    /// Reads a list of tools.
    pub fn list(&mut self, path: &str, tools: &[Value]) -> Result<(), BadField> {
        for (i, tool) in tools.iter().enumerate() {
            let fields = Fields::object_at(format!("{path}[{i}]"), tool)?;
            if self.tool(&fields, None)? {
                self.echo.push(echo(tool));
            }
        }
        Ok(())
    }

    /// Reads a tool; false if it is dropped.
    fn tool(&mut self, tool: &Fields, namespace: Option<&str>) -> Result<bool, BadField> {
        let kind = tool.required_str("type", "function, custom or another kind of tool")?;
        match kind {
            "function" => self.function(tool, namespace)?,
            "custom" => self.custom(tool, namespace)?,
            "namespace" if namespace.is_none() => {
                let name = tool.required_str("name", "the namespace's name")?;
                for (i, inner) in tool.array("tools")?.unwrap_or_default().iter().enumerate() {
                    self.tool(
                        &Fields::object_at(format!("{}[{i}]", tool.path("tools")), inner)?,
                        Some(name),
                    )?;
                }
            }
            "local_shell" => self.typed(ToolKind::LocalShell, kind, LOCAL_SHELL, local_shell_schema()),
            "apply_patch" => self.typed(ToolKind::ApplyPatch, kind, APPLY_PATCH, apply_patch_schema()),
            "shell" => match tool.object("environment")?.map(|it| it.str("type")).transpose()?.flatten() {
                None | Some("local") => self.typed(ToolKind::Shell, kind, SHELL, shell_schema()),
                Some(_) => return Ok(false),
            },
            "tool_search" => {
                if tool.str("execution")? != Some("client") {
                    return Ok(false);
                }
                let schema = tool
                    .object("parameters")?
                    .map_or_else(|| json!({"type": "object"}), |it| it.map().clone().into());
                self.typed(
                    ToolKind::ToolSearch,
                    kind,
                    tool.str("description")?.unwrap_or(TOOL_SEARCH),
                    schema,
                );
            }
            other if is_server_tool(other) => return Ok(false),
            other => return Err(BadField::unsupported(tool.path("type"), format!("{KINDS}, got `{other}`"))),
        }
        Ok(true)
    }

    fn function(&mut self, tool: &Fields, namespace: Option<&str>) -> Result<(), BadField> {
        let name = tool.required_str("name", "the tool's name")?;
        let mut function = Map::new();
        function.insert("name".into(), function_name(namespace, name).into());
        if let Some(description) = tool.str("description")? {
            function.insert("description".into(), description.into());
        }
        if let Some(parameters) = tool.object("parameters")? {
            function.insert("parameters".into(), parameters.map().clone().into());
        }
        if let Some(strict) = tool.bool("strict")? {
            function.insert("strict".into(), strict.into());
        }
        self.push(ToolKind::Function, name, namespace, function.into());
        Ok(())
    }

    fn custom(&mut self, tool: &Fields, namespace: Option<&str>) -> Result<(), BadField> {
        let name = tool.required_str("name", "the tool's name")?;
        let mut description = tool.str("description")?.unwrap_or_default().to_owned();
        if let Some(format) = tool.object("format")? {
            match format.required_str("type", "text or grammar")? {
                "text" => {}
                "grammar" => {
                    let syntax = format.required_str("syntax", "lark or regex")?;
                    let definition = format.required_str("definition", "the grammar")?;
                    if !description.is_empty() {
                        description.push_str("\n\n");
                    }
                    description
                        .push_str(&format!("The input follows this grammar ({syntax}):\n{definition}"));
                }
                other => {
                    let reason = format!("must be text or grammar, got `{other}`");
                    return Err(BadField::new(format.path("type"), reason));
                }
            }
        }
        let schema = json!({
            "type": "object",
            "properties": {INPUT: {"type": "string", "description": "The tool's input: free text, not JSON."}},
            "required": [INPUT],
            "additionalProperties": false,
        });
        let function = json!({
            "name": function_name(namespace, name), "description": description, "parameters": schema,
        });
        self.push(ToolKind::Custom, name, namespace, function);
        Ok(())
    }

    fn typed(&mut self, kind: ToolKind, name: &str, description: &str, schema: Value) {
        let function = json!({"name": name, "description": description, "parameters": schema});
        self.push(kind, name, None, function);
    }

    fn push(&mut self, kind: ToolKind, name: &str, namespace: Option<&str>, function: Value) {
        let tool = Tool { kind, name: name.to_owned(), namespace: namespace.map(str::to_owned) };
        let of_function = function_name(namespace, name);
        // What a search has found may have been there before.
        if self.tools.by_function.insert(of_function.clone(), tool).is_some() {
            self.functions.retain(|known| known["function"]["name"] != of_function.as_str());
        }
        self.functions.push(json!({"type": "function", "function": function}));
    }

    /// Adds `tools`, `tool_choice` and `parallel_tool_calls` to a chat completion's body. Without tools there is
    /// no choice among them.
    pub fn finish(
        mut self,
        body: &Fields,
        out: &mut Map<String, Value>,
    ) -> Result<(Tools, Vec<Value>), BadField> {
        let choice = match body.get("tool_choice") {
            None => None,
            Some(Value::String(word)) => match word.as_str() {
                "none" | "auto" | "required" => Some(Value::from(word.as_str())),
                other => {
                    let reason = format!("must be none, auto, required or an object, got `{other}`");
                    return Err(BadField::new("tool_choice", reason));
                }
            },
            Some(value) => Some(self.choice(&Fields::object_at("tool_choice".into(), value)?)?),
        };
        let parallel = body.bool("parallel_tool_calls")?;
        if self.functions.is_empty() {
            return match choice.filter(|choice| choice != "none" && choice != "auto") {
                Some(_) => {
                    Err(BadField::new("tool_choice", "needs `tools` that this server can offer the model"))
                }
                None => Ok((self.tools, self.echo)),
            };
        }
        out.insert("tools".into(), std::mem::take(&mut self.functions).into());
        if let Some(choice) = choice {
            out.insert("tool_choice".into(), choice);
        }
        if let Some(parallel) = parallel {
            out.insert("parallel_tool_calls".into(), parallel.into());
        }
        Ok((self.tools, self.echo))
    }

    fn choice(&mut self, choice: &Fields) -> Result<Value, BadField> {
        if choice.str("type")? != Some("allowed_tools") {
            let function = self.chosen(choice)?;
            return Ok(json!({"type": "function", "function": {"name": function}}));
        }
        let mode = choice.str("mode")?.unwrap_or("auto");
        if !["auto", "required"].contains(&mode) {
            let reason = format!("must be auto or required, got `{mode}`");
            return Err(BadField::new(choice.path("mode"), reason));
        }
        let allowed = choice.array("tools")?.unwrap_or_default();
        let allowed = allowed.iter().enumerate().map(|(i, tool)| {
            self.chosen(&Fields::object_at(format!("{}[{i}]", choice.path("tools")), tool)?)
        });
        let allowed = allowed.collect::<Result<Vec<_>, _>>()?;
        // The others are not offered at all: every target understands that.
        self.functions
            .retain(|function| allowed.iter().any(|name| function["function"]["name"] == name.as_str()));
        if self.functions.is_empty() {
            return Err(BadField::new(choice.path("tools"), "must name at least one of `tools`"));
        }
        Ok(mode.into())
    }

    /// The function of the tool that a choice names.
    fn chosen(&self, choice: &Fields) -> Result<String, BadField> {
        let kind = choice.required_str("type", "the kind of tool")?;
        let (at, function) = match kind {
            "function" | "custom" => {
                let name = choice.required_str("name", "the tool's name")?;
                (choice.path("name"), function_name(choice.str("namespace")?, name))
            }
            "local_shell" | "shell" | "apply_patch" | "tool_search" => (choice.path("type"), kind.to_owned()),
            other => {
                let reason = format!(
                    "must be function, custom, allowed_tools, local_shell, shell, apply_patch or tool_search, got \
                     `{other}`: tools of OpenAI's servers are not run here"
                );
                return Err(BadField::unsupported(choice.path("type"), reason));
            }
        };
        if !self.tools.by_function.contains_key(&function) {
            return Err(BadField::new(at, format!("must be one of `tools`, got `{function}`")));
        }
        Ok(function)
    }
}

fn is_server_tool(kind: &str) -> bool {
    SERVER_TOOLS
        .iter()
        .any(|name| kind.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_')))
}

/// A tool as the response object repeats it: with the fields that OpenAI's always has.
fn echo(tool: &Value) -> Value {
    let mut tool = tool.clone();
    if let Some(fields) =
        tool.as_object_mut().filter(|fields| fields.get("type").is_some_and(|it| it == "function"))
    {
        fields.entry("description").or_insert(Value::Null);
        fields.entry("parameters").or_insert(Value::Null);
        fields.entry("strict").or_insert_with(|| false.into());
    }
    tool
}

const LOCAL_SHELL: &str = "Runs a command on the user's machine and returns its output.";
const SHELL: &str =
    "Runs commands in a shell on the user's machine, at the same time, and returns their output.";
const APPLY_PATCH: &str = "Creates, changes or deletes a file by a diff in the V4A format.";
const TOOL_SEARCH: &str = "Finds more tools by what they are for.";

fn local_shell_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "command": {"type": "array", "items": {"type": "string"}, "description": "The program and its arguments."},
            "working_directory": {"type": "string"},
            "timeout_ms": {"type": "integer"},
        },
        "required": ["command"],
    })
}

fn shell_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "commands": {"type": "array", "items": {"type": "string"}},
            "timeout_ms": {"type": "integer"},
            "max_output_length": {"type": "integer", "description": "Characters of output to keep."},
        },
        "required": ["commands"],
    })
}

fn apply_patch_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
            "path": {"type": "string"},
            "diff": {"type": "string", "description": "Left out where a file is deleted."},
        },
        "required": ["type", "path"],
    })
}

/// What a call of a typed tool is as an item, without its id, call_id and status; None for arguments that do not
/// fit it.
pub fn typed_call(kind: ToolKind, arguments: &str) -> Option<Value> {
    let arguments: Value = serde_json::from_str(arguments).ok()?;
    let fields = arguments.as_object()?;
    let strings = |name: &str| {
        let list = fields.get(name)?.as_array()?;
        list.iter().all(Value::is_string).then(|| Value::from(list.clone()))
    };
    let integer =
        |name: &str| fields.get(name).filter(|value| value.is_u64()).cloned().unwrap_or(Value::Null);
    match kind {
        ToolKind::Function | ToolKind::Custom => None,
        ToolKind::LocalShell => {
            let folder = fields.get("working_directory").filter(|value| value.is_string());
            let action = json!({
                "type": "exec", "command": strings("command")?, "env": {}, "timeout_ms": integer("timeout_ms"),
                "working_directory": folder, "user": null,
            });
            Some(json!({"type": "local_shell_call", "action": action}))
        }
        ToolKind::Shell => {
            let action = json!({
                "commands": strings("commands")?, "timeout_ms": integer("timeout_ms"),
                "max_output_length": integer("max_output_length"),
            });
            Some(json!({"type": "shell_call", "action": action, "environment": {"type": "local"}}))
        }
        ToolKind::ApplyPatch => {
            let kind = fields.get("type")?.as_str()?;
            let path = fields.get("path")?.as_str()?;
            let operation = match (kind, fields.get("diff").and_then(Value::as_str)) {
                ("delete_file", _) => json!({"type": kind, "path": path}),
                ("create_file" | "update_file", Some(diff)) => {
                    json!({"type": kind, "path": path, "diff": diff})
                }
                _ => return None,
            };
            Some(json!({"type": "apply_patch_call", "operation": operation}))
        }
        ToolKind::ToolSearch => {
            Some(json!({"type": "tool_search_call", "execution": "client", "arguments": arguments}))
        }
    }
}
