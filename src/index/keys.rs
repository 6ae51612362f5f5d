//! The live keys of one bucket in key order, and where their values are.
//!
//! Opening finds most keys at once, and building a B-tree of them takes longer than reading them. So they stay in
//! the list in which they were found, the *base*, and their order is next to it. A key that is in the base changes
//! there; only a new key goes into a B-tree. A removed key keeps its place in the base, without a location, until
//! more places are free than taken. Its place stays free: if the key returns, it goes into the B-tree too.
//!
//! Queues are emptied from the front, or after a job there that cannot be run. So a run of free places is passed
//! place by place only once: the look-up that has passed it notes where it ends.

use std::cmp::Ordering;
use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use super::order::Order;
use super::{Key, Staged};
use crate::format::location::Location;

#[derive(Default)]
pub(super) struct Keys {
    /// `None` instead of a location: the place is free.
    base: Vec<Staged>,
    /// Each key of the base once, in key order.
    order: Order,
    /// How many keys of the base are live.
    base_count: usize,
    /// In key order, all places of the base before this one are free.
    first: usize,
    /// In key order, for each free place of the base: at least so many places from it on are free. 0 if no one has
    /// looked. Empty until a place is free.
    free_ahead: Vec<AtomicU32>,
    /// The live keys that are not live in the base.
    added: BTreeMap<Key, Location>,
}

impl Keys {
    /// What is left of operations that were applied in this order. Each put is shown to `see` as live, and each
    /// one that a later operation replaces once more as not live.
    pub(super) fn with_base(base: Vec<Staged>, see: impl FnMut(&Key, Location, bool)) -> Self {
        let mut keys = Keys::default();
        keys.set_base(base, see);
        keys
    }

    fn set_base(&mut self, mut base: Vec<Staged>, mut see: impl FnMut(&Key, Location, bool)) {
        let mut live_count = 0;
        let (order, replaced) = Order::of(&base, |(key, location)| {
            if let Some(location) = *location {
                live_count += 1;
                see(key, location, true);
            }
        });
        for index in replaced {
            let (key, location) = &mut base[index];
            if let Some(location) = location.take() {
                live_count -= 1;
                see(key, location, false);
            }
        }
        if base.capacity() > 2 * base.len() + FREE_MAX {
            base.shrink_to_fit();
        }
        self.base_count = live_count;
        (self.base, self.order, self.first, self.free_ahead) = (base, order, 0, Vec::new());
        self.skip_free();
        self.drop_free();
    }

    /// Makes the base smaller if most of it is free.
    fn drop_free(&mut self) {
        if self.base.len() > 2 * self.base_count + FREE_MAX {
            let mut base = std::mem::take(&mut self.base);
            base.retain(|(_, location)| location.is_some());
            base.shrink_to_fit();
            self.set_base(base, |_, _, _| ());
        }
    }

    fn skip_free(&mut self) {
        self.first = self.after_free(self.first);
    }

    /// The first place at `from` or after it, in key order, that is not free.
    fn after_free(&self, from: usize) -> usize {
        let ahead = |at: usize| self.free_ahead.get(at).map_or(0, |ahead| ahead.load(Relaxed) as usize).max(1);
        let mut end = from;
        while self.in_order(end).is_some_and(|(_, location)| location.is_none()) {
            end += ahead(end);
        }
        let mut at = from;
        while at < end {
            let next = at + ahead(at);
            if let Some(ahead) = self.free_ahead.get(at) {
                ahead.store(u32::try_from(end - at).unwrap_or(u32::MAX), Relaxed);
            }
            at = next;
        }
        end
    }

    /// What the base has at `at` in key order.
    fn in_order(&self, at: usize) -> Option<&Staged> {
        self.base.get(self.order.get(at)?)
    }

    pub(super) fn len(&self) -> usize {
        self.base_count + self.added.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Location> {
        let in_base = self.find(key).ok().and_then(|at| self.in_order(at)?.1);
        in_base.or_else(|| self.added.get(key).copied())
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// Returns the old location of the key, if it had one.
    pub(super) fn insert(&mut self, key: &[u8], location: Location) -> Option<Location> {
        match self.live_place(key) {
            Some(place) => place.replace(location),
            None => self.added.insert(key.into(), location),
        }
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Location> {
        let Some(place) = self.live_place(key) else { return self.added.remove(key) };
        let old = place.take()?;
        self.base_count -= 1;
        if self.free_ahead.is_empty() {
            self.free_ahead.resize_with(self.order.len(), AtomicU32::default);
        }
        self.skip_free();
        self.drop_free();
        Some(old)
    }

    /// The first key.
    pub(super) fn first(&self) -> Option<&Key> {
        // The first place of the base that may be live is.
        let in_base = self.in_order(self.first).map(|(key, _)| key);
        in_base.into_iter().chain(self.added.keys().next()).min()
    }

    /// Removes the first key, if it is at most `last`.
    pub(super) fn pop_through(&mut self, last: &[u8]) -> Option<(Key, Location)> {
        let key = self.first().filter(|first| ***first <= *last)?.clone();
        let old = self.remove(&key)?;
        Some((key, old))
    }

    pub(super) fn iter(&self) -> Merged<'_> {
        self.range(Bound::Unbounded)
    }

    /// The keys from the bound on.
    pub(super) fn range(&self, from: Bound<&[u8]>) -> Merged<'_> {
        let at = match from {
            Bound::Unbounded => self.first,
            Bound::Included(key) => self.find(key).unwrap_or_else(|at| at),
            Bound::Excluded(key) => self.find(key).map_or_else(|at| at, |at| at + 1),
        };
        let added = self.added.range::<[u8], _>((from, Bound::Unbounded)).peekable();
        Merged { keys: self, at: at.max(self.first), added, next: None }
    }

    /// Where the key is in the order of the base, or would be.
    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.order.find(&self.base, key)
    }

    /// The location of the key in the base, if it is live there.
    fn live_place(&mut self, key: &[u8]) -> Option<&mut Option<Location>> {
        let at = self.find(key).ok()?;
        let (_, location) = self.base.get_mut(self.order.get(at)?)?;
        Some(location).filter(|location| location.is_some())
    }
}

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// The keys of the base and the added ones, in key order.
pub(super) struct Merged<'a> {
    keys: &'a Keys,
    /// Where to look next in the order of the base.
    at: usize,
    added: Peekable<btree_map::Range<'a, Key, Location>>,
    /// The next live key of the base, if it has been looked up.
    next: Option<(&'a Key, Location)>,
}

impl<'a> Iterator for Merged<'a> {
    type Item = (&'a Key, Location);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next.is_none() {
            self.at = self.keys.after_free(self.at);
            if let Some((key, location)) = self.keys.in_order(self.at) {
                self.at += 1;
                self.next = location.map(|location| (key, location));
            }
        }
        let order = match (&self.next, self.added.peek()) {
            (Some((base, _)), Some((added, _))) => base.cmp(added),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => self.next.take(),
            // No key is in both.
            Ordering::Equal | Ordering::Greater => self.added.next().map(|(key, location)| (key, *location)),
        }
    }
}

/// So many places of removed keys are always kept.
const FREE_MAX: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn location(seq: u32) -> Location {
        let seq = NonZeroU32::new(seq).unwrap();
        Location { value_offset: 8192, seq, i: 0, len: 0, nonce: [0; 12] }
    }

    fn key(number: u32) -> Key {
        Key::from(format!("run-{number:04}").as_bytes())
    }

    fn seqs(found: Merged<'_>) -> Vec<(Vec<u8>, u64)> {
        found.map(|(key, location)| (key.to_vec(), location.seq())).collect()
    }

    #[test]
    fn a_key_that_returns_to_the_front_of_the_base_does_not_bring_the_free_places_there_back() {
        let base = (0..3000).map(|number| (key(number), Some(location(1)))).collect();
        let mut keys = Keys::with_base(base, |_, _, _| ());
        (0..1400).for_each(|number| assert!(keys.remove(&key(number)).is_some()));
        for number in [0, 700, 0] {
            assert_eq!(keys.insert(&key(number), location(2)), None);
            assert!(keys.first() == Some(&key(number)) && keys.first == 1400);
            assert_eq!(keys.remove(&key(number)), Some(location(2)));
            assert!(keys.first() == Some(&key(1400)) && keys.first == 1400);
        }
    }

    /// As where the first job of a queue cannot be run, and the next ones are removed.
    #[test]
    fn a_run_of_free_places_is_passed_place_by_place_only_once() {
        let base = (0..3000).map(|number| (key(number), Some(location(1)))).collect();
        let mut keys = Keys::with_base(base, |_, _, _| ());
        let ahead = |keys: &Keys, at: usize| keys.free_ahead[at].load(Relaxed);
        for number in 1..1400 {
            let mut page = keys.iter().map(|(key, _)| key.clone());
            assert!(page.next() == Some(key(0)) && page.next() == Some(key(number)));
            drop(page);
            assert_eq!(keys.remove(&key(number)), Some(location(1)));
            assert_eq!(ahead(&keys, 1), number - 1);
        }
        // From within the run: each place that was looked at notes where it ends.
        assert!(keys.range(Bound::Excluded(&key(700))).next().is_some_and(|(found, _)| *found == key(1400)));
        assert!((701..1400).all(|at| ahead(&keys, at as usize) == 1400 - at));
        // A key that returns is found, and the run is passed all the same.
        assert_eq!(keys.insert(&key(900), location(2)), None);
        assert_eq!(seqs(keys.range(Bound::Included(&key(1))))[..1], [(key(900).to_vec(), 2)]);
        assert_eq!((keys.len(), ahead(&keys, 1)), (1602, 1399));
        assert_eq!(keys.remove(&key(900)), Some(location(2)));
        assert_eq!(keys.remove(&key(900)), None);
    }

    /// Random changes, compared with those of a plain map, for a base of each size.
    #[test]
    fn a_base_and_what_was_added_are_like_one_map() {
        for base_count in [0, 1, 7, 1000, 3000] {
            let base = (0..base_count).map(|number| (key(2 * number), Some(location(1)))).collect();
            let mut seen = 0;
            let mut keys = Keys::with_base(base, |_, _, is_live| {
                assert!(is_live);
                seen += 1;
            });
            assert_eq!(seen, base_count);
            let mut model: BTreeMap<Key, Location> =
                (0..base_count).map(|number| (key(2 * number), location(1))).collect();
            let mut random = 1_u32;
            for seq in 2..6000 {
                random = random.wrapping_mul(0x915F_77F5).wrapping_add(0x3C6E_F35F);
                let changed = key((random >> 16) % (2 * base_count + 20));
                // First mostly removals, so that the base is made smaller, and then mostly puts.
                if random % 8 < if seq < 3000 { 2 } else { 6 } {
                    assert_eq!(keys.insert(&changed, location(seq)), model.insert(changed, location(seq)));
                } else if random.is_multiple_of(3) {
                    let first = keys.first().cloned();
                    assert!(first.as_ref() == model.keys().next());
                    let expected = model.pop_first();
                    if let Some(first) = first {
                        let before: Vec<u8> = first[..first.len() - 1].to_vec();
                        assert!(keys.pop_through(&before).is_none());
                        assert!(keys.pop_through(&first) == expected);
                    }
                } else {
                    assert_eq!(keys.remove(&changed), model.remove(&changed));
                }
                assert_eq!((keys.len(), keys.is_empty()), (model.len(), model.is_empty()));
                if seq % 50 == 0 {
                    let changed = key((random >> 8) % (2 * base_count + 20));
                    assert_eq!(keys.get(&changed), model.get(&changed).copied());
                    for from in [Bound::Unbounded, Bound::Included(&*changed), Bound::Excluded(&*changed)] {
                        let expected = model.range::<[u8], _>((from, Bound::Unbounded));
                        let expected: Vec<_> = expected.map(|(key, it)| (key.to_vec(), it.seq())).collect();
                        assert_eq!(seqs(keys.range(from)), expected, "{base_count}, {seq}");
                    }
                }
            }
        }
    }
}
