//! The engine: one per loaded model. [`handle`] is its outside (submit, cancel, stream);
//! [`worker`] is its loop; [`scheduler`] decides what a step computes, over [`kv`] blocks, and is
//! pure; an [`executor`] carries the step out and samples with [`sampler`], from the tokens that a [`constraint`]
//! leaves. [`encoder`] is the loop of models that give a text's numbers and no tokens. Token ids only: the
//! engine never sees text.

pub mod constraint;
pub mod encoder;
pub mod executor;
pub mod handle;
pub mod kv;
pub mod plan;
pub mod sampler;
pub mod scheduler;
pub mod worker;
