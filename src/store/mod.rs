//! What outlives a process: keys, and one record for each attempt to answer a request.

pub mod record;

pub use record::{Outcome, UsageRecord};
