//! `novastack keys`: makes, lists, changes and revokes the keys of a store. A server that runs on the
//! same store sees it within a second.

use crate::cli::check_config;
use clap::{Args, Subcommand};
use novastack::config::{self, Config, Limits};
use novastack::gateway::admin;
use novastack::store::{Key, KeySettings, KeyTable, Refusal, Store, export, now_unix_ms};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// A hundred years.
const EXPIRY_DAYS_MAX: i64 = 36_500;

#[derive(Subcommand)]
pub enum KeysCommand {
    /// Make a key and print it, this once: only its hash is kept. Without options it is for all models,
    /// with the configuration's limits, no bound on dollars and no end.
    Create {
        /// Its name in lists, limits and usage; stays taken when the key is revoked.
        name: String,
        #[command(flatten)]
        settings: SettingsArgs,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// List the keys, revoked ones too.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// End a key for good.
    Revoke {
        /// Its name.
        name: String,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Change what a key may do. What is not named stays as it is; nothing has a default.
    Set {
        /// Its name.
        name: String,
        #[command(flatten)]
        settings: SettingsArgs,
        #[command(flatten)]
        place: PlaceArgs,
    },
}

/// Which store.
#[derive(Args)]
pub struct PlaceArgs {
    /// The novastack.yaml whose `server.store` it is [default: novastack.yaml].
    #[arg(long, value_name = "FILE", conflicts_with = "store")]
    config: Option<PathBuf>,
    /// The store itself: sqlite:PATH or postgres://HOST/DATABASE.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

#[derive(Args)]
pub struct SettingsArgs {
    /// Names that it may ask for (models, aliases, named routes, auto), or `all`, or `none`.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    models: Option<Vec<String>>,
    /// Requests a minute, or `none`. A key with a limit of its own has none of the configuration's.
    #[arg(long, value_parser = parse_count, value_name = "N")]
    requests_per_minute: Option<Bound<u64>>,
    /// Tokens a minute, or `none`.
    #[arg(long, value_parser = parse_count, value_name = "N")]
    tokens_per_minute: Option<Bound<u64>>,
    /// Requests at a time, or `none`.
    #[arg(long, value_parser = parse_count, value_name = "N")]
    concurrency: Option<Bound<u64>>,
    /// Dollars a day, or `none`.
    #[arg(long, value_parser = parse_dollars, value_name = "X")]
    dollars_per_day: Option<Bound<f64>>,
    /// Dollars a month, or `none`.
    #[arg(long, value_parser = parse_dollars, value_name = "X")]
    dollars_per_month: Option<Bound<f64>>,
    /// No limits, neither of its own nor the configuration's.
    #[arg(long, conflicts_with_all = ["default_limits", "requests_per_minute", "tokens_per_minute", "concurrency", "dollars_per_day", "dollars_per_month"])]
    no_limits: bool,
    /// No limits of its own: those of the configuration.
    #[arg(long, conflicts_with_all = ["requests_per_minute", "tokens_per_minute", "concurrency", "dollars_per_day", "dollars_per_month"])]
    default_limits: bool,
    /// Prepaid dollars in all: X, `+X` for more than before, or `none` for no bound.
    #[arg(long, value_parser = parse_credit, value_name = "X")]
    credit: Option<Credit>,
    /// Days from now after which it is refused, or `none`.
    #[arg(long, value_parser = parse_days, value_name = "N")]
    expires_days: Option<Bound<u64>>,
}

#[derive(Clone, Copy)]
enum Bound<T> {
    None,
    To(T),
}

#[derive(Clone, Copy)]
enum Credit {
    To(Option<f64>),
    More(f64),
}

fn parse_count(text: &str) -> Result<Bound<u64>, String> {
    match (text, text.parse()) {
        ("none", _) => Ok(Bound::None),
        (_, Ok(number)) if number > 0 => Ok(Bound::To(number)),
        _ => Err("a whole number of 1 or more, or `none`, is expected".into()),
    }
}

fn parse_days(text: &str) -> Result<Bound<u64>, String> {
    match (text, text.parse::<i64>()) {
        ("none", _) => Ok(Bound::None),
        (_, Ok(days)) if (1..=EXPIRY_DAYS_MAX).contains(&days) => Ok(Bound::To(days as u64)),
        _ => Err(format!("a whole number from 1 to {EXPIRY_DAYS_MAX}, or `none`, is expected")),
    }
}

fn parse_dollars(text: &str) -> Result<Bound<f64>, String> {
    match (text, text.parse::<f64>()) {
        ("none", _) => Ok(Bound::None),
        (_, Ok(dollars)) if dollars > 0.0 && dollars.is_finite() => Ok(Bound::To(dollars)),
        _ => Err("a number of dollars above 0, or `none`, is expected".into()),
    }
}

fn parse_credit(text: &str) -> Result<Credit, String> {
    let dollars = |text: &str| text.parse::<f64>().ok().filter(|it| it.is_finite() && *it >= 0.0);
    match (text, text.strip_prefix('+')) {
        ("none", _) => Some(Credit::To(None)),
        (_, Some(more)) => dollars(more).map(Credit::More),
        _ => dollars(text).map(|dollars| Credit::To(Some(dollars))),
    }
    .ok_or_else(|| "a number of dollars of 0 or more, `+` and such a number, or `none`, is expected".into())
}

pub fn run(command: KeysCommand) -> Result<(), String> {
    let text = |error: novastack::store::StoreError| error.to_string();
    match command {
        KeysCommand::Create { name, settings, place } => {
            settings.check()?;
            let (store, config) = open(&place)?;
            if config.as_ref().is_some_and(|config| config.keys.contains_key(&name)) {
                return Err(format!("the configuration has a key named `{name}`: choose another name"));
            }
            settings.warn_of_unknown_models(config.as_ref());
            let mut new = KeySettings::default();
            settings.apply(&mut new);
            let (key, secret) = store.create_key(&name, new).map_err(text)?;
            eprintln!("key `{}` is made: {}", key.name, described(&key));
            eprintln!("Keep it: it is shown this once.");
            println!("{secret}");
        }
        KeysCommand::List { json, place } => {
            let (store, _) = open(&place)?;
            let table = store.keys();
            if json {
                let now = now_unix_ms();
                let keys: Vec<Value> =
                    table.all().iter().map(|key| admin::key_json(key, &table, now)).collect();

                println!("{:#}", Value::from(keys));
            } else if table.all().is_empty() {
                println!("no keys; make one with `novastack keys create NAME`");
            } else {
                list(&table).iter().for_each(|line| println!("{line}"));
            }
        }
        KeysCommand::Revoke { name, place } => {
            let (store, _) = open(&place)?;
            let key = store.revoke_key(&name).map_err(text)?;
            println!("key `{}`: {}", key.name, state(&key));
        }
        KeysCommand::Set { name, settings, place } => {
            if settings.is_empty() {
                return Err("nothing to set; see `novastack keys set --help`".into());
            }
            settings.check()?;
            let (store, config) = open(&place)?;
            settings.warn_of_unknown_models(config.as_ref());
            let change = |old: &mut KeySettings| {
                settings.apply(old);
                Ok(())
            };
            let key = store.change_key(&name, change).map_err(text)?;
            println!("key `{}`: {}", key.name, described(&key));
        }
    }
    Ok(())
}

/// The store, and the configuration where it was found by one.
fn open(place: &PlaceArgs) -> Result<(Arc<Store>, Option<Config>), String> {
    let (place, config) = match &place.store {
        // Not repeated when it is wrong: it may hold a password.
        Some(url) => match config::Store::parse(url, Path::new("")) {
            Some(place) => (place, None),
            None => return Err("--store must be sqlite:PATH or postgres://HOST/DATABASE".into()),
        },
        None => {
            let file = place.config.as_deref().unwrap_or(Path::new("novastack.yaml"));
            if place.config.is_none() && !file.exists() {
                return Err(
                    "there is no novastack.yaml here: give --config FILE, or --store sqlite:PATH or \
                            postgres://HOST/DATABASE"
                        .into(),
                );
            }
            let config = Config::load(file).map_err(|errors| errors.to_string())?;
            let Some(place) = config.server.store.clone() else {
                return Err(format!(
                    "{} names no store: add `store: sqlite:novastack.db` to its `server`, or give --store",
                    file.display()
                ));
            };
            (place, Some(config))
        }
    };
    Ok((Store::open(&place).map_err(|error| error.to_string())?, config))
}

impl SettingsArgs {
    fn is_empty(&self) -> bool {
        self.models.is_none()
            && !self.names_limits()
            && !self.no_limits
            && !self.default_limits
            && self.credit.is_none()
            && self.expires_days.is_none()
    }

    /// `all` and `none` stand alone.
    fn check(&self) -> Result<(), String> {
        let models = self.models.as_deref().unwrap_or_default();
        match models.len() > 1 && models.iter().any(|name| name == "all" || name == "none") {
            true => Err("--models: `all` and `none` stand alone, without other names".into()),
            false => Ok(()),
        }
    }

    fn names_limits(&self) -> bool {
        self.requests_per_minute.is_some()
            || self.tokens_per_minute.is_some()
            || self.concurrency.is_some()
            || self.dollars_per_day.is_some()
            || self.dollars_per_month.is_some()
    }

    fn apply(&self, settings: &mut KeySettings) {
        if let Some(models) = &self.models {
            settings.models = match models.as_slice() {
                [all] if all == "all" => None,
                [none] if none == "none" => Some(Vec::new()),
                names => Some(names.to_vec()),
            };
        }
        if self.default_limits {
            settings.limits = None;
        }
        if self.no_limits {
            settings.limits = Some(Limits::default());
        }
        if self.names_limits() {
            let limits = settings.limits.get_or_insert_default();
            set(&mut limits.requests_per_minute, self.requests_per_minute);
            set(&mut limits.tokens_per_minute, self.tokens_per_minute);
            set(&mut limits.concurrency, self.concurrency);
            set(&mut limits.dollars_per_day, self.dollars_per_day);
            set(&mut limits.dollars_per_month, self.dollars_per_month);
        }
        match self.credit {
            Some(Credit::To(credit)) => settings.credit = credit,
            Some(Credit::More(more)) => settings.credit = Some(settings.credit.unwrap_or(0.0) + more),
            None => {}
        }
        let end = self.expires_days.map(|days| match days {
            Bound::None => Bound::None,
            Bound::To(days) => Bound::To(now_unix_ms() + days * DAY_MS),
        });
        set(&mut settings.expires_unix_ms, end);
    }

    fn warn_of_unknown_models(&self, config: Option<&Config>) {
        let (Some(models), Some(config)) = (&self.models, config) else { return };
        for name in models.iter().filter(|name| !["all", "none", "auto"].contains(&name.as_str())) {
            if !config.is_name(name) {
                eprintln!("warning: the configuration has no model, alias or named route `{name}`");
            }
        }
    }
}

fn set<T>(value: &mut Option<T>, bound: Option<Bound<T>>) {
    match bound {
        Some(Bound::To(new)) => *value = Some(new),
        Some(Bound::None) => *value = None,
        None => {}
    }
}

fn list(table: &KeyTable) -> Vec<String> {
    let head = ["name", "key", "state", "models", "limits", "credit", "spent"].map(str::to_owned);
    let row = |key: &Arc<Key>| {
        let settings = &key.settings;
        [
            key.name.clone(),
            format!("{}...", key.prefix),
            state(key),
            models(settings),
            limits(settings),
            settings.credit.map_or("no bound".into(), |credit| format!("${credit}")),
            format!("${:.6}", table.spent(&key.name)),
        ]
    };
    check_config::table([head].into_iter().chain(table.all().iter().map(row)))
}

fn described(key: &Key) -> String {
    let settings = &key.settings;
    let credit = settings.credit.map_or(String::new(), |credit| format!("; ${credit} prepaid"));
    let end =
        settings.expires_unix_ms.map_or(String::new(), |end| format!("; expires {}", export::time(end)));
    format!("{}; {}{credit}{end}", models(settings), limits(settings))
}

fn models(settings: &KeySettings) -> String {
    match settings.models.as_deref() {
        None => "all models".into(),
        Some([]) => "no models".into(),
        Some(names) => names.join(","),
    }
}

fn limits(settings: &KeySettings) -> String {
    settings.limits.map_or("the configuration's limits".into(), |own| check_config::limits(&own))
}

fn state(key: &Key) -> String {
    let since = |ms: Option<u64>| ms.map_or(String::new(), export::time);
    match key.check(now_unix_ms()) {
        Err(Refusal::Revoked) => format!("revoked {}", since(key.revoked_unix_ms)),
        Err(_) => format!("expired {}", since(key.settings.expires_unix_ms)),
        Ok(()) => match key.settings.expires_unix_ms {
            Some(end) => format!("until {}", export::time(end)),
            None => "active".into(),
        },
    }
}
