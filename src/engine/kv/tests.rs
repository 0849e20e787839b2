//! The pool against a model that is too simple to be wrong: a vector of free blocks in order.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn hash(n: u32) -> BlockHash {
    BlockHash::root(7, u64::from(n))
}

#[derive(Clone, Debug)]
enum Op {
    Allocate,
    /// Release the n-th held reference.
    Release(usize),
    /// Seal the n-th held reference with content m.
    Seal(usize, u32),
    Acquire(u32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => Just(Op::Allocate),
        4 => any::<usize>().prop_map(Op::Release),
        3 => (any::<usize>(), 0..12u32).prop_map(|(n, m)| Op::Seal(n, m)),
        3 => (0..12u32).prop_map(Op::Acquire),
    ];
    proptest::collection::vec(op, 0..200)
}

#[derive(Default)]
struct Model {
    /// Next to be handed out first.
    free: Vec<BlockId>,
    /// One entry per reference.
    held: Vec<BlockId>,
    content: HashMap<BlockId, u32>,
}

impl Model {
    fn find(&self, content: u32) -> Option<BlockId> {
        self.content.iter().find(|(_, c)| **c == content).map(|(id, _)| *id)
    }
}

proptest! {
    #[test]
    fn pool_equals_the_model(blocks in 1usize..9, ops in ops()) {
        let mut pool = BlockPool::new(blocks);
        // Empty blocks join at the front, so the last one made is the first handed out.
        let mut model = Model { free: (0..blocks as u32).rev().collect(), ..Model::default() };
        for op in ops {
            match op {
                Op::Allocate => {
                    let expected = (!model.free.is_empty()).then(|| model.free.remove(0));
                    let got = pool.allocate();
                    prop_assert_eq!(got, expected);
                    if let Some(id) = got {
                        prop_assert!(!model.held.contains(&id), "handed out a referenced block");
                        model.content.remove(&id);
                        model.held.push(id);
                    }
                }
                Op::Release(n) if !model.held.is_empty() => {
                    let id = model.held.remove(n % model.held.len());
                    pool.release(id);
                    if !model.held.contains(&id) {
                        let at = if model.content.contains_key(&id) { model.free.len() } else { 0 };
                        model.free.insert(at, id);
                    }
                }
                Op::Seal(n, content) if !model.held.is_empty() => {
                    let id = model.held[n % model.held.len()];
                    // A block's content never changes while it is sealed.
                    let content = model.content.get(&id).copied().unwrap_or(content);
                    pool.seal(id, hash(content));
                    if model.find(content).is_none() {
                        model.content.insert(id, content);
                    }
                }
                Op::Acquire(content) => {
                    let expected = model.find(content);
                    prop_assert_eq!(pool.acquire(&hash(content)), expected);
                    if let Some(id) = expected {
                        model.free.retain(|f| *f != id);
                        model.held.push(id);
                    }
                }
                Op::Release(_) | Op::Seal(..) => {}
            }
            prop_assert_eq!(pool.free(), model.free.len());
            prop_assert_eq!(pool.used() + pool.free(), blocks);
            for id in 0..blocks as u32 {
                prop_assert_eq!(pool.refs(id) as usize, model.held.iter().filter(|h| **h == id).count());
            }
        }
        for id in model.held.drain(..) {
            pool.release(id);
        }
        prop_assert_eq!(pool.free(), blocks, "leak");
    }

    #[test]
    fn a_prefix_hit_is_the_longest_common_run_of_full_blocks(
        a in proptest::collection::vec(0u32..2, 1..100),
        b in proptest::collection::vec(0u32..2, 1..100),
        shared in 0usize..100,
    ) {
        let b: Vec<u32> = a.iter().take(shared).chain(&b).copied().collect();
        let mut pool = BlockPool::new(32);
        let root = BlockHash::root(1, 2);
        let mut first = BlockTable::new(root);
        prop_assert!(first.grow(&mut pool, a.len()));
        first.seal(&mut pool, &a, a.len());

        let common = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
        let mut second = BlockTable::new(root);
        let hit = second.attach_prefix(&mut pool, &b);
        prop_assert_eq!(hit, common.min(b.len() - 1) / BLOCK_TOKENS * BLOCK_TOKENS);
        prop_assert_eq!(second.covering(hit), first.covering(hit));
        prop_assert_eq!(pool.used(), blocks_for(a.len()), "a hit takes no new block");

        let mut stranger = BlockTable::new(BlockHash::root(1, 3));
        prop_assert_eq!(stranger.attach_prefix(&mut pool, &a), 0, "another namespace");
        first.release(&mut pool);
        second.release(&mut pool);
        prop_assert_eq!(pool.free(), 32);
    }
}

#[test]
fn the_end_of_a_chain_is_evicted_before_its_beginning() {
    let tokens: Vec<u32> = (0..64).collect();
    let mut pool = BlockPool::new(4);
    let mut table = BlockTable::new(BlockHash::root(0, 0));
    assert!(table.grow(&mut pool, 64));
    table.seal(&mut pool, &tokens, 64);
    table.release(&mut pool);
    pool.allocate().unwrap();
    assert_eq!(table.attach_prefix(&mut pool, &tokens), 48);
}

#[test]
fn growth_takes_all_or_nothing() {
    let mut pool = BlockPool::new(3);
    let mut table = BlockTable::new(BlockHash::root(0, 0));
    assert!(!table.grow(&mut pool, 49));
    assert_eq!(pool.free(), 3);
    assert!(table.grow(&mut pool, 48));
    assert_eq!(pool.free(), 0);
}

#[test]
#[should_panic(expected = "released twice")]
fn a_double_release_is_caught() {
    let mut pool = BlockPool::new(2);
    let id = pool.allocate().unwrap();
    pool.release(id);
    pool.release(id);
}
