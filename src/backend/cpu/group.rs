//! Ranks of a tensor-parallel group on one machine: each is a thread with its own weights and
//! cache, and they meet in collectives over shared memory.
//!
//! Invariants: sums run in the order of ranks, so that all ranks get the same bits and every run
//! the same ones; a rank that dies wakes the others, which then panic instead of waiting for
//! ever. Ranks wait asleep and not spinning, as there may be more of them than cores.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

/// What the ranks share.
struct Group {
    /// What each rank brings to the collective under way.
    slots: Vec<RwLock<Vec<f32>>>,
    gate: Mutex<Gate>,
    opened: Condvar,
}

/// A barrier that can break.
#[derive(Default)]
struct Gate {
    waiting: usize,
    generation: u64,
    broken: bool,
}

/// One rank of a group. A group of one does nothing.
pub struct Member {
    group: Arc<Group>,
    rank: usize,
}

impl Member {
    /// The only rank.
    pub fn alone() -> Self {
        Self::group(1).pop().expect("one member")
    }

    /// The ranks of a new group, in order.
    pub fn group(ranks: usize) -> Vec<Self> {
        let group = Arc::new(Group {
            slots: (0..ranks).map(|_| RwLock::default()).collect(),
            gate: Mutex::default(),
            opened: Condvar::new(),
        });
        (0..ranks).map(|rank| Self { group: group.clone(), rank }).collect()
    }

    /// (this rank, number of ranks).
    pub fn rank(&self) -> (usize, usize) {
        (self.rank, self.group.slots.len())
    }

    /// x = the sum of all ranks' x. Lengths are equal.
    pub fn all_reduce(&mut self, x: &mut [f32]) {
        if self.group.slots.len() == 1 {
            return;
        }
        self.bring(x);
        for rank in 0..self.group.slots.len() {
            let theirs = self.read(rank);
            assert_eq!(theirs.len(), x.len(), "values of an all_reduce");
            match rank {
                0 => x.copy_from_slice(&theirs),
                _ => x.iter_mut().zip(theirs.iter()).for_each(|(x, theirs)| *x += theirs),
            }
        }
        self.wait();
    }

    /// Rows of `out` = rows of all ranks' x side by side; ranks' numbers of columns may differ.
    pub fn all_gather(&mut self, x: &[f32], columns: usize, out: &mut [f32], out_columns: usize) {
        let rows = x.len() / columns;
        assert_eq!(out.len(), rows * out_columns, "values of an all_gather");
        self.bring(x);
        let mut at = 0;
        for rank in 0..self.group.slots.len() {
            let theirs = self.read(rank);
            let width = theirs.len().checked_div(rows).unwrap_or(0);
            for row in 0..rows {
                out[row * out_columns + at..][..width].copy_from_slice(&theirs[row * width..][..width]);
            }
            at += width;
        }
        assert!(rows == 0 || at == out_columns, "{at} columns gathered for {out_columns}");
        self.wait();
    }

    /// Shows `x` to the others, and waits until all have shown theirs. Nobody shows the next
    /// before everybody has read: each collective ends in [`Member::wait`].
    fn bring(&self, x: &[f32]) {
        let mut mine = self.group.slots[self.rank].write().unwrap_or_else(PoisonError::into_inner);
        mine.clear();
        mine.extend_from_slice(x);
        drop(mine);
        self.wait();
    }

    fn read(&self, rank: usize) -> RwLockReadGuard<'_, Vec<f32>> {
        self.group.slots[rank].read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until all ranks are here. Panics when one has died.
    fn wait(&self) {
        let mut gate = self.gate();
        let generation = gate.generation;
        gate.waiting += 1;
        if gate.waiting == self.group.slots.len() {
            gate.waiting = 0;
            gate.generation += 1;
            self.group.opened.notify_all();
        }
        while gate.generation == generation && !gate.broken {
            gate = self.group.opened.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        // A rank that has left after the last collective breaks the gate for the next one only.
        let broken = gate.broken && gate.generation == generation;
        drop(gate);
        assert!(!broken, "another rank of the group has failed");
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.group.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Member {
    /// A rank that is gone will not come to the next collective.
    fn drop(&mut self) {
        self.gate().broken = true;
        self.group.opened.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `job` on each of `ranks` ranks at the same time.
    fn on_ranks<T: Send>(
        ranks: usize,
        job: impl Fn(usize, Member) -> T + Sync,
    ) -> Vec<std::thread::Result<T>> {
        std::thread::scope(|scope| {
            let job = &job;
            let spawn = |(rank, member)| scope.spawn(move || job(rank, member));
            let threads: Vec<_> = Member::group(ranks).into_iter().enumerate().map(spawn).collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        })
    }

    #[test]
    fn sums_and_columns_of_all_ranks() {
        for ranks in [1, 2, 3, 8] {
            let results = on_ranks(ranks, |rank, mut member| {
                let mut gathered = Vec::new();
                let mut sum = Vec::new();
                for round in 0..50 {
                    sum = vec![(rank + round) as f32; 5];
                    member.all_reduce(&mut sum);
                    // Two rows; rank r brings r + 1 columns.
                    let mine: Vec<f32> =
                        (0..2 * (rank + 1)).map(|i| (100 * rank + i + round) as f32).collect();
                    let columns = ranks * (ranks + 1) / 2;
                    gathered = vec![0.0; 2 * columns];
                    member.all_gather(&mine, rank + 1, &mut gathered, columns);
                }
                (sum, gathered)
            });
            let expected: f32 = (0..ranks).map(|rank| (rank + 49) as f32).sum();
            let row = |second: bool| {
                (0..ranks).flat_map(move |rank| {
                    let skip = if second { rank + 1 } else { 0 };
                    (0..rank + 1).map(move |i| (100 * rank + i + skip + 49) as f32)
                })
            };
            let columns: Vec<f32> = row(false).chain(row(true)).collect();
            for result in results {
                let (sum, gathered) = result.expect("no panic");
                assert_eq!(sum, [expected; 5]);
                assert_eq!(gathered, columns);
            }
        }
    }

    #[test]
    fn a_rank_that_dies_takes_the_others_with_it() {
        let results = on_ranks(3, |rank, mut member| {
            member.all_reduce(&mut [1.0]);
            if rank == 1 {
                return;
            }
            member.all_reduce(&mut [1.0]);
        });
        assert!(results[1].is_ok());
        assert!(results[0].is_err() && results[2].is_err(), "the others stop waiting");
    }
}
