//! How far loading is: a bar in a terminal, else a line in the log now and then.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a log says it.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// See the module.
pub struct Progress {
    name: String,
    pub bar: indicatif::ProgressBar,
    /// When the last line was written; None: there is a bar.
    told: Option<Mutex<Instant>>,
}

impl Progress {
    pub fn new(name: &str) -> Self {
        let bar = indicatif::ProgressBar::new(0);
        let template = "loading {msg} {bar:30} {pos}/{len} parts, {elapsed}";
        if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let told = (!std::io::stderr().is_terminal()).then(|| Mutex::new(Instant::now()));
        if told.is_some() {
            tracing::info!(model = name, "loading");
        }
        Self { name: name.to_owned(), bar: bar.with_message(name.to_owned()), told }
    }

    /// One more of so many parts.
    pub fn part(&self, parts: usize) {
        self.bar.set_length(parts as u64);
        self.bar.inc(1);
        let Some(told) = &self.told else { return };
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= PROGRESS_EVERY {
            *told = Instant::now();
            let (done, percent) = (self.bar.position(), self.bar.position() * 100 / parts.max(1) as u64);
            tracing::info!(model = self.name, parts = done, of = parts, percent, "loading");
        }
    }
}
