//! The order of a list of keys, next to the list.
//!
//! A key and its location take 72 bytes, so the list is not sorted itself. The order has one `u64` for each key:
//! the first bits of the key, and its index in the list. Most comparisons need only those bits, so they stay in
//! the processor's cache. Run ids often begin alike, so the prefix that all keys share is left out of the bits.

use std::cmp::Ordering;

use super::Key;
use super::key::head_of;

/// Each key of a list once, in key order.
#[derive(Default)]
pub(super) struct Order {
    /// What all keys begin with.
    prefix: Box<[u8]>,
    /// Covers the low bits of an entry, which are the index. The bits above it are the first bits of the key after
    /// the prefix.
    index_mask: u64,
    entries: Vec<u64>,
}

impl Order {
    /// Orders the keys of a list. Also returns the indices whose key is in the list again, further back: the order
    /// has only the last of them. Each element is shown to `see`, as every further pass over a long list takes
    /// time.
    pub(super) fn of<T>(list: &[(Key, T)], mut see: impl FnMut(&(Key, T))) -> (Self, Vec<usize>) {
        let prefix = common_prefix(list);
        let index_mask = list.len().next_power_of_two() as u64 - 1;
        let entry = |(index, element): (u64, &(Key, T))| {
            see(element);
            head_after(&element.0, prefix) & !index_mask | index
        };
        let entries = (0..).zip(list).map(entry).collect();
        let mut order = Order { prefix: prefix.into(), index_mask, entries };
        // The runs of an index file are in order. Merging a few of them takes less time than sorting anew.
        if order.entries.windows(2).filter(|pair| pair[0] > pair[1]).take(MERGED_MAX).count() < MERGED_MAX {
            order.entries.sort();
        } else {
            order.entries.sort_unstable();
        }
        let replaced = order.sort_and_dedup_equal_bits(list);
        (order, replaced)
    }

    /// Completes the order where the bits in the entries do not tell keys apart.
    fn sort_and_dedup_equal_bits<T>(&mut self, list: &[(Key, T)]) -> Vec<usize> {
        let index_mask = self.index_mask;
        let index = |entry: u64| index_of(entry, index_mask);
        let key = |entry: u64| &list[index(entry)].0;
        for equal in self.entries.chunk_by_mut(|a, b| a ^ b <= index_mask).filter(|equal| equal.len() > 1) {
            // The last one first, as the next step keeps the first.
            equal.sort_by(|&a, &b| key(a).cmp(key(b)).then(b.cmp(&a)));
        }
        let mut replaced = Vec::new();
        self.entries.dedup_by(|earlier, last| {
            let is_replaced = *earlier ^ *last <= index_mask && key(*earlier) == key(*last);
            if is_replaced {
                replaced.push(index(*earlier));
            }
            is_replaced
        });
        replaced
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The index of the key that is at `at` in the order.
    pub(super) fn get(&self, at: usize) -> Option<usize> {
        self.entries.get(at).map(|entry| index_of(*entry, self.index_mask))
    }

    /// Where the key is in the order, or would be. `list` is the one that was ordered.
    pub(super) fn find<T>(&self, list: &[(Key, T)], key: &[u8]) -> Result<usize, usize> {
        let Some(rest) = key.strip_prefix(&*self.prefix) else {
            return Err(if *key < *self.prefix { 0 } else { self.len() });
        };
        let bits = head_of(rest) & !self.index_mask;
        self.entries.binary_search_by(|entry| {
            let by_bits = (entry & !self.index_mask).cmp(&bits);
            by_bits.then_with(|| {
                list.get(index_of(*entry, self.index_mask)).map_or(Ordering::Less, |(it, _)| (**it).cmp(key))
            })
        })
    }
}

/// A list of this many ordered runs, or of more, is sorted.
const MERGED_MAX: usize = 8;

fn index_of(entry: u64, index_mask: u64) -> usize {
    usize::try_from(entry & index_mask).expect("it was made of an index")
}

fn head_after(key: &Key, prefix: &[u8]) -> u64 {
    head_of(key.get(prefix.len()..).unwrap_or_default())
}

/// What all keys of the list begin with.
fn common_prefix<T>(list: &[(Key, T)]) -> &[u8] {
    let Some(((first, _), rest)) = list.split_first() else { return &[] };
    let mut prefix = &**first;
    for (key, _) in rest {
        if prefix.is_empty() {
            break;
        }
        if !key.starts_with(prefix) {
            let len = prefix.iter().zip(&**key).take_while(|(a, b)| a == b).count();
            prefix = prefix.get(..len).unwrap_or_default();
        }
    }
    prefix
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A thousand keys. Each one is `prefix` and up to `digits` random digits; all numbers of digits are
    /// about equally frequent.
    fn list(prefix: &str, digits: usize) -> Vec<(Key, usize)> {
        let entry = |i: usize| {
            let random = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let digits = format!("{random:016x}")[..i % (digits + 1)].to_string();
            (Key::from(format!("{prefix}{digits}").as_bytes()), i)
        };
        (0..1000).map(entry).collect()
    }

    #[test]
    fn the_last_of_each_key_is_found_in_key_order_for_any_prefix() {
        for prefix in ["", "a", "job-", "12345678", "0192f5a0-7bcd-8", &"long ".repeat(9)] {
            for digits in [0, 1, 2, 3, 16] {
                let list = list(prefix, digits);
                let expected: BTreeMap<Vec<u8>, usize> = list.iter().map(|(key, i)| (key.to_vec(), *i)).collect();
                let mut seen = Vec::new();
                let (order, mut replaced) = Order::of(&list, |(_, i)| seen.push(*i));
                assert!(seen.into_iter().eq(0..list.len()));
                let kept: Vec<_> = (0..order.len()).map(|at| order.get(at).unwrap()).collect();
                let expected_order: Vec<usize> = expected.values().copied().collect();
                assert_eq!(kept, expected_order, "{prefix:?} and {digits} digits");
                replaced.extend(kept);
                replaced.sort_unstable();
                assert!(replaced.into_iter().eq(0..list.len()));
                let keys: Vec<&Vec<u8>> = expected.keys().collect();
                let absent = [&b""[..], b"0", b"job", b"job-", b"k", b"~", &[0xff; 40]].map(<[u8]>::to_vec);
                for key in expected.keys().chain(&absent) {
                    for key in
                        [&key[..], &[key, &b"\0"[..]].concat(), key.split_last().map_or(&[], |(_, key)| key)]
                    {
                        let found = keys.binary_search_by(|other| (***other).cmp(key));
                        assert_eq!(order.find(&list, key), found, "{key:?}");
                    }
                }
            }
        }
        let (empty, _) = Order::of::<()>(&[], |_| ());
        assert_eq!((empty.len(), empty.get(0), empty.find::<()>(&[], b"a")), (0, None, Err(0)));
    }

    #[test]
    fn the_common_prefix_is_found_in_any_order_of_the_keys() {
        for (keys, len) in
            [(&["abc"][..], 3), (&["abc", "abd"], 2), (&["abc", "abc", "ab"], 2), (&["ab", "abc", "b"], 0)]
        {
            for rotation in 0..keys.len() {
                let list: Vec<_> = (0..keys.len())
                    .map(|i| (Key::from(keys[(i + rotation) % keys.len()].as_bytes()), ()))
                    .collect();
                assert_eq!(common_prefix(&list).len(), len, "{keys:?} from {rotation}");
            }
        }
    }
}
