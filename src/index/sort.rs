//! Sorting the operations that a replay has seen.

use super::Key;

/// Leaves the last operation on each key, in the order of the keys.
pub(super) fn keep_last_of_each<T>(staged: &mut Vec<(Key, T)>) {
    let order = order_by_key(staged);
    arrange(staged, order);
    staged.dedup_by(|earlier, last| earlier.0 == last.0);
}

/// Where the operations are in the order of their keys, and the newest first of those on the same key.
fn order_by_key<T>(staged: &[(Key, T)]) -> Vec<usize> {
    let prefix_len = common_prefix_len(staged);
    // The low bits say where it is, and those above are as much of the key as there is room for: eight bytes to move for
    // each, and the key itself is seldom looked at.
    let low_bits = staged.len().next_power_of_two() as u64 - 1;
    let place = |packed: u64| usize::try_from(packed & low_bits).expect("it was a place before");
    let key = |packed: u64| &staged[place(packed)].0;
    let pack = |(place, (key, _)): (u64, &(Key, T))| key.head_after(prefix_len) & !low_bits | place;
    let mut order: Vec<_> = (0..).zip(staged).map(pack).collect();
    order.sort_unstable();
    for alike in order.chunk_by_mut(|a, b| a ^ b <= low_bits).filter(|alike| alike.len() > 1) {
        alike.sort_by(|&a, &b| key(a).cmp(key(b)).then(b.cmp(&a)));
    }
    order.into_iter().map(place).collect()
}

/// How many bytes all keys begin with alike.
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

/// Puts into each place what `sources` says is to come there. Where it is, so that no second copy is held.
fn arrange<T>(things: &mut [T], mut sources: Vec<usize>) {
    for start in 0..things.len() {
        let mut at = start;
        while sources[at] != start {
            let source = std::mem::replace(&mut sources[at], at);
            things.swap(at, source);
            at = source;
        }
        sources[at] = at;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A thousand operations on keys that are `prefix` and up to `digits` more, each number of them about as often.
    fn staged(prefix: &str, digits: usize) -> Vec<(Key, usize)> {
        let operation = |i: usize| {
            let random = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let digits = format!("{random:016x}")[..i % (digits + 1)].to_string();
            (Key::from(format!("{prefix}{digits}").as_bytes()), i)
        };
        (0..1000).map(operation).collect()
    }

    #[test]
    fn the_last_operation_on_each_key_stays_in_order_whatever_the_keys_begin_with() {
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
    fn what_all_keys_begin_with_is_found_wherever_one_differs() {
        for (keys, len) in
            [(&["abc"][..], 3), (&["abc", "abd"], 2), (&["abc", "abc", "ab"], 2), (&["ab", "abc", "b"], 0)]
        {
            for turned in 0..keys.len() {
                let staged: Vec<_> =
                    (0..keys.len()).map(|i| (Key::from(keys[(i + turned) % keys.len()].as_bytes()), ())).collect();
                assert_eq!(common_prefix_len(&staged), len, "{keys:?} from {turned}");
            }
        }
    }
}
