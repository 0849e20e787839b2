//! `cargo bench --bench scheduler`: traces of real services through the scheduler, without a
//! model. Prints what part of the KV positions that decode attention reads is wasted, beside two
//! controls (all padded to the longest; packed first come, first served) and power-of-two groups,
//! and what a step's scheduling costs.
//!
//! Reads `*.csv` of the Azure traces (TIMESTAMP, ContextTokens, GeneratedTokens) from
//! `../shared/traces` beside the repository, or from the directory given as argument; always adds
//! a synthetic trace of the same shape.

#[path = "../tests/sim/replay.rs"]
mod replay;
#[path = "../tests/sim/rng.rs"]
#[allow(dead_code, reason = "the simulations use more of it")]
mod rng;

use novastack::engine::scheduler::SchedulerConfig;
use replay::{Arrival, PACK, replay, synthetic};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// About what a step of a 7B model with 64 decodes takes on one GPU.
const STEP: Duration = Duration::from_millis(30);

fn main() -> Result<(), String> {
    // Cargo itself passes `--bench`.
    let given = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces");
    let directory = given.map_or(beside, PathBuf::from);
    let config = SchedulerConfig {
        max_context: 16_384,
        kv_blocks: 16_384,
        max_running: 64,
        step_token_budget: 2048,
        checkpoint_salt: 0,
    };
    println!("{config:?}, steps of {STEP:?}, first-come groups of {PACK}; waste of decode attention");
    println!(
        "| trace | requests | refused | steps | work list | power of two | first come | padded | all rows | \
         preemptions | steps to first token, most | scheduling us/step |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut traces = vec![("synthetic".to_string(), synthetic(1, 5000))];
    let mut files: Vec<PathBuf> = match std::fs::read_dir(&directory) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) => {
            println!("no traces in {}: {error}", directory.display());
            Vec::new()
        }
    };
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "csv")) {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        traces.push((name, read(file)?));
    }
    for (name, trace) in traces {
        let report = replay(&trace, config.clone(), STEP);
        let (d, c) = (report.decodes, report.counters);
        let percent = |waste: f64| format!("{:.1}%", 100.0 * waste);
        println!(
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} |",
            report.finished,
            report.refused,
            c.steps,
            percent(d.work_list.waste()),
            percent(d.bucketed.waste()),
            percent(d.first_come.waste()),
            percent(d.padded.waste()),
            percent(c.positions.waste()),
            c.preemptions,
            report.first_token_steps_max,
            report.scheduling.as_secs_f64() * 1e6 / c.steps as f64,
        );
    }
    Ok(())
}

/// Lines of `2023-11-16 18:15:46.6805900,374,44`, in order of time.
fn read(file: &Path) -> Result<Vec<Arrival>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let parse = |line: &str| {
        let mut fields = line.split(',');
        let mut clock = fields.next()?.split(' ').nth(1)?.split(':');
        let mut number = || clock.next()?.parse::<f64>().ok();
        let (hours, minutes, seconds) = (number()?, number()?, number()?);
        Some(Arrival {
            at: Duration::from_secs_f64(hours * 3600.0 + minutes * 60.0 + seconds),
            prompt_tokens: fields.next()?.trim().parse::<usize>().ok()?.max(1),
            output_tokens: fields.next()?.trim().parse().ok()?,
        })
    };
    let lines = text.lines().enumerate().skip(1).filter(|(_, line)| !line.is_empty());
    let arrivals = lines.map(|(number, line)| {
        parse(line).ok_or_else(|| format!("{}:{}: not TIMESTAMP,tokens,tokens", file.display(), number + 1))
    });
    arrivals.collect()
}
