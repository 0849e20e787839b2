//! Routing against transformers' routers written out in f64; products by expert against
//! [`matmul::linear`] on an expert's rows alone.

use super::*;
use crate::backend::cpu::moe;
use crate::backend::cpu::pool::ThreadPool;
use crate::backend::{ExpertGroups, GroupScore, Scoring};
use half::f16;

/// What a router of transformers computes for a row: (expert, weight), by expert. Masks and
/// whole sorts, as there; `torch.topk` puts NaN first.
fn reference(logits: &[f32], bias: Option<&[f32]>, routing: &Routing) -> Vec<(usize, f64)> {
    let logits: Vec<f64> = logits.iter().map(|x| *x as f64).collect();
    let scores: Vec<f64> = match routing.scoring {
        Scoring::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        Scoring::Softmax => {
            let sum: f64 = logits.iter().map(|x| x.exp()).sum();
            logits.iter().map(|x| x.exp() / sum).collect()
        }
    };
    let mut for_choice = scores.clone();
    if let Some(bias) = bias {
        for_choice.iter_mut().zip(bias).for_each(|(score, bias)| *score += *bias as f64);
    }
    let top = |values: &[f64], k: usize| {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
        order.truncate(k);
        order
    };
    if let Some(ExpertGroups { count, keep, score }) = routing.groups {
        let size = routing.experts / count;
        let group_scores: Vec<f64> = for_choice
            .chunks(size)
            .map(|group| match score {
                GroupScore::Best => group[top(group, 1)[0]],
                GroupScore::BestTwo => top(group, 2).into_iter().map(|i| group[i]).sum(),
            })
            .collect();
        let kept = top(&group_scores, keep);
        let masked = if score == GroupScore::Best { 0.0 } else { f64::NEG_INFINITY };
        for (expert, score) in for_choice.iter_mut().enumerate() {
            if !kept.contains(&(expert / size)) {
                *score = masked;
            }
        }
    }
    let chosen = top(&for_choice, routing.top_k);
    let mut weights: Vec<f64> = chosen.iter().map(|i| scores[*i]).collect();
    if routing.normalise {
        let sum = weights.iter().sum::<f64>() + 1e-20;
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
    let mut pairs: Vec<(usize, f64)> =
        chosen.into_iter().zip(weights.iter().map(|w| w * routing.scale as f64)).collect();
    pairs.sort_by_key(|pair| pair.0);
    pairs
}

/// The families' routers: (name, routing, with a correction bias).
fn routers() -> Vec<(&'static str, Routing, bool)> {
    let groups = |count, keep, score| Some(ExpertGroups { count, keep, score });
    let routing = |experts, top_k, scoring, groups, normalise, scale| Routing {
        experts,
        top_k,
        scoring,
        groups,
        normalise,
        scale,
    };
    use GroupScore::{Best, BestTwo};
    use Scoring::{Sigmoid, Softmax};
    vec![
        ("qwen3", routing(128, 8, Softmax, None, true, 1.0), false),
        ("qwen3, not normalised", routing(60, 4, Softmax, None, false, 1.0), false),
        ("v2-lite", routing(64, 6, Softmax, None, false, 1.0), false),
        ("v2", routing(160, 6, Softmax, groups(8, 3, Best), false, 16.0), false),
        ("v3", routing(256, 8, Sigmoid, groups(8, 4, BestTwo), true, 2.5), true),
        ("v3, as few as can be", routing(16, 4, Sigmoid, groups(8, 2, BestTwo), false, 1.0), true),
        ("minimax", routing(256, 8, Sigmoid, None, true, 1.0), true),
        ("all", routing(5, 5, Sigmoid, None, true, 1.0), true),
    ]
}

/// Routes `rows` of random logits; also gives the logits and the bias.
fn routed(
    threads: usize,
    logits: &[f32],
    bias: Option<&[f32]>,
    routing: &Routing,
    local: Range<usize>,
) -> Routes {
    let rows = logits.len() / routing.experts;
    let mut routes = Routes::new(rows, routing.top_k).unwrap();
    let bias = bias.map(vector);
    let logits = tensor(routing.experts, logits);
    moe::route(&mut ThreadPool::new(threads), &logits, bias.as_ref(), routing, local, &mut routes);
    routes
}

/// Each row's (expert, weight), read back from the pairs; checks that they are in order.
fn pairs_of(routes: &Routes, rows: usize) -> Vec<Vec<(usize, f32)>> {
    let mut pairs = vec![vec![]; rows];
    let listed = routes.listed();
    assert!(listed.is_sorted_by_key(|(row, expert, _)| (*expert, *row)), "sorted by expert, then by row");
    for (row, expert, weight) in listed {
        pairs[row].push((expert, weight));
    }
    pairs
}

#[test]
fn routers_choose_and_weigh_as_transformers_do() {
    for (name, routing, biased) in routers() {
        for seed in 1..6 {
            let mut random = Random(seed);
            let rows = 40;
            let logits: Vec<f32> = random.values(rows * routing.experts).iter().map(|x| x * 4.0).collect();
            let bias: Vec<f32> = random.values(routing.experts).iter().map(|x| x * 0.3).collect();
            let bias = biased.then_some(&bias[..]);
            let wanted: Vec<_> =
                logits.chunks(routing.experts).map(|logits| reference(logits, bias, &routing)).collect();
            // Whole, and as one of several ranks.
            let third = routing.experts / 3;
            for local in [0..routing.experts, third..2 * third, 0..0] {
                for threads in [1, 3] {
                    let got = pairs_of(&routed(threads, &logits, bias, &routing, local.clone()), rows);
                    for (row, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
                        let wanted: Vec<_> = wanted.iter().filter(|(e, _)| local.contains(e)).collect();
                        let experts: Vec<_> = got.iter().map(|(e, _)| e + local.start).collect();
                        let expected: Vec<_> = wanted.iter().map(|(e, _)| *e).collect();
                        assert_eq!(experts, expected, "{name}, seed {seed}, row {row}");
                        for ((_, got), (_, wanted)) in got.iter().zip(wanted) {
                            let error = (*got as f64 - wanted).abs();
                            assert!(error <= 2e-6 * wanted, "{name}: weight {got} for {wanted}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn of_equals_the_lower_index_is_chosen() {
    for (name, routing, _) in routers() {
        let logits = vec![0.25; routing.experts];
        let got = pairs_of(&routed(1, &logits, None, &routing, 0..routing.experts), 1);
        let experts: Vec<usize> = got[0].iter().map(|pair| pair.0).collect();
        assert_eq!(experts, (0..routing.top_k).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn logits_that_are_no_numbers_choose_distinct_experts() {
    for (name, routing, biased) in routers() {
        let experts = routing.experts;
        let bias = Random(3).values(experts);
        let bias = biased.then_some(&bias[..]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let good = Random(5).values(experts);
            let mut one = good.clone();
            one[experts - 2] = bad;
            let rows = [good.clone(), one, vec![bad; experts], good].concat();
            let routes = routed(2, &rows, bias, &routing, 0..experts);
            let pairs = pairs_of(&routes, 4);
            for pairs in &pairs {
                let mut distinct: Vec<_> = pairs.iter().map(|pair| pair.0).collect();
                distinct.dedup();
                assert_eq!(distinct.len(), routing.top_k, "{name} with {bad}");
                assert!(distinct.iter().all(|expert| *expert < experts));
            }
            assert_eq!(pairs[0], pairs[3], "{name}: the others' rows are as they were");
            if bad.is_nan() {
                // It is seen in the output: a NaN logit is chosen.
                assert!(pairs[1].iter().chain(&pairs[2]).any(|pair| pair.1.is_nan()), "{name}");
                assert!(pairs[1].iter().any(|pair| pair.1.is_nan()), "{name}");
            }
        }
    }
}

/// A correction bias of infinities, as a damaged file may have.
#[test]
fn an_infinite_bias_chooses_distinct_experts() {
    for (name, routing, _) in routers() {
        let logits = Random(7).values(routing.experts);
        let bias = vec![f32::NEG_INFINITY; routing.experts];
        let pairs = pairs_of(&routed(1, &logits, Some(&bias), &routing, 0..routing.experts), 1);
        assert_eq!(pairs[0].len(), routing.top_k, "{name}");
    }
}

/// Valid blocks of a type: codes and factors are random, f16 scales small.
fn stored(dtype: Dtype, rows: usize, cols: usize, seed: u64) -> TensorData<'static> {
    let mut random = Random(seed);
    let values = rows * cols;
    let bytes: Vec<u8> = match dtype {
        Dtype::F32 => random.values(values).iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::BF16 => {
            random.values(values).iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect()
        }
        _ => {
            let mut bytes: Vec<u8> = (0..dtype.bytes(values).unwrap()).map(|_| random.next() as u8).collect();
            let scales: &[usize] = match dtype {
                Dtype::Q8_0 => &[0],
                Dtype::Q6K => &[208],
                _ => &[0, 2],
            };
            for block in bytes.chunks_exact_mut(dtype.block().1) {
                for &at in scales {
                    block[at..at + 2].copy_from_slice(&f16::from_f32(random.value() * 0.01).to_le_bytes());
                }
            }
            bytes
        }
    };
    TensorData { name: format!("{dtype:?}"), dtype, shape: vec![rows, cols], data: bytes.into() }
}

const TYPES: [Dtype; 5] = [Dtype::F32, Dtype::BF16, Dtype::Q8_0, Dtype::Q4K, Dtype::Q6K];

fn matrices(dtype: Dtype, count: usize, rows: usize, cols: usize) -> Vec<Matrix> {
    let pack = |i: usize| Matrix::pack(&[stored(dtype, rows, cols, 100 + i as u64)]).unwrap();
    (0..count).map(pack).collect()
}

/// Logits by which row r goes to exactly the experts `wanted(r)`.
fn logits_for(rows: usize, experts: usize, wanted: impl Fn(usize) -> Vec<usize>) -> Vec<f32> {
    let mut logits = vec![-4.0; rows * experts];
    for row in 0..rows {
        for expert in wanted(row) {
            logits[row * experts + expert] = 3.0 + 0.01 * ((row * 7 + expert * 3) % 11) as f32;
        }
    }
    logits
}

fn softmax_routing(experts: usize, top_k: usize) -> Routing {
    Routing { experts, top_k, scoring: Scoring::Softmax, groups: None, normalise: true, scale: 1.0 }
}

/// The rows' inputs by pair, through `expert_linear`: (out, bytes).
fn through(
    threads: usize,
    experts: &Experts,
    routes: &Routes,
    x: &Tensor,
    out_cols: usize,
) -> (Vec<f32>, u64) {
    let mut pool = ThreadPool::new(threads);
    let pairs = routes.listed().len();
    let mut dispatched = Tensor::new(pairs, x.columns()).unwrap();
    moe::dispatch(&mut pool, x, routes, &mut dispatched);
    let mut out = Tensor::new(pairs, out_cols).unwrap();
    out.set_rows(pairs, out_cols).fill(f32::NAN);
    let mut scratch = matmul::Scratch::new();
    let bytes = moe::expert_linear(&mut pool, &mut scratch, experts, routes, &dispatched, &mut out);
    (out.values().to_vec(), bytes)
}

/// Rows of an expert through its matrix alone.
fn alone(w: &Matrix, x: &[f32]) -> Vec<f32> {
    let m = x.len() / w.cols;
    let mut out = vec![f32::NAN; m * w.rows];
    matmul::linear(&mut ThreadPool::new(1), &mut matmul::Scratch::new(), w, None, m, x, &mut out);
    out
}

#[test]
fn an_expert_s_rows_have_the_bits_of_its_matrix_alone() {
    // Experts 0, 2, 3, 5 get 1, 3, 17 and 100 rows; 1, 4 and 6 none.
    let counts = [1, 0, 3, 17, 0, 100, 0];
    let (experts, cols, width) = (counts.len(), 512, 200);
    let owner = |row: usize| (0..experts).find(|e| row < counts[..=*e].iter().sum::<usize>()).unwrap();
    let rows: usize = counts.iter().sum();
    let logits = logits_for(rows, experts, |row| vec![owner(row * 50 % rows)]);
    for dtype in TYPES {
        let matrices = matrices(dtype, experts, width, cols);
        let active: usize = (0..experts).filter(|e| counts[*e] > 0).map(|e| matrices[e].bytes()).sum();
        let mut expected: Vec<f32> = vec![];
        let values = Random(11).values(rows * cols);
        let x = tensor(cols, &values);
        for (expert, w) in matrices.iter().enumerate() {
            let own = (0..rows).filter(|row| owner(row * 50 % rows) == expert);
            let own: Vec<f32> = own.flat_map(|row| &values[row * cols..][..cols]).copied().collect();
            expected.extend(alone(w, &own));
        }
        let held = Experts::new(matrices).unwrap();
        for threads in 1..=4 {
            let routes = routed(threads, &logits, None, &softmax_routing(experts, 1), 0..experts);
            let (out, bytes) = through(threads, &held, &routes, &x, width);
            assert_bits(&out, &expected, &format!("{dtype:?} on {threads} threads"));
            assert_eq!(bytes, active as u64, "{dtype:?} on {threads} threads");
        }
    }
}

#[test]
fn stacked_experts_of_several_types_count_all_their_bytes() {
    let (experts, cols) = (4, 512);
    let pack = |i: u64| {
        let parts = [stored(Dtype::Q4K, 40, cols, i), stored(Dtype::F32, 24, cols, i + 50)];
        Matrix::pack(&parts).unwrap()
    };
    let matrices: Vec<Matrix> = (0..experts as u64).map(pack).collect();
    let rows = 90;
    let logits = logits_for(rows, experts, |row| if row < 80 { vec![3] } else { vec![1] });
    let values = Random(13).values(rows * cols);
    let mut expected = alone(&matrices[1], &values[80 * cols..]);
    expected.extend(alone(&matrices[3], &values[..80 * cols]));
    let active = matrices[1].bytes() + matrices[3].bytes();
    let held = Experts::new(matrices).unwrap();
    for threads in [1, 3] {
        let routes = routed(threads, &logits, None, &softmax_routing(experts, 1), 0..experts);
        let (out, bytes) = through(threads, &held, &routes, &tensor(cols, &values), 64);
        assert_bits(&out, &expected, "two types");
        assert_eq!(bytes, active as u64);
    }
}

/// A layer of two products, f32 weights, against sums in f64.
#[test]
fn a_layer_sums_its_experts_and_the_shared_ones() {
    let (experts, top_k, cols, rows) = (6, 3, 40, 9);
    let weights: Vec<Vec<f32>> = (0..experts).map(|i| Random(20 + i as u64).values(cols * cols)).collect();
    let pack = |w: &Vec<f32>| Matrix::pack(&[data("w", &[cols, cols], w)]).unwrap();
    let logits = Random(31).values(rows * experts);
    let x = Random(32).values(rows * cols);
    let shared = Random(33).values(rows * cols);
    let routing = softmax_routing(experts, top_k);
    // The whole layer, and a rank with experts 2 and 3 only.
    for local in [0..experts, 2..4, 1..1] {
        for with_shared in [false, true] {
            let mut wanted: Vec<f64> =
                shared.iter().map(|x| if with_shared { *x as f64 } else { 0.0 }).collect();
            for row in 0..rows {
                for (expert, weight) in reference(&logits[row * experts..][..experts], None, &routing) {
                    if local.contains(&expert) {
                        for (c, out) in wanted[row * cols..][..cols].iter_mut().enumerate() {
                            let w = &weights[expert][c * cols..][..cols];
                            let x = &x[row * cols..][..cols];
                            *out += weight * w.iter().zip(x).map(|(w, x)| *w as f64 * *x as f64).sum::<f64>();
                        }
                    }
                }
            }
            for (name, mut backend) in backends() {
                let held = backend.experts(weights[local.clone()].iter().map(pack).collect()).unwrap();
                let mut routes = backend.routes(rows, top_k).unwrap();
                backend.moe_route(&tensor(experts, &logits), None, &routing, local.clone(), &mut routes);
                let mut pairs = backend.tensor(rows * top_k, cols).unwrap();
                let mut products = backend.tensor(rows * top_k, cols).unwrap();
                let mut out = backend.tensor(rows, cols).unwrap();
                out.set_rows(rows, cols).fill(f32::NAN);
                backend.moe_dispatch(&tensor(cols, &x), &routes, &mut pairs);
                backend.expert_linear(&held, &routes, &pairs, &mut products);
                let shared = with_shared.then(|| tensor(cols, &shared));
                backend.moe_combine(&products, &routes, shared.as_ref(), &mut out);
                assert_close(out.values(), &wanted, 1e-5, &format!("{name}, experts {local:?}"));
            }
        }
    }
}

/// The layer's result for each row of `rows`, as bits.
fn layer(
    threads: usize,
    experts: &Experts,
    bytes: &mut Vec<u64>,
    logits: &[f32],
    x: &[f32],
    top_k: usize,
) -> Vec<f32> {
    let cols = 256;
    let rows = x.len() / cols;
    let routing = softmax_routing(logits.len() / rows, top_k);
    let routes = routed(threads, logits, None, &routing, 0..routing.experts);
    let (products, read) = through(threads, experts, &routes, &tensor(cols, x), cols);
    bytes.push(read);
    let mut out = Tensor::new(rows, cols).unwrap();
    let products = tensor(cols, &products);
    moe::combine(&mut ThreadPool::new(threads), Isa::best(), &products, &routes, None, &mut out);
    out.values().to_vec()
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    let (experts, top_k, cols, rows) = (16, 4, 256, 120);
    let logits = Random(41).values(rows * experts);
    let x = Random(42).values(rows * cols);
    for dtype in TYPES {
        let held = Experts::new(matrices(dtype, experts, cols, cols)).unwrap();
        let one = matrices(dtype, 1, cols, cols)[0].bytes() as u64;
        let mut bytes = vec![];
        let whole = layer(3, &held, &mut bytes, &logits, &x, top_k);
        assert_eq!(bytes, [experts as u64 * one], "all experts are active");
        for (first, count) in [(0, 1), (7, 1), (7, 2), (50, 9), (3, 70)] {
            let (logits, x) =
                (&logits[first * experts..][..count * experts], &x[first * cols..][..count * cols]);
            let part = layer(2, &held, &mut bytes, logits, x, top_k);
            assert_bits(&part, &whole[first * cols..][..count * cols], &format!("{dtype:?}: {count} rows"));
        }
        assert_eq!(bytes[1], top_k as u64 * one, "one row reads its own experts only");
    }
}

#[test]
fn the_backend_adds_up_the_bytes() {
    let mut backend = CpuBackend::new(2);
    let held = matrices(Dtype::Q8_0, 4, 32, 64);
    let one = held[0].bytes() as u64;
    let held = backend.experts(held).unwrap();
    let mut routes = backend.routes(2, 2).unwrap();
    let logits = tensor(4, &logits_for(2, 4, |_| vec![1, 2]));
    backend.moe_route(&logits, None, &softmax_routing(4, 2), 0..4, &mut routes);
    let x = tensor(64, &Random(1).values(2 * 64));
    let (mut pairs, mut out) = (backend.tensor(4, 64).unwrap(), backend.tensor(4, 32).unwrap());
    backend.moe_dispatch(&x, &routes, &mut pairs);
    for calls in 1..4 {
        backend.expert_linear(&held, &routes, &pairs, &mut out);
        assert_eq!(backend.expert_bytes_read(), calls * 2 * one);
    }
}

#[test]
fn experts_of_unequal_shape_are_refused() {
    let pack = |rows| Matrix::pack(&[data("w", &[rows, 8], &vec![0.5; rows * 8])]).unwrap();
    let error = Experts::new(vec![pack(4), pack(4), pack(5)]).err().unwrap().to_string();
    assert!(error.contains("4 x 8 and 5 x 8"), "{error}");
    assert!(Routes::new(usize::MAX, 8).is_err());
}
