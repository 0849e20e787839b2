//! `models` and `prices`.

use super::body::body_rules;
use super::names::{Names, Wanted};
use super::read::{Fields, Reader, in_backticks};
use super::sections::limits;
use super::tree::{Key, Node, Value};
use super::{Capabilities, LocalModel, Model, Price, PriceTier, Rates, Target, ThinkTags};
use crate::protocol::SamplingDefaults;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const COMMON_KEYS: [&str; 6] = ["context", "price", "capabilities", "limits", "hedge_after_s", "drop_noise"];
const LOCAL_KEYS: [&str; 9] = [
    "source",
    "device",
    "max_context",
    "max_running",
    "rope_scaling",
    "replicas",
    "sampling",
    "default_max_tokens",
    "dollars_per_hour",
];
const UPSTREAM_KEYS: [&str; 8] = [
    "provider",
    "upstream_name",
    "drop",
    "rename",
    "set",
    "max_output_tokens",
    "cache_control",
    "think_tags",
];
const PRICE_KEYS: [&str; 6] = ["input", "output", "cached_input", "cache_write", "cache_write_1h", "tiers"];
const TIER_KEYS: [&str; 6] = ["above", "input", "output", "cached_input", "cache_write", "cache_write_1h"];
const THINK_TAGS: [(&str, ThinkTags); 3] =
    [("auto", ThinkTags::Auto), ("open", ThinkTags::Open), ("keep", ThinkTags::Keep)];
const CAPABILITIES: [&str; 3] = ["tools", "images", "reasoning"];

/// Dollars per million tokens.
const PRICE_MAX: f64 = 1_000_000.0;

/// Sequences of one model that run at once, as for `novastack serve --max-running`.
const RUNNING_MAX: u64 = 65_536;

/// Engines of one model.
const REPLICAS_MAX: u64 = 64;

pub fn models(
    reader: &mut Reader,
    names: &Names,
    root: &Fields,
    providers: &BTreeMap<&str, usize>,
) -> Vec<Model> {
    let entries = reader.named(root.get("models"), "`models`");
    let mut models: Vec<Model> =
        entries.iter().filter_map(|(key, node)| model(reader, key, node, providers)).collect();
    for (key, node) in reader.named(root.get("prices"), "`prices`") {
        let name = names.check(reader, key.line, &key.text, "`prices`", Wanted::Model);
        let price = price(reader, node, &format!("the price of {}", in_backticks(&key.text)));
        let Some(model) = name.and_then(|name| models.iter_mut().find(|model| model.name == name)) else {
            continue;
        };
        if model.price.is_some() || model.dollars_per_hour.is_some() {
            let name = in_backticks(&model.name);
            reader.error(key.line, format!("`prices`: {name} has a price already: give one of them"));
        }
        model.price = model.price.take().or(price);
    }
    models
}

fn model(reader: &mut Reader, key: &Key, node: &Node, providers: &BTreeMap<&str, usize>) -> Option<Model> {
    let what = format!("model {}", in_backticks(&key.text));
    let has = |name: &str| matches!(&node.value, Value::Mapping(entries) if entries.iter().any(|(key, _)| key.text == name));
    // What kind of model it is decides which keys are unknown.
    let (is_local, is_upstream) = (has("source"), has("provider"));
    let allowed = match (is_local, is_upstream) {
        (true, false) => [&LOCAL_KEYS[..], &COMMON_KEYS].concat(),
        (false, true) => [&UPSTREAM_KEYS[..], &COMMON_KEYS].concat(),
        _ => [&LOCAL_KEYS[..], &UPSTREAM_KEYS, &COMMON_KEYS].concat(),
    };
    let fields = reader.fields(node, &what, &allowed)?;
    let target = match (fields.entry("source"), fields.entry("provider")) {
        (Some((_, node)), None) => local(reader, &fields, node, &what).map(Target::Local),
        (None, Some((_, node))) => upstream(reader, key, &fields, node, providers, &what),
        (Some(_), Some((key, _))) => {
            reader.error(
                key.line,
                format!("{what} has a `source` and a `provider`: it is either local or upstream"),
            );
            None
        }
        (None, None) => {
            reader.error(
                key.line,
                format!(
                    "{what} needs a `source` (this process serves it) or a `provider` (an upstream does)"
                ),
            );
            None
        }
    };
    let context = count(reader, &fields, "context", &what);
    let price = fields.get("price").and_then(|node| price(reader, node, &format!("the price of {what}")));
    let dollars_per_hour = fields.get("dollars_per_hour").and_then(|node| {
        if price.is_some() {
            let two = format!(
                "{what} has a `price` and `dollars_per_hour`, from which one would follow: give one of them"
            );
            reader.error(node.line, two);
        }
        reader.number(node, &format!("`dollars_per_hour` of {what}"), 0.0..=PRICE_MAX)
    });
    let hedge_after = fields
        .get("hedge_after_s")
        .and_then(|node| reader.number(node, &format!("`hedge_after_s` of {what}"), 0.001..=3600.0));
    let hedge_after = hedge_after.map(Duration::from_secs_f64);
    let capabilities = capabilities(reader, &fields, is_local, &what);
    let max_output_tokens = count(reader, &fields, "max_output_tokens", &what).map(|tokens| tokens as u64);
    let mut truth =
        |name: &str| fields.get(name).and_then(|node| reader.truth(node, &format!("`{name}` of {what}")));
    let (cache_control, drop_noise) = (truth("cache_control").unwrap_or(true), truth("drop_noise"));
    let limits = fields.get("limits").and_then(|node| limits(reader, node, &format!("the limits of {what}")));
    let (name, limits) = (key.text.clone(), limits.unwrap_or_default());
    let target = target?;
    Some(Model {
        name,
        target,
        context,
        price,
        dollars_per_hour,
        hedge_after,
        capabilities,
        max_output_tokens,
        cache_control,
        drop_noise,
        limits,
    })
}

fn local(reader: &mut Reader, fields: &Fields, node: &Node, what: &str) -> Option<LocalModel> {
    let source = source(reader, node, what);
    let device = fields.get("device").and_then(|node| {
        let device = reader.text(node, &format!("`device` of {what}"))?;
        if !is_device(device) {
            let device = in_backticks(device);
            reader.error(
                node.line,
                format!("`device` of {what} must be auto, cpu, hip:N or cuda:N, or several numbers (hip:0,1), not {device}"),
            );
        }
        Some(device.to_owned())
    });
    let mut whole = |name: &str, range| {
        fields.get(name).and_then(|node| reader.whole(node, &format!("`{name}` of {what}"), range))
    };
    // A prompt token and one to answer with.
    let max_context = whole("max_context", 2..=u32::MAX.into()).map(|number| number as usize);
    let max_running = whole("max_running", 1..=RUNNING_MAX).map(|number| number as u32);
    let replicas = whole("replicas", 1..=REPLICAS_MAX).map_or(1, |number| number as usize);
    let default_max_tokens = whole("default_max_tokens", 1..=u32::MAX.into()).map(|number| number as u32);
    let sampling = fields.get("sampling").map(|node| sampling(reader, node, what)).unwrap_or_default();
    let rope_scaling = fields.get("rope_scaling").and_then(|node| match &node.value {
        Value::Mapping(_) => Some(node.to_json()),
        _ => {
            reader.error(node.line, format!("`rope_scaling` of {what} must be a mapping, as in config.json"));
            None
        }
    });
    Some(LocalModel {
        source: source?,
        device,
        max_context,
        max_running,
        rope_scaling,
        replicas,
        sampling,
        default_max_tokens,
    })
}

/// What requests take where they leave a sampling parameter out.
fn sampling(reader: &mut Reader, node: &Node, what: &str) -> SamplingDefaults {
    let what = format!("`sampling` of {what}");
    let mut sampling = SamplingDefaults::default();
    let Some(fields) = reader.fields(node, &what, &SamplingDefaults::NAMES) else { return sampling };
    for name in SamplingDefaults::NAMES {
        let Some(node) = fields.get(name) else { continue };
        let Some(number) = reader.number(node, &format!("`{name}` of {what}"), -1.0..=f64::MAX) else {
            continue;
        };
        if let Err(reason) = sampling.set(name, number) {
            reader.error(node.line, format!("{what}: {reason}"));
        }
    }
    sampling
}

/// Paths that begin with `./` or `../` are relative to the file's folder.
fn source(reader: &mut Reader, node: &Node, what: &str) -> Option<String> {
    let text = reader.text(node, &format!("`source` of {what}"))?;
    let relative = text.starts_with("./") || text.starts_with("../");
    let path = if relative { reader.folder.join(text) } else { Path::new(text).to_owned() };
    let is_path = relative || text.starts_with('/') || text.ends_with(".gguf") && !text.contains(':');
    if is_path && !(reader.surroundings.exists)(&path) {
        reader.warn(node.line, format!("{what}: its source {} does not exist", in_backticks(text)));
    }
    Some(path.to_string_lossy().into_owned())
}

/// `auto`, `cpu`, `hip:0,1`.
fn is_device(text: &str) -> bool {
    let numbers = text.strip_prefix("hip:").or_else(|| text.strip_prefix("cuda:"));
    let numbers = numbers.map(|list| list.split(',').map(|number| number.parse::<u16>()).collect::<Vec<_>>());
    match numbers {
        Some(numbers) => {
            numbers.iter().enumerate().all(|(at, number)| number.is_ok() && !numbers[..at].contains(number))
        }
        None => ["auto", "cpu"].contains(&text),
    }
}

fn upstream(
    reader: &mut Reader,
    key: &Key,
    fields: &Fields,
    node: &Node,
    providers: &BTreeMap<&str, usize>,
    what: &str,
) -> Option<Target> {
    let upstream_name = match fields.get("upstream_name") {
        Some(node) => reader.text(node, &format!("`upstream_name` of {what}"))?,
        None => &key.text,
    };
    let provider = reader.text(node, &format!("`provider` of {what}"))?;
    if !providers.contains_key(provider) {
        let there_are = reader.there_are(provider, &providers.keys().copied().collect::<Vec<_>>());
        reader.error(node.line, format!("{what}: {} is no provider{there_are}", in_backticks(provider)));
        return None;
    }
    let body = body_rules(reader, fields, what);
    let think_tags = fields.get("think_tags").and_then(|node| think_tags(reader, node, what));
    Some(Target::Upstream {
        provider: provider.to_owned(),
        upstream_name: upstream_name.to_owned(),
        body,
        think_tags: think_tags.unwrap_or_default(),
    })
}

fn think_tags(reader: &mut Reader, node: &Node, what: &str) -> Option<ThinkTags> {
    let text = reader.text(node, &format!("`think_tags` of {what}"))?;
    let found = THINK_TAGS.iter().find(|(word, _)| *word == text);
    if found.is_none() {
        let there_are = reader.there_are(text, &THINK_TAGS.map(|(word, _)| word));
        reader.error(node.line, format!("{what}: unknown `think_tags` {}{there_are}", in_backticks(text)));
    }
    found.map(|(_, tags)| *tags)
}

/// A number of tokens.
fn count(reader: &mut Reader, fields: &Fields, name: &str, what: &str) -> Option<usize> {
    let node = fields.get(name)?;
    let number = reader.whole(node, &format!("`{name}` of {what}"), 1..=u32::MAX.into())?;
    usize::try_from(number).ok()
}

fn capabilities(reader: &mut Reader, fields: &Fields, is_local: bool, what: &str) -> Capabilities {
    let Some(node) = fields.get("capabilities") else {
        // Nothing is held against a model whose file does not say; local ones take no images.
        return Capabilities { tools: true, images: !is_local, reasoning: true };
    };
    let mut capabilities = Capabilities::default();
    for (name, node) in reader.texts(node, &format!("`capabilities` of {what}")) {
        match name {
            "tools" => capabilities.tools = true,
            "images" => capabilities.images = true,
            "reasoning" => capabilities.reasoning = true,
            _ => {
                let there_are = reader.there_are(name, &CAPABILITIES);
                reader.error(
                    node.line,
                    format!("{what}: unknown capability {}{there_are}", in_backticks(name)),
                );
            }
        }
    }
    capabilities
}

fn price(reader: &mut Reader, node: &Node, what: &str) -> Option<Price> {
    let fields = reader.fields(node, what, &PRICE_KEYS)?;
    let rates = rates(reader, &fields, what);
    let mut tiers: Vec<PriceTier> = Vec::new();
    match fields.get("tiers") {
        Some(Node { value: Value::List(items), .. }) => {
            for item in items {
                let what = format!("a tier of {what}");
                let Some(tier) = tier(reader, item, &what) else { continue };
                if tiers.last().is_some_and(|last| last.above_input_tokens >= tier.above_input_tokens) {
                    reader.error(item.line, format!("{what}: `above` must grow from tier to tier"));
                }
                tiers.push(tier);
            }
        }
        Some(node) => {
            reader
                .error(node.line, format!("`tiers` of {what} must be a list of {{ above, input, output }}"));
        }
        None => {}
    }
    Some(Price { rates: rates?, tiers })
}

fn tier(reader: &mut Reader, node: &Node, what: &str) -> Option<PriceTier> {
    let fields = reader.fields(node, what, &TIER_KEYS)?;
    let above = count(reader, &fields, "above", what);
    if fields.get("above").is_none() {
        reader.error(
            fields.line,
            format!("{what} needs `above`: the number of prompt tokens from which it holds"),
        );
    }
    let rates = rates(reader, &fields, what)?;
    Some(PriceTier { above_input_tokens: above?, rates })
}

fn rates(reader: &mut Reader, fields: &Fields, what: &str) -> Option<Rates> {
    let mut price = |name: &str, is_needed: bool| match fields.get(name) {
        Some(node) => {
            reader.number(node, &format!("`{name}` of {what} (dollars per million tokens)"), 0.0..=PRICE_MAX)
        }
        None => {
            if is_needed {
                reader.error(fields.line, format!("{what} needs `{name}`: dollars per million tokens"));
            }
            None
        }
    };
    let (input, output) = (price("input", true), price("output", true));
    let [cached_input, cache_write, cache_write_1h] =
        ["cached_input", "cache_write", "cache_write_1h"].map(|name| price(name, false));
    Some(Rates { input: input?, output: output?, cached_input, cache_write, cache_write_1h })
}
