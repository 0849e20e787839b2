//! `novastack bench ops`: each operation of a backend at the shapes of published models, against
//! what the device reached in a copy and in products that touch no memory ([`Ceilings`]).
//!
//! Calls are enqueued one after the other, as a step's are, so that a row shows what a launch costs
//! where the work is small. Weights and caches rotate over more memory than caches hold. A row's
//! ceiling is the slower of its bytes at the copy's rate and its operations at the products' rate;
//! reading alone may be faster than a copy, and integer products on a CPU faster than f32's, so
//! that a share can be above 100%.

mod cases;
mod inputs;
mod shapes;

use super::table::{Table, number, percent};
use super::timing::Ceilings;
use super::{COMMIT, described, print, progress_bar};
use clap::Args;
use novastack::backend::BackendError;
use novastack::backend::ceiling::Ceiling;
use novastack::backend::cpu::CpuBackend;
use novastack::backend::hip::gpu::{Gpu, Half};
use novastack::backend::hip::{HipBackend, Options};
use novastack::load::device::DeviceChoice;
use novastack::memory::Memory;
use serde::Serialize;
use shapes::Shapes;

/// Rows up to which a product is a skinny one, and from which it is a large one.
const SKINNY_ROWS: usize = 8;
const LARGE_ROWS: usize = 512;

#[derive(Args)]
pub struct OpsArgs {
    /// cpu, a GPU as `novastack devices` lists it (hip:0), or auto: a GPU where there is one.
    #[arg(long, default_value = "auto", value_parser = DeviceChoice::parse)]
    device: DeviceChoice,
    /// CPU threads [default: all cores].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Only rows whose operation and shape contain this.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    only: String,
    /// On a GPU: large products by hipBLASLt, cuBLASLt or rocBLAS, as `serve` has them, and not by our kernels.
    #[arg(long)]
    vendor_blas: bool,
    /// Tiny shapes, each once: a check that all operations run. The numbers mean nothing.
    #[arg(long)]
    quick: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    device: String,
    commit: &'static str,
    quick: bool,
    /// The library of large products, where it is not our kernels.
    vendor_blas: Option<String>,
    ceilings: Ceilings,
    rows: Vec<Row>,
    /// What did not fit into memory.
    skipped: Vec<Missing>,
    /// What went wrong.
    failed: Vec<Missing>,
}

#[derive(Serialize)]
struct Missing {
    what: String,
    reason: String,
}

#[derive(Serialize)]
struct Row {
    operation: &'static str,
    shape: String,
    rows: usize,
    context: Option<usize>,
    us: f64,
    gb_per_s: f64,
    tflop_per_s: f64,
    /// Which ceiling is nearer.
    bound: Bound,
    of_ceiling: f64,
    target: Option<Target>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Bound {
    Memory,
    Products,
}

/// A share of one of the ceilings.
#[derive(Serialize)]
struct Target {
    of: Bound,
    share: f64,
    reached: f64,
    met: bool,
}

/// A call, measured.
struct Measured {
    seconds: f64,
    /// Read and written, each once.
    bytes: f64,
    /// Additions and multiplications.
    operations: f64,
}

/// False where an operation failed.
pub fn run(args: &OpsArgs) -> Result<bool, String> {
    let device = args.device.decided(1);
    let failed = |error: BackendError| error.to_string();
    match &device {
        DeviceChoice::Gpus(vendor, numbers) => {
            let [number] = numbers.as_slice() else {
                return Err(format!("--device {device}: bench ops measures one device at a time"));
            };
            let gpu = Gpu::open(*vendor, *number, Half::Bf16).map_err(failed)?;
            let options = Options { vendor_blas: args.vendor_blas, ..Options::default() };
            let backend = HipBackend::alone(gpu, options).map_err(failed)?;
            let blas = backend.vendor_blas();
            if args.vendor_blas && blas.is_none() {
                return Err(
                    "--vendor-blas: there is no hipBLASLt, rocBLAS or cuBLASLt; the log says what was tried"
                        .into(),
                );
            }
            run_on(args, &device, backend, blas, usize::MAX)
        }
        _ if args.vendor_blas => Err(format!("--vendor-blas needs a GPU: --device is {device}")),
        DeviceChoice::Auto | DeviceChoice::Cpu => {
            let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
            let threads = args.threads.map_or_else(cores, usize::from);
            run_on(args, &device, CpuBackend::new(threads), None, Memory::of_this_process().available / 2)
        }
    }
}

/// `memory_max` is what a case may take, where the backend does not say so itself.
fn run_on<B: Ceiling>(
    args: &OpsArgs,
    device: &DeviceChoice,
    mut backend: B,
    vendor_blas: Option<String>,
    memory_max: usize,
) -> Result<bool, String> {
    let shapes = if args.quick { &shapes::QUICK } else { &shapes::FULL };
    let failed = |error: BackendError| error.to_string();
    let budget = shapes.budget.min(0.1);
    let ceilings = Ceilings::measure(&mut backend, shapes.probe, budget).map_err(failed)?;
    let report = Report {
        device: described(device),
        commit: COMMIT,
        quick: args.quick,
        vendor_blas,
        ceilings,
        rows: Vec::new(),
        skipped: Vec::new(),
        failed: Vec::new(),
    };
    let mut bench = Bench { backend, shapes, memory_max, report };
    let jobs: Vec<_> =
        cases::jobs(shapes).into_iter().filter(|job| job.name(shapes).contains(&args.only)).collect();
    if jobs.is_empty() {
        let all: Vec<_> = cases::jobs(shapes).iter().map(|job| job.name(shapes)).collect();
        return Err(format!(
            "--only {}: no operation is called so; there are: {}",
            args.only,
            all.join(", ")
        ));
    }
    let bar = progress_bar(jobs.len());
    for job in jobs {
        bar.set_message(job.name(shapes));
        bench.run(&job);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let report = bench.report;
    match args.json {
        true => print(&serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?)?,
        false => print(&report.in_words())?,
    }
    Ok(report.failed.is_empty())
}

/// Measures one case after the other.
struct Bench<B: Ceiling> {
    backend: B,
    shapes: &'static Shapes,
    memory_max: usize,
    report: Report,
}

impl<B: Ceiling> Bench<B> {
    fn record(
        &mut self,
        operation: &'static str,
        shape: &str,
        rows: usize,
        context: Option<usize>,
        measured: Result<Measured, BackendError>,
    ) {
        let Measured { seconds, bytes, operations } = match measured {
            Ok(measured) => measured,
            Err(error) => {
                let context = context.map_or(String::new(), |context| format!(" @ {context}"));
                return self.miss(format!("{operation} {shape}, {rows} rows{context}"), error);
            }
        };
        let ceilings = &self.report.ceilings;
        let of_memory = bytes / seconds / ceilings.copy();
        let of_products = operations / seconds / ceilings.products();
        let (bound, of_ceiling) = match of_memory >= of_products {
            true => (Bound::Memory, of_memory),
            false => (Bound::Products, of_products),
        };
        let target = |of: Bound, share: f64| {
            let reached = if of == Bound::Memory { of_memory } else { of_products };
            Some(Target { of, share, reached, met: reached >= share })
        };
        let by_vendor = self.report.vendor_blas.is_some();
        let target = match operation {
            "linear" | "attention decode" | "MLA decode" if rows <= SKINNY_ROWS => target(Bound::Memory, 0.8),
            // The vendor's library has weights of 16 bits alone.
            "linear" if rows >= LARGE_ROWS && by_vendor && shape.starts_with("BF16") => {
                target(Bound::Products, 0.9)
            }
            "linear" if rows >= LARGE_ROWS => target(Bound::Products, 0.5),
            "attention prefill" => target(Bound::Products, 0.5),
            _ => None,
        };
        self.report.rows.push(Row {
            operation,
            shape: shape.to_owned(),
            rows,
            context,
            us: seconds * 1e6,
            gb_per_s: bytes / seconds / 1e9,
            tflop_per_s: operations / seconds / 1e12,
            bound,
            of_ceiling,
            target,
        });
    }

    fn miss(&mut self, what: String, error: BackendError) {
        let list = match error {
            BackendError::OutOfMemory { .. } => &mut self.report.skipped,
            _ => &mut self.report.failed,
        };
        list.push(Missing { what, reason: error.to_string() });
    }

    /// An error where a case would not leave the machine its memory.
    fn reserve(&self, wanted_bytes: usize) -> Result<(), BackendError> {
        match wanted_bytes <= self.memory_max {
            true => Ok(()),
            false => Err(BackendError::OutOfMemory {
                what: format!("this case; half of what is free are {} bytes", self.memory_max),
                wanted_bytes,
            }),
        }
    }
}

impl Report {
    fn in_words(&self) -> String {
        let mut table = Table::new(
            2,
            &[
                "operation",
                "shape",
                "rows",
                "context",
                "us",
                "GB/s",
                "TFLOP/s",
                "bound",
                "of it",
                "target",
                "met",
            ],
        );
        for row in &self.rows {
            let (target, met) = match &row.target {
                None => (String::new(), String::new()),
                Some(target) => {
                    let of = if target.of == Bound::Memory { "copy" } else { "products" };
                    let met =
                        if target.met { "yes".into() } else { format!("{} of it", percent(target.reached)) };
                    (format!("{} of {of}", percent(target.share)), met)
                }
            };
            table.line([
                row.operation.to_owned(),
                row.shape.clone(),
                row.rows.to_string(),
                row.context.map_or(String::new(), |context| context.to_string()),
                number(row.us),
                number(row.gb_per_s),
                number(row.tflop_per_s),
                if row.bound == Bound::Memory { "memory" } else { "products" }.to_owned(),
                percent(row.of_ceiling),
                target,
                met,
            ]);
        }
        let quick = if self.quick { "\n\nTiny shapes, each once: the numbers mean nothing." } else { "" };
        let blas = match &self.vendor_blas {
            Some(library) => format!(" Large products of BF16 weights by {library}."),
            None => String::new(),
        };
        let mut text = format!(
            "Operations on {}, commit {}.{blas}\n\nCeilings: {}.{quick}\n\n{table}",
            self.device,
            self.commit,
            self.ceilings.in_words()
        );
        for (word, list) in [("Skipped", &self.skipped), ("FAILED", &self.failed)] {
            for Missing { what, reason } in list {
                text += &format!("\n{word}: {what}: {reason}");
            }
        }
        text
    }
}
