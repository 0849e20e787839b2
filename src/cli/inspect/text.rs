//! The report in 80 columns.

use super::memory::{Fit, Weights};
use super::{Given, Report};
use std::fmt::Write;

const GIB: f64 = (1u64 << 30) as f64;
const WIDTH: usize = 80;
/// Where values begin, after two spaces and a label.
const INDENT: usize = 17;

pub fn render(report: &Report) -> String {
    let mut page = Page::default();
    page.line(&report.model);
    identity(&mut page, report);
    parameters(&mut page, report);
    kv_cache(&mut page, report);
    match (&report.given, &report.cpu) {
        (Some(given), _) => {
            let what = if given.devices == 1 { "device" } else { "devices" };
            let title = format!("On {} {what} of {}", given.devices, gib(given.memory_bytes));
            on_devices(&mut page, &title, given);
            assumption(&mut page, report, report.assumptions.reserve_bytes_per_gpu);
        }
        (None, cpu) => {
            on_gcds(&mut page, report);
            if let Some(cpu) = cpu {
                let title = format!("On this machine's CPU, {} free", gib(cpu.memory_bytes));
                on_devices(&mut page, &title, cpu);
            }
        }
    }
    page.0
}

#[derive(Default)]
pub struct Page(pub String);

impl Page {
    pub fn line(&mut self, text: &str) {
        self.0.push_str(text.trim_end());
        self.0.push('\n');
    }

    fn title(&mut self, text: &str) {
        self.0.push('\n');
        self.line(text);
    }

    /// A label and its value, wrapped between words.
    pub fn field(&mut self, label: &str, value: &str) {
        let mut line = format!("  {label:<width$}", width = INDENT - 2);
        for word in value.split(' ') {
            if line.chars().count() + word.chars().count() > WIDTH && line.len() > INDENT {
                self.line(&line);
                line = " ".repeat(INDENT);
            }
            line.push_str(word);
            line.push(' ');
        }
        self.line(&line);
    }
}

fn identity(page: &mut Page, report: &Report) {
    let known = &report.known;
    if let Some(by) = known.recognised_by {
        let also = match known.aliases.as_slice() {
            [] => String::new(),
            aliases => format!(" (also {})", aliases.join(", ")),
        };
        let by = if by == "shape" { ", by its shape" } else { "" };
        let one_of = if known.catalogue.len() > 1 { "one of " } else { "" };
        page.field("catalogue", &format!("{one_of}{}{also}{by}", known.catalogue.join(", ")));
    }
    let Report { layers, hidden, vocabulary, .. } = report;
    page.field(
        "architecture",
        &format!(
            "{}, {layers} layers, width {hidden}, vocabulary {}",
            report.architecture,
            grouped(*vocabulary as u64)
        ),
    );
    let a = &report.attention;
    let mut attention = match (a.kv_heads, a.latent) {
        (Some(kv), _) => format!("{}, {} heads of {} on {kv} KV heads", a.kind, a.heads, a.head_dim),
        (None, latent) => format!(
            "{}, {} heads of {} on a latent of {} + {} rotated",
            a.kind,
            a.heads,
            a.head_dim,
            latent.unwrap_or(0),
            a.rope_dim
        ),
    };
    if let Some(window) = a.sliding_window {
        let _ = write!(attention, ", some layers see {} tokens", grouped(window as u64));
    }
    page.field("attention", &attention);
    if let Some(e) = &report.experts {
        let shared = match e.shared_width {
            0 => String::new(),
            width => format!(", {width} shared by all tokens"),
        };
        page.field(
            "experts",
            &format!(
                "{} per token of {} in {} of {layers} layers, width {}{shared}",
                e.per_token, e.routed, e.layers, e.width
            ),
        );
    }
    if let Some(serves) = &report.serves {
        page.field("serves", serves);
    }
    page.field("context", &format!("{} tokens", grouped(report.context as u64)));
    page.field("weights", &stored(report));
    if let Some(ends) = &report.end_tokens {
        let ends: Vec<String> =
            ends.iter().map(|end| format!("{} {} ({})", end.id, end.token, end.sources.join(", "))).collect();
        page.field("answers end at", &or_nothing(&ends));
    }
    for warning in &report.warnings {
        page.field("note", warning);
    }
    let or_unknown = |values: &[String], unknown: &str| match values {
        [] => unknown.to_owned(),
        values => values.join(" or "),
    };
    let from = known.licence_from.map_or(String::new(), |from| format!(" ({from})"));
    page.field("licence", &format!("{}{from}", or_unknown(&known.licence, "unknown")));
    let template = if known.has_chat_template { "" } else { "; no template here" };
    page.field("chat format", &format!("{}{template}", or_unknown(&known.chat_format, "unknown")));
    page.field(
        "parsers",
        &format!(
            "reasoning: {}; tool calls: {}",
            or_unknown(&known.reasoning_parser, "none"),
            or_unknown(&known.tool_parser, "none")
        ),
    );
    let s = &report.sampling;
    let mut sampling = format!("temperature {}, top_p {}", s.temperature, s.top_p);
    for (name, value, neutral) in [
        ("top_k", s.top_k as f32, 0.0),
        ("min_p", s.min_p, 0.0),
        ("repetition_penalty", s.repetition_penalty, 1.0),
    ] {
        if value != neutral {
            let _ = write!(sampling, ", {name} {value}");
        }
    }
    page.field("sampling", &format!("{sampling} ({})", s.from));
    let capabilities = known.capabilities.join(", ");
    page.field("capabilities", if capabilities.is_empty() { "unknown" } else { &capabilities });
    if let (Some(input), Some(output)) = (known.price_input_usd_per_mtok, known.price_output_usd_per_mtok) {
        page.field("price", &format!("{input} USD in, {output} USD out, per million tokens"));
    }
}

fn or_nothing(ends: &[String]) -> String {
    match ends {
        [] => "no token: they run to max_tokens".to_owned(),
        ends => ends.join("; "),
    }
}

fn stored(report: &Report) -> String {
    let stored = &report.stored;
    let mut text = stored.format.clone();
    if let Some(bytes) = stored.bytes {
        let _ = write!(text, ", {} by {}", gib(bytes), stored.bytes_from);
        if report.parameters.prediction_layers > 0 {
            text.push_str(", prediction layers included");
        }
    }
    if stored.types.len() > 1 {
        let types = stored.types.iter().map(|one| format!("{} {}", one.name, gib(one.bytes)));
        let _ = write!(text, ": {}", types.collect::<Vec<_>>().join(", "));
    }
    text
}

fn parameters(page: &mut Page, report: &Report) {
    let p = &report.parameters;
    page.title(&format!("{:<20}{:>12}{:>18}", "Parameters", "total", "active per token"));
    let mut row = |name: &str, total: String, active: String, note: &str| {
        page.line(&format!("  {name:<18}{total:>12}{active:>18}{note}"));
    };
    for part in &p.parts {
        let active = if part.active == 0 { "-".into() } else { count(part.active) };
        let note = if part.active == 0 { "  one row is looked up" } else { "" };
        row(part.name, count(part.total), active, note);
    }
    let note = match p.active_with_embedding == p.active {
        true => String::new(),
        false => format!("  {} with the embedding", count(p.active_with_embedding)),
    };
    row("sum", count(p.total), count(p.active), &note);
    if let Some(total) = report.known.published_total_billions {
        let active = report.known.published_active_billions;
        row("as published", format!("{total}B"), active.map_or(String::new(), |b| format!("{b}B")), "");
    }
    if p.prediction > 0 {
        row("not loaded", count(p.prediction), String::new(), "  multi-token prediction");
    }
}

fn kv_cache(page: &mut Page, report: &Report) {
    let kv = &report.kv_cache;
    page.title(&format!("KV cache, {} bytes a value", kv.bytes_per_value));
    let of =
        |bytes: usize| format!("{} bytes ({:.1} KiB) a token", grouped(bytes as u64), bytes as f64 / 1024.0);
    let label = if kv.full_heads_bytes_per_token.is_some() { "latent" } else { "KV heads" };
    let full = report.context as u64 * kv.bytes_per_token as u64;
    page.field(label, &format!("{}, {} for the full context", of(kv.bytes_per_token), gib(full)));
    if let Some(bytes) = kv.full_heads_bytes_per_token {
        let times = bytes as f64 / kv.bytes_per_token as f64;
        page.field("all heads", &format!("{}: {times:.1} times the latent", of(bytes)));
    }
}

fn on_gcds(page: &mut Page, report: &Report) {
    page.title(&format!(
        "{:<24}{:>11}{:>8}{:>12}{:>12}{:>13}",
        "On MI250 (64 GiB a GCD)", "weights", "GCDs", "a GCD", "KV tokens", "longest"
    ));
    for weights in &report.weights {
        let row = |devices: String, rest: [String; 3]| {
            let [each, tokens, longest] = rest;
            let name = row_name(&weights.format, weights.as_stored);
            format!("  {name:<22}{:>11}{devices:>8}{each:>12}{tokens:>12}{longest:>13}", gib(weights.bytes))
        };
        match &weights.mi250 {
            Some(fit) => page.line(&row(fit.devices.to_string(), columns(fit))),
            None => page.line(&row("-".into(), ["-".into(), "-".into(), "-".into()])),
        }
    }
    for weights in &report.weights {
        short(page, weights);
    }
    assumption(page, report, report.assumptions.reserve_bytes_per_gpu);
    page.line("  GCDs: the fewest (a power of two that splits the heads evenly) that hold the");
    page.line("  weights and one sequence of full context. Longest: of one sequence, in tokens.");
}

/// Fewer GCDs than recommended, with less context.
fn short(page: &mut Page, weights: &Weights) {
    let Some(Fit { devices, longest_context: Some(tokens), .. }) = &weights.mi250_short else { return };
    let tokens = grouped(*tokens);
    page.line(&format!(
        "  {} also fits {devices} GCDs, with at most {tokens} tokens of context.",
        weights.format
    ));
}

fn on_devices(page: &mut Page, title: &str, given: &Given) {
    let head = if given.devices == 1 { "weights" } else { "weights each" };
    page.title(&format!("{title:<42}{head:>14}{:>12}{:>12}", "KV tokens", "longest"));
    for fit in &given.fits {
        let name = row_name(&fit.format, fit.as_stored);
        let [each, tokens, longest] = columns(fit);
        match fit.kv_tokens {
            Some(_) => page.line(&format!("  {name:<40}{each:>14}{tokens:>12}{longest:>12}")),
            None => {
                let room = gib(fit.usable_bytes_per_device);
                page.line(&format!("  {name:<40}{each:>14}  no: more than {room}"));
            }
        }
    }
}

fn assumption(page: &mut Page, report: &Report, reserve: u64) {
    page.line(&format!(
        "  {}% of a device's memory is used, {} of that for activations.",
        report.assumptions.usable_percent,
        gib(reserve)
    ));
}

fn columns(fit: &Fit) -> [String; 3] {
    let tokens = |count: Option<u64>| count.map_or("-".into(), grouped);
    [gib(fit.weight_bytes_per_device), tokens(fit.kv_tokens), tokens(fit.longest_context)]
}

fn row_name(format: &str, as_stored: bool) -> String {
    if as_stored { format!("{format} (stored)") } else { format.to_owned() }
}

pub fn gib(bytes: u64) -> String {
    match bytes as f64 / GIB {
        gib if gib >= 0.1 => format!("{gib:.1} GiB"),
        gib => format!("{:.1} MiB", gib * 1024.0),
    }
}

/// 235.09B, 7.4M, 512.
pub fn count(params: u64) -> String {
    match params as f64 {
        n if n >= 1e9 => format!("{:.2}B", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e4 => format!("{:.1}K", n / 1e3),
        _ => params.to_string(),
    }
}

/// 163,840.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(
            [1, 999, 1000, 163_840, 1_234_567].map(grouped),
            ["1", "999", "1,000", "163,840", "1,234,567"]
        );
        assert_eq!([512, 50_000, 7_400_000, 235_093_634_560].map(count), ["512", "50.0K", "7.4M", "235.09B"]);
        assert_eq!([64 << 30, 512 << 20, 1 << 20].map(gib), ["64.0 GiB", "0.5 GiB", "1.0 MiB"]);
    }
}
