//! The command line. Parts are wired together here, in [`serve`] and in [`inspect`], nowhere else.

mod bench;
mod check;
mod check_config;
mod device;
mod devices;
mod goldens;
mod inspect;
mod keys;
mod load;
mod serve;

use bench::BenchCommand;
use clap::{Args, Parser, Subcommand};
use load::LoadArgs;
use novastack::checkpoint::resolve::{Places, resolve};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// With the commit that build.rs found.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("NOVASTACK_COMMIT"), ")");

/// Serves open-weight language models over the OpenAI API: one program, one endpoint.
#[derive(Parser)]
#[command(version = VERSION, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load models and answer requests.
    Serve(Box<ServeArgs>),
    /// Download a model from the Hugging Face hub, verified and resumable.
    Pull {
        /// A hub id (`org/name`, `org/name@revision`, `org/name:file.gguf`) or a catalogue name.
        model: String,
    },
    /// Say what a model is and what it needs, without loading or downloading its weights.
    Inspect(InspectArgs),
    /// Check configurations (novastack.yaml) and say in plain words what they do.
    CheckConfig(check_config::CheckConfigArgs),
    /// Make, list, change and revoke keys.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Say what this program could run on, and why not on the rest.
    Devices,
    /// Compare every GPU kernel with the CPU on random inputs.
    Selftest(check::SelftestArgs),
    /// Serve tiny checkpoints on a device and compare their answers with transformers'.
    Goldens(goldens::GoldensArgs),
    /// Measure the engine and its operations on this machine.
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Args)]
struct InspectArgs {
    /// A directory in Hugging Face layout, a config.json, a .gguf file, a hub id or a catalogue name.
    model: String,
    /// Memory of each device: bytes, or with a suffix K, M, G [default: 64G, an MI250 GCD].
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE")]
    memory: Option<usize>,
    /// Devices that share the model [default with --memory: 1].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    gpus: Option<u16>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ServeArgs {
    /// What to serve: `[name=]source`, where source is a directory in Hugging Face layout, a
    /// .gguf file, a hub id or a catalogue name. Repeat it to serve several models.
    #[arg(long = "model", required_unless_present = "config", value_name = "[NAME=]SOURCE")]
    models: Vec<String>,
    /// What to serve and by which rules: a novastack.yaml (docs/config.md). Read again when it changes.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The name that callers use, for the --model of the same position.
    #[arg(long, value_name = "NAME")]
    served_model_name: Vec<String>,
    #[command(flatten)]
    load: LoadArgs,
    /// Address to listen on [default: 127.0.0.1]. Any but a loopback address needs --api-key.
    #[arg(long)]
    host: Option<IpAddr>,
    /// Port to listen on [default: 8000]; 0 takes a free one.
    #[arg(long)]
    port: Option<u16>,
    /// A key that callers must present (`Authorization: Bearer KEY`). Repeatable.
    #[arg(
        long = "api-key",
        env = "NOVASTACK_API_KEYS",
        value_delimiter = ',',
        hide_env_values = true,
        value_name = "KEY"
    )]
    api_keys: Vec<String>,
    /// A web origin whose pages may call this server from a browser (`https://example.org`), or
    /// `*` for all. Repeatable; none by default.
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    cors_origins: Vec<String>,
    /// Serve without keys on an address that others can reach.
    #[arg(long)]
    allow_unauthenticated: bool,
    /// Requests that may wait; one more is answered 429.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_queued: u32,
    /// Seconds after which a request is given up.
    #[arg(long, default_value = "600", value_parser = parse_seconds, value_name = "SECONDS")]
    request_timeout: Duration,
    /// Seconds that running requests have to finish after SIGTERM or ^C.
    #[arg(long, default_value = "30", value_parser = parse_seconds, value_name = "SECONDS")]
    drain_timeout: Duration,
    /// Threads that serve connections [default: all cores, but 8 at the most].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64), value_name = "N")]
    http_threads: Option<u8>,
    /// Largest request body: bytes, or with a suffix K, M, G.
    #[arg(long, default_value = "16M", value_parser = parse_bytes, value_name = "SIZE")]
    max_body: usize,
}

/// "512M" -> 536870912.
fn parse_bytes(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.trim_end_matches(['B', 'b']).char_indices().next_back() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: usize =
        digits.parse().map_err(|_| "a whole number, optionally with K, M or G, is expected")?;
    number.checked_shl(shift).filter(|bytes| bytes >> shift == number).ok_or_else(|| "is too large".into())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a number of seconds from 0 to 86400 is expected".into()),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("NOVASTACK_LOG").unwrap_or_else(|_| "info".into());
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    let result = match cli.command {
        Command::Serve(args) => done(serve::run(*args)),
        Command::Pull { model } => done(pull(&model)),
        Command::Inspect(args) => done(inspect::run(&args)),
        Command::CheckConfig(args) => Ok(check_config::run(&args)),
        Command::Keys(command) => done(keys::run(command)),
        Command::Selftest(args) => done(check::run(&args)),
        Command::Devices => {
            devices::run();
            Ok(ExitCode::SUCCESS)
        }
        Command::Goldens(args) => goldens::run(&args),
        Command::Bench(command) => bench::run(command),
    };
    match result {
        Ok(code) => code,
        Err(message) => {
            eprintln!("novastack: {message}");
            ExitCode::FAILURE
        }
    }
}

fn done(result: Result<(), String>) -> Result<ExitCode, String> {
    result.map(|()| ExitCode::SUCCESS)
}

fn pull(model: &str) -> Result<(), String> {
    let places = Places::from_env().map_err(|error| error.to_string())?;
    let resolved = resolve(model, &places).map_err(|error| error.to_string())?;
    println!("{}", resolved.path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_and_without_suffix() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("512M"), Ok(512 << 20));
        assert_eq!(parse_bytes("2g"), Ok(2 << 30));
        for bad in ["", "M", "-1", "1.5G", "99999999999999G", "1T"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn seconds_are_finite_and_bounded() {
        assert_eq!(parse_seconds("1.5"), Ok(Duration::from_millis(1500)));
        for bad in ["", "-1", "NaN", "inf", "1e9"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
