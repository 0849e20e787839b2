//! The HIP backend on the test library: hidden states and logits of chosen rows come to the host, also while others'
//! tokens are chosen on the device. In a process of its own, since the library is named by the environment.

use super::{assert_near, cases, pooled, request, submit};
use crate::support::{golden_dir, hip::library};
use novastack::backend::Backend;
use novastack::backend::hip::driver::Vendor;
use novastack::backend::hip::gpu::{Gpu, Half};
use novastack::backend::hip::{HipBackend, Options};
use novastack::checkpoint::Checkpoint;
use novastack::clock::Clock;
use novastack::engine::executor::{DeviceExecutor, Rank};
use novastack::engine::worker::{EngineConfig, spawn};
use novastack::model::{self, Loader, ModelConfig, Weights};
use novastack::protocol::{GenerateRequest, Pooling, SamplingParams, TokenEvent};
use std::process::Command;
use std::sync::Arc;

const BLOCKS: usize = 64;

#[test]
fn numbers_of_prompts_come_from_the_hip_backend() {
    let Some(library) = library() else { return };
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "embeddings::hip::on_the_named_library", "--nocapture"])
        .env("NOVASTACK_HIP_LIBRARY", library)
        .output()
        .expect("this program again");
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{errors}");
}

#[tokio::test]
#[ignore = "needs the environment of the test above, which runs it"]
async fn on_the_named_library() {
    let checkpoint = Checkpoint::open(&golden_dir("embeddings/qwen3-embedding")).expect("a golden");
    let shape = ModelConfig::from_json(&checkpoint.config).expect("a shape");
    let gpu = Gpu::open(Vendor::Amd, 0, Half::F16).expect("the test library");
    let options = Options { rows_max: 32, deterministic: true, ..Options::default() };
    let backend = HipBackend::group(&[gpu], options).expect("a backend").pop().expect("a rank");
    let loader = Loader::new(&backend, &shape, Weights::Checkpoint(&checkpoint, None));
    let model = model::load(&loader, 32, 1, &|_, _| {}).expect("a model");
    let kv = backend.kv_cache(&model.kv_spec(), BLOCKS).expect("a cache");
    let executor = DeviceExecutor::spawn(vec![Rank { backend, model, kv }], BLOCKS, None);
    let config = EngineConfig {
        name: "pooled".into(),
        max_context: 64,
        kv_blocks: BLOCKS,
        max_running: 8,
        max_queued: 32,
        step_token_budget: 32,
        vocab: shape.vocab,
        cache_salt: 0,
    };
    let engine = spawn(config, Box::new(executor), Clock::real()).expect("an engine").0;
    let writes = || {
        let sampling = SamplingParams { temperature: 0.0, max_tokens: 24, ..SamplingParams::default() };
        let request = GenerateRequest {
            pooling: None,
            sampling: Arc::new(sampling),
            ..request(&[9, 8, 7], None, Pooling::Embedding)
        };
        engine.submit(request).expect("a stream")
    };
    let written = async |mut stream: novastack::engine::handle::TokenStream| {
        let mut tokens = Vec::new();
        while let Some(event) = stream.next().await {
            if let TokenEvent::Token { token, .. } = event {
                tokens.push(token.token);
            }
        }
        tokens
    };
    let alone = written(writes()).await;
    assert_eq!(alone.len(), 24);
    let neighbour = writes();
    for case in cases("qwen3-embedding/golden.json") {
        let (values, _) = pooled(submit(&engine, &case, &Pooling::Embedding)).await;
        // Weights and activations are f16 there.
        assert_near(&values, &case.values, 2e-2, "on the test library");
        let cosine: f32 = values.iter().zip(&case.values).map(|(left, right)| left * right).sum();
        assert!(cosine > 0.9999, "{cosine}");
        let (logits, _) = pooled(submit(&engine, &case, &Pooling::Logits([7, 3, 7].into()))).await;
        assert!(logits[0] == logits[2] && logits[0] != logits[1], "{logits:?}");
    }
    assert_eq!(written(neighbour).await, alone, "a neighbour's tokens");
}
