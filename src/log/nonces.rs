//! Random nonces, one for each frame.
//!
//! They come from the operating system's random generator, 64 at a time, because one system call for each would
//! cost more than sealing a manifest. No nonce is ever used twice under one key, which would break AES-GCM: each
//! is erased from the buffer as it is returned, and the buffer is not used after a fork, since parent and child
//! have the same copy of it. Implements the rule on nonces of *Sealing* in FORMAT.md.

use std::io;
use std::process;

use zeroize::Zeroizing;

use crate::crypto::{NONCE_LEN, Nonce};

/// A buffer of nonces that are not used yet.
pub(crate) struct Nonces {
    fetched: Zeroizing<Vec<Nonce>>,
    /// How many of the fetched nonces have been used. These are zeros.
    used: usize,
    /// The id of the process that fetched them. The child of a fork has a copy of the nonces that its parent will
    /// use.
    process: u32,
}

impl Nonces {
    pub(crate) fn new() -> Self {
        Nonces { fetched: Zeroizing::default(), used: 0, process: process::id() }
    }

    /// Returns a nonce that no other call returns. Calls `fill` for random bytes if the buffer is used up.
    pub(crate) fn next(&mut self, fill: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Nonce> {
        self.next_in(process::id(), fill)
    }

    fn next_in(&mut self, process: u32, fill: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Nonce> {
        if self.process != process || self.used == self.fetched.len() {
            let mut fetched = Zeroizing::new(vec![[0; NONCE_LEN]; FETCHED_COUNT]);
            fill(fetched.as_flattened_mut())?;
            *self = Nonces { fetched, used: 0, process };
        }
        let nonce = self.fetched.get_mut(self.used).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.used += 1;
        Ok(std::mem::take(nonce))
    }
}

/// How many nonces are fetched at once.
const FETCHED_COUNT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// A random generator whose nonces are all different: it counts.
    struct Generator(u8);

    impl Generator {
        fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
            for nonce in bytes.chunks_mut(NONCE_LEN) {
                nonce.fill(self.0);
                self.0 += 1;
            }
            Ok(())
        }
    }

    #[test]
    fn every_nonce_is_returned_once_and_comes_from_the_generator() {
        let (mut nonces, mut generator) = (Nonces::new(), Generator(1));
        let mut returned: Vec<_> =
            (0..2 * FETCHED_COUNT + 1).map(|_| nonces.next(|bytes| generator.fill(bytes)).unwrap()).collect();
        returned.sort_unstable();
        let fetched: Vec<_> = (1..=3 * FETCHED_COUNT).map(|n| [u8::try_from(n).unwrap(); NONCE_LEN]).collect();
        assert!(returned.iter().all(|nonce| fetched.contains(nonce)));
        returned.dedup();
        assert_eq!(returned.len(), 2 * FETCHED_COUNT + 1);
    }

    #[test]
    fn a_used_nonce_is_erased_from_the_buffer() {
        let (mut nonces, mut generator) = (Nonces::new(), Generator(1));
        let nonce = nonces.next(|bytes| generator.fill(bytes)).unwrap();
        assert_eq!(nonces.fetched.len(), FETCHED_COUNT);
        assert!(!nonces.fetched.contains(&nonce));
    }

    #[test]
    fn the_child_of_a_fork_uses_no_nonce_that_its_parent_has_fetched() {
        let (mut nonces, mut generator) = (Nonces::new(), Generator(1));
        nonces.next_in(7, |bytes| generator.fill(bytes)).unwrap();
        let held = nonces.fetched.clone();
        let mut in_child = Nonces { fetched: held.clone(), used: 1, process: 7 };
        for _ in 0..FETCHED_COUNT {
            let nonce = in_child.next_in(8, |bytes| generator.fill(bytes)).unwrap();
            assert!(!held.contains(&nonce));
        }
    }

    #[test]
    fn no_nonce_is_returned_if_the_generator_fails() {
        let (mut nonces, mut generator) = (Nonces::new(), Generator(1));
        assert!(nonces.next(|_| Err(io::ErrorKind::Other.into())).is_err());
        let nonce = nonces.next(|bytes| generator.fill(bytes)).unwrap();
        assert_ne!(nonce, [0; NONCE_LEN]);
    }
}
