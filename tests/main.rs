//! One integration binary: everything that is tested from outside.

mod imports;
mod models;
mod sim;
mod support;
