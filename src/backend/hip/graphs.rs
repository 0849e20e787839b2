//! Decode steps as graphs: what a step of some form launched is recorded once and then replayed in
//! one call, since a decode's kernels are shorter than the time it takes to launch them one by one.
//!
//! The first step of a form runs as it is, so that modules are loaded and memory is as large as it
//! needs to be; the second is recorded. Launches hold addresses: what was recorded stands only as
//! long as memory that grows has not moved. Everything else that changes from step to step is in
//! the step's metadata, which goes up before the replay.

use super::HipBackend;
use super::device::Graph;
use super::driver::DevicePointer;
use super::step::Form;
use crate::backend::BackendError;

/// Graphs kept; the oldest goes first. Forms are few: batch sizes by a dozen powers of two.
const GRAPHS_MAX: usize = 64;

/// Addresses that launches hold and that may move.
pub type Addresses = [DevicePointer; 7];

enum State {
    /// Ran once with these addresses at its end.
    Warm,
    /// Ready.
    Recorded(Graph),
}

/// What was recorded.
pub struct Graphs {
    eager: bool,
    known: Vec<(Form, Addresses, State)>,
}

impl Graphs {
    /// None yet; with `eager`, none ever.
    pub fn new(eager: bool) -> Self {
        Self { eager, known: Vec::new() }
    }

    fn find(&self, form: Form, addresses: &Addresses) -> Option<&State> {
        let (_, _, state) = self.known.iter().find(|(known, at, _)| *known == form && at == addresses)?;
        Some(state)
    }

    fn put(&mut self, form: Form, addresses: Addresses, state: State) {
        self.known.retain(|(known, at, _)| *known != form && *at == addresses);
        if self.known.len() == GRAPHS_MAX {
            self.known.remove(0);
        }
        self.known.push((form, addresses, state));
    }
}

impl HipBackend {
    /// See [`Backend::run`](crate::backend::Backend::run).
    pub(super) fn run_or_replay(&mut self, work: &mut dyn FnMut(&mut Self)) -> bool {
        let form = match self.step.decode_form() {
            Some(form) if !self.graphs.eager && self.failure.is_none() => form,
            _ => {
                work(self);
                return false;
            }
        };
        let addresses = self.addresses();
        match self.graphs.find(form, &addresses) {
            Some(State::Recorded(graph)) => {
                // SAFETY: what was recorded is the model's own memory, and what grows has not moved.
                let replayed = unsafe { self.stream.replay(graph) };
                self.op(|_| replayed);
                return true;
            }
            Some(State::Warm) => match self.record(work) {
                Ok(graph) => {
                    // SAFETY: as above.
                    let replayed = unsafe { self.stream.replay(&graph) };
                    self.op(|_| replayed);
                    self.graphs.put(form, addresses, State::Recorded(graph));
                }
                Err(error) => {
                    tracing::warn!(device = self.gpu.id, %error, "no graphs: every kernel is launched by itself");
                    self.graphs = Graphs::new(true);
                    work(self);
                }
            },
            None => {
                work(self);
                self.graphs.put(form, self.addresses(), State::Warm);
            }
        }
        false
    }

    /// What `work` launches, without running it. A failure is none of the step's: it can still be
    /// launched kernel by kernel.
    fn record(&mut self, work: &mut dyn FnMut(&mut Self)) -> Result<Graph, BackendError> {
        let failed = |error| self.gpu.failed(error);
        self.stream.begin_capture().map_err(failed)?;
        self.recording = true;
        work(self);
        self.recording = false;
        // Also after a failure: the stream must leave its capture.
        let graph = self.stream.end_capture();
        self.outcome()?;
        graph.map_err(|error| self.gpu.failed(error))
    }

    /// Decodes expand no latents: `expansions` is in none of their launches.
    fn addresses(&self) -> Addresses {
        let Self { queries, partials, stats, sums, best, tokens, .. } = self;
        let [a, b, c, d, e, f] = [queries, partials, stats, sums, best, tokens].map(super::Scratch::pointer);
        [self.step.memory(), a, b, c, d, e, f]
    }
}
