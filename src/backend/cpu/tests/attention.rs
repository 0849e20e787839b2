//! Paged attention: against f64 on ragged batches, and bit by bit across chunkings, batches,
//! block tables and threads.

use super::*;

#[derive(Clone, Copy, Debug)]
struct Shape {
    layout: HeadLayout,
    window: Option<usize>,
    dtype: KvDtype,
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> Shape {
    Shape { layout: HeadLayout { heads, kv_heads, head_dim }, window: None, dtype: KvDtype::F16 }
}

/// A sequence's qkv rows for all its positions; k and v as the cache rounds them.
struct Sequence {
    qkv: Vec<f32>,
}

impl Sequence {
    fn new(random: &mut Random, shape: Shape, positions: usize) -> Self {
        let HeadLayout { heads, head_dim, .. } = shape.layout;
        let columns = shape.layout.qkv_dim();
        let mut qkv = random.values(positions * columns);
        for (i, x) in qkv.iter_mut().enumerate() {
            if i % columns < heads * head_dim {
                *x *= 3.0; // sharper than a mean
            } else if shape.dtype == KvDtype::F16 {
                *x = half::f16::from_f32(*x).to_f32();
            }
        }
        Self { qkv }
    }

    fn rows(&self, shape: Shape, positions: std::ops::Range<usize>) -> &[f32] {
        let columns = shape.layout.qkv_dim();
        &self.qkv[positions.start * columns..positions.end * columns]
    }

    /// The attention of one position in f64.
    fn reference(&self, shape: Shape, position: usize) -> Vec<f64> {
        let HeadLayout { heads, kv_heads, head_dim } = shape.layout;
        let at = |position: usize, head: usize| {
            &self.qkv[position * shape.layout.qkv_dim() + head * head_dim..][..head_dim]
        };
        let first = shape.window.map_or(0, |w| (position + 1).saturating_sub(w));
        let mut out = Vec::new();
        for head in 0..heads {
            let kv_head = head / (heads / kv_heads);
            let q = at(position, head);
            let scores: Vec<f64> = (first..=position)
                .map(|p| {
                    let k = at(p, heads + kv_head);
                    q.iter().zip(k).map(|(q, k)| *q as f64 * *k as f64).sum::<f64>() * scale(shape) as f64
                })
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..head_dim {
                let weighted: f64 = (first..=position)
                    .zip(&weights)
                    .map(|(p, w)| w * at(p, heads + kv_heads + kv_head)[d] as f64)
                    .sum();
                out.push(weighted / sum);
            }
        }
        out
    }
}

fn scale(shape: Shape) -> f32 {
    1.0 / (shape.layout.head_dim as f32).sqrt()
}

/// A cache with sequences in it, each with a table of blocks in random physical order.
struct Setup {
    shape: Shape,
    kv: Cache,
    tables: Vec<Vec<u32>>,
}

impl Setup {
    /// Every position that no sequence has written holds NaN.
    fn new(random: &mut Random, shape: Shape, lengths: &[usize]) -> Self {
        let HeadLayout { kv_heads, head_dim, .. } = shape.layout;
        let blocks: usize = lengths.iter().map(|n| n.div_ceil(KV_BLOCK_TOKENS)).sum::<usize>() + 2;
        let mut order: Vec<u32> = (0..blocks as u32).collect();
        for i in (1..blocks).rev() {
            order.swap(i, random.below(i + 1));
        }
        let mut order = order.into_iter();
        let tables =
            lengths.iter().map(|n| order.by_ref().take(n.div_ceil(KV_BLOCK_TOKENS)).collect()).collect();
        let layout = KvLayout::Heads { kv_heads, head_dim };
        let spec = KvSpec { layers: 1, layout, dtype: shape.dtype };
        let mut kv = Cache::Heads(KvCache::new(&spec, blocks).unwrap());
        let slots: Vec<u32> = (0..(blocks * KV_BLOCK_TOKENS) as u32).collect();
        let nan = vec![f32::NAN; slots.len() * shape.layout.qkv_dim()];
        write(&mut kv, shape, &nan, slots);
        Self { shape, kv, tables }
    }

    /// One step: a part of each named sequence, written to the cache and attended to.
    fn step(
        &mut self,
        backend: &mut CpuBackend,
        sequences: &[Sequence],
        parts: &[(usize, std::ops::Range<usize>)],
    ) -> Vec<f32> {
        let mut batch = Batch::default();
        let mut qkv = Vec::new();
        for (index, positions) in parts {
            let table = &self.tables[*index];
            batch.seqs.push(SeqSpan {
                row: batch.positions.len(),
                rows: positions.len(),
                context: positions.end,
                table: batch.block_tables.len(),
            });
            batch.block_tables.extend(&table[..positions.end.div_ceil(KV_BLOCK_TOKENS)]);
            for p in positions.clone() {
                batch.positions.push(p as u32);
                let block = table[p / KV_BLOCK_TOKENS] as usize;
                batch.slots.push((block * KV_BLOCK_TOKENS + p % KV_BLOCK_TOKENS) as u32);
            }
            qkv.extend_from_slice(sequences[*index].rows(self.shape, positions.clone()));
        }
        write(&mut self.kv, self.shape, &qkv, batch.slots.clone());
        let Shape { layout, window, .. } = self.shape;
        let mut out = backend.tensor(batch.positions.len(), layout.q_dim()).unwrap();
        let qkv = tensor(layout.qkv_dim(), &qkv);
        backend.begin(&batch);
        backend.attention(&qkv, layout, scale(self.shape), window, &self.kv, 0, &mut out);
        out.values().to_vec()
    }
}

/// k and v of qkv rows into the cache, unrotated.
fn write(kv: &mut Cache, shape: Shape, qkv: &[f32], slots: Vec<u32>) {
    let rows = slots.len();
    let mut angles = Tensor::new(rows, 0).unwrap();
    angles.set_rows(rows, 0);
    let batch = Batch { slots, ..Batch::default() };
    let mut qkv = tensor(shape.layout.qkv_dim(), qkv);
    let mut backend = CpuBackend::new(1);
    backend.begin(&batch);
    backend.rope_kv_write(&mut qkv, shape.layout, None, &angles, RopeStyle::Half, kv, 0);
}

fn check_step(
    name: &str,
    shape: Shape,
    sequences: &[Sequence],
    parts: &[(usize, std::ops::Range<usize>)],
    got: &[f32],
) {
    let q_dim = shape.layout.q_dim();
    let mut row = 0;
    for (index, positions) in parts {
        // Of long parts some rows: the ends and every 97th.
        for (i, p) in positions.clone().enumerate() {
            if i < 3 || i + 3 >= positions.len() || i % 97 == 0 {
                let wanted = sequences[*index].reference(shape, p);
                let what = format!("{name}, {shape:?}, sequence {index}, position {p}");
                assert_close(&got[(row + i) * q_dim..][..q_dim], &wanted, 3e-6, &what);
            }
        }
        row += positions.len();
    }
}

#[test]
fn ragged_batches_of_all_head_shapes() {
    let mut random = Random(5);
    let heads = [
        (9, 3, 64),
        (4, 4, 16),
        (14, 2, 64),
        (16, 1, 32),
        (5, 1, 80),
        (2, 1, 8),
        (4, 2, 24),
        (8, 1, 128),
        (6, 1, 96),
        (2, 1, 256),
    ];
    for (i, (q, kv, head_dim)) in heads.into_iter().enumerate() {
        let dtype = if i % 2 == 0 { KvDtype::F16 } else { KvDtype::F32 };
        let window = [None, Some(1), Some(40), Some(600)][i % 4];
        let shape = Shape { dtype, window, ..shape(q, kv, head_dim) };
        let lengths = [1, 17, 70, 530, 1100];
        let sequences = lengths.map(|n| Sequence::new(&mut random, shape, n));
        let mut results: Vec<Vec<f32>> = Vec::new();
        for (name, mut backend) in backends() {
            let mut setup = Setup::new(&mut random, shape, &lengths);
            // Prompts in odd chunks among decodes, beginnings computed in steps of their own.
            let first = [(0, 0..1), (2, 0..69), (3, 0..500), (4, 0..1000)];
            let out = setup.step(&mut backend, &sequences, &first);
            check_step(&name, shape, &sequences, &first, &out);
            let mut all = out;
            let second = [(1, 0..17), (2, 69..70), (3, 500..529), (4, 1000..1099)];
            let out = setup.step(&mut backend, &sequences, &second);
            check_step(&name, shape, &sequences, &second, &out);
            all.extend(out);
            let third = [(3, 529..530), (4, 1099..1100)];
            let out = setup.step(&mut backend, &sequences, &third);
            check_step(&name, shape, &sequences, &third, &out);
            all.extend(out);
            results.push(all);
        }
        // backends() gives one and three threads of each instruction set in turn.
        for pair in results.chunks(2) {
            assert_bits(&pair[0], &pair[1], "one thread and three");
        }
    }
}

#[test]
fn bits_do_not_depend_on_chunks_batch_tables_or_threads() {
    let mut random = Random(6);
    let shapes = [
        shape(9, 3, 64),
        Shape { window: Some(100), ..shape(4, 2, 16) },
        Shape { window: Some(513), dtype: KvDtype::F32, ..shape(7, 1, 32) },
        Shape { dtype: KvDtype::F32, ..shape(2, 2, 72) },
    ];
    for shape in shapes {
        let length = 1100;
        let sequences = [length, 600, 33].map(|n| Sequence::new(&mut random, shape, n));
        let lengths = [length, 600, 33];
        let q_dim = shape.layout.q_dim();
        for isa in Isa::available() {
            let mut one = CpuBackend::with_isa(1, isa);
            let mut three = CpuBackend::with_isa(3, isa);
            let whole =
                Setup::new(&mut random, shape, &lengths).step(&mut one, &sequences, &[(0, 0..length)]);
            // Chunks of any size, alone and with others in the batch before and after.
            for chunk in [1, 7, 16, 100, 512, 777] {
                let mut setup = Setup::new(&mut random, shape, &lengths);
                setup.step(&mut one, &sequences, &[(1, 0..600)]);
                // Of single steps some at the end, across the third split's beginning.
                let mut start = if chunk < 16 { 1010 } else { 0 };
                if start > 0 {
                    setup.step(&mut one, &sequences, &[(0, 0..start)]);
                }
                let mut turn = 0;
                while start < length && turn < 40 {
                    let end = (start + chunk).min(length);
                    turn += 1;
                    let out = match turn % 3 {
                        0 => setup.step(&mut one, &sequences, &[(0, start..end)]),
                        1 => setup.step(&mut three, &sequences, &[(0, start..end), (1, 590..600)]),
                        _ => {
                            let out = setup.step(&mut three, &sequences, &[(2, 0..33), (0, start..end)]);
                            out[33 * q_dim..].to_vec()
                        }
                    };
                    let rows = (end - start) * q_dim;
                    let what = format!("{isa:?}, {shape:?}, positions {start}..{end}");
                    assert_bits(&out[..rows], &whole[start * q_dim..end * q_dim], &what);
                    start = end;
                }
            }
        }
    }
}

#[test]
fn instruction_sets_agree() {
    let mut random = Random(7);
    for shape in [shape(9, 3, 64), Shape { dtype: KvDtype::F32, window: Some(70), ..shape(4, 2, 16) }] {
        let sequences = [Sequence::new(&mut random, shape, 700)];
        let mut setup = Setup::new(&mut random, shape, &[700]);
        let results: Vec<Vec<f64>> = Isa::available()
            .map(|isa| setup.step(&mut CpuBackend::with_isa(1, isa), &sequences, &[(0, 0..700)]))
            .map(|out| out.into_iter().map(f64::from).collect())
            .collect();
        for result in &results[1..] {
            let result: Vec<f32> = result.iter().map(|x| *x as f32).collect();
            assert_close(&result, &results[0], 3e-6, "instruction sets");
        }
    }
}

#[test]
fn long_contexts_are_cut_by_split_and_stay_right() {
    let mut random = Random(8);
    let shape = shape(4, 2, 64);
    let length = 33_000;
    let sequences = [Sequence::new(&mut random, shape, length)];
    let mut setup = Setup::new(&mut random, shape, &[length]);
    // The cache is filled by writes alone; then a decode and a short chunk on several threads.
    let slots = (0..length)
        .map(|p| setup.tables[0][p / KV_BLOCK_TOKENS] * KV_BLOCK_TOKENS as u32 + (p % KV_BLOCK_TOKENS) as u32)
        .collect();
    write(&mut setup.kv, shape, &sequences[0].qkv, slots);
    for part in [length - 1..length, length - 30..length] {
        let parts = [(0, part)];
        let one = setup.step(&mut CpuBackend::new(1), &sequences, &parts);
        let four = setup.step(&mut CpuBackend::new(4), &sequences, &parts);
        assert_bits(&one, &four, "one thread and four");
        check_step("long", shape, &sequences, &parts, &one);
    }
}

#[test]
fn weights_of_far_lower_scores_vanish_and_equal_scores_average() {
    // Scores of 1e4 and more apart, and exactly equal ones: no NaN, the plain mean of the best.
    let shape = Shape { dtype: KvDtype::F32, ..shape(1, 1, 16) };
    let mut qkv = vec![0.0f32; 600 * 48];
    for (p, row) in qkv.chunks_mut(48).enumerate() {
        row[0] = 1e3;
        row[16] = if p % 2 == 0 { 1e3 } else { -1e3 };
        row[32..].fill(p as f32);
    }
    let sequences = [Sequence { qkv }];
    for (name, mut backend) in backends() {
        let mut setup = Setup::new(&mut Random(9), shape, &[600]);
        let out = setup.step(&mut backend, &sequences, &[(0, 0..600)]);
        for p in 0..600 {
            let best = (p / 2) as f32; // the mean of 0, 2, 4 .. up to p
            assert!((out[p * 16] - best).abs() <= 1e-4 * best.max(1.0), "{name}: {} at {p}", out[p * 16]);
        }
    }
}
