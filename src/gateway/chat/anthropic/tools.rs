//! Tools that Anthropic defines by a `type` of their own, for other models
//! (<https://docs.claude.com/en/docs/agents-and-tools/tool-use/overview>).
//!
//! Those that the caller runs (a shell, an editor, a memory, a screen) become functions: Claude models know their
//! inputs without being told, others are told the published ones. Those that Anthropic's servers run (search, fetch,
//! code, MCP, the search for tools) are left out, as nobody else runs them: the model answers without them.

use crate::gateway::wire::fields::{BadField, Fields};
use serde_json::{Value, json};

/// Types of tools that Anthropic's servers run begin like this; a date follows.
const SERVERS_TOOLS: [&str; 6] =
    ["web_search_", "web_fetch_", "code_execution_", "tool_search_tool_", "mcp_toolset", "advisor_"];

/// What becomes of a tool.
pub enum Translated {
    /// A function: its name, its description, its input's schema.
    Function(String, Option<String>, Value),
    /// Nothing: only Anthropic's servers run it.
    LeftOut,
}

/// Reads a tool of Anthropic's format.
pub fn translated(tool: &Fields) -> Result<Translated, BadField> {
    let kind = tool.str("type")?.unwrap_or("custom");
    if tool.get("input_schema").is_none() && kind != "custom" {
        if SERVERS_TOOLS.iter().any(|server| kind.starts_with(server)) {
            return Ok(Translated::LeftOut);
        }
        return match callers_tool(kind, tool)? {
            Some((name, description, schema)) => {
                let name = tool.str("name")?.unwrap_or(name).to_owned();
                Ok(Translated::Function(name, Some(description), schema))
            }
            // One that is not known here yet: by its date it is Anthropic's own.
            None if is_dated(kind) => Ok(Translated::LeftOut),
            None => {
                let why = format!(
                    "`{kind}` is no tool that this model's upstream takes: a tool with an `input_schema`, or one of \
                     bash, text_editor, memory and computer with its date"
                );
                Err(BadField::unsupported(tool.path("type"), why))
            }
        };
    }
    let name = tool.required_str("name", "the tool's name")?.to_owned();
    let description = tool.str("description")?.map(str::to_owned);
    Ok(Translated::Function(name, description, tool.required("input_schema", "a JSON schema")?.clone()))
}

/// `something_20250124`.
fn is_dated(kind: &str) -> bool {
    let date = kind.rsplit_once('_').map_or("", |(_, date)| date);
    date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit())
}

/// A tool that the caller runs: its usual name, a description, its input's schema.
fn callers_tool(kind: &str, tool: &Fields) -> Result<Option<(&'static str, String, Value)>, BadField> {
    let Some((family, version)) = kind.rsplit_once('_').filter(|_| is_dated(kind)) else { return Ok(None) };
    Ok(match family {
        "bash" => Some(("bash", BASH.to_owned(), bash())),
        "text_editor" => Some(text_editor(version)),
        "memory" => Some(("memory", MEMORY.to_owned(), memory())),
        "computer" => {
            let size = (
                tool.integer("display_width_px", 1, i64::from(u32::MAX))?,
                tool.integer("display_height_px", 1, i64::from(u32::MAX))?,
            );
            Some(("computer", computer_description(size), computer(version)))
        }
        _ => None,
    })
}

const BASH: &str = "Run commands in a bash shell. The session is kept between calls: environment variables and the \
                    working directory stay. Interactive programs cannot be used. `restart` starts a new session.";

fn bash() -> Value {
    json!({
        "type": "object",
        "properties": {
            "command": {
                "type": "string",
                "description": "The bash command to run. Required unless the tool is being restarted.",
            },
            "restart": {
                "type": "boolean",
                "description": "Specifying true will restart this tool. Otherwise, leave this unspecified.",
            },
        },
    })
}

/// From 2025-04-29 on there is no `undo_edit`, and the tool has another name; from 2025-07-28 on what is inserted
/// is `insert_text`.
fn text_editor(version: &str) -> (&'static str, String, Value) {
    let (undoes, old_name) = (version < "20250429", version < "20250429");
    let inserts = if version < "20250728" { "new_str" } else { "insert_text" };
    let mut commands = vec!["view", "create", "str_replace", "insert"];
    let mut description = "View, create and edit files. `view` shows a file with line numbers, or lists a directory; \
                           `create` writes a whole file; `str_replace` replaces text that must occur exactly once in \
                           the file; `insert` adds text after a line."
        .to_owned();
    if undoes {
        commands.push("undo_edit");
        description.push_str(" `undo_edit` reverts the last edit of the file.");
    }
    let mut schema = json!({
        "type": "object",
        "properties": {
            "command": {
                "type": "string", "enum": commands,
                "description": format!("The command to run. Allowed options are: {}.", commands.join(", ")),
            },
            "path": {"type": "string", "description": "Absolute path to the file or directory."},
            "file_text": {
                "type": "string",
                "description": "Required parameter of `create`, with the content of the file to be created.",
            },
            "old_str": {
                "type": "string",
                "description": "Required parameter of `str_replace`: the text in `path` to replace, exactly as it stands there.",
            },
            "new_str": {
                "type": "string",
                "description": "Parameter of `str_replace`: the new text; without it the old text is removed.",
            },
            "insert_line": {
                "type": "integer",
                "description": "Required parameter of `insert`: the line after which to insert; 0 is the file's beginning.",
            },
            "view_range": {
                "type": "array", "items": {"type": "integer"},
                "description": "Optional parameter of `view` for a file: its first and last line, from 1 on; -1 as the last is the file's end.",
            },
        },
        "required": ["command", "path"],
    });
    let inserted = &mut schema["properties"][inserts];
    let said = inserted["description"].as_str().unwrap_or_default();
    let said = format!("{said} Required parameter of `insert`: the text to insert.");
    *inserted = json!({"type": "string", "description": said.trim_start()});
    (if old_name { "str_replace_editor" } else { "str_replace_based_edit_tool" }, description, schema)
}

const MEMORY: &str = "Keep notes in files under /memories, which last longer than this conversation. Look there before \
                      you begin (`view` of /memories), and write down what is worth knowing later.";

fn memory() -> Value {
    json!({
        "type": "object",
        "properties": {
            "command": {
                "type": "string", "enum": ["view", "create", "str_replace", "insert", "delete", "rename"],
                "description": "The command to run.",
            },
            "path": {
                "type": "string",
                "description": "Required parameter of every command but `rename`: the file or directory, such as /memories/notes.md.",
            },
            "view_range": {
                "type": "array", "items": {"type": "integer"},
                "description": "Optional parameter of `view`: the first and the last line.",
            },
            "file_text": {"type": "string", "description": "Required parameter of `create`: the file's content."},
            "old_str": {"type": "string", "description": "Required parameter of `str_replace`: the text to replace."},
            "new_str": {"type": "string", "description": "Required parameter of `str_replace`: the new text."},
            "insert_line": {
                "type": "integer",
                "description": "Required parameter of `insert`: the line after which to insert.",
            },
            "insert_text": {"type": "string", "description": "Required parameter of `insert`: the text to insert."},
            "old_path": {"type": "string", "description": "Required parameter of `rename`."},
            "new_path": {"type": "string", "description": "Required parameter of `rename`."},
        },
        "required": ["command"],
    })
}

fn computer_description((width, height): (Option<i64>, Option<i64>)) -> String {
    let mut description =
        "Use a screen, a mouse and a keyboard. Take a `screenshot` to see what an action has done."
            .to_owned();
    if let (Some(width), Some(height)) = (width, height) {
        description.push_str(&format!(" The screen has {width} x {height} pixels."));
    }
    description
}

fn computer(version: &str) -> Value {
    let mut actions = vec![
        "key",
        "type",
        "mouse_move",
        "left_click",
        "left_click_drag",
        "right_click",
        "middle_click",
        "double_click",
        "screenshot",
        "cursor_position",
    ];
    if version >= "20250124" {
        actions.extend(["hold_key", "left_mouse_down", "left_mouse_up", "triple_click", "scroll", "wait"]);
    }
    if version >= "20251124" {
        actions.push("zoom");
    }
    let point = |what: &str| json!({"type": "array", "items": {"type": "integer"}, "description": format!("x and y in pixels: {what}.")});
    let mut schema = json!({
        "type": "object",
        "properties": {
            "action": {"type": "string", "enum": actions, "description": "The action to perform."},
            "coordinate": point("where the action takes place, or where a drag ends"),
            "text": {
                "type": "string",
                "description": "Required by `type`, `key` and `hold_key`: the text, or the keys such as ctrl+s.",
            },
        },
        "required": ["action"],
    });
    if version >= "20250124" {
        let more = [
            ("start_coordinate", point("where `left_click_drag` begins")),
            ("scroll_direction", json!({"type": "string", "enum": ["up", "down", "left", "right"]})),
            (
                "scroll_amount",
                json!({"type": "integer", "description": "How far `scroll` goes, in clicks of the wheel."}),
            ),
            (
                "duration",
                json!({"type": "number", "description": "Required by `hold_key` and `wait`: seconds."}),
            ),
        ];
        for (name, property) in more {
            schema["properties"][name] = property;
        }
    }
    if version >= "20251124" {
        schema["properties"]["region"] = json!({
            "type": "array", "items": {"type": "integer"},
            "description": "Required by `zoom`: x and y of the upper left and of the lower right corner.",
        });
    }
    schema
}
