//! From the name in a request to the targets that are tried, in order.
//!
//! A name is a model, an alias, a route, or `auto`, which asks the rules. Rules see [`Facts`]; what
//! they choose is one model, several in order, the cheapest that can do it, or one by weight. After a
//! choice come the rule's fallbacks, then each model's own.
//!
//! How a task is named where the caller names none: `embeddings` and `rerank` by the endpoint, `vision` with images, `agent` with tools,
//! `reasoning` where reasoning is asked for, `long_document_qa` from 32,000 tokens on, else `chat`.
//! A prompt's tokens are counted by [`count`], which estimates from its bytes where it has no tokenizer.
//!
//! A split's arm is chosen for the request, not for the attempt: whatever its targets come to, fallbacks
//! included, counts for the arm. Only splits on the way to the first target say which; of one within
//! another, the outer arm comes first (`outer/inner`).
//!
//! Deliberately absent: trying ([`fallback`]), limits.

pub mod count;
pub mod fallback;

use super::chat::{Takes, TokenUsage};
use super::ledger::auth::{Keys, Tenant};
use super::ledger::cost;
use super::ledger::counterparty::{Counterparty, Provider};
use super::ledger::demand::{EXPECTED_OUTPUT_TOKENS, output_bound};
use super::target::adaptive::AdaptiveLimiter;
use super::target::breaker::Breaker;
use super::target::registry::{ModelState, Registry};
use super::target::remote::{RefusedHints, Upstream, UpstreamModel};
use super::wire::error::ApiError;
use crate::config::{Choice, Config, Facts, Model, Price, Rates, Target as ConfigTarget};
use crate::connect;
use axum::http::{HeaderMap, HeaderName, header};
use count::Counts;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What the caller says for routing alone.
const TASK: HeaderName = HeaderName::from_static("x-novastack-task");
const BUDGET: HeaderName = HeaderName::from_static("x-novastack-budget");
const FORWARDED_TO: HeaderName = HeaderName::from_static("x-forwarded-to");
/// The name that asks the rules.
pub const AUTO: &str = "auto";
/// Prompts of so many tokens are about long documents, where nothing else is said.
const LONG_TOKENS: u64 = 32_000;
/// Longest path of names that lead to each other.
const DEPTH_MAX: usize = 16;

/// A model that requests can be sent to.
pub struct Target {
    /// Its entry in the configuration.
    pub model: Arc<Model>,
    /// How its attempts are booked.
    pub books: Counterparty,
    /// None: this process serves it.
    pub upstream: Option<UpstreamModel>,
    /// Of our models: by which the time of their tokens is known.
    registry: Arc<Registry>,
}

impl Target {
    /// Of one of our models: what clients write into prompts for nobody to read is left out.
    pub fn drops_noise(&self) -> bool {
        self.model.drop_noise.unwrap_or(true)
    }

    /// What it costs: by the configuration, or by the time that its engine's tokens take of late. None:
    /// nobody said, or nothing was measured yet.
    pub fn price(&self) -> Option<Cow<'_, Price>> {
        if let Some(price) = &self.model.price {
            return Some(Cow::Borrowed(price));
        }
        let dollars_per_hour = self.model.dollars_per_hour?;
        let ConfigTarget::Local(local) = &self.model.target else { return None };
        let Some(ModelState::Ready(model)) = self.registry.get(&self.model.name) else { return None };
        let stats = model.engine.stats();
        if stats.decode_token_ns == 0 {
            return None;
        }
        // The hour pays for all replicas; a token takes the time of one. Per million tokens.
        let price = |ns: u64| dollars_per_hour / local.replicas as f64 / 3600e9 * ns as f64 * 1e6;
        let (input, output) = (price(stats.prefill_token_ns), price(stats.decode_token_ns));
        Some(Cow::Owned(Price {
            rates: Rates { input, output, cached_input: Some(0.0), ..Rates::default() },
            tiers: Vec::new(),
        }))
    }
}

/// Where a request goes.
pub struct Plan {
    /// What chose: a name, `auto:LINE`, `auto`.
    pub route: String,
    /// Which arm a split chose: the names that it led to, joined by `/`. None: no split did.
    pub arm: Option<String>,
    /// In order, each once; at least one.
    pub targets: Vec<Arc<Target>>,
}

impl Plan {
    /// Whether several of its targets may be asked at once.
    pub fn is_hedged(&self) -> bool {
        self.targets.len() > 1 && self.targets.iter().any(|target| target.model.hedge_after.is_some())
    }
}

/// A configuration with its upstreams.
pub struct Routing {
    config: Config,
    targets: HashMap<String, Arc<Target>>,
    keys: Keys,
}

/// What routing reads of a request.
pub struct Asked<'a> {
    /// The body, in either dialect.
    pub body: &'a Value,
    /// The caller's headers.
    pub headers: &'a HeaderMap,
    /// The request's path.
    pub path: &'a str,
    /// Whose request it is.
    pub tenant: &'a Tenant,
    /// Its prompt's tokens.
    pub counts: &'a Counts,
}

impl Routing {
    /// Makes the upstreams of a configuration. `api_keys` are accepted beside its own.
    ///
    /// # Errors
    /// Where one cannot be made.
    pub fn new(config: Config, api_keys: &[String], registry: &Arc<Registry>) -> Result<Self, String> {
        let mut upstreams = BTreeMap::new();
        if !config.providers.is_empty() {
            let tls = connect::tls()?;
            for (name, provider) in &config.providers {
                upstreams.insert(name, Arc::new(Upstream::new(name, provider, &tls)?));
            }
        }
        let target = |model: &Model| {
            let upstream = match &model.target {
                ConfigTarget::Local(_) => None,
                ConfigTarget::Upstream { provider, upstream_name, body, think_tags } => {
                    let upstream =
                        upstreams.get(provider).ok_or_else(|| format!("there is no provider {provider}"))?;
                    let load = AdaptiveLimiter::new(config.providers[provider].concurrency_max);
                    let takes = Takes::of(model, config.providers[provider].format);
                    let (upstream, name, breaker) =
                        (upstream.clone(), upstream_name.clone(), Breaker::new(Instant::now()));
                    let (body, think_tags) = (body.clone(), *think_tags);
                    let refused = RefusedHints::default();
                    Some(UpstreamModel { upstream, name, takes, body, refused, think_tags, load, breaker })
                }
            };
            let provider = upstream.as_ref().map(|hosted| Provider {
                name: hosted.upstream.name().to_owned(),
                model: hosted.name.clone(),
                dialect: hosted.upstream.dialect(),
                base_url: hosted.upstream.base_url().to_owned(),
            });
            let model = Arc::new(model.clone());
            let books = Counterparty::new(model.clone(), provider);
            let target = Target { model: model.clone(), books, upstream, registry: registry.clone() };
            Ok((model.name.clone(), Arc::new(target)))
        };
        let targets = config.models.iter().map(target).collect::<Result<_, String>>()?;
        Ok(Self { targets, keys: Keys::new(api_keys, &config.keys, config.server.share_prefix), config })
    }

    /// What it was made from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The accepted keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Refuses names that a key may not ask for.
    pub fn check_allowed(&self, name: &str, tenant: &Tenant) -> Result<(), ApiError> {
        let own = self.resolved(name);
        let Some(allowed) = &tenant.models else { return Ok(()) };
        match allowed.iter().any(|allowed| allowed == name || allowed == own) {
            true => Ok(()),
            false => Err(ApiError::not_allowed(name, allowed)),
        }
    }

    /// The prompt's tokens for the first model that a choice may come to.
    fn count(&self, choice: &Choice, counts: &Counts) -> u64 {
        let mut choice = choice;
        for _ in 0..DEPTH_MAX {
            let name = match choice {
                Choice::Model(name) => Some(name),
                Choice::Chain(names) | Choice::Cheapest(names) => names.first(),
                Choice::Split(arms) => arms.first().map(|(name, _)| name),
            };
            let Some(name) = name else { break };
            if let Some(target) = self.targets.get(name) {
                return counts.of(target);
            }
            match self.config.named_routes.get(name) {
                Some(named) => choice = named,
                None => break,
            }
        }
        counts.estimate
    }

    /// What a name stands for: with aliases followed, patterns and the default model included.
    fn resolved<'a>(&'a self, name: &'a str) -> &'a str {
        match self.config.aliases.get(name) {
            Some(stands_for) => stands_for,
            None if self.is_name(name) => name,
            None => self.config.pattern_for(name).unwrap_or(name),
        }
    }

    /// A model by its own name or an alias.
    pub fn target(&self, name: &str) -> Option<&Arc<Target>> {
        self.targets.get(self.resolved(name))
    }

    /// All names that a caller may give but those that only fit a pattern.
    pub fn names(&self) -> Vec<&str> {
        let models = self.config.models.iter().map(|model| model.name.as_str());
        let routes = self.config.named_routes.keys().map(String::as_str);
        let auto = (!self.config.routes.is_empty()).then_some(AUTO);
        let aliases = self.config.aliases.keys().map(String::as_str).filter(|name| !name.contains('*'));
        models.chain(routes).chain(auto).chain(aliases).collect()
    }

    /// What this tenant may give: all names, or those that its key is for.
    pub fn names_for<'a>(&'a self, tenant: &'a Tenant) -> Vec<&'a str> {
        match &tenant.models {
            None => self.names(),
            Some(names) => names.iter().map(String::as_str).filter(|name| self.is_name(name)).collect(),
        }
    }

    /// The name that counts: a forced one (`X-Forwarded-To`, where it is a name here that the tenant may
    /// give), or the body's.
    pub fn forced<'a>(&self, name: &'a str, headers: &'a HeaderMap, tenant: &Tenant) -> &'a str {
        let forced = headers.get(&FORWARDED_TO).and_then(|value| value.to_str().ok());
        let is_for_tenant = |name: &&str| self.is_name(name) && self.check_allowed(name, tenant).is_ok();
        forced.filter(is_for_tenant).unwrap_or(name)
    }

    /// Where a request for `name` goes.
    ///
    /// # Errors
    /// The caller's: a name that is none; nothing that can do what is asked.
    pub fn plan(&self, name: &str, asked: &Asked<'_>) -> Result<Plan, ApiError> {
        self.check_allowed(name, asked.tenant)?;
        let name = self.resolved(name);
        let mut request = Request { routing: self, asked, arm: None, splits: 0 };
        let mut names = Vec::new();
        let mut route = name.to_owned();
        if name == AUTO && !self.config.routes.is_empty() {
            // Found out only where some rule is asked.
            let mut facts = facts_of(name, asked, &self.config.header_names());
            let rule = self.config.first_rule(&mut facts, |rule| self.count(&rule.choice, asked.counts));
            let rule = rule.ok_or_else(|| no_rule(name))?;
            route = format!("{AUTO}:{}", rule.line);
            request.choose(&rule.choice, &mut names, 0)?;
            for fallback in &rule.fallback {
                request.name(fallback, &mut names, 0)?;
            }
        } else {
            request.name(name, &mut names, 0)?;
        }
        for chosen in names.clone() {
            names.extend(self.config.fallbacks.get(&chosen).into_iter().flatten().cloned());
        }
        let mut seen = std::collections::HashSet::new();
        let targets = names.iter().filter(|name| seen.insert(name.as_str()));
        let targets = targets.filter_map(|name| self.targets.get(name).cloned()).collect();
        Ok(Plan { route, arm: request.arm, targets })
    }

    /// The models among which a name leaves a choice; none where it names one.
    pub fn chosen_among(&self, name: &str) -> BTreeSet<String> {
        let name = self.resolved(name);
        let (mut models, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut open: Vec<&Choice> = match self.config.named_routes.get(name) {
            Some(choice) => vec![choice],
            None if name == AUTO => self.config.routes.iter().map(|rule| &rule.choice).collect(),
            None => Vec::new(),
        };
        while let Some(choice) = open.pop() {
            let names: Vec<&String> = match choice {
                Choice::Model(name) => vec![name],
                Choice::Cheapest(names) if names.is_empty() => self.targets.keys().collect(),
                Choice::Chain(names) | Choice::Cheapest(names) => names.iter().collect(),
                Choice::Split(arms) => arms.iter().map(|(name, _)| name).collect(),
            };
            for name in names.into_iter().filter(|name| seen.insert(*name)) {
                match self.config.named_routes.get(name) {
                    Some(choice) => open.push(choice),
                    None => _ = models.insert(name.clone()),
                }
            }
        }
        models
    }

    /// Whether a caller may give this name.
    pub fn is_name(&self, name: &str) -> bool {
        self.targets.contains_key(name)
            || self.config.aliases.contains_key(name)
            || self.config.named_routes.contains_key(name)
            || name == AUTO
    }
}

fn no_rule(name: &str) -> ApiError {
    ApiError::no_route(&format!(
        "no rule of `routes` matches this request for `{name}`, and none is the default"
    ))
}

/// A request being routed.
struct Request<'a> {
    routing: &'a Routing,
    asked: &'a Asked<'a>,
    arm: Option<String>,
    /// Splits that were asked so far.
    splits: u32,
}

impl Request<'_> {
    /// Adds the models that a name stands for.
    fn name(&mut self, name: &str, names: &mut Vec<String>, depth: usize) -> Result<(), ApiError> {
        let config = &self.routing.config;
        let name = config.aliases.get(name).map_or(name, String::as_str);
        if self.routing.targets.contains_key(name) {
            names.push(name.to_owned());
            return Ok(());
        }
        match config.named_routes.get(name) {
            // The configuration has no cycles; a bound all the same.
            Some(choice) if depth < DEPTH_MAX => self.choose(choice, names, depth + 1),
            _ => Err(ApiError::unknown_model(name, &self.routing.names_for(self.asked.tenant))),
        }
    }

    fn choose(&mut self, choice: &Choice, names: &mut Vec<String>, depth: usize) -> Result<(), ApiError> {
        match choice {
            Choice::Model(name) => self.name(name, names, depth),
            Choice::Chain(chain) => chain.iter().try_for_each(|name| self.name(name, names, depth)),
            Choice::Split(arms) => {
                let arm = self.arm(arms).to_owned();
                self.splits += 1;
                // Else the split is only asked when something before it has failed.
                if names.is_empty() {
                    let outer = self.arm.take().map(|outer| outer + "/");
                    self.arm = Some(outer.unwrap_or_default() + &arm);
                }
                self.name(&arm, names, depth)
            }
            Choice::Cheapest(candidates) => {
                let mut able = self.able(candidates)?;
                able.sort_by(|(a, _), (b, _)| a.total_cmp(b));
                names.extend(able.into_iter().map(|(_, name)| name));
                Ok(())
            }
        }
    }

    /// (expected dollars, name) of the candidates that can do the request.
    fn able(&mut self, candidates: &[String]) -> Result<Vec<(f64, String)>, ApiError> {
        let routing = self.routing;
        let all = || routing.config.models.iter().map(|model| model.name.clone()).collect();
        let candidates: Vec<String> = if candidates.is_empty() { all() } else { candidates.to_vec() };
        let output = output_bound(self.asked.body);
        let (counts, tools) = (self.asked.counts, tools(self.asked.body));
        let can = |target: &&Arc<Target>| {
            let Model { capabilities, context, .. } = &*target.model;
            let wanted = counts.of(target) + output.unwrap_or(0);
            (counts.images == 0 || capabilities.images)
                && (tools == 0 || capabilities.tools)
                && context.is_none_or(|context| wanted <= context as u64)
                && !target.upstream.as_ref().is_some_and(|hosted| hosted.breaker.is_open(Instant::now()))
        };
        let targets = candidates.iter().filter_map(|name| routing.target(name)).filter(can);
        let cost = |target: &Arc<Target>| {
            // What has no price comes last.
            target.price().map_or(f64::INFINITY, |price| {
                let output = output.unwrap_or(EXPECTED_OUTPUT_TOKENS);
                let expected = TokenUsage { input: counts.of(target), output, ..TokenUsage::default() };
                cost::cost(&price, &expected)
            })
        };
        let able: Vec<_> = targets.map(|target| (cost(target), target.model.name.clone())).collect();
        match able.is_empty() {
            true => Err(ApiError::no_route(&format!(
                "none of {} can do this request of about {} tokens with {} images and {tools} tools now",
                candidates.join(", "),
                counts.estimate,
                counts.images,
            ))),
            false => Ok(able),
        }
    }

    /// One by weight: the same for a caller's key, without one for a conversation.
    fn arm<'c>(&self, arms: &'c [(String, u32)]) -> &'c str {
        let key =
            self.asked.headers.get(header::AUTHORIZATION).or_else(|| self.asked.headers.get("x-api-key"));
        let first = || {
            let messages = self.asked.body.get("messages").and_then(Value::as_array);
            messages
                .and_then(|messages| messages.iter().find(|message| message["role"] == "user"))
                .map(Value::to_string)
        };
        let mut digest = match key {
            Some(key) => Sha256::new_with_prefix(key.as_bytes()),
            None => Sha256::new_with_prefix(first().unwrap_or_default()),
        };
        if self.splits > 0 {
            // Else one within another would always draw what the outer one drew.
            digest.update(self.splits.to_le_bytes());
        }
        let draw = digest.finalize();
        let draw = u64::from_le_bytes(draw[..8].try_into().expect("a digest has 32 bytes"));
        let total: u64 = arms.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut at = draw % total.max(1);
        for (name, weight) in arms {
            match at.checked_sub(u64::from(*weight)) {
                None => return name,
                Some(rest) => at = rest,
            }
        }
        arms.last().map_or("", |(name, _)| name)
    }
}

/// The tools that are offered.
fn tools(body: &Value) -> u64 {
    body.get("tools").and_then(Value::as_array).map_or(0, |tools| tools.len() as u64)
}

/// The task that the caller names.
pub fn named_task<'a>(asked: &Asked<'a>) -> Option<Cow<'a, str>> {
    named(&TASK, "task", asked)
}

/// By a header, or `metadata.NAME` of the body.
fn named<'a>(header: &HeaderName, name: &str, asked: &Asked<'a>) -> Option<Cow<'a, str>> {
    if let Some(value) = asked.headers.get(header) {
        return value.to_str().ok().map(Into::into);
    }
    match asked.body.get("metadata")?.get(name)? {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => Some(number.to_string().into()),
        _ => None,
    }
}

fn facts_of(name: &str, asked: &Asked<'_>, header_names: &[&str]) -> Facts {
    let Asked { body, headers, path, tenant, counts } = *asked;
    let (context_length, images, tools) = (counts.estimate, counts.images, tools(body));
    let reasons = body.get("reasoning_effort").is_some_and(|effort| !effort.is_null() && effort != "none")
        || ["enabled", "adaptive"].iter().any(|kind| body["thinking"]["type"] == **kind);
    let is_for = |ends: &[&str]| ends.iter().any(|end| path.ends_with(end));
    let inferred = || match () {
        () if is_for(&["/embeddings"]) => "embeddings",
        () if is_for(&["/rerank", "/score"]) => "rerank",
        () if images > 0 => "vision",
        () if tools > 0 => "agent",
        () if reasons => "reasoning",
        () if context_length >= LONG_TOKENS => "long_document_qa",
        () => "chat",
    };
    let header = |name: &&str| {
        let value = headers.get(*name)?.to_str().ok()?;
        Some((name.to_string(), value.to_owned()))
    };
    Facts {
        context_length,
        task: named_task(asked).map_or_else(|| inferred().to_owned(), |task| task.into_owned()),
        budget: named(&BUDGET, "budget", asked).and_then(|budget| budget.trim().parse().ok()),
        model: name.to_owned(),
        path: path.to_owned(),
        key: tenant.name.clone(),
        headers: header_names.iter().filter_map(header).collect(),
        images,
        tools,
        unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    }
}

/// What routing alone is to see leaves the body: nothing of it reaches an upstream.
pub fn strip(body: &mut Value) {
    let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    metadata.shift_remove("task");
    metadata.shift_remove("budget");
    if metadata.is_empty()
        && let Some(body) = body.as_object_mut()
    {
        body.shift_remove("metadata");
    }
}
