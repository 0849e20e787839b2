//! The secrets that this program knows, and how they are cut out of what leaves it: the log, answers,
//! traces. Whoever reads a key, a token or a password tells it to [`know`]; whoever hands on what others have
//! said passes it through [`hide`].
//!
//! A secret is found as it stands, escaped as in JSON or in a URL, and within base64 (`Basic` credentials).
//! Not found: one that is cut in two, by the frames of a stream for example, or is spelt in another way.
//! Secrets of fewer than [`CHARS_MIN`] characters are words that may stand anywhere: they are not hidden.

use aho_corasick::{AhoCorasick, MatchKind};
use arc_swap::ArcSwapOption;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use url::Url;

/// Of a secret that is hidden.
pub const CHARS_MIN: usize = 8;
/// What stands in a secret's place. It needs no escaping anywhere.
pub const HIDDEN: &str = "***";

/// All of them; read without waiting.
static KNOWN: ArcSwapOption<AhoCorasick> = ArcSwapOption::const_empty();
static FORMS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Hides this text from now on, wherever it stands.
pub fn know(secret: &str) {
    if secret.chars().count() < CHARS_MIN {
        return;
    }
    let mut forms = FORMS.lock().unwrap_or_else(PoisonError::into_inner);
    let before = forms.len();
    forms.extend(forms_of(secret));
    if forms.len() == before {
        return;
    }
    // The longest first: no end of a secret that begins with another one is left.
    let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(forms.iter());
    match built {
        Ok(finder) => KNOWN.store(Some(Arc::new(finder))),
        Err(error) => tracing::error!(%error, "a secret cannot be hidden"),
    }
}

/// Hides the password of a URL. A user's name is none: `postgres` stands in many texts.
pub fn know_url(url: &str) {
    let Ok(url) = Url::parse(url) else { return };
    if let Some(text) = url.password() {
        know(text);
        // Characters that mean more in a query than in a password.
        let text = text.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
        url::form_urlencoded::parse(text.as_bytes()).for_each(|(plain, _)| know(&plain));
    }
    url.query_pairs().filter(|(name, _)| name == "password").for_each(|(_, value)| know(&value));
}

/// The text without the secrets.
pub fn hide(text: &str) -> Cow<'_, str> {
    match KNOWN.load().as_ref() {
        Some(known) if known.is_match(text) => Cow::Owned(without(known, text)),
        _ => Cow::Borrowed(text),
    }
}

/// Takes the secrets out of a text.
pub fn hide_in(text: &mut String) {
    if let Cow::Owned(hidden) = hide(text) {
        *text = hidden;
    }
}

/// The same for bytes that need not be UTF-8.
pub fn hide_in_bytes(bytes: &mut Vec<u8>) {
    if let Some(known) = KNOWN.load().as_ref()
        && known.is_match(bytes.as_slice())
    {
        let mut hidden = Vec::with_capacity(bytes.len());
        known.replace_all_with_bytes(bytes, &mut hidden, |_, _, out| {
            out.extend_from_slice(HIDDEN.as_bytes());
            true
        });
        *bytes = hidden;
    }
}

fn without(known: &AhoCorasick, text: &str) -> String {
    let mut hidden = String::with_capacity(text.len());
    known.replace_all_with(text, &mut hidden, |_, _, out| {
        out.push_str(HIDDEN);
        true
    });
    hidden
}

/// How a secret may be written.
fn forms_of(secret: &str) -> impl Iterator<Item = String> {
    let json = serde_json::Value::from(secret).to_string();
    let json = json[1..json.len() - 1].to_owned();
    let in_url = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect::<String>();
    let with_percent_spaces = in_url.replace('+', "%20");
    let mut forms = vec![secret.to_owned(), json, in_url, with_percent_spaces];
    for before in 0..3 {
        let standard = base64_within(secret.as_bytes(), before);
        forms.push(standard.replace('+', "-").replace('/', "_"));
        forms.push(standard);
    }
    forms.into_iter().filter(|form| form.len() >= CHARS_MIN)
}

/// The digits of base64 that say nothing but these bytes, where so many others come before them.
fn base64_within(bytes: &[u8], before: usize) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // From the first digit that begins within them to the last that ends there: six bits each.
    let (first, end) = ((before * 8).div_ceil(6), (before + bytes.len()) * 8 / 6);
    let bit = |at: usize| u8::from(bytes[at / 8 - before] >> (7 - at % 8) & 1 == 1);
    let digit = |digit: usize| {
        let bits = (digit * 6..digit * 6 + 6).fold(0, |bits, at| bits << 1 | bit(at));
        char::from(DIGITS[usize::from(bits)])
    };
    (first..end).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn known_secrets_are_hidden_in_every_form() {
        const KEY: &str = "sk-test/forms+0123 \"x\"";
        know(KEY);
        know("nothing");
        let said = |text: &str| hide(text).into_owned();
        assert_eq!(said(&format!("the key {KEY}, twice: {KEY}")), "the key ***, twice: ***");
        let json = serde_json::json!({ "message": format!("wrong key: {KEY}!") }).to_string();
        assert_eq!(said(&json), r#"{"message":"wrong key: ***!"}"#);
        assert_eq!(said("?key=sk-test%2Fforms%2B0123+%22x%22&b"), "?key=***&b");
        assert_eq!(said("?key=sk-test%2Fforms%2B0123%20%22x%22&b"), "?key=***&b");
        assert_eq!(said("nothing happens; sk-test/forms"), "nothing happens; sk-test/forms");
        // "user:" and "me:" before it, as `Basic` credentials have them, and nothing.
        for basic in [
            "dXNlcjpzay10ZXN0L2Zvcm1zKzAxMjMgIngi",
            "bWU6c2stdGVzdC9mb3JtcyswMTIzICJ4Ig==",
            "c2stdGVzdC9mb3JtcyswMTIzICJ4Ig==",
        ] {
            let hidden = said(&format!("Basic {basic}"));
            // At most a digit on each side tells of bytes outside, and of two bits within.
            assert!(hidden.contains(HIDDEN) && hidden.len() < 22, "{hidden}");
        }
        let mut bytes = [b"\xff\xfe ", KEY.as_bytes(), b" \xff"].concat();
        hide_in_bytes(&mut bytes);
        assert_eq!(bytes, b"\xff\xfe *** \xff");
    }

    #[test]
    fn of_two_secrets_the_longer_one_is_hidden_whole() {
        know("tok-abcdefgh");
        know("tok-abcdefgh-and-more");
        assert_eq!(hide("is tok-abcdefgh-and-more, tok-abcdefgh!"), "is ***, ***!");
    }

    #[test]
    fn passwords_of_urls_are_known() {
        know_url("postgres://novastack:pass%2Fword-1@db.example/x?sslmode=require");
        know_url("redis://:red-is-pass@cache.example");
        know_url("postgres://db.example/x?user=u&password=query-secret");
        know_url("https://user:hub-token-0@hub.example");
        know_url("postgres://postgres@db.example/x");
        know_url("no url");
        for text in ["pass%2Fword-1", "pass/word-1", "red-is-pass", "query-secret", "hub-token-0"] {
            assert_eq!(hide(text), HIDDEN, "{text}");
        }
        assert_eq!(hide("novastack, postgres, db.example"), "novastack, postgres, db.example");
    }

    /// Not a bound that holds on every machine: it prints what a frame costs.
    #[test]
    fn a_frame_costs_little() {
        (0..20).for_each(|n| know(&format!("sk-speed-{n:02}-0123456789abcdef0123456789abcdef")));
        let frame = r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}"#;
        const TURNS: u32 = 20_000;
        let begun = Instant::now();
        (0..TURNS).for_each(|_| assert!(matches!(hide(std::hint::black_box(frame)), Cow::Borrowed(_))));
        let time = begun.elapsed() / TURNS;
        println!("{time:?} for a frame of {} bytes and 20 secrets", frame.len());
        assert!(time.as_micros() < 100, "{time:?}");
    }
}
