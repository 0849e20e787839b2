//! Memory of the CPU backend: cache-line aligned buffers that fail with an error instead of an
//! abort, activations over them, small vectors, and the one way to let several threads write
//! disjoint parts of a slice.

use crate::backend::BackendError;
use crate::checkpoint::{Dtype, TensorData};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ptr::NonNull;

const LINE: usize = 64;

/// Zeroed memory, aligned to a cache line. Pages count as resident only once they are touched.
pub struct Buffer {
    allocation: NonNull<u8>,
    layout: Layout,
    /// Of the first aligned byte.
    offset: usize,
    bytes: usize,
}

// SAFETY: a buffer owns its memory and gives it out by the rules of references.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

/// A plain number: every bit pattern is a value.
pub trait Plain: Copy + Send + Sync + 'static {}
impl Plain for u8 {}
impl Plain for f32 {}
impl Plain for u16 {}

impl Buffer {
    /// `bytes` zeroed bytes (and the line that holds the last of them to its end); `what` is for
    /// the error message.
    pub fn new(bytes: usize, what: impl FnOnce() -> String) -> Result<Self, BackendError> {
        // An allocator's ordinary alignment with room to move up: asked for more alignment, the
        // system's would clear the pages by hand and so touch them all.
        let layout = bytes.checked_add(2 * LINE).and_then(|b| Layout::from_size_align(b, 16).ok());
        // SAFETY: the layout's size is not zero.
        let allocation = layout.and_then(|layout| NonNull::new(unsafe { alloc_zeroed(layout) }));
        let (Some(layout), Some(allocation)) = (layout, allocation) else {
            return Err(BackendError::OutOfMemory { what: what(), wanted_bytes: bytes });
        };
        let offset = allocation.as_ptr().align_offset(LINE);
        Ok(Self { allocation, layout, offset, bytes: bytes.next_multiple_of(LINE) })
    }

    /// The memory as numbers.
    pub fn as_slice<T: Plain>(&self) -> &[T] {
        // SAFETY: `offset <= LINE - 1` and `bytes <= layout.size() - LINE` lie in the allocation,
        // which is aligned there for every `Plain` type and initialised with zeros.
        unsafe {
            std::slice::from_raw_parts(
                self.allocation.as_ptr().add(self.offset).cast(),
                self.bytes / size_of::<T>(),
            )
        }
    }

    /// The memory as numbers.
    pub fn as_mut_slice<T: Plain>(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and the borrow is exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.allocation.as_ptr().add(self.offset).cast(),
                self.bytes / size_of::<T>(),
            )
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

/// Activations: `[rows <= max_rows, columns]` f32.
pub struct Tensor {
    data: Buffer,
    rows: usize,
    max_rows: usize,
    columns: usize,
}

impl Tensor {
    /// A zeroed tensor with no current rows.
    pub fn new(max_rows: usize, columns: usize) -> Result<Self, BackendError> {
        let bytes = max_rows.saturating_mul(columns).saturating_mul(size_of::<f32>());
        let data = Buffer::new(bytes, || format!("activations of {max_rows} x {columns}"))?;
        Ok(Self { data, rows: 0, max_rows, columns })
    }

    /// Current rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values per row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The current rows' values.
    pub fn values(&self) -> &[f32] {
        &self.data.as_slice()[..self.rows * self.columns]
    }

    /// The current rows' values.
    pub fn values_mut(&mut self) -> &mut [f32] {
        let n = self.rows * self.columns;
        &mut self.data.as_mut_slice()[..n]
    }

    /// Makes it `rows x columns` and gives the values (old ones, to be overwritten). Panics when
    /// it was not allocated for that shape: a model's mistake.
    pub fn set_rows(&mut self, rows: usize, columns: usize) -> &mut [f32] {
        assert_eq!(columns, self.columns, "columns of an output tensor");
        assert!(rows <= self.max_rows, "{rows} rows in a tensor of at most {}", self.max_rows);
        self.rows = rows;
        self.values_mut()
    }
}

/// A small f32 vector.
pub struct Vector(Vec<f32>);

impl Vector {
    /// The parts' values, one part after the other.
    pub fn load(parts: &[TensorData<'_>]) -> Result<Self, BackendError> {
        let mut values = Vec::new();
        for part in parts {
            let data = &part.data;
            let bits = data.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
            match part.dtype {
                Dtype::F32 => values.extend(data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
                Dtype::F16 => values.extend(bits.map(|b| half::f16::from_bits(b).to_f32())),
                Dtype::BF16 => values.extend(bits.map(|b| half::bf16::from_bits(b).to_f32())),
                other => {
                    return Err(BackendError::Unsupported(format!(
                        "{}: a vector of type {other:?}; F32, F16 and BF16 are supported",
                        part.name
                    )));
                }
            }
        }
        Ok(Self(values))
    }

    /// Its values.
    pub fn values(&self) -> &[f32] {
        &self.0
    }
}

/// A slice whose disjoint parts several threads write at the same time.
pub struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: access is only through `part`, whose callers promise disjoint parts.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Takes the slice for its lifetime.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Values in the whole slice.
    pub fn total(&self) -> usize {
        self.len
    }

    /// `len` values from `start`; panics when they are not in the slice.
    ///
    /// # Safety
    /// No two parts that are alive at the same time overlap.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part within the slice");
        // SAFETY: within the slice, checked above; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
