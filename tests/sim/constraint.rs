//! Constraints on tokens through the real worker and scheduler: each choice keeps to its own, whatever
//! happens to it.

use super::fake::{Fake, STOP, VOCAB, allowed, next_token};
use super::rng::Rng;
use super::worker::{all, config, start, tokens};
use novastack::engine::worker::EngineConfig;
use novastack::protocol::{
    ConstraintFactory, FinishReason, GenerateRequest, SamplingParams, TokenConstraint, TokenEvent, TokenId,
};
use std::sync::Arc;

/// The sum of all tokens is a multiple of 3 plus the number of tokens; where that is said, a token errs, or
/// panics, or the end alone may come from there on.
#[derive(Clone, Debug, Default)]
struct Sum {
    count: u32,
    sum: u32,
    errs_at: Option<u32>,
    panics_at: Option<u32>,
    ends_at: Option<u32>,
    /// Every token may come before this one.
    free_until: u32,
}

impl TokenConstraint for Sum {
    fn mask(&mut self, mask: &mut [u32]) -> Result<bool, String> {
        assert_ne!(self.panics_at, Some(self.count), "a grammar that panics");
        if self.errs_at == Some(self.count) {
            return Err("a grammar that errs".into());
        }
        if self.count < self.free_until {
            return Ok(false);
        }
        mask.fill(0);
        let may = |token: &u32| match self.ends_at {
            Some(end) if self.count >= end => *token == STOP,
            _ => (self.sum + token) % 3 == self.count % 3,
        };
        (0..VOCAB).filter(may).for_each(|token| mask[token as usize / 32] |= 1 << (token % 32));
        Ok(true)
    }

    fn accept(&mut self, token: TokenId) -> Result<(), String> {
        let mut mask = [0; 2];
        if self.mask(&mut mask)? && mask[token as usize / 32] >> (token % 32) & 1 == 0 {
            return Err(format!("token {token} at {} was not allowed", self.count));
        }
        self.count += 1;
        self.sum += token;
        Ok(())
    }
}

impl ConstraintFactory for Sum {
    fn constraint(&self) -> Box<dyn TokenConstraint> {
        Box::new(self.clone())
    }
}

fn request(seed: u64, prompt_len: usize, max_tokens: u32, constraint: Sum) -> GenerateRequest {
    let mut rng = Rng(seed);
    let prompt: Vec<TokenId> = (0..prompt_len).map(|_| rng.below(VOCAB as usize) as TokenId).collect();
    GenerateRequest {
        id: seed.to_string(),
        prompt: prompt.into(),
        choices: 1,
        sampling: Arc::new(SamplingParams { seed, max_tokens, ..SamplingParams::default() }),
        cache_salt: 0,
        priority: 0,
        constraint: Some(Arc::new(constraint)),
        generated: Vec::new(),
        pooling: None,
        token_types: None,
    }
}

/// What a choice gives when it runs alone.
fn alone(request: &GenerateRequest, choice: u32) -> Vec<TokenId> {
    let mut constraint = request.constraint.as_ref().expect("a constraint").constraint();
    let mut history = request.prompt.to_vec();
    for index in 0..request.sampling.max_tokens {
        let mut mask = [0; 2];
        let token = next_token(&history, &request.sampling, choice, index);
        let restricts = constraint.mask(&mut mask).expect("a mask");
        let token = if restricts { allowed(token, &mask) } else { token };
        constraint.accept(token).expect("an allowed token");
        history.push(token);
        if request.sampling.stop_tokens.contains(&token) {
            break;
        }
    }
    history.split_off(request.prompt.len())
}

#[test]
fn every_choice_keeps_its_own_constraint_through_preemption_and_prefix_hits() {
    let mut requests: Vec<GenerateRequest> = (0..24)
        .map(|seed| {
            let constraint = Sum { free_until: (seed % 4) as u32 * 5, ..Sum::default() };
            let mut r = request(seed, 1 + (seed as usize * 7) % 90, 60, constraint);
            r.choices = 1 + (seed % 3) as u32;
            Arc::make_mut(&mut r.sampling).stop_tokens = if seed % 2 == 0 { vec![STOP] } else { vec![] };
            r
        })
        .collect();
    // One without, among them.
    requests[5].constraint = Some(Arc::new(Sum { free_until: u32::MAX, ..Sum::default() }));
    let (handle, thread) = start(EngineConfig { kv_blocks: 20, ..config() }, Fake::default(), &requests);
    for round in 0..2 {
        let streams: Vec<_> = requests.iter().map(|r| (r, handle.submit(r.clone()).unwrap())).collect();
        for (r, stream) in streams {
            let events = all(stream);
            for choice in 0..r.choices {
                assert_eq!(tokens(&events, choice), alone(r, choice), "request {}, round {round}", r.id);
            }
        }
    }
    handle.drain();
    thread.join().unwrap();
    let stats = handle.stats();
    assert!(stats.preemptions > 0 && stats.prefix_hit_tokens > 0, "{stats:?}");
    assert_eq!((stats.running, stats.waiting, stats.kv_blocks_used), (0, 0, 0));
}

#[test]
fn a_resumed_request_has_its_constraint_accept_what_was_generated() {
    let mut whole = request(7, 30, 50, Sum::default());
    whole.choices = 2;
    let expected: Vec<_> = (0..2).map(|choice| alone(&whole, choice)).collect();
    for done in [1, 17, 49] {
        let generated = vec![Some(expected[0][..done].to_vec()), Some(expected[1][..done].to_vec())];
        let resumed = GenerateRequest { generated, ..whole.clone() };
        let (handle, thread) = start(config(), Fake::default(), std::slice::from_ref(&whole));
        let events = all(handle.submit(resumed).unwrap());
        for choice in 0..2 {
            assert_eq!(tokens(&events, choice), expected[choice as usize][done..], "after {done}");
        }
        handle.drain();
        thread.join().unwrap();
    }
}

#[test]
fn a_constraint_that_fails_ends_its_own_request_alone() {
    let requests = [
        request(1, 20, 40, Sum { errs_at: Some(9), ..Sum::default() }),
        request(2, 20, 40, Sum { panics_at: Some(4), ..Sum::default() }),
        request(3, 20, 40, Sum::default()),
    ];
    let (handle, thread) = start(config(), Fake::default(), &requests);
    let streams: Vec<_> = requests.iter().map(|r| handle.submit(r.clone()).unwrap()).collect();
    let answers: Vec<_> = streams.into_iter().map(all).collect();
    let failure = |events: &[TokenEvent]| match events.last() {
        Some(TokenEvent::Failed { message }) => message.clone(),
        other => panic!("no failure, but {other:?}"),
    };
    assert_eq!(failure(&answers[0]), "a grammar that errs");
    assert_eq!(tokens(&answers[0], 0).len(), 9);
    assert_eq!(failure(&answers[1]), "the grammar could not be followed");
    assert_eq!(tokens(&answers[1], 0).len(), 4);
    assert_eq!(tokens(&answers[2], 0), alone(&requests[2], 0));
    handle.drain();
    thread.join().unwrap();
    assert!(handle.is_idle());
}

#[test]
fn min_tokens_holds_under_a_constraint_until_nothing_but_the_end_is_allowed() {
    for (seed, ends_at, min_tokens) in [(11, None, 30), (12, Some(6), 30), (13, Some(45), 30)] {
        let mut r = request(seed, 10, 60, Sum { ends_at, ..Sum::default() });
        let sampling = Arc::make_mut(&mut r.sampling);
        (sampling.stop_tokens, sampling.min_tokens) = (vec![STOP], min_tokens);
        let (handle, thread) = start(config(), Fake::default(), std::slice::from_ref(&r));
        let events = all(handle.submit(r.clone()).unwrap());
        let output = tokens(&events, 0);
        let ended = events.contains(&TokenEvent::Finished { choice: 0, reason: FinishReason::Stop });
        match ends_at {
            Some(end) if end < min_tokens => assert_eq!(output.len(), end as usize + 1, "the grammar wins"),
            _ => assert!(output.len() > min_tokens as usize, "an end before min_tokens: {output:?}"),
        }
        assert!(ended || output.len() == 60);
        handle.drain();
        thread.join().unwrap();
    }
}
