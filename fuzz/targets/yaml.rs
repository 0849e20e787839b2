//! An operator's novastack.yaml, expressions of its rules included.
#![no_main]

use libfuzzer_sys::fuzz_target;
use novastack::config::Config;
use std::path::Path;

fuzz_target!(|text: &str| {
    let _ = Config::parse(text, "novastack.yaml", Path::new("/nowhere"));
});
