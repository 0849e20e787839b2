//! How models write reasoning and calls, by their families' own chat templates: those of the tokenizers and
//! those that llama.cpp tests with (`scripts/fetch_tokenizers.sh`).

use super::{downloaded, family_file, golden, read_json};
use novastack::text::AnswerFormat;

/// What a template says, by the formats' names.
fn format(source: &str) -> (Option<&'static str>, Option<&'static str>) {
    let format = AnswerFormat::of_template(source);
    (format.reasoning.map(|reasoning| reasoning.name()), format.tools.map(|tools| tools.name()))
}

#[test]
fn the_formats_of_answers_are_found_in_the_templates_of_tokenizers() {
    for (family, expected) in [
        ("qwen3", (Some("think"), Some("hermes"))),
        ("qwen2_5", (None, Some("hermes"))),
        ("deepseek_v3", (None, Some("deepseek_v3"))),
        // This one's template knows no tools.
        ("llama3_1", (None, None)),
    ] {
        let Some(path) = family_file(family, "tokenizer_config.json") else { return };
        let config = read_json(&path);
        let template = config["chat_template"].as_str().expect("a template");
        assert_eq!(format(template), expected, "{family}");
    }
    let features = golden("features_chat.json");
    let template = features["r1_style"]["template"].as_str().expect("a template");
    assert_eq!(format(template).0, Some("think"));
}

#[test]
fn the_formats_of_answers_are_found_in_the_templates_of_every_family() {
    let think = Some("think");
    for (name, expected) in [
        ("Qwen-Qwen2.5-7B-Instruct", (None, Some("hermes"))),
        ("Qwen-Qwen3-0.6B", (think, Some("hermes"))),
        ("Qwen-QwQ-32B", (think, Some("hermes"))),
        ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", (None, Some("hermes"))),
        ("ibm-granite-granite-4.0", (None, Some("hermes"))),
        ("Qwen3-Coder", (None, Some("qwen3_coder"))),
        ("Qwen3.5-4B", (think, Some("qwen3_coder"))),
        ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", (think, Some("qwen3_coder"))),
        ("StepFun3.5-Flash", (think, Some("qwen3_coder"))),
        ("ByteDance-Seed-OSS", (Some("seed_think"), Some("qwen3_coder"))),
        ("deepseek-ai-DeepSeek-V3.1", (think, Some("deepseek_v31"))),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", (think, Some("deepseek_r1"))),
        ("llama-cpp-deepseek-r1", (think, Some("deepseek_r1"))),
        ("meta-llama-Llama-3.1-8B-Instruct", (None, Some("llama3_json"))),
        ("meta-llama-Llama-3.2-3B-Instruct", (None, Some("llama3_json"))),
        ("meta-llama-Llama-3.3-70B-Instruct", (None, Some("llama3_json"))),
        ("LFM2.5-8B-A1B", (think, Some("pythonic"))),
        ("MiniMax-M2", (think, Some("minimax_m2"))),
        ("Kimi-K2-Instruct", (None, Some("kimi_k2"))),
        ("Kimi-K2-Thinking", (think, Some("kimi_k2"))),
        ("GLM-4.6", (think, Some("glm45"))),
        ("GLM-4.7-Flash", (think, Some("glm45"))),
        ("openai-gpt-oss-120b", (Some("harmony"), Some("openai"))),
        ("mistralai-Ministral-3-14B-Reasoning-2512", (Some("bracket_think"), None)),
        // Formats of others, some with words in common.
        ("MiniMax-M3", (None, None)),
        ("unsloth-Apriel-1.5", (None, None)),
        ("NVIDIA-Nemotron-Nano-v2", (think, None)),
        ("deepseek-ai-DeepSeek-V3.2", (think, None)),
        ("meetkai-functionary-medium-v3.1", (None, None)),
        ("google-gemma-2-2b-it", (None, None)),
        ("microsoft-Phi-3.5-mini-instruct", (None, None)),
    ] {
        let path = format!("templates/{name}.jinja");
        let Some(path) = downloaded(&path, "run scripts/fetch_tokenizers.sh") else { return };
        let template = std::fs::read_to_string(path).expect("a template");
        assert_eq!(format(&template), expected, "{name}");
    }
}
