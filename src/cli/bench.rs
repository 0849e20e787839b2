//! `novastack bench`: what the engine and its operations reach on this machine.
//!
//! [`offline`] runs a model through the engine without HTTP, [`ops`] single operations;
//! [`timing`] measures them and the device's ceilings, [`table`] prints.

pub mod offline;
pub mod ops;
mod table;
mod timing;

use clap::Subcommand;
use novastack::backend::hip::discover::discover;
use novastack::load::device::DeviceChoice;
use std::process::ExitCode;

#[derive(Subcommand)]
pub enum BenchCommand {
    /// The engine without HTTP: prefill and decode tokens per second over batch sizes and lengths.
    Offline(Box<offline::OfflineArgs>),
    /// Single operations against what the device's memory and arithmetic reach.
    Ops(ops::OpsArgs),
}

/// Fails where something that was to be measured failed; what did not fit is only named.
pub fn run(command: BenchCommand) -> Result<ExitCode, String> {
    let good = match command {
        BenchCommand::Offline(args) => offline::run(*args)?,
        BenchCommand::Ops(args) => ops::run(&args)?,
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The commit that this program was built from.
const COMMIT: &str = env!("NOVASTACK_COMMIT");

/// A device with the names that its driver has for it.
fn described(device: &DeviceChoice) -> String {
    let DeviceChoice::Gpus(vendor, numbers) = device else {
        let isa = format!("{:?}", novastack::backend::cpu::simd::Isa::best());
        return format!("cpu ({})", isa.split('(').next().unwrap_or_default());
    };
    let library = discover().into_iter().find(|found| found.vendor == *vendor).map(|found| found.library);
    let Some(Ok(library)) = library else { return device.to_string() };
    match numbers.first().and_then(|&number| library.devices.get(number)) {
        Some(Ok(found)) => format!(
            "{device} ({}, {}, {} compute units, driver {})",
            found.info.name, found.info.architecture, found.info.compute_units, library.version
        ),
        _ => device.to_string(),
    }
}

fn progress_bar(length: usize) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(length as u64);
    if let Ok(style) = indicatif::ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {elapsed}") {
        bar.set_style(style);
    }
    bar
}

/// Prints to stdout; a reader who has seen enough is no error.
fn print(text: &str) -> Result<(), String> {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| error.to_string()),
    }
}
