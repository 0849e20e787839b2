//! A batch of requests through the engine: submitted at once, each token's time taken.

use novastack::engine::handle::{EngineHandle, TokenStream};
use novastack::protocol::{GenerateRequest, SamplingParams, TokenEvent, TokenId};
use std::sync::Arc;
use std::time::Instant;

/// Prompts that share no prefix with each other or with any other row's.
pub fn prompts(count: usize, tokens: usize, vocab: usize, seed: u64) -> Vec<Arc<[TokenId]>> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut token = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32 % vocab as u32
    };
    (0..count).map(|_| (0..tokens).map(|_| token()).collect()).collect()
}

/// When the tokens of each request came, in seconds after all were submitted.
///
/// # Errors
/// Where the engine refused or failed a request, or ended one early.
pub fn run(
    engine: &EngineHandle,
    runtime: &tokio::runtime::Runtime,
    prompts: &[Arc<[TokenId]>],
    output: u32,
) -> Result<Vec<Vec<f64>>, String> {
    let sampling =
        Arc::new(SamplingParams { temperature: 0.0, max_tokens: output, ..SamplingParams::default() });
    let start = Instant::now();
    let mut streams = Vec::with_capacity(prompts.len());
    for (index, prompt) in prompts.iter().enumerate() {
        let request = GenerateRequest {
            id: format!("bench-{index}"),
            prompt: prompt.clone(),
            choices: 1,
            sampling: sampling.clone(),
            cache_salt: 0,
            priority: 0,
            constraint: None,
            generated: Vec::new(),
            pooling: None,
            token_types: None,
        };
        streams.push(engine.submit(request).map_err(|error| error.to_string())?);
    }
    let all = streams.into_iter().map(|stream| times(stream, start));
    let times = runtime.block_on(futures_util::future::try_join_all(all))?;
    match times.iter().find(|times| times.len() != output as usize) {
        Some(times) => Err(format!("a request ended after {} of {output} tokens", times.len())),
        None => Ok(times),
    }
}

async fn times(mut stream: TokenStream, start: Instant) -> Result<Vec<f64>, String> {
    let mut times = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            TokenEvent::Token { .. } => times.push(start.elapsed().as_secs_f64()),
            TokenEvent::Failed { message } => return Err(message),
            TokenEvent::Prompt { .. } | TokenEvent::Pooled { .. } | TokenEvent::Finished { .. } => {}
        }
    }
    Ok(times)
}

/// Seconds of a decode step with all sequences in it: over the time in which each had got its
/// first token and none its last. None where there was no such time.
pub fn full_step_seconds(times: &[Vec<f64>]) -> Option<f64> {
    let from = times.iter().filter_map(|times| times.first()).copied().fold(0.0, f64::max);
    let until = times.iter().filter_map(|times| times.last()).copied().fold(f64::INFINITY, f64::min);
    let within = |time: &&f64| **time > from && **time <= until;
    let tokens = times.iter().flatten().filter(within).count();
    (tokens >= times.len() && until > from).then(|| (until - from) * times.len() as f64 / tokens as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_timed_while_all_sequences_decode() {
        // The second starts a second later; both decode from 2 to 4 at two tokens a second.
        let first = vec![1.0, 2.0, 2.5, 3.0, 3.5, 4.0];
        let second = vec![2.0, 2.5, 3.0, 3.5, 4.0, 9.0];
        assert_eq!(full_step_seconds(&[first, second]), Some(0.5));
        assert_eq!(full_step_seconds(&[vec![1.0], vec![2.0]]), None);
    }

    #[test]
    fn prompts_share_no_prefix() {
        let all = [prompts(3, 16, 1000, 1), prompts(3, 16, 1000, 2)].concat();
        for (at, prompt) in all.iter().enumerate() {
            assert!(prompt.iter().all(|token| *token < 1000));
            assert!(all[..at].iter().all(|other| other[..16] != prompt[..16]));
        }
    }
}
