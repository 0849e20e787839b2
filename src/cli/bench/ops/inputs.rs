//! Values for operations to work on, made on the device by operations themselves: a backend takes
//! no activations from the host. Weights are pseudo-random and valid in their format.

use half::{bf16, f16};
use novastack::backend::ceiling::Ceiling;
use novastack::backend::{Backend, BackendError, Batch, KV_BLOCK_TOKENS, SeqSpan};
use novastack::checkpoint::{Dtype, TensorData};

/// Columns of the embedding that activations are made from.
const SEED_COLUMNS: usize = 64;
const SEED_TOKENS: usize = 256;

/// A Weyl sequence, mixed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z >> 32) as u32
    }

    /// In [-1, 1).
    fn unit(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// A weight `[rows, columns]` in a format: so many pseudo-random rows, repeated. Values that are not
/// quantised are up to `size`.
fn weight_of(dtype: Dtype, rows: usize, columns: usize, distinct: usize, size: f32) -> TensorData<'static> {
    let mut random = Random::new(rows as u64);
    let distinct = distinct.min(rows);
    let mut some: Vec<u8> = match dtype {
        Dtype::BF16 => {
            (0..distinct * columns).flat_map(|_| bf16::from_f32(random.unit() * size).to_le_bytes()).collect()
        }
        Dtype::F32 => (0..distinct * columns).flat_map(|_| (random.unit() * size).to_le_bytes()).collect(),
        _ => {
            let bytes = dtype.bytes(columns).expect("shapes are whole blocks") * distinct;
            (0..bytes).map(|_| random.next() as u8).collect()
        }
    };
    // Where a block's f16 scales are.
    let scales: &[usize] = match dtype {
        Dtype::Q8_0 | Dtype::IQ4NL | Dtype::IQ4XS => &[0],
        Dtype::Q4_1 | Dtype::Q4K => &[0, 2],
        Dtype::Q6K => &[208],
        _ => &[],
    };
    for block in some.chunks_exact_mut(dtype.block().1) {
        for &at in scales {
            block[at..at + 2].copy_from_slice(&f16::from_f32(0.01).to_le_bytes());
        }
        if dtype == Dtype::MXFP4 {
            // 2^-7.
            block[0] = 120;
        }
        if dtype == Dtype::F8Block {
            // Less than a half exponent, so that no code is NaN.
            block.iter_mut().for_each(|code| *code &= 0xbf);
            block[..4].copy_from_slice(&0.01f32.to_le_bytes());
        }
    }
    let mut data = some.repeat(rows / distinct);
    let rest = rows % distinct * (some.len() / distinct);
    data.extend_from_slice(&some[..rest]);
    TensorData { name: "a benchmark's weight".into(), dtype, shape: vec![rows, columns], data: data.into() }
}

/// A weight `[rows, columns]` in a format.
pub fn weight(dtype: Dtype, rows: usize, columns: usize) -> TensorData<'static> {
    weight_of(dtype, rows, columns, 64, (3.0 / columns as f32).sqrt())
}

/// A vector of f32.
pub fn vector<B: Backend>(backend: &B, values: impl Iterator<Item = f32>) -> Result<B::Vector, BackendError> {
    let data: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    let shape = vec![data.len() / 4];
    let name = "a benchmark's vector".into();
    backend.vector(&[TensorData { name, dtype: Dtype::F32, shape, data: data.into() }])
}

/// A step of one sequence: `rows` rows at the end of `context` positions, in blocks from 0 on.
pub fn one_sequence(rows: usize, context: usize) -> Batch {
    sequences(1, rows, context)
}

/// A step of equal sequences whose blocks lie between each other's.
pub fn sequences(count: usize, rows: usize, context: usize) -> Batch {
    let mut batch = Batch::default();
    let mut random = Random::new(7);
    let blocks = context.div_ceil(KV_BLOCK_TOKENS);
    for seq in 0..count {
        let table = batch.block_tables.len();
        batch.seqs.push(SeqSpan { row: seq * rows, rows, context, table });
        batch.block_tables.extend((0..blocks).map(|block| (block * count + seq) as u32));
        for position in context - rows..context {
            let block = batch.block_tables[table + position / KV_BLOCK_TOKENS] as usize;
            batch.tokens.push(random.next() % SEED_TOKENS as u32);
            batch.positions.push(position as u32);
            batch.slots.push((block * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS) as u32);
        }
    }
    batch
}

/// A step that writes `slots`, without sequences.
pub fn writing(slots: std::ops::Range<usize>) -> Batch {
    let mut random = Random::new(slots.start as u64);
    Batch {
        tokens: slots.clone().map(|_| random.next() % SEED_TOKENS as u32).collect(),
        positions: slots.clone().map(|slot| slot as u32).collect(),
        slots: slots.map(|slot| slot as u32).collect(),
        ..Batch::default()
    }
}

/// Makes activations of the step under way: about normal, other ones for other tokens.
pub struct Source<B: Backend> {
    table: B::Matrix,
    ones: B::Vector,
}

impl<B: Ceiling> Source<B> {
    pub fn new(backend: &B) -> Result<Self, BackendError> {
        let table = weight_of(Dtype::BF16, SEED_TOKENS, SEED_COLUMNS, SEED_TOKENS, 1.0);
        let ones = vector(backend, std::iter::repeat_n(1.0, SEED_COLUMNS))?;
        Ok(Self { table: backend.matrix(&[table])?, ones })
    }

    /// Begins the step and fills a tensor of at least its rows.
    pub fn fill(
        &self,
        backend: &mut B,
        batch: &Batch,
        columns: usize,
        out: &mut B::Tensor,
    ) -> Result<(), BackendError> {
        let rows = batch.slots.len();
        let mut residual = backend.tensor_f32(rows, SEED_COLUMNS)?;
        let mut normed = backend.tensor(rows, SEED_COLUMNS)?;
        let size = (3.0 / SEED_COLUMNS as f32).sqrt();
        let weights = weight_of(Dtype::BF16, columns, SEED_COLUMNS, columns, size);
        let weights = backend.matrix(&[weights])?;
        backend.begin(batch);
        backend.embed(&self.table, 0, 1.0, &mut residual);
        backend.add_rms_norm(&mut residual, None, &self.ones, 1e-6, &mut normed);
        backend.linear(&weights, None, &normed, out);
        // Before what it read is freed.
        backend.finish()
    }

    /// Begins the step and makes a tensor of its rows.
    pub fn activations(
        &self,
        backend: &mut B,
        batch: &Batch,
        columns: usize,
    ) -> Result<B::Tensor, BackendError> {
        let mut out = backend.tensor(batch.slots.len(), columns)?;
        self.fill(backend, batch, columns, &mut out)?;
        Ok(out)
    }
}
