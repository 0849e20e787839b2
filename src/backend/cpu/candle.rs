//! What candle computes on the CPU for encoders, by how many threads.
//!
//! candle's matrix products run on the rayon pool that they are called from, which the encoder bounds. Its softmax and
//! norms have a pool of their own, of as many threads as the machine has cores, whose caller spins until all of them are
//! done: where other threads want those cores too, that takes many times longer than the work. Only the environment
//! bounds it.

/// The variable by which candle sizes that pool.
const THREADS: &str = "CANDLE_NUM_THREADS";

/// Leaves candle's own pool without threads, unless the environment says otherwise: such operations run where they are
/// called. To be called at the program's very start, before there is a second thread.
pub fn without_own_threads() {
    if std::env::var_os(THREADS).is_none() {
        // SAFETY: the environment may not be changed while another thread reads it; there is none yet.
        unsafe { std::env::set_var(THREADS, "1") };
    }
}
