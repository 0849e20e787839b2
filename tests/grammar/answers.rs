//! Whole answers of a model that knows nothing, in every family's format, read as the gateway reads them: calls that
//! are held are calls with valid arguments, and a text that is held is one of its grammar.

use super::schemas::{Random, valid};
use super::{compiled, tokenizer};
use novastack::protocol::{TokenConstraint, TokenId};
use novastack::text::grammar::{After, AnswerText, CallFormat, Grammar, GrammarCompiler, Tool, ToolCalls};
use novastack::text::{
    AnswerFormat, AnswerParser, ParsedEvent, ParserOptions, ReasoningFormat, Tokenizer, ToolFormat,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Tokens of an answer at the most; one that has not ended by then says nothing.
const TOKENS_MAX: usize = 900;

fn weather() -> Value {
    json!({"type": "object", "properties": {
        "city": {"type": "string", "maxLength": 12}, "note": {"type": ["string", "null"]},
        "unit": {"enum": ["C", "F", "it's"]}, "exact": {"type": "boolean"},
        "days": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 9}, {"type": "null"}]},
        "where": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3}},
        "required": ["city", "exact", "where"], "additionalProperties": false})
}

fn nothing() -> Value {
    json!({"type": "object", "properties": {}, "additionalProperties": false})
}

fn tools() -> Vec<Tool> {
    let tool = |name: &str, parameters: Value| Tool { name: name.to_owned(), parameters, strict: true };
    vec![tool("get_weather", weather()), tool("get", nothing()), tool("get_time", weather())]
}

/// What an answer was made of.
#[derive(Debug, Default)]
struct Answer {
    raw: String,
    text: String,
    reasoning: String,
    calls: Vec<(String, String)>,
}

/// An answer by chance that came to its end.
fn answer(grammar: &Grammar, format: AnswerFormat, after: &After, seed: u64) -> Option<Answer> {
    let factory = compiled(grammar).factory(after).expect("a factory");
    let raw = chance(tokenizer(), factory.constraint(), seed)?;
    let is_open = matches!(after, After::Reasoning { open: None, .. });
    Some(read(&raw, format, is_open, grammar.holds_text()))
}

/// The text of an answer by chance.
fn chance(tokenizer: &Tokenizer, mut constraint: Box<dyn TokenConstraint>, seed: u64) -> Option<String> {
    let mut random = Random(seed);
    let mut bytes = Vec::new();
    let mut mask = vec![0; tokenizer.vocab_size().div_ceil(32)];
    for _ in 0..TOKENS_MAX {
        assert!(constraint.mask(&mut mask).expect("a mask"));
        let tokens = 0..tokenizer.vocab_size() as TokenId;
        let allowed: Vec<_> = tokens.filter(|t| mask[*t as usize / 32] >> (t % 32) & 1 == 1).collect();
        let is_end = |token: &TokenId| tokenizer.eos_ids().contains(token);
        let closes =
            |token: &TokenId| b"\"'})]<>".contains(tokenizer.token_text(*token).1.first().unwrap_or(&0));
        // It likes to come to an end, to close what it has opened, and the markers that were added.
        let liked: Vec<_> = match random.below(4) {
            0 => allowed.iter().copied().filter(is_end).collect(),
            1 => allowed.iter().copied().filter(closes).collect(),
            2 => allowed
                .iter()
                .copied()
                .filter(|token| *token as usize >= super::tokenizer().vocab_size())
                .collect(),
            _ => Vec::new(),
        };
        let among = if liked.is_empty() { &allowed } else { &liked };
        let token = among[random.below(among.len())];
        constraint.accept(token).expect("an allowed token");
        if is_end(&token) {
            return Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        bytes.extend(tokenizer.token_text(token).1);
    }
    None
}

fn read(raw: &str, format: AnswerFormat, reasoning_is_open: bool, text_is_held: bool) -> Answer {
    let tools: Arc<[novastack::text::Tool]> = tools()
        .into_iter()
        .map(|tool| novastack::text::Tool { name: tool.name, parameters: tool.parameters })
        .collect();
    let mut parser = AnswerParser::new(&format, ParserOptions { reasoning_is_open, tools, text_is_held });
    let mut events = Vec::new();
    parser.push(raw, &mut events);
    parser.finish(&mut events);
    let mut answer = Answer { raw: raw.to_owned(), ..Answer::default() };
    for event in events {
        match event {
            ParsedEvent::Text(text) => answer.text.push_str(&text),
            ParsedEvent::Reasoning(text) => answer.reasoning.push_str(&text),
            ParsedEvent::Call { name, .. } => answer.calls.push((name, String::new())),
            ParsedEvent::Arguments { json, .. } => answer.calls.last_mut().expect("a call").1.push_str(&json),
            ParsedEvent::EndCall { .. } => {}
        }
    }
    answer
}

/// Each call is one of an offered tool, with arguments that are valid.
fn calls_are_valid(answer: &Answer) {
    for (name, arguments) in &answer.calls {
        let tool = tools().into_iter().find(|tool| tool.name == *name).expect("an offered tool");
        let value: Value =
            serde_json::from_str(arguments).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
        assert!(valid(&tool.parameters, &tool.parameters, &value), "{arguments}: {:?}", answer.raw);
    }
}

/// A format with the reasoning that its models write.
fn format(tools: ToolFormat) -> AnswerFormat {
    let reasoning = match tools {
        ToolFormat::Harmony => Some(ReasoningFormat::Harmony),
        ToolFormat::LlamaJson | ToolFormat::Pythonic => None,
        _ => Some(ReasoningFormat::Think),
    };
    AnswerFormat { reasoning, tools: Some(tools) }
}

/// Without reasoning, and behind reasoning that the model opens or the prompt has opened.
fn beginnings(format: AnswerFormat) -> Vec<After> {
    let Some((open, close)) = format.reasoning.map(ReasoningFormat::tags) else {
        return vec![After::Nothing];
    };
    let after = |open: Option<&str>, budget| After::Reasoning {
        open: open.map(str::to_owned),
        close: close.to_owned(),
        budget,
    };
    vec![After::Nothing, after(Some(open), Some(6)), after(None, Some(6))]
}

fn grammar(format: ToolFormat, required: bool, parallel: bool, text: AnswerText) -> Grammar {
    let format = CallFormat::of(format);
    Grammar::Tools(Box::new(ToolCalls { tools: tools(), format, required, parallel, text }))
}

#[test]
fn a_required_call_comes_in_every_format() {
    let mut several = 0;
    for tools in ToolFormat::ALL {
        let format = format(tools);
        for parallel in [false, true] {
            let grammar = grammar(tools, true, parallel, AnswerText::None);
            let mut ended = 0;
            for after in beginnings(format) {
                for seed in 0..12 {
                    let Some(answer) = answer(&grammar, format, &after, seed) else { continue };
                    assert!(!answer.calls.is_empty() && answer.text.is_empty(), "{tools:?}: {answer:?}");
                    assert!(parallel || answer.calls.len() == 1, "{tools:?}: {answer:?}");
                    calls_are_valid(&answer);
                    several += usize::from(answer.calls.len() > 1);
                    ended += 1;
                }
            }
            assert!(ended > 5, "{tools:?}: only {ended} answers came to an end");
        }
    }
    assert!(several > 10, "only {several} answers have several calls");
}

#[test]
fn an_answer_is_calls_or_a_text_of_its_grammar_in_every_format() {
    // A document that reads like a call is told apart too.
    let like_a_call = json!({"type": "object", "properties": {"name": {"type": "string"},
        "parameters": {"type": "object", "properties": {"x": {"type": "null"}}, "additionalProperties": false}},
        "required": ["name"], "additionalProperties": false});
    let list = json!({"type": "array", "items": {"enum": ["get", "<tool_call>", true]}, "maxItems": 4});
    let of_definitions = json!({"$ref": "#/$defs/d", "$defs": {"d": like_a_call}});
    let texts = [
        Grammar::JsonObject,
        Grammar::JsonSchema(weather()),
        Grammar::JsonSchema(like_a_call),
        Grammar::JsonSchema(of_definitions),
        Grammar::JsonSchema(list),
        Grammar::Choice(vec!["yes".into(), "[ok]".into(), "<no>".into()]),
        Grammar::Regex("[a-f<\\[{]{1,20}/?".into()),
        Grammar::Lark("start: (WORD \" \")* WORD\nWORD: /[a-c]+/".into()),
    ];
    for tools in ToolFormat::ALL {
        let format = format(tools);
        for held in &texts {
            let grammar = grammar(tools, false, true, AnswerText::Held(held.clone()));
            let (mut texts, mut calls) = (0, 0);
            for after in beginnings(format) {
                for seed in 0..6 {
                    let Some(answer) = answer(&grammar, format, &after, seed) else { continue };
                    if answer.calls.is_empty() {
                        texts += 1;
                        holds(held, &answer);
                    } else {
                        calls += 1;
                        assert!(answer.text.is_empty(), "{tools:?}: {answer:?}");
                        calls_are_valid(&answer);
                    }
                }
            }
            assert!(texts + calls > 1, "{tools:?}, {held:?}: {texts} texts, {calls} calls");
        }
    }
}

#[test]
fn a_document_that_reads_like_a_call_has_no_tools_name() {
    let document = json!({"type": "object", "properties": {"name": {"type": "string"}, "parameters": {}},
        "required": ["name"], "additionalProperties": false});
    let text = AnswerText::Held(Grammar::JsonSchema(document));
    let grammar = grammar(ToolFormat::LlamaJson, false, true, text);
    for (answer, is) in [
        (r#"{"name": "Ada"}"#, true),
        (r#"{"name": "get_"}"#, true),
        (r#"{"name": "", "parameters": 3}"#, true),
        (r#"{"name": "getter", "parameters": {"x": 1}}"#, true),
        (r#"{"name": "get", "parameters": {}}"#, true),
        (r#"{"name":"get","parameters":{}}; {"name": "get", "parameters": {}}"#, true),
        (r#"{"name": "get"}"#, false),
        (r#"{"name": "get", "parameters": {"x": 1}}"#, false),
        (r#"{"name": "get_weather", "parameters": 3}"#, false),
        (r#"{"name": "Ada"}; {"name": "get", "parameters": {}}"#, false),
    ] {
        assert_eq!(super::accepts(&grammar, answer), is, "{answer}");
    }
}

/// With tokens for the markers, no text has them, and reasoning has none but those that close it.
#[test]
fn channels_are_tokens_where_the_model_has_tokens_for_them() {
    let markers =
        ["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>"];
    let tokenizer = super::tokenizer_with(&markers);
    let id = |marker: &str| tokenizer.token_id(marker).expect("a special token");
    let compiler = GrammarCompiler::new(&tokenizer).expect("a compiler");
    let schema = json!({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"],
        "additionalProperties": false});
    let grammar = grammar(ToolFormat::Harmony, false, true, AnswerText::Held(Grammar::JsonSchema(schema)));
    let (open, close) = ReasoningFormat::Harmony.tags();
    let after = After::Reasoning { open: Some(open.into()), close: close.into(), budget: None };
    let factory = compiler.compile(&grammar).expect("a grammar").factory(&after).expect("a factory");
    let mut constraint = factory.constraint();
    let mut mask = vec![0; tokenizer.vocab_size().div_ceil(32)];
    let mut allowed = |constraint: &mut Box<dyn TokenConstraint>| -> Vec<TokenId> {
        assert!(constraint.mask(&mut mask).expect("a mask"));
        (0..tokenizer.vocab_size() as TokenId)
            .filter(|t| mask[*t as usize / 32] >> (t % 32) & 1 == 1)
            .collect()
    };
    let write = |constraint: &mut Box<dyn TokenConstraint>, text: &str| {
        text.bytes().for_each(|byte| constraint.accept(super::byte_token(byte)).expect("text"));
    };
    // The opening text may be spelled out as well: it is found in the bytes.
    let is_marker = |token: &TokenId| *token >= id(markers[0]);
    let first: Vec<_> = allowed(&mut constraint).into_iter().filter(is_marker).collect();
    assert_eq!(first, [id("<|start|>"), id("<|channel|>")]);
    constraint.accept(id("<|channel|>")).expect("a channel");
    write(&mut constraint, "analysis");
    let third: Vec<_> = allowed(&mut constraint).into_iter().filter(is_marker).collect();
    assert_eq!(third, [id("<|message|>")]);
    constraint.accept(id("<|message|>")).expect("a message");
    write(&mut constraint, "hm {");
    let in_reasoning = allowed(&mut constraint);
    let may: Vec<_> = markers.iter().filter(|marker| in_reasoning.contains(&id(marker))).collect();
    assert_eq!(may, [&"<|end|>"], "of the markers");
    constraint.accept(id("<|end|>")).expect("the end of reasoning");
    assert_eq!(allowed(&mut constraint), [id("<|start|>"), id("<|channel|>")]);
    constraint.accept(id("<|start|>")).expect("the next message");
    write(&mut constraint, "assistant");
    constraint.accept(id("<|channel|>")).expect("its channel");
    write(&mut constraint, "final");
    constraint.accept(id("<|message|>")).expect("its text");
    write(&mut constraint, "{\"a\":null}");
    assert!(allowed(&mut constraint).iter().all(|token| tokenizer.eos_ids().contains(token)));
}

/// The same where the model has tokens for its markers, also within tags.
#[test]
fn markers_that_are_tokens_are_held_wherever_they_stand() {
    let document = json!({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
        "additionalProperties": false});
    for (tools, markers) in [
        (ToolFormat::DeepSeekV32, &["｜DSML｜"][..]),
        (ToolFormat::DeepSeekV4, &["｜DSML｜"]),
        (ToolFormat::Mistral, &["[TOOL_CALLS]", "[ARGS]"]),
        (ToolFormat::MistralList, &["[TOOL_CALLS]"]),
        (ToolFormat::Pythonic, &["<|tool_call_start|>", "<|tool_call_end|>"]),
        (ToolFormat::DeepSeekV31, &["<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"]),
    ] {
        let tokenizer = super::tokenizer_with(markers);
        let compiler = GrammarCompiler::new(&tokenizer).expect("a compiler");
        let format = AnswerFormat { reasoning: None, tools: Some(tools) };
        for (required, text) in [
            (true, AnswerText::None),
            (false, AnswerText::Free),
            (true, AnswerText::Free),
            (false, AnswerText::Held(Grammar::JsonSchema(document.clone()))),
        ] {
            let grammar = grammar(tools, required, true, text.clone());
            let compiled = compiler.compile(&grammar).unwrap_or_else(|error| panic!("{tools:?}: {error}"));
            let factory = compiled.factory(&After::Nothing).expect("a factory");
            let (mut ended, mut calls) = (0, 0);
            for seed in 0..12 {
                let Some(raw) = chance(&tokenizer, factory.constraint(), seed) else { continue };
                let answer = read(&raw, format, false, grammar.holds_text());
                calls_are_valid(&answer);
                assert!(!required || !answer.calls.is_empty(), "{tools:?}: {answer:?}");
                if let (AnswerText::Held(held), true) = (&text, answer.calls.is_empty()) {
                    holds(held, &answer);
                }
                ended += 1;
                calls += answer.calls.len();
            }
            assert!(
                ended > 1 && (calls > 0 || !required),
                "{tools:?}, {text:?}: {ended} answers, {calls} calls"
            );
        }
    }
}

/// Whether a text is one of the grammar that it was held to.
fn holds(grammar: &Grammar, answer: &Answer) {
    let text = &answer.text;
    match grammar {
        Grammar::JsonObject | Grammar::JsonSchema(_) => {
            let value: Value =
                serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
            let any = json!({"type": "object"});
            let schema = if let Grammar::JsonSchema(schema) = grammar { schema } else { &any };
            assert!(valid(schema, schema, &value), "{answer:?}");
        }
        grammar => assert!(super::accepts(grammar, text), "{answer:?}"),
    }
}

#[test]
fn a_text_that_is_held_is_one_whatever_it_quotes() {
    let calls = [
        r#"<tool_call>{"name": "get", "arguments": {}}</tool_call>"#,
        "<tool_call><function=get></function></tool_call>",
        "<tool_call>get</tool_call>",
        "<minimax:tool_call><invoke name=\"get\"></invoke></minimax:tool_call>",
        "<|channel|>commentary to=functions.get<|message|>{}<|call|>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "\n[get()]",
    ];
    for tools in ToolFormat::ALL {
        let is_harmony = tools == ToolFormat::Harmony;
        let header = if is_harmony { "<|channel|>final<|message|>" } else { "" };
        for call in calls {
            for text in [json!({"a": call}).to_string(), json!([call]).to_string(), format!("a {call}")] {
                let raw = format!("{header}{text}");
                let answer = read(&raw, AnswerFormat { reasoning: None, tools: Some(tools) }, false, true);
                assert_eq!(
                    (answer.text.as_str(), answer.calls.len()),
                    (text.as_str(), 0),
                    "{tools:?}: {raw}"
                );
            }
        }
    }
    // An object that names a tool, without tags, is a text too where texts are held.
    let bare = r#"{"name": "get", "arguments": {}}"#;
    let hermes = AnswerFormat { reasoning: None, tools: Some(ToolFormat::Hermes) };
    assert_eq!(read(bare, hermes, false, true).text, bare);
    assert_eq!(read(bare, hermes, false, false).calls.len(), 1);
}

#[test]
fn calls_are_held_beside_free_text_in_every_format() {
    for tools in ToolFormat::ALL {
        let format = format(tools);
        let grammar = grammar(tools, false, false, AnswerText::Free);
        let (mut texts, mut calls) = (0, 0);
        for seed in 0..24 {
            let Some(answer) = answer(&grammar, format, &After::Nothing, seed) else { continue };
            calls_are_valid(&answer);
            assert!(answer.calls.len() <= 1, "{tools:?}: {answer:?}");
            if answer.calls.is_empty() { texts += 1 } else { calls += 1 }
        }
        assert!(texts + calls > 5, "{tools:?}: {texts} texts, {calls} calls");
        // What a model would write.
        let call = match tools {
            ToolFormat::Pythonic => Some("Let me see.\n[get()]"),
            ToolFormat::Harmony => Some(
                "<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant<|channel|>commentary \
                 to=functions.get <|constrain|>json<|message|>{}",
            ),
            _ => None,
        };
        if let Some(raw) = call {
            assert!(super::accepts(&grammar, raw), "{tools:?}: {raw}");
            let answer = read(raw, format, false, false);
            assert_eq!((answer.text.as_str(), answer.calls.len()), ("Let me see.", 1), "{answer:?}");
            let other = raw.replace("get", "other");
            assert_eq!(super::accepts(&grammar, &other), tools == ToolFormat::Pythonic, "{tools:?}: {other}");
        }
    }
}

#[test]
fn a_name_that_cannot_be_written_in_python_is_an_error_that_names_it() {
    let refusal = |name: &str, parameters: Value| {
        let tool = Tool { name: name.to_owned(), parameters, strict: false };
        let calls = ToolCalls {
            tools: vec![tool],
            format: CallFormat::Pythonic,
            required: true,
            parallel: false,
            text: AnswerText::None,
        };
        super::compiler().compile(&Grammar::Tools(Box::new(calls))).expect_err("refused").to_string()
    };
    assert!(refusal("2go", nothing()).starts_with("tool \"2go\": cannot be called by this model"));
    let odd = json!({"type": "object", "properties": {"a b": {}}, "required": ["a b"]});
    assert!(refusal("go", odd).starts_with("tool \"go\": its argument \"a b\" cannot be written"));
}
