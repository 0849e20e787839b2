//! Carries out steps. The contract is asynchronous: [`Executor::launch`] hands a plan to the
//! device's own thread and returns at once, [`Executor::collect`] waits for its tokens, so that
//! events of the step before are emitted while this one runs.

use super::plan::{StepOutput, StepPlan};

/// A launched step.
#[derive(Debug)]
#[must_use = "a launched step must be collected"]
pub struct Ticket(pub u64);

/// A device failed or an invariant broke: the engine stops.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ExecutorError(pub String);

/// One model on one device (or one group of ranks).
pub trait Executor: Send {
    /// Starts a step. At most one is in flight.
    fn launch(&mut self, plan: StepPlan) -> Result<Ticket, ExecutorError>;
    /// Waits for a launched step.
    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput, ExecutorError>;
}
