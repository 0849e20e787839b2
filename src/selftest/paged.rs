//! Sequences in a paged KV cache: where their blocks are, and the steps that fill and read them.

use super::side::Rng;
use crate::backend::{Batch, KV_BLOCK_TOKENS, SeqSpan};

/// A sequence in a step.
#[derive(Clone, Copy, Debug)]
pub struct Seq {
    /// Its length, with the step's rows.
    pub context: usize,
    /// The step's.
    pub rows: usize,
}

/// Their blocks, in random order, with some that are nobody's between them.
pub struct Paged {
    /// Blocks of the cache.
    pub blocks: usize,
    seqs: Vec<SeqSpan>,
    tables: Vec<u32>,
}

impl Paged {
    /// For sequences whose rows come one after the other.
    pub fn new(rng: &mut Rng, seqs: &[Seq]) -> Self {
        let used: usize = seqs.iter().map(|seq| seq.context.div_ceil(KV_BLOCK_TOKENS)).sum();
        let blocks = used + 2;
        let mut free = rng.order(blocks).into_iter();
        // Tables do not start at the array's start.
        let mut tables = vec![u32::MAX];
        let mut row = 0;
        let spans = seqs.iter().map(|&Seq { context, rows }| {
            let span = SeqSpan { row, rows, context, table: tables.len() };
            tables.extend(free.by_ref().take(context.div_ceil(KV_BLOCK_TOKENS)));
            row += rows;
            span
        });
        let seqs = spans.collect();
        Self { blocks, seqs, tables }
    }

    /// A step that writes every slot of the sequences' blocks, those past a sequence's end too, as
    /// a sequence that had the block before would have.
    pub fn fill(&self) -> Batch {
        let slots = self.tables[1..].iter().flat_map(|block| {
            let first = block * KV_BLOCK_TOKENS as u32;
            first..first + KV_BLOCK_TOKENS as u32
        });
        let slots: Vec<u32> = slots.collect();
        let mut positions = Vec::new();
        for seq in &self.seqs {
            positions.extend(0..(seq.context.div_ceil(KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS) as u32);
        }
        Batch { tokens: vec![0; slots.len()], positions, slots, ..Batch::default() }
    }

    /// Of each of that step's rows, whether a sequence's earlier token wrote it.
    pub fn filled(&self) -> Vec<bool> {
        let seqs = self.seqs.iter().flat_map(|seq| {
            let positions = seq.context.div_ceil(KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS;
            (0..positions).map(|position| position < seq.context - seq.rows)
        });
        seqs.collect()
    }

    /// Every block with a copy past all of them, and the sequences over the copies.
    pub fn moved(&self) -> (Vec<(u32, u32)>, Self) {
        let blocks = self.blocks as u32;
        let pairs = (0..blocks).map(|block| (block, block + blocks)).collect();
        let tables = self.tables.iter().map(|block| block.saturating_add(blocks)).collect();
        (pairs, Self { blocks: self.blocks, seqs: self.seqs.clone(), tables })
    }

    /// The step itself.
    pub fn step(&self) -> Batch {
        let mut batch =
            Batch { seqs: self.seqs.clone(), block_tables: self.tables.clone(), ..Batch::default() };
        for seq in &self.seqs {
            for position in seq.context - seq.rows..seq.context {
                let block = self.tables[seq.table + position / KV_BLOCK_TOKENS] as usize;
                batch.positions.push(position as u32);
                batch.slots.push((block * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS) as u32);
            }
        }
        batch.tokens = vec![0; batch.slots.len()];
        batch
    }
}
