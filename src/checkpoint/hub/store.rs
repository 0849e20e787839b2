//! From staging into the cache: a file gets its final names only after it was verified.

use super::select::RepoFile;
use crate::checkpoint::CheckpointError;
use crate::files;
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

/// In hexadecimal digits.
pub(super) fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = files::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Likewise.
pub(super) fn sha256_of_text(text: &str) -> String {
    format!("{:x}", Sha256::digest(text))
}

/// Moves a verified file under its final names, durably: blob first, then the link to it.
pub(super) fn place(staged: &Path, blob: &Path, name: &Path) -> std::io::Result<()> {
    File::open(staged)?.sync_all()?;
    blob.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::rename(staged, blob)?;
    link(blob, name)
}

/// Gives a blob its name in a snapshot.
pub(super) fn link(blob: &Path, name: &Path) -> std::io::Result<()> {
    name.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    // blobs and snapshots are neighbours; a name's depth below snapshots varies.
    let directory = blob.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let depth = name.strip_prefix(directory).map_or(0, |inside| inside.components().count());
    let mut target: PathBuf = std::iter::repeat_n("..", depth.saturating_sub(1)).collect();
    target.push("blobs");
    target.push(blob.file_name().unwrap_or_default());
    if name.symlink_metadata().is_ok() {
        std::fs::remove_file(name)?;
    }
    std::os::unix::fs::symlink(target, name)
}
