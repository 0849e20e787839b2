//! Attention and the small operations of a step, in microseconds per layer, at SmolLM2-135M's
//! shape (9 query heads, 3 kv heads, 64 values each, hidden 576) and at that of an 8B model.
//! `cargo bench --bench attention -- [threads]`

use novastack::backend::cpu::CpuBackend;
use novastack::backend::{
    Backend, Batch, HeadLayout, KV_BLOCK_TOKENS, KvDtype, KvLayout, KvSpec, RopeStyle, SeqSpan,
};
use novastack::checkpoint::{Dtype, TensorData};
use std::time::Instant;

fn main() {
    // cargo passes `--bench`; the first number is the thread count.
    let threads = std::env::args()
        .find_map(|a| a.parse().ok())
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let mut backend = CpuBackend::new(threads);
    println!("{threads} threads");
    let small = HeadLayout { heads: 9, kv_heads: 3, head_dim: 64 };
    let large = HeadLayout { heads: 32, kv_heads: 8, head_dim: 128 };
    for (name, heads) in [("135M", small), ("8B", large)] {
        println!("{name}: sequences x rows @ context      us/layer   GFLOP/s   KV GB/s");
        for (sequences, rows, context) in [
            (1, 1, 128),
            (1, 1, 1024),
            (1, 1, 8192),
            (8, 1, 256),
            (8, 1, 1024),
            (8, 1, 4096),
            (1, 512, 512),
            (1, 512, 4096),
        ] {
            attention(&mut backend, heads, sequences, rows, context);
        }
    }
    for rows in [1, 8, 512] {
        small_operations(&mut backend, rows);
    }
}

fn batch(sequences: usize, rows: usize, context: usize) -> (Batch, usize) {
    let mut batch = Batch::default();
    let blocks = context.div_ceil(KV_BLOCK_TOKENS);
    for seq in 0..sequences {
        let table = batch.block_tables.len();
        batch.seqs.push(SeqSpan { row: seq * rows, rows, context, table });
        // Neighbours in the sequence are not neighbours in memory.
        batch.block_tables.extend((0..blocks).map(|b| (b * sequences + seq) as u32));
        for position in context - rows..context {
            let block = batch.block_tables[table + position / KV_BLOCK_TOKENS] as usize;
            batch.positions.push(position as u32);
            batch.slots.push((block * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS) as u32);
        }
    }
    (batch, sequences * blocks)
}

fn attention(backend: &mut CpuBackend, heads: HeadLayout, sequences: usize, rows: usize, context: usize) {
    let (batch, blocks) = batch(sequences, rows, context);
    let layout = KvLayout::Heads { kv_heads: heads.kv_heads, head_dim: heads.head_dim };
    let spec = KvSpec { layers: 4, layout, dtype: KvDtype::F16 };
    let (Ok(mut kv), Ok(mut qkv), Ok(mut angles), Ok(mut out)) = (
        backend.kv_cache(&spec, blocks),
        backend.tensor(sequences * rows, heads.qkv_dim()),
        backend.tensor(sequences * rows, heads.head_dim),
        backend.tensor(sequences * rows, heads.q_dim()),
    ) else {
        return println!("no memory for {sequences} x {rows} @ {context}");
    };
    qkv.set_rows(sequences * rows, heads.qkv_dim()).fill(0.1);
    angles.set_rows(sequences * rows, heads.head_dim).fill(0.7);
    for layer in 0..spec.layers {
        backend.rope_kv_write(&mut qkv, heads, None, &angles, RopeStyle::Half, &batch, &mut kv, layer);
    }
    let scale = 1.0 / (heads.head_dim as f32).sqrt();
    let layer_us = fastest_us(|| {
        for layer in 0..spec.layers {
            backend.attention(&qkv, heads, scale, None, &batch, &kv, layer, &mut out);
        }
    }) / spec.layers as f64;
    let seen: usize = batch.positions.iter().map(|p| *p as usize + 1).sum();
    let flops = 4 * seen * heads.q_dim();
    let bytes = spec.block_bytes() / spec.layers * blocks;
    println!(
        "    {sequences} x {rows:3} @ {context:5} {layer_us:20.1} {:10.1} {:9.1}",
        flops as f64 / layer_us / 1e3,
        bytes as f64 / layer_us / 1e3
    );
}

fn small_operations(backend: &mut CpuBackend, rows: usize) {
    let heads = HeadLayout { heads: 9, kv_heads: 3, head_dim: 64 };
    let (hidden, intermediate) = (576, 1536);
    let (batch, blocks) = batch(rows, 1, 256);
    let layout = KvLayout::Heads { kv_heads: 3, head_dim: 64 };
    let spec = KvSpec { layers: 1, layout, dtype: KvDtype::F16 };
    let ones: Vec<u8> = [1.0f32; 576].iter().flat_map(|x| x.to_le_bytes()).collect();
    let data = TensorData { name: "norm".into(), dtype: Dtype::F32, shape: vec![hidden], data: ones.into() };
    let (Ok(weight), Ok(mut kv)) = (backend.vector(&[data]), backend.kv_cache(&spec, blocks)) else {
        return println!("no memory");
    };
    let tensors =
        [hidden, hidden, hidden, heads.qkv_dim(), 64, 2 * intermediate, intermediate].map(|columns| {
            backend.tensor(rows, columns).map(|mut t| {
                t.set_rows(rows, columns).fill(0.1);
                t
            })
        });
    let [Ok(mut residual), Ok(delta), Ok(mut normed), Ok(mut qkv), Ok(angles), Ok(gate_up), Ok(mut gated)] =
        tensors
    else {
        return println!("no memory");
    };
    let norm = fastest_us(|| backend.add_rms_norm(&mut residual, Some(&delta), &weight, 1e-5, &mut normed));
    let rope = fastest_us(|| {
        backend.rope_kv_write(&mut qkv, heads, None, &angles, RopeStyle::Half, &batch, &mut kv, 0)
    });
    let silu = fastest_us(|| backend.silu_mul(&gate_up, &mut gated));
    println!(
        "135M, {rows} rows: add_rms_norm {norm:.2} us, rope_kv_write {rope:.2} us, silu_mul {silu:.2} us"
    );
}

/// The fastest of several runs of some milliseconds, per call.
fn fastest_us(mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    call();
    let calls = (2e-3 / start.elapsed().as_secs_f64()).clamp(1.0, 10_000.0) as usize;
    let run = |call: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        start.elapsed().as_secs_f64() * 1e6 / calls as f64
    };
    (0..15).map(|_| run(&mut call)).fold(f64::INFINITY, f64::min)
}
