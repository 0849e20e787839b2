//! What requests cost.

use crate::config::Price;
use crate::gateway::chat::TokenUsage;

/// Dollars for so many tokens of prompt (`cached` of them from the upstream's cache) and answer.
/// The tier of the prompt's length holds for all of them.
pub fn dollars(price: &Price, input: u64, cached: u64, output: u64) -> f64 {
    let tier = price.tiers.iter().rev().find(|tier| input > tier.above_input_tokens as u64);
    let (input_price, output_price, cached_price) = match tier {
        Some(tier) => (tier.input, tier.output, tier.cached_input),
        None => (price.input, price.output, price.cached_input),
    };
    let cached = cached.min(input);
    let input_dollars =
        (input - cached) as f64 * input_price + cached as f64 * cached_price.unwrap_or(input_price);
    (input_dollars + output as f64 * output_price) / 1e6
}

/// Dollars of an answer.
pub fn cost(price: &Price, usage: &TokenUsage) -> f64 {
    dollars(price, usage.input, usage.cached, usage.output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PriceTier;

    #[test]
    fn cached_tokens_and_long_prompts_have_their_prices() {
        let tier = PriceTier { above_input_tokens: 1000, input: 4.0, output: 20.0, cached_input: Some(0.4) };
        let price = Price { input: 2.0, output: 10.0, cached_input: Some(0.2), tiers: vec![tier] };
        let close =
            |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
        close(dollars(&price, 1000, 0, 100), (2000.0 + 1000.0) / 1e6);
        close(dollars(&price, 1000, 500, 0), (1000.0 + 100.0) / 1e6);
        close(dollars(&price, 1001, 1001, 1), (400.4 + 20.0) / 1e6);
        let plain = Price { input: 2.0, output: 10.0, cached_input: None, tiers: Vec::new() };
        close(
            cost(&plain, &TokenUsage { input: 10, cached: 10, output: 1, ..TokenUsage::default() }),
            30.0 / 1e6,
        );
        // An upstream that claims more from its cache than there was.
        close(dollars(&plain, 10, 11, 0), 20.0 / 1e6);
    }
}
