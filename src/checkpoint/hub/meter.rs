//! The progress of one file's download.

use super::ProgressStyle;
use super::select::RepoFile;
use hf_hub::api::Progress;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what arrives, and shows it.
#[derive(Clone)]
pub(super) struct Meter {
    bar: indicatif::ProgressBar,
    /// Bytes of the file that are there, in the attempt that has most.
    pub received: Arc<AtomicU64>,
    position: Arc<AtomicU64>,
    /// Calls so far; a change is a sign of life.
    pub activity: Arc<AtomicU64>,
    lines: bool,
    name: String,
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
        Meter {
            bar,
            received: Arc::default(),
            position: Arc::default(),
            activity: Arc::default(),
            lines: style == ProgressStyle::Lines,
            name: file.name.clone(),
        }
    }

    pub fn done(&self) {
        self.bar.finish();
        if self.lines {
            eprintln!("{}: {} bytes", self.name, self.received.load(Ordering::Relaxed));
        }
    }
}

impl Progress for Meter {
    fn init(&mut self, size: usize, _filename: &str) {
        self.position.store(0, Ordering::Relaxed);
        self.activity.fetch_add(1, Ordering::Relaxed);
        self.bar.set_length(size as u64);
        self.bar.set_position(0);
    }

    fn update(&mut self, size: usize) {
        let position = self.position.fetch_add(size as u64, Ordering::Relaxed) + size as u64;
        self.received.fetch_max(position, Ordering::Relaxed);
        self.activity.fetch_add(1, Ordering::Relaxed);
        self.bar.inc(size as u64);
    }

    fn finish(&mut self) {}
}
