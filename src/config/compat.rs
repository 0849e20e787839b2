//! `compat`: how a provider's format differs from the plain one. A preset brings what its vendor's
//! documentation says; every key beside it overrides. The translation is in `gateway::chat`.

use super::read::{Reader, in_backticks};
use super::tree::{Node, Value};

/// Longest `missing_reasoning`, in bytes.
const MISSING_REASONING_BYTES_MAX: usize = 1000;

/// How an upstream of OpenAI's format differs. The default is the plain format, with nothing that a
/// caller wrote changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compat {
    /// The name of the bound on an answer's tokens.
    pub max_tokens: MaxTokens,
    /// It understands `stream_options.include_usage`. Without it a stream's tokens are counted here.
    pub stream_usage: bool,
    /// It knows the role `developer`; else it is told `system`.
    pub developer_role: bool,
    /// It takes system messages after the first message that is none.
    pub late_system: bool,
    /// Characters of a tool's name, which are letters, digits, `_` and `-` then. None: any name is taken.
    pub tool_name_chars_max: Option<usize>,
    /// It takes `reasoning_effort` in a request with tools.
    pub effort_beside_tools: bool,
    /// It takes `top_k`.
    pub top_k: bool,
    /// It thinks where `tool_choice` forces a call. Where it does not, it is told not to think then.
    pub forced_tool_thinking: bool,
    /// How a model is told to think, or not to.
    pub reasoning: ReasoningSwitch,
    /// What becomes of the reasoning of earlier answers.
    pub past_reasoning: PastReasoning,
    /// What stands for the reasoning of earlier answers that have none, in a conversation with
    /// tool calls. None: nothing.
    pub missing_reasoning: Option<String>,
}

/// The name of the bound on an answer's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxTokens {
    /// Both names are known.
    #[default]
    Any,
    /// `max_tokens` alone.
    MaxTokens,
    /// `max_completion_tokens`; the other is deprecated.
    MaxCompletionTokens,
}

/// How a model is told to think, or not to, by the vendor whose way it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReasoningSwitch {
    /// `reasoning_effort`.
    #[default]
    OpenAi,
    /// `thinking: {type: enabled | disabled}` and `reasoning_effort`.
    DeepSeek,
    /// `thinking: {type: enabled | disabled}`.
    Moonshot,
    /// `thinking: {type: adaptive | disabled}`.
    MiniMax,
    /// `enable_thinking` and `thinking_budget`.
    DashScope,
    /// `chat_template_kwargs`, for templates that ask `enable_thinking` or `thinking`, and
    /// `reasoning_effort` (vLLM, SGLang, llama-server).
    Template,
    /// `reasoning: {effort | max_tokens | enabled}`.
    OpenRouter,
    /// Not at all: nothing is sent.
    None,
}

/// What becomes of the reasoning of earlier answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PastReasoning {
    /// It goes out as it came; from Anthropic's format as `reasoning_content`, and what is signed
    /// as `reasoning_details` too.
    #[default]
    Any,
    /// It is left out.
    Drop,
    /// As `reasoning_content`.
    Content,
    /// As `reasoning`, and as `reasoning_content` for servers from before the change of name.
    Reasoning,
    /// As `reasoning_details`.
    Details,
}

/// The plain format.
pub fn plain() -> Compat {
    Compat {
        max_tokens: MaxTokens::Any,
        stream_usage: true,
        developer_role: true,
        late_system: true,
        tool_name_chars_max: Some(64),
        effort_beside_tools: true,
        top_k: true,
        forced_tool_thinking: true,
        reasoning: ReasoningSwitch::OpenAi,
        past_reasoning: PastReasoning::Any,
        missing_reasoning: None,
    }
}

/// A server of open-weight models. Most templates know no `developer`: vLLM hands the role to them
/// (<https://github.com/vllm-project/vllm/issues/42407>), SGLang's lose the message
/// (<https://github.com/sgl-project/sglang/issues/40082>), llama-server maps it since 2026
/// (<https://github.com/ggml-org/llama.cpp/pull/20215>). Thinking is the template's:
/// <https://docs.vllm.ai/en/v0.26.0/features/reasoning_outputs/>. Templates of Qwen3.5 and of Mistral raise on a system
/// message that is not the first. Names of tools are only words of the prompt.
pub fn open_server() -> Compat {
    Compat {
        developer_role: false,
        late_system: false,
        tool_name_chars_max: None,
        reasoning: ReasoningSwitch::Template,
        past_reasoning: PastReasoning::Content,
        ..plain()
    }
}

/// vLLM reads `reasoning` of earlier answers where older ones read `reasoning_content`
/// (<https://docs.vllm.ai/en/v0.26.0/features/reasoning_outputs/>, `chat_utils.py`).
pub fn vllm() -> Compat {
    Compat { past_reasoning: PastReasoning::Reasoning, ..open_server() }
}

/// <https://platform.openai.com/docs/api-reference/chat/create>: `max_tokens` is deprecated and
/// refused by reasoning models; `top_k` and reasoning in messages are no fields of it.
pub fn openai() -> Compat {
    Compat {
        max_tokens: MaxTokens::MaxCompletionTokens,
        top_k: false,
        past_reasoning: PastReasoning::Drop,
        ..plain()
    }
}

/// <https://api-docs.deepseek.com/guides/thinking_mode>: thinking is on unless disabled; once tools
/// were called, earlier answers need their `reasoning_content`. That an empty one does, others found
/// out (<https://github.com/earendil-works/pi/pull/3659>), and that a forced tool and thinking exclude
/// each other (<https://github.com/deepseek-ai/DeepSeek-V3/issues/1376>).
pub fn deepseek() -> Compat {
    Compat {
        max_tokens: MaxTokens::MaxTokens,
        developer_role: false,
        forced_tool_thinking: false,
        reasoning: ReasoningSwitch::DeepSeek,
        past_reasoning: PastReasoning::Content,
        missing_reasoning: Some(String::new()),
        ..plain()
    }
}

/// <https://www.alibabacloud.com/help/en/model-studio/deep-thinking>; `max_tokens` is deprecated
/// (<https://www.alibabacloud.com/en/notice/model_studio_notice_of_changes_to_certain_model_fields_724>).
pub fn dashscope() -> Compat {
    Compat {
        max_tokens: MaxTokens::MaxCompletionTokens,
        developer_role: false,
        reasoning: ReasoningSwitch::DashScope,
        past_reasoning: PastReasoning::Content,
        ..plain()
    }
}

/// <https://platform.kimi.ai/docs/guide/use-kimi-k2-thinking-model>: earlier answers that called
/// tools need their `reasoning_content`; empty counts as missing, a space does not
/// (<https://github.com/theopenco/llmgateway/pull/2093>). <https://platform.kimi.ai/docs/api/chat>:
/// `max_tokens` is deprecated; the roles are system, user and assistant. A forced tool and thinking
/// exclude each other for the K2 models, as others found out.
pub fn moonshot() -> Compat {
    Compat {
        max_tokens: MaxTokens::MaxCompletionTokens,
        developer_role: false,
        forced_tool_thinking: false,
        reasoning: ReasoningSwitch::Moonshot,
        past_reasoning: PastReasoning::Content,
        missing_reasoning: Some(" ".into()),
        ..plain()
    }
}

/// <https://platform.minimax.io/docs/api-reference/text-openai-api>: reasoning goes back as
/// `reasoning_details`. `reasoning_split` is the caller's to ask for: whether streams then repeat
/// what came before is told differently (<https://github.com/MiniMax-AI/MiniMax-M2/issues/95>).
pub fn minimax() -> Compat {
    Compat {
        max_tokens: MaxTokens::MaxCompletionTokens,
        developer_role: false,
        reasoning: ReasoningSwitch::MiniMax,
        past_reasoning: PastReasoning::Details,
        ..plain()
    }
}

/// <https://openrouter.ai/docs/use-cases/reasoning-tokens>.
pub fn openrouter() -> Compat {
    Compat { reasoning: ReasoningSwitch::OpenRouter, past_reasoning: PastReasoning::Details, ..plain() }
}

/// Another NovaStack takes thinking as its template's matter, every name for reasoning, and every name of a tool.
pub fn novastack() -> Compat {
    Compat {
        reasoning: ReasoningSwitch::Template,
        past_reasoning: PastReasoning::Content,
        tool_name_chars_max: None,
        ..plain()
    }
}

impl Default for Compat {
    fn default() -> Self {
        plain()
    }
}

/// Longest `tool_name_chars_max`, and the shortest that still tells names apart.
const TOOL_NAME_CHARS: std::ops::RangeInclusive<u64> = 16..=1024;

const KEYS: [&str; 11] = [
    "max_tokens",
    "stream_usage",
    "developer_role",
    "late_system",
    "tool_name_chars_max",
    "effort_beside_tools",
    "top_k",
    "forced_tool_thinking",
    "reasoning",
    "past_reasoning",
    "missing_reasoning",
];

const MAX_TOKENS: [(&str, MaxTokens); 3] = [
    ("any", MaxTokens::Any),
    ("max_tokens", MaxTokens::MaxTokens),
    ("max_completion_tokens", MaxTokens::MaxCompletionTokens),
];

const REASONING: [(&str, ReasoningSwitch); 8] = [
    ("openai", ReasoningSwitch::OpenAi),
    ("deepseek", ReasoningSwitch::DeepSeek),
    ("moonshot", ReasoningSwitch::Moonshot),
    ("minimax", ReasoningSwitch::MiniMax),
    ("dashscope", ReasoningSwitch::DashScope),
    ("template", ReasoningSwitch::Template),
    ("openrouter", ReasoningSwitch::OpenRouter),
    ("none", ReasoningSwitch::None),
];

const PAST_REASONING: [(&str, PastReasoning); 5] = [
    ("any", PastReasoning::Any),
    ("drop", PastReasoning::Drop),
    ("reasoning_content", PastReasoning::Content),
    ("reasoning", PastReasoning::Reasoning),
    ("reasoning_details", PastReasoning::Details),
];

/// Reads `compat` over a preset's.
pub fn compat(reader: &mut Reader, node: &Node, what: &str, preset: Compat) -> Compat {
    let mut compat = preset;
    let what = format!("`compat` of {what}");
    let Some(fields) = reader.fields(node, &what, &KEYS) else { return compat };
    for (name, flag) in [
        ("stream_usage", &mut compat.stream_usage),
        ("developer_role", &mut compat.developer_role),
        ("late_system", &mut compat.late_system),
        ("effort_beside_tools", &mut compat.effort_beside_tools),
        ("top_k", &mut compat.top_k),
        ("forced_tool_thinking", &mut compat.forced_tool_thinking),
    ] {
        if let Some(truth) =
            fields.get(name).and_then(|node| reader.truth(node, &format!("`{name}` in {what}")))
        {
            *flag = truth;
        }
    }
    match fields.entry("tool_name_chars_max").map(|(_, node)| node) {
        None => {}
        // Nothing, so that a preset's can be done without.
        Some(node) if node.is_null() => compat.tool_name_chars_max = None,
        Some(node) => {
            let chars = reader.whole(node, &format!("`tool_name_chars_max` in {what}"), TOOL_NAME_CHARS);
            compat.tool_name_chars_max = chars.map(|chars| chars as usize).or(compat.tool_name_chars_max);
        }
    }
    if let Some(node) = fields.get("max_tokens") {
        compat.max_tokens = word(reader, node, "max_tokens", &what, &MAX_TOKENS).unwrap_or_default();
    }
    if let Some(node) = fields.get("reasoning") {
        compat.reasoning = word(reader, node, "reasoning", &what, &REASONING).unwrap_or_default();
    }
    if let Some(node) = fields.get("past_reasoning") {
        compat.past_reasoning =
            word(reader, node, "past_reasoning", &what, &PAST_REASONING).unwrap_or_default();
    }
    match fields.entry("missing_reasoning").map(|(_, node)| node) {
        None => {}
        // Nothing, so that a preset's can be done without.
        Some(node) if node.is_null() => compat.missing_reasoning = None,
        // May be blank: some providers take a space.
        Some(Node { value: Value::Scalar(text, _), .. }) if text.len() <= MISSING_REASONING_BYTES_MAX => {
            compat.missing_reasoning = Some(text.clone());
        }
        Some(node) => reader.error(
            node.line,
            format!(
                "`missing_reasoning` in {what} must be text of at most {MISSING_REASONING_BYTES_MAX} bytes"
            ),
        ),
    }
    compat
}

fn word<T: Copy>(reader: &mut Reader, node: &Node, key: &str, what: &str, words: &[(&str, T)]) -> Option<T> {
    let text = reader.text(node, &format!("`{key}` in {what}"))?;
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    if found.is_none() {
        let valid: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let there_are = reader.there_are(text, &valid);
        reader.error(node.line, format!("{what}: unknown `{key}` {}{there_are}", in_backticks(text)));
    }
    found
}
