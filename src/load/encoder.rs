//! From an encoder's files to one that is ready for texts. It runs on the CPU, whatever `--device` says.

use super::device::DeviceChoice;
use super::{LoadOptions, WeightSource, size};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::resolve::Resolved;
use crate::encoder::{Encoder, EncoderConfig, EncoderText, Output, TextEncoder};

/// An encoder, ready for texts.
pub struct LoadedEncoder {
    /// Its files.
    pub checkpoint: Checkpoint,
    /// What its config says.
    pub config: EncoderConfig,
    /// Computes.
    pub encoder: Encoder,
    /// Longest text that is taken, in tokens.
    pub max_context: usize,
    /// Of the machine's memory, what it comes to use while it computes.
    pub promised_bytes: usize,
}

/// Loads an encoder.
///
/// # Errors
/// What is wrong with its files, or does not fit into memory.
pub fn load(options: &LoadOptions, name: &str, resolved: &Resolved) -> Result<LoadedEncoder, String> {
    if matches!(options.weights, WeightSource::Dummy { .. }) {
        return Err("--load-format dummy is for models that write text, not for encoders".into());
    }
    let checkpoint = Checkpoint::open(&resolved.path).map_err(|error| error.to_string())?;
    let sentence = checkpoint.sentence_transformers.as_ref();
    let config = EncoderConfig::read(&checkpoint.config, sentence).map_err(|error| error.to_string())?;
    let weight_bytes = weight_bytes(&checkpoint);
    options.check_memory(weight_bytes)?;
    let max_context = max_context(options, name, &config, weight_bytes)?;
    let threads = options.threads_or_all();
    let mut encoder = Encoder::load(config.clone(), &checkpoint, threads)
        .map_err(|reason| format!("{}: {reason}", resolved.path.display()))?;
    warm_up(&mut encoder).map_err(|reason| format!("{}: {reason}", resolved.path.display()))?;
    checkpoint.release_pages();
    if !matches!(options.device, DeviceChoice::Auto | DeviceChoice::Cpu) {
        tracing::info!(model = name, device = %options.device, "an encoder runs on the CPU, whatever --device says");
    }
    if sentence.is_none() && matches!(config.output, Output::Embedding { .. }) {
        tracing::info!(
            model = name,
            "no modules.json says how its vectors are made: they are the mean of the hidden states as it is"
        );
    }
    for warning in &checkpoint.warnings {
        tracing::warn!(model = name, "{warning}");
    }
    tracing::info!(
        model = name,
        architecture = config.architecture,
        mb = weight_bytes as f64 / 1e6,
        max_context,
        threads,
        "loaded an encoder, in f32 on the CPU"
    );
    let promised_bytes = config.work_bytes(max_context);
    Ok(LoadedEncoder { checkpoint, config, encoder, max_context, promised_bytes })
}

/// One text of two tokens: threads are up before the first request, and weights that are broken are found.
fn warm_up(encoder: &mut Encoder) -> Result<(), String> {
    let values = encoder.encode(&[EncoderText { ids: &[0, 0], types: None }]);
    let values = values.map_err(|reason| format!("the warm-up text failed: {reason}"))?;
    match values.iter().flatten().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err("the warm-up text gave numbers that are not finite: the weights are broken".into()),
    }
}

/// All tensors in f32, whatever they are stored in.
pub fn weight_bytes(checkpoint: &Checkpoint) -> usize {
    let names = checkpoint.tensor_names();
    let values =
        names.iter().filter_map(|name| Some(checkpoint.tensor(name)?.shape.iter().product::<usize>()));
    values.sum::<usize>() * size_of::<f32>()
}

/// The longest text that the model was made for and that the memory beside the weights holds, of which half is left
/// to others.
fn max_context(
    options: &LoadOptions,
    name: &str,
    config: &EncoderConfig,
    weight_bytes: usize,
) -> Result<usize, String> {
    let made_for = config.max_tokens;
    let asked = options.max_context;
    if let Some(asked) = asked.filter(|asked| *asked > made_for && !options.context_may_shrink) {
        return Err(format!(
            "--max-context {asked} is more than the {made_for} tokens that the model was made for"
        ));
    }
    let wanted = asked.map_or(made_for, |asked| asked.min(made_for));
    let left = options.free_bytes().saturating_sub(weight_bytes) / 2;
    if config.work_bytes(wanted) <= left {
        return Ok(wanted);
    }
    let held = (1..wanted).rev().find(|tokens| config.work_bytes(*tokens) <= left).unwrap_or(0);
    let told = format!(
        "a text of {wanted} tokens takes {} while it is computed, and {} are free for that",
        size(config.work_bytes(wanted)),
        size(left)
    );
    match (asked, held) {
        (Some(_), _) | (None, 0) => Err(format!("{told}; give --max-context {}", held.max(1))),
        (None, held) => {
            tracing::warn!(model = name, wanted, held, "{told}: longer texts are refused");
            Ok(held)
        }
    }
}
