//! JSON schemas within a Lark grammar (`%json {...}`): they keep to the same limits as schemas alone, and their white
//! space is bounded in the same way.

use super::{GrammarError, schema};
use serde_json::Value;

const WORD: &str = "%json";

/// The grammar with its schemas checked.
pub(super) fn checked(lark: &str) -> Result<String, GrammarError> {
    let mut checked = String::new();
    let mut rest = lark;
    while let Some(at) = next_schema(rest) {
        let (before, behind) = rest.split_at(at + WORD.len());
        checked.push_str(before);
        let mut values = serde_json::Deserializer::from_str(behind).into_iter::<Value>();
        let value = match values.next() {
            Some(Ok(value)) => value,
            Some(Err(error)) => return Err(invalid(lark, behind, &error.to_string())),
            None => return Err(invalid(lark, behind, "there is none")),
        };
        let schema = schema::checked(&value).map_err(|error| invalid(lark, behind, &error.to_string()))?;
        checked.push_str(&format!(" {schema}"));
        rest = &behind[values.byte_offset()..];
    }
    Ok(checked + rest)
}

fn invalid(lark: &str, behind: &str, reason: &str) -> GrammarError {
    let line = lark[..lark.len() - behind.len()].matches('\n').count() + 1;
    GrammarError::Invalid(format!("line {line}: the schema behind {WORD}: {reason}"))
}

/// Where the next schema's word stands, outside of strings, regular expressions and comments.
fn next_schema(lark: &str) -> Option<usize> {
    let mut characters = lark.char_indices();
    while let Some((at, c)) = characters.next() {
        let rest = &lark[at..];
        if rest.starts_with(WORD) {
            return Some(at);
        }
        let is_comment = rest.starts_with("//") || c == '#';
        let closing = match c {
            _ if is_comment => '\n',
            '"' | '/' => c,
            _ => continue,
        };
        while let Some((_, inner)) = characters.next() {
            if inner == '\\' && !is_comment {
                characters.next();
            } else if inner == closing || (inner == '\n' && c != '"') {
                break;
            }
        }
    }
    None
}
