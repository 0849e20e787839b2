//! Products by head against [`matmul::linear`] on the head's columns alone, and the norm over
//! all heads of all ranks against f64.

use super::*;
use crate::backend::cpu::pool::ThreadPool;

/// Columns `at .. at + width` of every row.
fn columns(x: &[f32], stride: usize, at: usize, width: usize) -> Vec<f32> {
    x.chunks_exact(stride).flat_map(|row| &row[at..at + width]).copied().collect()
}

fn packed(dtype: Dtype, rows: usize, cols: usize, seed: u64) -> Matrix {
    let values = Random(seed).values(rows * cols);
    let tensor = match dtype {
        Dtype::F32 => data("w", &[rows, cols], &values),
        Dtype::BF16 => TensorData {
            data: values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
            dtype,
            ..data("w", &[rows, cols], &[])
        },
        // Blocks of 34 bytes: an f16 scale and 32 codes.
        _ => TensorData {
            data: values
                .chunks_exact(32)
                .flat_map(|x| {
                    let scale = half::f16::from_f32(1.0 / 127.0).to_le_bytes();
                    scale.into_iter().chain(x.iter().map(|x| (x * 127.0) as i8 as u8))
                })
                .collect(),
            dtype,
            ..data("w", &[rows, cols], &[])
        },
    };
    Matrix::pack(&[tensor]).unwrap()
}

#[test]
fn a_head_s_columns_have_the_bits_of_its_matrix_alone() {
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::Q8_0] {
        // A head's input is 96 of 128 columns (q without its rotary part), its output 56 of 80.
        let (heads, cols, x_share, width, out_share) = (5, 96, 128, 56, 80);
        let w: Vec<Matrix> = (0..heads).map(|head| packed(dtype, width, cols, 60 + head as u64)).collect();
        let most = 130;
        let x = Random(71).values(most * heads * x_share);
        let before = Random(72).values(most * heads * out_share);
        let mut whole = vec![];
        for m in [most, 0, 1, 2, 9, 64, 65] {
            for threads in 1..=4 {
                let (x_columns, out_columns) = (heads * x_share, heads * out_share);
                let x = &x[..m * x_columns];
                let mut out = tensor(out_columns, &before);
                let mut backend = CpuBackend::new(threads);
                backend.head_linear(&w, &tensor(x_columns, x), &mut out);
                let out = out.values();
                for (head, w) in w.iter().enumerate() {
                    let mut expected = vec![f32::NAN; m * width];
                    let own = columns(x, x_columns, head * x_share, cols);
                    let mut pool = ThreadPool::new(1);
                    matmul::linear(&mut pool, &mut matmul::Scratch::new(), w, None, m, &own, &mut expected);
                    let what = format!("{dtype:?}, head {head}, {m} rows");
                    assert_bits(&columns(out, out_columns, head * out_share, width), &expected, &what);
                    let (at, rest) = (head * out_share + width, out_share - width);
                    let others = columns(&before[..m * out_columns], out_columns, at, rest);
                    assert_bits(&columns(out, out_columns, at, rest), &others, "columns that stay");
                }
                if m == most {
                    whole = out.to_vec();
                }
                assert_bits(out, &whole[..m * out_columns], &format!("{dtype:?}: {m} rows of {most}"));
            }
        }
    }
}

/// q of all heads, then k of all, normed in f64.
fn joint_reference(q: &[f32], k: &[f32], weights: [&[f32]; 2], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let norm = |x: &[f32], weight: &[f32]| {
        let mean = x.iter().map(|x| (*x as f64).powi(2)).sum::<f64>() / x.len() as f64;
        x.iter().zip(weight).map(|(x, w)| *x as f64 / (mean + eps).sqrt() * *w as f64).collect()
    };
    (norm(q, weights[0]), norm(k, weights[1]))
}

#[test]
fn the_joint_norm_is_over_all_ranks() {
    let (all, head_dim, eps) = (8, 24, 1e-6f32);
    // More rows than go to the other ranks at once.
    for rows in [1, 3, 1030] {
        for (ranks, all_kv) in [(1, 2), (2, 2), (4, 4), (4, 2), (8, 2)] {
            let mut random = Random((rows + ranks) as u64);
            let q = random.values(rows * all * head_dim);
            let k = random.values(rows * all_kv * head_dim);
            let (q_norm, k_norm) = (random.values(all * head_dim), random.values(all_kv * head_dim));
            // A rank's kv heads; where there are fewer than ranks, neighbours hold the same one.
            let kv_heads = (all_kv / ranks).max(1);
            let first_kv = |rank: usize| rank * all_kv / ranks;
            let heads = HeadLayout { heads: all / ranks, kv_heads, head_dim };
            let (q_dim, k_dim) = (heads.q_dim(), kv_heads * head_dim);
            let v = vec![0.75; rows * k_dim];
            let job = |rank: usize, backend: &mut CpuBackend| {
                let (q_at, k_at) = (rank * q_dim, first_kv(rank) * head_dim);
                let q = columns(&q, all * head_dim, q_at, q_dim);
                let k = columns(&k, all_kv * head_dim, k_at, k_dim);
                let fused: Vec<f32> = (0..rows)
                    .flat_map(|r| [&q[r * q_dim..][..q_dim], &k[r * k_dim..][..k_dim], &v[..k_dim]].concat())
                    .collect();
                let mut qkv = tensor(heads.qkv_dim(), &fused);
                let weights = (vector(&q_norm[q_at..][..q_dim]), vector(&k_norm[k_at..][..k_dim]));
                backend.joint_qk_norm(&mut qkv, heads, &weights.0, &weights.1, eps);
                qkv.values().to_vec()
            };
            // They outlive their threads: a rank that is dropped breaks the group.
            let mut backends = CpuBackend::group(ranks, ranks);
            let results: Vec<Vec<f32>> = std::thread::scope(|scope| {
                let job = &job;
                let ranks = backends.iter_mut().enumerate();
                let threads: Vec<_> =
                    ranks.map(|(rank, backend)| scope.spawn(move || job(rank, backend))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            for row in 0..rows {
                let q = &q[row * all * head_dim..][..all * head_dim];
                let k = &k[row * all_kv * head_dim..][..all_kv * head_dim];
                let (q, k) = joint_reference(q, k, [&q_norm, &k_norm], eps as f64);
                for (rank, got) in results.iter().enumerate() {
                    let got = &got[row * heads.qkv_dim()..][..heads.qkv_dim()];
                    let what = format!("rank {rank} of {ranks}, {all_kv} kv heads, row {row}");
                    assert_close(&got[..q_dim], &q[rank * q_dim..][..q_dim], 1e-6, &what);
                    let k = &k[first_kv(rank) * head_dim..][..k_dim];
                    assert_close(&got[q_dim..][..k_dim], k, 1e-6, &what);
                    assert_eq!(&got[q_dim + k_dim..], &v[..k_dim], "v stays");
                }
            }
        }
    }
}

#[test]
fn the_joint_norm_of_a_row_does_not_depend_on_its_batch() {
    let heads = HeadLayout { heads: 6, kv_heads: 2, head_dim: 40 };
    let (columns, rows) = (heads.qkv_dim(), 1500);
    let x = Random(91).values(rows * columns);
    let (q_norm, k_norm) = (vector(&Random(92).values(240)), vector(&Random(93).values(80)));
    for (name, mut backend) in backends() {
        let mut run = |first: usize, count: usize| {
            let mut qkv = tensor(columns, &x[first * columns..][..count * columns]);
            backend.joint_qk_norm(&mut qkv, heads, &q_norm, &k_norm, 1e-5);
            qkv.values().to_vec()
        };
        let whole = run(0, rows);
        for (first, count) in [(0, 1), (1023, 1), (1024, 2), (1400, 100)] {
            assert_bits(&run(first, count), &whole[first * columns..][..count * columns], &name);
        }
    }
}
