//! The sampler against a straightforward reference in f64 that sorts everything.

use super::*;
use proptest::prelude::*;
use std::sync::Arc;

fn spec(choice: u32, output_index: u32) -> SampleSpec {
    SampleSpec { choice, output_index, prompt: Arc::new([]), output: Vec::new(), mask: None }
}

fn sample(logits: &[f32], params: &SamplingParams) -> TokenId {
    Sampler::default().sample(logits, params, &spec(0, 0)).unwrap().token
}

/// Steps 2 and 3 in f64: the probability of each token, 0 for those not kept.
fn reference(logits: &[f32], p: &SamplingParams, spec: &SampleSpec) -> Vec<f64> {
    let mut row: Vec<f64> = logits.iter().map(|x| f64::from(*x)).collect();
    for (token, bias) in &p.logit_bias {
        row[*token as usize] += f64::from(*bias);
    }
    if spec.output_index < p.min_tokens {
        p.stop_tokens.iter().for_each(|t| row[*t as usize] = f64::NEG_INFINITY);
    }
    for (token, x) in row.iter_mut().enumerate() {
        let in_output = spec.output.iter().filter(|t| **t as usize == token).count() as f64;
        if in_output > 0.0 || spec.prompt.contains(&(token as TokenId)) {
            let penalty = f64::from(p.repetition_penalty);
            *x = if *x > 0.0 { *x / penalty } else { *x * penalty };
        }
        if in_output > 0.0 {
            *x -= f64::from(p.frequency_penalty) * in_output + f64::from(p.presence_penalty);
        }
    }
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if p.temperature == 0.0 {
        let best = row.iter().position(|x| *x == max).unwrap();
        return (0..row.len()).map(|i| f64::from(u8::from(i == best))).collect();
    }
    let mut mass: Vec<f64> = row.iter().map(|x| ((x - max) / f64::from(p.temperature)).exp()).collect();
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| mass[*b].total_cmp(&mass[*a]).then(a.cmp(b)));
    if p.top_k > 0 {
        order.iter().skip(p.top_k as usize).for_each(|i| mass[*i] = 0.0);
    }
    if p.top_p < 1.0 {
        let total: f64 = mass.iter().sum();
        let mut sum = 0.0;
        for i in &order {
            if sum >= f64::from(p.top_p) * total * (1.0 - 1e-6) {
                mass[*i] = 0.0;
            }
            sum += mass[*i];
        }
    }
    mass.iter_mut().for_each(|m| *m = if *m < f64::from(p.min_p) { 0.0 } else { *m });
    let total: f64 = mass.iter().sum();
    mass.iter().map(|m| m / total).collect()
}

/// Log-softmax in f64.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    logits.iter().map(|x| f64::from(*x) - f64::from(max) - sum.ln()).collect()
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    // Multiples of 1/8 make ties; -infinity is what a model may mask with.
    let logit = prop_oneof![
        8 => (-80i32..80).prop_map(|x| x as f32 / 8.0),
        1 => Just(f32::NEG_INFINITY),
    ];
    proptest::collection::vec(logit, 1..300).prop_map(|mut row| {
        row[0] = 1.0;
        row
    })
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let filters = (
        prop_oneof![1 => Just(0.0f32), 4 => 0.1f32..2.0],
        prop_oneof![1 => Just(1.0f32), 2 => 0.01f32..1.0],
        prop_oneof![1 => Just(0u32), 2 => 1u32..400],
        prop_oneof![2 => Just(0.0f32), 1 => 0.001f32..1.0],
    );
    let penalties = (
        prop_oneof![1 => Just(0.0f32), 1 => -2.0f32..2.0],
        prop_oneof![1 => Just(0.0f32), 1 => -2.0f32..2.0],
        prop_oneof![1 => Just(1.0f32), 1 => 0.5f32..2.0],
        proptest::collection::vec((0u32..300, -100.0f32..100.0), 0..3),
    );
    (filters, penalties, any::<u64>(), 0u32..3).prop_map(|(f, p, seed, min_tokens)| SamplingParams {
        temperature: f.0,
        top_p: f.1,
        top_k: f.2,
        min_p: f.3,
        presence_penalty: p.0,
        frequency_penalty: p.1,
        repetition_penalty: p.2,
        logit_bias: p.3,
        seed,
        min_tokens,
        stop_tokens: vec![1, 2],
        ..SamplingParams::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn equals_the_reference(
        row in logits(),
        mut p in params(),
        choice in 0u32..4,
        index in 0u32..4,
        history in proptest::collection::vec(0u32..300, 0..40),
    ) {
        let inside = |t: &u32| (*t as usize) < row.len();
        p.logit_bias.retain(|(t, _)| inside(t));
        p.stop_tokens.retain(inside);
        let history: Vec<u32> = history.into_iter().filter(inside).collect();
        let (prompt, output) = history.split_at(history.len() / 2);
        let (prompt, output) = (prompt.into(), output.to_vec());
        let spec = SampleSpec { choice, output_index: index, prompt, output, mask: None };
        let token = Sampler::default().sample(&row, &p, &spec).unwrap().token as usize;
        let probability = reference(&row, &p, &spec);
        let below: f64 = probability[..token].iter().sum();
        let draw = uniform(p.seed, choice, index);
        // f32 arithmetic on the logits before the exponential: a part in 10^4 at the borders of
        // the draw's interval. The kept set is exact unless two masses differ by rounding alone.
        prop_assert!(
            probability[token] > 0.0 || borderline(&row, &p, &spec),
            "token {token} was not to be kept"
        );
        if p.temperature > 0.0 && !borderline(&row, &p, &spec) {
            prop_assert!(draw > below - 1e-4 && draw < below + probability[token] + 1e-4,
                "draw {draw} is outside {below} + {}", probability[token]);
        }
    }

    #[test]
    fn logprobs_equal_the_reference(row in logits(), top in 0usize..400, seed in any::<u64>()) {
        let p = SamplingParams { logprobs: Some(top as u32), seed, logit_bias: vec![(0, 50.0)], ..Default::default() };
        let got = Sampler::default().sample(&row, &p, &spec(0, 0)).unwrap();
        let expected = log_softmax(&row);
        let close = |a: f32, b: f64| f64::from(a) == b || (f64::from(a) - b).abs() < 1e-5;
        prop_assert!(close(got.logprob, expected[got.token as usize]));
        let mut order: Vec<usize> = (0..row.len()).filter(|i| row[*i] > f32::NEG_INFINITY).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
        order.truncate(top);
        prop_assert_eq!(got.top.iter().map(|(t, _)| *t as usize).collect::<Vec<_>>(), order);
        for (token, logprob) in &got.top {
            prop_assert!(close(*logprob, expected[*token as usize]));
        }
        let scored = Sampler::default().score(&row, got.token, top as u32).unwrap();
        prop_assert_eq!(scored, got);
    }

    #[test]
    fn a_nucleus_is_the_fewest_best_tokens(
        row in proptest::collection::vec(
            prop_oneof![8 => (-40i32..40).prop_map(|x| x as f32 / 16.0), 1 => Just(-0.0f32), 1 => Just(f32::NEG_INFINITY)],
            1..3000,
        ),
        part in 0.0f64..1.1,
        scale in 0.5f32..4.0,
    ) {
        let Some(best) = argmax(&row) else { return Ok(()) };
        let mass = |token: &u32| f64::from(exp((row[*token as usize] - best.logit) * scale));
        let wanted = part * sum_exp(&row, best.logit, scale);
        let mut sorted: Vec<u32> = (0..row.len() as u32).filter(|t| row[*t as usize].is_finite()).collect();
        sorted.sort_by(|a, b| row[*b as usize].partial_cmp(&row[*a as usize]).unwrap());
        let mut sum = 0.0;
        let end = sorted.iter().position(|token| { sum += mass(token); sum >= wanted });
        sorted.truncate(end.map_or(sorted.len(), |end| end + 1));
        let missed = (sum - wanted).abs() < 1e-9 || (sum - wanted - mass(sorted.last().unwrap())).abs() < 1e-9;
        sorted.sort_unstable();
        let mut got = Vec::new();
        math::nucleus(&row, best.logit, scale, wanted, &mut got);
        let got: Vec<u32> = got.iter().map(|c| c.token).collect();
        // Sums in another order may differ in their last bits.
        prop_assert!(got == sorted || missed, "{} tokens for {}", got.len(), sorted.len());
    }

    #[test]
    fn greedy_is_the_first_maximum(row in proptest::collection::vec(-3i32..3, 1..5000)) {
        let row: Vec<f32> = row.into_iter().map(|x| x as f32).collect();
        let max = row.iter().copied().fold(f32::MIN, f32::max);
        let first = row.iter().position(|x| *x == max).unwrap();
        prop_assert_eq!(sample(&row, &SamplingParams { temperature: 0.0, ..Default::default() }), first as u32);
    }

    #[test]
    fn exp_is_accurate(x in -87.0f32..=0.0) {
        let exact = f64::from(x).exp();
        prop_assert!(((f64::from(math::exp(x)) - exact) / exact).abs() < 3e-7);
    }
}

/// Whether the kept set hangs on a difference of a part in 10^4 (f32 against f64).
fn borderline(row: &[f32], p: &SamplingParams, spec: &SampleSpec) -> bool {
    let kept = |p: &SamplingParams| reference(row, p, spec).iter().map(|m| *m > 0.0).collect::<Vec<_>>();
    let with = |f: &dyn Fn(&mut SamplingParams)| {
        let mut p = p.clone();
        f(&mut p);
        kept(&p)
    };
    let base = kept(p);
    let penalised = p.repetition_penalty != 1.0 || p.frequency_penalty != 0.0 || p.presence_penalty != 0.0;
    let biased = !p.logit_bias.is_empty();
    with(&|p| p.top_p *= 1.0001) != base
        || with(&|p| p.top_p *= 0.9999) != base
        || with(&|p| p.min_p *= 1.0001) != base
        || with(&|p| p.min_p *= 0.9999) != base
        // Adjusted logits that tie only in exact arithmetic may be cut either way.
        || ((penalised || biased) && (p.top_k > 0 || p.top_p < 1.0 || p.temperature == 0.0) && {
            let nudged: Vec<f32> = row.iter().enumerate().map(|(i, x)| x + i as f32 * 1e-6).collect();
            let other: Vec<f32> = row.iter().enumerate().map(|(i, x)| x - i as f32 * 1e-6).collect();
            let set = |row: &[f32]| reference(row, p, spec).iter().map(|m| *m > 0.0).collect::<Vec<_>>();
            set(&nudged) != base || set(&other) != base
        })
}

/// Pearson's chi-square of draws over output positions against the given probabilities.
fn chi_square(row: &[f32], p: &SamplingParams, draws: u32) -> f64 {
    let mut sampler = Sampler::default();
    let mut counts = vec![0u32; row.len()];
    for index in 0..draws {
        counts[sampler.sample(row, p, &spec(index % 3, index)).unwrap().token as usize] += 1;
    }
    let expected = reference(row, p, &spec(0, 0));
    counts.iter().zip(expected).fold(0.0, |sum, (count, e)| {
        let e = e * f64::from(draws);
        assert!(e > 0.0 || *count == 0, "a token that was filtered out was drawn");
        if e > 0.0 { sum + (f64::from(*count) - e).powi(2) / e } else { sum }
    })
}

#[test]
fn draws_follow_the_distribution() {
    let row: Vec<f32> = (0..20).map(|i| (i as f32 * 0.7).sin() * 2.0).collect();
    let plain = SamplingParams { seed: 11, ..Default::default() };
    let filtered =
        SamplingParams { top_k: 10, top_p: 0.9, temperature: 1.3, min_p: 0.05, seed: 12, ..plain.clone() };
    // The 99.9% quantile of chi-square with 19 degrees of freedom is 43.8; with 9 it is 27.9.
    assert!(chi_square(&row, &plain, 60_000) < 43.8);
    assert!(chi_square(&row, &filtered, 60_000) < 27.9);
}

#[test]
fn the_draw_depends_on_each_counter_and_on_nothing_else() {
    let draws: Vec<f64> =
        [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1)].map(|(s, c, i)| uniform(s, c, i)).into();
    for (i, a) in draws.iter().enumerate() {
        assert!((0.0..1.0).contains(a));
        assert!(!draws[..i].contains(a));
    }
    assert_eq!(uniform(1, 2, 3), uniform(1, 2, 3));
}

/// The tokens that can be drawn.
fn support(row: &[f32], p: &SamplingParams) -> Vec<u32> {
    let mut sampler = Sampler::default();
    let mut seen: Vec<u32> = (0..2000).map(|i| sampler.sample(row, p, &spec(0, i)).unwrap().token).collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

#[test]
fn top_p_on_the_border_keeps_the_smallest_set() {
    let equal = [0.5f32; 10];
    for tenths in 1..=9u32 {
        let p = SamplingParams { top_p: tenths as f32 / 10.0, ..Default::default() };
        assert_eq!(support(&equal, &p), (0..tenths).collect::<Vec<_>>(), "top_p 0.{tenths}");
    }
    let p = SamplingParams { top_p: 1e-6, ..Default::default() };
    assert_eq!(support(&equal, &p), [0], "the best token always stays");
    // Half the mass exactly, after top_k has renormalised.
    let p = SamplingParams { top_p: 0.5, top_k: 4, ..Default::default() };
    assert_eq!(support(&equal, &p), [0, 1]);
}

#[test]
fn flat_distributions_need_more_than_the_first_candidates() {
    let flat: Vec<f32> = vec![1.0; 3000];
    let p = SamplingParams { top_p: 0.5, ..Default::default() };
    let mut sampler = Sampler::default();
    let largest = (0..20_000).map(|i| sampler.sample(&flat, &p, &spec(0, i)).unwrap().token).max().unwrap();
    assert!((1480..1500).contains(&largest), "{largest}");
}

#[test]
fn filters_at_their_limits() {
    let row = [1.0f32, 3.0, 3.0, f32::NEG_INFINITY, 2.0];
    let with = |f: &dyn Fn(&mut SamplingParams)| {
        let mut p = SamplingParams::default();
        f(&mut p);
        support(&row, &p)
    };
    assert_eq!(with(&|p| p.top_k = 1), [1]);
    assert_eq!(with(&|p| p.top_k = 99), [0, 1, 2, 4]);
    assert_eq!(with(&|p| p.min_p = 1.0), [1, 2]);
    assert_eq!(with(&|p| p.min_p = 0.36), [1, 2, 4]);
    assert_eq!(with(&|p| p.temperature = 1e-30), [1, 2]);
    assert_eq!(with(&|p| p.logit_bias = vec![(0, 100.0)]), [0]);
    assert_eq!(with(&|p| p.logit_bias = vec![(3, 100.0), (1, -100.0), (2, -100.0)]), [0, 4]);
}

#[test]
fn stop_tokens_wait_for_min_tokens() {
    let row = [9.0f32, 0.0, 1.0];
    let p =
        SamplingParams { temperature: 0.0, min_tokens: 2, stop_tokens: vec![0, 77], ..Default::default() };
    let mut sampler = Sampler::default();
    let at = |sampler: &mut Sampler, index| sampler.sample(&row, &p, &spec(0, index)).unwrap().token;
    assert_eq!([0, 1, 2].map(|i| at(&mut sampler, i)), [2, 2, 0]);
    // A ban of everything cannot be kept.
    let all = SamplingParams { stop_tokens: vec![0, 1, 2], ..p.clone() };
    assert_eq!(sampler.sample(&row, &all, &spec(0, 0)).unwrap().token, 0);
}

#[test]
fn penalties_never_make_infinities() {
    let row = [1e38f32, -1e38, 0.0];
    for penalty in [1e-38f32, 1e38] {
        let p = SamplingParams { repetition_penalty: penalty, ..Default::default() };
        let spec = SampleSpec { prompt: Arc::new([0, 1, 2]), ..spec(0, 0) };
        Sampler::default().sample(&row, &p, &spec).unwrap();
    }
}

#[test]
fn scratch_memory_carries_nothing_over() {
    let mut used = Sampler::default();
    let p =
        SamplingParams { repetition_penalty: 1.5, presence_penalty: 1.0, top_p: 0.9, ..Default::default() };
    let history = SampleSpec { prompt: Arc::new([0, 1]), output: vec![2, 2, 9], ..spec(0, 0) };
    used.sample(&[1.0; 12], &p, &history).unwrap();
    let row: Vec<f32> = (0..40).map(|i| (i % 7) as f32).collect();
    for index in 0..200 {
        let spec = SampleSpec { output: vec![3], ..spec(0, index) };
        assert_eq!(used.sample(&row, &p, &spec), Sampler::default().sample(&row, &p, &spec));
    }
}

#[test]
fn a_broken_row_is_an_error() {
    let greedy = SamplingParams { temperature: 0.0, ..Default::default() };
    for bad in [f32::NAN, f32::INFINITY] {
        for at in [0, 17, 1500, 2999] {
            let mut row = vec![0.5f32; 3000];
            row[at] = bad;
            for p in [&greedy, &SamplingParams::default()] {
                let got = Sampler::default().sample(&row, p, &spec(0, 0));
                assert_eq!(got, Err(SampleError::NotFinite), "{bad} at {at}");
            }
            assert_eq!(Sampler::default().score(&row, 3, 0), Err(SampleError::NotFinite));
        }
    }
    let nothing = [f32::NEG_INFINITY; 5];
    assert_eq!(Sampler::default().sample(&nothing, &greedy, &spec(0, 0)), Err(SampleError::NotFinite));
    assert_eq!(
        Sampler::default().score(&nothing, 5, 0),
        Err(SampleError::OutsideVocab { token: 5, vocab: 5 })
    );
}

proptest! {
    /// A mask is a ban of all that it leaves out, and comes before everything else; log-probabilities stay those
    /// of the raw logits.
    #[test]
    fn a_mask_leaves_its_tokens_alone(
        row in proptest::collection::vec(-6.0f32..6.0, 70),
        mask in proptest::array::uniform3(any::<u32>()),
        (temperature, top_k, top_p) in (prop_oneof![Just(0.0f32), 0.2f32..1.5], 0u32..8, 0.3f32..1.0),
        (seed, bias) in (any::<u64>(), -3.0f32..3.0),
    ) {
        let allowed = |token: usize| mask[token / 32] >> (token % 32) & 1 == 1;
        prop_assume!((0..row.len()).any(allowed));
        let p = SamplingParams {
            temperature, top_k, top_p, seed,
            logit_bias: vec![(3, bias)],
            repetition_penalty: 1.2,
            logprobs: Some(2),
            ..Default::default()
        };
        let spec = SampleSpec { output: vec![5, 5, 9], ..spec(0, 7) };
        let masked = Sampler::default().sample_within(Some(&mask), &row, &p, &spec).unwrap();
        let banned: Vec<f32> =
            row.iter().enumerate().map(|(token, x)| if allowed(token) { *x } else { f32::NEG_INFINITY }).collect();
        prop_assert_eq!(masked.token, Sampler::default().sample(&banned, &p, &spec).unwrap().token);
        prop_assert!(allowed(masked.token as usize));
        prop_assert_eq!(&masked, &Sampler { ..Default::default() }.score(&row, masked.token, 2).unwrap());
        // Greedy: what is allowed and would come anyway comes.
        let greedy = SamplingParams { temperature: 0.0, ..p.clone() };
        let free = Sampler::default().sample(&row, &greedy, &spec).unwrap();
        if allowed(free.token as usize) {
            prop_assert_eq!(free, Sampler::default().sample_within(Some(&mask), &row, &greedy, &spec).unwrap());
        }
    }
}

#[test]
fn a_mask_hides_no_broken_row_and_allows_no_more_than_it_says() {
    let mask = [0b100];
    for p in [SamplingParams { temperature: 0.0, ..Default::default() }, SamplingParams::default()] {
        let sample = |row: &[f32]| {
            Sampler::default().sample_within(Some(&mask), row, &p, &spec(0, 0)).map(|it| it.token)
        };
        assert_eq!(sample(&[9.0, 9.0, 1.0, 9.0]), Ok(2));
        assert_eq!(sample(&[f32::NAN, 9.0, 1.0, 9.0]), Err(SampleError::NotFinite));
        assert_eq!(sample(&[9.0, f32::INFINITY, 1.0, 9.0]), Err(SampleError::NotFinite));
        assert_eq!(sample(&[9.0, 9.0, f32::NEG_INFINITY, 9.0]), Err(SampleError::NotFinite));
    }
}
