//! Paged KV memory as bookkeeping: which block holds which positions of which sequence. The
//! bytes themselves belong to the backend; here a block is an index.
//!
//! Every sequence has a [`BlockTable`]; blocks come from one [`BlockPool`]. A block that is full
//! and computed is *sealed* with a [`BlockHash`] over all the tokens up to its end, and any
//! sequence that begins with the same tokens (and salt) may share it. A block nobody references
//! keeps its content until it is needed: least recently used first.
//!
//! Invariants: a block is free or referenced, never both; a sealed block is never written again;
//! a hash names at most one block.
//!
//! Deliberately absent: copy-on-write. Only full blocks are shared, so whoever writes a block
//! owns it alone; a shared prefix's unfinished last block is recomputed.

mod hash;
mod pool;
mod table;

pub use hash::BlockHash;
pub use pool::BlockPool;
pub use table::BlockTable;

/// Tokens per block. Equal to the backends' own constant, which executors check.
pub const BLOCK_TOKENS: usize = 16;

/// An index into the backend's KV cache.
pub type BlockId = u32;

/// Blocks that hold `tokens` positions.
pub fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

#[cfg(test)]
mod tests;
