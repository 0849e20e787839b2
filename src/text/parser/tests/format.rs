//! Formats by the words of chat templates: excerpts of the families' own.

use super::*;

/// Name, excerpt, reasoning, tools.
const EXCERPTS: &[(&str, &str, Option<ReasoningFormat>, Option<ToolFormat>)] = &[
    (
        "Qwen2.5",
        r#"{{- "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n" }}"#,
        None,
        Some(ToolFormat::Hermes),
    ),
    (
        "Qwen3",
        r#"{%- set content = content.split('</think>')[-1].lstrip('\n') %}{{- '<tool_call>\n{"name": "' }}"#,
        Some(ReasoningFormat::Think),
        Some(ToolFormat::Hermes),
    ),
    (
        "Qwen3-Coder",
        r"{{- '\n<tool_call>\n<function=' + tool_call.name + '>\n' }}{{- '<parameter=' + args_name + '>\n' }}",
        None,
        Some(ToolFormat::QwenXml),
    ),
    (
        "Seed-OSS",
        "<seed:think>{{ '\n<seed:tool_call>\n<function=' + name + '>\n<parameter=' }}",
        Some(ReasoningFormat::SeedThink),
        Some(ToolFormat::QwenXml),
    ),
    (
        "DeepSeek V3",
        "{{'<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\n' + '```json' + '\n'",
        None,
        Some(ToolFormat::DeepSeekV3),
    ),
    (
        "DeepSeek V3.1",
        "{%- if '</think>' in content -%}{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'+ tool['function']['name'] + '<｜tool▁sep｜>' + tool['function']['arguments'] | tojson",
        Some(ReasoningFormat::Think),
        Some(ToolFormat::DeepSeekV31),
    ),
    (
        "DeepSeek R1",
        r"{% if '</think>' in content %}{{'<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\n' + '```json' + '\n'",
        Some(ReasoningFormat::Think),
        Some(ToolFormat::DeepSeekR1),
    ),
    (
        "DeepSeek V3.2",
        r"{%- set dsml_token = '｜DSML｜' -%}{{- '\n\n<' + dsml_token + 'function_calls>\n' -}}",
        None,
        Some(ToolFormat::DeepSeekV32),
    ),
    (
        "DeepSeek V4",
        r"{%- set dsml_token = '｜DSML｜' -%}{{- '\n\n<' + dsml_token + 'tool_calls>\n' -}}",
        None,
        Some(ToolFormat::DeepSeekV4),
    ),
    (
        "Mistral Nemo",
        r#"{{- "[TOOL_CALLS][" }}{%- set out = tool_call.function|tojson %}"#,
        None,
        Some(ToolFormat::MistralList),
    ),
    (
        "Magistral",
        "{{- '[THINK]' + block['thinking'] + '[/THINK]' }}{{- '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}",
        Some(ReasoningFormat::BracketThink),
        Some(ToolFormat::Mistral),
    ),
    (
        "Llama 3.1",
        r#"{{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.' }}"#,
        None,
        Some(ToolFormat::LlamaJson),
    ),
    (
        "Llama 3.2, pythonic",
        "you MUST put it in the format of [func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]",
        None,
        Some(ToolFormat::Pythonic),
    ),
    (
        "LFM2.5",
        r#"{{- "<|tool_call_start|>[" + (tool_calls | join(", ")) + "]<|tool_call_end|>" -}}"#,
        None,
        Some(ToolFormat::Pythonic),
    ),
    (
        "MiniMax-M2",
        "{{- '<think>' ~ '\n' }}{%- set toolcall_begin_token = '<minimax:tool_call>' -%}{{- '<invoke name=\"' + tool_call.name + '\">' }}",
        Some(ReasoningFormat::Think),
        Some(ToolFormat::MiniMaxM2),
    ),
    (
        "Kimi K2",
        "<|tool_calls_section_begin|><|tool_call_begin|>{{ formatted_id }}<|tool_call_argument_begin|>{{ arguments }}<|tool_call_end|>",
        None,
        Some(ToolFormat::KimiK2),
    ),
    (
        "GLM-4.6",
        "{{ '\n<think></think>' }}{{ '\n<tool_call>' + tc.name }}<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }}</arg_value>",
        Some(ReasoningFormat::Think),
        Some(ToolFormat::Glm4),
    ),
    (
        "gpt-oss",
        "{{- \"<|start|>assistant<|channel|>analysis<|message|>\" + message.thinking + \"<|end|>\" }}",
        Some(ReasoningFormat::Harmony),
        Some(ToolFormat::Harmony),
    ),
    (
        "Apriel 1.5",
        "within <tool_call></tool_call> XML tags: <tool_calls>[{\"name\": <function-name-1>",
        None,
        None,
    ),
    (
        "MiniMax-M3",
        "{{- ns_token + '<tool_call>' }}{{- ns_token + '<invoke name=\"' + tool_call.name }}",
        None,
        None,
    ),
    (
        "ChatML",
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}",
        None,
        None,
    ),
];

#[test]
fn formats_are_found_by_the_words_of_chat_templates() {
    for (name, excerpt, reasoning, tools) in EXCERPTS {
        let format = AnswerFormat { reasoning: *reasoning, tools: *tools };
        assert_eq!(AnswerFormat::of_template(excerpt), format, "{name}");
    }
    for format in ToolFormat::ALL {
        assert!(EXCERPTS.iter().any(|(.., tools)| *tools == Some(format)), "{}", format.name());
    }
    for format in ReasoningFormat::ALL {
        assert!(EXCERPTS.iter().any(|(_, _, reasoning, _)| *reasoning == Some(format)), "{}", format.name());
    }
}

#[test]
fn names_of_formats_are_read_back() {
    for format in ToolFormat::ALL {
        assert_eq!(ToolFormat::from_name(format.name()), Some(format));
    }
    for format in ReasoningFormat::ALL {
        assert_eq!(ReasoningFormat::from_name(format.name()), Some(format));
    }
    assert_eq!((ToolFormat::from_name("x"), ReasoningFormat::from_name("x")), (None, None));
    assert_eq!(ToolFormat::from_name("gpt_oss"), Some(ToolFormat::Harmony));
}

#[test]
fn markers_are_those_of_reasoning_and_of_calls() {
    let format = AnswerFormat::of_template("<think> <tool_call>\n{\"name\": ");
    assert_eq!(format.markers(), ["<think>", "</think>", "<tool_call>", "</tool_call>"]);
    assert!(AnswerFormat::default().markers().is_empty());
    let harmony = AnswerFormat::of_template("<|channel|><|message|>").markers();
    assert_eq!(harmony.iter().filter(|marker| **marker == "<|channel|>").count(), 1);
}

#[test]
fn no_marker_begins_or_lies_within_another() {
    for format in ToolFormat::ALL {
        let mut markers = AnswerFormat { reasoning: None, tools: Some(format) }.markers();
        // A token of DeepSeek's that stands within its tags; no parser looks for it alone.
        markers.retain(|marker| *marker != "｜DSML｜");
        for a in &markers {
            assert!(markers.iter().all(|b| a == b || !a.contains(b)), "{a} of {}", format.name());
        }
    }
}
