//! The thread pool under stress: every task once, panics, parked workers, drop.

use crate::backend::cpu::pool::ThreadPool;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn each_task_runs_once_in_many_tiny_regions() {
    for threads in [1, 2, 3, 8] {
        let mut pool = ThreadPool::new(threads);
        let counts: Vec<AtomicUsize> = (0..17).map(|_| AtomicUsize::new(0)).collect();
        for region in 0..20_000 {
            let tasks = region % 18;
            pool.run(tasks, &|task| {
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            // What tasks wrote is visible after the region, without any ordering of its own.
            for (task, count) in counts.iter().enumerate() {
                assert_eq!(count.swap(0, Ordering::Relaxed), usize::from(task < tasks), "task {task}");
            }
        }
    }
}

#[test]
fn workers_take_part_also_after_they_parked() {
    let mut pool = ThreadPool::new(2);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(2));
        // Two tasks that wait for each other can only end on two threads.
        let arrived = AtomicUsize::new(0);
        pool.run(2, &|_| {
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
        });
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
    let mut pool = ThreadPool::new(4);
    for round in 0..200 {
        // One task panics, or all do: on the caller, on a worker, on both.
        let all = round % 2 == 0;
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, &|task| {
                if all || task == round % 8 {
                    std::panic::resume_unwind(Box::new("on purpose"));
                }
            });
        }));
        assert!(result.is_err(), "round {round}");
        let done = AtomicUsize::new(0);
        pool.run(8, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 8, "round {round}");
    }
}

#[test]
fn drop_ends_workers_that_spin_and_workers_that_are_parked() {
    for millis in [0, 0, 1, 5] {
        for _ in 0..20 {
            let mut pool = ThreadPool::new(3);
            pool.run(3, &|_| {});
            std::thread::sleep(Duration::from_millis(millis));
            drop(pool);
        }
    }
}

#[test]
fn rows_are_cut_into_disjoint_runs_that_cover_them_all() {
    let mut pool = ThreadPool::new(3);
    for rows in [0, 1, 2, 7, 100, 1001] {
        for row_ns in [1, 1_000, 1_000_000] {
            let (mut a, mut b) = (vec![0.0f32; rows * 3], vec![0.0f32; rows]);
            pool.for_rows(rows, row_ns, [&mut a, &mut b], |first, [a, b]| {
                assert_eq!(a.len(), 3 * b.len());
                a.iter_mut().enumerate().for_each(|(i, x)| *x += (3 * first + i) as f32);
                b.iter_mut().enumerate().for_each(|(i, x)| *x += (first + i) as f32);
            });
            assert!(a.iter().enumerate().all(|(i, x)| *x == i as f32), "{rows} rows");
            assert!(b.iter().enumerate().all(|(i, x)| *x == i as f32), "{rows} rows");
        }
    }
}
