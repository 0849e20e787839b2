//! What a device can do at the most, as loads that a benchmark times: copies within memory, and
//! products that touch none. Other operations are held against these two.

use super::{Backend, BackendError};

/// What a probe does each time it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// So many bytes read and written, together.
    Copy(f64),
    /// So many additions and multiplications.
    Products(f64),
}

/// How much a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeSize {
    /// Bytes copied: more than caches hold, but for a check that it works.
    pub copy_bytes: usize,
    /// How often a loop of products goes round.
    pub products: usize,
}

/// A probe with its name and what it does in one run.
pub type Named<P> = (&'static str, Work, P);

/// A backend whose device can be measured.
pub trait Ceiling: Backend {
    /// A load with its memory.
    type Probe;

    /// The device's probes, by name; the best of a kind of work is the device's ceiling.
    ///
    /// # Errors
    /// Where their memory cannot be had.
    fn probes(&mut self, size: ProbeSize) -> Result<Vec<Named<Self::Probe>>, BackendError>;
    /// Enqueues a probe's work.
    fn enqueue(&mut self, probe: &mut Self::Probe);
    /// Whether the last run, which has been waited for, did what it should; why not.
    ///
    /// # Errors
    /// With what is wrong.
    fn check(&mut self, probe: &mut Self::Probe) -> Result<(), BackendError>;
    /// Bytes of an activation, in tensors made by [`Backend::tensor`].
    fn activation_bytes(&self) -> usize;
}
