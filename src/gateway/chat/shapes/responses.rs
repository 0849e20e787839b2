//! OpenAI's Responses.

#![allow(missing_docs, reason = "the names are the format's own: where there is more to say it is said")]

use crate::gateway::chat::openai::logprobs::ChatLogprob;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

super::word! {
    response_object: "response";
    list_object: "list";
    statuses: "in_progress" | "completed" | "incomplete" | "failed";
    item_statuses: "in_progress" | "completed" | "incomplete";
    assistant: "assistant";
    formats: "text" | "json_object" | "json_schema";
    reasons: "max_output_tokens" | "content_filter";
}

/// A text, or a conversation's items.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ResponseInput {
    #[schema(title = "Text")]
    Text(String),
    #[schema(title = "Items")]
    Items(Vec<InputItem>),
}

/// A message (which may leave its `type` out), a call and its output, reasoning, or a reference, each with its own
/// fields.
#[derive(Serialize, ToSchema)]
pub struct InputItem {
    pub r#type: Option<String>,
    pub role: Option<String>,
    pub id: Option<String>,
}

/// A function (`name`, `parameters`, `strict`), a custom tool, or another by its type.
#[derive(Serialize, ToSchema)]
pub struct ResponseTool {
    pub r#type: String,
    pub name: Option<String>,
    pub description: Option<String>,
    #[schema(value_type = Option<super::AnyObject>)]
    pub parameters: Option<Value>,
    pub strict: Option<bool>,
}

/// `none`, `auto`, `required`, a tool, or `allowed_tools`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ResponseToolChoice {
    #[schema(title = "Word")]
    Word(super::openai::ToolChoiceWord),
    #[schema(title = "Tool", value_type = super::AnyObject)]
    Tool(Value),
}

#[derive(Serialize, ToSchema)]
pub struct ResponseReasoning {
    pub effort: Option<String>,
    /// With it reasoning comes as a summary.
    pub summary: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct ResponseText {
    pub format: Option<ResponseTextFormat>,
    /// A hint that is not followed.
    pub verbosity: Option<String>,
}

/// What the answer must be.
#[derive(Serialize, ToSchema)]
pub struct ResponseTextFormat {
    #[schema(schema_with = formats)]
    pub r#type: String,
    pub name: Option<String>,
    #[schema(value_type = Option<super::AnyObject>)]
    pub schema: Option<Value>,
    pub strict: Option<bool>,
}

/// A response; behind `usage` it repeats what was asked.
#[derive(Serialize, ToSchema)]
pub struct Response {
    pub id: String,
    #[schema(schema_with = response_object)]
    pub object: String,
    /// Seconds since 1970.
    pub created_at: u64,
    #[schema(schema_with = statuses)]
    pub status: String,
    #[schema(required = true)]
    pub error: Option<ResponseError>,
    #[schema(required = true)]
    pub incomplete_details: Option<IncompleteDetails>,
    pub model: String,
    pub output: Vec<OutputItem>,
    #[schema(required = true)]
    pub usage: Option<ResponseUsage>,
    #[schema(required = true)]
    pub instructions: Option<String>,
    #[schema(required = true)]
    pub max_output_tokens: Option<u64>,
    #[schema(required = true)]
    pub max_tool_calls: Option<u64>,
    #[schema(required = true)]
    pub previous_response_id: Option<String>,
    #[schema(required = true)]
    pub prompt_cache_key: Option<String>,
    #[schema(required = true)]
    pub prompt_cache_retention: Option<String>,
    #[schema(required = true)]
    pub safety_identifier: Option<String>,
    pub service_tier: String,
    #[schema(required = true)]
    pub temperature: Option<f64>,
    pub top_logprobs: u64,
    #[schema(required = true)]
    pub top_p: Option<f64>,
    #[schema(required = true)]
    pub user: Option<String>,
    #[schema(value_type = super::AnyObject)]
    pub metadata: Value,
    pub tool_choice: ResponseToolChoice,
    pub background: bool,
    pub truncation: String,
    pub store: bool,
    #[schema(value_type = Vec<super::AnyObject>)]
    pub tools: Vec<Value>,
    pub parallel_tool_calls: bool,
    pub reasoning: ResponseReasoning,
    #[schema(value_type = super::AnyObject)]
    pub text: Value,
}

#[derive(Serialize, ToSchema)]
pub struct ResponseError {
    /// `context_length_exceeded`, `insufficient_quota`, `rate_limit_exceeded`, `server_is_overloaded`,
    /// `invalid_prompt` or `server_error`.
    pub code: String,
    pub message: String,
}

#[derive(Serialize, ToSchema)]
pub struct IncompleteDetails {
    #[schema(schema_with = reasons)]
    pub reason: String,
}

#[derive(Serialize, ToSchema)]
pub struct ResponseUsage {
    pub input_tokens: u64,
    pub input_tokens_details: ResponseInputDetails,
    pub output_tokens: u64,
    pub output_tokens_details: ResponseOutputDetails,
    pub total_tokens: u64,
}

#[derive(Serialize, ToSchema)]
pub struct ResponseInputDetails {
    pub cached_tokens: u64,
    pub cache_write_tokens: u64,
}

#[derive(Serialize, ToSchema)]
pub struct ResponseOutputDetails {
    pub reasoning_tokens: u64,
}

/// What a model said, thought or called.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    Message {
        id: String,
        #[schema(schema_with = item_statuses)]
        status: String,
        #[schema(schema_with = assistant)]
        role: String,
        content: Vec<OutputPart>,
    },
    Reasoning {
        id: String,
        #[schema(schema_with = item_statuses)]
        status: String,
        summary: Vec<OutputPart>,
        content: Option<Vec<OutputPart>>,
        encrypted_content: Option<String>,
    },
    FunctionCall {
        id: String,
        #[schema(schema_with = item_statuses)]
        status: String,
        call_id: String,
        name: String,
        namespace: Option<String>,
        /// JSON.
        arguments: String,
    },
    CustomToolCall {
        id: String,
        #[schema(schema_with = item_statuses)]
        status: String,
        call_id: String,
        name: String,
        namespace: Option<String>,
        input: String,
    },
    LocalShellCall {
        id: String,
        #[schema(schema_with = item_statuses)]
        status: String,
        call_id: String,
        #[schema(value_type = super::AnyObject)]
        action: Value,
    },
    ShellCall {
        id: String,
        #[schema(schema_with = item_statuses)]
        status: String,
        call_id: String,
        #[schema(value_type = super::AnyObject)]
        action: Value,
        #[schema(value_type = super::AnyObject)]
        environment: Value,
    },
    ApplyPatchCall {
        id: String,
        #[schema(schema_with = item_statuses)]
        status: String,
        call_id: String,
        #[schema(value_type = super::AnyObject)]
        operation: Value,
    },
    ToolSearchCall {
        id: String,
        #[schema(schema_with = item_statuses)]
        status: String,
        call_id: String,
        execution: String,
        #[schema(value_type = super::AnyObject)]
        arguments: Value,
    },
}

/// A part of an item.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputPart {
    OutputText {
        text: String,
        #[schema(value_type = Vec<super::AnyObject>)]
        annotations: Vec<Value>,
        #[schema(value_type = Vec<ChatLogprob>)]
        logprobs: Vec<ChatLogprob<'static>>,
    },
    Refusal {
        refusal: String,
    },
    ReasoningText {
        text: String,
    },
    SummaryText {
        text: String,
    },
}

/// The data of an event of a stream; the event has the name that is its `type`. There is no `[DONE]`.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type")]
pub enum ResponseStreamData {
    #[serde(rename = "response.created")]
    Created { sequence_number: u64, response: Response },
    #[serde(rename = "response.in_progress")]
    InProgress { sequence_number: u64, response: Response },
    #[serde(rename = "response.completed")]
    Completed { sequence_number: u64, response: Response },
    #[serde(rename = "response.incomplete")]
    Incomplete { sequence_number: u64, response: Response },
    #[serde(rename = "response.failed")]
    Failed { sequence_number: u64, response: Response },
    #[serde(rename = "response.output_item.added")]
    ItemAdded { sequence_number: u64, output_index: u32, item: OutputItem },
    #[serde(rename = "response.output_item.done")]
    ItemDone { sequence_number: u64, output_index: u32, item: OutputItem },
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        sequence_number: u64,
        item_id: String,
        output_index: u32,
        content_index: u32,
        part: OutputPart,
    },
    #[serde(rename = "response.content_part.done")]
    PartDone {
        sequence_number: u64,
        item_id: String,
        output_index: u32,
        content_index: u32,
        part: OutputPart,
    },
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        sequence_number: u64,
        item_id: String,
        output_index: u32,
        content_index: u32,
        delta: String,
        #[schema(value_type = Vec<ChatLogprob>)]
        logprobs: Vec<ChatLogprob<'static>>,
    },
    #[serde(rename = "response.output_text.done")]
    TextDone {
        sequence_number: u64,
        item_id: String,
        output_index: u32,
        content_index: u32,
        text: String,
        #[schema(value_type = Vec<ChatLogprob>)]
        logprobs: Vec<ChatLogprob<'static>>,
    },
    #[serde(rename = "response.refusal.delta")]
    RefusalDelta {
        sequence_number: u64,
        item_id: String,
        output_index: u32,
        content_index: u32,
        delta: String,
    },
    #[serde(rename = "response.refusal.done")]
    RefusalDone {
        sequence_number: u64,
        item_id: String,
        output_index: u32,
        content_index: u32,
        refusal: String,
    },
    #[serde(rename = "response.reasoning_text.delta")]
    ReasoningDelta {
        sequence_number: u64,
        item_id: String,
        output_index: u32,
        content_index: u32,
        delta: String,
    },
    #[serde(rename = "response.reasoning_text.done")]
    ReasoningDone {
        sequence_number: u64,
        item_id: String,
        output_index: u32,
        content_index: u32,
        text: String,
    },
    #[serde(rename = "response.reasoning_summary_part.added")]
    SummaryPartAdded {
        sequence_number: u64,
        item_id: String,
        output_index: u32,
        summary_index: u32,
        part: OutputPart,
    },
    #[serde(rename = "response.reasoning_summary_part.done")]
    SummaryPartDone {
        sequence_number: u64,
        item_id: String,
        output_index: u32,
        summary_index: u32,
        part: OutputPart,
    },
    #[serde(rename = "response.reasoning_summary_text.delta")]
    SummaryDelta {
        sequence_number: u64,
        item_id: String,
        output_index: u32,
        summary_index: u32,
        delta: String,
    },
    #[serde(rename = "response.reasoning_summary_text.done")]
    SummaryDone { sequence_number: u64, item_id: String, output_index: u32, summary_index: u32, text: String },
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta { sequence_number: u64, item_id: String, output_index: u32, delta: String },
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        sequence_number: u64,
        item_id: String,
        output_index: u32,
        arguments: String,
        name: String,
    },
    #[serde(rename = "response.custom_tool_call_input.delta")]
    InputDelta { sequence_number: u64, item_id: String, output_index: u32, delta: String },
    #[serde(rename = "response.custom_tool_call_input.done")]
    InputDone { sequence_number: u64, item_id: String, output_index: u32, input: String },
}

/// A response that was forgotten.
#[derive(Serialize, ToSchema)]
pub struct ResponseDeleted {
    pub id: String,
    #[schema(schema_with = response_object)]
    pub object: String,
    pub deleted: bool,
}

/// What a stored response was asked.
#[derive(Serialize, ToSchema)]
pub struct ResponseItems {
    #[schema(schema_with = list_object)]
    pub object: String,
    #[schema(required = true)]
    pub first_id: Option<String>,
    #[schema(required = true)]
    pub last_id: Option<String>,
    pub has_more: bool,
    #[schema(value_type = Vec<super::AnyObject>)]
    pub data: Vec<Value>,
}
