//! What a body asks of its target: answers, and output of each. Reservations hold it before the request,
//! and what an upstream says it used is held against it afterwards: a provider's count can be no more
//! than what it was asked to do.

use serde_json::Value;

/// Output that is expected where the caller sets no bound.
pub const EXPECTED_OUTPUT_TOKENS: u64 = 500;
/// Output tokens of one answer that count against a minute's tokens before they are used. What is above
/// becomes a debt, which time pays back; dollars have no such time, and are held in full.
const MINUTE_OUTPUT_TOKENS_MAX: u64 = 4096;
/// The longest answer of a model whose context is not known, where its caller sets no bound: twice the
/// most that providers document.
const UNBOUND_OUTPUT_TOKENS: u64 = 1 << 18;
/// How far an upstream's count may be above what was asked for: it may count a stop token, or a system
/// prompt of its own for tools.
pub const MARGIN_TOKENS: u64 = 4096;

/// What a body asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Answers, each with output of its own: `n`, or `best_of`, for every prompt.
    pub choices: u64,
    /// The most output of each that the caller allows, thinking included; None: nobody said.
    pub output: Option<u64>,
    /// It is to think first.
    thinks: bool,
}

impl Demand {
    /// Of a request whose answer has no output tokens: embeddings and scores.
    pub const NO_OUTPUT: Self = Self { choices: 1, output: Some(0), thinks: false };

    /// Of a body of an endpoint that generates. What is no number is read as generously as the most generous
    /// provider reads it.
    pub fn of(body: &Value) -> Self {
        let number = |name: &str| body.get(name).and_then(count);
        let each = ["n", "best_of"].into_iter().filter_map(number).max().unwrap_or(1).max(1);
        let prompts = match body.get("prompt") {
            Some(Value::Array(items))
                if matches!(items.first(), Some(Value::String(_) | Value::Array(_))) =>
            {
                items.len() as u64
            }
            _ => 1,
        };
        let bound = ["max_completion_tokens", "max_tokens", "n_predict"].into_iter().filter_map(number).max();
        // Anthropic's budget is within `max_tokens`, or above it where a model thinks between tools.
        let within = count(&body["thinking"]["budget_tokens"]);
        let besides = count(&body["reasoning"]["max_tokens"]);
        let besides = [number("thinking_budget"), number("thinking_budget_tokens"), besides];
        let besides = besides.into_iter().flatten().max();
        let is_on = |value: Option<&Value>, off: &[&str]| {
            value.is_some_and(|value| {
                !value.is_null() && !value.as_str().is_some_and(|word| off.contains(&word))
            })
        };
        let thinks = is_on(body.get("reasoning_effort"), &["none"])
            || is_on(Some(&body["thinking"]["type"]), &["disabled"])
            || is_on(body.get("reasoning"), &[])
            || body.get("enable_thinking").is_some_and(|value| value != false && !value.is_null())
            || besides.is_some();
        Self {
            choices: each.saturating_mul(prompts),
            output: bound.map(|bound| bound.max(within.unwrap_or(0)).saturating_add(besides.unwrap_or(0))),
            thinks,
        }
    }

    /// Output tokens that a reservation holds, of all answers together.
    pub fn output_held(&self) -> u64 {
        let expected = if self.thinks { MINUTE_OUTPUT_TOKENS_MAX } else { EXPECTED_OUTPUT_TOKENS };
        self.output.unwrap_or(expected).saturating_mul(self.choices)
    }

    /// Of those, what counts against a minute's tokens.
    pub fn minute_output_held(&self) -> u64 {
        self.output_held().min(MINUTE_OUTPUT_TOKENS_MAX.saturating_mul(self.choices))
    }

    /// The most output tokens that a model with this context can have used.
    pub fn output_max(&self, context: Option<usize>) -> u64 {
        let unbound = context.map_or(UNBOUND_OUTPUT_TOKENS, |context| context as u64);
        self.output.unwrap_or(unbound).saturating_mul(self.choices).saturating_add(MARGIN_TOKENS)
    }
}

/// A number as lenient providers read it: fractions are rounded up, and text may stand for a number.
fn count(value: &Value) -> Option<u64> {
    let number = match value {
        Value::Number(number) => number.as_u64().map(|whole| whole as f64).or(number.as_f64()),
        Value::String(text) => text.trim().parse::<f64>().ok(),
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        _ => None,
    };
    // Conversions of floats stop at the ends.
    number.filter(|number| *number >= 0.0).map(|number| number.ceil() as u64)
}

/// The bound that the caller sets to the output.
pub fn output_bound(body: &Value) -> Option<u64> {
    ["max_completion_tokens", "max_tokens"].iter().find_map(|name| body.get(name)?.as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whatever_multiplies_work_is_held() {
        let held = |body: Value| {
            let demand = Demand::of(&body);
            (demand.choices, demand.output_held())
        };
        assert_eq!(held(json!({})), (1, 500));
        assert_eq!(held(json!({ "max_tokens": 480, "n": 128 })), (128, 61_440));
        assert_eq!(held(json!({ "max_tokens": 10, "n": 2, "best_of": 5 })), (5, 50));
        assert_eq!(held(json!({ "max_tokens": 10, "max_completion_tokens": 20 })), (1, 20));
        assert_eq!(held(json!({ "n_predict": 30 })), (1, 30));
        assert_eq!(held(json!({ "prompt": ["a", "b", "c"], "n": 2, "max_tokens": 7 })), (6, 42));
        assert_eq!(held(json!({ "prompt": [[1, 2], [3]], "max_tokens": 7 })), (2, 14));
        assert_eq!(held(json!({ "prompt": [1, 2, 3], "max_tokens": 7 })), (1, 7));
        // Thinking within the bound, above it, and beside it.
        assert_eq!(held(json!({ "max_tokens": 100, "thinking": { "budget_tokens": 50 } })).1, 100);
        assert_eq!(held(json!({ "max_tokens": 100, "thinking": { "budget_tokens": 500 } })).1, 500);
        assert_eq!(held(json!({ "max_tokens": 100, "thinking_budget": 1000 })).1, 1100);
        assert_eq!(held(json!({ "max_tokens": 100, "reasoning": { "max_tokens": 1000 } })).1, 1100);
        assert_eq!(held(json!({ "reasoning_effort": "high", "n": 2 })), (2, 8192));
        assert_eq!(held(json!({ "reasoning_effort": "none" })), (1, 500));
        // Some providers take these for numbers.
        assert_eq!(held(json!({ "max_tokens": "480", "n": "128" })), (128, 61_440));
        assert_eq!(held(json!({ "max_tokens": 9.5, "n": 2.0 })), (2, 20));
        // Nothing wraps.
        assert_eq!(held(json!({ "max_tokens": u64::MAX, "n": u64::MAX })).1, u64::MAX);
        assert_eq!(held(json!({ "max_tokens": -1, "n": -5 })), (1, 500));
    }

    #[test]
    fn a_minute_is_held_less_of_a_long_answer_than_a_budget() {
        let demand = Demand::of(&json!({ "max_tokens": 100_000, "n": 3 }));
        assert_eq!((demand.output_held(), demand.minute_output_held()), (300_000, 3 * 4096));
        assert_eq!(demand.output_max(Some(10)), 300_000 + MARGIN_TOKENS);
        let open = Demand::of(&json!({ "n": 2 }));
        assert_eq!(open.output_max(Some(8000)), 16_000 + MARGIN_TOKENS);
        assert_eq!(open.output_max(None), 2 * UNBOUND_OUTPUT_TOKENS + MARGIN_TOKENS);
    }
}
