//! Which family's way an answer is written in.

use super::harmony::OPEN_REASONING;

/// How a model family writes reasoning and calls: found from its chat template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerFormat {
    /// How reasoning is set apart from the answer; `None`: the model writes none.
    pub reasoning: Option<ReasoningFormat>,
    /// How calls of tools are written; `None`: the model makes none.
    pub tools: Option<ToolFormat>,
}

/// How calls of tools are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolFormat {
    /// `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen2.5, Qwen3, Granite 4.
    Hermes,
    /// `{"name": ..., "parameters": {...}}`: Llama 3.x.
    LlamaJson,
    /// `<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME` and fenced JSON: DeepSeek V3.
    DeepSeekV3,
    /// `<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>`: DeepSeek V3.1.
    DeepSeekV31,
    /// As V3's, with what its distillations misspell: DeepSeek R1.
    DeepSeekR1,
    /// `<｜DSML｜function_calls><｜DSML｜invoke name="NAME"><｜DSML｜parameter name="KEY" string="true">VALUE...`: DeepSeek
    /// V3.2.
    DeepSeekV32,
    /// As V3.2's, in a section that is named `tool_calls`: DeepSeek V4.
    DeepSeekV4,
    /// `<|tool_call_begin|>functions.NAME:N<|tool_call_argument_begin|>{...}<|tool_call_end|>`: Kimi K2.
    KimiK2,
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`: Qwen3-Coder,
    /// Qwen3.5, Nemotron 3, Seed-OSS.
    QwenXml,
    /// `<minimax:tool_call><invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>...`.
    MiniMaxM2,
    /// `<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`: GLM-4.5 and later.
    Glm4,
    /// `[TOOL_CALLS]NAME[ARGS]{...}`: Mistral's since Devstral and Magistral (tokenizers v11 and later).
    Mistral,
    /// `[TOOL_CALLS][{"name": ..., "arguments": {...}}]`: Mistral's before them (tokenizers v1 to v7).
    MistralList,
    /// `[NAME(KEY=VALUE)]`, Python literals: Llama 3.2 and 4, LFM2.
    Pythonic,
    /// Messages to functions: gpt-oss.
    Harmony,
}

/// How reasoning is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReasoningFormat {
    /// `<think>...</think>`: DeepSeek R1 and V3.1, Qwen3, GLM-4.x, MiniMax-M2, Kimi K2 Thinking.
    Think,
    /// `<seed:think>...</seed:think>`: Seed-OSS.
    SeedThink,
    /// `[THINK]...[/THINK]`: Magistral, Ministral 3.
    BracketThink,
    /// The channel `analysis`: gpt-oss.
    Harmony,
}

impl AnswerFormat {
    /// By the words of a chat template's source: a family's template writes earlier turns with the same
    /// markers that its model answers with.
    pub fn of_template(source: &str) -> Self {
        Self {
            reasoning: ReasoningFormat::ALL.into_iter().find(|format| format.is_in(source)),
            tools: ToolFormat::ALL.into_iter().find(|format| format.is_in(source)),
        }
    }

    /// The spellings that the parser needs to see. A tokenizer may count them among its special tokens, so
    /// that text without special tokens would lack them.
    pub fn markers(&self) -> Vec<&'static str> {
        let mut markers: Vec<_> = self.reasoning.map_or_else(Vec::new, |format| format.markers().to_vec());
        for marker in self.tools.map_or(&[][..], ToolFormat::markers) {
            if !markers.contains(marker) {
                markers.push(marker);
            }
        }
        markers
    }
}

fn has_harmony(source: &str) -> bool {
    source.contains("<|channel|>") && source.contains("<|message|>")
}

const HARMONY: &[&str] =
    &["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"];
const DEEPSEEK_CALLS: &str = "<｜tool▁calls▁begin｜>";
const DSML: &str = "｜DSML｜";
const MISTRAL_CALLS: &str = "[TOOL_CALLS]";
const KIMI_SECTION: &str = "<|tool_calls_section_begin|>";

impl ToolFormat {
    /// All of them, the ones with the rarest words first: [`AnswerFormat::of_template`] takes the first.
    pub const ALL: [Self; 15] = [
        Self::Harmony,
        Self::MiniMaxM2,
        Self::KimiK2,
        Self::DeepSeekV32,
        Self::DeepSeekV4,
        Self::Mistral,
        Self::MistralList,
        Self::DeepSeekR1,
        Self::DeepSeekV3,
        Self::DeepSeekV31,
        Self::Glm4,
        Self::QwenXml,
        Self::Hermes,
        Self::Pythonic,
        Self::LlamaJson,
    ];

    /// What vLLM calls it (`--tool-call-parser`), where it does.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hermes => "hermes",
            Self::LlamaJson => "llama3_json",
            Self::DeepSeekV3 => "deepseek_v3",
            Self::DeepSeekV31 => "deepseek_v31",
            Self::DeepSeekR1 => "deepseek_r1",
            Self::DeepSeekV32 => "deepseek_v32",
            Self::DeepSeekV4 => "deepseek_v4",
            Self::Mistral => "mistral",
            Self::MistralList => "mistral_list",
            Self::KimiK2 => "kimi_k2",
            Self::QwenXml => "qwen3_coder",
            Self::MiniMaxM2 => "minimax_m2",
            Self::Glm4 => "glm45",
            Self::Pythonic => "pythonic",
            Self::Harmony => "openai",
        }
    }

    /// The format of that name; what vLLM parses in another way, but is written the same, has its names too.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "llama4_json" => Self::LlamaJson,
            "llama4_pythonic" | "lfm2" => Self::Pythonic,
            "qwen3_xml" | "seed_oss" => Self::QwenXml,
            "glm47" => Self::Glm4,
            "harmony" | "gpt_oss" => Self::Harmony,
            name => return Self::ALL.into_iter().find(|format| format.name() == name),
        })
    }

    fn is_in(self, source: &str) -> bool {
        let has = |word: &str| source.contains(word);
        match self {
            // Others write lists, or tags of their own, within tags of this name.
            Self::Hermes => {
                has("<tool_call>") && (has("{\"name\":") || has("{\\\"name\\\":")) && !has("<tool_calls>[")
            }
            Self::LlamaJson => has("\"parameters\": dictionary"),
            Self::DeepSeekR1 => has(DEEPSEEK_CALLS) && has("```json") && has("</think>"),
            Self::DeepSeekV3 => has(DEEPSEEK_CALLS) && has("```json"),
            Self::DeepSeekV31 => has(DEEPSEEK_CALLS),
            Self::DeepSeekV32 => has(DSML) && has("function_calls>"),
            Self::DeepSeekV4 => has(DSML) && has("tool_calls>"),
            Self::Mistral => has(MISTRAL_CALLS) && has("[ARGS]"),
            Self::MistralList => has(MISTRAL_CALLS),
            Self::KimiK2 => has("<|tool_call_argument_begin|>"),
            Self::QwenXml => has("<function=") && has("<parameter="),
            Self::MiniMaxM2 => has("<minimax:tool_call>") && has("<invoke name="),
            Self::Glm4 => has("<tool_call>") && has("<arg_key>"),
            Self::Pythonic => has("func_name1(params_name1=") || has("<|tool_call_start|>["),
            Self::Harmony => has_harmony(source),
        }
    }

    /// A marker that ends reasoning which was not closed. Kimi K2 Thinking goes on to its calls so, and the
    /// marker is a token that no text can be mistaken for.
    pub(super) fn ends_reasoning(self) -> Option<&'static str> {
        (self == Self::KimiK2).then_some(KIMI_SECTION)
    }

    /// Whether its chat templates take ids of calls of nine letters and digits alone.
    pub fn has_short_ids(self) -> bool {
        matches!(self, Self::Mistral | Self::MistralList)
    }

    fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>", "</tool_call>"],
            Self::LlamaJson => &["<|python_tag|>"],
            Self::DeepSeekV3 | Self::DeepSeekV31 | Self::DeepSeekR1 => &[
                DEEPSEEK_CALLS,
                "<｜tool▁call▁begin｜>",
                "<｜tool▁sep｜>",
                "<｜tool▁call▁end｜>",
                "<｜tool▁calls▁end｜>",
            ],
            Self::DeepSeekV32 | Self::DeepSeekV4 => &[
                DSML,
                "<｜DSML｜function_calls>",
                "<｜DSML｜tool_calls>",
                "<｜DSML｜invoke name=",
                "<｜DSML｜parameter name=",
                "</｜DSML｜parameter>",
                "</｜DSML｜invoke>",
                "</｜DSML｜function_calls>",
                "</｜DSML｜tool_calls>",
            ],
            Self::Mistral | Self::MistralList => &[MISTRAL_CALLS, "[CALL_ID]", "[ARGS]"],
            Self::KimiK2 => &[
                KIMI_SECTION,
                "<|tool_call_begin|>",
                "<|tool_call_argument_begin|>",
                "<|tool_call_end|>",
                "<|tool_calls_section_end|>",
            ],
            Self::QwenXml => &[
                "<tool_call>",
                "<function=",
                "<parameter=",
                "</parameter>",
                "</function>",
                "</tool_call>",
                "<seed:tool_call>",
                "</seed:tool_call>",
            ],
            Self::MiniMaxM2 => &[
                "<minimax:tool_call>",
                "<invoke name=",
                "<parameter name=",
                "</parameter>",
                "</invoke>",
                "</minimax:tool_call>",
            ],
            Self::Pythonic => &[
                "<|python_start|>",
                "<|python_end|>",
                "<|python_tag|>",
                "<|tool_call_start|>",
                "<|tool_call_end|>",
            ],
            Self::Harmony => HARMONY,
            Self::Glm4 => {
                &["<tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "</tool_call>"]
            }
        }
    }
}

impl ReasoningFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Harmony, Self::SeedThink, Self::BracketThink, Self::Think];

    /// What it is called in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Think => "think",
            Self::SeedThink => "seed_think",
            Self::BracketThink => "bracket_think",
            Self::Harmony => "harmony",
        }
    }

    /// The format of that name, or of vLLM's name for a family that writes it (`--reasoning-parser`).
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "qwen3" | "deepseek_r1" | "deepseek_v3" | "deepseek_v31" | "glm45" | "kimi_k2" | "minimax_m2" => {
                Self::Think
            }
            "seed_oss" => Self::SeedThink,
            "mistral" => Self::BracketThink,
            "openai" | "gpt_oss" | "openai_gptoss" => Self::Harmony,
            name => return Self::ALL.into_iter().find(|format| format.name() == name),
        })
    }

    /// The text that opens a block, and the one that closes it.
    pub fn tags(self) -> (&'static str, &'static str) {
        match self {
            Self::Think => ("<think>", "</think>"),
            Self::SeedThink => ("<seed:think>", "</seed:think>"),
            Self::BracketThink => ("[THINK]", "[/THINK]"),
            Self::Harmony => (OPEN_REASONING, "<|end|>"),
        }
    }

    fn is_in(self, source: &str) -> bool {
        match self {
            Self::Harmony => has_harmony(source),
            _ => self.markers().iter().any(|marker| source.contains(marker)),
        }
    }

    fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Think => &["<think>", "</think>"],
            Self::SeedThink => &["<seed:think>", "</seed:think>"],
            Self::BracketThink => &["[THINK]", "[/THINK]"],
            Self::Harmony => HARMONY,
        }
    }
}

/// Whether a rendered prompt ends inside an open reasoning block.
///
/// Only an opening tag that is the prompt's last word counts: a tag further up may be a user's text.
pub fn reasoning_is_open(format: &AnswerFormat, prompt: &str) -> bool {
    let prompt = prompt.trim_end();
    match format.reasoning {
        None => false,
        Some(reasoning) => prompt.ends_with(reasoning.tags().0),
    }
}
