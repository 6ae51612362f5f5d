//! Sorting staged operations by key, and dropping those that a later one on the same key replaces.
//!
//! Sorts indices instead of the operations, each packed with the first bits of its key into one `u64`. So the
//! sort moves 8 bytes instead of 64, and compares whole keys only if those bits are equal. Run ids often begin
//! alike, so the prefix that all keys share is left out of them.

use super::Key;

/// Keeps only the last operation on each key, sorted by key. `staged` is in the order of the log.
pub(super) fn keep_last_of_each<T>(staged: &mut Vec<(Key, T)>) {
    let order = order_by_key(staged);
    arrange(staged, order);
    staged.dedup_by(|earlier, last| earlier.0 == last.0);
}

/// The indices of the operations, sorted by key. Among operations on the same key, the last comes first.
fn order_by_key<T>(staged: &[(Key, T)]) -> Vec<usize> {
    let prefix_len = common_prefix_len(staged);
    // The low bits are the index, and the bits above it the first bits of the key after the common prefix.
    let index_bits = staged.len().next_power_of_two() as u64 - 1;
    let index = |packed: u64| usize::try_from(packed & index_bits).expect("it was packed from an index");
    let key = |packed: u64| &staged[index(packed)].0;
    let pack = |(index, (key, _)): (u64, &(Key, T))| key.head_after(prefix_len) & !index_bits | index;
    let mut order: Vec<_> = (0..).zip(staged).map(pack).collect();
    order.sort_unstable();
    for equal in order.chunk_by_mut(|a, b| a ^ b <= index_bits).filter(|equal| equal.len() > 1) {
        equal.sort_by(|&a, &b| key(a).cmp(key(b)).then(b.cmp(&a)));
    }
    order.into_iter().map(index).collect()
}

/// The length of the prefix that all keys share.
fn common_prefix_len<T>(staged: &[(Key, T)]) -> usize {
    let Some(((first, _), rest)) = staged.split_first() else { return 0 };
    let mut len = first.len();
    for (key, _) in rest {
        if len == 0 {
            break;
        }
        if key.get(..len) != first.get(..len) {
            len = first.iter().zip(&**key).take_while(|(a, b)| a == b).count();
        }
    }
    len
}

/// Moves the value at `sources[i]` to `i`, for each `i`. Works in place, so that there is never a second copy.
fn arrange<T>(values: &mut [T], mut sources: Vec<usize>) {
    for start in 0..values.len() {
        let mut at = start;
        while sources[at] != start {
            let source = std::mem::replace(&mut sources[at], at);
            values.swap(at, source);
            at = source;
        }
        sources[at] = at;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A thousand operations. Each key is `prefix` and up to `digits` random digits; all numbers of digits are
    /// about equally frequent.
    fn staged(prefix: &str, digits: usize) -> Vec<(Key, usize)> {
        let operation = |i: usize| {
            let random = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let digits = format!("{random:016x}")[..i % (digits + 1)].to_string();
            (Key::from(format!("{prefix}{digits}").as_bytes()), i)
        };
        (0..1000).map(operation).collect()
    }

    #[test]
    fn the_last_operation_on_each_key_is_kept_in_key_order_for_any_prefix() {
        for prefix in ["", "a", "job-", "12345678", "0192f5a0-7bcd-8", &"long ".repeat(9)] {
            for digits in [0, 1, 2, 3, 16] {
                let mut staged = staged(prefix, digits);
                let expected: BTreeMap<Vec<u8>, usize> =
                    staged.iter().map(|(key, i)| (key.to_vec(), *i)).collect();
                keep_last_of_each(&mut staged);
                let kept: Vec<_> = staged.iter().map(|(key, i)| (key.to_vec(), *i)).collect();
                assert_eq!(kept, expected.into_iter().collect::<Vec<_>>(), "{prefix:?} and {digits} digits");
            }
        }
        keep_last_of_each::<usize>(&mut vec![]);
    }

    #[test]
    fn the_common_prefix_is_found_in_any_order_of_the_keys() {
        for (keys, len) in
            [(&["abc"][..], 3), (&["abc", "abd"], 2), (&["abc", "abc", "ab"], 2), (&["ab", "abc", "b"], 0)]
        {
            for rotation in 0..keys.len() {
                let staged: Vec<_> = (0..keys.len())
                    .map(|i| (Key::from(keys[(i + rotation) % keys.len()].as_bytes()), ()))
                    .collect();
                assert_eq!(common_prefix_len(&staged), len, "{keys:?} from {rotation}");
            }
        }
    }
}
