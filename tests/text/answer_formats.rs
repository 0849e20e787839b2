//! How models write reasoning and calls, by their families' own chat templates: those of the tokenizers and
//! those that llama.cpp tests with (`scripts/fetch_tokenizers.sh`). What the models answer is what these
//! templates write for earlier turns (`scripts/goldens_answers.py`).

use super::{downloaded, family_file, golden, read_json};
use novastack::text::parser::{Tool, reasoning_is_open};
use novastack::text::{AnswerFormat, AnswerParser, ParsedEvent, ParserOptions};
use serde_json::{Value, json};
use std::sync::Arc;

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
        ("mistralai-Ministral-3-14B-Reasoning-2512", (Some("bracket_think"), Some("mistral"))),
        ("Mistral-Small-3.2-24B-Instruct-2506", (None, Some("mistral"))),
        ("unsloth-mistral-Devstral-Small-2507", (None, Some("mistral"))),
        ("mistralai-Mistral-Nemo-Instruct-2407", (None, Some("mistral_list"))),
        ("deepseek-ai-DeepSeek-V3.2", (think, Some("deepseek_v32"))),
        ("deepseek-ai-DeepSeek-V4", (think, Some("deepseek_v4"))),
        ("deepseek-ai-DeepSeek-V4-Flash-0731", (think, Some("deepseek_v4"))),
        // Formats of others, some with words in common.
        ("MiniMax-M3", (None, None)),
        ("unsloth-Apriel-1.5", (None, None)),
        ("NVIDIA-Nemotron-Nano-v2", (think, None)),
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

/// A template of a tokenizer, or of llama.cpp's.
fn template(name: &str) -> Option<String> {
    if name == "deepseek_v3" {
        let config = read_json(&family_file(name, "tokenizer_config.json")?);
        return Some(config["chat_template"].as_str().expect("a template").into());
    }
    let path = downloaded(&format!("templates/{name}.jinja"), "run scripts/fetch_tokenizers.sh")?;
    Some(std::fs::read_to_string(path).expect("a template"))
}

/// Reasoning, text and calls of an answer in these pieces.
fn parse<'a>(format: &AnswerFormat, options: ParserOptions, pieces: impl Iterator<Item = &'a str>) -> Value {
    let mut parser = AnswerParser::new(format, options);
    let mut events = Vec::new();
    pieces.for_each(|piece| parser.push(piece, &mut events));
    parser.finish(&mut events);
    let (mut reasoning, mut text, mut calls) = (String::new(), String::new(), Vec::new());
    for event in events {
        match event {
            ParsedEvent::Reasoning(piece) => reasoning.push_str(&piece),
            ParsedEvent::Text(piece) => text.push_str(&piece),
            ParsedEvent::Call { name, id, .. } => calls.push((name, id, String::new())),
            ParsedEvent::Arguments { json, .. } => calls.last_mut().expect("a call").2.push_str(&json),
            ParsedEvent::EndCall { .. } => {}
        }
    }
    let calls: Vec<Value> = calls
        .into_iter()
        .enumerate()
        .map(|(at, (name, id, arguments))| {
            let kept = [format!("functions.{name}:{at}"), format!("call0000{at}")];
            assert!(id.is_none_or(|id| kept.contains(&id)), "Kimi's and Mistral's ids are kept");
            json!([name, serde_json::from_str::<Value>(&arguments).expect("JSON")])
        })
        .collect();
    json!({"reasoning": reasoning, "text": text, "calls": calls})
}

#[test]
fn what_the_templates_of_every_family_write_is_read_back() {
    let golden = golden("answers.json");
    let tools: Arc<[Tool]> = golden["tools"]
        .as_array()
        .expect("tools")
        .iter()
        .map(|tool| Tool {
            name: tool["function"]["name"].as_str().expect("a name").into(),
            parameters: tool["function"]["parameters"].clone(),
        })
        .collect();
    let answers = golden["answers"].as_array().expect("answers");
    assert!(answers.len() > 100);
    for answer in answers {
        let word = |field: &str| answer[field].as_str().expect("a text");
        let Some(template) = template(word("template")) else { return };
        let format = AnswerFormat::of_template(&template);
        let options = ParserOptions {
            reasoning_is_open: reasoning_is_open(&format, word("prompt_end")),
            tools: tools.clone(),
            text_is_held: false,
        };
        let expected =
            json!({"reasoning": answer["reasoning"], "text": answer["text"], "calls": answer["calls"]});
        let name = format!("{}, {}: {:?}", word("template"), word("turn"), word("raw"));
        assert_eq!(parse(&format, options.clone(), [word("raw")].into_iter()), expected, "{name}");
        let singles = word("raw").split_inclusive(|_| true);
        assert_eq!(parse(&format, options, singles), expected, "{name}, by single characters");
    }
}
