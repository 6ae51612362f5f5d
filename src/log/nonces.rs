//! Nonces from the system's random generator, fetched many at a time: a call for each costs more than sealing a manifest.

use std::io;
use std::process;

use zeroize::Zeroizing;

use crate::crypto::{NONCE_LEN, Nonce};

/// How many are fetched at once.
const FETCHED: usize = 64;

/// Nonces that nobody has used. Wiped as they are used, and on drop.
pub(crate) struct Nonces {
    fetched: Zeroizing<Vec<Nonce>>,
    /// How many of them were used.
    used: usize,
    /// Who fetched them. The child of a fork holds a copy of what its parent is going to use.
    process: u32,
}

impl Nonces {
    pub(crate) fn new() -> Self {
        Nonces { fetched: Zeroizing::default(), used: 0, process: process::id() }
    }

    /// A nonce that no other call returns. `fill` is asked for random bytes where none are left.
    pub(crate) fn next(&mut self, fill: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Nonce> {
        self.next_in(process::id(), fill)
    }

    fn next_in(&mut self, process: u32, fill: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Nonce> {
        if self.process != process || self.used == self.fetched.len() {
            let mut fetched = Zeroizing::new(vec![[0; NONCE_LEN]; FETCHED]);
            fill(fetched.as_flattened_mut())?;
            *self = Nonces { fetched, used: 0, process };
        }
        let nonce = self.fetched.get_mut(self.used).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.used += 1;
        Ok(std::mem::take(nonce))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts, so that no two nonces that it gives are alike.
    struct Source(u8);

    impl Source {
        fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
            for nonce in bytes.chunks_mut(NONCE_LEN) {
                nonce.fill(self.0);
                self.0 += 1;
            }
            Ok(())
        }
    }

    #[test]
    fn no_nonce_is_given_twice_and_each_is_as_random_as_it_was_fetched() {
        let (mut nonces, mut source) = (Nonces::new(), Source(1));
        let mut given: Vec<_> =
            (0..2 * FETCHED + 1).map(|_| nonces.next(|bytes| source.fill(bytes)).unwrap()).collect();
        given.sort_unstable();
        let fetched: Vec<_> = (1..=3 * FETCHED).map(|n| [u8::try_from(n).unwrap(); NONCE_LEN]).collect();
        assert!(given.iter().all(|nonce| fetched.contains(nonce)));
        given.dedup();
        assert_eq!(given.len(), 2 * FETCHED + 1);
    }

    #[test]
    fn a_used_nonce_is_gone() {
        let (mut nonces, mut source) = (Nonces::new(), Source(1));
        let nonce = nonces.next(|bytes| source.fill(bytes)).unwrap();
        assert_eq!(nonces.fetched.len(), FETCHED);
        assert!(!nonces.fetched.contains(&nonce));
    }

    #[test]
    fn the_child_of_a_fork_uses_none_that_its_parent_holds() {
        let (mut nonces, mut source) = (Nonces::new(), Source(1));
        nonces.next_in(7, |bytes| source.fill(bytes)).unwrap();
        let held = nonces.fetched.clone();
        let mut in_child = Nonces { fetched: held.clone(), used: 1, process: 7 };
        for _ in 0..FETCHED {
            let nonce = in_child.next_in(8, |bytes| source.fill(bytes)).unwrap();
            assert!(!held.contains(&nonce));
        }
    }

    #[test]
    fn where_the_generator_fails_none_is_given() {
        let (mut nonces, mut source) = (Nonces::new(), Source(1));
        assert!(nonces.next(|_| Err(io::ErrorKind::Other.into())).is_err());
        let nonce = nonces.next(|bytes| source.fill(bytes)).unwrap();
        assert_ne!(nonce, [0; NONCE_LEN]);
    }
}
