//! Files that somebody else names: configurations, keys, checkpoints, a cache. Such a name may lead to a pipe,
//! which blocks whoever opens it until somebody writes, or to a device that never ends. Only regular files
//! are opened, and of texts no more is read than they may hold.

use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

const NONBLOCK: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// Opens a regular file for reading.
///
/// # Errors
/// As the system says, or that it is none.
pub fn open(path: &Path) -> io::Result<File> {
    // Before it is opened: opening alone does something to some devices.
    regular(&std::fs::metadata(path)?)?;
    // A pipe may have taken its place since; opened so, it does not block.
    let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Makes a file, or empties a regular one, for writing.
///
/// # Errors
/// As the system says, or that there is something else.
pub fn create(path: &Path) -> io::Result<File> {
    match std::fs::metadata(path) {
        Ok(metadata) => regular(&metadata)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(NONBLOCK);
    let file = options.open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// By which a file that was changed is told from one that was not; None: it is not there.
pub type Stamp = Option<(Option<SystemTime>, u64)>;

/// A file's stamp as it is now.
pub fn stamp(path: &Path) -> Stamp {
    std::fs::metadata(path).ok().map(|file| (file.modified().ok(), file.len()))
}

/// A regular file's bytes.
///
/// # Errors
/// It is none, or has more than `bytes_max`.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = read_start(path, bytes_max.saturating_add(1))?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("is larger than {bytes_max} bytes")));
    }
    bytes.shrink_to_fit();
    Ok(bytes)
}

/// A regular file's text.
///
/// # Errors
/// It is none, has more than `bytes_max`, or is not UTF-8.
pub fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    let bytes = read(path, bytes_max)?;
    String::from_utf8(bytes)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, format!("not valid UTF-8: {error}")))
}

/// What a regular file begins with, so many bytes at the most.
///
/// # Errors
/// It is none.
pub fn read_start(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn regular(metadata: &std::fs::Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(io::Error::new(ErrorKind::InvalidInput, format!("is {what}, not a regular file")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::{Duration, Instant};

    #[test]
    fn what_blocks_or_never_ends_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).expect("a link");
        let begun = Instant::now();
        for (path, what) in [
            (pipe.as_path(), "a pipe"),
            (&link, "a pipe"),
            (folder.path(), "a folder"),
            (Path::new("/dev/zero"), "a device"),
            (Path::new("/dev/urandom"), "a device"),
        ] {
            let error = read(path, 1000).expect_err("it is refused").to_string();
            assert!(error.contains(what) && error.contains("regular file"), "{path:?}: {error}");
        }
        assert!(create(&pipe).expect_err("a pipe").to_string().contains("a pipe"));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_text_has_its_bound() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("text");
        std::fs::write(&file, "12345").expect("a file");
        assert_eq!(read_text(&file, 5).expect("it fits"), "12345");
        assert_eq!(read_start(&file, 2).expect("its start"), b"12");
        assert!(read(&file, 4).expect_err("it does not").to_string().contains("larger than 4 bytes"));
        std::fs::write(&file, [0xff]).expect("a file");
        assert!(read_text(&file, 5).expect_err("no text").to_string().contains("UTF-8"));
        assert_eq!(open(&folder.path().join("none")).expect_err("none").kind(), ErrorKind::NotFound);
    }
}
