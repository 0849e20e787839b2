//! What bad input gets, and the wire form of our own models' answers against committed transcripts
//! (`tests/api/golden`; `UPDATE_GOLDENS=1` rewrites them).

mod history;
mod pooled;

use super::completions::{self, CompletionEncoder, CompletionRequest, Encoded, Format, Prompt};
use super::text_answer::{Collected, Encoder, Head};
use super::tokenize::TokenizeRequest;
use crate::gateway::chat::{
    AnswerHead, ChatEvent, Dialect, EncodeOptions, StreamEncoder, TokenScore, TokenUsage, encode_whole,
};
use crate::gateway::target::local::{
    AnswerOptions, Delta, LocalRequest, ModelView, StreamOptions, TextEvent, Usage,
};
use crate::gateway::target::registry::GenerationDefaults;
use crate::gateway::wire::fields::{BadField, Fields};
use crate::gateway::wire::sse::Frames;
use crate::protocol::{FinishReason, SamplingDefaults};
use crate::text::AnswerFormat;
use serde_json::{Value, json};
use std::path::Path;

const VOCAB: usize = 1000;

fn with_view<T>(defaults: &GenerationDefaults, read: impl FnOnce(ModelView<'_>) -> T) -> T {
    read(ModelView {
        vocab: VOCAB,
        eos: &[2, 7],
        defaults,
        template: None,
        answer_format: AnswerFormat::default(),
    })
}

fn chat(body: Value) -> Result<LocalRequest, BadField> {
    with_view(&GenerationDefaults::default(), |view| LocalRequest::read(&Fields::root(&body)?, view))
}

fn completion(body: Value) -> Result<CompletionRequest, BadField> {
    with_view(&GenerationDefaults::default(), |view| CompletionRequest::read(&Fields::root(&body)?, view))
}

/// A valid chat request with these fields over it.
fn hello(more: Value) -> Value {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn refused<T: std::fmt::Debug>(body: &Value, got: Result<T, BadField>, param: &str, says: &str) {
    let error = got.expect_err(&format!("{body} should be refused"));
    assert_eq!(error.param, param, "{body}: {error}");
    assert!(error.to_string().contains(says), "{body}: {error} does not say {says}");
}

#[test]
fn shared_fields_out_of_type_or_range_are_named() {
    for (more, param, says) in [
        (json!({"temperature": -0.1}), "temperature", "between 0 and 2, got -0.1"),
        (json!({"temperature": 2.5}), "temperature", "between 0 and 2"),
        (json!({"temperature": "hot"}), "temperature", "a number, got a string"),
        (json!({"temperature": 1e300}), "temperature", "between 0 and 2"),
        (json!({"top_p": 0}), "top_p", "greater than 0"),
        (json!({"top_p": 1.1}), "top_p", "at most 1"),
        (json!({"top_k": -2}), "top_k", "at least -1, got -2"),
        (json!({"top_k": 1.5}), "top_k", "an integer, got 1.5"),
        (json!({"min_p": -1}), "min_p", "between 0 and 1"),
        (json!({"metadata": "a"}), "metadata", "an object, got a string"),
        (json!({"presence_penalty": 3}), "presence_penalty", "between -2 and 2"),
        (json!({"frequency_penalty": -3}), "frequency_penalty", "between -2 and 2"),
        (json!({"repetition_penalty": 0}), "repetition_penalty", "greater than 0"),
        (json!({"logit_bias": [1]}), "logit_bias", "an object, got an array"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias.x", "integers below 1000"),
        (json!({"logit_bias": {"1000": 1}}), "logit_bias.1000", "below 1000"),
        (json!({"logit_bias": {"5": 101}}), "logit_bias.5", "between -100 and 100, got 101"),
        (json!({"seed": 1.5}), "seed", "an integer"),
        (json!({"stop": ""}), "stop", "non-empty"),
        (json!({"stop": 3}), "stop", "non-empty string"),
        (json!({"stop": ["a", ""]}), "stop[1]", "non-empty"),
        (json!({"stop": ["a", null]}), "stop[1]", "non-empty"),
        (json!({"stop": vec!["x"; 17]}), "stop", "at most 16 strings, got 17"),
        (json!({"stop_token_ids": [1, -1]}), "stop_token_ids[1]", "a token id"),
        (json!({"stop_token_ids": [1000]}), "stop_token_ids[0]", "below 1000"),
        (json!({"max_tokens": 0}), "max_tokens", "got 0"),
        (json!({"max_tokens": -5}), "max_tokens", "got -5"),
        (json!({"max_tokens": "9"}), "max_tokens", "an integer, got a string"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens", "got 0"),
        (json!({"max_tokens": 5, "max_completion_tokens": 6}), "max_completion_tokens", "equal max_tokens"),
        (json!({"min_tokens": 9, "max_tokens": 5}), "min_tokens", "at most max_tokens (5), got 9"),
        (json!({"ignore_eos": 1}), "ignore_eos", "true or false, got 1"),
        (json!({"n": 0}), "n", "between 1 and 128, got 0"),
        (json!({"n": 129}), "n", "between 1 and 128"),
        (json!({"stream": "yes"}), "stream", "true or false"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options", "when `stream` is true"),
        (
            json!({"stream": true, "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
            "true",
        ),
        (json!({"tools": [{"type": "function"}]}), "tools", "knows no tools"),
        (json!({"functions": [{}]}), "functions", "not supported"),
        (json!({"tool_choice": "required"}), "tool_choice", "no `tools`"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type", "json_schema"),
        (json!({"response_format": {}}), "response_format.type", "required"),
        (json!({"modalities": ["text", "audio"]}), "modalities", "text"),
        (json!({"audio": {}}), "audio", "only text"),
        (json!({"grammar_lazy": true}), "grammar_lazy", "not supported"),
        (json!({"ebnf": 5}), "ebnf", "a string, got 5"),
        (json!({"guided_json": 5}), "guided_json", "a JSON schema, got 5"),
        (json!({"logits_processors": ["x"]}), "logits_processors", "not supported"),
        (json!({"use_beam_search": true}), "use_beam_search", "no beam search"),
        (json!({"seed": 1e30}), "seed", "an integer, got"),
        (json!({"max_tokens": u64::MAX}), "max_tokens", "is too large: 18446744073709551615"),
        (json!({"max_tokens": i64::MIN}), "max_tokens", "must be at least 1, got -9223372036854775808"),
        (json!({"top_k": 1_i64 << 40}), "top_k", "is too large: 1099511627776"),
    ] {
        // What is for chat alone is refused as a completion's.
        let only_chat = ["modalities", "tools", "tool_choice"].contains(&param);
        let says_there = if only_chat { "/v1/chat/completions" } else { says };
        let body = hello(more);
        refused(&body, chat(body.clone()), param, says);
        let (mut body, says) = (body, says_there);
        body.as_object_mut().unwrap().shift_remove("messages");
        body["prompt"] = "hi".into();
        refused(&body, completion(body.clone()), param, says);
    }
}

#[test]
fn messages_are_checked_one_by_one() {
    let user = json!({"role": "user", "content": "hi"});
    for (messages, param, says) in [
        (json!([]), "messages", "at least one"),
        (json!("hi"), "messages", "an array, got a string"),
        (json!(null), "messages", "required"),
        (json!([1]), "messages[0]", "an object, got 1"),
        (json!([user, {"content": "x"}]), "messages[1].role", "required"),
        (json!([user, {"role": "wizard", "content": "x"}]), "messages[1].role", "one of system"),
        (json!([user, {"role": 5, "content": "x"}]), "messages[1].role", "a string"),
        (json!([user, user, {"role": "user"}]), "messages[2].content", "required"),
        (json!([{"role": "user", "content": null}]), "messages[0].content", "required"),
        (json!([{"role": "tool", "content": 5}]), "messages[0].content", "a string or a list"),
        (json!([{"role": "user", "content": 3}]), "messages[0].content", "a string or a list"),
        (json!([{"role": "user", "content": ["x"]}]), "messages[0].content[0]", "an object"),
        (json!([{"role": "user", "content": [{"text": "x"}]}]), "messages[0].content[0].type", "required"),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]}]),
            "messages[0].content[1].type",
            "text only",
        ),
        (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text", "required"),
        (
            json!([{"role": "assistant", "tool_calls": [{}]}]),
            "messages[0].tool_calls[0].function",
            "required",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}]),
            "messages[0].tool_calls[0].function.arguments",
            "JSON object, or an object, got 5",
        ),
    ] {
        let body = json!({"model": "m", "messages": messages});
        refused(&body, chat(body.clone()), param, says);
    }
    for (more, param, says) in [
        (json!({"top_logprobs": 5}), "top_logprobs", "needs `logprobs`"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "between 0 and 20"),
        (json!({"logprobs": 5}), "logprobs", "true or false"),
        (json!({"echo": true}), "echo", "/v1/completions"),
        (json!({"chat_template_kwargs": 1}), "chat_template_kwargs", "an object"),
        (json!({"chat_template": "x"}), "chat_template", "own template"),
        (
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message",
            "exclude",
        ),
    ] {
        let body = hello(more);
        refused(&body, chat(body.clone()), param, says);
    }
    let body = json!([]);
    refused(&body, chat(body.clone()), "body", "a JSON object");
}

#[test]
fn prompts_are_checked() {
    for (more, param, says) in [
        (json!({}), "prompt", "required"),
        (json!({"prompt": 5}), "prompt", "a string, a list"),
        (json!({"prompt": []}), "prompt", "empty"),
        (json!({"prompt": [null]}), "prompt", "a string, a list"),
        (json!({"prompt": ["a", 1]}), "prompt[1]", "a string"),
        (json!({"prompt": [1, "a"]}), "prompt[1]", "a token id"),
        (json!({"prompt": [1, -4]}), "prompt[1]", "a token id"),
        (json!({"prompt": [1, 1000]}), "prompt[1]", "below 1000"),
        (json!({"prompt": [[1], []]}), "prompt[1]", "non-empty"),
        (json!({"prompt": [[1], [2, 1.5]]}), "prompt[1][1]", "a token id"),
        (json!({"prompt": vec!["x"; 129]}), "prompt", "at most 128 prompts"),
        (json!({"prompt": vec!["x"; 65], "n": 2}), "n", "at most 128, got 130"),
        (json!({"prompt": [1], "suffix": "y"}), "suffix", "a `prompt` of text"),
        (json!({"prompt": "x", "best_of": 2}), "best_of", "equal n"),
        (json!({"prompt": "x", "logprobs": 21}), "logprobs", "between 0 and 20"),
        (json!({"prompt": "x", "logprobs": true}), "logprobs", "an integer, got true"),
        (json!({"prompt": "x", "echo": 1}), "echo", "true or false"),
    ] {
        refused(&more, completion(more.clone()), param, says);
    }
    for (more, param) in [
        (json!({}), "prompt"),
        (json!({"prompt": 1}), "prompt"),
        (json!({"prompt": "x", "messages": []}), "prompt"),
        (json!({"messages": []}), "messages"),
        (json!({"prompt": "x", "add_special_tokens": 2}), "add_special_tokens"),
    ] {
        refused(&more, Fields::root(&more).and_then(|f| TokenizeRequest::read(&f, None)), param, "");
    }
}

#[test]
fn prompts_come_in_four_forms() {
    let prompts = |prompt: Value| completion(json!({ "prompt": prompt })).unwrap().prompts;
    let text = |s: &str| Prompt::Text(s.into());
    assert_eq!(prompts(json!("a")), [text("a")]);
    assert_eq!(prompts(json!(["a", ""])), [text("a"), text("")]);
    assert_eq!(prompts(json!([1, 2])), [Prompt::Ids(vec![1, 2])]);
    assert_eq!(prompts(json!([[1], [2, 3]])), [Prompt::Ids(vec![1]), Prompt::Ids(vec![2, 3])]);
}

#[test]
fn all_supported_fields_arrive() {
    let got = chat(hello(json!({
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "presence_penalty": 1,
        "frequency_penalty": -1, "repetition_penalty": 1.1, "logit_bias": {"5": -100}, "seed": -1,
        "max_completion_tokens": 9, "min_tokens": 2, "stop": ["a", "b"], "stop_token_ids": [3], "n": 2,
        "logprobs": true, "top_logprobs": 4, "stream": true, "stream_options": {"include_usage": true},
        "include_stop_str_in_output": true, "skip_special_tokens": false, "return_token_ids": true,
        "return_tokens_as_token_ids": true,
        "user": "u", "metadata": {"a": "b"}, "store": true, "an_unknown_field": {}, "tool_choice": "none",
        "tools": [{"type": "function"}], "response_format": {"type": "text"}, "modalities": ["text"],
    })))
    .unwrap()
    .params;
    let s = &got.sampling;
    assert_eq!((s.temperature, s.top_p, s.top_k, s.min_p), (0.5, 0.9, 40, 0.05));
    assert_eq!((s.presence_penalty, s.frequency_penalty, s.repetition_penalty), (1.0, -1.0, 1.1));
    assert_eq!((s.logit_bias.as_slice(), s.seed), (&[(5, -100.0)][..], u64::MAX));
    assert_eq!((got.max_tokens, s.min_tokens, got.n, s.logprobs), (Some(9), 2, 2, Some(4)));
    assert_eq!(s.stop_tokens, [2, 3, 7]);
    assert_eq!(got.stops, ["a", "b"]);
    assert!(got.include_stop && !got.skip_special && got.return_token_ids && got.tokens_as_ids);
    let options = StreamOptions { include_usage: true, continuous_usage_stats: false };
    assert_eq!(got.stream, Some(options));

    let ignoring = chat(hello(json!({"ignore_eos": true, "stop_token_ids": [3], "top_k": -1}))).unwrap();
    assert_eq!(
        (ignoring.params.sampling.stop_tokens.as_slice(), ignoring.params.sampling.top_k),
        (&[3][..], 0)
    );
    let echo = completion(json!({"prompt": "x", "echo": true, "logprobs": 0, "best_of": 1})).unwrap();
    assert_eq!((echo.params.sampling.logprobs, echo.params.sampling.prompt_logprobs), (Some(0), Some(0)));
}

#[test]
fn null_is_absent_and_absent_is_the_checkpoints_default() {
    let nulls = chat(hello(json!({
        "temperature": null, "stop": null, "max_tokens": null, "n": null, "stream": null, "seed": null,
        "tools": null, "response_format": null, "logprobs": null, "stream_options": null, "functions": null,
    })))
    .unwrap()
    .params;
    assert_eq!((nulls.sampling.temperature, nulls.max_tokens, nulls.n, nulls.stream), (1.0, None, 1, None));

    let sampling = SamplingDefaults {
        temperature: Some(0.6),
        top_p: Some(0.95),
        top_k: Some(20),
        min_p: Some(0.1),
        repetition_penalty: Some(1.05),
    };
    let defaults = GenerationDefaults { sampling, ..GenerationDefaults::default() };
    let read = |defaults: &GenerationDefaults, more| {
        let body = hello(more);
        with_view(defaults, |view| LocalRequest::read(&Fields::root(&body).unwrap(), view))
            .unwrap()
            .params
            .sampling
    };
    let s = read(&defaults, json!({}));
    assert_eq!((s.temperature, s.top_p, s.top_k, s.min_p, s.repetition_penalty), (0.6, 0.95, 20, 0.1, 1.05));
    let s = read(&defaults, json!({"temperature": 0, "top_k": 0, "top_p": 1}));
    assert_eq!((s.temperature, s.top_p, s.top_k), (0.0, 1.0, 0));
    let sampling = SamplingDefaults { temperature: Some(0.0), ..sampling };
    let greedy = GenerationDefaults { sampling, ..defaults };
    assert_eq!(read(&greedy, json!({})).temperature, 0.0);
    assert_eq!(read(&greedy, json!({"temperature": 1.5})).temperature, 1.5);
    assert_ne!(read(&greedy, json!({})).seed, read(&greedy, json!({})).seed);
}

#[test]
fn messages_reach_the_template_as_it_knows_them() {
    let body = json!({"messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "n"},
        {"role": "assistant", "content": null, "refusal": null,
         "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ], "chat_template_kwargs": {"a_variable": false}});
    let got = chat(body).unwrap();
    assert_eq!(
        Value::from(got.render.messages),
        json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "a\nb", "name": "n"},
            {"role": "assistant", "content": "",
             "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]},
            {"role": "tool", "tool_call_id": "1", "content": "2"},
        ])
    );
    assert!(got.render.add_generation_prompt && !got.render.continue_final_message && !got.add_special);
    assert_eq!(got.render.extra["a_variable"], false);
    let open = chat(hello(json!({"continue_final_message": true}))).unwrap().render;
    assert!(!open.add_generation_prompt && open.continue_final_message);
}

fn golden(name: &str, got: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/golden").join(name);
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, got).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(got, expected, "{name}");
}

fn head(prefix: &str) -> Head {
    Head { id: format!("{prefix}-0123"), created: 1_700_000_000, model: "tiny/model".into() }
}

fn score(text: &str, bytes: &[u8], logprob: f32) -> TokenScore {
    let other = ("~".to_owned(), b"~".to_vec(), f32::NEG_INFINITY);
    let top = vec![(text.to_owned(), bytes.to_vec(), logprob), other];
    // As of a tokenizer whose special tokens look like this one's.
    let chars = if text.starts_with("<|") { 0 } else { bytes.iter().filter(|b| **b >> 6 != 0b10).count() };
    TokenScore { text: text.into(), bytes: bytes.to_vec(), chars, logprob: Some(logprob), top }
}

/// One prompt of two tokens and two choices: the first has a character split over two tokens
/// and ends at EOS, the second ends for its length with text that was held back.
fn events(scored: bool) -> Vec<TextEvent> {
    let scores = |list: Vec<TokenScore>| if scored { list } else { Vec::new() };
    let first = TokenScore { text: "He".into(), bytes: b"He".to_vec(), chars: 2, ..TokenScore::default() };
    let delta = |choice, text: &str, ids: &[u32], list| Delta {
        choice,
        text: text.into(),
        ids: ids.to_vec(),
        scores: scores(list),
        ..Delta::default()
    };
    vec![
        TextEvent::Prompt { prompt: 0, scores: scores(vec![first, score("llo", b"llo", -2.25)]) },
        TextEvent::Delta(delta(
            0,
            " \"wörld\"\n",
            &[11],
            vec![score(" \"wörld\"\n", " \"wörld\"\n".as_bytes(), -0.1)],
        )),
        TextEvent::Delta(delta(1, " you", &[12], vec![score(" you", b" you", -0.2)])),
        TextEvent::Delta(delta(
            0,
            "é",
            &[13, 14],
            vec![score("\u{fffd}", &[0xc3], -0.3), score("\u{fffd}", &[0xa9], -0.4)],
        )),
        TextEvent::Finished(
            delta(0, "", &[2], vec![score("<|im_end|>", b"<|im_end|>", -0.5)]),
            FinishReason::Stop,
        ),
        TextEvent::Finished(delta(1, "ST", &[15], vec![score("ST", b"ST", -0.6)]), FinishReason::Length),
    ]
}

const USAGE: Usage = Usage { prompt_tokens: 2, completion_tokens: 6, cached_tokens: 1, reasoning_tokens: 0 };

fn transcript(mut encoder: impl Encoder, scored: bool) -> String {
    let mut frames = Frames::default();
    for event in events(scored) {
        encoder.event(event, &USAGE, &mut frames);
    }
    encoder.end(&USAGE, &mut frames);
    frames.take()
}

fn collected(scored: bool) -> Collected {
    let mut collected = Collected::new(1, 2);
    events(scored).into_iter().for_each(|event| collected.event(event));
    collected
}

fn format(full: bool) -> Format {
    let prompts = vec![Encoded { ids: vec![8, 9].into(), echo: "Hello".into() }];
    let head = head("cmpl");
    Format { head, logprobs: full, choices_per_prompt: 2, prompts, echo: full, token_ids: full }
}

/// The chat of the same events: how it is told, and what.
fn chat_answer(full: bool) -> (AnswerHead, EncodeOptions, Vec<ChatEvent>) {
    let Head { id, created, model } = head("chatcmpl");
    let head = AnswerHead { id, model, created_unix_s: created };
    let answer_options = AnswerOptions {
        choices: 2,
        logprobs: full,
        ids: full,
        prompt_ids: full.then(|| vec![8, 9].into()),
        continuous_usage: false,
        hides_reasoning: false,
        short_call_ids: false,
    };
    let options = answer_options.options(EncodeOptions { include_usage: full, ..EncodeOptions::default() });
    let mut all = Vec::new();
    events(full).into_iter().for_each(|event| answer_options.events(event, &USAGE, &mut all));
    all.push(ChatEvent::Usage(TokenUsage::from(&USAGE)));
    (head, options, all)
}

#[test]
fn streams_match_their_transcripts() {
    for (full, name) in [(false, "chat_stream.sse"), (true, "chat_stream_full.sse")] {
        let (head, options, events) = chat_answer(full);
        let mut encoder = StreamEncoder::new(Dialect::OpenAi, head, options);
        let mut out = String::new();
        events.iter().for_each(|event| encoder.event(event, &mut out).unwrap());
        encoder.finish(&mut out);
        golden(name, &out);
    }
    let plain = StreamOptions::default();
    golden("completion_stream.sse", &transcript(CompletionEncoder::new(format(false), plain), false));
    let usage = StreamOptions { include_usage: true, continuous_usage_stats: true };
    golden("completion_stream_full.sse", &transcript(CompletionEncoder::new(format(true), usage), true));
}

#[test]
fn whole_answers_match_their_transcripts() {
    fn json(value: &impl serde::Serialize) -> String {
        serde_json::to_string_pretty(value).unwrap() + "\n"
    }
    for full in [false, true] {
        let suffix = if full { "_full" } else { "" };
        let (head, options, events) = chat_answer(full);
        let chat = encode_whole(Dialect::OpenAi, &head, &options, &events).unwrap();
        golden(&format!("chat{suffix}.json"), &json(&chat));
        let (mut all, format) = (collected(full), format(full));
        format.add_echo(&mut all);
        golden(&format!("completion{suffix}.json"), &json(&completions::completion(&format, &all, &USAGE)));
    }
}

#[test]
fn a_bos_that_is_not_in_the_text_takes_no_room() {
    let prompt = ["<s>", "He", "llo"].map(|text| TokenScore { chars: text.len(), ..TokenScore::default() });
    let chars = |text: &str| {
        let mut scores = prompt.to_vec();
        completions::align(&mut scores, text);
        scores.iter().map(|score| score.chars).collect::<Vec<_>>()
    };
    assert_eq!(chars("Hello"), [0, 2, 3], "a prompt of text");
    assert_eq!(chars("<s>Hello"), [3, 2, 3], "a prompt of ids");
}
