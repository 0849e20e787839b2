//! The pieces of Python that chat templates lean on: `str()` and `repr()`, `json.dumps`,
//! methods of strings and lists, `strftime`. Everything is pure.
//!
//! Absent on purpose: methods that change their object (transformers' sandbox refuses them
//! too) and those that make no text.

use minijinja::value::{Kwargs, Object, ObjectRepr, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use std::fmt::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A JSON value as a template sees it; the order of keys is kept.
pub(super) fn from_json(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::from(()),
        Json::Bool(value) => value.into(),
        Json::String(value) => value.into(),
        Json::Array(items) => items.into_iter().map(from_json).collect::<Vec<_>>().into(),
        Json::Object(fields) => {
            Value::from_pairs(fields.into_iter().map(|(name, value)| (name, from_json(value))))
        }
        Json::Number(number) => number_from_json(number.to_string()),
    }
}

/// Python's integers have no bound.
fn number_from_json(written: String) -> Value {
    if written.contains(['.', 'e', 'E']) {
        return written.parse::<f64>().unwrap_or(f64::NAN).into();
    }
    match (written.parse::<i64>(), written.parse::<i128>()) {
        (Ok(int), _) => int.into(),
        (_, Ok(int)) => int.into(),
        _ => Value::from_object(WideInteger(written)),
    }
}

/// An integer of more than 128 bits, by its digits.
#[derive(Debug)]
struct WideInteger(String);

impl Object for WideInteger {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

/// `str(value)`: a string is itself, undefined is empty.
pub(super) fn to_str(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => repr(value),
    }
}

/// `repr(value)`.
fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::Number => number(value),
        ValueKind::String => repr_str(value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            let items: Vec<_> = items(value).iter().map(repr).collect();
            match (value.is_tuple(), items.as_slice()) {
                (true, [one]) => format!("({one},)"),
                (true, _) => format!("({})", items.join(", ")),
                (false, _) => format!("[{}]", items.join(", ")),
            }
        }
        ValueKind::Map => {
            let fields: Vec<_> = fields(value)
                .iter()
                .map(|(name, value)| format!("{}: {}", repr(name), repr(value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        _ => value.to_string(),
    }
}

fn repr_str(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            // Writing to a string cannot fail.
            c if (c as u32) < 0x100 => _ = write!(out, "\\x{:02x}", c as u32),
            c if (c as u32) < 0x10000 => _ = write!(out, "\\u{:04x}", c as u32),
            c => _ = write!(out, "\\U{:08x}", c as u32),
        }
    }
    out.push(quote);
    out
}

/// Rust's debug format escapes what Python's repr does, and combining characters at the front.
fn is_printable(c: char) -> bool {
    matches!(c, '\'' | '"') || format!("a{c}").escape_debug().eq(['a', c])
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => float_repr(float),
        _ => value.to_string(),
    }
}

/// Python's shortest digits that read back, with an exponent from 1e16 and below 1e-4.
fn float_repr(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "nan".into()
        } else if value > 0.0 {
            "inf".into()
        } else {
            "-inf".into()
        };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse().unwrap_or(0) {
        exponent @ -4..16 => {
            let plain = format!("{value}");
            if exponent >= 0 && !plain.contains('.') { plain + ".0" } else { plain }
        }
        exponent => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, i32::abs(exponent)),
    }
}

fn items(value: &Value) -> Vec<Value> {
    value.try_iter().map(|items| items.collect()).unwrap_or_default()
}

fn fields(value: &Value) -> Vec<(Value, Value)> {
    let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
    pairs.map(|pairs| pairs.collect()).unwrap_or_default()
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// The `tojson` filter: `json.dumps` with transformers' defaults.
pub(super) fn tojson(value: &Value, ensure_ascii: Option<bool>, options: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(i64::try_from(indent)?.clamp(0, 64)).unwrap_or(0)),
        }),
    };
    let separators: Option<Value> = options.get("separators")?;
    let (item, key) =
        match separators.filter(|separators| !separators.is_none()).as_ref().map(items).as_deref() {
            None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
            Some([item, key]) => (to_str(item), to_str(key)),
            Some(_) => return Err(invalid("tojson: separators must be two strings")),
        };
    let dumper = JsonDumper {
        ensure_ascii: ensure_ascii.or(options.get("ensure_ascii")?).unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item,
        key,
    };
    options.assert_all_used()?;
    let mut out = String::new();
    dumper.value(&mut out, value, 0)?;
    Ok(out)
}

struct JsonDumper {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl JsonDumper {
    fn value(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&json_number(value)),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq => {
                let items = items(value);
                self.container(out, ['[', ']'], &items, depth, |out, item| self.value(out, item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut fields = fields(value);
                if self.sort_keys {
                    fields.sort();
                }
                self.container(out, ['{', '}'], &fields, depth, |out, (name, value)| {
                    match name.kind() {
                        ValueKind::String => self.string(out, name.as_str().unwrap_or_default()),
                        ValueKind::None => out.push_str("\"null\""),
                        ValueKind::Bool => self.string(out, if name.is_true() { "true" } else { "false" }),
                        ValueKind::Number => self.string(out, &json_number(name)),
                        other => return Err(invalid(format!("tojson: a key cannot be of type {other}"))),
                    }
                    out.push_str(&self.key);
                    self.value(out, value, depth + 1)
                })?;
            }
            other => match value.downcast_object_ref::<WideInteger>() {
                Some(WideInteger(digits)) => out.push_str(digits),
                None => return Err(invalid(format!("tojson: a value of type {other} is not JSON"))),
            },
        }
        Ok(())
    }

    fn container<T>(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        items: &[T],
        depth: usize,
        write: impl Fn(&mut String, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |out: &mut String, depth| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item);
            }
            line(out, depth + 1);
            write(out, item)?;
        }
        if !items.is_empty() {
            line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                ' '..='~' => out.push(c),
                c if c >= ' ' && !self.ensure_ascii => out.push(c),
                c => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        _ = write!(out, "\\u{unit:04x}");
                    }
                }
            }
        }
        out.push('"');
    }
}

fn json_number(value: &Value) -> String {
    match number(value).as_str() {
        "nan" => "NaN".into(),
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        text => text.into(),
    }
}

/// Python's idea of white space: Unicode's, and the four ASCII separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `text.strip()`.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `text.rstrip()`.
pub(super) fn rstrip(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// The `trim` filter: `str(value).strip(chars)`.
pub(super) fn trim(value: &Value, chars: Option<&str>) -> String {
    let text = to_str(value);
    match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)).to_owned(),
        None => strip(&text).to_owned(),
    }
}

/// `len(value)`, which is 0 for undefined.
pub(super) fn length(value: &Value) -> Result<usize, Error> {
    let length = if value.is_undefined() { Some(0) } else { value.len() };
    length.ok_or_else(|| invalid(format!("object of type {} has no len()", value.kind())))
}

/// Whether a value can be looped over; none cannot, undefined can.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Whether a value has a length and items: strings and dicts too.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined)
}

/// Whether a value can be called: functions and macros are the only plain objects.
pub(super) fn is_callable(value: &Value) -> bool {
    value.kind() == ValueKind::Plain
}

/// Python's methods, where minijinja-contrib lacks them or knows another white space.
pub(super) fn call_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match (value.kind(), value.as_str()) {
        (_, Some(text)) => string_method(text, method, args)?,
        (ValueKind::Seq, _) if method == "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let found = items(value).iter().position(|item| item == wanted);
            Some(found.ok_or_else(|| invalid(format!("{} is not in list", repr(wanted))))?.into())
        }
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let tuple = |parts: [&str; 3]| -> Value { minijinja::value::Tuple::from(parts.map(Value::from)).into() };
    let value = match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            let drop = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
            match method {
                "strip" => text.trim_matches(drop),
                "lstrip" => text.trim_start_matches(drop),
                _ => text.trim_end_matches(drop),
            }
            .into()
        }
        "split" | "rsplit" => {
            let (separator, limit, options): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = separator.or(options.get("sep")?);
            let limit = limit.or(options.get("maxsplit")?).and_then(|limit| usize::try_from(limit).ok());
            options.assert_all_used()?;
            let parts = split(text, separator, limit.unwrap_or(usize::MAX - 1), method == "rsplit")?;
            parts.into_iter().map(Value::from).collect::<Vec<_>>().into()
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            match text.split_once(separator) {
                Some((before, after)) => tuple([before, separator, after]),
                None => tuple([text, "", ""]),
            }
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            match text.rsplit_once(separator) {
                Some((before, after)) => tuple([before, separator, after]),
                None => tuple(["", "", text]),
            }
        }
        "find" | "rfind" | "index" => {
            let (wanted,): (&str,) = from_args(args)?;
            let byte = if method == "rfind" { text.rfind(wanted) } else { text.find(wanted) };
            match byte.map(|byte| text[..byte].chars().count() as i64) {
                None if method == "index" => return Err(invalid("substring not found")),
                found => found.unwrap_or(-1).into(),
            }
        }
        "isspace" => {
            let () = from_args(args)?;
            (!text.is_empty() && text.chars().all(is_space)).into()
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

/// `text.split(separator, limit)`, from the right if `reverse`.
fn split<'a>(
    text: &'a str,
    separator: Option<&str>,
    limit: usize,
    reverse: bool,
) -> Result<Vec<&'a str>, Error> {
    let mut parts: Vec<&str> = Vec::new();
    match (separator, reverse) {
        (Some(""), _) => return Err(invalid("empty separator")),
        (Some(separator), false) => parts.extend(text.splitn(limit + 1, separator)),
        (Some(separator), true) => parts.extend(text.rsplitn(limit + 1, separator)),
        (None, _) => {
            let trim = |text: &'a str| {
                if reverse { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) }
            };
            let mut rest = trim(text);
            while !rest.is_empty() && parts.len() < limit {
                let cut = if reverse { rest.rsplit_once(is_space) } else { rest.split_once(is_space) };
                let (part, after) = match cut {
                    Some((before, after)) if reverse => (after, before),
                    Some((before, after)) => (before, after),
                    None => (rest, ""),
                };
                parts.push(part);
                rest = trim(after);
            }
            if !rest.is_empty() {
                parts.push(rest);
            }
        }
    }
    if reverse {
        parts.reverse();
    }
    Ok(parts)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// `now.strftime(format)` in UTC and English; `%-d` and the like write no leading zero.
pub(super) fn strftime(now: SystemTime, format: &str) -> Result<String, String> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let weekday = (days + 4) % 7;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let hour12 = (hour + 11) % 12 + 1;
    let day_of_year = days - days_before_year(year) + 1;

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let mut padded = |value: u64, width: usize| {
            _ = write!(out, "{value:0width$}", width = if bare { 1 } else { width });
        };
        match directive {
            Some('Y') => padded(year, 4),
            Some('y') => padded(year % 100, 2),
            Some('m') => padded(month, 2),
            Some('d') => padded(day, 2),
            Some('H') => padded(hour, 2),
            Some('I') => padded(hour12, 2),
            Some('M') => padded(minute, 2),
            Some('S') => padded(second, 2),
            Some('j') => padded(day_of_year, 3),
            Some('w') => padded(weekday, 1),
            Some('e') => _ = write!(out, "{day:2}"),
            Some('B') => out.push_str(MONTHS[month as usize - 1]),
            Some('b' | 'h') => out.push_str(&MONTHS[month as usize - 1][..3]),
            Some('A') => out.push_str(DAYS[weekday as usize]),
            Some('a') => out.push_str(&DAYS[weekday as usize][..3]),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('F') => _ = write!(out, "{year:04}-{month:02}-{day:02}"),
            Some('T') => _ = write!(out, "{hour:02}:{minute:02}:{second:02}"),
            Some('R') => _ = write!(out, "{hour:02}:{minute:02}"),
            Some('D') => _ = write!(out, "{month:02}/{day:02}/{:02}", year % 100),
            // A naive datetime has no zone.
            Some('Z' | 'z') => {}
            Some('%') => out.push('%'),
            other => {
                let other = other.map_or(String::new(), String::from);
                return Err(format!("strftime_now: %{other} is not supported"));
            }
        }
    }
    Ok(out)
}

/// (year, month 1..=12, day 1..=31) of a day counted from 1970-01-01.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // Howard Hinnant's civil_from_days: years begin in March, so that leap days come last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Days from 1970-01-01 to the year's first day.
fn days_before_year(year: u64) -> u64 {
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
}
