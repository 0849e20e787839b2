//! The report on an encoder: what it gives, and what it takes of the CPU's memory.

use super::text::{Page, count, gib, grouped};
use crate::cli::tasks;
use novastack::checkpoint::Checkpoint;
use novastack::checkpoint::resolve::Resolved;
use novastack::encoder::{EncoderConfig, Output};
use novastack::load::encoder::weight_bytes;
use novastack::memory::Memory;
use serde::Serialize;

/// Everything that is printed.
#[derive(Serialize)]
pub struct EncoderReport {
    model: String,
    architecture: &'static str,
    layers: usize,
    hidden: usize,
    vocabulary: usize,
    heads: usize,
    /// Tokens of a text at the most.
    context: usize,
    /// What it is served for, in words.
    serves: String,
    pooling: &'static str,
    /// Without its weights nobody knows.
    parameters: Option<usize>,
    weight_bytes: Option<usize>,
    /// Of the longest text, while it is computed.
    work_bytes: usize,
    free_bytes: u64,
    warnings: Vec<String>,
}

/// Of an encoder; None of any other model.
///
/// # Errors
/// What `serve` would refuse too, without a weight being read.
pub fn report(resolved: &Resolved) -> Result<Option<EncoderReport>, String> {
    let mut checkpoint = resolved.open_config().map_err(|error| error.to_string())?;
    if !EncoderConfig::is_encoder(&checkpoint.config) {
        return Ok(None);
    }
    let config = EncoderConfig::read(&checkpoint.config, checkpoint.sentence_transformers.as_ref());
    let config = config.map_err(|error| format!("{}: {error}", resolved.path.display()))?;
    if resolved.path.is_dir() && Checkpoint::weights_are_complete(&resolved.path) {
        checkpoint = Checkpoint::open(&resolved.path).map_err(|error| error.to_string())?;
    }
    let weight_bytes = (!checkpoint.tensor_names().is_empty()).then(|| weight_bytes(&checkpoint));
    let pooling = match config.output {
        Output::Embedding { pooling, .. } | Output::Labels { pooling, .. } => pooling.name(),
    };
    Ok(Some(EncoderReport {
        model: resolved.served_name.clone(),
        architecture: config.architecture,
        layers: config.layers,
        hidden: config.hidden,
        vocabulary: config.vocab,
        heads: config.heads,
        context: config.max_tokens,
        serves: tasks::in_words(&tasks::of_encoder(&checkpoint, &config)),
        pooling,
        parameters: weight_bytes.map(|bytes| bytes / size_of::<f32>()),
        weight_bytes,
        work_bytes: config.work_bytes(config.max_tokens),
        free_bytes: Memory::of_this_process().available as u64,
        warnings: checkpoint.warnings,
    }))
}

/// In 80 columns.
pub fn render(report: &EncoderReport) -> String {
    let mut page = Page::default();
    page.line(&report.model);
    let EncoderReport { architecture, layers, hidden, vocabulary, heads, .. } = report;
    let vocabulary = grouped(*vocabulary as u64);
    page.field(
        "architecture",
        &format!("{architecture}, {layers} layers, width {hidden}, {heads} heads, vocabulary {vocabulary}"),
    );
    page.field("serves", &report.serves);
    page.field("pooling", report.pooling);
    page.field("longest text", &format!("{} tokens", grouped(report.context as u64)));
    for warning in &report.warnings {
        page.field("note", warning);
    }
    let weights = match (report.parameters, report.weight_bytes) {
        (Some(parameters), Some(bytes)) => {
            format!("{} parameters, {} in f32", count(parameters as u64), gib(bytes as u64))
        }
        _ => "not here".to_owned(),
    };
    page.field("weights", &weights);
    page.field(
        "memory",
        &format!(
            "{} more while the longest text is computed; {} are free. Encoders run on the CPU.",
            gib(report.work_bytes as u64),
            gib(report.free_bytes)
        ),
    );
    page.0
}
