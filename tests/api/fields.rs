//! The table of every known field, against a real tiny model: what it calls done is accepted, what it
//! refuses is refused by name, and the answer with what it calls harmless is the answer without.

use super::{chat, completion, fill_model, merged, serve};
use crate::support::server::Server;
use novastack::gateway::chat::openai::field_type::FieldType;
use novastack::gateway::chat::openai::known_fields::{
    CHAT, ENDPOINTS, Endpoint, Fate, INFILL, KNOWN, MESSAGES, Neutral, TEXT, table,
};
use serde_json::{Value, json};

/// A value that a done field takes.
fn sample(name: &str, at: Endpoint) -> Value {
    match name {
        "add_generation_prompt"
        | "add_special_tokens"
        | "echo"
        | "ignore_eos"
        | "include_stop_str_in_output"
        | "resumable"
        | "return_token_ids"
        | "return_tokens_as_token_ids"
        | "include_reasoning"
        | "parallel_tool_calls"
        | "separate_reasoning"
        | "skip_special_tokens" => json!(true),
        "stream" | "continue_final_message" | "enable_thinking" => json!(false),
        // Where both are given they are equal.
        "max_completion_tokens" => json!(4),
        "best_of" | "n" | "top_k" | "max_tokens" | "n_predict" | "min_tokens" => json!(1),
        "frequency_penalty" | "presence_penalty" | "repetition_penalty" | "temperature" | "top_p" => {
            json!(0.5)
        }
        "min_p" => json!(0.1),
        "chat_template_kwargs" => json!({"a": 1}),
        "documents" | "tools" | "resume_token_ids" => json!(null),
        "guided_choice" => json!(["a", "b"]),
        "guided_grammar" => json!("start: \"a\""),
        "grammar" | "ebnf" => json!("root ::= \"a\""),
        "guided_json" | "json_schema" => json!({"type": "boolean"}),
        "guided_regex" | "regex" => json!("[a-z]{1,3}"),
        "structured_outputs" => json!({"choice": ["a"]}),
        "reasoning_format" => json!("auto"),
        "reasoning_budget"
        | "reasoning_budget_tokens"
        | "thinking_budget_tokens"
        | "thinking_token_budget" => {
            json!(5)
        }
        "logit_bias" => json!({"5": 1}),
        "logprobs" if at == CHAT => json!(true),
        "logprobs" => json!(1),
        "top_logprobs" => json!(0),
        "messages" => json!([{"role": "user", "content": "hello"}]),
        "metadata" => json!({"tag": "a"}),
        "modalities" => json!(["text"]),
        "model" => json!("tiny"),
        "output_format" => json!({"type": "json_schema", "schema": {"type": "boolean"}}),
        "output_config" => json!({"effort": "low"}),
        "prompt" => json!("hello"),
        "reasoning" => json!({"effort": "none"}),
        "reasoning_effort" => json!("none"),
        "response_format" => json!({"type": "text"}),
        "seed" => json!(u64::MAX),
        "stop" | "stop_sequences" => json!(["zzz"]),
        "stop_token_ids" => json!([3]),
        "stream_options" | "thinking_budget" => json!(null),
        "input_prefix" | "input_suffix" | "suffix" => json!("lo"),
        "input_extra" => json!([{"filename": "a", "text": "b"}]),
        "system" => json!("Be brief."),
        "thinking" => json!({"type": "disabled"}),
        "tool_choice" if at == CHAT => json!("none"),
        "tool_choice" => json!({"type": "none"}),
        other => panic!("{other} is said to be done: how is it sent?"),
    }
}

/// Values that ask for something.
fn askings(neutral: &[Neutral]) -> Vec<Value> {
    let mut all =
        vec![json!("something"), json!({"a": 1}), json!([1]), json!(7.5), json!(true), json!(false)];
    all.retain(|value| {
        !neutral.iter().any(|neutral| match neutral {
            Neutral::Is(on) => value.as_bool() == Some(*on),
            _ => false,
        })
    });
    all
}

fn nothings(neutral: &[Neutral]) -> Vec<Value> {
    let asked = neutral.iter().map(|neutral| match neutral {
        Neutral::Number(number) => json!(number),
        Neutral::Is(on) => json!(on),
        Neutral::Word(word) => json!(word),
        Neutral::EmptyObject => json!({}),
    });
    asked.chain([json!(null), json!([]), json!("")]).collect()
}

async fn ask(server: &Server, at: Endpoint, more: Value) -> (u16, Value) {
    let more = merged(json!({"temperature": 0}), more);
    let (_, path) = ENDPOINTS.iter().find(|(known, _)| *known == at).expect("an endpoint");
    let body = match at {
        CHAT => chat(more),
        TEXT => completion(more),
        INFILL => {
            let gap =
                json!({"input_prefix": "hel", "input_suffix": "world", "max_tokens": 4, "ignore_eos": true});
            merged(gap, more)
        }
        _ => {
            let messages = json!([{"role": "user", "content": "hello"}]);
            merged(json!({"model": "tiny", "max_tokens": 4, "messages": messages}), more)
        }
    };
    server.post(path, &body).await
}

/// What an answer says.
fn said(at: Endpoint, answer: &Value) -> Value {
    match at {
        CHAT => answer["choices"][0]["message"]["content"].clone(),
        TEXT => answer["choices"][0]["text"].clone(),
        INFILL => answer["content"].clone(),
        _ => answer["content"].clone(),
    }
}

#[tokio::test]
async fn every_known_field_is_done_refused_by_name_or_harmless() {
    let model = fill_model();
    let source = format!("tiny={}", model.path().display());
    let server = Server::start(&["--model", &source]);
    for at in [CHAT, TEXT, INFILL, MESSAGES] {
        let (status, answer) = ask(&server, at, json!({})).await;
        assert_eq!(status, 200, "{answer}");
        let plain = said(at, &answer);
        for row in KNOWN {
            let name = row.name;
            if row.at & at == 0 {
                // Of another endpoint: not ignored, unless it is harmless there.
                let named = KNOWN.iter().filter(|other| other.name == name);
                let is_here = named.clone().any(|other| other.at & at != 0);
                if !is_here && named.clone().any(|other| !matches!(other.fate, Fate::Harmless(_))) {
                    let (status, answer) = ask(&server, at, json!({name: "something"})).await;
                    assert_eq!(
                        (status, answer["error"]["param"].as_str().unwrap_or(name)),
                        (400, name),
                        "{answer}"
                    );
                    let message = answer["error"]["message"].as_str().expect("a message");
                    assert!(message.contains(&format!("`{name}`")), "{message}");
                }
                continue;
            }
            match &row.fate {
                Fate::Done(_) => {
                    let mut more = json!({name: sample(name, at)});
                    if name == "top_logprobs" {
                        more["logprobs"] = true.into();
                    }
                    if name == "suffix" {
                        more["prompt"] = "hel".into();
                    }
                    let (status, answer) = ask(&server, at, more).await;
                    assert_eq!(status, 200, "{name}: {answer}");
                }
                Fate::Harmless(_) => {
                    for value in [json!("something"), json!(7)] {
                        let (status, answer) = ask(&server, at, json!({name: value})).await;
                        assert_eq!((status, said(at, &answer)), (200, plain.clone()), "{name}: {answer}");
                    }
                }
                Fate::Refused(neutral, _) => {
                    for value in askings(neutral) {
                        let (status, answer) = ask(&server, at, json!({name: value})).await;
                        assert_eq!(status, 400, "{name}: {value} {answer}");
                        let message = answer["error"]["message"].as_str().expect("a message");
                        assert!(message.contains(&format!("`{name}`")), "{message}");
                    }
                    for value in nothings(neutral) {
                        let (status, answer) = ask(&server, at, json!({name: value})).await;
                        assert_eq!(
                            (status, said(at, &answer)),
                            (200, plain.clone()),
                            "{name}: {value} {answer}"
                        );
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn fields_that_change_the_answer_are_never_ignored() {
    let server = serve(&[]);
    for (name, value) in [
        ("structural_tag", json!({"type": "structural_tag"})),
        ("documents", json!([{"title": "a", "text": "b"}])),
        ("mirostat", json!(2)),
        ("functions", json!([{"name": "f"}])),
    ] {
        for at in [CHAT, TEXT] {
            let (status, answer) = ask(&server, at, json!({name: value})).await;
            assert_eq!((status, &answer["error"]["param"]), (400, &json!(name)), "{answer}");
            assert_eq!(answer["error"]["code"], "unsupported_parameter", "{answer}");
        }
        let (status, answer) = ask(&server, MESSAGES, json!({name: value})).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains(name)), "{answer}");
    }
    // Nor are those in the template's own object that the request sets itself.
    for name in ["messages", "tools", "chat_template"] {
        let (status, answer) = ask(&server, CHAT, json!({"chat_template_kwargs": {name: "x"}})).await;
        let param = format!("chat_template_kwargs.{name}");
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param.as_str())), "{answer}");
    }
    // Empty ones are nothing.
    let nothing = json!({"functions": [], "tools": [], "tool_choice": "auto", "grammar": "", "documents": [],
        "structural_tag": null, "bad_words": [], "chat_template_kwargs": {}});
    let (status, answer) = ask(&server, CHAT, nothing).await;
    assert_eq!(status, 200, "{answer}");
    let (status, answer) =
        ask(&server, MESSAGES, json!({"mcp_servers": [], "tools": [], "container": null})).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn a_grammar_as_llama_cpp_writes_it_holds_on_every_endpoint() {
    let model = fill_model();
    let source = format!("tiny={}", model.path().display());
    let server = Server::start(&["--model", &source]);
    let grammar = "# of two kinds\nroot ::= kind \"-\" [0-9]{2}\nkind ::= \"yes\" | \"no\"";
    let holds = |text: &str| match text.split_once('-') {
        Some(("yes" | "no", rest)) => rest.len() == 2 && rest.bytes().all(|byte| byte.is_ascii_digit()),
        _ => false,
    };
    for at in [CHAT, TEXT, INFILL] {
        for name in ["grammar", "ebnf", "guided_grammar", "structured_outputs"] {
            if at == INFILL && !["grammar", "ebnf"].contains(&name) {
                continue;
            }
            let value =
                if name == "structured_outputs" { json!({"grammar": grammar}) } else { json!(grammar) };
            let more =
                json!({name: value, "max_tokens": 40, "temperature": 1, "seed": 5, "ignore_eos": false});
            let (status, answer) = ask(&server, at, more).await;
            let text = said(at, &answer);
            assert_eq!(status, 200, "{name}: {answer}");
            assert!(text.as_str().is_some_and(holds), "{name}: {text}");
        }
        let more = json!({"grammar": "root ::= \"yes\" |\n  other"});
        let (status, answer) = ask(&server, at, more).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("grammar")), "{answer}");
        let message = answer["error"]["message"].as_str().expect("a message");
        assert!(message.contains("line 2, column 3: there is no rule `other`"), "{message}");
    }
    let schema = json!({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2});
    let more =
        json!({"json_schema": schema, "max_tokens": 60, "temperature": 1, "seed": 5, "ignore_eos": false});
    let (status, answer) = ask(&server, INFILL, more).await;
    let text = answer["content"].as_str().unwrap_or_default();
    assert!(status == 200 && serde_json::from_str::<Vec<bool>>(text).is_ok(), "{answer}");
}

/// docs/api.md shows the table; `UPDATE_GOLDENS=1` writes it there.
#[test]
fn the_table_of_fields_is_in_the_documentation() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api.md");
    let text = std::fs::read_to_string(&path).expect("docs/api.md");
    let (begin, end) = ("<!-- fields: written by a test -->\n", "<!-- /fields -->\n");
    let (before, rest) = text.split_once(begin).expect("where the table begins");
    let (written, after) = rest.split_once(end).expect("where the table ends");
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{}{end}{after}", table())).expect("written");
        return;
    }
    assert_eq!(written, table(), "UPDATE_GOLDENS=1 writes the table into docs/api.md");
}

#[test]
fn the_rows_are_sorted_and_each_endpoint_has_one() {
    assert!(KNOWN.is_sorted_by_key(|row| row.name));
    for row in KNOWN.iter().filter(|row| matches!(row.fate, Fate::Done(_))) {
        assert!(row.of != FieldType::Any, "{} has no type: add `.of(...)` to its row", row.name);
    }
    for (i, row) in KNOWN.iter().enumerate() {
        let same = KNOWN[i + 1..].iter().take_while(|other| other.name == row.name);
        assert!(same.clone().all(|other| other.at & row.at == 0), "{} has two rows", row.name);
    }
}
