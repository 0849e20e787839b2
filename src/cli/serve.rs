//! `novastack serve`: listen, load, answer, drain. The port is open from the start, so that
//! `/health` can say what is loading. A model that cannot be loaded is told of there and in the log, and
//! all others serve; where nothing else is there to serve, the program ends.
//!
//! What is served is a [`Config`]: that of --config, with the models of the command line added. It is
//! read again when it changes ([`reload`]).

mod args;
mod descriptors;
mod loading;
mod reload;

pub use args::ServeArgs;

use arc_swap::ArcSwap;
use loading::load_all;
use novastack::checkpoint::catalogue;
use novastack::checkpoint::resolve::served_name;
use novastack::config::{self, Config, Model, SharedLimits, Target, TlsFiles};
use novastack::gateway::{
    self, ConnectionLimits, Cors, ExampleRequest, ModelState, Observers, Registry, RequestConfig, Routing,
    ServerConfig, Tls,
};
use novastack::secrets;
use novastack::store::Store;
use reload::Reload;
use sha2::{Digest, Sha256};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Where neither the command line nor the configuration says.
const PORT: u16 = 8000;

/// How long a connection may take to send a request's head, the first or the next: longer than
/// clients keep idle connections in their pools.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Threads that serve connections where nobody asks for more: each takes several thousand requests a second.
const HTTP_THREADS_MAX: usize = 8;

/// How long work on other threads may go on when the server has ended.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

pub fn run(mut args: ServeArgs) -> Result<(), String> {
    args.take_keys(std::env::var(args::KEYS_VARIABLE).ok())?;
    args.api_keys.iter().for_each(|key| secrets::know(key));
    let config = read_config(&args)?;
    know_secrets(&config.server);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let host = args.host.or(config.server.host).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let store = store(&config)?;
    let has_keys = has_keys(&args, &config, store.as_deref());
    gateway::check_bind(host, has_keys, args.allow_unauthenticated)?;
    let port = args.port.or(config.server.port).unwrap_or(PORT);
    let observers = Observers::start(&config.server)?;
    // Connections have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime could not be started: {error}"))?;
    let address = SocketAddr::new(host, port);
    let served = runtime.block_on(listen_and_serve(args, config, store.clone(), observers.clone(), address));
    // Requests that were cut off are told of when they are dropped.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    observers.stop();
    // Also after a failure: what was used was used.
    let closed = store.map_or(Ok(()), |store| store.close().map_err(|error| error.to_string()));
    served.and(closed)
}

/// Secrets of the surroundings; others are known to whoever reads them.
fn know_secrets(server: &config::Server) {
    if let Some(config::Store::Postgres(url)) = &server.store {
        secrets::know_url(url);
    }
    if let config::SharedLimits::Redis(url) = &server.shared_limits {
        secrets::know_url(url);
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    for name in ["HF_TOKEN", "PGPASSWORD"].into_iter().chain(server.admin_key_env.as_deref()) {
        variable(name).iter().for_each(|secret| secrets::know(secret));
    }
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"] {
        variable(name).iter().for_each(|url| secrets::know_url(url));
    }
    // `name=value,name=value`
    let headers = ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"];
    for name in headers.into_iter().chain(server.telemetry.headers_env.as_deref()) {
        let text = variable(name).unwrap_or_default();
        let values = text.split(',').filter_map(|header| header.split_once('='));
        values.for_each(|(_, value)| {
            let value = value.trim();
            secrets::know(value);
            value.split_once(' ').iter().for_each(|(_, credentials)| secrets::know(credentials));
        });
    }
}

fn has_keys(args: &ServeArgs, config: &Config, store: Option<&Store>) -> bool {
    let stored = store.is_some_and(|store| !store.keys().all().is_empty());
    !args.api_keys.is_empty() || !config.keys.is_empty() || stored
}

/// The store that the configuration names.
fn store(config: &Config) -> Result<Option<Arc<Store>>, String> {
    let shares_limits = matches!(config.server.shared_limits, SharedLimits::Redis(_));
    let serve = |place| Store::serve(place, shares_limits).map_err(|error| error.to_string());
    config.server.store.as_ref().map(serve).transpose()
}

/// How many threads serve connections where nobody says.
fn http_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(HTTP_THREADS_MAX)
}

/// SHA-256 of the admin key, where its environment variable is set.
fn admin_key(config: &Config) -> Option<[u8; 32]> {
    let key = std::env::var(config.server.admin_key_env.as_ref()?).ok().filter(|key| !key.is_empty())?;
    Some(Sha256::digest(key).into())
}

async fn listen_and_serve(
    args: ServeArgs,
    config: Config,
    store: Option<Arc<Store>>,
    observers: Observers,
    address: SocketAddr,
) -> Result<(), String> {
    let files = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(TlsFiles { cert: cert.clone(), key: key.clone() }),
        _ => config.server.tls.clone(),
    };
    let tls = files.map(|TlsFiles { cert, key }| Tls::load(&cert, &key)).transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let listener = TcpListener::bind(address).await.map_err(|error| cannot_listen(address, &error))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let server = ServerConfig {
        requests: RequestConfig {
            request_timeout: args.request_timeout,
            total_timeout: args.total_timeout,
            body_bytes_max: args.max_body,
            text_timeout: args.text_timeout,
            request_memory_bytes: args.request_memory_bytes(),
            keep_alive: args.keep_alive,
            admin_key_sha256: admin_key(&config),
            observers: observers.clone(),
        },
        head_timeout: HEAD_TIMEOUT,
        write_timeout: args.write_timeout,
        connections: ConnectionLimits {
            in_all: descriptors::connections_max(args.max_connections as usize),
            per_address: args.max_connections_per_address.map(|bound| bound as usize),
        },
        tls,
        workers: args.http_threads.map_or_else(http_threads, usize::from),
        drain_timeout: args.drain_timeout,
        cors: cors(&args.cors_origins),
        allowed_hosts: args.allowed_hosts.clone(),
    };

    let locals = locals(&config);
    let others = config.models.len() > locals.len();
    match locals.len() {
        0 => tracing::info!("listening on {scheme}://{address}"),
        1 => tracing::info!("listening on {scheme}://{address}; the model is loading"),
        models => tracing::info!("listening on {scheme}://{address}; {models} models are loading"),
    }
    let registry = Arc::new(Registry::new(locals.iter().map(|(name, _)| name.clone())));
    let with_key = has_keys(&args, &config, store.as_deref());
    let routing = Arc::new(ArcSwap::from_pointee(Routing::new(config, &args.api_keys, &registry)?));
    let args = Arc::new(args);
    let (loaded, loading) = tokio::sync::oneshot::channel();
    let loader = {
        let (args, registry, routing) = (args.clone(), registry.clone(), routing.clone());
        std::thread::Builder::new().name("loader".into()).spawn(move || {
            let result = load_all(&args, &locals, others, &registry);
            if result.is_ok() {
                let routing = routing.load();
                let serves = |name: &&str| !matches!(registry.get(name), Some(ModelState::Failed(_)));
                let names: Vec<&str> = routing.names().into_iter().filter(serves).collect();
                announce(scheme, address, &names, &registry, with_key);
            }
            let _ = loaded.send(result);
        })
    };
    loader.map_err(|error| format!("a thread could not be started: {error}"))?;
    tokio::spawn(observers.reopen_on_hangup());
    let (routing_of_reload, registry_of_reload) = (routing.clone(), registry.clone());
    let reload = Reload {
        args,
        routing: routing_of_reload,
        registry: registry_of_reload,
        store: store.clone(),
        host: address.ip(),
    };
    tokio::spawn(reload.run());

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
    let outcome = gateway::serve(listener, server, registry, routing, store, stop)
        .await
        .map_err(|error| error.to_string())?;
    match failure {
        Some(message) => Err(message),
        None => {
            tracing::info!(?outcome, "stopped");
            Ok(())
        }
    }
}

/// Why the server cannot listen there, and what to do.
fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> String {
    let (ip, port) = (address.ip(), address.port());
    match error.kind() {
        ErrorKind::AddrInUse => format!(
            "cannot listen on {address}: another program does, perhaps another novastack; stop it, or give another \
             --port"
        ),
        ErrorKind::PermissionDenied => format!(
            "cannot listen on {address}: the system does not let this user have port {port}; give a --port of 1024 \
             or more"
        ),
        ErrorKind::AddrNotAvailable => format!(
            "cannot listen on {address}: this machine has no address {ip}; give --host 127.0.0.1, or 0.0.0.0 for all \
             of its addresses"
        ),
        _ => format!("cannot listen on {address}: {error}"),
    }
}

/// What may be given, where nothing is.
const NOTHING: &str = "nothing to serve: name a model, as in\n  \
    novastack serve qwen2.5-coder-0.5b-instruct   a name of the catalogue; `novastack models` lists them\n  \
    novastack serve Qwen/Qwen3-0.6B               a repository of the Hugging Face hub\n  \
    novastack serve org/name-GGUF:Q4_K_M          one quantisation of a repository with GGUF files\n  \
    novastack serve ./model.gguf                  a GGUF file\n  \
    novastack serve ./folder                      a folder with config.json and safetensors\n  \
    novastack serve --config novastack.yaml       what a configuration says (docs/config.md)";

/// The file's configuration, and the command line's models with it.
fn read_config(args: &ServeArgs) -> Result<Config, String> {
    let mut config = match &args.config {
        Some(path) => Config::load(path).map_err(|errors| errors.to_string())?,
        None => Config::default(),
    };
    config.server.share_prefix |= args.share_prefix;
    let Names { names, aliases } = names(args)?;
    for (name, source) in names.iter().zip(args.models()) {
        if config.is_name(name) {
            return Err(format!("--model {source}: the configuration has the name {name} already"));
        }
        config.models.push(Model::local(name.clone(), source.clone()));
    }
    for (alias, name) in aliases {
        if config.is_name(&alias) {
            return Err(format!("--served-model-name {alias}: the name is taken already"));
        }
        config.aliases.insert(alias, name);
    }
    // What was typed leads there too: a catalogue's alias, or Ollama's way of writing it.
    for (typed, name) in args.models().map(|source| source.trim()).zip(&names) {
        if catalogue::find(typed).is_some() && !config.is_name(typed) {
            config.aliases.insert(typed.to_owned(), name.clone());
        }
    }
    match (config.models.is_empty(), &args.config) {
        (false, _) => Ok(config),
        (true, Some(path)) => {
            Err(format!("{}: it has no `models`: there is nothing to serve", path.display()))
        }
        (true, None) => Err(NOTHING.into()),
    }
}

/// The models that this process is to serve, in order.
fn locals(config: &Config) -> Vec<(String, config::LocalModel)> {
    let local = |model: &Model| match &model.target {
        Target::Local(local) => Some((model.name.clone(), local.clone())),
        Target::Upstream { .. } => None,
    };
    config.models.iter().filter_map(local).collect()
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

fn announce(scheme: &str, address: SocketAddr, names: &[&str], registry: &Registry, with_key: bool) {
    let key = if with_key { " -H 'Authorization: Bearer YOUR_KEY'" } else { "" };
    let hint = if with_key { "(with one of your keys in place of YOUR_KEY)\n" } else { "" };
    // All addresses are no address to ask.
    let address = match address.ip().is_unspecified() {
        true => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        false => address,
    };
    let ExampleRequest { path, body } = registry.example_request(names.first().copied().unwrap_or_default());
    let text = format!(
        "NovaStack is ready on {scheme}://{address} with {}. Try:\n\
         curl {scheme}://{address}{path} -H 'Content-Type: application/json'{key} \\\n  \
         -d '{body}'\n{hint}",
        names.join(", "),
    );
    // Nobody has to listen.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The command line's names.
struct Names {
    /// In the order of its models.
    names: Vec<String>,
    /// Further names of the only one, each with that one's first.
    aliases: Vec<(String, String)>,
}

fn names(args: &ServeArgs) -> Result<Names, String> {
    let (models, given) = (args.models().count(), &args.served_model_name);
    if models == 0 && given.len() > 1 {
        // clap cannot know where the names end.
        return Err(format!(
            "--served-model-name takes all that follows it as names, and no model is left: put the model first, as \
             in novastack serve {} --served-model-name {}",
            given[given.len() - 1],
            given[..given.len() - 1].join(" ")
        ));
    }
    if given.len() > models && models != 1 {
        return Err("--served-model-name is given more often than there are models".into());
    }
    let mut names: Vec<String> = Vec::new();
    for (index, spec) in args.models().enumerate() {
        let name = given.get(index).cloned().unwrap_or_else(|| served_name(spec));
        if names.contains(&name) {
            return Err(format!("two models are named {name}; name one with NAME=SOURCE"));
        }
        names.push(name);
    }
    let aliases = given.iter().skip(models).map(|alias| (alias.clone(), names[0].clone())).collect();
    Ok(Names { names, aliases })
}

fn cors(origins: &[String]) -> Cors {
    match origins {
        [] => Cors::Off,
        origins if origins.iter().any(|origin| origin == "*") => Cors::Any,
        origins => Cors::Origins(origins.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_was_typed_is_served_too() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: ServeArgs,
        }
        let read = |words: &[&str]| {
            let line: Line = clap::Parser::parse_from([&["novastack"], words].concat());
            read_config(&line.args).expect("a configuration")
        };
        let config = read(&["qwen3:8b"]);
        assert!(config.models[0].name == "qwen3-8b" && config.aliases["qwen3:8b"] == "qwen3-8b");
        assert!(read(&["qwen3-8b"]).aliases.is_empty());
        assert!(read(&["small=./folder", "org/name"]).aliases.is_empty());
    }
}
