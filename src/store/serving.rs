//! One server at a time on an SQLite file: a lock of the operating system on a small file beside it, which
//! ends with the process that holds it, killed or not.

use super::error::StoreError;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Takes the lock: shared with other servers that count together, else for this one alone.
pub fn hold(path: &Path, shares_limits: bool) -> Result<File, StoreError> {
    let lock = lock_path(path);
    let unusable = |reason: String| StoreError::Unusable { place: path.display().to_string(), reason };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock);
    let file = file.map_err(|error| unusable(format!("cannot be: {}: {error}", lock.display())))?;
    let locked = if shares_limits { file.try_lock_shared() } else { file.try_lock() };
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(unusable(
            "another server has this file: each would keep budgets of its own. Stop it, or give this one a file of \
             its own; servers that are to share keys and budgets count them in Redis (`server.shared_limits: \
             redis://HOST`, in all of their configurations), with this file on one machine or with PostgreSQL \
             (`server.store: postgres://HOST/DATABASE`) on several"
                .into(),
        )),
        Err(TryLockError::Error(error)) => Err(unusable(format!("cannot be locked: {error}"))),
    }
}

/// Beside the file itself, wherever links to it lie.
fn lock_path(path: &Path) -> PathBuf {
    let mut name = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).into_os_string();
    name.push("-serving");
    name.into()
}
