//! Templates and tokenizers run in children of the program: of the fuzzer itself, here.

use novastack::text::{COMMAND, serve};

/// Is such a child, where this process was started as one. Else a panic that the program catches is no
/// failure: one that it does not catch still is.
pub fn begin() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(COMMAND) {
        let memory_bytes_max = arguments.next().and_then(|bytes| bytes.parse().ok()).expect("a number");
        let ended = serve(memory_bytes_max);
        std::process::exit(i32::from(ended.is_err()));
    }
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
}
