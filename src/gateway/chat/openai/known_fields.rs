//! Every field that requests of the formats spoken here are known to have, and what becomes of it: done,
//! refused by name, or harmless. The one source: requests are refused by it, docs/api.md shows it, and a
//! test sends each field to a model. What is not here is nobody's field and is ignored, as servers of
//! these formats do.
//!
//! The formats: OpenAI's (<https://platform.openai.com/docs/api-reference>), Anthropic's
//! (<https://docs.anthropic.com/en/api/messages>), vLLM's (`entrypoints/openai/protocol.py`),
//! llama-server's (`tools/server/README.md`), SGLang's (`entrypoints/openai/protocol.py`), Cohere's and Jina's
//! (<https://docs.cohere.com/reference/rerank>, <https://api.jina.ai/redoc>).
//!
//! A refused field passes with a value that asks for nothing: null, an empty list or string, and those
//! that its row names.

use super::field_type::FieldType::{self, *};
use super::field_type::UNBOUNDED;
use crate::gateway::wire::fields::{BadField, Fields};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::LazyLock;

/// Where a request goes; several together by `|`.
pub type Endpoint = u8;
/// `/v1/chat/completions`.
pub const CHAT: Endpoint = 1;
/// `/v1/completions`.
pub const TEXT: Endpoint = 2;
/// `/v1/messages`.
pub const MESSAGES: Endpoint = 4;
/// `/infill`.
pub const INFILL: Endpoint = 8;
/// `/v1/embeddings`.
pub const EMBEDDINGS: Endpoint = 16;
/// `/v1/rerank`.
pub const RERANK: Endpoint = 32;
/// `/v1/score`.
pub const SCORE: Endpoint = 64;
const BOTH: Endpoint = CHAT | TEXT | INFILL;
const ALL: Endpoint = BOTH | MESSAGES;
/// Those that are answered with numbers.
const POOLED: Endpoint = EMBEDDINGS | RERANK | SCORE;

/// The endpoints by their paths.
pub const ENDPOINTS: [(Endpoint, &str); 7] = [
    (CHAT, "/v1/chat/completions"),
    (TEXT, "/v1/completions"),
    (INFILL, "/infill"),
    (MESSAGES, "/v1/messages"),
    (EMBEDDINGS, "/v1/embeddings"),
    (RERANK, "/v1/rerank"),
    (SCORE, "/v1/score"),
];

/// Fields that a request has to have.
pub fn required(at: Endpoint) -> &'static [&'static str] {
    match at {
        CHAT | MESSAGES => &["model", "messages"],
        TEXT => &["model", "prompt"],
        EMBEDDINGS => &["model", "input"],
        RERANK => &["model", "query", "documents"],
        SCORE => &["model"],
        _ => &[],
    }
}

/// A field.
#[derive(Debug)]
pub struct Known {
    /// As it stands in the body.
    pub name: &'static str,
    /// Where this row holds.
    pub at: Endpoint,
    /// What becomes of it.
    pub fate: Fate,
    /// What it is; of fields that are not done nobody asks.
    pub of: FieldType,
}

impl Known {
    /// The same, of that type.
    const fn of(mut self, of: FieldType) -> Self {
        self.of = of;
        self
    }
}

/// What becomes of a field.
#[derive(Debug)]
pub enum Fate {
    /// It is done; where there is more to say, within which bounds.
    Done(&'static str),
    /// It would change the answer and cannot be done: 400, but for values that ask for nothing.
    Refused(&'static [Neutral], &'static str),
    /// The answer is the same with it and without it; why.
    Harmless(&'static str),
}

/// A value that asks for nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Neutral {
    Number(f64),
    Is(bool),
    Word(&'static str),
    EmptyObject,
}
use Neutral::{EmptyObject, Is, Number, Word};

impl Neutral {
    fn is(self, value: &Value) -> bool {
        match self {
            Number(number) => value.as_f64() == Some(number),
            Is(on) => value.as_bool() == Some(on),
            Word(word) => value.as_str() == Some(word),
            EmptyObject => value.as_object().is_some_and(serde_json::Map::is_empty),
        }
    }
}

const fn done(name: &'static str, at: Endpoint) -> Known {
    Known { name, at, fate: Fate::Done(""), of: Any }
}

const fn done_if(name: &'static str, at: Endpoint, bounds: &'static str) -> Known {
    Known { name, at, fate: Fate::Done(bounds), of: Any }
}

const fn refused(name: &'static str, at: Endpoint, neutral: &'static [Neutral], why: &'static str) -> Known {
    Known { name, at, fate: Fate::Refused(neutral, why), of: Any }
}

const fn harmless(name: &'static str, at: Endpoint, why: &'static str) -> Known {
    Known { name, at, fate: Fate::Harmless(why), of: Any }
}

const NO_TOOLS: &str = "must be none or auto while there are no `tools`";
const FUNCTIONS: &str = "functions, for models whose chat template knows tools";
const CONSTRAINED: &str =
    "is not supported; use response_format, guided_json, guided_regex or guided_grammar";
const GAP: &str = "is not supported: a gap is filled as the model likes";
const BUDGET: &str = "in tokens, for models that think: the thinking is closed there";
const TEXT_ONLY: &str = "is not supported: only text is read and written";
const SAMPLER: &str = "is not supported: this way of sampling is not known here";
const NO_LORA: &str = "is not supported: adapters are not served";
const NO_INSIDES: &str = "is not supported: what the model computes inside is not shown";
const THINK: &str = "for models whose chat template can switch thinking; off for one that thinks and cannot be \
                     switched is refused";
const OF_PENALTY: &str = "only sets how a penalty works that is refused";
const LABEL: &str = "a label for the provider's own records";
const ORDER: &str =
    "says when a request runs, not what is answered; requests run in the order of their arrival";
const CACHE: &str = "says what is kept for later requests; prefixes are always kept while there is room";
const FORM: &str = "only adds reports to the answer";
const MEDIA: &str = "only says how media are read, which are refused";
const SPECULATION: &str = "only sets how fast the same tokens come";
const DISAGGREGATED: &str = "is not supported: prefill and decode run in one place";
const ANTHROPICS_OWN: &str = "only Anthropic's servers edit a conversation; here the model reads all of it";
const AS_TRAINED: &str = "is not supported: scores and vectors are as the checkpoint says";
const ON_LISTS: &str = "a string or a list";
const PROVIDER: &str = "chooses among a provider's own servers";

/// The rows, sorted by name.
pub const KNOWN: &[Known] = &[
    refused("activation", POOLED, &[Is(true)], AS_TRAINED),
    harmless("adaptive_decay", BOTH, "only sets how `adaptive_target` works, which is refused"),
    refused("adaptive_target", BOTH, &[Number(-1.0)], SAMPLER),
    done("add_generation_prompt", CHAT).of(Bool),
    done("add_special_tokens", CHAT | TEXT | EMBEDDINGS).of(Bool),
    refused("allowed_token_ids", BOTH, &[], "is not supported; use logit_bias"),
    harmless("anthropic_beta", MESSAGES, "names of features, which are told by their own fields"),
    harmless("anthropic_version", MESSAGES, "the format's version, of which there is one"),
    refused("audio", BOTH, &[], TEXT_ONLY),
    harmless("backend_sampling", BOTH, SPECULATION),
    refused("bad_words", BOTH, &[], "is not supported; use logit_bias"),
    done_if("best_of", TEXT, "must equal `n`").of(Integer(1, UNBOUNDED)),
    harmless("betas", MESSAGES, "names of features, which are told by their own fields"),
    refused("bootstrap_host", BOTH, &[], DISAGGREGATED),
    refused("bootstrap_port", BOTH, &[], DISAGGREGATED),
    refused("bootstrap_room", BOTH, &[], DISAGGREGATED),
    harmless("cache_control", MESSAGES, CACHE),
    harmless("cache_prompt", BOTH, CACHE),
    harmless(
        "cache_salt",
        BOTH | POOLED,
        "keeps callers' prompt caches apart; a cache hit never changes an answer",
    ),
    refused("chat_format", BOTH, &[], "is not supported: the checkpoint's own format is used"),
    refused("chat_template", BOTH, &[], "is not supported: the checkpoint's own template is used"),
    done_if("chat_template_kwargs", CHAT, "variables of the template; for thinking see the row `thinking`")
        .of(Object),
    refused("container", MESSAGES, &[], "is for Anthropic's own servers"),
    harmless("context_management", MESSAGES, ANTHROPICS_OWN),
    done("continue_final_message", CHAT).of(Bool),
    refused("custom_logit_processor", BOTH, &[], SAMPLER),
    harmless("custom_params", BOTH, "only sets how `custom_logit_processor` works, which is refused"),
    done_if("data_1", SCORE, ON_LISTS).of(Shape("OneOrMoreTexts")),
    done_if("data_2", SCORE, ON_LISTS).of(Shape("OneOrMoreTexts")),
    harmless("data_parallel_rank", BOTH, ORDER),
    done_if("dimensions", EMBEDDINGS, "for models that were trained to have their vectors cut")
        .of(Integer(1, UNBOUNDED)),
    done_if("documents", CHAT, "for models whose chat template reads them").of(List),
    done("documents", RERANK).of(Shapes("RerankDocument")),
    done_if("documents", SCORE, ON_LISTS).of(Shape("OneOrMoreTexts")),
    harmless("dry_allowed_length", BOTH, OF_PENALTY),
    harmless("dry_base", BOTH, OF_PENALTY),
    refused("dry_multiplier", BOTH, &[Number(0.0)], SAMPLER),
    harmless("dry_penalty_last_n", BOTH, OF_PENALTY),
    harmless("dry_sequence_breakers", BOTH, OF_PENALTY),
    harmless("dynatemp_exponent", BOTH, "only sets how `dynatemp_range` works, which is refused"),
    refused("dynatemp_range", BOTH, &[Number(0.0)], SAMPLER),
    refused("early_stopping", BOTH, &[Is(false)], "is not supported: there is no beam search"),
    done_if("ebnf", BOTH, "as llama.cpp's GBNF is written").of(Text),
    done("echo", TEXT).of(Bool),
    refused("echo", CHAT, &[Is(false)], "is not supported in chat; use /v1/completions"),
    refused("embed_dtype", EMBEDDINGS, &[Word("float32")], "is not supported: vectors have 32-bit floats"),
    refused("embedding_type", EMBEDDINGS, &[Word("float")], "is not supported; use encoding_format"),
    refused("embedding_types", EMBEDDINGS, &[], "is not supported; use encoding_format"),
    done_if("enable_thinking", CHAT, THINK).of(Bool),
    done_if("encoding_format", EMBEDDINGS, "float or base64").of(OneOf(&["float", "base64"])),
    refused(
        "endianness",
        EMBEDDINGS,
        &[Word("native"), Word("little")],
        "is not supported: the lowest byte is first",
    ),
    harmless("extra_key", BOTH, "splits a cache whose hits change no answer"),
    refused("format", BOTH, &[], "is Ollama's name; use response_format"),
    done("frequency_penalty", BOTH).of(Between(-2.0, 2.0)),
    refused("function_call", CHAT, &[Word("none"), Word("auto")], "is not supported: only text is generated"),
    refused("functions", BOTH, &[], "is not supported: only text is generated"),
    done_if("grammar", BOTH, "in llama.cpp's GBNF").of(Text),
    refused(
        "grammar_lazy",
        BOTH,
        &[Is(false)],
        "is not supported: a grammar holds from the answer's first word on",
    ),
    refused(
        "grammar_triggers",
        BOTH,
        &[],
        "is not supported: a grammar holds from the answer's first word on",
    ),
    done("guided_choice", CHAT | TEXT).of(Texts),
    refused("guided_choice", INFILL, &[], GAP),
    harmless("guided_decoding_backend", BOTH, "there is one"),
    done_if("guided_grammar", CHAT | TEXT, "in llguidance's Lark syntax, or in GBNF").of(Text),
    refused("guided_grammar", INFILL, &[], GAP),
    done("guided_json", CHAT | TEXT).of(Shape("JsonSchema")),
    refused("guided_json", INFILL, &[], GAP),
    done("guided_regex", CHAT | TEXT).of(Text),
    refused("guided_regex", INFILL, &[], GAP),
    harmless("guided_whitespace_pattern", BOTH, "white space in JSON is bounded as it is"),
    harmless("id_slot", BOTH, ORDER),
    done("ignore_eos", BOTH).of(Bool),
    refused("image_data", BOTH, &[], TEXT_ONLY),
    refused("images", BOTH, &[], TEXT_ONLY),
    done("include_reasoning", CHAT).of(Bool),
    done("include_stop_str_in_output", BOTH).of(Bool),
    harmless("inference_geo", MESSAGES, PROVIDER),
    done("input", EMBEDDINGS).of(Shape("EmbeddingsInput")),
    done("input_extra", INFILL).of(Shapes("InfillFile")),
    done("input_prefix", INFILL).of(Text),
    done("input_suffix", INFILL).of(Text),
    done_if(
        "input_type",
        EMBEDDINGS,
        "query or document: what the checkpoint wants before such texts is put there",
    )
    .of(OneOf(&["query", "document"])),
    done_if("instruction", RERANK | SCORE, "for Qwen3-Reranker").of(Text),
    done_if("items", SCORE, ON_LISTS).of(Shape("OneOrMoreTexts")),
    done("json_schema", BOTH).of(Shape("JsonSchema")),
    harmless("keep_alive", BOTH, "a model stays loaded as long as its server runs"),
    refused("kv_transfer_params", BOTH, &[EmptyObject], DISAGGREGATED),
    refused("late_chunking", EMBEDDINGS, &[Is(false)], "is not supported: each text is embedded by itself"),
    refused("length_penalty", BOTH, &[Number(1.0)], "is not supported: there is no beam search"),
    done("logit_bias", BOTH).of(Shape("LogitBias")),
    refused("logit_processors", BOTH, &[], SAMPLER),
    refused("logits_processors", BOTH, &[], SAMPLER),
    done("logprobs", CHAT).of(Bool),
    done("logprobs", TEXT).of(Integer(0, 20)),
    refused("lora", BOTH, &[], NO_LORA),
    refused("lora_path", BOTH, &[], NO_LORA),
    refused("max_chunks_per_doc", RERANK, &[Number(1.0)], "is not supported; use max_tokens_per_doc"),
    done("max_completion_tokens", BOTH).of(Integer(1, UNBOUNDED)),
    harmless("max_dynamic_patch", BOTH, MEDIA),
    done("max_tokens", CHAT | INFILL | MESSAGES).of(Integer(1, UNBOUNDED)),
    done("max_tokens", TEXT).of(Integer(0, UNBOUNDED)),
    done("max_tokens_per_doc", RERANK).of(Integer(1, UNBOUNDED)),
    refused("mcp_servers", MESSAGES, &[], "is for Anthropic's own servers"),
    harmless("media_io_kwargs", BOTH, MEDIA),
    done("messages", CHAT).of(Shapes("ChatMessage")),
    done("messages", MESSAGES).of(Shapes("MessageParam")),
    done_if("metadata", ALL | POOLED, "tags of usage records; `task` and `budget` for routes").of(Object),
    harmless("min_dynamic_patch", BOTH, MEDIA),
    refused("min_keep", BOTH, &[Number(0.0), Number(1.0)], SAMPLER),
    done("min_p", BOTH).of(Between(0.0, 1.0)),
    done("min_tokens", BOTH).of(Integer(0, UNBOUNDED)),
    refused("mirostat", BOTH, &[Number(0.0)], SAMPLER),
    harmless("mirostat_eta", BOTH, "only sets how `mirostat` works, which is refused"),
    harmless("mirostat_tau", BOTH, "only sets how `mirostat` works, which is refused"),
    harmless("mm_processor_kwargs", BOTH | POOLED, MEDIA),
    done_if("modalities", CHAT, "must be [\"text\"]").of(Texts),
    done("model", ALL | POOLED).of(Text),
    harmless("models", BOTH, PROVIDER),
    refused("multimodal_data", BOTH, &[], TEXT_ONLY),
    done("n", CHAT | TEXT).of(Integer(1, 128)),
    done_if("n", INFILL, "must be 1").of(Integer(1, 1)),
    refused("n_cmpl", BOTH, &[Number(1.0)], "is not supported; use n"),
    refused("n_discard", BOTH, &[Number(0.0)], "is not supported: no part of a prompt is dropped"),
    refused("n_indent", CHAT | TEXT, &[Number(0.0)], SAMPLER),
    harmless(
        "n_indent",
        INFILL,
        "a hint of editors' plugins that is not followed: a filling is indented as the model does it",
    ),
    harmless("n_keep", BOTH, "only says what of a prompt stays when a part is dropped, and none is"),
    refused("n_predict", CHAT | TEXT, &[Number(-1.0)], "is not supported; use max_tokens"),
    done("n_predict", INFILL).of(Integer(-1, UNBOUNDED)),
    refused("n_probs", BOTH, &[Number(0.0)], "is not supported; use logprobs"),
    refused("no_stop_trim", BOTH, &[Is(false)], "is not supported; use include_stop_str_in_output"),
    done_if("normalize", EMBEDDINGS, "false only where the model's vectors are of any length").of(Bool),
    refused("normalized", EMBEDDINGS, &[Is(true)], "is not supported; use normalize"),
    refused("options", BOTH, &[EmptyObject], "is Ollama's: send its fields on their own"),
    done_if("output_config", MESSAGES, "`effort` as thinking below; `format` with a JSON schema")
        .of(Shape("OutputConfig")),
    refused("output_dimension", EMBEDDINGS, &[], "is not supported; use dimensions"),
    refused("output_dtype", EMBEDDINGS, &[Word("float")], "is not supported; use encoding_format"),
    done_if("output_format", MESSAGES, "the `format` of `output_config` by its older name")
        .of(Shape("OutputFormat")),
    done("parallel_tool_calls", CHAT).of(Bool),
    refused("parse_tool_calls", CHAT, &[Is(true)], "is not supported: calls are always told as calls"),
    refused("penalty_prompt", BOTH, &[], SAMPLER),
    refused("plugins", BOTH, &[], "is for OpenRouter's own servers"),
    refused("post_sampling_probs", BOTH, &[Is(false)], "is not supported: logprobs are the model's own"),
    refused("prediction", BOTH, &[], "is not supported"),
    done("presence_penalty", BOTH).of(Between(-2.0, 2.0)),
    harmless("priority", BOTH | POOLED, ORDER),
    done("prompt", TEXT).of(Shape("Prompt")),
    done("prompt", INFILL).of(Text),
    harmless("prompt_cache_key", BOTH, CACHE),
    harmless("prompt_cache_retention", BOTH, CACHE),
    refused("prompt_embeds", BOTH, &[], "is not supported: a prompt is text or token ids"),
    refused("prompt_logprobs", BOTH, &[], "is not supported; use /v1/completions with echo and logprobs"),
    harmless("provider", BOTH, PROVIDER),
    done_if("queries", SCORE, ON_LISTS).of(Shape("OneOrMoreTexts")),
    done("query", RERANK).of(Text),
    refused("rank_fields", RERANK, &[], "is not supported: the field `text` of a document is read"),
    done_if("reasoning", CHAT, THINK).of(Shape("ReasoningSwitch")),
    done_if("reasoning_budget", CHAT, BUDGET).of(Integer(-1, UNBOUNDED)),
    done_if("reasoning_budget_tokens", CHAT, BUDGET).of(Integer(-1, UNBOUNDED)),
    done_if("reasoning_effort", CHAT, THINK).of(Text),
    done_if("reasoning_format", CHAT, "auto or deepseek: apart from the text; none: in it")
        .of(OneOf(&["auto", "deepseek", "none"])),
    done("regex", CHAT | TEXT).of(Text),
    refused("regex", INFILL, &[], GAP),
    harmless("repeat_last_n", BOTH, OF_PENALTY),
    refused(
        "repeat_penalty",
        BOTH,
        &[Number(1.0)],
        "is not supported; use repetition_penalty, which looks at all of the text",
    ),
    refused("repetition_detection", BOTH, &[], "is not supported"),
    done("repetition_penalty", BOTH).of(Above(0.0, f64::INFINITY)),
    harmless("request_id", BOTH | POOLED, "the header x-request-id names a request"),
    refused("response_fields", CHAT | TEXT, &[], "is not supported: answers have OpenAI's form"),
    harmless("response_fields", INFILL, FORM),
    done_if("response_format", CHAT | TEXT, "text, json_object or json_schema").of(Shape("ResponseFormat")),
    refused("response_format", INFILL, &[], GAP),
    done("resumable", CHAT).of(Bool),
    done("resume_token_ids", CHAT).of(List),
    harmless("return_cached_tokens_details", BOTH, FORM),
    done_if("return_documents", RERANK, "true by default").of(Bool),
    refused("return_hidden_states", BOTH, &[Is(false)], NO_INSIDES),
    harmless("return_meta_info", BOTH, FORM),
    harmless("return_progress", BOTH, FORM),
    refused("return_routed_experts", BOTH, &[Is(false)], NO_INSIDES),
    done("return_token_ids", CHAT | TEXT).of(Bool),
    refused("return_tokens", BOTH, &[Is(false)], "is not supported; use return_token_ids"),
    done("return_tokens_as_token_ids", CHAT | TEXT).of(Bool),
    harmless("rid", BOTH, "the header x-request-id names a request"),
    harmless("route", BOTH, PROVIDER),
    harmless("routed_dp_rank", BOTH, ORDER),
    harmless("safety_identifier", BOTH, LABEL),
    refused("samplers", CHAT | TEXT, &[], "is not supported: the order of samplers is fixed"),
    harmless(
        "samplers",
        INFILL,
        "a hint of editors' plugins that is not followed: a filling is drawn by temperature, top_k, top_p and min_p",
    ),
    refused("sampling_seed", BOTH, &[], "is not supported; use seed"),
    done("seed", BOTH).of(Bits),
    done("separate_reasoning", CHAT).of(Bool),
    harmless("service_tier", ALL, PROVIDER),
    refused("session_params", BOTH, &[EmptyObject], "is not supported: a request has all of its prompt"),
    done("skip_special_tokens", BOTH).of(Bool),
    refused("softmax", POOLED, &[Is(true)], AS_TRAINED),
    harmless("spaces_between_special_tokens", BOTH, "special tokens are written as the tokenizer has them"),
    harmless("speculative.n_max", BOTH, SPECULATION),
    harmless("speculative.n_min", BOTH, SPECULATION),
    harmless("speculative.p_min", BOTH, SPECULATION),
    harmless("speed", MESSAGES, "says how fast Anthropic's servers answer"),
    done("stop", BOTH).of(Shape("Stop")),
    refused("stop_regex", BOTH, &[], "is not supported; use stop"),
    done("stop_sequences", MESSAGES).of(Texts),
    done("stop_token_ids", BOTH).of(TokenIds),
    harmless("store", BOTH, "nothing of an answer is kept here"),
    done("stream", ALL).of(Bool),
    done("stream_options", BOTH).of(Shape("StreamOptions")),
    harmless("stream_reasoning", BOTH, "reasoning streams as text does"),
    refused("structural_tag", BOTH, &[], CONSTRAINED),
    done_if("structured_outputs", CHAT | TEXT, "json, json_object, regex, choice or grammar")
        .of(Shape("StructuredOutputs")),
    refused("structured_outputs", INFILL, &[EmptyObject], GAP),
    done_if("suffix", TEXT, "for models that know fill-in-the-middle").of(Text),
    done("system", MESSAGES).of(Shape("SystemPrompt")),
    refused("system", BOTH, &[], "is a field of /v1/messages; send a message with role system"),
    refused(
        "t_max_predict_ms",
        CHAT | TEXT,
        &[Number(0.0), Number(-1.0)],
        "is not supported; use max_tokens",
    ),
    harmless(
        "t_max_predict_ms",
        INFILL,
        "a hint of editors' plugins that is not followed: a filling is bounded by its tokens",
    ),
    refused("t_max_prompt_ms", CHAT | TEXT, &[Number(0.0), Number(-1.0)], "is not supported"),
    harmless(
        "t_max_prompt_ms",
        INFILL,
        "a hint of editors' plugins that is not followed: a prompt is computed whole",
    ),
    done("temperature", ALL).of(Between(0.0, 2.0)),
    refused("template", BOTH, &[], "is Ollama's name: the checkpoint's own template is used"),
    done_if("text_1", SCORE, ON_LISTS).of(Shape("OneOrMoreTexts")),
    done_if("text_2", SCORE, ON_LISTS).of(Shape("OneOrMoreTexts")),
    refused("tfs_z", BOTH, &[Number(1.0)], SAMPLER),
    refused("think", BOTH, &[], "is Ollama's name; use enable_thinking"),
    done_if("thinking", CHAT | MESSAGES, THINK).of(Shape("Thinking")),
    done_if("thinking_budget", CHAT, BUDGET).of(Integer(-1, UNBOUNDED)),
    done_if("thinking_budget_tokens", CHAT, BUDGET).of(Integer(-1, UNBOUNDED)),
    harmless("thinking_forced_open", CHAT, "the prompt itself says whether reasoning is open"),
    done_if("thinking_token_budget", CHAT, BUDGET).of(Integer(-1, UNBOUNDED)),
    harmless("timings_per_token", BOTH, FORM),
    done_if("tool_choice", CHAT, NO_TOOLS).of(Shape("ToolChoice")),
    done_if("tool_choice", MESSAGES, NO_TOOLS).of(Shape("MessagesToolChoice")),
    done_if("tools", CHAT, FUNCTIONS).of(Shapes("Tool")),
    done_if("tools", MESSAGES, FUNCTIONS).of(Shapes("MessagesTool")),
    refused("top_a", BOTH, &[Number(0.0)], SAMPLER),
    done("top_k", ALL).of(Integer(-1, UNBOUNDED)),
    done("top_logprobs", CHAT).of(Integer(0, 20)),
    done_if("top_n", RERANK, "0: all").of(Integer(0, UNBOUNDED)),
    refused("top_n_sigma", BOTH, &[Number(-1.0), Number(0.0)], SAMPLER),
    done("top_p", ALL).of(Above(0.0, 1.0)),
    refused("transforms", BOTH, &[], "is for OpenRouter's own servers"),
    refused("truncate_prompt_tokens", BOTH, &[], "is not supported: a prompt that is too long is an error"),
    done_if("truncate_prompt_tokens", POOLED, "-1: to what the model reads").of(Integer(-1, UNBOUNDED)),
    refused("truncation_side", POOLED, &[Word("right")], "is not supported: texts are cut from behind"),
    refused("typical_p", BOTH, &[Number(1.0)], SAMPLER),
    harmless("usage", BOTH, FORM),
    refused("use_activation", POOLED, &[Is(true)], AS_TRAINED),
    harmless("use_audio_in_video", BOTH, MEDIA),
    refused("use_beam_search", BOTH, &[Is(false)], "is not supported: there is no beam search"),
    harmless("user", BOTH | POOLED, LABEL),
    harmless("user_profile_id", MESSAGES, LABEL),
    harmless("verbose", BOTH, FORM),
    refused(
        "verbosity",
        BOTH,
        &[Word("medium")],
        "is not supported: say in the prompt how long the answer should be",
    ),
    refused("vllm_xargs", BOTH, &[EmptyObject], "is not supported"),
    refused("web_search_options", BOTH, &[], "is not supported: nothing is searched"),
    refused("xtc_probability", BOTH, &[Number(0.0)], SAMPLER),
    harmless("xtc_threshold", BOTH, "only sets how `xtc_probability` works, which is refused"),
];

static BY_NAME: LazyLock<HashMap<&str, Vec<&Known>>> = LazyLock::new(|| {
    let mut rows = HashMap::<_, Vec<_>>::new();
    KNOWN.iter().for_each(|row| rows.entry(row.name).or_default().push(row));
    rows
});

/// Refuses a body that has a field which its endpoint cannot do, or which is another endpoint's.
pub fn check(fields: &Fields<'_>, at: Endpoint) -> Result<(), BadField> {
    for (name, value) in fields.map() {
        let Some(rows) = BY_NAME.get(name.as_str()) else { continue };
        let here = rows.iter().find(|row| row.at & at != 0);
        match here.map(|row| &row.fate) {
            Some(Fate::Done(_) | Fate::Harmless(_)) => {}
            _ if asks_nothing(value) => {}
            Some(Fate::Refused(neutral, _)) if neutral.iter().any(|it| it.is(value)) => {}
            Some(Fate::Refused(_, why)) => return Err(BadField::unsupported(fields.path(name), *why)),
            None if rows.iter().all(|row| matches!(row.fate, Fate::Harmless(_))) => {}
            None => {
                let there = rows.iter().fold(0, |at, row| at | row.at);
                let paths = ENDPOINTS.iter().filter(|(at, _)| at & there != 0).map(|(_, path)| *path);
                let why = format!("is a field of {}, not of this", paths.collect::<Vec<_>>().join(" and "));
                return Err(BadField::unsupported(fields.path(name), why));
            }
        }
    }
    Ok(())
}

/// null, an empty list, an empty string.
fn asks_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

/// The rows as a table in Markdown.
pub fn table() -> String {
    let mut out = String::from("| field | where | |\n| --- | --- | --- |\n");
    for row in KNOWN {
        let at = ["chat", "completions", "infill", "messages", "embeddings", "rerank", "score"];
        let at = ENDPOINTS.iter().zip(at).filter(|((at, _), _)| at & row.at != 0).map(|(_, name)| name);
        let at = at.collect::<Vec<_>>().join(", ");
        let fate = match &row.fate {
            Fate::Done("") => "done".to_owned(),
            Fate::Done(bounds) => format!("done: {bounds}"),
            Fate::Harmless(why) => format!("harmless: {why}"),
            Fate::Refused(neutral, why) => {
                let mut neutral: Vec<String> = neutral
                    .iter()
                    .map(|value| match value {
                        Number(number) => format!("`{number}`"),
                        Is(on) => format!("`{on}`"),
                        Word(word) => format!("`{word}`"),
                        EmptyObject => "`{}`".to_owned(),
                    })
                    .collect();
                neutral.sort();
                let but =
                    if neutral.is_empty() { String::new() } else { format!(", but {}", neutral.join(", ")) };
                format!("refused{but}: {}", why.strip_prefix("is ").unwrap_or(why))
            }
        };
        let _ = writeln!(out, "| `{}` | {at} | {fate} |", row.name);
    }
    out
}

/// The schema of an endpoint's request: what is done, and what is harmless. A field that is refused is not
/// there; upstreams may know it all the same, as they may know fields that are nobody's here.
pub fn schema(at: Endpoint) -> Value {
    let mut properties = Map::new();
    for row in KNOWN.iter().filter(|row| row.at & at != 0) {
        let (mut schema, what) = match &row.fate {
            Fate::Done(what) => (row.of.schema(), *what),
            Fate::Harmless(why) => (json!({}), *why),
            Fate::Refused(..) => continue,
        };
        if required(at).contains(&row.name) {
            not_null(&mut schema);
        }
        let what =
            if matches!(row.fate, Fate::Harmless(_)) { format!("No effect: {what}") } else { what.into() };
        if !what.is_empty() {
            schema["description"] = what.into();
        }
        properties.insert(row.name.into(), schema);
    }
    json!({"type": "object", "required": required(at), "properties": properties})
}

/// Takes null out of a schema's types, and the empty list, which is as little.
fn not_null(schema: &mut Value) {
    if let Some(first) = schema.pointer("/type/0").cloned() {
        schema["type"] = first;
    } else if let Some(first) = schema.pointer("/anyOf/0").cloned() {
        *schema = first;
    }
    if schema["type"] == "array" {
        schema["minItems"] = 1.into();
    }
}
