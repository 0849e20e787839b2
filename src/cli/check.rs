//! `novastack selftest`: whether a GPU computes what the CPU computes.

use clap::Args;
use novastack::load::device::DeviceChoice;
use novastack::selftest::{self, Options};

#[derive(Args)]
pub struct SelftestArgs {
    /// The GPU to check: hip:N or cuda:N as `novastack devices` lists them, several (hip:0,1) one after
    /// the other, or auto: the first that there are kernels for.
    #[arg(long, default_value = "auto", value_parser = DeviceChoice::parse, value_name = "DEVICE")]
    device: DeviceChoice,
    /// Only the kernels whose files have this in their names (`gemm`). Repeatable, or separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Where random shapes and values start: the same number gives the same ones.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..1 << 32), value_name = "N")]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000), value_name = "N")]
    seeds: u64,
    /// Shapes of real models too: thousands of rows. Takes minutes, as the CPU computes them as well.
    #[arg(long)]
    large: bool,
}

/// An error where a result differs, and where there is no GPU to ask.
pub fn run(args: &SelftestArgs) -> Result<(), String> {
    let DeviceChoice::Gpus(vendor, numbers) = args.device.decided(1) else {
        return Err(match args.device {
            DeviceChoice::Auto => {
                "selftest: no GPU was found that there are kernels for; see `novastack devices`".into()
            }
            _ => "selftest compares a GPU with the CPU: --device must be hip:N, cuda:N or auto".to_string(),
        });
    };
    let options =
        Options { only: args.only.clone(), seeds: args.seed..args.seed + args.seeds, large: args.large };
    let mut agree = true;
    for number in numbers {
        println!("{}:{number}", vendor.scheme());
        agree &= selftest::run(vendor, number, &options, &mut std::io::stdout())
            .map_err(|error| error.to_string())?;
    }
    if agree { Ok(()) } else { Err("selftest: the device computes something else than the CPU".into()) }
}
