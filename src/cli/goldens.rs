//! `novastack goldens`: tiny checkpoints served on a device, asked over HTTP as any caller would,
//! against what transformers made of them (tests/goldens, scripts/goldens.py). For machines that
//! have a GPU and neither Rust nor Python; the tests do the same and more.

use clap::Args;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use novastack::blocking_http::BlockingClient;
use novastack::checkpoint::Checkpoint;
use novastack::load::device::DeviceChoice;
use novastack::model::ModelConfig;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

/// How far from transformers' f32 an answer may be.
struct Tolerance {
    /// Of the first step's log-probabilities, in nats.
    logprob: f64,
    /// Between a token and the next best, in nats: greedy decoding is held to the golden's token up to
    /// the first that is nearer, as those change places by rounding.
    margin: f64,
}

/// Activations in f16.
const F16: Tolerance = Tolerance { logprob: 0.1, margin: 0.05 };
/// Activations in bf16: what transformers' own bf16 does on these checkpoints (scripts/goldens_bf16.py: 0.70
/// and 0.36 at the most).
const BF16: Tolerance = Tolerance { logprob: 0.7, margin: 0.4 };
/// The CPU's; the distance of log-probabilities is the golden's own.
const CPU_MARGIN: f64 = 0.05;
/// Longer than a kernel's emulation takes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// Much longer than any.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// To a server on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Args)]
pub struct GoldensArgs {
    /// Folders with a checkpoint and a golden.json.
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// As for serve.
    #[arg(long, default_value = "auto", value_parser = DeviceChoice::parse)]
    device: DeviceChoice,
    /// Only so many cases of each.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    cases: Option<u32>,
}

/// Fails where an answer differs.
pub fn run(args: &GoldensArgs) -> Result<ExitCode, String> {
    let device = args.device.decided(1);
    println!("| golden | on | cases | tokens held to | result |\n| --- | --- | --- | --- | --- |");
    let mut good = true;
    for folder in &args.folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let cells = match check(folder, &device, args.cases.map_or(usize::MAX, |most| most as usize)) {
            Ok((cases, tokens)) => format!("{cases} | {tokens} | equal"),
            Err(reason) => {
                good = false;
                format!("| | FAILED: {}", reason.replace('\n', " ").replace('|', "/"))
            }
        };
        println!("| {name} | {device} | {cells} |");
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many cases were equal, of at most so many, and how many tokens they were held to.
fn check(folder: &Path, device: &DeviceChoice, most: usize) -> Result<(usize, usize), String> {
    let file = folder.join("golden.json");
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let golden: Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let checkpoint = Checkpoint::open_config(folder).map_err(|error| error.to_string())?;
    let shape = ModelConfig::from_json(&checkpoint.config).map_err(|error| error.to_string())?;
    let tolerance = match device {
        DeviceChoice::Cpu => Tolerance {
            logprob: golden["logprob_tolerance"].as_f64().ok_or("no logprob_tolerance")?,
            margin: CPU_MARGIN,
        },
        _ if shape.full_precision => F16,
        _ => BF16,
    };
    let cases = golden["cases"].as_array().filter(|cases| !cases.is_empty()).ok_or("no cases")?;
    let cases = &cases[..cases.len().min(most)];
    let server = Server::start(folder, device)?;
    let mut held = 0;
    for (index, case) in cases.iter().enumerate() {
        // Without log-probabilities tokens may be chosen on the device.
        for logprobs in [true, false] {
            let answer = server.ask(case, logprobs).map_err(|reason| format!("case {index}: {reason}"))?;
            let failed = |reason| format!("case {index}: {reason}");
            held += compare_tokens(case, &answer, tolerance.margin).map_err(failed)?;
            if logprobs {
                compare_logprobs(case, &answer, tolerance.logprob).map_err(failed)?;
            }
        }
    }
    match held {
        0 => Err("no token is better than the next by as much as is asked for".into()),
        _ => Ok((cases.len(), held)),
    }
}

/// How many tokens had to be, and are, the golden's.
fn compare_tokens(case: &Value, answer: &Value, margin_min: f64) -> Result<usize, String> {
    let choice = &answer["choices"][0];
    let (wanted, found) = (numbers(&case["tokens"])?, numbers(&choice["token_ids"])?);
    let margins = numbers(&case["margins"])?;
    let certain = margins.iter().position(|margin| *margin < margin_min).unwrap_or(wanted.len());
    if found.len() != wanted.len() {
        return Err(format!("{} tokens for {}", found.len(), wanted.len()));
    }
    if let Some(at) = (0..certain).find(|&at| found[at] != wanted[at]) {
        return Err(format!(
            "token {at} is {}, not {}, which is better by {:.2} nats",
            found[at], wanted[at], margins[at]
        ));
    }
    Ok(certain)
}

fn compare_logprobs(case: &Value, answer: &Value, tolerance: f64) -> Result<(), String> {
    let choice = &answer["choices"][0];
    let all = match &case["first_logprobs"] {
        Value::Null => numbers_of_pairs(&case["first_top"])?,
        all => numbers(all)?.into_iter().enumerate().map(|(id, value)| (id as f64, value)).collect(),
    };
    let lowest = all.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    let top = choice["logprobs"]["top_logprobs"][0].as_object().ok_or("the answer has no logprobs")?;
    for (token, logprob) in top {
        let id: f64 = token.strip_prefix("token_id:").and_then(|id| id.parse().ok()).ok_or("no token id")?;
        let wanted = all.iter().find(|(known, _)| *known == id).map_or(lowest, |(_, value)| *value);
        let found = logprob.as_f64().ok_or("a log-probability is no number")?;
        if (found - wanted).abs() > tolerance || found.is_nan() {
            return Err(format!("log-probability of token {id}: {found:.3}, not {wanted:.3} +- {tolerance}"));
        }
    }
    Ok(())
}

fn numbers(value: &Value) -> Result<Vec<f64>, String> {
    let list = value.as_array().ok_or("a list is missing")?;
    list.iter().map(|value| value.as_f64().ok_or_else(|| "a list of numbers is expected".into())).collect()
}

fn numbers_of_pairs(value: &Value) -> Result<Vec<(f64, f64)>, String> {
    let list = value.as_array().ok_or("first_top is missing")?;
    list.iter().map(|pair| Ok((numbers(pair)?[0], numbers(pair)?[1]))).collect()
}

/// This program serving a folder; ended when dropped.
struct Server {
    child: Child,
    url: String,
    client: BlockingClient,
}

impl Server {
    fn start(folder: &Path, device: &DeviceChoice) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .args([
                "serve",
                "--port",
                "0",
                "--step-tokens",
                "32",
                "--kv-cache-memory",
                "64M",
                "--max-context",
                "256",
            ])
            .arg("--device")
            .arg(device.to_string())
            .arg("--model")
            .arg(format!("golden={}", folder.display()))
            .env_remove("NOVASTACK_API_KEYS")
            .env("NOVASTACK_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err("the server's output is not there".into());
        };
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let url = lines.find_map(|line| {
            line.split_whitespace().find(|word| word.starts_with("http://")).map(str::to_owned)
        });
        match url {
            Some(url) => {
                // So that it never waits for a reader.
                std::thread::spawn(move || lines.for_each(drop));
                std::thread::spawn(move || {
                    BufReader::new(stderr).lines().map_while(Result::ok).for_each(drop)
                });
                Ok(Self { child, url, client: BlockingClient::new(CONNECT_TIMEOUT)? })
            }
            None => {
                let _ = child.wait();
                let log: Vec<String> = BufReader::new(stderr).lines().map_while(Result::ok).collect();
                Err(format!("novastack serve ended: {}", log.join(" ")))
            }
        }
    }

    fn ask(&self, case: &Value, logprobs: bool) -> Result<Value, String> {
        let mut body = json!({
            "model": "golden", "prompt": case["prompt"], "max_tokens": case["tokens"].as_array().map(Vec::len),
            "temperature": 0, "ignore_eos": true, "return_token_ids": true,
            "return_tokens_as_token_ids": true,
        });
        if logprobs {
            body["logprobs"] = 20.into();
        }
        let mut request = Request::post(format!("{}/v1/completions", self.url))
            .body(body.to_string().into())
            .map_err(|error| error.to_string())?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut answer = self.client.send(request, ANSWER_TIMEOUT).map_err(|error| error.to_string())?;
        let bytes = answer.bytes(ANSWER_BYTES_MAX, ANSWER_TIMEOUT).map_err(|error| error.to_string())?;
        match answer.status().as_u16() {
            200 => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            status => Err(format!("status {status}: {}", String::from_utf8_lossy(&bytes))),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
