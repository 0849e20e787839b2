//! What the encoders write, held against the API's description (`/openapi.json`) by Python's jsonschema. There a
//! field that is not described is a fault too: objects are closed for it, which in the description they are not.

use super::super::responses;
use super::super::{ChatEvent, Dialect, StopReason, UpstreamError, encode_whole};
use super::{EncodeOptions, StreamEncoder, TRANSCRIPTS, head, read, written};
use crate::gateway::http::openapi::document;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Values by the name of their schema.
#[derive(Default)]
struct Samples(BTreeMap<&'static str, Vec<Value>>);

impl Samples {
    fn push(&mut self, schema: &'static str, value: Value) {
        self.0.entry(schema).or_default().push(value);
    }

    /// The data of a stream.
    fn stream(&mut self, schema: &'static str, stream: &str) {
        for data in stream.lines().filter_map(|line| line.strip_prefix("data: ")) {
            if data != "[DONE]" {
                self.push(schema, serde_json::from_str(data).expect("JSON data"));
            }
        }
    }

    fn goldens(&mut self) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/golden");
        for file in std::fs::read_dir(folder).expect("goldens").flatten() {
            let name = file.file_name().into_string().expect("a name");
            let text = std::fs::read_to_string(file.path()).expect("a golden");
            let of_texts = [("embeddings", "EmbeddingList"), ("rerank", "Reranked"), ("score", "ScoreList")];
            if let Some((_, schema)) = of_texts.iter().find(|(start, _)| name.starts_with(start)) {
                self.push(schema, serde_json::from_str(&text).expect("JSON"));
                continue;
            }
            match (name.starts_with("chat"), name.ends_with(".json")) {
                (true, true) => self.push("ChatCompletion", serde_json::from_str(&text).expect("JSON")),
                (true, false) => self.stream("ChatStreamData", &text),
                (false, true) => self.push("Completion", serde_json::from_str(&text).expect("JSON")),
                (false, false) => self.stream("Completion", &text),
            }
        }
    }

    fn transcripts(&mut self) {
        let plain = EncodeOptions::default();
        for (_, dialect, bytes) in TRANSCRIPTS {
            let (events, result) = read(*dialect, [*bytes]);
            self.stream("ChatStreamData", &written(Dialect::OpenAi, &events));
            self.stream("MessageStreamData", &written(Dialect::Anthropic, &events));
            self.responses(json!({}), &events);
            self.responses(json!({"reasoning": {"summary": "auto"}, "store": false}), &events);
            if result.is_ok() {
                self.push("ChatCompletion", encode_whole(Dialect::OpenAi, &head(), &plain, &events).unwrap());
                self.push("Message", encode_whole(Dialect::Anthropic, &head(), &plain, &events).unwrap());
            }
        }
        let error = UpstreamError::new(429, "slow down");
        for (dialect, schema) in
            [(Dialect::OpenAi, "ChatStreamData"), (Dialect::Anthropic, "MessageStreamData")]
        {
            let mut out = String::new();
            StreamEncoder::new(dialect, head(), EncodeOptions::default()).error(&error, &mut out);
            self.stream(schema, &out);
        }
    }

    fn responses(&mut self, more: Value, events: &[ChatEvent]) {
        let mut body = json!({"model": "m", "input": "hi"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let asked = responses::request::read(&body, &responses::request::NothingKept).unwrap().asked;
        let asked = std::sync::Arc::new(asked);
        let mut encoder = responses::encode::ResponsesEncoder::new(head(), asked.clone());
        let mut out = String::new();
        if events.iter().any(|event| encoder.event(event, &mut out).is_err()) {
            return;
        }
        encoder.finish(&mut out);
        self.stream("ResponseStreamData", &out);
        self.push("Response", responses::encode::whole(&head(), asked.clone(), events).unwrap());
        let mut failed = responses::encode::ResponsesEncoder::new(head(), asked);
        out.clear();
        failed.error(&UpstreamError::new(529, "busy"), &mut out);
        self.stream("ResponseStreamData", &out);
    }

    /// Calls of each kind of tool that Responses has.
    fn tools(&mut self) {
        let tools = json!([
            {"type": "local_shell"},
            {"type": "shell"},
            {"type": "apply_patch"},
            {"type": "custom", "name": "note"},
            {"type": "tool_search", "execution": "client"},
            {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]},
        ]);
        let calls = [
            ("local_shell", r#"{"command": ["ls"], "timeout_ms": 5}"#),
            ("shell", r#"{"commands": ["ls"]}"#),
            ("apply_patch", r#"{"type": "create_file", "path": "a", "diff": "+b"}"#),
            ("note", r#"{"input": "text"}"#),
            ("tool_search", r#"{"query": "x"}"#),
            ("n__f", "{}"),
        ];
        let mut events = Vec::new();
        for (call, (name, json)) in (0..).zip(calls) {
            events.push(ChatEvent::ToolCall { choice: 0, call, id: format!("id{call}"), name: name.into() });
            events.push(ChatEvent::ToolArguments { choice: 0, call, json: json.into() });
        }
        events.push(ChatEvent::Finish { choice: 0, reason: StopReason::ToolCalls });
        self.responses(json!({"tools": tools}), &events);
        events.push(ChatEvent::Finish { choice: 0, reason: StopReason::Length });
        self.responses(json!({"tools": tools}), &events);
    }
}

#[test]
fn answers_and_streams_are_as_described() {
    let mut samples = Samples::default();
    samples.goldens();
    samples.transcripts();
    samples.tools();
    let kinds = |schema: &str| {
        let kinds = samples.0[schema].iter().filter_map(|it| it["type"].as_str().map(str::to_owned));
        kinds.collect::<std::collections::BTreeSet<_>>()
    };
    // Every event that there is was looked at.
    assert_eq!(kinds("ResponseStreamData").len(), 23, "{:?}", kinds("ResponseStreamData"));
    assert_eq!(kinds("MessageStreamData").len(), 7, "{:?}", kinds("MessageStreamData"));
    let components = document()["components"].clone();
    let line = |(name, values): (&&str, &Vec<Value>)| {
        let items = json!({"$ref": format!("#/components/schemas/{name}")});
        let schema = json!({"type": "array", "items": items, "components": components});
        json!({"schema": schema, "closed": true, "answer": Value::from(values.clone()).to_string()})
            .to_string()
            + "\n"
    };
    let lines: String = samples.0.iter().map(line).collect();
    // Which has to find a field that nobody described.
    let mut wrong = samples.0["ChatCompletion"][0].clone();
    wrong["choices"][0]["message"]["contents"] = "x".into();
    let wrong = vec![wrong];
    match (jsonschema_takes(&lines), jsonschema_takes(&line((&"ChatCompletion", &wrong)))) {
        (Some(good), Some(bad)) => {
            assert!(good, "what was written is not as described: see above");
            assert!(!bad, "a field that nobody described was not found");
        }
        _ => eprintln!("SKIPPED: python3 has no jsonschema"),
    }
}

/// Whether the answers are valid; None without jsonschema. scripts/test.sh names a Python that has it.
fn jsonschema_takes(lines: &str) -> Option<bool> {
    let named = std::env::var("NOVASTACK_TEST_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let has_it = Command::new(&python).args(["-c", "import jsonschema"]).stderr(Stdio::null()).status();
    if !has_it.is_ok_and(|status| status.success()) {
        assert!(named.is_none(), "{python} has no jsonschema");
        return None;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/check_schemas.py");
    let mut child = Command::new(&python).arg(script).stdin(Stdio::piped()).spawn().expect("python");
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("python reads");
    Some(child.wait().expect("python").success())
}
