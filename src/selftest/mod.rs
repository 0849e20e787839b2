//! Parity of the GPU kernels with the CPU backend, for a program that meets a device for the first
//! time: every case is a few operations of [`Backend`] on seeded random inputs, run on both, and the
//! results are compared.
//!
//! A case is written once, generic over the backend. Its inputs are rounded to the device's types
//! before either backend sees them, and the CPU gets dequantised weights in f32 ([`side`]), so that
//! what may differ is what the kernels round themselves: each output says how much that is
//! ([`side::Tolerance`]). Where matrix instructions take subnormal operands for zero (MI200), inputs that
//! only they see are zero for both. Groups of cases are named as the kernels' files are; what lies in a KV
//! cache is seen through attention.
//!
//! Invariant: a case's inputs follow from the seed, the group's name and the case's place in the
//! group alone, so that a failure is repeated by `--only` and `--seed`.

mod attention;
mod dense;
mod expanded;
mod mla;
mod moe;
mod paged;
mod products;
mod sampling;
mod side;
mod sink;
mod weights;

use crate::backend::cpu::CpuBackend;
use crate::backend::hip::driver::Vendor;
use crate::backend::hip::gpu::{Gpu, Half};
use crate::backend::hip::kernels::entry_points;
use crate::backend::hip::{self, HipBackend};
use crate::backend::{Backend, BackendError};
use side::{Difference, Output, Rng, Side};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::Write;
use std::ops::Range;

/// What is to be checked.
#[derive(Clone, Debug)]
pub struct Options {
    /// Groups whose names contain any of these; all when there are none.
    pub only: Vec<String>,
    /// Each gives other shapes and other values.
    pub seeds: Range<u64>,
    /// Shapes of a real model, beside small ones.
    pub large: bool,
}

/// Why a self-test ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device failed, or has no kernel for a shape.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The report could not be written.
    #[error("the report cannot be written: {0}")]
    Report(#[from] std::io::Error),
    /// No group has such a name.
    #[error("--only {0}: no kernel file is called so; there are {1}")]
    NoSuchGroup(String, String),
}

/// Checks a device and writes a report, a line for each group of cases. Whether all results agreed.
pub fn run(vendor: Vendor, number: usize, options: &Options, report: &mut dyn Write) -> Result<bool, Error> {
    for word in &options.only {
        if !GROUPS.iter().any(|(name, _)| name.contains(word.as_str())) {
            let names: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
            return Err(Error::NoSuchGroup(word.clone(), names.join(", ")));
        }
    }
    let gpus = [Half::Bf16, Half::F16].map(|half| Gpu::open(vendor, number, half));
    let [bf16, f16] = gpus;
    let gpus = [bf16?, f16?];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Launch by launch: steps are of all kinds, and none comes twice.
    let alone = |which: usize| {
        HipBackend::alone(gpus[which].clone(), hip::Options { eager: true, ..hip::Options::default() })
    };
    let mut runner = Runner {
        cpu: CpuBackend::new(threads),
        gpus: [alone(0)?, alone(1)?],
        compute_units: gpus[0].compute_units,
        flushes: gpus[0].kernels.architecture() == "gfx90a",
        large: options.large,
        seed: 0,
        half: Half::Bf16,
        tally: Tally::default(),
    };
    let (mut cases, mut failed) = (0, 0);
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|word| name.contains(word));
    for (name, group) in GROUPS.iter().filter(|(name, _)| wanted(name)) {
        runner.tally = Tally { name, ..Tally::default() };
        for seed in options.seeds.clone() {
            for half in [Half::Bf16, Half::F16] {
                (runner.seed, runner.half, runner.tally.case) = (seed, half, 0);
                group(&mut runner)?;
            }
        }
        let tally = &runner.tally;
        let outcome = if tally.failures.is_empty() { "ok" } else { "FAILED" };
        writeln!(
            report,
            "{name:18} {:5} cases, worst error {:5.2} of its tolerance: {outcome}",
            tally.cases, tally.worst
        )?;
        for failure in &tally.failures {
            writeln!(report, "    {failure}")?;
        }
        report.flush()?;
        cases += tally.cases;
        failed += tally.failures.len();
    }
    let used: BTreeSet<String> = gpus.iter().flat_map(|gpu| gpu.kernels.used()).collect();
    let all = entry_points();
    writeln!(report, "{cases} cases, {failed} failed, {} kernels launched of {}", used.len(), all.len())?;
    let missing: Vec<&str> = all.into_iter().filter(|name| !used.contains(*name)).collect();
    if options.only.is_empty() && !missing.is_empty() {
        writeln!(report, "never launched: {}", missing.join(" "))?;
    }
    Ok(failed == 0)
}

/// (the kernel file that it is about, its cases).
type Group = (&'static str, fn(&mut Runner) -> Result<(), BackendError>);

const GROUPS: &[Group] = &[
    ("embed", dense::embed),
    ("add_rms_norm", dense::add_rms_norm),
    ("silu_mul", dense::gate_mul),
    ("gather_rows", dense::gather_rows),
    ("rope_angles", dense::rope_angles),
    ("joint_qk_norm", dense::joint_qk_norm),
    ("place_columns", dense::place_columns),
    ("gemv", products::gemv::<0>),
    ("gemv_q8_0", products::gemv::<1>),
    ("gemv_int4", products::gemv::<2>),
    ("gemv_q4_k", products::gemv::<3>),
    ("gemv_q6_k", products::gemv::<4>),
    ("gemv_fp8", products::gemv::<5>),
    ("gemv_codebook", products::gemv::<6>),
    ("gemm", products::gemm::<0>),
    ("gemm_q8_0", products::gemm::<1>),
    ("gemm_int4", products::gemm::<2>),
    ("gemm_q4_k", products::gemm::<3>),
    ("gemm_q6_k", products::gemm::<4>),
    ("gemm_fp8", products::gemm::<5>),
    ("gemm_codebook", products::gemm::<6>),
    ("rope_kv_write", attention::rope_kv_write),
    ("attention_decode", attention::decode),
    ("attention_reduce", attention::reduce),
    ("attention_prefill", attention::prefill),
    ("block_copy", attention::block_copy),
    ("head_linear", mla::head_linear),
    ("mla_kv_write", mla::kv_write),
    ("mla_decode", mla::decode),
    ("mla_reduce", mla::reduce),
    ("mla_prefill", mla::prefill),
    ("mla_expand", expanded::expand),
    ("moe_route", moe::routing),
    ("moe_sort", moe::sort),
    ("moe_combine", moe::combine),
    ("moe_gemm", moe::gemm::<0>),
    ("moe_gemm_q8_0", moe::gemm::<1>),
    ("moe_gemm_int4", moe::gemm::<2>),
    ("moe_gemm_q4_k", moe::gemm::<3>),
    ("moe_gemm_q6_k", moe::gemm::<4>),
    ("moe_gemm_fp8", moe::gemm::<5>),
    ("moe_gemm_codebook", moe::gemm::<6>),
    ("argmax", sampling::argmax),
    ("mask", sampling::mask),
    ("penalties", sampling::penalties),
    ("sample", sampling::sample),
];

/// A case: its fields are its shape.
trait Case: Debug {
    /// Runs it and reads the results, in the same order on every backend.
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError>;
}

/// What came of a group.
#[derive(Default)]
struct Tally {
    name: &'static str,
    cases: usize,
    /// Cases with this seed and type, the first one's number being 1.
    case: u64,
    worst: f32,
    failures: Vec<String>,
}

/// Both backends, and what is being checked.
struct Runner {
    cpu: CpuBackend,
    /// With activations in bf16, and in f16.
    gpus: [HipBackend; 2],
    /// Of the device: products choose their tiles by it.
    compute_units: usize,
    /// Of the device: whether its matrix instructions take subnormal operands for zero, as MI200's do.
    flushes: bool,
    large: bool,
    seed: u64,
    half: Half,
    tally: Tally,
}

impl Runner {
    /// What the group's shapes are drawn from. The same for both types.
    fn shapes(&self) -> Rng {
        Rng::new(self.seed, self.tally.name, 0)
    }

    /// Runs a case on both and compares. Errors: the device's.
    fn check(&mut self, case: &impl Case) -> Result<(), BackendError> {
        let (half, flushes) = (self.half, self.flushes);
        let rng = Rng::new(self.seed, self.tally.name, self.tally.case + 1);
        let cpu = &mut self.cpu;
        let wanted = case.run(&mut Side { backend: cpu, rng: rng.clone(), half, flushes, exact: true })?;
        let got = case.run(&mut Side { backend: self.gpu(), rng, half, flushes, exact: false })?;
        self.compare(case, &wanted, &got);
        Ok(())
    }

    /// The device, with activations in the type that is being checked.
    fn gpu(&mut self) -> &mut HipBackend {
        &mut self.gpus[usize::from(self.half == Half::F16)]
    }

    /// The next case's results.
    fn compare(&mut self, case: &dyn Debug, wanted: &[Output], got: &[Output]) {
        self.tally.case += 1;
        self.tally.cases += 1;
        let (half, seed, name) = (self.half, self.seed, self.tally.name);
        assert_eq!(wanted.len(), got.len(), "both sides have the same results");
        for (wanted, got) in wanted.iter().zip(got) {
            let found = Difference::between(wanted, got);
            self.tally.worst = self.tally.worst.max(found.worst);
            if found.wrong > 0 {
                self.tally
                    .failures
                    .push(format!("--seed {seed} --only {name}: {} {case:?}: {found}", half.name()));
                break;
            }
        }
    }
}
