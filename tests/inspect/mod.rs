//! `novastack inspect` and what it is made of: the inventory of a model's tensors against real
//! checkpoints and published counts, and the program's answer.

mod inventory;
mod program;
