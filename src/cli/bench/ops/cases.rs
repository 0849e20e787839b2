//! The operations that are measured, with the bytes and the operations that each needs.

use super::inputs::{Random, Source, one_sequence, sequences, vector, weight, writing};
use super::shapes::{Experts, Shapes};
use super::{Bench, Measured};
use crate::cli::bench::timing;
use novastack::backend::ceiling::Ceiling;
use novastack::backend::{
    Activation, BackendError, Batch, HeadLayout, KV_BLOCK_TOKENS, KvDtype, KvLayout, KvSpec, LatentLayout,
    RopeStyle, Routing, Scoring,
};
use novastack::checkpoint::Dtype;
use std::collections::BTreeSet;

/// Positions whose keys and values are written at once, before they are measured.
const WRITTEN_ROWS: usize = 2048;
/// Choices of experts that calls rotate over.
const CHOICES: usize = 4;

/// What is measured together, because it shares its weights or its cache.
pub enum Job {
    Embed,
    AddRmsNorm,
    SiluMul,
    Linear { dtype: Dtype, inputs: usize, outputs: usize },
    Decode { sequences: usize, context: usize },
    Prefill { rows: usize, context: usize },
    LatentDecode { sequences: usize, context: usize },
    Experts { dtype: Dtype },
}

/// All of them.
pub fn jobs(shapes: &Shapes) -> Vec<Job> {
    let Shapes { hidden, intermediate, heads, .. } = *shapes;
    let mut jobs = vec![Job::Embed, Job::AddRmsNorm, Job::SiluMul];
    for dtype in [
        Dtype::BF16,
        Dtype::Q8_0,
        Dtype::Q6K,
        Dtype::Q4K,
        Dtype::Q4_1,
        Dtype::IQ4NL,
        Dtype::IQ4XS,
        Dtype::MXFP4,
        Dtype::F8Block,
    ] {
        for (inputs, outputs) in
            [(hidden, heads.qkv_dim()), (hidden, 2 * intermediate), (intermediate, hidden)]
        {
            jobs.push(Job::Linear { dtype, inputs, outputs });
        }
    }
    jobs.extend(shapes.decode.iter().map(|&(sequences, context)| Job::Decode { sequences, context }));
    jobs.extend(shapes.prefill.iter().map(|&(rows, context)| Job::Prefill { rows, context }));
    jobs.extend(shapes.decode.iter().map(|&(sequences, context)| Job::LatentDecode { sequences, context }));
    jobs.extend([Dtype::BF16, Dtype::Q4K, Dtype::F8Block].map(|dtype| Job::Experts { dtype }));
    jobs
}

/// As the formats are called elsewhere.
fn format_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Q4_1 => "INT4",
        other => other.name(),
    }
}

impl Job {
    /// Operation and shape, and of attention the step.
    pub fn name(&self, shapes: &Shapes) -> String {
        let (operation, shape) = self.names(shapes);
        match self {
            Job::Decode { sequences, context } | Job::LatentDecode { sequences, context } => {
                format!("{operation} {shape}, {sequences} @ {context}")
            }
            Job::Prefill { rows, context } => format!("{operation} {shape}, {rows} @ {context}"),
            _ => format!("{operation} {shape}"),
        }
    }

    fn names(&self, shapes: &Shapes) -> (&'static str, String) {
        let HeadLayout { heads, kv_heads, head_dim } = shapes.heads;
        let latent = shapes.latent;
        let Experts { experts, top_k, hidden, intermediate, .. } = shapes.experts;
        match self {
            Job::Embed => ("embed", format!("BF16 {}", shapes.hidden)),
            Job::AddRmsNorm => ("add_rms_norm", shapes.hidden.to_string()),
            Job::SiluMul => ("silu_mul", shapes.intermediate.to_string()),
            Job::Linear { dtype, inputs, outputs } => {
                ("linear", format!("{} {inputs} -> {outputs}", format_name(*dtype)))
            }
            Job::Decode { .. } => ("attention decode", format!("{heads}/{kv_heads} heads of {head_dim}")),
            Job::Prefill { .. } => ("attention prefill", format!("{heads}/{kv_heads} heads of {head_dim}")),
            Job::LatentDecode { .. } => {
                ("MLA decode", format!("{} heads, {} + {}", latent.heads, latent.rank, latent.rope_dim))
            }
            Job::Experts { dtype } => (
                "experts",
                format!("{} {hidden} -> {}, {top_k} of {experts}", format_name(*dtype), 2 * intermediate),
            ),
        }
    }
}

impl<B: Ceiling> Bench<B> {
    /// Measures a job's rows, or says why not.
    pub fn run(&mut self, job: &Job) {
        let result = match *job {
            Job::Embed | Job::AddRmsNorm | Job::SiluMul => self.plain(job),
            Job::Linear { dtype, inputs, outputs } => self.linear(job, dtype, inputs, outputs),
            Job::Experts { dtype } => self.experts(job, dtype),
            Job::Decode { sequences: count, context } => {
                self.attention(job, &sequences(count, 1, context), count, context)
            }
            Job::Prefill { rows, context } => {
                self.attention(job, &one_sequence(rows, context), rows, context)
            }
            Job::LatentDecode { sequences: count, context } => self.latent(job, count, context),
        };
        if let Err(error) = result {
            // What is left of the failure is not the next job's.
            let _ = self.backend.finish();
            self.miss(job.name(self.shapes), error);
        }
    }

    fn add(
        &mut self,
        job: &Job,
        rows: usize,
        context: Option<usize>,
        measured: Result<Measured, BackendError>,
    ) {
        let (operation, shape) = job.names(self.shapes);
        self.record(operation, &shape, rows, context, measured);
    }

    /// Copies of a weight or layers of a cache, to rotate over.
    fn ring(&self, bytes: usize) -> usize {
        self.shapes.ring_bytes.div_ceil(bytes).max(2)
    }

    fn plain(&mut self, job: &Job) -> Result<(), BackendError> {
        let Shapes { hidden, intermediate, vocab, budget, plain_rows, .. } = *self.shapes;
        let activation = self.backend.activation_bytes();
        for &rows in plain_rows {
            let backend = &mut self.backend;
            let source = Source::new(backend)?;
            let batch = one_sequence(rows, rows);
            let (seconds, values, value_bytes) = match job {
                Job::Embed => {
                    let table = backend.matrix(&[weight(Dtype::BF16, vocab, hidden)])?;
                    let mut random = Random::new(11);
                    let tokens = (0..rows).map(|_| random.next() % vocab as u32).collect();
                    backend.begin(&Batch { tokens, ..batch });
                    let mut out = backend.tensor_f32(rows, hidden)?;
                    let seconds = timing::seconds(backend, budget, |backend, _| {
                        backend.embed(&table, 0, 1.0, &mut out)
                    })?;
                    (seconds, rows * hidden, 2 + 4)
                }
                Job::AddRmsNorm => {
                    let ones = vector(backend, std::iter::repeat_n(1.0, hidden))?;
                    let mut residual = backend.tensor_f32(rows, hidden)?;
                    source.fill(backend, &batch, hidden, &mut residual)?;
                    let delta = source.activations(backend, &batch, hidden)?;
                    let mut out = backend.tensor(rows, hidden)?;
                    let seconds = timing::seconds(backend, budget, |backend, _| {
                        backend.add_rms_norm(&mut residual, Some(&delta), &ones, 1e-6, &mut out);
                    })?;
                    (seconds, rows * hidden, 4 + 4 + 2 * activation)
                }
                _ => {
                    let gate_up = source.activations(backend, &batch, 2 * intermediate)?;
                    let mut out = backend.tensor(rows, intermediate)?;
                    let seconds = timing::seconds(backend, budget, |backend, _| {
                        backend.gate_mul(Activation::Silu, &gate_up, &mut out)
                    })?;
                    (seconds, rows * intermediate, 3 * activation)
                }
            };
            // Some operations a value, which no device is short of.
            let measured =
                Measured { seconds, bytes: (values * value_bytes) as f64, operations: values as f64 };
            self.add(job, rows, None, Ok(measured));
        }
        Ok(())
    }

    fn linear(&mut self, job: &Job, dtype: Dtype, inputs: usize, outputs: usize) -> Result<(), BackendError> {
        let data = weight(dtype, outputs, inputs);
        let copies = self.ring(data.data.len());
        self.reserve((copies + 2) * data.data.len())?;
        let mut ring = Vec::with_capacity(copies);
        for _ in 0..copies {
            ring.push(self.backend.matrix(std::slice::from_ref(&data))?);
        }
        drop(data);
        let source = Source::new(&self.backend)?;
        let activation = self.backend.activation_bytes();
        let weight_bytes = self.backend.matrix_bytes(&ring[0]);
        for &rows in self.shapes.rows {
            let budget = self.shapes.budget;
            let measure = |backend: &mut B| {
                let x = source.activations(backend, &one_sequence(rows, rows), inputs)?;
                let mut out = backend.tensor(rows, outputs)?;
                timing::seconds(backend, budget, |backend, turn| {
                    backend.linear(&ring[turn % copies], None, &x, &mut out);
                })
            };
            let measured = measure(&mut self.backend).map(|seconds| Measured {
                seconds,
                bytes: (weight_bytes + rows * (inputs + outputs) * activation) as f64,
                operations: (2 * rows * inputs * outputs) as f64,
            });
            self.add(job, rows, None, measured);
        }
        Ok(())
    }

    /// One layer's attention of a step, over as many layers as the ring needs.
    fn attention(
        &mut self,
        job: &Job,
        batch: &Batch,
        rows: usize,
        context: usize,
    ) -> Result<(), BackendError> {
        let heads = self.shapes.heads;
        let HeadLayout { kv_heads, head_dim, .. } = heads;
        let activation = self.backend.activation_bytes();
        let layout = KvLayout::Heads { kv_heads, head_dim };
        let (spec, blocks) = self.cache(layout, batch);
        self.reserve(spec.block_bytes() * blocks)?;
        let backend = &mut self.backend;
        let mut kv = backend.kv_cache(&spec, blocks)?;
        let source = Source::new(backend)?;
        let inv_freq = (0..head_dim / 2).map(|i| 1e6f32.powf(-2.0 * i as f32 / head_dim as f32));
        let inv_freq = vector(backend, inv_freq)?;
        let mut write = |backend: &mut B, batch: &Batch, layers: usize| {
            let rows = batch.slots.len();
            let mut qkv = source.activations(backend, batch, heads.qkv_dim())?;
            let mut angles = backend.tensor_f32(rows, head_dim)?;
            backend.rope_angles(&inv_freq, 1.0, &mut angles);
            for layer in 0..layers {
                backend.rope_kv_write(&mut qkv, heads, None, &angles, RopeStyle::Half, &mut kv, layer);
            }
            backend.finish()?;
            Ok::<_, BackendError>(qkv)
        };
        for written in pieces(blocks) {
            write(backend, &writing(written), spec.layers)?;
        }
        let qkv = write(backend, batch, 1)?;
        let mut out = backend.tensor(batch.slots.len(), heads.q_dim())?;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let seconds = timing::seconds(backend, self.shapes.budget, |backend, turn| {
            backend.attention(&qkv, heads, scale, None, &kv, turn % spec.layers, &mut out);
        });
        let bytes = kv_bytes(&spec, batch) + batch.slots.len() * 2 * heads.q_dim() * activation;
        let operations = 4 * heads.q_dim() * positions_seen(batch);
        let measured =
            seconds.map(|seconds| Measured { seconds, bytes: bytes as f64, operations: operations as f64 });
        self.add(job, rows, Some(context), measured);
        Ok(())
    }

    fn latent(&mut self, job: &Job, count: usize, context: usize) -> Result<(), BackendError> {
        let layout = self.shapes.latent;
        let LatentLayout { heads, rank, nope_dim, rope_dim, .. } = layout;
        let entry_dim = layout.entry_dim();
        let batch = sequences(count, 1, context);
        let (spec, blocks) = self.cache(KvLayout::Latent { rank, rope_dim }, &batch);
        self.reserve(spec.block_bytes() * blocks)?;
        let backend = &mut self.backend;
        let mut kv = backend.kv_cache(&spec, blocks)?;
        let source = Source::new(backend)?;
        let inv_freq = (0..rope_dim / 2).map(|i| 1e4f32.powf(-2.0 * i as f32 / rope_dim as f32));
        let inv_freq = vector(backend, inv_freq)?;
        let norm = vector(backend, std::iter::repeat_n(1.0, rank))?;
        let mut write = |backend: &mut B, batch: &Batch, layers: usize| {
            let rows = batch.slots.len();
            let q = source.activations(backend, batch, layout.q_dim())?;
            let latent = source.activations(backend, batch, entry_dim)?;
            let mut angles = backend.tensor_f32(rows, rope_dim)?;
            let mut query = backend.tensor_cached(rows, heads * entry_dim)?;
            let style = RopeStyle::Interleaved;
            backend.rope_angles(&inv_freq, 1.0, &mut angles);
            for layer in 0..layers {
                backend.mla_rope_kv_write(
                    &q, &latent, layout, &norm, 1e-6, &angles, style, &mut kv, layer, &mut query,
                );
            }
            backend.finish()?;
            Ok::<_, BackendError>((q, query))
        };
        for written in pieces(blocks) {
            write(backend, &writing(written), spec.layers)?;
        }
        let (q, mut query) = write(backend, &batch, 1)?;
        let mut each = Vec::with_capacity(heads);
        for _ in 0..heads {
            each.push(backend.matrix(&[weight(Dtype::BF16, rank, nope_dim)])?);
        }
        let to_latent = backend.heads(each)?;
        backend.head_linear(&to_latent, &q, &mut query);
        let mut out = backend.tensor_cached(count, heads * rank)?;
        let seconds = timing::seconds(backend, self.shapes.budget, |backend, turn| {
            backend.mla_attention(&query, layout, 0.1, &kv, turn % spec.layers, &mut out);
        });
        let value = if spec.dtype == KvDtype::F32 { 4 } else { 2 };
        let bytes = kv_bytes(&spec, &batch) + count * heads * (entry_dim + rank) * value;
        let operations = 2 * heads * (entry_dim + rank) * positions_seen(&batch);
        let measured =
            seconds.map(|seconds| Measured { seconds, bytes: bytes as f64, operations: operations as f64 });
        self.add(job, count, Some(context), measured);
        Ok(())
    }

    /// A cache that a step's sequences fill, in as many layers as the ring needs; its blocks.
    fn cache(&self, layout: KvLayout, batch: &Batch) -> (KvSpec, usize) {
        let dtype = self.backend.kv_dtype(false);
        let one = KvSpec { layers: 1, layout, dtype };
        let blocks = batch.block_tables.len();
        let layers = self.shapes.ring_bytes.div_ceil(one.block_bytes() * blocks).max(1);
        (KvSpec { layers, ..one }, blocks)
    }

    /// The products of a layer's experts, each token with its own choice of them.
    fn experts(&mut self, job: &Job, dtype: Dtype) -> Result<(), BackendError> {
        let Experts { experts, top_k, hidden, intermediate, rows: all_rows } = self.shapes.experts;
        let budget = self.shapes.budget;
        let activation = self.backend.activation_bytes();
        let data = weight(dtype, 2 * intermediate, hidden);
        self.reserve(3 * experts * data.data.len())?;
        let mut matrices = Vec::with_capacity(experts);
        for _ in 0..experts {
            matrices.push(self.backend.matrix(std::slice::from_ref(&data))?);
        }
        let expert_bytes = self.backend.matrix_bytes(&matrices[0]);
        let matrices = self.backend.experts(matrices)?;
        let source = Source::new(&self.backend)?;
        let routing =
            Routing { experts, top_k, scoring: Scoring::Softmax, groups: None, normalise: true, scale: 1.0 };
        for &rows in all_rows {
            let measure = |backend: &mut B| {
                let mut choices = Vec::with_capacity(CHOICES);
                let mut active = 0;
                for choice in 0..CHOICES {
                    // Other tokens have other logits.
                    let batch = writing(choice * rows..(choice + 1) * rows);
                    let mut logits = backend.tensor_f32(rows, experts)?;
                    source.fill(backend, &batch, experts, &mut logits)?;
                    active += chosen(backend.read(&logits)?, experts, top_k).len();
                    let mut routes = backend.routes(rows, top_k)?;
                    backend.moe_route(&logits, None, &routing, 0..experts, &mut routes);
                    backend.finish()?;
                    choices.push(routes);
                }
                let x = source.activations(backend, &writing(0..rows), hidden)?;
                let mut dispatched = backend.tensor(rows * top_k, hidden)?;
                let mut out = backend.tensor(rows * top_k, 2 * intermediate)?;
                backend.moe_dispatch(&x, &choices[0], &mut dispatched);
                let seconds = timing::seconds(backend, budget, |backend, turn| {
                    backend.expert_linear(&matrices, &choices[turn % CHOICES], &dispatched, &mut out);
                })?;
                Ok((seconds, active as f64 / CHOICES as f64))
            };
            let pairs = rows * top_k;
            let measured = measure(&mut self.backend).map(|(seconds, active)| Measured {
                seconds,
                bytes: active * expert_bytes as f64
                    + (pairs * (hidden + 2 * intermediate) * activation) as f64,
                operations: (2 * pairs * hidden * 2 * intermediate) as f64,
            });
            self.add(job, rows, None, measured);
        }
        Ok(())
    }
}

/// The slots of all blocks, in pieces that are written at once.
fn pieces(blocks: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let slots = blocks * KV_BLOCK_TOKENS;
    (0..slots).step_by(WRITTEN_ROWS).map(move |start| start..(start + WRITTEN_ROWS).min(slots))
}

/// Bytes of the keys and values that a step's sequences have in one layer.
fn kv_bytes(spec: &KvSpec, batch: &Batch) -> usize {
    let tokens: usize = batch.seqs.iter().map(|seq| seq.context).sum();
    tokens * spec.token_bytes() / spec.layers
}

/// Positions that all rows of a step see, together.
fn positions_seen(batch: &Batch) -> usize {
    batch.positions.iter().map(|&position| position as usize + 1).sum()
}

/// The experts that rows of logits choose.
fn chosen(logits: &[f32], experts: usize, top_k: usize) -> BTreeSet<usize> {
    let of_row = |row: &[f32]| {
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        order.truncate(top_k);
        order
    };
    logits.chunks_exact(experts).flat_map(of_row).collect()
}
