//! A constrained request among others on the HIP backend: the tokens of the one keep to its mask, the others' are
//! what they are without it, and steps are replayed as ever. In a process of its own, since the test library is
//! named by the environment.

use crate::support::{golden_dir, hip::library};
use novastack::backend::Backend;
use novastack::backend::hip::driver::Vendor;
use novastack::backend::hip::gpu::{Gpu, Half};
use novastack::backend::hip::{HipBackend, Options};
use novastack::checkpoint::Checkpoint;
use novastack::clock::Clock;
use novastack::engine::executor::{DeviceExecutor, Rank};
use novastack::engine::handle::EngineHandle;
use novastack::engine::worker::{EngineConfig, spawn};
use novastack::model::{self, Loader, ModelConfig, Weights};
use novastack::protocol::{
    ConstraintFactory, GenerateRequest, SamplingParams, TokenConstraint, TokenEvent, TokenId,
};
use std::process::Command;
use std::sync::Arc;

const BLOCKS: usize = 64;

/// Every token is one more than a multiple of 3; the first may be any.
#[derive(Clone, Debug, Default)]
struct Thirds {
    accepted: u32,
}

impl TokenConstraint for Thirds {
    fn mask(&mut self, mask: &mut [u32]) -> Result<bool, String> {
        if self.accepted == 0 {
            return Ok(false);
        }
        mask.fill(0);
        let allowed = (0..mask.len() * 32).filter(|token| token % 3 == 1);
        allowed.for_each(|token| mask[token / 32] |= 1 << (token % 32));
        Ok(true)
    }

    fn accept(&mut self, _: TokenId) -> Result<(), String> {
        self.accepted += 1;
        Ok(())
    }
}

impl ConstraintFactory for Thirds {
    fn constraint(&self) -> Box<dyn TokenConstraint> {
        Box::new(self.clone())
    }
}

#[test]
fn one_constrained_request_costs_the_others_neither_graphs_nor_tokens() {
    let Some(library) = library() else { return };
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "models::constrained::on_the_named_library", "--nocapture"])
        .env("NOVASTACK_HIP_LIBRARY", library)
        .output()
        .expect("this program again");
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{errors}");
}

#[test]
#[ignore = "needs the environment of the test above, which runs it"]
fn on_the_named_library() {
    // The same draws with and without the constraint, greedy or not.
    for temperature in [0.0, 0.9] {
        let engine = engine();
        let free = tokens(&engine, temperature, None);
        let before = engine.stats().replayed_steps;
        let constrained = tokens(&engine, temperature, Some(1));
        assert!(engine.stats().replayed_steps > before + 10, "steps with a constraint are not replayed");
        assert_eq!((&constrained[0], &constrained[2]), (&free[0], &free[2]));
        assert_eq!(constrained[1].len(), free[1].len());
        assert_eq!(constrained[1][0], free[1][0], "the first token is free");
        assert!(constrained[1][1..].iter().all(|token| token % 3 == 1), "{:?}", constrained[1]);
        assert_ne!(constrained[1], free[1], "a constraint that changes nothing");
        engine.drain();
    }
}

fn engine() -> EngineHandle {
    let checkpoint = Checkpoint::open(&golden_dir("llama")).expect("a golden");
    let shape = ModelConfig::from_json(&checkpoint.config).expect("a shape");
    let gpu = Gpu::open(Vendor::Amd, 0, Half::F16).expect("the test library");
    // What else is in the batch moves no rounding.
    let options = Options { rows_max: 32, deterministic: true, ..Options::default() };
    let backend = HipBackend::group(&[gpu], options).expect("a backend").pop().expect("a rank");
    let loader = Loader::new(&backend, &shape, Weights::Checkpoint(&checkpoint, None));
    let model = model::load(&loader, 32, 1, &|_, _| {}).expect("a model");
    let kv = backend.kv_cache(&model.kv_spec(), BLOCKS).expect("a cache");
    let executor = DeviceExecutor::spawn(vec![Rank { backend, model, kv }], BLOCKS, None);
    let config = EngineConfig {
        name: "constrained".into(),
        max_context: 128,
        kv_blocks: BLOCKS,
        max_running: 4,
        max_queued: 4,
        step_token_budget: 32,
        vocab: shape.vocab,
        cache_salt: 0,
    };
    spawn(config, Box::new(executor), Clock::real()).expect("an engine").0
}

/// Of three requests at once, one of which may be constrained.
#[tokio::main(flavor = "current_thread")]
async fn tokens(engine: &EngineHandle, temperature: f32, constrained: Option<u32>) -> Vec<Vec<TokenId>> {
    let request = |index: u32| GenerateRequest {
        id: index.to_string(),
        prompt: vec![5 + index, 9, 40 + index].into(),
        choices: 1,
        sampling: Arc::new(SamplingParams {
            temperature,
            seed: u64::from(index),
            max_tokens: 32,
            ..SamplingParams::default()
        }),
        cache_salt: 0,
        priority: 0,
        constraint: (constrained == Some(index))
            .then(|| Arc::new(Thirds::default()) as Arc<dyn ConstraintFactory>),
        generated: Vec::new(),
        pooling: None,
        token_types: None,
    };
    let streams: Vec<_> = (0..3).map(|index| engine.submit(request(index)).expect("a stream")).collect();
    let mut all = Vec::new();
    for mut stream in streams {
        let mut tokens = Vec::new();
        while let Some(event) = stream.next().await {
            match event {
                TokenEvent::Token { token, .. } => tokens.push(token.token),
                TokenEvent::Failed { message } => panic!("{message}"),
                TokenEvent::Prompt { .. } | TokenEvent::Pooled { .. } | TokenEvent::Finished { .. } => {}
            }
        }
        all.push(tokens);
    }
    all
}
