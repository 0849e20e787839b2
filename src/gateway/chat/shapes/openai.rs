//! Chat completions.

#![allow(missing_docs, reason = "the names are the format's own: where there is more to say it is said")]

use crate::gateway::chat::openai::logprobs::ChatLogprobs;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use utoipa::openapi::schema::Object;

super::word! {
    chat_object: "chat.completion";
    chunk_object: "chat.completion.chunk";
    assistant: "assistant";
    roles: "system" | "developer" | "user" | "assistant" | "tool" | "function";
    call_types: "function" | "custom";
    tool_types: "function" | "custom";
    formats: "text" | "json_object" | "json_schema";
    thinking_types: "enabled" | "adaptive" | "disabled";
}

fn effort() -> Object {
    super::words_or_null(["none", "minimal", "low", "medium", "high", "xhigh", "max"])
}

/// A message of a conversation.
#[derive(Serialize, ToSchema)]
pub struct ChatMessage {
    #[schema(schema_with = roles)]
    pub role: String,
    /// Of the assistant and of tools it may be null.
    pub content: Option<ChatContent>,
    pub name: Option<String>,
    /// What an assistant's message called.
    #[schema(value_type = Option<Vec<super::AnyObject>>)]
    pub tool_calls: Option<Vec<Value>>,
    /// Which call a tool's message answers.
    pub tool_call_id: Option<String>,
    /// What the assistant thought before it.
    pub reasoning_content: Option<String>,
    pub refusal: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ChatContent {
    #[schema(title = "Text")]
    Text(String),
    #[schema(title = "Parts")]
    Parts(Vec<ChatPart>),
}

/// A part of a message. Models of this server read text; upstreams take what they take.
#[derive(Serialize, ToSchema)]
pub struct ChatPart {
    /// `text`, `image_url`, `input_audio`, `file`.
    pub r#type: String,
    pub text: Option<String>,
}

/// Something that a model may call.
#[derive(Serialize, ToSchema)]
pub struct Tool {
    #[schema(schema_with = tool_types)]
    pub r#type: String,
    pub function: Option<FunctionTool>,
    /// Of type `custom`: a tool that takes free text.
    #[schema(value_type = Option<super::AnyObject>)]
    pub custom: Option<Value>,
}

#[derive(Serialize, ToSchema)]
pub struct FunctionTool {
    pub name: String,
    pub description: Option<String>,
    /// A JSON schema of the arguments.
    #[schema(value_type = Option<super::AnyObject>)]
    pub parameters: Option<Value>,
    /// Arguments are held to the schema.
    pub strict: Option<bool>,
}

/// `none`, `auto`, `required`, or a tool: `{"type": "function", "function": {"name": ..}}`, `allowed_tools`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    #[schema(title = "Word")]
    Word(ToolChoiceWord),
    #[schema(title = "Tool", value_type = super::AnyObject)]
    Tool(Value),
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoiceWord {
    None,
    Auto,
    Required,
}

/// What the answer must be.
#[derive(Serialize, ToSchema)]
pub struct ResponseFormat {
    #[schema(schema_with = formats)]
    pub r#type: String,
    /// `{"name": .., "schema": ..}`, of type `json_schema`.
    #[schema(value_type = Option<super::AnyObject>)]
    pub json_schema: Option<Value>,
}

/// vLLM's way to say what the answer must be: one of these.
#[derive(Serialize, ToSchema)]
pub struct StructuredOutputs {
    pub json: Option<super::JsonSchema>,
    pub json_object: Option<bool>,
    pub regex: Option<String>,
    pub choice: Option<Vec<String>>,
    /// In llguidance's Lark syntax.
    pub grammar: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct StreamOptions {
    /// A last chunk has the usage, and no choices.
    pub include_usage: Option<bool>,
    /// Every chunk has the usage so far.
    pub continuous_usage_stats: Option<bool>,
}

/// OpenRouter's way to say how much a model is to think.
#[derive(Serialize, ToSchema)]
pub struct ReasoningSwitch {
    #[schema(schema_with = effort)]
    pub effort: Option<String>,
    #[schema(minimum = 1)]
    pub max_tokens: Option<u64>,
    pub enabled: Option<bool>,
}

/// Whether a model is to think, and how much.
#[derive(Serialize, ToSchema)]
pub struct Thinking {
    #[schema(schema_with = thinking_types)]
    pub r#type: String,
    /// Tokens at the most.
    #[schema(minimum = 1)]
    pub budget_tokens: Option<u64>,
}

/// One stop string, or up to 16.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Stop {
    #[schema(title = "One")]
    One(String),
    #[schema(title = "Several")]
    Several(Vec<String>),
}

/// From token ids to what is added to their logits, -100 to 100.
#[derive(Serialize, ToSchema)]
pub struct LogitBias(pub BTreeMap<String, f64>);

/// Text, token ids, or several of either.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    #[schema(title = "Text")]
    Text(String),
    #[schema(title = "Texts")]
    Texts(Vec<String>),
    #[schema(title = "TokenIds")]
    TokenIds(Vec<u32>),
    #[schema(title = "ListsOfTokenIds")]
    Lists(Vec<Vec<u32>>),
}

/// A file beside the one with the gap.
#[derive(Serialize, ToSchema)]
pub struct InfillFile {
    pub filename: Option<String>,
    pub text: String,
}

/// A whole chat completion.
#[derive(Serialize, ToSchema)]
pub struct ChatCompletion {
    pub id: String,
    #[schema(schema_with = chat_object)]
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// As it was asked for.
    pub model: String,
    #[schema(required = true)]
    pub system_fingerprint: Option<String>,
    pub choices: Vec<ChatChoice>,
    pub usage: Option<ChatUsage>,
}

#[derive(Serialize, ToSchema)]
pub struct ChatChoice {
    pub index: u32,
    pub message: ChatAnswer,
    #[schema(required = true, value_type = Option<ChatLogprobs>)]
    pub logprobs: Option<ChatLogprobs<'static>>,
    /// `stop`, `length`, `tool_calls`, `content_filter`, or an upstream's own word.
    pub finish_reason: String,
    /// The stop string that matched.
    pub stop_reason: Option<String>,
    pub prompt_token_ids: Option<Vec<u32>>,
    pub token_ids: Option<Vec<u32>>,
}

/// What the model said.
#[derive(Serialize, ToSchema)]
pub struct ChatAnswer {
    #[schema(schema_with = assistant)]
    pub role: String,
    #[schema(required = true)]
    pub content: Option<String>,
    #[schema(required = true)]
    pub refusal: Option<String>,
    /// What it thought.
    pub reasoning_content: Option<String>,
    /// The same.
    pub reasoning: Option<String>,
    pub reasoning_details: Option<Vec<ReasoningDetail>>,
    pub tool_calls: Option<Vec<ChatToolCall>>,
}

/// What a model's maker needs back to go on from its thinking, in OpenRouter's form.
#[derive(Serialize, ToSchema)]
pub struct ReasoningDetail {
    /// `reasoning.text` or `reasoning.encrypted`.
    pub r#type: String,
    pub text: Option<String>,
    pub signature: Option<String>,
    pub data: Option<String>,
    pub format: Option<String>,
    pub index: Option<u32>,
}

#[derive(Serialize, ToSchema)]
pub struct ChatToolCall {
    pub id: String,
    #[schema(schema_with = call_types)]
    pub r#type: String,
    pub function: Option<FunctionCall>,
    pub custom: Option<CustomCall>,
}

#[derive(Serialize, ToSchema)]
pub struct FunctionCall {
    pub name: String,
    /// JSON.
    pub arguments: String,
}

#[derive(Serialize, ToSchema)]
pub struct CustomCall {
    pub name: String,
    pub input: String,
}

/// `completion_tokens` counts what was thought too.
#[derive(Serialize, ToSchema)]
pub struct ChatUsage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub total_tokens: u64,
    pub prompt_tokens_details: PromptTokensDetails,
    pub completion_tokens_details: CompletionTokensDetails,
}

#[derive(Serialize, ToSchema)]
pub struct PromptTokensDetails {
    pub cached_tokens: u64,
    /// Absent where there are none.
    pub cache_write_tokens: Option<u64>,
}

#[derive(Serialize, ToSchema)]
pub struct CompletionTokensDetails {
    pub reasoning_tokens: u64,
}

/// The data of an event of a stream, which ends with `data: [DONE]`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ChatStreamData {
    #[schema(title = "Chunk")]
    Chunk(ChatCompletionChunk),
    #[schema(title = "Error", value_type = crate::gateway::wire::error::WireError)]
    Error(Value),
}

#[derive(Serialize, ToSchema)]
pub struct ChatCompletionChunk {
    pub id: String,
    #[schema(schema_with = chunk_object)]
    pub object: String,
    pub created: u64,
    pub model: String,
    #[schema(required = true)]
    pub system_fingerprint: Option<String>,
    pub choices: Vec<ChunkChoice>,
    pub usage: Option<ChatUsage>,
}

#[derive(Serialize, ToSchema)]
pub struct ChunkChoice {
    pub index: u32,
    pub delta: Delta,
    #[schema(required = true, value_type = Option<ChatLogprobs>)]
    pub logprobs: Option<ChatLogprobs<'static>>,
    #[schema(required = true)]
    pub finish_reason: Option<String>,
    pub stop_reason: Option<String>,
    pub prompt_token_ids: Option<Vec<u32>>,
    pub token_ids: Option<Vec<u32>>,
}

#[derive(Serialize, ToSchema)]
pub struct Delta {
    pub role: Option<String>,
    pub content: Option<String>,
    pub refusal: Option<String>,
    pub reasoning_content: Option<String>,
    pub reasoning: Option<String>,
    pub reasoning_details: Option<Vec<ReasoningDetail>>,
    pub tool_calls: Option<Vec<ToolCallDelta>>,
}

/// The first piece of a call has its id and name.
#[derive(Serialize, ToSchema)]
pub struct ToolCallDelta {
    pub index: u32,
    pub id: Option<String>,
    pub r#type: Option<String>,
    pub function: Option<FunctionDelta>,
    pub custom: Option<CustomDelta>,
}

#[derive(Serialize, ToSchema)]
pub struct FunctionDelta {
    pub name: Option<String>,
    pub arguments: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct CustomDelta {
    pub name: Option<String>,
    pub input: Option<String>,
}
