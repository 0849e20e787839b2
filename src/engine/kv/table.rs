//! A sequence's block table.

use super::{BLOCK_TOKENS, BlockHash, BlockId, BlockPool, blocks_for};
use crate::protocol::TokenId;

/// Which block holds which positions of one sequence: entry i holds positions
/// `i * BLOCK_TOKENS ..`. The hash chain outlives [`BlockTable::release`], since a sequence's
/// tokens only grow: a preempted sequence need not hash them again.
#[derive(Debug)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
    /// Blocks at the front that are computed and sealed (or a twin of a sealed one).
    sealed: usize,
    /// `chain[0]` is the root, `chain[i + 1]` names block i; computed on demand.
    chain: Vec<BlockHash>,
}

impl BlockTable {
    /// An empty table of a sequence in the namespace `root`.
    pub fn new(root: BlockHash) -> Self {
        Self { blocks: Vec::new(), sealed: 0, chain: vec![root] }
    }

    /// Blocks over positions `0 .. tokens`, which the table must cover.
    pub fn covering(&self, tokens: usize) -> &[BlockId] {
        &self.blocks[..blocks_for(tokens)]
    }

    /// Blocks that are missing to cover `tokens` positions.
    pub fn missing(&self, tokens: usize) -> usize {
        blocks_for(tokens).saturating_sub(self.blocks.len())
    }

    /// Fills an empty table with cached blocks that hold a prefix of `tokens`; returns the tokens
    /// covered. At least one token is left over: somebody must compute its logits.
    pub fn attach_prefix(&mut self, pool: &mut BlockPool, tokens: &[TokenId]) -> usize {
        assert!(self.blocks.is_empty(), "a prefix is attached to an empty table");
        for index in 0..tokens.len().saturating_sub(1) / BLOCK_TOKENS {
            let Some(block) = pool.acquire(&self.hash(index, tokens)) else { break };
            self.blocks.push(block);
        }
        self.sealed = self.blocks.len();
        let covered = self.sealed * BLOCK_TOKENS;
        assert!(covered < tokens.len(), "a prefix hit left nothing to compute");
        covered
    }

    /// Extends the table to cover `tokens` positions; takes all it needs or nothing.
    #[must_use]
    pub fn grow(&mut self, pool: &mut BlockPool, tokens: usize) -> bool {
        let missing = self.missing(tokens);
        if missing > pool.free() {
            return false;
        }
        self.blocks.extend((0..missing).map_while(|_| pool.allocate()));
        true
    }

    /// Seals every full block within the first `computed` of `tokens`.
    pub fn seal(&mut self, pool: &mut BlockPool, tokens: &[TokenId], computed: usize) {
        for index in self.sealed..computed / BLOCK_TOKENS {
            let hash = self.hash(index, tokens);
            pool.seal(self.blocks[index], hash);
            self.sealed = index + 1;
        }
    }

    /// Takes the content of all blocks out of the cache: it is not to be trusted.
    pub fn forget(&mut self, pool: &mut BlockPool) {
        self.blocks.iter().for_each(|block| pool.forget(*block));
    }

    /// Gives all blocks back, the last first: a chain is of no use without its beginning, so its
    /// end should be evicted earlier.
    pub fn release(&mut self, pool: &mut BlockPool) {
        for block in self.blocks.drain(..).rev() {
            pool.release(block);
        }
        self.sealed = 0;
    }

    fn hash(&mut self, index: usize, tokens: &[TokenId]) -> BlockHash {
        while self.chain.len() <= index + 1 {
            let i = self.chain.len() - 1;
            let next = self.chain[i].child(&tokens[i * BLOCK_TOKENS..(i + 1) * BLOCK_TOKENS]);
            self.chain.push(next);
        }
        self.chain[index + 1]
    }
}
