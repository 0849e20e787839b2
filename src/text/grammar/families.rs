//! How each family's calls are written, for grammars: the parser's formats ([`ToolFormat`]) in the form that the chat
//! templates show.

use super::{Arguments, CallFormat, CallTexts};
use crate::text::ToolFormat;

impl CallFormat {
    /// That of a family.
    pub fn of(format: ToolFormat) -> Self {
        match format {
            ToolFormat::Pythonic => Self::Pythonic,
            ToolFormat::Harmony => Self::Channels,
            format => Self::Texts(CallTexts::of(format)),
        }
    }
}

impl CallTexts {
    /// Of a family whose calls are texts.
    fn of(format: ToolFormat) -> Self {
        let json = |before_name: &str, after_name: &str, after_arguments: &str, between_calls: &str| Self {
            before_name: before_name.to_owned(),
            after_name: after_name.to_owned(),
            after_arguments: after_arguments.to_owned(),
            between_calls: between_calls.to_owned(),
            ..Self::default()
        };
        let tagged = |before_key: &str, after_key: &str, after_value: &str| Arguments::Tagged {
            before_key: before_key.to_owned(),
            after_key: after_key.to_owned(),
            after_json_key: after_key.to_owned(),
            after_value: after_value.to_owned(),
        };
        let dsml = |section: &str| Self {
            begin_all: format!("<｜DSML｜{section}>\n"),
            end_all: format!("</｜DSML｜{section}>"),
            arguments: Arguments::Tagged {
                before_key: "<｜DSML｜parameter name=\"".to_owned(),
                after_key: "\" string=\"true\">".to_owned(),
                after_json_key: "\" string=\"false\">".to_owned(),
                after_value: "</｜DSML｜parameter>\n".to_owned(),
            },
            ..json("<｜DSML｜invoke name=\"", "\">\n", "</｜DSML｜invoke>\n", "")
        };
        match format {
            ToolFormat::Hermes => {
                json("<tool_call>\n{\"name\": \"", "\", \"arguments\": ", "}\n</tool_call>", "\n")
            }
            ToolFormat::LlamaJson => json("{\"name\": \"", "\", \"parameters\": ", "}", "; "),
            ToolFormat::DeepSeekV3 | ToolFormat::DeepSeekR1 => Self {
                begin_all: "<｜tool▁calls▁begin｜>".to_owned(),
                end_all: "<｜tool▁calls▁end｜>".to_owned(),
                ..json(
                    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
                    "\n```json\n",
                    "\n```<｜tool▁call▁end｜>",
                    "\n",
                )
            },
            ToolFormat::DeepSeekV31 => Self {
                begin_all: "<｜tool▁calls▁begin｜>".to_owned(),
                end_all: "<｜tool▁calls▁end｜>".to_owned(),
                ..json("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "")
            },
            ToolFormat::KimiK2 => Self {
                begin_all: "<|tool_calls_section_begin|>".to_owned(),
                end_all: "<|tool_calls_section_end|>".to_owned(),
                numbered: Some(":".to_owned()),
                ..json(
                    "<|tool_call_begin|>functions.",
                    "<|tool_call_argument_begin|>",
                    "<|tool_call_end|>",
                    "",
                )
            },
            ToolFormat::QwenXml => Self {
                arguments: tagged("<parameter=", ">\n", "\n</parameter>\n"),
                ..json("<tool_call>\n<function=", ">\n", "</function>\n</tool_call>", "\n")
            },
            ToolFormat::MiniMaxM2 => Self {
                begin_all: "<minimax:tool_call>\n".to_owned(),
                end_all: "</minimax:tool_call>".to_owned(),
                arguments: tagged("<parameter name=\"", "\">", "</parameter>\n"),
                ..json("<invoke name=\"", "\">\n", "</invoke>\n", "")
            },
            ToolFormat::Glm4 => Self {
                arguments: tagged("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"),
                ..json("<tool_call>", "\n", "</tool_call>", "\n")
            },
            ToolFormat::DeepSeekV32 => dsml("function_calls"),
            ToolFormat::DeepSeekV4 => dsml("tool_calls"),
            ToolFormat::Mistral => json("[TOOL_CALLS]", "[ARGS]", "", ""),
            ToolFormat::MistralList => Self {
                begin_all: "[TOOL_CALLS][".to_owned(),
                end_all: "]".to_owned(),
                ..json("{\"name\": \"", "\", \"arguments\": ", "}", ", ")
            },
            ToolFormat::Pythonic | ToolFormat::Harmony => Self::default(),
        }
    }
}
