//! What people type who come from vLLM and llama-server. Before clap reads the arguments of `serve`,
//! flags of those programs are turned into ours where they mean the same, accepted with a line in the
//! log where what they ask for is always so, and answered with what to do instead where it cannot be
//! done. Flags that nobody knows are left to clap.
//!
//! Short flags of several letters (`-np`, `-ngl`) are why this cannot be left to clap altogether.

use std::collections::VecDeque;

/// What is done about a flag.
#[derive(Clone, Copy)]
enum Answer {
    /// It is ours under another name; its value stays what it is.
    Ours(&'static str),
    /// A flag without a value that is always so, and why.
    Always(&'static str),
    /// A flag with a value that changes nothing here, and why.
    Ignored(&'static str),
    /// As `Always`; older versions have no value, newer ones on, off or auto.
    Switch(&'static str),
    /// Its value decides.
    Value(fn(&str) -> Result<Said, String>),
    /// Cannot be done; what to do instead.
    Refused(&'static str),
}

/// What a flag's value comes to.
enum Said {
    /// Arguments of ours.
    Arguments(Vec<String>),
    /// Nothing but a line in the log.
    Note(&'static str),
}

use Answer::{Always, Ignored, Ours, Refused, Switch, Value};

const OWN_TYPES: &str = "weights are served in the types that the checkpoint has";
const NO_PLUGINS: &str = "no code of others is run: --tool-call-parser names a format that is known";
const TEMPLATE: &str = "the checkpoint's own chat template is used: to have another one, put it into the \
    checkpoint's folder as chat_template.jinja";
const ADAPTERS: &str = "adapters (LoRA) cannot be served: merge them into the checkpoint";
const DRAFTS: &str = "there is no speculative decoding: leave it out";
const ROPE: &str = "set `rope_scaling` of the model in novastack.yaml";
const GPUS: &str = "name the GPUs that share a model: --device hip:0,1";
const LOG: &str =
    "how much is logged is set by the environment variable NOVASTACK_LOG (error, warn, info, debug)";
const TOKEN: &str = "put the token into the environment variable HF_TOKEN: others can read a command line";
const SEED: &str = "every request that names no `seed` gets a random one: send `seed` in the request";
const CONSTRAINED: &str = "a request says what its answer must be: `response_format`";

/// vLLM's flags, then llama-server's.
const WORDS: &[(&[&str], Answer)] = &[
    (&["--max-model-len"], Value(context)),
    (&["--max-num-seqs"], Ours("--max-running")),
    (&["--max-num-batched-tokens"], Ours("--step-tokens")),
    (&["--tensor-parallel-size", "-tp"], Ours("--tensor-parallel")),
    (&["--pipeline-parallel-size", "-pp"], Value(|value| one(value, GPUS))),
    (
        &["--data-parallel-size", "-dp"],
        Value(|value| one(value, "set `replicas` of the model in novastack.yaml")),
    ),
    (&["--dtype"], Value(dtype)),
    (&["--quantization", "-q"], Value(quantization)),
    (&["--kv-cache-dtype", "--cache-type-k", "-ctk", "--cache-type-v", "-ctv"], Value(cache_type)),
    (&["--load-format"], Value(load_format)),
    (&["--allowed-origins"], Value(origins)),
    (&["--override-generation-config"], Value(generation_config)),
    (&["--generation-config"], Value(own_generation_config)),
    (&["--enable-prefix-caching"], Always("prefixes are always cached")),
    (&["--no-enable-prefix-caching"], Always("prefixes are always cached; answers are the same")),
    (&["--enable-chunked-prefill"], Always("long prompts are always computed in pieces")),
    (&["--no-enable-chunked-prefill"], Always("long prompts are always computed in pieces")),
    (&["--trust-remote-code"], Always("no code of a checkpoint is ever run, and none is needed")),
    (&["--disable-log-requests", "--no-enable-log-requests", "--disable-log-stats"], Always(LOG)),
    (&["--enable-log-requests"], Always("each request has a line in the log, without its text")),
    (&["--uvicorn-log-level"], Ignored(LOG)),
    (&["--swap-space"], Ignored("a sequence that has to wait is computed again, not swapped out")),
    (&["--block-size"], Ignored("the KV cache has blocks of 16 tokens")),
    (&["--distributed-executor-backend"], Ignored("the ranks of a model are threads of this process")),
    (&["--task", "--runner"], Value(task)),
    (
        &["--cpu-offload-gb"],
        Value(|value| {
            zero(
                value,
                "a model lies on its device whole: use one that is \
        quantised, or more GPUs with --device hip:0,1",
            )
        }),
    ),
    (
        &["--enable-auto-tool-choice"],
        Always("models whose chat template knows tools are always offered them"),
    ),
    (&["--tool-parser-plugin"], Refused(NO_PLUGINS)),
    (&["--enable-reasoning"], Always("reasoning is always told apart from the text")),
    (&["--reasoning-format"], Refused("a request says it: `reasoning_format` auto or none")),
    (&["--chat-template", "--chat-template-file"], Refused(TEMPLATE)),
    (&["--seed", "-s"], Refused(SEED)),
    (&["--ssl-keyfile", "--ssl-key-file"], Ours("--tls-key")),
    (&["--ssl-certfile", "--ssl-cert-file"], Ours("--tls-cert")),
    (&["--enable-lora", "--lora-modules", "--lora", "--lora-scaled"], Refused(ADAPTERS)),
    (&["--speculative-config", "--model-draft", "-md", "--draft", "--draft-max"], Refused(DRAFTS)),
    (
        &["--guided-decoding-backend", "--grammar", "--grammar-file", "--json-schema", "-j"],
        Refused(CONSTRAINED),
    ),
    (&["--revision"], Refused("name it with the model: org/name@revision")),
    (&["--tokenizer", "--hf-config-path"], Refused("the checkpoint's own is used: put it into its folder")),
    (&["--download-dir"], Refused("set the environment variable HF_HOME: downloads lie in $HF_HOME/hub")),
    (&["--hf-token", "-hft"], Refused(TOKEN)),
    (&["--root-path", "--api-prefix"], Refused("let the reverse proxy take the prefix away")),
    (
        &["--rope-scaling", "--rope-scale", "--rope-theta", "--rope-freq-base", "--rope-freq-scale"],
        Refused(ROPE),
    ),
    (&["--mmproj", "-mm", "--limit-mm-per-prompt"], Refused("local models take text only")),
    (&["-m"], Ours("--model")),
    (&["-hf", "-hfr", "--hf-repo"], Ours("--model")),
    (&["-hff", "--hf-file"], Refused("name it with the repository: org/name:file.gguf")),
    (&["-mu", "--model-url"], Refused("name the repository: org/name:file.gguf, or fetch the file yourself")),
    (&["-a", "--alias"], Ours("--served-model-name")),
    (&["-c", "--ctx-size"], Value(context)),
    (&["-np", "--parallel"], Ours("--max-running")),
    (&["-ngl", "--gpu-layers", "--n-gpu-layers"], Value(gpu_layers)),
    (&["-t"], Ours("--threads")),
    (&["-tb", "--threads-batch"], Ignored("prompts are computed by the threads of --threads too")),
    (&["-b", "--batch-size"], Ours("--step-tokens")),
    (&["-ub", "--ubatch-size"], Ignored("a step is computed at once: --step-tokens says of how many tokens")),
    (&["-n", "--predict", "--n-predict"], Value(predict)),
    (&["-fa", "--flash-attn"], Switch("attention never writes its weights to memory")),
    (&["-cb", "--cont-batching"], Always("requests are always batched as they come")),
    (
        &["-nocb", "--no-cont-batching"],
        Refused(
            "requests are always batched as they come; --max-running 1 serves \
        them one by one",
        ),
    ),
    (&["--jinja"], Always("chat templates are always Jinja's")),
    (&["--no-jinja"], Refused(TEMPLATE)),
    (&["--mlock", "--no-mmap"], Always("weights are read into memory of their own")),
    (&["--numa"], Ignored("the system places memory; `numactl` can bind the whole program")),
    (&["--no-warmup", "--warmup"], Always("one small step is computed when a model is loaded")),
    (&["--metrics"], Always("GET /metrics is always there")),
    (
        &["--props", "--slots", "--no-slots"],
        Always("GET /metrics and GET /health tell how the server stands"),
    ),
    (&["--no-webui"], Always("there is no web page")),
    (
        &["--embedding", "--embeddings", "--reranking", "--rerank"],
        Refused("only text is generated: leave it out"),
    ),
    (&["-sm", "--split-mode", "-ts", "--tensor-split", "-mg", "--main-gpu", "-dev"], Refused(GPUS)),
    (&["-to", "--timeout"], Ours("--request-timeout")),
    (&["--threads-http"], Ours("--http-threads")),
    (
        &["--api-key-file"],
        Refused("put the keys into the environment variable NOVASTACK_API_KEYS, with commas"),
    ),
    (&["--temp", "--temperature"], Value(|value| sampling("temperature", value))),
    (&["--top-k"], Value(|value| sampling("top_k", value))),
    (&["--top-p"], Value(|value| sampling("top_p", value))),
    (&["--min-p"], Value(|value| sampling("min_p", value))),
    (&["--repeat-penalty"], Value(|value| sampling("repetition_penalty", value))),
    (&["-v", "--verbose", "--log-disable", "--log-verbose"], Always(LOG)),
];

/// Arguments as clap knows them, and what is to be said in the log.
#[derive(Debug, Default, PartialEq)]
pub struct Understood {
    pub arguments: Vec<String>,
    pub notes: Vec<String>,
}

/// Reads the arguments of `serve`, those after the command's name.
///
/// # Errors
/// A sentence that says what to do in place of a flag.
pub fn understand(arguments: impl IntoIterator<Item = String>) -> Result<Understood, String> {
    let mut left: VecDeque<String> = arguments.into_iter().collect();
    let mut understood = Understood::default();
    while let Some(argument) = left.pop_front() {
        let (flag, value) = match argument.split_once('=') {
            Some((flag, value)) if flag.starts_with('-') => (spelled(flag), Some(value.to_owned())),
            _ => (spelled(&argument), None),
        };
        let known = WORDS.iter().find(|(names, _)| names.contains(&flag.as_str()));
        let Some((_, answer)) = known else {
            understood.arguments.push(match (flag.starts_with("--"), value) {
                (true, Some(value)) => format!("{flag}={value}"),
                (true, None) => flag,
                (false, _) => argument,
            });
            continue;
        };
        let mut needed = || {
            value.clone().or_else(|| left.pop_front()).ok_or_else(|| format!("{flag} needs a value after it"))
        };
        let said = match answer {
            Ours(ours) => Said::Arguments(vec![format!("{ours}={}", needed()?)]),
            Always(reason) => Said::Note(reason),
            Ignored(reason) => needed().map(|_| Said::Note(reason))?,
            Switch(reason) => {
                let is_state = |text: &&String| ["on", "off", "auto", "0", "1"].contains(&text.as_str());
                if value.is_none() && left.front().filter(is_state).is_some() {
                    left.pop_front();
                }
                Said::Note(reason)
            }
            Value(read) => read(&needed()?).map_err(|reason| format!("{flag}: {reason}"))?,
            Refused(instead) => return Err(format!("{flag}: {instead}")),
        };
        match said {
            Said::Arguments(ours) => understood.arguments.extend(ours),
            Said::Note(reason) => understood.notes.push(format!("{flag}: {reason}")),
        }
    }
    Ok(understood)
}

/// vLLM takes `--max_model_len` too.
fn spelled(flag: &str) -> String {
    if flag.starts_with("--") { flag.replace('_', "-") } else { flag.to_owned() }
}

fn ours(flag: &str, value: impl std::fmt::Display) -> Result<Said, String> {
    Ok(Said::Arguments(vec![format!("{flag}={value}")]))
}

/// `32768`, `32k`, `32K`; the model's own for `auto`, 0 and -1.
fn context(value: &str) -> Result<Said, String> {
    let (digits, times) = match value.char_indices().next_back() {
        Some((at, 'k')) => (&value[..at], 1000),
        Some((at, 'K')) => (&value[..at], 1024),
        _ => (value, 1),
    };
    match (value, digits.parse::<u64>()) {
        ("auto" | "0" | "-1", _) => Ok(Said::Note("the context is what the model was made for")),
        (_, Ok(tokens)) => ours("--max-context", tokens.saturating_mul(times)),
        _ => Err(format!("a number of tokens is expected, not `{value}`")),
    }
}

fn one(value: &str, instead: &str) -> Result<Said, String> {
    if value == "1" { Ok(Said::Arguments(Vec::new())) } else { Err(instead.to_owned()) }
}

fn zero(value: &str, instead: &str) -> Result<Said, String> {
    if value.parse() == Ok(0.0) { Ok(Said::Arguments(Vec::new())) } else { Err(instead.to_owned()) }
}

fn dtype(value: &str) -> Result<Said, String> {
    match value {
        "auto" => Ok(Said::Arguments(Vec::new())),
        "half" | "float16" | "bfloat16" | "float" | "float32" => Ok(Said::Note(OWN_TYPES)),
        _ => Err(format!(
            "auto, half, float16, bfloat16, float or float32 is expected, not `{value}`; {OWN_TYPES}"
        )),
    }
}

fn quantization(value: &str) -> Result<Said, String> {
    match value {
        "awq" | "awq_marlin" | "gptq" | "gptq_marlin" | "fp8" | "gguf" | "auto" => Ok(Said::Note(
            "weights are served as the checkpoint has them: nothing is quantised while it is loaded",
        )),
        _ => Err(format!(
            "`{value}` cannot be served, and nothing is quantised while it is loaded: name a checkpoint that is \
             quantised (GGUF, AWQ, GPTQ or FP8; `novastack models` lists some)"
        )),
    }
}

fn cache_type(value: &str) -> Result<Said, String> {
    match value {
        "auto" | "f16" | "fp16" | "float16" | "f32" => {
            Ok(Said::Note("keys and values are kept in 16 bits, of models in float32 in 32"))
        }
        _ => Err("the KV cache is not quantised: keys and values are kept in 16 bits".into()),
    }
}

fn load_format(value: &str) -> Result<Said, String> {
    match value {
        "safetensors" | "gguf" | "hf" => ours("--load-format", "auto"),
        _ => ours("--load-format", value),
    }
}

/// vLLM's JSON list.
fn origins(value: &str) -> Result<Said, String> {
    let list: Vec<String> = serde_json::from_str(value)
        .map_err(|_| "a JSON list is expected, as in '[\"https://example.org\"]'".to_owned())?;
    Ok(Said::Arguments(list.into_iter().map(|origin| format!("--cors-origin={origin}")).collect()))
}

/// vLLM's JSON object.
fn generation_config(value: &str) -> Result<Said, String> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(value)
        .map_err(|_| "a JSON object is expected, as in '{\"temperature\": 0.7}'".to_owned())?;
    let argument = |(name, value): (String, serde_json::Value)| match name.as_str() {
        "max_new_tokens" => format!("--default-max-tokens={value}"),
        _ => format!("--sampling={name}={value}"),
    };
    Ok(Said::Arguments(object.into_iter().map(argument).collect()))
}

fn own_generation_config(value: &str) -> Result<Said, String> {
    match value {
        "auto" => Ok(Said::Arguments(Vec::new())),
        "vllm" => ours("--sampling", "temperature=1,top_p=1,top_k=0,min_p=0,repetition_penalty=1"),
        _ => Err("the checkpoint's own is used: give --sampling temperature=0.7,top_p=0.8".into()),
    }
}

fn task(value: &str) -> Result<Said, String> {
    match value {
        "auto" | "generate" => Ok(Said::Arguments(Vec::new())),
        _ => Err("only text is generated".into()),
    }
}

fn gpu_layers(value: &str) -> Result<Said, String> {
    match value {
        "0" => ours("--device", "cpu"),
        "auto" | "all" | "-1" => ours("--device", "auto"),
        _ if value.parse::<u32>().is_ok() => ours("--device", "auto"),
        _ => Err(format!(
            "a number is expected, not `{value}`; a model lies on one kind of device whole: --device cpu, auto or hip:0"
        )),
    }
}

fn predict(value: &str) -> Result<Said, String> {
    match value {
        "-1" | "-2" => ours("--default-max-tokens", "none"),
        _ => ours("--default-max-tokens", value),
    }
}

fn sampling(name: &str, value: &str) -> Result<Said, String> {
    ours("--sampling", format!("{name}={value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Understood, String> {
        understand(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_of_vllm_and_llama_server_are_ours_or_answered() {
        for (line, ours) in [
            ("Qwen/Qwen3-8B --max-model-len 32K", "Qwen/Qwen3-8B --max-context=32768"),
            ("--max_model_len=4k --max_num_seqs=8", "--max-context=4000 --max-running=8"),
            ("--max-num-batched-tokens 2048 -tp 2", "--step-tokens=2048 --tensor-parallel=2"),
            ("--tensor-parallel-size=4 --dtype auto", "--tensor-parallel=4"),
            ("-m model.gguf -c 8192 -np 4", "--model=model.gguf --max-context=8192 --max-running=4"),
            ("-ngl 99 -t 8 -a mine", "--device=auto --threads=8 --served-model-name=mine"),
            ("--n-gpu-layers 0", "--device=cpu"),
            ("-hf org/repo:Q4_K_M -n -1", "--model=org/repo:Q4_K_M --default-max-tokens=none"),
            ("--temp 0.2 --top-k 40", "--sampling=temperature=0.2 --sampling=top_k=40"),
            ("-b 512 --threads-http 4 -to 60", "--step-tokens=512 --http-threads=4 --request-timeout=60"),
            ("--allowed-origins [\"https://a.org\"]", "--cors-origin=https://a.org"),
            ("--override-generation-config {\"top_p\":0.9}", "--sampling=top_p=0.9"),
            // Ours, and what nobody knows, are clap's.
            (
                "--host localhost --port 80 --api-key k --bogus x",
                "--host localhost --port 80 --api-key k --bogus x",
            ),
            ("--gpu_memory_utilization=0.8", "--gpu-memory-utilization=0.8"),
            ("name=./a_b --model x=y", "name=./a_b --model x=y"),
        ] {
            let understood = read(line).expect(line);
            assert_eq!(understood.arguments.join(" "), ours, "{line}");
            assert_eq!(understood.notes, Vec::<String>::new(), "{line}");
        }
        // Always so: said once, the value taken with it.
        for line in [
            "--enable-prefix-caching",
            "--trust-remote-code",
            "--swap-space 4",
            "--jinja",
            "-fa",
            "-fa on",
            "--flash-attn=auto",
            "--dtype bfloat16",
            "--quantization awq",
            "--kv-cache-dtype auto",
            "--max-model-len auto",
            "-c 0",
            "-cb",
            "--mlock",
        ] {
            let understood = read(&format!("{line} model")).expect(line);
            assert_eq!(understood.arguments, ["model"], "{line}");
            assert_eq!(understood.notes.len(), 1, "{line}");
        }
        // What cannot be done says what to do.
        for (line, words) in [
            ("--tool-parser-plugin x.py", "no code of others is run"),
            ("--reasoning-format none", "a request says it"),
            ("--chat-template x.jinja", "chat_template.jinja"),
            ("--seed 7", "send `seed` in the request"),
            ("--quantization bitsandbytes", "name a checkpoint that is quantised"),
            ("--kv-cache-dtype fp8", "16 bits"),
            ("--pipeline-parallel-size 2", "--device hip:0,1"),
            ("--dtype int8", "float16"),
            ("-md draft.gguf", "speculative"),
            ("--hf-token hf_x", "HF_TOKEN"),
            ("-c", "needs a value"),
            ("--max-model-len many", "a number of tokens"),
        ] {
            let error = read(line).expect_err(line);
            assert!(error.contains(words) && error.starts_with('-'), "{line}: {error}");
        }
        // A secret is not repeated.
        assert!(!read("--hf-token hf_secret").expect_err("refused").contains("hf_secret"));
    }

    #[test]
    fn no_word_is_ours_already_or_there_twice() {
        use clap::CommandFactory;
        let cli = crate::cli::Cli::command();
        let serve = cli.find_subcommand("serve").expect("serve");
        let mut seen = std::collections::BTreeSet::new();
        for (names, answer) in WORDS {
            for name in *names {
                assert!(seen.insert(name), "{name} twice");
                let is_ours = name
                    .strip_prefix("--")
                    .is_some_and(|long| serve.get_arguments().any(|it| it.get_long() == Some(long)));
                // These are ours with other values.
                assert!(!is_ours || *name == "--load-format", "{name}");
            }
            if let Ours(ours) = answer {
                let known = |it: &&clap::Arg| it.get_long() == ours.strip_prefix("--");
                assert!(serve.get_arguments().find(known).is_some(), "{ours}");
            }
        }
    }
}
