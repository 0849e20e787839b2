//! From staging into the cache: a file gets its final names only after it was verified.

use super::select::RepoFile;
use crate::checkpoint::CheckpointError;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Size and hash against what the hub says; a file that does not match is deleted.
pub(super) fn verify(staged: &Path, file: &RepoFile) -> Result<(), CheckpointError> {
    let io = |error| CheckpointError::io(staged, error);
    let length = std::fs::metadata(staged).map_err(io)?.len();
    let mismatch = match (file.size, &file.sha256) {
        (Some(size), _) if size != length => Some(format!("has {length} bytes, the hub says {size}")),
        (_, Some(expected)) => {
            let actual = sha256(staged).map_err(io)?;
            (actual != *expected).then(|| format!("has sha256 {actual}, the hub says {expected}"))
        }
        _ => None,
    };
    match mismatch {
        None => Ok(()),
        Some(reason) => {
            std::fs::remove_file(staged).map_err(io)?;
            Err(CheckpointError::Hub(format!("{}: {reason}; the download was deleted", file.name)))
        }
    }
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Moves a verified file under its final names, durably: blob first, then the link to it.
pub(super) fn place(staged: &Path, blob: &Path, link: &Path) -> std::io::Result<()> {
    File::open(staged)?.sync_all()?;
    let parents = [blob.parent(), link.parent()];
    parents.into_iter().flatten().try_for_each(std::fs::create_dir_all)?;
    std::fs::rename(staged, blob)?;
    // blobs and snapshots are neighbours; a link's depth below snapshots varies.
    let directory = blob.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let depth = link.strip_prefix(directory).map_or(0, |inside| inside.components().count());
    let mut target: PathBuf = std::iter::repeat_n("..", depth.saturating_sub(1)).collect();
    target.push("blobs");
    target.push(blob.file_name().unwrap_or_default());
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(link)?;
    }
    std::os::unix::fs::symlink(target, link)
}
