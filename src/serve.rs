//! `novastack serve`: listen, load, answer, drain. The port is open from the start, so that
//! `/health` can say what is loading; a model that cannot be loaded ends the program.

use crate::ServeArgs;
use crate::load::{self, Loaded};
use novastack::checkpoint::resolve::{Places, Resolved, resolve, served_name};
use novastack::clock::Clock;
use novastack::engine::worker::{self, EngineConfig};
use novastack::gateway::{self, Cors, GenerationDefaults, LocalModel, Registry, ServerConfig};
use novastack::text::{ChatTemplate, Tokenizer};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;

/// Silence on a stream after which a comment is sent, well under the idle limits of proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long a connection may take to send a request's head, the first or the next: longer than
/// clients keep idle connections in their pools.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Connections at a time; more wait until one of these closes.
const CONNECTIONS_MAX: usize = 4096;

pub fn run(args: ServeArgs) -> Result<(), String> {
    gateway::check_bind(args.host, !args.api_keys.is_empty(), args.allow_unauthenticated)?;
    if args.served_model_name.len() > args.models.len() {
        return Err("--served-model-name is given more often than --model".into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime could not be started: {error}"))?;
    runtime.block_on(listen_and_serve(args))
}

async fn listen_and_serve(args: ServeArgs) -> Result<(), String> {
    let address = std::net::SocketAddr::new(args.host, args.port);
    let listener =
        TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let config = ServerConfig {
        api_keys: args.api_keys.clone(),
        request_timeout: args.request_timeout,
        body_bytes_max: args.max_body,
        keep_alive: KEEP_ALIVE,
        head_timeout: HEAD_TIMEOUT,
        connections_max: CONNECTIONS_MAX,
        drain_timeout: args.drain_timeout,
        cors: cors(&args.cors_origins),
    };

    let names = names(&args)?;
    let registry = Arc::new(Registry::new(names.iter().cloned()));
    let (loaded, loading) = tokio::sync::oneshot::channel();
    let with_key = !args.api_keys.is_empty();
    let loader = {
        let registry = registry.clone();
        std::thread::Builder::new().name("loader".into()).spawn(move || {
            let result = load_all(&args, &names, &registry);
            if result.is_ok() {
                announce(address, &names, with_key);
            }
            let _ = loaded.send(result);
        })
    };
    loader.map_err(|error| format!("a thread could not be started: {error}"))?;

    let mut failure = None;
    let load_failed = async {
        match loading.await {
            Ok(Ok(())) => std::future::pending().await,
            Ok(Err(message)) => message,
            Err(_) => "loading panicked; the log says where".to_string(),
        }
    };
    let stop = async {
        tokio::select! {
            () = stop_signal() => {}
            message = load_failed => failure = Some(message),
        }
    };
    let outcome =
        gateway::serve(listener, config, registry, stop).await.map_err(|error| error.to_string())?;
    match failure {
        Some(message) => Err(message),
        None => {
            tracing::info!(?outcome, "stopped");
            Ok(())
        }
    }
}

/// ^C or SIGTERM; a second one ends the program at once.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    let mut once = async || {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    };
    once().await;
    tracing::info!("stopping: running requests may finish; once more to stop at once");
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        std::process::exit(130);
    });
}

fn announce(address: std::net::SocketAddr, names: &[String], with_key: bool) {
    let key = if with_key { " -H 'Authorization: Bearer '$NOVASTACK_KEY" } else { "" };
    println!("NovaStack is ready on http://{address} with {}. Try:", names.join(", "));
    println!(
        "curl http://{address}/v1/chat/completions -H 'Content-Type: application/json'{key} \\\n  \
         -d '{{\"model\": \"{}\", \"messages\": [{{\"role\": \"user\", \"content\": \"What is the capital of France?\"}}], \"stream\": true}}'",
        names[0]
    );
}

/// The served names, in the order of the command line.
fn names(args: &ServeArgs) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = Vec::new();
    for (index, spec) in args.models.iter().enumerate() {
        let name = args.served_model_name.get(index).cloned().unwrap_or_else(|| served_name(spec));
        if names.contains(&name) {
            return Err(format!("two models are named {name}; name one with --model NAME=SOURCE"));
        }
        names.push(name);
    }
    Ok(names)
}

fn load_all(args: &ServeArgs, names: &[String], registry: &Registry) -> Result<(), String> {
    let places = Places::from_env().map_err(|error| error.to_string())?;
    for (name, spec) in names.iter().zip(&args.models) {
        let resolved = resolve(spec, &places).map_err(|error| error.to_string())?;
        let model = load(args, name, &resolved).map_err(|error| format!("--model {spec}: {error}"))?;
        registry.set_ready(model);
    }
    Ok(())
}

fn cors(origins: &[String]) -> Cors {
    match origins {
        [] => Cors::Off,
        origins if origins.iter().any(|origin| origin == "*") => Cors::Any,
        origins => Cors::Origins(origins.to_vec()),
    }
}

fn load(args: &ServeArgs, name: &str, resolved: &Resolved) -> Result<LocalModel, String> {
    let Loaded { checkpoint, shape, executor, max_context, kv_blocks, .. } =
        load::load(&args.load, name, resolved)?;
    let tokenizer = match &checkpoint.tokenizer {
        Some(_) => {
            Some(Arc::new(Tokenizer::from_checkpoint(&checkpoint).map_err(|error| error.to_string())?))
        }
        None => None,
    };
    let (engine, _thread) = worker::spawn(
        EngineConfig {
            name: name.to_string(),
            max_context,
            kv_blocks,
            max_running: args.load.max_running as usize,
            max_queued: args.max_queued as usize,
            step_token_budget: args.load.step_rows(),
            vocab: shape.vocab,
            cache_salt: 0,
        },
        executor,
        Clock::real(),
    )
    .map_err(|error| format!("the engine's thread could not be started: {error}"))?;
    let token_bytes = |tokenizer: &Arc<Tokenizer>| {
        (0..tokenizer.vocab_size() as u32).map(|id| tokenizer.token_text(id).1.len()).max()
    };
    Ok(LocalModel {
        token_bytes_max: tokenizer.as_ref().and_then(token_bytes).unwrap_or(1),
        name: name.to_string(),
        engine,
        tokenizer,
        template: ChatTemplate::from_checkpoint(&checkpoint).map(Arc::new).map_err(|error| error.to_string()),
        defaults: GenerationDefaults::from_config(&checkpoint.generation_config)?,
        vocab: shape.vocab,
        created_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        root: resolved.path.display().to_string(),
    })
}
