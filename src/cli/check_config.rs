//! `novastack check-config`: what is wrong with configurations, or what they say in plain words. It
//! needs neither keys nor weights nor network.

use clap::Args;
use novastack::config::{AccessLog, Choice, Config, Limits, Model, Price, Rates, Rule, Store, Target};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args)]
pub struct CheckConfigArgs {
    /// Files to check.
    #[arg(default_value = "novastack.yaml", value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Prints every file's errors or explanation; fails when one has errors.
pub fn run(args: &CheckConfigArgs) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for path in &args.files {
        match Config::load(path) {
            Ok(config) => println!("{}: valid\n{}", path.display(), explain(&config)),
            Err(errors) => {
                eprintln!("{errors}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn explain(config: &Config) -> String {
    let mut out = String::new();
    section(&mut out, "server", server(config));
    section(&mut out, "models", table(config.models.iter().map(model)));
    section(
        &mut out,
        "aliases",
        table(
            config
                .aliases
                .iter()
                .map(|(name, end)| (name.as_str(), end))
                .chain(config.default_model.iter().map(|name| ("any other name", name)))
                .map(|(name, end)| [name.to_owned(), format!("-> {end}")]),
        ),
    );
    let mut rules: Vec<String> =
        config.routes.iter().enumerate().map(|(at, it)| format!("{}. {}", at + 1, rule(it))).collect();
    if config.routes.last().is_some_and(|last| last.condition.is_some()) {
        rules.push("else: refused, as no rule matches and there is no default".into());
    }
    section(&mut out, "routes of model \"auto\" (the first match wins)", rules);
    let named = config.named_routes.iter().map(|(name, it)| [name.clone(), choice(it)]);
    section(&mut out, "named routes (asked for as the model)", table(named));
    let fallbacks =
        config.fallbacks.iter().map(|(name, names)| [name.clone(), format!("-> {}", names.join(", then "))]);
    section(&mut out, "fallbacks (when a model's own attempts are used up)", table(fallbacks));
    section(&mut out, "limits of a key that has none of its own", vec![limits(&config.limits)]);
    section(
        &mut out,
        "keys",
        table(config.keys.iter().map(|(name, key)| {
            let models = match key.models.as_deref() {
                None => "all models".into(),
                Some([]) => "no models".into(),
                Some(names) => names.join(", "),
            };
            let credit = key.credit.map_or(String::new(), |credit| format!("; ${credit} prepaid"));
            let own = key.limits.map_or(String::new(), |own| format!("; {}", limits(&own)));
            let group = key.share_prefix.as_ref();
            let group = group.map_or(String::new(), |group| format!("; shares cached prompts as {group}"));
            [name.clone(), format!("{models}{own}{credit}{group}")]
        })),
    );
    section(&mut out, "warnings", config.warnings.clone());
    out
}

fn section(out: &mut String, title: &str, lines: Vec<String>) {
    if !lines.is_empty() {
        let _ = write!(out, "\n{title}\n");
        for line in lines {
            let _ = writeln!(out, "  {line}");
        }
    }
}

/// Rows with columns as wide as their widest cell.
pub fn table<const COLUMNS: usize>(rows: impl Iterator<Item = [String; COLUMNS]>) -> Vec<String> {
    let rows: Vec<[String; COLUMNS]> = rows.collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn server(config: &Config) -> Vec<String> {
    let server = &config.server;
    let mut rows = Vec::new();
    if server.host.is_some() || server.port.is_some() {
        let host = server.host.map_or("127.0.0.1".into(), |host| host.to_string());
        rows.push(["listens on".into(), format!("{host}, port {}", server.port.unwrap_or(8000))]);
    }
    if let Some(tls) = &server.tls {
        rows.push(["TLS".into(), format!("with the certificate {}", tls.cert.display())]);
    }
    // URLs may hold passwords.
    if let Some(store) = &server.store {
        let store = match store {
            Store::Sqlite(path) => format!("SQLite, {}", path.display()),
            Store::Postgres(_) => "PostgreSQL".into(),
        };
        rows.push(["keys and usage".into(), store]);
    }
    if let Some(name) = &server.admin_key_env {
        rows.push(["admin key".into(), format!("in the environment variable {name}")]);
    }
    if server.share_prefix {
        rows.push(["cached prompts".into(), "shared by all keys".into()]);
    }
    if let Some(endpoint) = &server.telemetry.otlp_endpoint {
        rows.push(["traces go to".into(), endpoint.clone()]);
    }
    if let Some(log) = &server.access_log {
        let place = match log {
            AccessLog::Stdout => "standard output".into(),
            AccessLog::Stderr => "standard error".into(),
            AccessLog::File(path) => path.display().to_string(),
        };
        rows.push(["access log".into(), place]);
    }
    table(rows.into_iter())
}

fn model(model: &Model) -> [String; 4] {
    let target = match &model.target {
        Target::Local(local) => {
            let device = local.device.as_ref().map_or(String::new(), |device| format!(" on {device}"));
            let replicas =
                if local.replicas > 1 { format!(", {} replicas", local.replicas) } else { String::new() };
            format!("here: {}{device}{replicas}", local.source)
        }
        Target::Upstream { provider, upstream_name, body, .. } => {
            format!("{provider}: {upstream_name}{}", body.in_words())
        }
    };
    let hedged = |after: Duration| format!(", hedged after {} s", after.as_secs_f64());
    let target = target + &model.hedge_after.map_or(String::new(), hedged);
    let context = match &model.target {
        Target::Local(local) => local.max_context.or(model.context),
        Target::Upstream { .. } => model.context,
    };
    let context = context.map_or(String::new(), |tokens| format!("{tokens} tokens"));
    let cost = match (&model.price, model.dollars_per_hour) {
        (Some(known), _) => price(known),
        (None, Some(dollars)) => format!("measured, at ${dollars} an hour"),
        (None, None) => String::new(),
    };
    [model.name.clone(), target, context, cost]
}

fn price(price: &Price) -> String {
    let Rates { input, output, cached_input, cache_write, cache_write_1h } = price.rates;
    let mut text = format!("${input} in, ${output} out");
    for (dollars, what) in
        [(cached_input, "cached"), (cache_write, "to cache"), (cache_write_1h, "to cache for an hour")]
    {
        if let Some(dollars) = dollars {
            let _ = write!(text, ", ${dollars} {what}");
        }
    }
    for tier in &price.tiers {
        let _ = write!(
            text,
            "; above {} tokens ${} in, ${} out",
            tier.above_input_tokens, tier.rates.input, tier.rates.output
        );
    }
    text + " per million"
}

fn rule(rule: &Rule) -> String {
    let mut text = match &rule.condition {
        Some(condition) => format!("if {}: {}", condition.source(), choice(&rule.choice)),
        None => format!("else: {}", choice(&rule.choice)),
    };
    if !rule.fallback.is_empty() {
        let _ = write!(text, "; should that fail: {}", rule.fallback.join(", then "));
    }
    text
}

fn choice(choice: &Choice) -> String {
    match choice {
        Choice::Model(name) => name.clone(),
        Choice::Chain(names) => format!("{}, each when the one before fails", names.join(", then ")),
        Choice::Cheapest(names) if names.is_empty() => "the cheapest of all models that can do it".into(),
        Choice::Cheapest(names) => format!("the cheapest of {} that can do it", names.join(", ")),
        Choice::Split(arms) => {
            let total: f64 = arms.iter().map(|(_, weight)| f64::from(*weight)).sum();
            let share = |(name, weight): &(String, u32)| {
                // Two digits at most, and no zeros behind them.
                let percent = (f64::from(*weight) / total * 10_000.0).round() / 100.0;
                format!("{percent}% {name}")
            };
            format!(
                "{}, sticky by key or conversation",
                arms.iter().map(share).collect::<Vec<_>>().join(", ")
            )
        }
    }
}

/// Limits in words.
pub fn limits(limits: &Limits) -> String {
    let counts = [
        (limits.requests_per_minute, "requests a minute"),
        (limits.tokens_per_minute, "tokens a minute"),
        (limits.concurrency, "requests at a time"),
    ];
    let dollars = [(limits.dollars_per_day, "a day"), (limits.dollars_per_month, "a month")];
    let counts = counts.into_iter().filter_map(|(bound, what)| Some(format!("{} {what}", bound?)));
    let dollars = dollars.into_iter().filter_map(|(bound, what)| Some(format!("${} {what}", bound?)));
    let all: Vec<String> = counts.chain(dollars).collect();
    if all.is_empty() { "no limits".into() } else { all.join(", ") }
}
