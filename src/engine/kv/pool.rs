//! The pool: reference counts, the cache of sealed blocks, and the order of eviction.

use super::{BlockHash, BlockId};
use std::collections::HashMap;

/// "No block" in the links of the free list.
const NIL: BlockId = BlockId::MAX;

#[derive(Clone, Debug)]
struct Block {
    refs: u32,
    /// Present when the block is sealed and findable.
    hash: Option<BlockHash>,
    /// Neighbours in the free list; meaningful only while `refs == 0`.
    prev: BlockId,
    next: BlockId,
}

/// All KV blocks of an engine. Unreferenced blocks form a list from the next to be handed out to
/// the last: blocks without content first, then sealed ones from the least recently used on.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    sealed: HashMap<BlockHash, BlockId>,
    head: BlockId,
    tail: BlockId,
    free: usize,
}

impl BlockPool {
    /// A pool of `blocks` blocks without content.
    pub fn new(blocks: usize) -> Self {
        assert!(
            blocks > 0 && blocks < NIL as usize,
            "a pool has between 1 and 2^32 - 2 blocks, got {blocks}"
        );
        let empty = Block { refs: 0, hash: None, prev: NIL, next: NIL };
        let mut pool =
            Self { blocks: vec![empty; blocks], sealed: HashMap::new(), head: NIL, tail: NIL, free: 0 };
        for id in 0..blocks as BlockId {
            pool.push_free(id);
        }
        pool
    }

    /// Blocks there are.
    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that nobody references, sealed ones included: what can be allocated.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Blocks referenced by a table.
    pub fn used(&self) -> usize {
        self.total() - self.free
    }

    /// A block to write to, owned by the caller alone; its old content is forgotten.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let id = self.head;
        if id == NIL {
            return None;
        }
        self.unlink(id);
        let block = &mut self.blocks[id as usize];
        assert_eq!(block.refs, 0, "block {id} on the free list is referenced");
        block.refs = 1;
        if let Some(hash) = block.hash.take() {
            self.sealed.remove(&hash);
        }
        Some(id)
    }

    /// The block with this content, one more reference taken.
    pub fn acquire(&mut self, hash: &BlockHash) -> Option<BlockId> {
        let id = *self.sealed.get(hash)?;
        if self.blocks[id as usize].refs == 0 {
            self.unlink(id);
        }
        self.blocks[id as usize].refs += 1;
        Some(id)
    }

    /// Gives one reference back.
    pub fn release(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        assert!(block.refs > 0, "block {id} was released twice");
        block.refs -= 1;
        if block.refs == 0 {
            self.push_free(id);
        }
    }

    /// Makes a referenced, full, computed block findable by its content. When another block has
    /// that content already, this one stays private to its owner.
    pub fn seal(&mut self, id: BlockId, hash: BlockHash) {
        let block = &mut self.blocks[id as usize];
        assert!(block.refs > 0, "block {id} is sealed by nobody");
        assert!(block.hash.is_none_or(|old| old == hash), "sealed block {id} was written to");
        if block.hash.is_none() && !self.sealed.contains_key(&hash) {
            block.hash = Some(hash);
            self.sealed.insert(hash, id);
        }
    }

    /// Makes a referenced block impossible to find by its content.
    pub fn forget(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        assert!(block.refs > 0, "block {id} is forgotten by nobody");
        if let Some(hash) = block.hash.take() {
            self.sealed.remove(&hash);
        }
    }

    /// References to a block.
    pub fn refs(&self, id: BlockId) -> u32 {
        self.blocks[id as usize].refs
    }

    /// Contents are worth keeping, so a sealed block joins at the end, an unsealed one at the front.
    fn push_free(&mut self, id: BlockId) {
        let back = self.blocks[id as usize].hash.is_some();
        let (prev, next) = if back { (self.tail, NIL) } else { (NIL, self.head) };
        self.blocks[id as usize].prev = prev;
        self.blocks[id as usize].next = next;
        self.link(prev, next, id, id);
        self.free += 1;
    }

    fn unlink(&mut self, id: BlockId) {
        let Block { prev, next, .. } = self.blocks[id as usize];
        self.link(prev, next, next, prev);
        self.free -= 1;
    }

    /// Sets what follows `prev` and what precedes `next`; the ends of the list stand in for NIL.
    fn link(&mut self, prev: BlockId, next: BlockId, after_prev: BlockId, before_next: BlockId) {
        match prev {
            NIL => self.head = after_prev,
            prev => self.blocks[prev as usize].next = after_prev,
        }
        match next {
            NIL => self.tail = before_next,
            next => self.blocks[next as usize].prev = before_next,
        }
    }
}
