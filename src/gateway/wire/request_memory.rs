//! Memory for what others send, of all requests together: bodies as they are read and parsed, and what
//! upstreams answer as long as it is kept. Whoever keeps something holds a [`Share`] of it, which is given back
//! when it is dropped; what finds no room is refused before the memory is taken.
//!
//! A text of JSON takes up to a hundred times its bytes once it is parsed. [`parsed_bytes`] bounds that from the
//! text, in one pass that allocates nothing; `tests/gateway/memory.rs` holds it against a server's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Nobody may have more than one part in so many: others have room beside the largest.
const SHARES_MIN: usize = 2;
/// Of a text: as it came, as strings of its values, in a translation, as it is sent on, which grows.
const TEXT_FACTOR: usize = 6;
/// Of an array or object: an empty one is followed by room for four entries, and an object has a table of hashes.
const CONTAINER_BYTES: usize = 600;
/// Of an element of an array, or an entry of an object with its key: a hash, a string, a value and what they
/// point to. Twice that while what holds it grows, and once more in a translation.
const ELEMENT_BYTES: usize = 400;

/// What is refused for want of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// Others use it now.
    #[error("the memory for requests is used up ({used} of {total} bytes): try again")]
    Now {
        /// What is held.
        used: usize,
        /// What there is.
        total: usize,
    },
    /// It is more than anybody may have.
    #[error("{wanted} bytes of memory are needed to read this, and one request may have {most}")]
    Ever {
        /// What is needed.
        wanted: usize,
        /// What there is for one.
        most: usize,
    },
}

/// Memory for all requests together.
#[derive(Debug)]
pub struct RequestMemory {
    total: usize,
    used: AtomicUsize,
}

impl RequestMemory {
    /// So many bytes.
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total, used: AtomicUsize::new(0) })
    }

    /// Bytes that are held.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that there are.
    pub fn total(&self) -> usize {
        self.total
    }

    /// A share of nothing yet.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { of: self.clone(), bytes: 0 }
    }

    fn take(&self, more: usize, wanted: usize) -> Result<(), Shortage> {
        let most = self.total / SHARES_MIN;
        if wanted > most {
            return Err(Shortage::Ever { wanted, most });
        }
        let fits = |used: usize| used.checked_add(more).filter(|used| *used <= self.total);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(used) => Err(Shortage::Now { used, total: self.total }),
        }
    }
}

/// A part of the memory, held until it is dropped.
#[derive(Debug)]
pub struct Share {
    of: Arc<RequestMemory>,
    bytes: usize,
}

impl Share {
    /// Holds so many bytes from now on, more or fewer than before.
    ///
    /// # Errors
    /// There is no room for more; what was held still is.
    pub fn hold(&mut self, bytes: usize) -> Result<(), Shortage> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.of.take(more, bytes)?,
            None => _ = self.of.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed),
        }
        self.bytes = bytes;
        Ok(())
    }

    /// What it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What a text of JSON takes at the most while it is parsed, kept and translated. Texts that are no JSON have a
/// bound too: a parser stops at the first mistake.
pub fn parsed_bytes(json: &[u8]) -> usize {
    let (mut containers, mut elements, mut at) = (0, 0, 0);
    while let Some(&byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(json, at),
            b'[' | b'{' => containers += 1,
            b',' => elements += 1,
            _ => {}
        }
    }
    // A container with one element has no comma, and so has the text itself.
    elements += containers + 1;
    json.len() * TEXT_FACTOR + containers * CONTAINER_BYTES + elements * ELEMENT_BYTES
}

/// The place behind a string whose first character is at `at`.
fn string_end(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if json[at - 1] == b'"' {
            return at;
        }
        // What is escaped ends nothing.
        at += 1;
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_come_and_go() {
        let memory = RequestMemory::new(100);
        let [mut first, mut second, mut third] = [(); 3].map(|()| memory.share());
        first.hold(50).expect("room");
        second.hold(40).expect("room");
        assert_eq!(third.hold(20), Err(Shortage::Now { used: 90, total: 100 }));
        assert_eq!(third.hold(51), Err(Shortage::Ever { wanted: 51, most: 50 }));
        third.hold(10).expect("room");
        assert_eq!(memory.used(), 100);
        // More of what is held counts once.
        first.hold(20).expect("less");
        third.hold(40).expect("room");
        assert!(third.hold(usize::MAX).is_err() && third.bytes() == 40);
        assert_eq!(memory.used(), 100);
        drop((first, second, third));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn structure_within_strings_does_not_count() {
        let plain = parsed_bytes(br#""aaaaaaaaaaaa""#);
        assert_eq!(parsed_bytes(br#""[[[,,,\",{[,""#), plain);
        assert_eq!(parsed_bytes(br#""\\\\\\\\\\\"[""#), plain + TEXT_FACTOR);
        assert!(parsed_bytes(b"[0,0,0]") > parsed_bytes(b"[0,0]") + 300);
        for odd in ["\"", "\"\\", "\"\\\"", "", "[", "\\\""] {
            assert!(parsed_bytes(odd.as_bytes()) >= odd.len());
        }
    }
}
