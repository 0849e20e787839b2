//! Embedding, norms, rotary embedding, gating, gathering: against f64, and bit by bit across
//! batches and threads.

use super::*;
use crate::backend::Activation;

/// Rows for which three threads are worth it, and odd ones.
const ROWS: [usize; 4] = [1, 3, 37, 700];

#[test]
fn embed_and_gather_copy_rows() {
    let mut random = Random(1);
    let (vocabulary, columns) = (300, 40);
    let table = random.values(vocabulary * columns);
    for (name, mut backend) in backends() {
        let matrix = backend.matrix(&[data("embed", &[vocabulary, columns], &table)]).unwrap();
        for rows in ROWS {
            let tokens: Vec<TokenId> = (0..rows).map(|_| random.below(vocabulary) as TokenId).collect();
            let wanted: Vec<f32> =
                tokens.iter().flat_map(|t| &table[*t as usize * columns..][..columns]).copied().collect();
            let mut out = backend.tensor(1000, columns).unwrap();
            let outputs = vec![0, rows as u32 - 1, 0];
            backend.begin(&Batch { tokens, outputs, ..Batch::default() });
            backend.embed(&matrix, 0, 1.0, &mut out);
            assert_bits(out.values(), &wanted, &name);
            backend.embed(&matrix, 0, 12.0, &mut out);
            assert_bits(out.values(), &wanted.iter().map(|value| 12.0 * value).collect::<Vec<_>>(), &name);
            backend.embed(&matrix, 0, 1.0, &mut out);

            let mut gathered = backend.tensor(2, columns).unwrap();
            backend.gather_outputs(&out, 1..3, &mut gathered);
            assert_bits(&gathered.values()[..columns], &wanted[(rows - 1) * columns..], &name);
            assert_bits(&gathered.values()[columns..], &wanted[..columns], &name);
        }
    }
}

#[test]
fn add_rms_norm_is_the_f64_one() {
    let mut random = Random(2);
    for columns in [8, 16, 50, 576] {
        let weight = random.values(columns);
        for rows in ROWS {
            let (residual, delta) = (random.values(rows * columns), random.values(rows * columns));
            let mut one_by_one: Vec<(String, Vec<f32>)> = Vec::new();
            for (name, mut backend) in backends() {
                for with_delta in [true, false] {
                    let mut r = tensor(columns, &residual);
                    let d = with_delta.then(|| tensor(columns, &delta));
                    let mut out = backend.tensor(rows, columns).unwrap();
                    backend.add_rms_norm(&mut r, d.as_ref(), &vector(&weight), 1e-5, &mut out);
                    let sums: Vec<f32> = residual
                        .iter()
                        .zip(&delta)
                        .map(|(r, d)| if with_delta { r + d } else { *r })
                        .collect();
                    assert_bits(r.values(), &sums, &name);
                    let mut wanted = Vec::new();
                    for row in sums.chunks(columns) {
                        let mean = row.iter().map(|x| (*x as f64).powi(2)).sum::<f64>() / columns as f64;
                        let scale = 1.0 / (mean + 1e-5).sqrt();
                        wanted.extend(row.iter().zip(&weight).map(|(x, w)| *x as f64 * scale * *w as f64));
                    }
                    assert_close(out.values(), &wanted, 2e-6, &name);
                    if with_delta {
                        one_by_one.push((name.clone(), out.values().to_vec()));
                        // A row alone has the same bits.
                        let at = rows / 2 * columns;
                        let mut r = tensor(columns, &residual[at..][..columns]);
                        let d = tensor(columns, &delta[at..][..columns]);
                        let mut alone = backend.tensor(1, columns).unwrap();
                        backend.add_rms_norm(&mut r, Some(&d), &vector(&weight), 1e-5, &mut alone);
                        assert_bits(alone.values(), &out.values()[at..][..columns], &name);
                    }
                }
            }
            for (name, out) in &one_by_one[1..] {
                assert_bits(out, &one_by_one[0].1, name);
            }
        }
    }
}

#[test]
fn gate_mul_is_the_f64_one() {
    for (activation, exponent) in [
        (Activation::Silu, (|g| g) as fn(f64) -> f64),
        (Activation::GeluTanh, |g| 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044_715 * g.powi(3))),
    ] {
        check_gate_mul(activation, exponent);
    }
}

fn check_gate_mul(activation: Activation, exponent: fn(f64) -> f64) {
    let mut random = Random(3);
    for columns in [5, 16, 100, 1536] {
        for rows in ROWS {
            let gate_up: Vec<f32> = random.values(2 * rows * columns).iter().map(|x| x * 20.0).collect();
            let mut wanted = Vec::new();
            for row in gate_up.chunks(2 * columns) {
                let (gate, up) = row.split_at(columns);
                wanted.extend(gate.iter().zip(up).map(|(g, u)| {
                    let g = *g as f64;
                    g / (1.0 + (-exponent(g)).exp()) * *u as f64
                }));
            }
            for (name, mut backend) in backends() {
                let mut out = backend.tensor(rows, columns).unwrap();
                backend.gate_mul(activation, &tensor(2 * columns, &gate_up), &mut out);
                assert_close(out.values(), &wanted, 1e-6, &name);
                let mut alone = backend.tensor(1, columns).unwrap();
                let last = &gate_up[(rows - 1) * 2 * columns..];
                backend.gate_mul(activation, &tensor(2 * columns, last), &mut alone);
                assert_bits(alone.values(), &out.values()[(rows - 1) * columns..], &name);
            }
        }
    }
    // Far out: nothing but zeros and the identity, no NaN.
    let gate_up = [-1e30f32, -200.0, 200.0, 1e30, 1.0, 1.0, 1.0, 1.0];
    for (name, mut backend) in backends() {
        let mut out = backend.tensor(1, 4).unwrap();
        backend.gate_mul(activation, &tensor(8, &gate_up), &mut out);
        let out = out.values();
        assert!(out[0].abs() < 1e-7 && out[1].abs() < 1e-30 && out[2..] == [200.0, 1e30], "{name}: {out:?}");
    }
}

#[test]
fn rope_angles_are_f32_products() {
    let inv_freq: Vec<f32> = (0..32).map(|i| 10_000f32.powf(-(i as f32) / 32.0)).collect();
    let positions: Vec<u32> = (0..500).map(|i| i * 37).collect();
    for (name, mut backend) in backends() {
        let mut out = backend.tensor(500, 64).unwrap();
        backend.begin(&Batch { positions: positions.clone(), ..Batch::default() });
        backend.rope_angles(&vector(&inv_freq), 1.25, &mut out);
        for (row, position) in out.values().chunks(64).zip(&positions) {
            for (i, frequency) in inv_freq.iter().enumerate() {
                let angle = (*position as f32 * frequency) as f64;
                assert!((row[i] as f64 - 1.25 * angle.cos()).abs() < 2e-7, "{name}");
                assert!((row[32 + i] as f64 - 1.25 * angle.sin()).abs() < 2e-7, "{name}");
            }
        }
    }
}

struct Heads {
    layout: HeadLayout,
    rotary_dim: usize,
    style: RopeStyle,
    norms: bool,
    dtype: KvDtype,
}

/// One head of q or k in f64: norm, then rotation.
fn rope_head(x: &[f32], weight: Option<&[f32]>, angles: &[f32], style: RopeStyle) -> Vec<f64> {
    let mut x: Vec<f64> = x.iter().map(|x| *x as f64).collect();
    if let Some(weight) = weight {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + 1e-6).sqrt();
        x.iter_mut().zip(weight).for_each(|(x, w)| *x *= scale * *w as f64);
    }
    let half = angles.len() / 2;
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

fn check_rope(random: &mut Random, case: &Heads, rows: usize) {
    let Heads { layout, rotary_dim, style, norms, dtype } = *case;
    let (head_dim, q_heads, kv_heads) = (layout.head_dim, layout.heads, layout.kv_heads);
    let qkv = random.values(rows * layout.qkv_dim());
    let (q_weight, k_weight) = (random.values(head_dim), random.values(head_dim));
    let (q_vector, k_vector) = (vector(&q_weight), vector(&k_weight));
    let angles = random.values(rows * rotary_dim);
    let blocks = rows.div_ceil(KV_BLOCK_TOKENS) * 2;
    // Distinct slots in a random order.
    let mut slots: Vec<u32> = (0..(blocks * KV_BLOCK_TOKENS) as u32).collect();
    for i in (1..slots.len()).rev() {
        slots.swap(i, random.below(i + 1));
    }
    slots.truncate(rows);
    let batch = Batch { slots, ..Batch::default() };
    let spec = KvSpec { layers: 2, layout: KvLayout::Heads { kv_heads, head_dim }, dtype };
    let mut results: Vec<Vec<f32>> = Vec::new();
    for (name, mut backend) in backends() {
        let mut kv = backend.kv_cache(&spec, blocks).unwrap();
        let mut x = tensor(layout.qkv_dim(), &qkv);
        let weights = norms.then_some((&q_vector, &k_vector, 1e-6));
        let angle_rows = tensor(rotary_dim, &angles);
        backend.begin(&batch);
        backend.rope_kv_write(&mut x, layout, weights, &angle_rows, style, &mut kv, 1);
        for row in 0..rows {
            let before: Vec<&[f32]> = qkv[row * layout.qkv_dim()..].chunks(head_dim).collect();
            let after: Vec<&[f32]> = x.values()[row * layout.qkv_dim()..].chunks(head_dim).collect();
            for head in 0..q_heads + kv_heads {
                let weight = if head < q_heads { &q_weight } else { &k_weight };
                let angles = &angles[row * rotary_dim..][..rotary_dim];
                let wanted = rope_head(before[head], norms.then_some(weight.as_slice()), angles, style);
                assert_close(after[head], &wanted, 2e-6, &name);
            }
            for head in 0..kv_heads {
                let (key, value) = (after[q_heads + head], after[q_heads + kv_heads + head]);
                assert_bits(value, before[q_heads + kv_heads + head], "v is left alone");
                let slot = batch.slots[row] as usize;
                let (written_key, written_value) = read_slot(&kv, 1, slot, head);
                let stored = |x: &[f32]| -> Vec<f32> {
                    match dtype {
                        KvDtype::F32 => x.to_vec(),
                        KvDtype::F16 => x.iter().map(|x| half::f16::from_f32(*x).to_f32()).collect(),
                    }
                };
                assert_bits(&written_key, &stored(key), &name);
                assert_bits(&written_value, &stored(value), &name);
                // The other layer's blocks are untouched.
                assert!(read_slot(&kv, 0, slot, head).0.iter().all(|x| *x == 0.0), "{name}");
            }
        }
        results.push(x.values().to_vec());
    }
    for result in &results[1..] {
        assert_bits(result, &results[0], "the same bits on every instruction set and thread count");
    }
}

/// One slot's key and value of one head, as the layout's description says.
fn read_slot(kv: &Cache, layer: usize, slot: usize, head: usize) -> (Vec<f32>, Vec<f32>) {
    let kv = kv.heads();
    let KvLayout::Heads { head_dim, .. } = kv.spec().layout else { panic!("a cache of heads") };
    let (block, offset) = ((slot / KV_BLOCK_TOKENS) as u32, slot % KV_BLOCK_TOKENS);
    match kv.spec().dtype {
        KvDtype::F32 => {
            let view = kv.layer::<f32>(layer);
            let key = view.keys(block, head).iter().map(|lanes| lanes[offset]).collect();
            (key, view.values(block, head)[offset * head_dim..][..head_dim].to_vec())
        }
        KvDtype::F16 => {
            let view = kv.layer::<u16>(layer);
            let widen = |bits: &u16| half::f16::from_bits(*bits).to_f32();
            let key = view.keys(block, head).iter().map(|lanes| widen(&lanes[offset])).collect();
            (key, view.values(block, head)[offset * head_dim..][..head_dim].iter().map(widen).collect())
        }
    }
}

#[test]
fn rope_and_kv_write_in_both_styles_and_types() {
    let mut random = Random(4);
    let shapes = [(9, 3, 64, 64), (4, 2, 16, 16), (4, 1, 80, 32), (2, 2, 24, 24), (8, 2, 128, 128)];
    for (heads, kv_heads, head_dim, rotary_dim) in shapes {
        for style in [RopeStyle::Half, RopeStyle::Interleaved] {
            for (norms, dtype) in [(false, KvDtype::F32), (true, KvDtype::F16)] {
                let layout = HeadLayout { heads, kv_heads, head_dim };
                for rows in [1, 5, 150] {
                    check_rope(&mut random, &Heads { layout, rotary_dim, style, norms, dtype }, rows);
                }
            }
        }
    }
}

#[test]
fn vectors_join_their_parts_and_refuse_block_types() {
    let a = data("a", &[2], &[1.0, 2.0]);
    let bf16 = |values: &[f32]| -> Vec<u8> {
        values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect()
    };
    let f16 = |values: &[f32]| -> Vec<u8> {
        values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect()
    };
    let b = TensorData { dtype: Dtype::BF16, data: bf16(&[3.0, -0.5]).into(), ..a.clone() };
    let c = TensorData { dtype: Dtype::F16, data: f16(&[0.25]).into(), ..a.clone() };
    assert_eq!(Vector::load(&[a.clone(), b, c]).unwrap().values(), [1.0, 2.0, 3.0, -0.5, 0.25]);
    let q = TensorData { dtype: Dtype::Q8_0, name: "model.norm.weight".into(), ..a };
    let error = Vector::load(&[q]).err().unwrap().to_string();
    assert!(error.contains("model.norm.weight") && error.contains("Q8_0"), "{error}");
}

#[test]
fn what_cannot_be_had_is_an_error() {
    let backend = CpuBackend::new(1);
    let of = |kv_heads, head_dim| KvSpec {
        layers: 1000,
        layout: KvLayout::Heads { kv_heads, head_dim },
        dtype: KvDtype::F32,
    };
    for blocks in [1 << 30, usize::MAX] {
        let error = backend.kv_cache(&of(1000, 128), blocks).err().unwrap();
        assert!(matches!(error, BackendError::OutOfMemory { .. }), "{error}");
    }
    for head_dim in [0, 20, 264] {
        let error = backend.kv_cache(&of(1000, head_dim), 1).err().unwrap();
        assert!(error.to_string().contains(&format!("head_dim {head_dim}")), "{error}");
    }
    assert!(matches!(backend.tensor(usize::MAX, 2), Err(BackendError::OutOfMemory { .. })));
}

#[test]
fn linear_sets_rows_and_adds_the_bias() {
    let mut backend = CpuBackend::new(2);
    let w = backend.matrix(&[data("w", &[2, 3], &[1.0, 2.0, 3.0, 0.0, -1.0, 0.5])]).unwrap();
    let x = tensor(3, &[1.0, 1.0, 1.0, 2.0, 0.0, -2.0]);
    let mut out = backend.tensor(8, 2).unwrap();
    backend.linear(&w, Some(&vector(&[10.0, 20.0])), &x, &mut out);
    assert_eq!(out.values(), [16.0, 19.5, 6.0, 19.0]);
}
