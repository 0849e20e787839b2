//! Frames and whole answers that go on as they came, but for the model's name. The name is replaced in the text: the
//! decoder has read the frame already, and a second reading would cost more than a translation.

use super::Dialect;
use crate::gateway::wire::frames::Frame;
use crate::gateway::wire::json::push_json;
use serde_json::Value;
use std::ops::Range;

/// The names of a frame's fields, its event and its line ends take about as much.
const FIELDS_BYTES: usize = 64;

/// Adds a frame under another name of the model.
pub fn write(frame: &Frame, model: &str, out: &mut String) {
    out.reserve(frame.data.len() + model.len() + FIELDS_BYTES);
    if let Some(event) = &frame.event {
        out.push_str("event: ");
        out.push_str(event);
        out.push('\n');
    }
    if !frame.data.contains('\n') {
        out.push_str("data: ");
        push_renamed(&frame.data, model, out);
    } else {
        let renamed = renamed(&frame.data, model);
        let mut lines = renamed.split('\n').peekable();
        while let Some(line) = lines.next() {
            out.push_str("data: ");
            out.push_str(line);
            if lines.peek().is_some() {
                out.push('\n');
            }
        }
    }
    out.push_str("\n\n");
}

/// The last frame of a stream, for one that its upstream did not end with it.
pub fn end(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::OpenAi | Dialect::Responses => "data: [DONE]\n\n",
        Dialect::Anthropic => "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    }
}

/// A whole answer under another name of the model.
pub fn renamed(json: &str, model: &str) -> String {
    let mut out = String::with_capacity(json.len() + model.len());
    push_renamed(json, model, &mut out);
    out
}

fn push_renamed(data: &str, model: &str, out: &mut String) {
    match model_span(data) {
        Some(span) => {
            out.push_str(&data[..span.start]);
            push_json(out, model);
            out.push_str(&data[span.end..]);
        }
        None => out.push_str(data),
    }
}

/// Whether a chunk of OpenAI's format holds nothing but usage.
pub fn is_usage_only(data: &str) -> bool {
    // Only such a chunk has no delta, which stands near the beginning; a quoted word within a text has
    // backslashes before its quotes.
    if data.contains("\"delta\"") || !data.contains("\"usage\"") {
        return false;
    }
    serde_json::from_str::<Value>(data).is_ok_and(|data| {
        data.get("usage").is_some_and(Value::is_object)
            && data.get("choices").and_then(Value::as_array).is_some_and(Vec::is_empty)
    })
}

/// Where the first value of `model` stands in an object, or in the object that is its `message`. What
/// is no JSON may have a span too, but never one that cuts a character.
fn model_span(json: &str) -> Option<Range<usize>> {
    // Most frames of Anthropic's have none.
    if !json.contains("\"model\"") {
        return None;
    }
    let bytes = json.as_bytes();
    let (mut at, mut depth, mut in_message) = (0, 0usize, false);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b'"' => {
                let end = string_end(bytes, at)?;
                let after = skip_space(bytes, end);
                // A string with a colon behind it is a key.
                if bytes.get(after) == Some(&b':') && (depth == 1 || (depth == 2 && in_message)) {
                    let key = &bytes[at + 1..end - 1];
                    let value = skip_space(bytes, after + 1);
                    if key == b"model" {
                        return Some(value..value_end(bytes, value)?);
                    }
                    if depth == 1 {
                        in_message = key == b"message";
                    }
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The place behind the string that begins at `at`.
fn string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut end = at + 1;
    loop {
        match bytes.get(end)? {
            b'"' => return Some(end + 1),
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The place behind the value that begins at `at`.
fn value_end(bytes: &[u8], at: usize) -> Option<usize> {
    let (mut end, mut depth) = (at, 0usize);
    loop {
        match bytes.get(end)? {
            b'"' => end = string_end(bytes, end)?,
            b'{' | b'[' => (end, depth) = (end + 1, depth + 1),
            b'}' | b']' if depth > 0 => (end, depth) = (end + 1, depth - 1),
            // A number or a word ends before what follows it.
            b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return Some(end),
            _ => {
                end += 1;
                continue;
            }
        }
        if depth == 0 {
            return Some(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, json};

    /// The same by parsing: the first `model` in the text's order, the message's included.
    fn by_parsing(value: &mut Value, model: &str) {
        fn set(map: &mut Map<String, Value>, model: &str, inner: bool) -> bool {
            for (key, value) in map.iter_mut() {
                if key == "model" {
                    *value = model.into();
                    return true;
                }
                if let Value::Object(message) = value
                    && key == "message"
                    && !inner
                    && set(message, model, true)
                {
                    return true;
                }
            }
            false
        }
        if let Value::Object(map) = value {
            set(map, model, false);
        }
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let key = prop_oneof![
            3 => prop::sample::select(vec!["model", "message", "id", "delta", "usage"]).prop_map(String::from),
            1 => "[a-z\"\\\\{}:,é ]{0,6}",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z\"\\\\{}\\[\\]:,é\n ]{0,12}".prop_map(Value::from),
            Just(json!("\"model\":\"x\"")),
        ];
        let any = leaf.prop_recursive(4, 40, 5, move |inner| {
            let map = prop::collection::vec((key.clone(), inner.clone()), 0..5);
            prop_oneof![
                1 => prop::collection::vec(inner, 0..4).prop_map(Value::from),
                3 => map.prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        });
        prop::collection::vec((prop::sample::select(vec!["model", "message", "id", "x"]), any), 0..5)
            .prop_map(|entries| {
                Value::Object(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            })
    }

    proptest! {
        #[test]
        fn renaming_in_the_text_is_renaming_the_value(mut value in json_value(), model in "[a-z\"é\n/]{0,9}") {
            let spellings = [value.to_string(), serde_json::to_string_pretty(&value).unwrap()];
            by_parsing(&mut value, &model);
            for text in spellings {
                let read: Value = serde_json::from_str(&renamed(&text, &model)).unwrap();
                prop_assert_eq!(&read, &value, "{}", text);
            }
        }

        #[test]
        fn no_text_is_too_odd(text in "[\"\\\\{}\\[\\]:, é\nmodel]{0,60}", cut in any::<prop::sample::Index>()) {
            let json = format!("{{\"message\":{{\"model\" : {text}");
            renamed(&json, "m");
            let mut end = cut.index(json.len());
            while !json.is_char_boundary(end) {
                end -= 1;
            }
            let mut out = String::new();
            write(&Frame { event: None, data: json[..end].to_owned() }, "m", &mut out);
            prop_assert!(out.ends_with("\n\n") && !out[..out.len() - 2].contains("\n\n"));
            is_usage_only(&json);
        }
    }

    #[test]
    fn frames_of_both_dialects() {
        let written = |event: Option<&str>, data: &str| {
            let mut out = String::new();
            write(&Frame { event: event.map(str::to_owned), data: data.to_owned() }, "ours", &mut out);
            out
        };
        assert_eq!(
            written(None, r#"{"id":"model","model":"theirs","choices":[{"delta":{"model":1}}]}"#),
            "data: {\"id\":\"model\",\"model\":\"ours\",\"choices\":[{\"delta\":{\"model\":1}}]}\n\n"
        );
        assert_eq!(
            written(Some("message_start"), r#"{"type":"message_start","message":{"id":1,"model":"theirs"}}"#),
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":1,\"model\":\"ours\"}}\n\n"
        );
        let delta = r#"{"type":"content_block_delta","delta":{"text":"\"model\":\"theirs\""}}"#;
        assert_eq!(written(None, delta), format!("data: {delta}\n\n"));
        assert_eq!(written(None, "[DONE]"), "data: [DONE]\n\n");
        assert_eq!(written(None, "{\"model\":\n\"theirs\"}"), "data: {\"model\":\ndata: \"ours\"}\n\n");
        assert!(is_usage_only(r#"{"choices":[],"usage":{"prompt_tokens":1}}"#));
        assert!(!is_usage_only(r#"{"choices":[],"usage":null}"#));
        assert!(!is_usage_only(r#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}"#));
        assert!(!is_usage_only("{\"usage\""));
    }
}
