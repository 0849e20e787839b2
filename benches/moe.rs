//! A layer's experts on the CPU backend against the machine's memory.
//!
//!     cargo bench --bench moe [-- --threads N] [--seconds S] [--only TEXT]
//!
//! The shape is Qwen3-30B-A3B's: 128 experts, 8 for each token, 2048 to 768 and back; as BF16
//! with 64 of the experts, to stay under a gigabyte. A call is what the layer does between its
//! router's logits and its sum: route, dispatch, gate and up, SiLU, down, combine. Tokens choose
//! at random. Weight bytes are those that the backend counted; the read of memory they are
//! compared with is measured in the same run. With few tokens the one should near the other;
//! with many, arithmetic is the limit (see the `ops` bench) and each weight is still read once.

use std::borrow::Cow;
use std::hint::black_box;
use std::time::{Duration, Instant};

use half::{bf16, f16};
use novastack::backend::cpu::CpuBackend;
use novastack::backend::cpu::pool::ThreadPool;
use novastack::backend::cpu::tensor::Tensor;
use novastack::backend::{Activation, Backend, Routing, Scoring};
use novastack::checkpoint::{Dtype, TensorData};

const HIDDEN: usize = 2048;
const INTERMEDIATE: usize = 768;
const TOP_K: usize = 8;
const MOST_TOKENS: usize = 512;
/// Larger than any last-level cache that this is likely to meet in part.
const READ_BYTES: usize = 160 << 20;

struct Options {
    threads: usize,
    seconds: f64,
    only: String,
}

fn options() -> Options {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { threads, seconds: 1.0, only: String::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--bench" => {}
            "--threads" => options.threads = value().parse().expect("--threads takes a number"),
            "--seconds" => options.seconds = value().parse().expect("--seconds takes a number"),
            "--only" => options.only = value(),
            _ => panic!("unknown argument {arg}; there are --threads, --seconds and --only"),
        }
    }
    options
}

/// Calls for some seconds and gives each call's.
fn times(seconds: f64, mut call: impl FnMut()) -> Vec<f64> {
    call();
    let (end, mut times) = (Instant::now() + Duration::from_secs_f64(seconds), vec![]);
    while times.len() < 3 || Instant::now() < end {
        let start = Instant::now();
        call();
        times.push(start.elapsed().as_secs_f64());
    }
    times
}

/// Bytes a second that all threads together read from memory.
fn read_rate(threads: usize, seconds: f64) -> f64 {
    const PIECE: usize = 1 << 17;
    let mut pool = ThreadPool::new(threads);
    let buffer = vec![1u64; READ_BYTES / 8];
    let times = times(seconds, || {
        pool.run(buffer.len() / PIECE, &|task| {
            let any = buffer[task * PIECE..][..PIECE].chunks_exact(32).fold([0; 32], |mut any, block| {
                any.iter_mut().zip(block).for_each(|(any, x)| *any |= x);
                any
            });
            black_box(any);
        });
    });
    READ_BYTES as f64 / times.into_iter().fold(f64::MAX, f64::min)
}

/// A mixed Weyl sequence, in [-1, 1).
struct Random(u64);

impl Random {
    fn value(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A weight of valid blocks: one pseudo-random row, repeated (timings do not depend on values).
fn weight(dtype: Dtype, rows: usize, cols: usize) -> TensorData<'static> {
    let mut random = Random(1);
    let row: Vec<u8> = match dtype {
        Dtype::BF16 => (0..cols).flat_map(|_| bf16::from_f32(random.value()).to_le_bytes()).collect(),
        _ => {
            let bytes = dtype.bytes(cols).expect("whole blocks");
            let mut row: Vec<u8> = (0..bytes).map(|_| (random.value() * 128.0) as i8 as u8).collect();
            for block in row.chunks_exact_mut(dtype.block().1) {
                for at in [0, 2] {
                    block[at..at + 2].copy_from_slice(&f16::from_f32(0.01).to_le_bytes());
                }
            }
            row
        }
    };
    TensorData { name: "bench".into(), dtype, shape: vec![rows, cols], data: Cow::Owned(row.repeat(rows)) }
}

fn tensor(backend: &CpuBackend, rows: usize, columns: usize) -> Tensor {
    backend.tensor(rows, columns).expect("memory for activations")
}

fn main() {
    let options = options();
    let read = read_rate(options.threads, options.seconds.min(0.5));
    println!("{} threads: read {:.1} GB/s\n", options.threads, read / 1e9);
    println!("| experts | type | tokens | active | MB read | ms | GB/s | of read | tokens/s |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (dtype, experts) in [(Dtype::Q4K, 128), (Dtype::BF16, 64)] {
        if format!("{dtype:?}").contains(&options.only) {
            bench(&options, read, dtype, experts);
        }
    }
}

fn bench(options: &Options, read: f64, dtype: Dtype, experts: usize) {
    let mut backend = CpuBackend::new(options.threads);
    let pack = |rows, cols| {
        let weight = weight(dtype, rows, cols);
        let one = |_| backend.matrix(std::slice::from_ref(&weight)).expect("these blocks can be packed");
        (0..experts).map(one).collect::<Vec<_>>()
    };
    let (gate_up, down) = (pack(2 * INTERMEDIATE, HIDDEN), pack(HIDDEN, INTERMEDIATE));
    let expert_bytes = backend.matrix_bytes(&gate_up[0]) + backend.matrix_bytes(&down[0]);
    let kind = backend.matrix_kind(&down[0]);
    let gate_up = backend.experts(gate_up).expect("equal shapes");
    let down = backend.experts(down).expect("equal shapes");
    let routing = Routing {
        experts,
        top_k: TOP_K,
        scoring: Scoring::Softmax,
        groups: None,
        normalise: true,
        scale: 1.0,
    };
    let pairs = MOST_TOKENS * TOP_K;
    let mut routes = backend.routes(MOST_TOKENS, TOP_K).expect("memory for routes");
    let mut dispatched = tensor(&backend, pairs, HIDDEN);
    let mut both = tensor(&backend, pairs, 2 * INTERMEDIATE);
    let mut gated = tensor(&backend, pairs, INTERMEDIATE);
    let mut products = tensor(&backend, pairs, HIDDEN);
    let mut out = tensor(&backend, MOST_TOKENS, HIDDEN);
    let mut random = Random(2);
    for tokens in [1, 8, 64, MOST_TOKENS] {
        let mut logits = tensor(&backend, tokens, experts);
        let mut x = tensor(&backend, tokens, HIDDEN);
        x.set_rows(tokens, HIDDEN).fill_with(|| random.value());
        let (before, mut calls) = (backend.expert_bytes_read(), 0);
        let times = times(options.seconds, || {
            // Other experts in each call, so that those of the last one are not in the cache.
            logits.set_rows(tokens, experts).fill_with(|| random.value());
            calls += 1;
            backend.moe_route(&logits, None, &routing, 0..experts, &mut routes);
            backend.moe_dispatch(&x, &routes, &mut dispatched);
            backend.expert_linear(&gate_up, &routes, &dispatched, &mut both);
            backend.gate_mul(Activation::Silu, &both, &mut gated);
            backend.expert_linear(&down, &routes, &gated, &mut products);
            backend.moe_combine(&products, &routes, None, &mut out);
        });
        let bytes = (backend.expert_bytes_read() - before) as f64 / f64::from(calls);
        // The mean, as calls read different numbers of experts.
        let time = times.iter().sum::<f64>() / times.len() as f64;
        println!(
            "| {experts} | {kind} | {tokens} | {:.1} | {:.0} | {:.2} | {:.1} | {:.0}% | {:.0} |",
            bytes / expert_bytes as f64,
            bytes / 1e6,
            time * 1e3,
            bytes / time / 1e9,
            bytes / time / read * 100.0,
            tokens as f64 / time,
        );
    }
}
