//! Latent attention: the cache write and the attention against f64, and bit by bit across
//! chunkings, batches, block tables, threads and instruction sets.

use super::*;
use std::ops::Range;

const LITE: LatentLayout = LatentLayout { heads: 16, rank: 512, nope_dim: 128, rope_dim: 64, v_dim: 128 };
const TINY: LatentLayout = LatentLayout { heads: 4, rank: 32, nope_dim: 16, rope_dim: 8, v_dim: 16 };
const SCALE: f32 = 0.11;
const EPS: f32 = 1e-6;

fn spec(layout: LatentLayout, dtype: KvDtype, layers: usize) -> KvSpec {
    KvSpec { layers, layout: KvLayout::Latent { rank: layout.rank, rope_dim: layout.rope_dim }, dtype }
}

fn stored(dtype: KvDtype, x: f32) -> f32 {
    match dtype {
        KvDtype::F32 => x,
        KvDtype::F16 => half::f16::from_f32(x).to_f32(),
    }
}

/// Block numbers in random order.
fn shuffled(random: &mut Random, n: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        order.swap(i, random.below(i + 1));
    }
    order
}

/// A sequence's absorbed queries, and its cache entries, as the cache rounds them.
struct Sequence {
    queries: Vec<f32>,
    entries: Vec<f32>,
}

impl Sequence {
    fn new(random: &mut Random, layout: LatentLayout, dtype: KvDtype, positions: usize) -> Self {
        let entry_dim = layout.entry_dim();
        let queries = random.values(positions * layout.heads * entry_dim);
        let entries = random.values(positions * entry_dim).iter().map(|x| stored(dtype, *x)).collect();
        Self { queries, entries }
    }

    /// The attention of one position in f64.
    fn reference(&self, layout: LatentLayout, position: usize) -> Vec<f64> {
        let entry_dim = layout.entry_dim();
        let entries = &self.entries[..(position + 1) * entry_dim];
        let mut out = Vec::new();
        for head in 0..layout.heads {
            let q = &self.queries[(position * layout.heads + head) * entry_dim..][..entry_dim];
            let dot = |e: &[f32]| q.iter().zip(e).map(|(q, e)| *q as f64 * *e as f64).sum::<f64>();
            let scores: Vec<f64> = entries.chunks_exact(entry_dim).map(|e| dot(e) * SCALE as f64).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            let mut latent = vec![0.0; layout.rank];
            for (entry, score) in entries.chunks_exact(entry_dim).zip(&scores) {
                let weight = (score - max).exp() / sum;
                latent.iter_mut().zip(entry).for_each(|(sum, x)| *sum += weight * *x as f64);
            }
            out.extend(latent);
        }
        out
    }
}

/// A cache with sequences in it, each with a table of blocks in random physical order.
struct Setup {
    layout: LatentLayout,
    kv: Cache,
    tables: Vec<Vec<u32>>,
}

type Parts<'a> = &'a [(usize, Range<usize>)];

impl Setup {
    /// Every position that no sequence has written holds NaN.
    fn new(random: &mut Random, layout: LatentLayout, dtype: KvDtype, lengths: &[usize]) -> Self {
        let blocks: usize = lengths.iter().map(|n| n.div_ceil(KV_BLOCK_TOKENS)).sum::<usize>() + 2;
        let mut order = shuffled(random, blocks).into_iter();
        let tables =
            lengths.iter().map(|n| order.by_ref().take(n.div_ceil(KV_BLOCK_TOKENS)).collect()).collect();
        let mut setup = Self {
            layout,
            kv: Cache::Latent(LatentCache::new(&spec(layout, dtype, 1), blocks).unwrap()),
            tables,
        };
        let nan = vec![f32::NAN; layout.entry_dim()];
        (0..blocks * KV_BLOCK_TOKENS).for_each(|slot| setup.write(slot as u32, &nan));
        setup
    }

    /// Puts an entry as it is into the cache.
    fn write(&mut self, slot: u32, entry: &[f32]) {
        let (simd, kv) = (super::super::simd::Portable, self.kv.latent_mut());
        // SAFETY: nobody else has the cache.
        unsafe {
            match kv.spec().dtype {
                KvDtype::F32 => kv.writer::<f32>(0).write(simd, slot, entry),
                KvDtype::F16 => kv.writer::<u16>(0).write(simd, slot, entry),
            }
        }
    }

    fn fill(&mut self, sequence: &Sequence, index: usize, positions: Range<usize>) {
        let entry_dim = self.layout.entry_dim();
        for p in positions {
            let slot =
                self.tables[index][p / KV_BLOCK_TOKENS] as usize * KV_BLOCK_TOKENS + p % KV_BLOCK_TOKENS;
            self.write(slot as u32, &sequence.entries[p * entry_dim..][..entry_dim]);
        }
    }

    /// One step: a part of each named sequence, written to the cache and attended to.
    fn step(&mut self, backend: &mut CpuBackend, sequences: &[Sequence], parts: Parts<'_>) -> Vec<f32> {
        let layout = self.layout;
        let columns = layout.heads * layout.entry_dim();
        let mut batch = Batch::default();
        let mut queries = Vec::new();
        let mut row = 0;
        for (index, positions) in parts {
            let table = batch.block_tables.len();
            batch.seqs.push(SeqSpan { row, rows: positions.len(), context: positions.end, table });
            let blocks = positions.end.div_ceil(KV_BLOCK_TOKENS);
            batch.block_tables.extend(&self.tables[*index][..blocks]);
            let sequence = &sequences[*index];
            queries.extend_from_slice(&sequence.queries[positions.start * columns..positions.end * columns]);
            self.fill(sequence, *index, positions.clone());
            row += positions.len();
        }
        let mut out = Tensor::new(row, layout.heads * layout.rank).unwrap();
        let queries = tensor(columns, &queries);
        backend.begin(&batch);
        backend.mla_attention(&queries, layout, SCALE, &self.kv, 0, &mut out);
        out.values().to_vec()
    }
}

fn check_step(name: &str, layout: LatentLayout, sequences: &[Sequence], parts: Parts<'_>, got: &[f32]) {
    let columns = layout.heads * layout.rank;
    let mut row = 0;
    for (index, positions) in parts {
        // Of long parts some rows: the ends and every 197th.
        for (i, p) in positions.clone().enumerate() {
            if i < 2 || i + 2 >= positions.len() || i % 197 == 0 {
                let wanted = sequences[*index].reference(layout, p);
                let what = format!("{name}, {layout:?}, sequence {index}, position {p}");
                assert_close(&got[(row + i) * columns..][..columns], &wanted, 3e-6, &what);
            }
        }
        row += positions.len();
    }
}

/// The same bits with any number of threads; and, rounding apart, on any instruction set. Those
/// with fused multiplication (all but the last) agree in bits.
fn check_agreement(results: &[(Isa, Vec<f32>)]) {
    for (isa, result) in &results[1..] {
        if matches!(isa, Isa::Portable(_)) {
            let wanted: Vec<f64> = results[0].1.iter().map(|x| *x as f64).collect();
            assert_close(result, &wanted, 3e-6, "instruction sets");
        } else {
            assert_bits(result, &results[0].1, &format!("{isa:?}"));
        }
    }
    let portable: Vec<&Vec<f32>> =
        results.iter().filter(|(isa, _)| matches!(isa, Isa::Portable(_))).map(|(_, result)| result).collect();
    portable.iter().for_each(|result| assert_bits(result, portable[0], "portable"));
}

#[test]
fn ragged_batches_of_all_shapes() {
    let mut random = Random(31);
    let of = |heads, rank, rope_dim| LatentLayout { heads, rank, rope_dim, ..TINY };
    // Entries and latents of whole and of half lines; heads in one group, in several, in odd ones.
    let shapes = [
        TINY,
        of(4, 16, 8),
        of(2, 24, 8),
        of(1, 40, 16),
        of(20, 32, 16),
        of(3, 8, 8),
        of(34, 32, 16),
        of(17, 16, 8),
    ];
    for (i, layout) in shapes.into_iter().enumerate() {
        let dtype = if i % 2 == 0 { KvDtype::F16 } else { KvDtype::F32 };
        let lengths = [1, 17, 70, 530, 1100];
        let sequences = lengths.map(|n| Sequence::new(&mut random, layout, dtype, n));
        let mut results = Vec::new();
        for (name, mut backend) in backends() {
            let mut setup = Setup::new(&mut random, layout, dtype, &lengths);
            let mut all = Vec::new();
            // Prompts in odd chunks among decodes.
            let steps: [Parts<'_>; 3] = [
                &[(0, 0..1), (2, 0..69), (3, 0..500), (4, 0..1000)],
                &[(1, 0..17), (2, 69..70), (3, 500..529), (4, 1000..1099)],
                &[(3, 529..530), (4, 1099..1100)],
            ];
            for parts in steps {
                let out = setup.step(&mut backend, &sequences, parts);
                // With more threads the bits are the same, see below.
                if backend.pool.threads() == 1 {
                    check_step(&name, layout, &sequences, parts, &out);
                }
                all.extend(out);
            }
            results.push((backend.isa, all));
        }
        check_agreement(&results);
    }
}

#[test]
fn deepseek_shapes_at_many_contexts() {
    let mut random = Random(32);
    for (layout, dtype) in [
        (LITE, KvDtype::F16),
        (LITE, KvDtype::F32),
        (LatentLayout { heads: 128, ..LITE }, KvDtype::F16),
        (LatentLayout { heads: 2, rank: 1024, rope_dim: 256, ..LITE }, KvDtype::F32),
    ] {
        let contexts = [1, 2, 15, 16, 17, 511, 512, 513, 1024, 1500];
        let sequences = contexts.map(|n| Sequence::new(&mut random, layout, dtype, n));
        let mut results = Vec::new();
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                let mut backend = CpuBackend::with_isa(threads, isa);
                let mut setup = Setup::new(&mut random, layout, dtype, &contexts);
                for (i, (sequence, context)) in sequences.iter().zip(contexts).enumerate() {
                    setup.fill(sequence, i, 0..context);
                }
                // Decodes, and a chunk in the middle.
                let mut parts: Vec<_> =
                    contexts.into_iter().enumerate().map(|(i, context)| (i, context - 1..context)).collect();
                parts[7] = (7, 506..513);
                let out = setup.step(&mut backend, &sequences, &parts);
                if threads == 1 {
                    check_step(&format!("{isa:?}"), layout, &sequences, &parts, &out);
                }
                results.push((isa, out));
            }
        }
        check_agreement(&results);
    }
}

#[test]
fn bits_do_not_depend_on_chunks_batch_tables_or_threads() {
    let mut random = Random(33);
    let shapes = [
        (TINY, KvDtype::F16),
        (LatentLayout { heads: 3, rank: 40, ..TINY }, KvDtype::F32),
        (LatentLayout { heads: 16, rank: 64, rope_dim: 16, ..TINY }, KvDtype::F16),
    ];
    for (layout, dtype) in shapes {
        let lengths = [1100, 600, 33];
        let length = lengths[0];
        let sequences = lengths.map(|n| Sequence::new(&mut random, layout, dtype, n));
        let columns = layout.heads * layout.rank;
        for isa in Isa::available() {
            let mut one = CpuBackend::with_isa(1, isa);
            let mut three = CpuBackend::with_isa(3, isa);
            let mut whole = Setup::new(&mut random, layout, dtype, &lengths);
            let whole = whole.step(&mut one, &sequences, &[(0, 0..length)]);
            // Chunks of any size, alone and with others in the batch before and after.
            for chunk in [1, 7, 16, 100, 512, 777] {
                let mut setup = Setup::new(&mut random, layout, dtype, &lengths);
                setup.fill(&sequences[1], 1, 0..600);
                // Of single steps some at the end, across the third split's beginning.
                let mut start = if chunk < 16 { 1010 } else { 0 };
                setup.fill(&sequences[0], 0, 0..start);
                let mut turn = 0;
                while start < length && turn < 40 {
                    let end = (start + chunk).min(length);
                    turn += 1;
                    let out = match turn % 3 {
                        0 => setup.step(&mut one, &sequences, &[(0, start..end)]),
                        1 => setup.step(&mut three, &sequences, &[(0, start..end), (1, 590..600)]),
                        _ => {
                            let out = setup.step(&mut three, &sequences, &[(2, 0..33), (0, start..end)]);
                            out[33 * columns..].to_vec()
                        }
                    };
                    let rows = (end - start) * columns;
                    let what = format!("{isa:?}, {layout:?}, positions {start}..{end}");
                    assert_bits(&out[..rows], &whole[start * columns..end * columns], &what);
                    start = end;
                }
            }
        }
    }
}

#[test]
fn long_contexts_are_cut_by_split_and_stay_right() {
    let mut random = Random(34);
    let length = 20_000;
    let sequences = [Sequence::new(&mut random, TINY, KvDtype::F16, length)];
    let mut setup = Setup::new(&mut random, TINY, KvDtype::F16, &[length]);
    setup.fill(&sequences[0], 0, 0..length);
    for part in [length - 1..length, length - 9..length] {
        let parts = [(0, part)];
        let one = setup.step(&mut CpuBackend::new(1), &sequences, &parts);
        let four = setup.step(&mut CpuBackend::new(4), &sequences, &parts);
        assert_bits(&one, &four, "one thread and four");
        check_step("long", TINY, &sequences, &parts, &one);
    }
}

/// Rotation in f64.
fn turned(x: &[f32], angles: &[f32], style: RopeStyle) -> Vec<f64> {
    let half = angles.len() / 2;
    let mut x: Vec<f64> = x.iter().map(|x| *x as f64).collect();
    for i in 0..half {
        let (a, b) = match style {
            RopeStyle::Half => (i, i + half),
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
        };
        let (cos, sin) = (angles[i] as f64, angles[half + i] as f64);
        (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
    }
    x
}

fn check_write(random: &mut Random, layout: LatentLayout, dtype: KvDtype, style: RopeStyle, rows: usize) {
    let LatentLayout { heads, rank, nope_dim, rope_dim, .. } = layout;
    let entry_dim = layout.entry_dim();
    let q = random.values(rows * layout.q_dim());
    let latent = random.values(rows * entry_dim);
    let weight = random.values(rank);
    let angles = random.values(rows * rope_dim);
    let absorbed = random.values(rows * heads * entry_dim);
    let blocks = rows.div_ceil(KV_BLOCK_TOKENS) * 2;
    let slots = shuffled(random, blocks * KV_BLOCK_TOKENS)[..rows].to_vec();
    let batch = Batch { slots, ..Batch::default() };
    let mut results: Vec<Vec<f32>> = Vec::new();
    for (name, mut backend) in backends() {
        let mut kv = backend.kv_cache(&spec(layout, dtype, 3), blocks).unwrap();
        let mut query = tensor(heads * entry_dim, &absorbed);
        backend.begin(&batch);
        backend.mla_rope_kv_write(
            &tensor(layout.q_dim(), &q),
            &tensor(entry_dim, &latent),
            layout,
            &vector(&weight),
            EPS,
            &tensor(rope_dim, &angles),
            style,
            &mut kv,
            1,
            &mut query,
        );
        assert_eq!(query.rows(), rows);
        let mut all = query.values().to_vec();
        let mut written = vec![false; blocks * KV_BLOCK_TOKENS];
        for row in 0..rows {
            let angles = &angles[row * rope_dim..][..rope_dim];
            for head in 0..heads {
                let at = (row * heads + head) * entry_dim;
                assert_bits(&query.values()[at..][..rank], &absorbed[at..][..rank], &name);
                let q = &q[row * layout.q_dim() + head * (nope_dim + rope_dim) + nope_dim..][..rope_dim];
                assert_close(
                    &query.values()[at + rank..][..rope_dim],
                    &turned(q, angles, style),
                    1e-6,
                    &name,
                );
            }
            let (latent, key) = latent[row * entry_dim..][..entry_dim].split_at(rank);
            let mean = latent.iter().map(|x| (*x as f64).powi(2)).sum::<f64>() / rank as f64;
            let inverse = 1.0 / (mean + EPS as f64).sqrt();
            let mut wanted: Vec<f64> =
                latent.iter().zip(&weight).map(|(x, w)| *x as f64 * inverse * *w as f64).collect();
            wanted.extend(turned(key, angles, style));
            let slot = batch.slots[row] as usize;
            let entry = read_slot(&kv, 1, slot);
            let tolerance = if dtype == KvDtype::F16 { 5e-4 } else { 2e-6 };
            assert_close(&entry, &wanted, tolerance, &name);
            all.extend(entry);
            written[slot] = true;
        }
        for (slot, written) in written.iter().enumerate() {
            let zero = |layer| read_slot(&kv, layer, slot).iter().all(|x| *x == 0.0);
            assert!(zero(0) && zero(2), "{name}: the other layers' blocks are untouched");
            assert!(*written || zero(1), "{name}: so are other slots");
        }
        results.push(all);
    }
    for result in &results[1..] {
        assert_bits(result, &results[0], "the same bits on every instruction set and thread count");
    }
}

/// One slot's entry.
fn read_slot(kv: &Cache, layer: usize, slot: usize) -> Vec<f32> {
    let kv = kv.latent();
    let KvLayout::Latent { rank, rope_dim } = kv.spec().layout else { panic!("a cache of latents") };
    let (block, from) = ((slot / KV_BLOCK_TOKENS) as u32, slot % KV_BLOCK_TOKENS * (rank + rope_dim));
    match kv.spec().dtype {
        KvDtype::F32 => kv.layer::<f32>(layer).block(block)[from..][..rank + rope_dim].to_vec(),
        KvDtype::F16 => kv.layer::<u16>(layer).block(block)[from..][..rank + rope_dim]
            .iter()
            .map(|bits| half::f16::from_bits(*bits).to_f32())
            .collect(),
    }
}

#[test]
fn entries_and_queries_are_written_in_both_styles_and_types() {
    let mut random = Random(35);
    for layout in [TINY, LatentLayout { heads: 3, rank: 40, nope_dim: 24, ..TINY }, LITE] {
        for style in [RopeStyle::Half, RopeStyle::Interleaved] {
            for dtype in [KvDtype::F32, KvDtype::F16] {
                for rows in [1, 5, 150] {
                    check_write(&mut random, layout, dtype, style, rows);
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_had_is_an_error() {
    let backend = CpuBackend::new(1);
    let of = |rank, rope_dim| spec(LatentLayout { rank, rope_dim, ..TINY }, KvDtype::F32, 1000);
    for (rank, rope_dim, named) in [
        (0, 64, "kv_lora_rank 0"),
        (20, 64, "kv_lora_rank 20"),
        (1032, 64, "kv_lora_rank 1032"),
        (512, 0, "qk_rope_head_dim 0"),
        (512, 12, "qk_rope_head_dim 12"),
        (512, 264, "qk_rope_head_dim 264"),
    ] {
        let error = backend.kv_cache(&of(rank, rope_dim), 1).err().unwrap();
        assert!(error.to_string().contains(named), "{error}");
    }
    for blocks in [1 << 30, usize::MAX] {
        let error = backend.kv_cache(&of(512, 64), blocks).err().unwrap();
        assert!(matches!(error, BackendError::OutOfMemory { .. }), "{error}");
    }
}
