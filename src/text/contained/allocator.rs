//! The program's allocator, which in a text process counts the bytes that a template takes.
//!
//! An instruction of a template that copies megabytes counts as one instruction. Templates of DeepSeek V3 and
//! R1 join system messages one by one, each time into a new text of all of them so far: seven megabytes in
//! many messages become hundreds of gigabytes of copies, within the bound on memory, since each copy is freed
//! when the next one is made. What is copied is allocated before, so the bytes of all allocations together
//! bound the work.

use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// The last words of a process that has used its bytes up.
pub(super) const USED_UP: &str = "a template has used up the bytes that it may take";
const UNCOUNTED: u64 = u64::MAX;

/// What may still be taken; [`UNCOUNTED`] outside of [`Allowance`].
static LEFT: AtomicU64 = AtomicU64::new(UNCOUNTED);

/// While it lives, so many bytes may be taken in all, given back or not; whoever takes more ends the process.
pub(super) struct Allowance;

impl Allowance {
    pub(super) fn of(bytes: u64) -> Self {
        LEFT.store(bytes, Ordering::Relaxed);
        Self
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        LEFT.store(UNCOUNTED, Ordering::Relaxed);
    }
}

/// mimalloc, counted while there is an [`Allowance`].
pub struct CountingAllocator;

impl CountingAllocator {
    fn count(bytes: usize) {
        let left = LEFT.load(Ordering::Relaxed);
        if left == UNCOUNTED {
            return;
        }
        match left.checked_sub(bytes as u64) {
            // Two threads that meet here count as one: it is a bound on work, not an account.
            Some(left) => LEFT.store(left, Ordering::Relaxed),
            None => {
                LEFT.store(UNCOUNTED, Ordering::Relaxed);
                // Allocates nothing.
                let _ = std::io::stderr().write_all(USED_UP.as_bytes());
                std::process::abort();
            }
        }
    }
}

// SAFETY: all of it is mimalloc's; counting touches no memory that is handed out.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: the caller's promises are the same.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: the caller's promises are the same.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the same.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count(size);
        // SAFETY: the caller's promises are the same.
        unsafe { MiMalloc.realloc(pointer, layout, size) }
    }
}
