//! The encoders' engine over an encoder that waits, breaks or says nonsense when it is told to.

use super::{pooled, refusal, request};
use novastack::clock::Clock;
use novastack::encoder::{EncoderText, TextEncoder};
use novastack::engine::encoder::{EncoderEngineConfig, spawn};
use novastack::engine::handle::{EngineHandle, SubmitError, TokenStream};
use novastack::protocol::{EngineTasks, GenerateRequest, Pooling, TokenEvent, TokenId};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The token at which it fails, panics or gives NaN.
const FAILS: TokenId = 90;
const PANICS: TokenId = 91;
const NAN: TokenId = 92;

/// A text's numbers are its length and its first token; a step begins when it gets a message.
struct Gated {
    gate: Receiver<()>,
    /// The texts of each step, by their first tokens.
    steps: Arc<Mutex<Vec<Vec<TokenId>>>>,
}

impl TextEncoder for Gated {
    fn tasks(&self) -> EngineTasks {
        EngineTasks { generates: false, embeds: true, classifies: false }
    }

    fn token_types(&self) -> usize {
        2
    }

    fn encode(&mut self, texts: &[EncoderText<'_>]) -> Result<Vec<Vec<f32>>, String> {
        self.gate.recv().expect("the test opens it");
        self.steps.lock().expect("no panic").push(texts.iter().map(|text| text.ids[0]).collect());
        let first = |wanted| texts.iter().any(|text| text.ids[0] == wanted);
        assert!(!first(PANICS), "told to");
        if first(FAILS) {
            return Err("out of luck".into());
        }
        let values = |text: &EncoderText<'_>| match text.ids[0] {
            NAN => vec![f32::NAN, 0.0],
            first => vec![text.ids.len() as f32, first as f32],
        };
        Ok(texts.iter().map(values).collect())
    }
}

struct Started {
    engine: EngineHandle,
    thread: JoinHandle<()>,
    open: Sender<()>,
    steps: Arc<Mutex<Vec<Vec<TokenId>>>>,
}

fn start(max_queued: usize) -> Started {
    let (open, gate) = channel();
    let steps = Arc::default();
    let encoder = Gated { gate, steps: Arc::clone(&steps) };
    let config = EncoderEngineConfig {
        name: "gated".into(),
        max_context: 16,
        max_queued,
        step_token_budget: 8,
        vocab: 100,
    };
    let (engine, thread) = spawn(config, Box::new(encoder), Clock::real()).expect("a thread");
    Started { engine, thread, open, steps }
}

fn text(first: TokenId, length: usize) -> GenerateRequest {
    let mut ids = vec![1; length];
    ids[0] = first;
    request(&ids, None, Pooling::Embedding)
}

fn submit(started: &Started, first: TokenId, length: usize) -> TokenStream {
    started.engine.submit(text(first, length)).expect("a stream")
}

/// Until the engine has taken its first step and waits at the gate.
fn wait_for_a_step(started: &Started) {
    while started.engine.stats().running == 0 {
        std::thread::sleep(Duration::from_millis(2));
    }
}

async fn failure(mut stream: TokenStream) -> String {
    match stream.next().await {
        Some(TokenEvent::Failed { message }) => message,
        other => panic!("a failure is wanted: {other:?}"),
    }
}

#[tokio::test]
async fn texts_are_taken_by_priority_and_arrival_within_the_budget() {
    let started = start(16);
    let first = submit(&started, 1, 3);
    wait_for_a_step(&started);
    let mut streams = vec![first];
    streams.extend((2..6).map(|name| submit(&started, name, 3)));
    // Longer than a step's budget: alone in one.
    streams.push(submit(&started, 6, 12));
    let urgent = GenerateRequest { priority: 1, ..text(7, 2) };
    streams.push(started.engine.submit(urgent).expect("a stream"));
    assert_eq!(started.engine.stats().waiting, 6);
    (0..5).for_each(|_| started.open.send(()).expect("it waits"));
    for stream in streams {
        assert_eq!(pooled(stream).await.0.len(), 2);
    }
    assert_eq!(*started.steps.lock().unwrap(), [vec![1], vec![7, 2, 3], vec![4, 5], vec![6]]);
    let stats = started.engine.stats();
    assert_eq!((stats.steps, stats.prefill_tokens, stats.waiting, stats.running), (4, 29, 0, 0));
    assert!(started.engine.is_idle());
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_dropped_text_makes_room() {
    let started = start(2);
    let first = submit(&started, 1, 3);
    wait_for_a_step(&started);
    let (second, third) = (submit(&started, 2, 3), submit(&started, 3, 3));
    let full = started.engine.submit(text(4, 3)).expect_err("a full queue");
    assert_eq!(full, SubmitError::QueueFull { waiting: 2, limit: 2 });
    drop(second);
    started.open.send(()).expect("it waits");
    started.open.send(()).expect("it waits");
    pooled(first).await;
    assert_eq!(pooled(third).await.0, [3.0, 3.0]);
    assert_eq!(*started.steps.lock().unwrap(), [vec![1], vec![3]], "what nobody wants is not computed");
    assert!(started.engine.is_idle());
}

#[tokio::test]
async fn a_drain_ends_the_thread_after_what_was_queued() {
    let started = start(16);
    let streams = [submit(&started, 1, 3), submit(&started, 2, 3)];
    started.engine.drain();
    assert_eq!(refusal(&started.engine, &[5], Some(Pooling::Embedding)), SubmitError::Draining);
    (0..2).for_each(|_| started.open.send(()).expect("it waits"));
    for stream in streams {
        pooled(stream).await;
    }
    started.thread.join().expect("no panic");
}

#[tokio::test]
async fn a_broken_encoder_fails_every_text_and_refuses_later_ones() {
    for (token, why) in [(FAILS, "out of luck"), (PANICS, "told to")] {
        let started = start(16);
        let first = submit(&started, token, 3);
        wait_for_a_step(&started);
        let waiting = submit(&started, 2, 3);
        started.open.send(()).expect("it waits");
        for stream in [first, waiting] {
            let message = failure(stream).await;
            assert!(message.contains("has stopped") && message.contains(why), "{message}");
        }
        started.thread.join().expect("the failure is caught");
        assert!(started.engine.failure().is_some_and(|failure| failure.contains(why)));
        assert!(matches!(started.engine.submit(text(1, 1)), Err(SubmitError::Stopped(_))));
        assert_eq!((started.engine.live(), started.engine.stats().waiting), (0, 0));
    }
}

#[tokio::test]
async fn a_text_that_goes_wrong_is_alone_in_that() {
    let started = start(16);
    let blocker = submit(&started, 1, 8);
    wait_for_a_step(&started);
    let nan = submit(&started, NAN, 2);
    let types: Arc<[u32]> = [0, 2].into();
    let odd = GenerateRequest { token_types: Some(types), ..text(5, 2) };
    let odd = started.engine.submit(odd).expect("a stream");
    let good = submit(&started, 6, 2);
    (0..2).for_each(|_| started.open.send(()).expect("it waits"));
    pooled(blocker).await;
    assert!(failure(nan).await.contains("not finite"));
    assert_eq!(failure(odd).await, "token type 2 is not one of the model's 2");
    assert_eq!(pooled(good).await.0, [2.0, 6.0]);
    assert!(started.engine.is_idle());
}
