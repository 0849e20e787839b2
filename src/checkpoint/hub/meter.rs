//! The progress of one file's download.

use super::ProgressStyle;
use super::select::RepoFile;
use crate::log;
use indicatif::DecimalBytes;
use std::time::{Duration, Instant};

/// Smaller files are there before a line about them could be read.
const LARGE_BYTES: u64 = 10_000_000;
/// Time between two lines about one file.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows how much of a file is there.
pub(super) struct Meter {
    bar: indicatif::ProgressBar,
    lines: bool,
    name: String,
    size: Option<u64>,
    there: u64,
    begun: Instant,
    /// The last line.
    told: Instant,
}

impl Meter {
    pub fn new(file: &RepoFile, style: ProgressStyle) -> Meter {
        let bar = match style {
            ProgressStyle::Bars => indicatif::ProgressBar::new(file.size.unwrap_or(0)),
            ProgressStyle::Lines | ProgressStyle::Silent => indicatif::ProgressBar::hidden(),
        };
        let template = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} ({eta})";
        if let Ok(template) = indicatif::ProgressStyle::with_template(template) {
            bar.set_style(template);
        }
        bar.set_message(file.name.clone());
        let lines = style == ProgressStyle::Lines;
        if let Some(size) = file.size.filter(|size| lines && *size >= LARGE_BYTES) {
            log::line(&format!("{}: downloading {}", file.name, DecimalBytes(size)));
        }
        let now = Instant::now();
        Meter { bar, lines, name: file.name.clone(), size: file.size, there: 0, begun: now, told: now }
    }

    /// So many bytes of the file are there.
    pub fn set(&mut self, there: u64) {
        self.there = there;
        self.bar.set_position(there);
        if self.lines && self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            let of = self.size.map_or_else(String::new, |size| format!(" of {}", DecimalBytes(size)));
            log::line(&format!("{}: {}{of}", self.name, DecimalBytes(there)));
        }
    }

    /// All of it is.
    pub fn done(&self) {
        self.bar.finish();
        if self.lines {
            let seconds = self.begun.elapsed().as_secs_f64();
            log::line(&format!("{}: {} in {seconds:.1} s", self.name, DecimalBytes(self.there)));
        }
    }
}
