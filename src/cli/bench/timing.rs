//! How long something takes on a device, and what the device can do at the most.

use novastack::backend::BackendError;
use novastack::backend::ceiling::{Ceiling, ProbeSize, Work};
use serde::Serialize;
use std::time::Instant;

/// Samples whose median counts.
const SAMPLES: usize = 5;
/// Calls enqueued before the device is waited for.
const CALLS_MAX: f64 = 500.0;

/// Seconds of one call. Calls are enqueued one after the other and waited for together, as those
/// of a step are; the number of the call is for those that rotate over memory. A first call, which
/// loads kernels and touches pages, does not count. `budget` is in seconds for all samples; a call
/// that takes as long by itself is measured once.
pub fn seconds<B: Ceiling>(
    backend: &mut B,
    budget: f64,
    mut call: impl FnMut(&mut B, usize),
) -> Result<f64, BackendError> {
    let mut turn = 0;
    let mut sample = |backend: &mut B, calls: usize| {
        let start = Instant::now();
        for _ in 0..calls {
            call(backend, turn);
            turn += 1;
        }
        backend.finish()?;
        Ok::<_, BackendError>(start.elapsed().as_secs_f64() / calls as f64)
    };
    sample(backend, 1)?;
    let once = sample(backend, 1)?;
    if once >= budget {
        return Ok(once);
    }
    let calls = (budget / SAMPLES as f64 / once).clamp(1.0, CALLS_MAX) as usize;
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        samples.push(sample(backend, calls)?);
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[SAMPLES / 2])
}

/// What a device reached in loads that do nothing else.
#[derive(Clone, Debug, Serialize)]
pub struct Ceilings {
    /// Bytes read and written in a second, by the way of copying.
    pub copy_bytes_per_s: Vec<(&'static str, f64)>,
    /// Operations in a second, by the type of the factors.
    pub operations_per_s: Vec<(&'static str, f64)>,
}

impl Ceilings {
    /// Measures the device.
    pub fn measure<B: Ceiling>(backend: &mut B, size: ProbeSize, budget: f64) -> Result<Self, BackendError> {
        let mut ceilings = Self { copy_bytes_per_s: Vec::new(), operations_per_s: Vec::new() };
        for (name, work, mut probe) in backend.probes(size)? {
            let seconds = seconds(backend, budget, |backend, _| backend.enqueue(&mut probe))?;
            backend.check(&mut probe)?;
            match work {
                Work::Copy(bytes) => ceilings.copy_bytes_per_s.push((name, bytes / seconds)),
                Work::Products(operations) => ceilings.operations_per_s.push((name, operations / seconds)),
            }
        }
        Ok(ceilings)
    }

    /// Bytes a second of the best copy.
    pub fn copy(&self) -> f64 {
        best(&self.copy_bytes_per_s)
    }

    /// Operations a second of the best type.
    pub fn products(&self) -> f64 {
        best(&self.operations_per_s)
    }

    /// `copy 1300 GB/s (kernel's copy), products 160 TFLOP/s (bf16)`, with all that were measured.
    pub fn in_words(&self) -> String {
        let list = |rates: &[(&str, f64)], unit: f64| {
            let each =
                rates.iter().map(|(name, rate)| format!("{} ({name})", super::table::number(rate / unit)));
            each.collect::<Vec<_>>().join(", ")
        };
        format!(
            "copy, bytes read and written: {} GB/s; products: {} TFLOP/s",
            list(&self.copy_bytes_per_s, 1e9),
            list(&self.operations_per_s, 1e12)
        )
    }
}

fn best(rates: &[(&str, f64)]) -> f64 {
    rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max)
}
