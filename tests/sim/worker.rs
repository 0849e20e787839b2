//! The real worker and handle over the fake executor.

use super::fake::{Fake, STOP, VOCAB, alone, scores};
use super::rng::Rng;
use novastack::clock::Clock;
use novastack::engine::handle::{EngineHandle, SubmitError, TokenStream};
use novastack::engine::worker::{EngineConfig, spawn};
use novastack::protocol::{FinishReason, GenerateRequest, SamplingParams, TokenEvent, TokenId};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub fn config() -> EngineConfig {
    EngineConfig {
        name: "test".into(),
        max_context: 256,
        kv_blocks: 64,
        max_running: 8,
        max_queued: 64,
        step_token_budget: 64,
        vocab: VOCAB as usize,
        cache_salt: 1,
    }
}

/// A prompt of its own for every seed, and no stop token unless asked for.
fn request(seed: u64, prompt_len: usize, max_tokens: u32) -> GenerateRequest {
    let mut rng = Rng(seed);
    let prompt: Vec<TokenId> = (0..prompt_len).map(|_| rng.below(VOCAB as usize) as TokenId).collect();
    GenerateRequest {
        id: seed.to_string(),
        prompt: prompt.into(),
        choices: 1,
        sampling: Arc::new(SamplingParams { seed, max_tokens, ..SamplingParams::default() }),
        cache_salt: 0,
        priority: 0,
        constraint: None,
        generated: Vec::new(),
        pooling: None,
        token_types: None,
    }
}

pub fn start(
    config: EngineConfig,
    mut fake: Fake,
    requests: &[GenerateRequest],
) -> (EngineHandle, JoinHandle<()>) {
    for r in requests {
        fake.prompts.insert(r.sampling.seed, r.prompt.to_vec());
    }
    spawn(config, Box::new(fake), Clock::real()).unwrap()
}

/// A fake that runs one step per message.
fn gated() -> (Fake, Sender<()>) {
    let (open, gate) = channel();
    (Fake { gate: Some(gate), ..Fake::default() }, open)
}

#[tokio::main(flavor = "current_thread")]
pub async fn all(mut stream: TokenStream) -> Vec<TokenEvent> {
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    events
}

pub fn tokens(events: &[TokenEvent], of: u32) -> Vec<TokenId> {
    let token = |event: &TokenEvent| match event {
        TokenEvent::Token { choice, token } if *choice == of => Some(token.token),
        _ => None,
    };
    events.iter().filter_map(token).collect()
}

/// Waits for a condition that must come true soon.
fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn many_callers_get_what_each_would_get_alone() {
    let requests: Vec<GenerateRequest> = (0..40)
        .map(|seed| {
            let mut r = request(seed, 1 + (seed as usize * 7) % 120, 40);
            r.choices = 1 + (seed % 3) as u32;
            let sampling = Arc::make_mut(&mut r.sampling);
            sampling.stop_tokens = vec![STOP];
            sampling.prompt_logprobs = (seed % 5 == 0).then_some(0);
            r
        })
        .collect();
    let (handle, thread) = start(EngineConfig { kv_blocks: 20, ..config() }, Fake::default(), &requests);
    let callers: Vec<_> = requests
        .into_iter()
        .map(|r| {
            let stream = handle.submit(r.clone()).unwrap();
            std::thread::spawn(move || (r, all(stream)))
        })
        .collect();
    for caller in callers {
        let (r, events) = caller.join().unwrap();
        let wanted = r.sampling.prompt_logprobs.map(|_| scores(&r.prompt));
        assert!(matches!(&events[0], TokenEvent::Prompt { logprobs, .. } if *logprobs == wanted));
        for choice in 0..r.choices {
            let (expected, reason) = alone(&r.prompt, &r.sampling, choice, 256);
            assert_eq!(tokens(&events, choice), expected);
            assert!(events.contains(&TokenEvent::Finished { choice, reason }));
        }
    }
    handle.drain();
    thread.join().unwrap();
    assert!(handle.is_idle());
    let stats = handle.stats();
    assert_eq!((stats.running, stats.waiting, stats.kv_blocks_used), (0, 0, 0));
    assert_eq!(handle.submit(request(0, 5, 5)).unwrap_err(), SubmitError::Draining);
    assert_eq!(handle.failure(), None);
}

#[test]
fn choices_hold_the_prompt_once() {
    let mut r = request(1, 160, 30);
    r.choices = 4;
    let (fake, open) = gated();
    let (handle, _thread) = start(config(), fake, std::slice::from_ref(&r));
    let stream = handle.submit(r).unwrap();
    // 3 steps for the prompt, one that admits the other choices, and some more.
    (0..8).for_each(|_| open.send(()).unwrap());
    until("8 steps", || handle.stats().steps == 8);
    let stats = handle.stats();
    assert_eq!(stats.running, 4);
    // 9 full blocks are shared (the 10th is computed anew for its last token's logits), and each
    // choice has a 10th and an 11th of its own.
    assert!(stats.kv_blocks_used <= 9 + 4 * 2, "{} blocks", stats.kv_blocks_used);
    assert_eq!(stats.prefix_hit_tokens, 3 * 144);
    drop(open);
    let events = all(stream);
    assert_eq!(events.iter().filter(|e| matches!(e, TokenEvent::Prompt { .. })).count(), 1);
}

#[test]
fn a_disconnect_frees_blocks_within_one_step() {
    let requests = [request(1, 100, 100), request(2, 20, 100)];
    let (fake, open) = gated();
    let (handle, _thread) = start(config(), fake, &requests);
    let [first, second] = requests.map(|r| handle.submit(r).unwrap());
    let step = |n: u64| {
        open.send(()).unwrap();
        until("a step", || handle.stats().steps == n);
    };
    (1..=4).for_each(step);
    assert_eq!((handle.stats().running, handle.stats().kv_blocks_used), (2, 7 + 2));
    // The step in flight was planned before; the next one runs without the caller who left.
    drop(first);
    (5..=6).for_each(step);
    assert_eq!((handle.stats().running, handle.stats().last_batch_seqs), (1, 1));
    assert_eq!(handle.stats().kv_blocks_used, 2);
    drop(second);
    step(7);
    until("idle", || handle.is_idle() && handle.stats().kv_blocks_used == 0);
}

#[test]
fn a_cancelled_choice_ends_alone() {
    let mut r = request(1, 10, 50);
    r.choices = 2;
    let (fake, open) = gated();
    let (handle, _thread) = start(config(), fake, std::slice::from_ref(&r));
    let stream = handle.submit(r.clone()).unwrap();
    (0..10).for_each(|_| open.send(()).unwrap());
    until("10 steps", || handle.stats().steps == 10);
    stream.cancel_choice(0);
    drop(open);
    let events = all(stream);
    assert!(tokens(&events, 0).len() <= 11);
    assert!(!events.iter().any(|e| matches!(e, TokenEvent::Finished { choice: 0, .. })));
    assert_eq!(tokens(&events, 1).len(), 50);
    assert!(events.contains(&TokenEvent::Finished { choice: 1, reason: FinishReason::Length }));
    until("idle", || handle.is_idle());
}

#[test]
fn a_full_queue_refuses() {
    let requests: Vec<_> = (0..6).map(|seed| request(seed, 10, 20)).collect();
    let (fake, open) = gated();
    let (handle, _thread) =
        start(EngineConfig { max_running: 1, max_queued: 3, ..config() }, fake, &requests);
    let mut streams = vec![handle.submit(requests[0].clone()).unwrap()];
    until("admission", || handle.stats().waiting == 0);
    for r in &requests[1..4] {
        streams.push(handle.submit(r.clone()).unwrap());
    }
    let refused = handle.submit(requests[4].clone()).unwrap_err();
    assert_eq!(refused, SubmitError::QueueFull { waiting: 3, limit: 3 });
    // A waiting caller that leaves makes room.
    streams.pop();
    (0..2).for_each(|_| open.send(()).unwrap());
    until("room", || handle.stats().waiting == 2);
    streams.push(handle.submit(requests[5].clone()).unwrap());
    drop(open);
    for stream in streams {
        assert_eq!(tokens(&all(stream), 0).len(), 20);
    }
}

#[test]
fn what_cannot_be_served_is_refused_at_once() {
    let (handle, _thread) = start(EngineConfig { kv_blocks: 4, ..config() }, Fake::default(), &[]);
    assert_eq!(handle.max_context(), 64, "all the blocks there are");
    let refused = |r| handle.submit(r).unwrap_err();
    assert_eq!(refused(request(0, 64, 1)), SubmitError::PromptTooLong { prompt_tokens: 64, max_context: 64 });
    let mut r = request(0, 3, 1);
    r.prompt = vec![1, VOCAB].into();
    assert_eq!(refused(r), SubmitError::BadToken { token: VOCAB, vocab: VOCAB as usize });
    let mut r = request(0, 3, 1);
    Arc::make_mut(&mut r.sampling).logit_bias = vec![(VOCAB + 3, 1.0)];
    assert_eq!(refused(r), SubmitError::BadToken { token: VOCAB + 3, vocab: VOCAB as usize });
    assert!(handle.is_idle());
}

#[test]
fn the_context_ends_a_choice() {
    let r = request(3, 63, 1000);
    let (handle, _thread) =
        start(EngineConfig { kv_blocks: 5, ..config() }, Fake::default(), std::slice::from_ref(&r));
    let events = all(handle.submit(r).unwrap());
    assert_eq!(tokens(&events, 0).len(), 80 - 63);
    assert_eq!(events.last(), Some(&TokenEvent::Finished { choice: 0, reason: FinishReason::Length }));
}

#[test]
fn a_failure_tells_everybody() {
    for fake in [
        Fake { fail_launch: Some(5), ..Fake::default() },
        Fake { fail_collect: Some(5), ..Fake::default() },
        Fake { panic_collect: Some(5), ..Fake::default() },
    ] {
        let requests: Vec<_> = (0..6).map(|seed| request(seed, 30, 100)).collect();
        let (handle, thread) = start(EngineConfig { max_running: 3, ..config() }, fake, &requests);
        let streams: Vec<_> = requests.iter().filter_map(|r| handle.submit(r.clone()).ok()).collect();
        assert!(!streams.is_empty());
        for stream in streams {
            let events = all(stream);
            assert!(matches!(events.last(), Some(TokenEvent::Failed { .. })), "{:?}", events.last());
        }
        thread.join().unwrap();
        let stats = handle.stats();
        assert_eq!((stats.waiting, stats.running, stats.kv_blocks_used), (0, 0, 0));
        let failure = handle.failure().unwrap();
        assert_eq!(handle.submit(requests[0].clone()).unwrap_err(), SubmitError::Stopped(failure));
        assert!(handle.is_idle());
    }
}

/// Logits that are not finite end their own request; what it computed is no cache for others.
#[test]
fn a_broken_row_fails_its_request_alone() {
    let mut requests: Vec<_> = (0..9).map(|seed| request(seed, 50, 40)).collect();
    requests[3].choices = 3;
    // The same prompt as a broken one, computed after it.
    let twin = GenerateRequest { prompt: requests[0].prompt.clone(), ..request(99, 50, 40) };
    let broken = [(0, 0), (3, 7), (6, 39)].into();
    let all_requests: Vec<_> = requests.iter().chain([&twin]).cloned().collect();
    let (handle, _thread) = start(config(), Fake { broken, ..Fake::default() }, &all_requests);
    let streams: Vec<_> = requests.iter().map(|r| handle.submit(r.clone()).unwrap()).collect();
    for (r, stream) in requests.iter().zip(streams) {
        let events = all(stream);
        let (expected, _) = alone(&r.prompt, &r.sampling, 0, 256);
        let failed =
            matches!(events.last(), Some(TokenEvent::Failed { message }) if message.contains("finite"));
        match r.sampling.seed {
            0 => assert!(failed && events.len() == 1, "{events:?}"),
            3 => assert!(failed && tokens(&events, 0) == expected[..7], "{events:?}"),
            6 => assert!(failed && tokens(&events, 0) == expected[..39], "{events:?}"),
            _ => assert_eq!(tokens(&events, 0), expected),
        }
    }
    let hits = handle.stats().prefix_hit_tokens;
    let events = all(handle.submit(twin.clone()).unwrap());
    assert_eq!(tokens(&events, 0), alone(&twin.prompt, &twin.sampling, 0, 256).0);
    assert_eq!(handle.stats().prefix_hit_tokens, hits, "nothing of a broken sequence is reused");
    until("idle", || handle.is_idle() && handle.stats().kv_blocks_used == 0);
    assert_eq!(handle.failure(), None);
}

#[test]
fn draining_finishes_what_there_is() {
    let requests: Vec<_> = (0..12).map(|seed| request(seed, 30, 30)).collect();
    let (handle, thread) = start(EngineConfig { max_running: 2, ..config() }, Fake::default(), &requests);
    let streams: Vec<_> = requests.iter().map(|r| handle.submit(r.clone()).unwrap()).collect();
    handle.drain();
    assert_eq!(handle.submit(requests[0].clone()).unwrap_err(), SubmitError::Draining);
    for stream in streams {
        assert_eq!(tokens(&all(stream), 0).len(), 30);
    }
    thread.join().unwrap();
}

/// Submissions race with the end of the engine: whatever was taken is answered.
#[test]
fn nothing_is_lost_in_the_race_with_a_drain() {
    for round in 0..50 {
        let requests: Vec<_> = (0..4).map(|seed| request(seed, 5, 2)).collect();
        let (handle, thread) = start(config(), Fake::default(), &requests);
        let callers: Vec<_> = requests
            .into_iter()
            .map(|r| {
                let handle = handle.clone();
                std::thread::spawn(move || match handle.submit(r) {
                    Ok(stream) => assert_eq!(tokens(&all(stream), 0).len(), 2),
                    Err(error) => assert_eq!(error, SubmitError::Draining),
                })
            })
            .collect();
        std::thread::sleep(Duration::from_micros(20 * round));
        handle.drain();
        callers.into_iter().for_each(|c| c.join().unwrap());
        thread.join().unwrap();
        assert!(handle.is_idle());
    }
}

/// A request that one engine has begun goes on at another as if nothing had happened: greedy or drawn,
/// one choice or several, wherever it was cut, ended choices among them.
#[test]
fn what_one_engine_has_begun_another_ends() {
    for (seed, choices) in [(1, 1), (2, 3)] {
        let mut whole = request(seed, 40, 30);
        whole.choices = choices;
        let expected: Vec<Vec<TokenId>> =
            (0..choices).map(|choice| alone(&whole.prompt, &whole.sampling, choice, 256).0).collect();
        for cut in [0, 1, 7, 15, 16, 24, 29] {
            let mut generated: Vec<_> =
                expected.iter().map(|tokens| Some(tokens[..cut.min(tokens.len() - 1)].to_vec())).collect();
            if choices > 1 {
                generated[0] = None;
            }
            let resumed = GenerateRequest { generated: generated.clone(), ..whole.clone() };
            let (handle, _thread) = start(config(), Fake::default(), std::slice::from_ref(&resumed));
            let events = all(handle.submit(resumed).unwrap());
            for (choice, before) in generated.iter().enumerate() {
                let after = tokens(&events, choice as u32);
                match before {
                    None => assert!(after.is_empty(), "an ended choice goes on"),
                    Some(before) => assert_eq!([&before[..], &after[..]].concat(), expected[choice], "{cut}"),
                }
            }
            let ends = events.iter().filter(|event| matches!(event, TokenEvent::Finished { .. })).count();
            assert_eq!(ends, generated.iter().flatten().count());
            until("idle", || handle.is_idle() && handle.stats().kv_blocks_used == 0);
        }
    }
    let (handle, _thread) = start(config(), Fake::default(), &[]);
    let full = GenerateRequest { generated: vec![Some(vec![1; 216])], ..request(3, 40, 300) };
    let error = SubmitError::PromptTooLong { prompt_tokens: 256, max_context: 256 };
    assert_eq!(handle.submit(full).unwrap_err(), error);
    let strange = GenerateRequest { generated: vec![Some(vec![VOCAB])], ..request(3, 40, 30) };
    assert!(matches!(handle.submit(strange).unwrap_err(), SubmitError::BadToken { .. }));
}
