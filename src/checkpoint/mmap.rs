//! The one memory map: a whole file, read-only. Deliberately absent: writing, partial maps.

use super::CheckpointError;
use crate::files;
use std::path::{Path, PathBuf};

/// A file mapped into memory. Shared freely between threads: nobody writes to it.
#[derive(Debug)]
pub(super) struct Mapping {
    path: PathBuf,
    map: memmap2::Mmap,
}

impl Mapping {
    /// Maps the whole file. An empty file is an error: no format allows one.
    pub fn open(path: &Path) -> Result<Mapping, CheckpointError> {
        let io = |source| CheckpointError::io(path, source);
        let file = files::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(CheckpointError::invalid(path, "is empty"));
        }
        // SAFETY: the map is private and read-only, and it owns its pages for as long as the
        // returned value lives. What remains is that another process may change or truncate the
        // file underneath it, which no memory map can rule out; checkpoints are written under
        // another name and renamed when complete, and are not to be edited while being served.
        // Only `u8` is read through the map, for which every bit pattern is valid.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        super::recognise::refuse_lfs_pointer(path, &map)?;
        // Loading reads each tensor once from front to back. Advice alone: a refusal is harmless.
        let _ = map.advise(memmap2::Advice::Sequential);
        Ok(Mapping { path: path.to_owned(), map })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Drops the resident pages; a later read faults them in again from the file.
    pub fn release_pages(&self) {
        // SAFETY: `DontNeed` is unsafe for maps whose contents exist only in memory. This one is
        // file-backed and never written, so that dropped pages come back with the same bytes.
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}
