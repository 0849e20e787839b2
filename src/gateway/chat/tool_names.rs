//! Names of tools that an upstream takes. Providers bound their length and their characters: OpenAI's API takes 64
//! letters, digits, `_` and `-`, Anthropic's 128 of them, and clients make names up of a server's and a tool's, which
//! are longer. A name that is not taken is replaced in the request, in tools, choices and history alike, and put back
//! in the answer.
//!
//! A name's replacement depends on the name alone, so that a conversation's next request has the same prefix: its
//! beginning, other characters as `_`, and 8 hexadecimal digits of its SHA-256. Names that are taken stay as they are.
//! Two names never become one: where a replacement is taken already, by another tool's own name or by chance, the
//! next digest is tried.

use super::{ChatEvent, Dialect};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Of Anthropic's API (<https://docs.anthropic.com/en/api/messages>).
const ANTHROPIC_CHARS_MAX: usize = 128;
/// Characters of a replacement that tell names apart: `_` and digits.
const DIGEST_CHARS: usize = 9;

/// Which names were replaced in a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolNames {
    /// By the upstream's name, the caller's.
    originals: BTreeMap<String, String>,
}

impl ToolNames {
    /// Replaces the names in a body of this dialect. `chars_max` is the bound of a provider of OpenAI's format;
    /// without one its names stay as they are.
    pub fn shorten(body: &mut Value, dialect: Dialect, chars_max: Option<usize>) -> Self {
        let chars_max = match dialect {
            Dialect::Anthropic => ANTHROPIC_CHARS_MAX,
            Dialect::OpenAi | Dialect::Responses => match chars_max {
                Some(chars_max) => chars_max,
                None => return Self::default(),
            },
        };
        let mut names = BTreeSet::new();
        each_name(body, dialect, &mut |name| {
            names.insert(name.clone());
        });
        if names.iter().all(|name| is_taken(name, chars_max)) {
            return Self::default();
        }
        let mut used: BTreeSet<String> =
            names.iter().filter(|name| is_taken(name, chars_max)).cloned().collect();
        let mut replacements = BTreeMap::new();
        for name in names.iter().filter(|name| !is_taken(name, chars_max)) {
            let mut turns = (0..=u32::MAX).map(|turn| replacement(name, turn, chars_max));
            // Names are finite, and so are the turns that it takes.
            let Some(new) = turns.find(|new| !used.contains(new)) else { continue };
            used.insert(new.clone());
            replacements.insert(name.clone(), new);
        }
        each_name(body, dialect, &mut |name| {
            if let Some(new) = replacements.get(name) {
                name.clone_from(new);
            }
        });
        Self { originals: replacements.into_iter().map(|(original, new)| (new, original)).collect() }
    }

    /// The caller's name for a tool that the upstream calls so.
    pub fn original<'a>(&'a self, name: &'a str) -> &'a str {
        self.originals.get(name).map_or(name, String::as_str)
    }

    /// Nothing was replaced.
    pub fn is_empty(&self) -> bool {
        self.originals.is_empty()
    }

    /// Puts the caller's names back into events.
    pub fn restore_events(&self, events: &mut [ChatEvent]) {
        for event in events.iter_mut().filter(|_| !self.is_empty()) {
            if let ChatEvent::ToolCall { name, .. } = event
                && let Some(original) = self.originals.get(name)
            {
                name.clone_from(original);
            }
        }
    }

    /// Puts the caller's names back into a whole answer, or into a piece of one, of this dialect.
    pub fn restore(&self, answer: &mut Value, dialect: Dialect) {
        if self.is_empty() {
            return;
        }
        let put_back = &mut |name: &mut String| {
            if let Some(original) = self.originals.get(name) {
                name.clone_from(original);
            }
        };
        match dialect {
            Dialect::OpenAi | Dialect::Responses => {
                for choice in items(answer, "choices") {
                    for place in ["message", "delta"] {
                        choice.get_mut(place).into_iter().for_each(|message| calls_of(message, put_back));
                    }
                }
            }
            Dialect::Anthropic => {
                items(answer, "content").for_each(|block| block_names(block, put_back));
                answer.get_mut("content_block").into_iter().for_each(|block| block_names(block, put_back));
            }
        }
    }
}

/// Whether the upstream takes a name.
fn is_taken(name: &str, chars_max: usize) -> bool {
    !name.is_empty() && name.len() <= chars_max && name.bytes().all(is_plain)
}

pub(super) fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// What stands for a name that is not taken.
pub(super) fn replacement(name: &str, turn: u32, chars_max: usize) -> String {
    let mut digest = Sha256::new_with_prefix(name.as_bytes());
    if turn > 0 {
        digest.update(turn.to_le_bytes());
    }
    let digest = digest.finalize();
    let plain = |c: char| if c.is_ascii() && is_plain(c as u8) { c } else { '_' };
    let mut new: String = name.chars().map(plain).take(chars_max.saturating_sub(DIGEST_CHARS)).collect();
    new.push('_');
    digest[..4].iter().for_each(|byte| new.push_str(&format!("{byte:02x}")));
    new
}

/// The elements of a list in an object.
pub(super) fn items<'a>(value: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The name in a field of an object, where there is one.
fn name_in(object: Option<&mut Value>, field: &str, each: &mut dyn FnMut(&mut String)) {
    if let Some(Value::String(name)) = object.and_then(|object| object.get_mut(field)) {
        each(name);
    }
}

/// Every name of a tool in a request.
fn each_name(body: &mut Value, dialect: Dialect, each: &mut dyn FnMut(&mut String)) {
    match dialect {
        Dialect::OpenAi | Dialect::Responses => {
            items(body, "tools").for_each(|tool| tool_name(tool, each));
            items(body, "functions").for_each(|function| name_in(Some(function), "name", each));
            name_in(body.get_mut("function_call"), "name", each);
            if let Some(choice) = body.get_mut("tool_choice") {
                tool_name(choice, each);
                if let Some(allowed) = choice.get_mut("allowed_tools") {
                    items(allowed, "tools").for_each(|tool| tool_name(tool, each));
                }
            }
            for message in items(body, "messages") {
                calls_of(message, each);
                // The name of who answers a call.
                if message["role"] == "tool" || message["role"] == "function" {
                    name_in(Some(message), "name", each);
                }
            }
        }
        Dialect::Anthropic => {
            items(body, "tools").for_each(|tool| name_in(Some(tool), "name", each));
            name_in(body.get_mut("tool_choice"), "name", each);
            for message in items(body, "messages") {
                for block in items(message, "content") {
                    block_names(block, each);
                    items(block, "content").for_each(|block| block_names(block, each));
                }
            }
        }
    }
}

/// Of a tool, a call or a choice in OpenAI's format.
fn tool_name(tool: &mut Value, each: &mut dyn FnMut(&mut String)) {
    for kind in ["function", "custom"] {
        name_in(tool.get_mut(kind), "name", each);
    }
}

/// Of the calls in a message of OpenAI's format.
fn calls_of(message: &mut Value, each: &mut dyn FnMut(&mut String)) {
    items(message, "tool_calls").for_each(|call| tool_name(call, each));
    name_in(message.get_mut("function_call"), "name", each);
}

/// Of a block in Anthropic's format.
fn block_names(block: &mut Value, each: &mut dyn FnMut(&mut String)) {
    let Some(block) = block.as_object_mut() else { return };
    let field = match block.get("type").and_then(Value::as_str) {
        Some("tool_use") => "name",
        Some("tool_reference") => "tool_name",
        _ => return,
    };
    if let Some(Value::String(name)) = block.get_mut(field) {
        each(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const LONG: &str = "mcp__00000000-0000-0000-0000-000000000000__slack_search_public_and_private";

    fn openai(names: &[&str]) -> Value {
        let function =
            |name: &&str| json!({"type": "function", "function": {"name": name, "arguments": "{}"}});
        let tools: Vec<Value> = names.iter().map(function).collect();
        json!({
            "tools": tools, "tool_choice": {"type": "function", "function": {"name": names[0]}},
            "messages": [
                {"role": "assistant", "tool_calls": tools},
                {"role": "tool", "tool_call_id": "t", "name": names[0], "content": names[0]},
                {"role": "user", "name": "ann smith", "content": names[0]},
            ],
        })
    }

    #[test]
    fn long_names_are_shortened_everywhere_in_a_request_and_put_back_in_answers() {
        let mut body = openai(&[LONG, "short"]);
        let names = ToolNames::shorten(&mut body, Dialect::OpenAi, Some(64));
        let new = body["tools"][0]["function"]["name"].as_str().unwrap().to_owned();
        assert_eq!((new.len(), &new[..55], &new[55..56]), (64, &LONG[..55], "_"));
        for place in
            ["/tool_choice/function/name", "/messages/0/tool_calls/0/function/name", "/messages/1/name"]
        {
            assert_eq!(body.pointer(place).unwrap(), new.as_str(), "{place}");
        }
        // What is said stays, and so do names of people.
        assert_eq!(
            (&body["messages"][1]["content"], &body["messages"][2]["name"]),
            (&json!(LONG), &json!("ann smith"))
        );
        assert_eq!(body["tools"][1]["function"]["name"], "short");
        assert_eq!(
            (names.original(&new), names.original("short"), names.original("other")),
            (LONG, "short", "other")
        );
        // The same in every request, whatever other tools there are.
        let mut again = openai(&["another one", LONG]);
        ToolNames::shorten(&mut again, Dialect::OpenAi, Some(64));
        assert_eq!(again["tools"][1]["function"]["name"], new.as_str());

        let mut whole = json!({"choices": [{"message": {"tool_calls": [{"function": {"name": new}}]}}]});
        names.restore(&mut whole, Dialect::OpenAi);
        assert_eq!(whole["choices"][0]["message"]["tool_calls"][0]["function"]["name"], LONG);
        let mut piece =
            json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": new}}]}}]});
        names.restore(&mut piece, Dialect::OpenAi);
        assert_eq!(piece["choices"][0]["delta"]["tool_calls"][0]["function"]["name"], LONG);
    }

    #[test]
    fn anthropics_names_are_longer_and_found_in_its_blocks() {
        let dotted = "server.tool/with space";
        let mut body = json!({
            "tools": [{"name": dotted}, {"name": LONG}, {"name": "x".repeat(129)}],
            "tool_choice": {"type": "tool", "name": dotted},
            "messages": [
                {"role": "assistant", "content": [{"type": "tool_use", "name": dotted, "input": {"name": dotted}}]},
                {"role": "user", "content": [{"type": "tool_result", "content": [
                    {"type": "tool_reference", "tool_name": dotted}, {"type": "text", "text": dotted},
                ]}]},
                {"role": "user", "content": "text"},
            ],
        });
        let names = ToolNames::shorten(&mut body, Dialect::Anthropic, None);
        let new = body["tools"][0]["name"].as_str().unwrap().to_owned();
        assert!(new.starts_with("server_tool_with_space_") && is_taken(&new, 128), "{new}");
        assert_eq!(
            (&body["tools"][1]["name"], body["tools"][2]["name"].as_str().unwrap().len()),
            (&json!(LONG), 128)
        );
        let used = &body["messages"][0]["content"][0];
        assert_eq!((&body["tool_choice"]["name"], &used["name"]), (&json!(new), &json!(new)));
        assert_eq!(used["input"]["name"], dotted);
        assert_eq!(body["messages"][1]["content"][0]["content"][0]["tool_name"], new.as_str());
        let mut start =
            json!({"type": "content_block_start", "content_block": {"type": "tool_use", "name": new}});
        names.restore(&mut start, Dialect::Anthropic);
        assert_eq!(start["content_block"]["name"], dotted);
        let mut whole =
            json!({"content": [{"type": "text", "text": new}, {"type": "tool_use", "name": new}]});
        names.restore(&mut whole, Dialect::Anthropic);
        assert_eq!(
            (&whole["content"][0]["text"], &whole["content"][1]["name"]),
            (&json!(new), &json!(dotted))
        );
    }

    #[test]
    fn a_provider_without_a_bound_and_names_that_are_taken_are_left_alone() {
        for chars_max in [None, Some(128)] {
            let mut body = openai(&[LONG, "short"]);
            assert!(ToolNames::shorten(&mut body, Dialect::OpenAi, chars_max).is_empty());
            assert_eq!(body, openai(&[LONG, "short"]));
        }
        let mut odd = json!({"tools": [3, {"function": 3}, {"function": {"name": 3}}], "tool_choice": "auto", "messages": "x"});
        assert!(ToolNames::shorten(&mut odd, Dialect::OpenAi, Some(64)).is_empty());
    }

    /// A tool that is called as another one's replacement.
    #[test]
    fn a_replacement_that_is_a_tool_already_is_not_taken() {
        let mut alone = openai(&[LONG]);
        ToolNames::shorten(&mut alone, Dialect::OpenAi, Some(64));
        let new = alone["tools"][0]["function"]["name"].as_str().unwrap().to_owned();
        let mut both = openai(&[LONG, &new]);
        let names = ToolNames::shorten(&mut both, Dialect::OpenAi, Some(64));
        let other = both["tools"][0]["function"]["name"].as_str().unwrap();
        assert_eq!(both["tools"][1]["function"]["name"], new.as_str());
        assert_ne!(other, new);
        assert_eq!((names.original(other), names.original(&new)), (LONG, new.as_str()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Whatever the names are: those that go out are taken, differ, and lead back.
        #[test]
        fn names_never_collide(names in prop::collection::btree_set("[a-c.]{0,3}|(ab){4,8}[a-z.é]{0,4}", 1..12), chars_max in 10..20usize) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut body = openai(&names);
            let map = ToolNames::shorten(&mut body, Dialect::OpenAi, Some(chars_max));
            let mut seen = BTreeSet::new();
            for (name, tool) in names.iter().zip(body["tools"].as_array().unwrap()) {
                let new = tool["function"]["name"].as_str().unwrap();
                prop_assert!(is_taken(new, chars_max), "{} for {}", new, name);
                prop_assert_eq!(map.original(new), *name);
                prop_assert!(seen.insert(new.to_owned()), "{} twice", new);
            }
        }
    }
}
