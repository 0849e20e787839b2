//! What requests cost.

use crate::config::{Price, Rates};
use crate::gateway::chat::TokenUsage;

/// The tier of the prompt's length holds for all of a request's tokens.
fn rates(price: &Price, input: u64) -> &Rates {
    let tier = price.tiers.iter().rev().find(|tier| input > tier.above_input_tokens as u64);
    tier.map_or(&price.rates, |tier| &tier.rates)
}

/// Dollars of an answer.
pub fn cost(price: &Price, usage: &TokenUsage) -> f64 {
    let TokenUsage { input, output, .. } = *usage;
    let rates = rates(price, input);
    // Each token of the prompt counts once, whatever an upstream says of it.
    let cached = usage.cached.min(input);
    let written = usage.cache_written.min(input - cached);
    let written_1h = usage.cache_written_1h.min(written);
    let write = rates.cache_write.unwrap_or(rates.input);
    let dollars = [
        (input - cached - written, rates.input),
        (cached, rates.cached_input.unwrap_or(rates.input)),
        (written - written_1h, write),
        (written_1h, rates.cache_write_1h.unwrap_or(write)),
        (output, rates.output),
    ];
    dollars.into_iter().map(|(tokens, rate)| tokens as f64 * rate).sum::<f64>() / 1e6
}

/// Dollars that a request may cost: all of its prompt at the dearest rate that it may have.
pub fn most(price: &Price, input: u64, output: u64) -> f64 {
    let rates = rates(price, input);
    let writes = [rates.cache_write, rates.cache_write_1h];
    let dearest = writes.into_iter().flatten().fold(rates.input, f64::max);
    (input as f64 * dearest + output as f64 * rates.output) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PriceTier;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
    }

    fn usage(input: u64, cached: u64, output: u64) -> TokenUsage {
        TokenUsage { input, cached, output, ..TokenUsage::default() }
    }

    #[test]
    fn cached_tokens_and_long_prompts_have_their_prices() {
        let rates = Rates { input: 4.0, output: 20.0, cached_input: Some(0.4), ..Rates::default() };
        let tier = PriceTier { above_input_tokens: 1000, rates };
        let rates = Rates { input: 2.0, output: 10.0, cached_input: Some(0.2), ..Rates::default() };
        let price = Price { rates, tiers: vec![tier] };
        close(cost(&price, &usage(1000, 0, 100)), (2000.0 + 1000.0) / 1e6);
        close(cost(&price, &usage(1000, 500, 0)), (1000.0 + 100.0) / 1e6);
        close(cost(&price, &usage(1001, 1001, 1)), (400.4 + 20.0) / 1e6);
        let rates = Rates { cached_input: None, ..rates };
        let plain = Price { rates, tiers: Vec::new() };
        close(cost(&plain, &usage(10, 10, 1)), 30.0 / 1e6);
        // An upstream that claims more from its cache than there was.
        close(cost(&plain, &usage(10, 11, 0)), 20.0 / 1e6);
        close(most(&price, 1001, 10), (4004.0 + 200.0) / 1e6);
    }

    #[test]
    fn what_is_written_to_a_cache_has_its_price() {
        let rates = Rates {
            input: 4.0,
            output: 20.0,
            cached_input: Some(0.4),
            cache_write: Some(5.0),
            cache_write_1h: Some(8.0),
        };
        let price = Price { rates, tiers: Vec::new() };
        let of = |cache_written, cache_written_1h| TokenUsage {
            cache_written,
            cache_written_1h,
            ..usage(1000, 100, 10)
        };
        close(cost(&price, &of(0, 0)), (900.0 * 4.0 + 40.0 + 200.0) / 1e6);
        close(cost(&price, &of(500, 0)), (400.0 * 4.0 + 40.0 + 2500.0 + 200.0) / 1e6);
        close(cost(&price, &of(500, 200)), (400.0 * 4.0 + 40.0 + 1500.0 + 1600.0 + 200.0) / 1e6);
        // More than there was of either.
        close(cost(&price, &of(5000, 9000)), (40.0 + 900.0 * 8.0 + 200.0) / 1e6);
        close(most(&price, 1000, 10), (8000.0 + 200.0) / 1e6);
        let without = Price { rates: Rates { cache_write_1h: None, ..rates }, tiers: Vec::new() };
        close(cost(&without, &of(500, 500)), (400.0 * 4.0 + 40.0 + 2500.0 + 200.0) / 1e6);
    }
}
