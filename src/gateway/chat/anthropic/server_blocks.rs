//! Blocks of a conversation that come from Anthropic's servers or are only read there, as text for other models:
//! what a tool of theirs was asked and what came of it, search results, references to tools, files of their
//! containers. What is encrypted for Anthropic alone is left out.

use serde_json::{Map, Value};
use std::fmt::Write;

/// The text of such a block; None for every other one.
pub fn as_text(kind: &str, block: &Map<String, Value>) -> Option<String> {
    let word = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default();
    let text = match kind {
        "server_tool_use" | "mcp_tool_use" => {
            let server = match word("server_name") {
                "" => String::new(),
                server => format!(" of {server}"),
            };
            let input = block.get("input").filter(|input| !input.is_null());
            let input = input.map_or_else(|| "{}".to_owned(), Value::to_string);
            format!("[Called {}{server} with {input}]", word("name"))
        }
        "search_result" => {
            let mut text = format!("[Search result: {} ({})]", word("title"), word("source"));
            push_readable(block.get("content"), &mut text);
            text
        }
        "tool_reference" => format!("[Found the tool {}]", word("tool_name")),
        "container_upload" => format!("[A file for code execution: {}]", word("file_id")),
        "compaction" => word("content").to_owned(),
        kind => {
            let tool = kind.strip_suffix("_tool_result")?;
            let mut text = format!("[Result of {tool}]");
            push_readable(block.get("content"), &mut text);
            text
        }
    };
    Some(text)
}

/// Fields whose text says something to a model, in the order in which it is told.
const READABLE: [&str; 11] = [
    "title",
    "url",
    "source",
    "page_age",
    "text",
    "data",
    "stdout",
    "stderr",
    "error_code",
    "file_id",
    "tool_name",
];
/// Fields within which there is more of it.
const WITHIN: [&str; 4] = ["content", "source", "tool_references", "lines"];

/// Adds what can be read of a result, a line for each text.
fn push_readable(content: Option<&Value>, text: &mut String) {
    match content {
        Some(Value::String(said)) if !said.is_empty() => {
            let _ = write!(text, "\n{said}");
        }
        Some(Value::Array(items)) => items.iter().for_each(|item| push_readable(Some(item), text)),
        Some(Value::Object(map)) => {
            // Data of documents that are no text says nothing here.
            let binary = map.get("type").is_some_and(|kind| kind == "base64");
            for name in READABLE {
                if let Some(Value::String(said)) = map.get(name)
                    && !said.is_empty()
                    && !(binary && name == "data")
                {
                    let _ = write!(text, "\n{said}");
                }
            }
            if let Some(code) = map.get("return_code").and_then(Value::as_i64).filter(|code| *code != 0) {
                let _ = write!(text, "\nreturn code {code}");
            }
            for name in WITHIN {
                if let Some(more) = map.get(name).filter(|more| !more.is_string()) {
                    push_readable(Some(more), text);
                } else if name == "content" {
                    push_readable(map.get(name), text);
                }
            }
        }
        _ => {}
    }
}
