//! The program: where its log goes, and the command line ([`cli`]).

mod cli;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: novastack::text::CountingAllocator = novastack::text::CountingAllocator;

fn main() -> ExitCode {
    novastack::backend::cpu::candle::without_own_threads();
    novastack::log::take_panics();
    cli::run(std::env::args_os().collect())
}
