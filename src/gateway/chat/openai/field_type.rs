//! What type a request's field has, as the API's description tells it. The readers do not ask it: they name
//! what is wrong in their own words, and a test holds them against it.

use serde_json::{Value, json};

/// The type of a field. null is the same as leaving a field out, whatever its type is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FieldType {
    /// Whatever it is.
    Any,
    /// true or false.
    Bool,
    /// A string.
    Text,
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// An integer within these bounds.
    Integer(i64, i64),
    /// An integer of 64 bits, with or without a sign.
    Bits,
    /// A number within these bounds.
    Between(f64, f64),
    /// A number above the first, up to the second.
    Above(f64, f64),
    /// An object of the caller's own making.
    Object,
    /// A list of anything.
    List,
    /// A list of strings.
    Texts,
    /// A list of token ids.
    TokenIds,
    /// What the description has under this name.
    Shape(&'static str),
    /// A list of these.
    Shapes(&'static str),
}

/// The bound of a number that has none but the machine's.
pub const UNBOUNDED: i64 = u32::MAX as i64;

impl FieldType {
    /// As JSON Schema, null allowed.
    pub fn schema(self) -> Value {
        match self {
            Self::Any => json!({}),
            Self::Bool => json!({"type": ["boolean", "null"]}),
            Self::Text => json!({"type": ["string", "null"]}),
            Self::OneOf(words) => {
                let words: Vec<Value> =
                    words.iter().map(|word| Value::from(*word)).chain([Value::Null]).collect();
                json!({"type": ["string", "null"], "enum": words})
            }
            Self::Integer(low, UNBOUNDED) => json!({"type": ["integer", "null"], "minimum": low}),
            Self::Integer(low, high) => {
                json!({"type": ["integer", "null"], "minimum": low, "maximum": high})
            }
            Self::Bits => json!({"type": ["integer", "null"], "minimum": i64::MIN, "maximum": u64::MAX}),
            Self::Between(low, high) => json!({"type": ["number", "null"], "minimum": low, "maximum": high}),
            Self::Above(low, high) if high.is_finite() => {
                json!({"type": ["number", "null"], "exclusiveMinimum": low, "maximum": high})
            }
            Self::Above(low, _) => json!({"type": ["number", "null"], "exclusiveMinimum": low}),
            Self::Object => json!({"type": ["object", "null"]}),
            Self::List => json!({"type": ["array", "null"], "items": {}}),
            Self::Texts => json!({"type": ["array", "null"], "items": {"type": "string"}}),
            Self::TokenIds => {
                json!({"type": ["array", "null"], "items": {"type": "integer", "minimum": 0}})
            }
            Self::Shape(name) => json!({"anyOf": [reference(name), {"type": "null"}]}),
            Self::Shapes(name) => json!({"type": ["array", "null"], "items": reference(name)}),
        }
    }
}

/// The description's schema of that name.
pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
