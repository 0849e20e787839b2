//! The command line: one file a command. Parts are wired together in [`serve`] and in [`inspect`],
//! nowhere else.

mod bench;
mod check;
mod check_config;
mod devices;
mod goldens;
pub mod inspect;
mod keys;
pub mod load_args;
mod models;
pub mod sampling;
mod serve;
pub mod tasks;
mod words;

use bench::BenchCommand;
use clap::{Parser, Subcommand};
use novastack::checkpoint::resolve::{Places, resolve};
use novastack::log;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The most that libraries tell of.
const LIBRARIES_MAX: LevelFilter = LevelFilter::DEBUG;

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
    /// Load models and answer requests. Flags of vLLM and llama-server are understood too.
    Serve(Box<serve::ServeArgs>),
    /// List the catalogue: the names that serve, pull and inspect know.
    Models(models::ModelsArgs),
    /// Download a model from the Hugging Face hub, verified and resumable.
    Pull {
        /// A hub id (`org/name`, `org/name@revision`, `org/name:file.gguf`, `org/name:Q4_K_M`) or a
        /// catalogue name.
        model: String,
    },
    /// Say what a model is and what it needs, without loading or downloading its weights.
    Inspect(inspect::InspectArgs),
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
    /// Renders or tokenizes for a `serve` or an `inspect` that started it, on stdin and stdout.
    #[command(name = novastack::text::COMMAND, hide = true)]
    TextProcess { memory_bytes_max: u64 },
    /// Measure the engine and its operations on this machine.
    #[command(subcommand)]
    Bench(BenchCommand),
}

/// "512M" -> 536870912.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.trim_end_matches(['B', 'b']).char_indices().next_back() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number = digits.parse::<usize>().ok().filter(|number| *number > 0);
    let number = number.ok_or("a whole number above 0, optionally with K, M or G, is expected")?;
    number.checked_shl(shift).filter(|bytes| bytes >> shift == number).ok_or_else(|| "is too large".into())
}

pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a number of seconds from 0 to 86400 is expected".into()),
    }
}

/// Does what these arguments say, of which the first is the program's name.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let code = match understood(arguments).and_then(|(arguments, notes)| {
        let cli = Cli::parse_from(arguments);
        if matches!(cli.command, Command::Serve(_)) {
            log::start().map_err(|error| format!("the log could not be started: {error}"))?;
        }
        start_log(std::env::var("NOVASTACK_LOG").ok())?;
        notes.iter().for_each(|note| tracing::info!("{note}"));
        done_by(cli.command)
    }) {
        Ok(code) => code,
        Err(message) => {
            log::line(&format!("novastack: {message}"));
            ExitCode::FAILURE
        }
    };
    log::flush();
    code
}

/// The arguments as clap knows them, and what there is to say about them.
fn understood(mut arguments: Vec<OsString>) -> Result<(Vec<OsString>, Vec<String>), String> {
    if arguments.get(1).is_none_or(|command| command != "serve") {
        return Ok((arguments, Vec::new()));
    }
    let rest = arguments.split_off(2).into_iter().map(OsString::into_string);
    let rest = rest
        .collect::<Result<Vec<String>, _>>()
        .map_err(|wrong| format!("{}: arguments must be UTF-8", wrong.to_string_lossy()))?;
    let words::Understood { arguments: rest, notes } = words::understand(rest)?;
    arguments.extend(rest.into_iter().map(OsString::from));
    Ok((arguments, notes))
}

/// Starts the log: on stderr, of what `NOVASTACK_LOG` says.
fn start_log(variable: Option<String>) -> Result<(), String> {
    let text = variable.filter(|text| !text.trim().is_empty()).unwrap_or_else(|| "info".into());
    let filter = log_filter(&text).map_err(|reason| format!("NOVASTACK_LOG: {reason}"))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(|| log::Lines).init();
    Ok(())
}

/// `info`, or `warn,novastack::engine=debug`. A word that is no level would be taken for the name of a
/// part, of which everything is told and of all others nothing.
///
/// Libraries tell no more than [`LIBRARIES_MAX`], whatever is asked for: one of them (tokenizers) writes
/// prompts out letter by letter below it, and one (tokio-postgres) what it stores.
fn log_filter(text: &str) -> Result<EnvFilter, String> {
    // Of two directives for the same part the later one counts.
    let (mut defaults, mut own) = (Vec::new(), Vec::new());
    for piece in text.split(',').map(str::trim) {
        let (part, word) = piece.rsplit_once('=').map_or((None, piece), |(part, level)| (Some(part), level));
        // An empty word counts as a level there.
        let Some(level) = word.parse::<LevelFilter>().ok().filter(|_| !word.is_empty()) else {
            return Err(format!(
                "`{piece}` is no level: a level is off, error, warn, info, debug or trace, for a part of the program \
                 novastack::PART=LEVEL, and several with commas"
            ));
        };
        let is_ours = |part: &str| part.split(['[', ':']).next() == Some("novastack");
        match part {
            Some(part) if is_ours(part) => own.push(piece.to_owned()),
            Some(part) => {
                let most = if part.contains("postgres") { LevelFilter::INFO } else { LIBRARIES_MAX };
                own.push(format!("{part}={}", level.min(most)));
            }
            None => {
                defaults.push(level.min(LIBRARIES_MAX).to_string());
                defaults.push(format!("novastack={level}"));
                let postgres = level.min(LevelFilter::INFO);
                defaults.extend(["postgres", "tokio_postgres"].map(|part| format!("{part}={postgres}")));
            }
        }
    }
    let directives = [defaults, own].concat().join(",");
    EnvFilter::try_new(directives).map_err(|error| format!("`{text}`: {error}"))
}

fn done_by(command: Command) -> Result<ExitCode, String> {
    match command {
        Command::Serve(args) => done(serve::run(*args)),
        Command::Models(args) => done(models::run(&args)),
        Command::Pull { model } => done(pull(&model)),
        Command::Inspect(args) => done(inspect::run(&args)),
        Command::CheckConfig(args) => Ok(check_config::run(&args)),
        Command::Keys(command) => done(keys::run(command)),
        Command::Selftest(args) => done(check::run(&args)),
        Command::Devices => {
            devices::run();
            Ok(ExitCode::SUCCESS)
        }
        Command::TextProcess { memory_bytes_max } => done(novastack::text::serve(memory_bytes_max)),
        Command::Goldens(args) => goldens::run(&args),
        Command::Bench(command) => bench::run(command),
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
        for bad in ["", "M", "-1", "0", "0M", "1.5G", "99999999999999G", "1T"] {
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
    fn log_levels_are_known() {
        for good in ["info", "WARN", "off", "debug,hyper=info", "warn,novastack::engine=trace"] {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        for bad in ["verbose", "novastack", "info,loud", "novastack=loud", "", "inf", "info debug"] {
            assert!(log_filter(bad).expect_err(bad).contains("no level"), "{bad}");
        }
    }

    #[test]
    fn libraries_tell_no_prompts_whatever_is_asked_for() {
        for (asked, holds) in [
            ("info", &["info", "novastack=info"][..]),
            ("trace", &["debug", "novastack=trace", "tokio_postgres=info"]),
            ("tokenizers=trace", &["tokenizers=debug"]),
            ("TRACE,tokenizers::tokenizer=trace", &["debug", "tokenizers::tokenizer=debug"]),
            ("[request]=trace", &["[request]=debug"]),
            ("novastack_not=trace", &["novastack_not=debug"]),
            ("tokio_postgres=debug", &["tokio_postgres=info"]),
            ("novastack::gateway=trace,warn", &["warn", "novastack::gateway=trace"]),
            ("novastack=warn,trace", &["novastack=warn", "debug"]),
        ] {
            let filter = log_filter(asked).expect(asked).to_string();
            let directives: Vec<&str> = filter.split(',').collect();
            for directive in holds {
                assert!(directives.contains(directive), "{asked}: {directive} in {filter}");
            }
            let trace = directives.iter().filter(|directive| directive.ends_with("trace"));
            trace.for_each(|it| {
                assert!(it.starts_with("novastack=") || it.starts_with("novastack:"), "{filter}")
            });
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
