//! Ids of tools' calls that an upstream takes. A conversation that several models took part in has ids as each of them
//! makes them up: Kimi's have dots and colons, which Anthropic's API refuses, and others are longer than OpenAI's take.
//! An id that is not taken is replaced in the history, at the call and at its result alike; as the replacement depends
//! on the id alone, the next request of the conversation has the same. Nothing is put back: answers have ids of their
//! own.

use super::Dialect;
use super::tool_names::{is_plain, items, replacement};
use serde_json::Value;

/// Of OpenAI's chat completions, which its documentation leaves to its errors ("string too long. Expected a string with
/// maximum length 40").
const CHAT_CHARS_MAX: usize = 40;
/// Of Responses.
const RESPONSES_CHARS_MAX: usize = 64;

/// Fits the ids in a body that goes to a provider of this dialect; for Responses it is still a chat completion's.
/// `bounded`: a provider of OpenAI's format keeps to OpenAI's bounds.
pub fn fit(body: &mut Value, dialect: Dialect, bounded: bool) {
    let chars_max = match dialect {
        Dialect::Anthropic => usize::MAX,
        _ if !bounded => return,
        Dialect::OpenAi => CHAT_CHARS_MAX,
        Dialect::Responses => RESPONSES_CHARS_MAX,
    };
    let fit = |id: Option<&mut Value>| {
        let Some(Value::String(id)) = id else { return };
        let is_taken = id.len() <= chars_max && (dialect != Dialect::Anthropic || id.bytes().all(is_plain));
        if !is_taken {
            *id = replacement(id, 0, chars_max);
        }
    };
    for message in items(body, "messages") {
        if dialect != Dialect::Anthropic {
            items(message, "tool_calls").for_each(|call| fit(call.get_mut("id")));
            fit(message.get_mut("tool_call_id"));
            continue;
        }
        for block in items(message, "content") {
            match block["type"].as_str() {
                Some("tool_use") => fit(block.get_mut("id")),
                Some("tool_result") => fit(block.get_mut("tool_use_id")),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chat(id: &str) -> Value {
        json!({"messages": [{"role": "assistant", "tool_calls": [{"id": id}, {"id": "call_1"}]},
            {"role": "tool", "tool_call_id": id}, {"role": "tool", "tool_call_id": "call_1"}]})
    }

    fn id_of<'a>(body: &'a Value, place: &str) -> &'a str {
        body.pointer(place).and_then(Value::as_str).expect("an id")
    }

    #[test]
    fn ids_that_are_too_long_are_shortened_at_call_and_result() {
        let long = "x".repeat(70);
        for (dialect, chars) in [(Dialect::OpenAi, 40), (Dialect::Responses, 64)] {
            let mut body = chat(&long);
            fit(&mut body, dialect, true);
            let new = id_of(&body, "/messages/0/tool_calls/0/id").to_owned();
            assert_eq!((new.len(), id_of(&body, "/messages/1/tool_call_id")), (chars, new.as_str()));
            assert_eq!(id_of(&body, "/messages/2/tool_call_id"), "call_1");
            let mut free = chat(&long);
            fit(&mut free, dialect, false);
            assert_eq!(free, chat(&long), "a server without bounds is told what the caller wrote");
        }
        // What differs stays different.
        let (mut one, mut other) = (chat(&format!("{long}a")), chat(&format!("{long}b")));
        [&mut one, &mut other].into_iter().for_each(|body| fit(body, Dialect::OpenAi, true));
        assert_ne!(one, other);
    }

    #[test]
    fn ids_for_anthropic_are_of_letters_digits_and_the_two_marks() {
        let mut body = json!({"messages": [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "functions.now:0"}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "functions.now:0"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1"}]}]});
        fit(&mut body, Dialect::Anthropic, false);
        let new = id_of(&body, "/messages/0/content/0/id");
        assert!(new.starts_with("functions_now_0_") && new.bytes().all(is_plain), "{new}");
        assert_eq!(id_of(&body, "/messages/1/content/0/tool_use_id"), new);
        assert_eq!(id_of(&body, "/messages/2/content/0/id"), "toolu_1");
    }
}
