//! Attention and the small operations of a step, in microseconds per layer, at SmolLM2-135M's
//! shape (9 query heads, 3 kv heads, 64 values each, hidden 576) and at that of an 8B model; and
//! latent attention at DeepSeek-V2-Lite's (16 heads, rank 512, 64 rotated values).
//! `cargo bench --bench attention -- [threads]`

use novastack::backend::cpu::CpuBackend;
use novastack::backend::cpu::pool::ThreadPool;
use novastack::backend::cpu::simd::{Isa, Kernel, LANES, Simd};
use novastack::backend::{
    Backend, Batch, HeadLayout, KV_BLOCK_TOKENS, KvDtype, KvLayout, KvSpec, LatentLayout, RopeStyle, SeqSpan,
};
use novastack::checkpoint::{Dtype, TensorData};
use std::hint::black_box;
use std::time::Instant;

fn main() {
    // cargo passes `--bench`; the first number is the thread count.
    let threads = std::env::args()
        .find_map(|a| a.parse().ok())
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let mut backend = CpuBackend::new(threads);
    let limits = Limits::measure(threads);
    println!(
        "{threads} threads; limits, all threads at once: {:.0} GFLOP/s (f32), {:.1} GB/s (a read of memory)",
        limits.gflops, limits.gigabytes
    );
    let small = HeadLayout { heads: 9, kv_heads: 3, head_dim: 64 };
    let large = HeadLayout { heads: 32, kv_heads: 8, head_dim: 128 };
    for (name, heads) in [("135M", small), ("8B", large)] {
        println!("{name}: sequences x rows @ context      us/layer   GFLOP/s   KV GB/s   of limit");
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
            attention(&mut backend, &limits, heads, sequences, rows, context);
        }
    }
    println!("V2-Lite: sequences x rows @ context   us/layer   GFLOP/s   KV GB/s   of limit");
    for (sequences, rows, context) in [(1, 1, 2048), (8, 1, 2048), (1, 512, 512)] {
        latent_attention(&mut backend, &limits, sequences, rows, context);
    }
    for rows in [1, 8, 512] {
        small_operations(&mut backend, rows);
    }
}

/// What the machine can do at most, measured in the same run.
struct Limits {
    gflops: f64,
    gigabytes: f64,
}

/// So many multiply-adds on each of twelve vectors in registers.
struct MultiplyAdds(usize);

impl Kernel for MultiplyAdds {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); 12];
        let (a, b) = (s.splat(black_box(0.5)), s.splat(black_box(1.0)));
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = s.mul_add(*sum, a, b);
            }
        }
        sums.into_iter().map(|sum| s.sum(sum)).sum()
    }
}

/// The sum of some numbers.
struct Read<'a>(&'a [[f32; LANES]]);

impl Kernel for Read<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); 8];
        for lines in self.0.as_chunks::<8>().0 {
            for (sum, line) in sums.iter_mut().zip(lines) {
                *sum = s.add(*sum, s.load(line));
            }
        }
        sums.into_iter().map(|sum| s.sum(sum)).sum()
    }
}

impl Limits {
    fn measure(threads: usize) -> Self {
        let (isa, mut pool) = (Isa::best(), ThreadPool::new(threads));
        let steps = 100_000;
        let us = fastest_us(|| {
            pool.run(threads, &|_| {
                black_box(isa.run(MultiplyAdds(steps)));
            });
        });
        let gflops = (threads * steps * 12 * LANES * 2) as f64 / us / 1e3;
        // Larger than any last-level cache that this is likely to meet in part.
        let memory = vec![[1.0f32; LANES]; (256 << 20) / 64];
        let parts: Vec<_> = memory.chunks(memory.len().div_ceil(4 * threads)).collect();
        let us = fastest_us(|| {
            pool.run(parts.len(), &|i| {
                black_box(isa.run(Read(parts[i])));
            });
        });
        Self { gflops, gigabytes: (memory.len() * 64) as f64 / us / 1e3 }
    }

    /// A line of the table. `seen_flops` is the work for each position that a row sees; the share
    /// is that of the limit which binds: arithmetic, or a read of the KV from memory.
    #[allow(clippy::too_many_arguments)]
    fn print(
        &self,
        sequences: usize,
        rows: usize,
        context: usize,
        layer_us: f64,
        batch: &Batch,
        seen_flops: usize,
        spec: KvSpec,
        blocks: usize,
    ) {
        let seen: usize = batch.positions.iter().map(|p| *p as usize + 1).sum();
        let gflops = (seen_flops * seen) as f64 / layer_us / 1e3;
        let gigabytes = (spec.block_bytes() / spec.layers * blocks) as f64 / layer_us / 1e3;
        let share = (gflops / self.gflops).max(gigabytes / self.gigabytes);
        println!(
            "    {sequences} x {rows:3} @ {context:5} {layer_us:20.1} {gflops:10.1} {gigabytes:9.1} {:9.0}%",
            100.0 * share
        );
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

fn attention(
    backend: &mut CpuBackend,
    limits: &Limits,
    heads: HeadLayout,
    sequences: usize,
    rows: usize,
    context: usize,
) {
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
    backend.begin(&batch);
    for layer in 0..spec.layers {
        backend.rope_kv_write(&mut qkv, heads, None, &angles, RopeStyle::Half, &mut kv, layer);
    }
    let scale = 1.0 / (heads.head_dim as f32).sqrt();
    let layer_us = fastest_us(|| {
        for layer in 0..spec.layers {
            backend.attention(&qkv, heads, scale, None, &kv, layer, &mut out);
        }
    }) / spec.layers as f64;
    limits.print(sequences, rows, context, layer_us, &batch, 4 * heads.q_dim(), spec, blocks);
}

fn latent_attention(
    backend: &mut CpuBackend,
    limits: &Limits,
    sequences: usize,
    rows: usize,
    context: usize,
) {
    let layout = LatentLayout { heads: 16, rank: 512, nope_dim: 128, rope_dim: 64, v_dim: 128 };
    let LatentLayout { heads, rank, rope_dim, .. } = layout;
    let entry_dim = layout.entry_dim();
    let (batch, blocks) = batch(sequences, rows, context);
    // All positions, one by one as rows of a step of their own.
    let slots = (0..(blocks * KV_BLOCK_TOKENS) as u32).collect::<Vec<_>>();
    let all = Batch { slots, ..Batch::default() };
    let spec = KvSpec { layers: 4, layout: KvLayout::Latent { rank, rope_dim }, dtype: KvDtype::F16 };
    let ones: Vec<u8> = (0..rank).flat_map(|_| 1f32.to_le_bytes()).collect();
    let ones = TensorData { name: "norm".into(), dtype: Dtype::F32, shape: vec![rank], data: ones.into() };
    let (Ok(mut kv), Ok(norm), Ok(mut out)) = (
        backend.kv_cache(&spec, blocks),
        backend.vector(&[ones]),
        backend.tensor(sequences * rows, heads * rank),
    ) else {
        return println!("no memory for {sequences} x {rows} @ {context}");
    };
    let filled = |rows: usize, columns: usize| {
        let mut tensor = backend.tensor(rows, columns).ok()?;
        tensor.set_rows(rows, columns).fill(0.1);
        Some(tensor)
    };
    let n = all.slots.len();
    let (Some(q), Some(latent), Some(angles), Some(mut written), Some(query)) = (
        filled(n, layout.q_dim()),
        filled(n, entry_dim),
        filled(n, rope_dim),
        filled(n, heads * entry_dim),
        filled(sequences * rows, heads * entry_dim),
    ) else {
        return println!("no memory for {sequences} x {rows} @ {context}");
    };
    let style = RopeStyle::Interleaved;
    backend.begin(&all);
    for layer in 0..spec.layers {
        backend.mla_rope_kv_write(
            &q,
            &latent,
            layout,
            &norm,
            1e-6,
            &angles,
            style,
            &mut kv,
            layer,
            &mut written,
        );
    }
    backend.begin(&batch);
    let layer_us = fastest_us(|| {
        for layer in 0..spec.layers {
            backend.mla_attention(&query, layout, 0.1, &kv, layer, &mut out);
        }
    }) / spec.layers as f64;
    let seen_flops = 2 * heads * (entry_dim + rank);
    limits.print(sequences, rows, context, layer_us, &batch, seen_flops, spec, blocks);
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
    backend.begin(&batch);
    let rope = fastest_us(|| {
        backend.rope_kv_write(&mut qkv, heads, None, &angles, RopeStyle::Half, &mut kv, 0);
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
