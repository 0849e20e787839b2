//! Anthropic's messages.

#![allow(missing_docs, reason = "the names are the format's own: where there is more to say it is said")]

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::Object;

super::word! {
    message_type: "message";
    assistant: "assistant";
    roles: "user" | "assistant" | "system";
    schema_type: "json_schema";
    error_type: "error";
    choices: "auto" | "any" | "tool" | "none";
}

fn stop_reasons() -> Object {
    super::words_or_null([
        "end_turn",
        "max_tokens",
        "stop_sequence",
        "tool_use",
        "pause_turn",
        "refusal",
        "model_context_window_exceeded",
    ])
}

/// A message of a conversation.
#[derive(Serialize, ToSchema)]
pub struct MessageParam {
    #[schema(schema_with = roles)]
    pub role: String,
    /// Of the assistant it may be null.
    pub content: Option<MessageContent>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum MessageContent {
    #[schema(title = "Text")]
    Text(String),
    #[schema(title = "Blocks")]
    Blocks(Vec<BlockParam>),
}

/// `text`, `image`, `document`, `tool_use`, `tool_result`, `thinking`, `redacted_thinking` and others, each with
/// its own fields. Models of this server read text.
#[derive(Serialize, ToSchema)]
pub struct BlockParam {
    pub r#type: String,
    pub text: Option<String>,
}

/// What stands before the conversation.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum SystemPrompt {
    #[schema(title = "Text")]
    Text(String),
    #[schema(title = "Blocks")]
    Blocks(Vec<BlockParam>),
}

/// A tool of the caller's; or one of Anthropic's by its `type`.
#[derive(Serialize, ToSchema)]
pub struct MessagesTool {
    pub name: String,
    pub r#type: Option<String>,
    pub description: Option<String>,
    /// A JSON schema.
    #[schema(value_type = Option<super::AnyObject>)]
    pub input_schema: Option<Value>,
    /// Arguments are held to the schema.
    pub strict: Option<bool>,
}

#[derive(Serialize, ToSchema)]
pub struct MessagesToolChoice {
    #[schema(schema_with = choices)]
    pub r#type: String,
    /// Of type `tool`.
    pub name: Option<String>,
    pub disable_parallel_tool_use: Option<bool>,
}

#[derive(Serialize, ToSchema)]
pub struct OutputConfig {
    pub effort: Option<String>,
    pub format: Option<OutputFormat>,
}

/// What the answer must be.
#[derive(Serialize, ToSchema)]
pub struct OutputFormat {
    #[schema(schema_with = schema_type)]
    pub r#type: String,
    #[schema(value_type = super::AnyObject)]
    pub schema: Value,
}

/// A whole message.
#[derive(Serialize, ToSchema)]
pub struct Message {
    pub id: String,
    #[schema(schema_with = message_type)]
    pub r#type: String,
    #[schema(schema_with = assistant)]
    pub role: String,
    /// As it was asked for.
    pub model: String,
    pub content: Vec<ContentBlock>,
    #[schema(schema_with = stop_reasons)]
    pub stop_reason: Option<String>,
    #[schema(required = true)]
    pub stop_sequence: Option<String>,
    pub usage: MessageUsage,
}

/// The last two only from Anthropic's own servers.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock {
    Text {
        text: String,
    },
    Thinking {
        thinking: String,
        signature: String,
    },
    RedactedThinking {
        data: String,
    },
    ToolUse {
        id: String,
        name: String,
        #[schema(value_type = super::AnyObject)]
        input: Value,
    },
    ServerToolUse {
        id: String,
        name: String,
        #[schema(value_type = super::AnyObject)]
        input: Value,
    },
    WebSearchToolResult {
        tool_use_id: String,
        content: Value,
    },
}

/// Tokens from a cache are not in `input_tokens`.
#[derive(Serialize, ToSchema)]
pub struct MessageUsage {
    pub input_tokens: u64,
    #[schema(required = true)]
    pub cache_creation_input_tokens: Option<u64>,
    #[schema(required = true)]
    pub cache_read_input_tokens: Option<u64>,
    pub output_tokens: u64,
    pub output_tokens_details: Option<OutputTokensDetails>,
}

#[derive(Serialize, ToSchema)]
pub struct OutputTokensDetails {
    pub thinking_tokens: u64,
}

/// The data of an event of a stream; the event has the name that is its `type`.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MessageStreamData {
    MessageStart {
        message: Message,
    },
    ContentBlockStart {
        index: u32,
        content_block: ContentBlock,
    },
    ContentBlockDelta {
        index: u32,
        delta: BlockDelta,
    },
    ContentBlockStop {
        index: u32,
    },
    MessageDelta {
        delta: MessageEnd,
        usage: MessageUsage,
    },
    MessageStop {},
    Ping {},
    /// In place of the rest.
    Error {
        error: ErrorOfMessages,
        request_id: Option<String>,
    },
}

#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BlockDelta {
    TextDelta { text: String },
    ThinkingDelta { thinking: String },
    SignatureDelta { signature: String },
    InputJsonDelta { partial_json: String },
    CitationsDelta { citation: Value },
}

#[derive(Serialize, ToSchema)]
pub struct MessageEnd {
    #[schema(schema_with = stop_reasons)]
    pub stop_reason: Option<String>,
    #[schema(required = true)]
    pub stop_sequence: Option<String>,
}

/// An error, as callers of this format are told it.
#[derive(Serialize, ToSchema)]
pub struct MessagesError {
    #[schema(schema_with = error_type)]
    pub r#type: String,
    pub error: ErrorOfMessages,
    /// The header `x-request-id`.
    pub request_id: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct ErrorOfMessages {
    pub r#type: String,
    pub message: String,
}

/// How many tokens a conversation has.
#[derive(Serialize, ToSchema)]
pub struct TokenCount {
    pub input_tokens: u64,
}
