//! The images that a disk could hold after a power cut.
//!
//! In each file, a sector that was written since the last sync is either kept, or its written bytes are old, zero
//! or garbage. The length is old, new or between. Each change of a name is kept or lost by itself.
//! While at most [`SUBSETS_MAX`] sectors differ, every subset of them is tried; beyond that, all prefixes, each
//! one missing, each one alone, and 256 random subsets.

use std::collections::{BTreeMap, BTreeSet};

use super::content::{Content, SECTOR_LEN, Sector};
use super::random::Random;
use super::world::{Image, Inode, Names, World};

/// How many differing sectors are tried in every combination.
pub const SUBSETS_MAX: usize = 12;
/// Up to how many differing sectors every combination of fates is tried: 4^4 images.
const FATES_MAX: usize = 4;
const RANDOM_SUBSETS: usize = 256;
/// How many combinations of files and names are tried in full.
const COMBINATIONS_MAX: usize = 4096;

/// What became of a sector that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Old,
    Zero,
    Garbage,
}

const LOST: [Fate; 3] = [Fate::Old, Fate::Zero, Fate::Garbage];
const FATES: [Fate; 4] = [Fate::Kept, Fate::Old, Fate::Zero, Fate::Garbage];

/// A file after the power cut.
#[derive(Clone, Debug)]
struct Variant {
    len: u64,
    /// Of the sectors that differ, in order.
    fates: Vec<Fate>,
    /// A sector that was written and does not differ, yet holds garbage: preallocated space.
    spoiled: Option<usize>,
}

/// Calls `each` with every image; the same one may come more than once.
pub fn images(world: &World, seed: u64, each: &mut dyn FnMut(&Image)) {
    some_images(world, seed, usize::MAX, each);
}

/// Like [`images`], but with at most `most` images for each choice of names, taken at random.
pub fn some_images(world: &World, seed: u64, most: usize, each: &mut dyn FnMut(&Image)) {
    let mut random = Random::new(seed);
    for names in name_variants(world, &mut random) {
        // By file, not by name: a file with two names has one content.
        let inodes: BTreeSet<usize> = names.values().copied().collect();
        let files: Vec<_> = inodes.iter().map(|&inode| Suspect::new(world.inode(inode))).collect();
        let variants: Vec<_> = files.iter().map(|file| file.variants(&mut random)).collect();
        let counts: Vec<_> = variants.iter().map(Vec::len).collect();
        for chosen in at_most(most, combinations(&counts, &mut random), &mut random) {
            let files = files.iter().zip(&variants).zip(chosen);
            let contents = files.map(|((file, variants), chosen)| file.content(&variants[chosen], &mut random));
            let contents: BTreeMap<usize, Content> = inodes.iter().copied().zip(contents).collect();
            each(&names.iter().map(|(path, inode)| (path.clone(), contents[inode].clone())).collect());
        }
    }
}

/// The first, the last, and others at random.
fn at_most(most: usize, mut all: Vec<Vec<usize>>, random: &mut Random) -> Vec<Vec<usize>> {
    if all.len() > most {
        let last = all.len() - 1;
        all.swap(1, last);
        for i in 2..most {
            let other = i + random.below(all.len() - i);
            all.swap(i, other);
        }
        all.truncate(most);
    }
    all
}

/// All choices of which pending changes of names are kept; if there are many changes, only some of the choices.
fn name_variants(world: &World, random: &mut Random) -> Vec<Names> {
    let changes = &world.name_changes;
    let choices = subsets(changes.len(), random);
    let mut found = BTreeSet::new();
    for choice in choices {
        let mut names = world.durable_names.clone();
        for (change, _) in changes.iter().zip(choice).filter(|(_, is_kept)| *is_kept) {
            change.apply(&mut names);
        }
        found.insert(names);
    }
    found.into_iter().collect()
}

/// Which of `count` things are kept.
fn subsets(count: usize, random: &mut Random) -> Vec<Vec<bool>> {
    if count <= SUBSETS_MAX {
        return (0..1_usize << count).map(|bits| (0..count).map(|i| bits >> i & 1 == 1).collect()).collect();
    }
    let mut all = vec![vec![true; count], vec![false; count]];
    for i in 0..count {
        all.push((0..count).map(|j| j < i).collect());
        all.push((0..count).map(|j| j != i).collect());
        all.push((0..count).map(|j| j == i).collect());
    }
    all.extend((0..RANDOM_SUBSETS).map(|_| (0..count).map(|_| random.below(2) == 0).collect()));
    all
}

/// Combines the choices of the files: all combinations or, if there are too many, random ones, and each choice of
/// one file together with the first (all kept) and the last (all lost) choice of the other files.
fn combinations(counts: &[usize], random: &mut Random) -> Vec<Vec<usize>> {
    let product = counts.iter().try_fold(1_usize, |product, &count| product.checked_mul(count));
    let varied = counts.iter().filter(|&&count| count > 1).count();
    if varied <= 1 || product.is_some_and(|product| product <= COMBINATIONS_MAX) {
        let mut all = vec![Vec::new()];
        for &count in counts {
            all = all.iter().flat_map(|head| (0..count).map(|i| [&head[..], &[i]].concat())).collect();
        }
        return all;
    }
    let mut all = Vec::new();
    for (file, &count) in counts.iter().enumerate() {
        for choice in 0..count {
            for others in [counts.iter().map(|_| 0).collect(), counts.iter().map(|n| n - 1).collect::<Vec<_>>()] {
                let mut chosen = others;
                chosen[file] = choice;
                all.push(chosen);
            }
        }
    }
    all.extend((0..RANDOM_SUBSETS).map(|_| counts.iter().map(|&count| random.below(count)).collect()));
    all
}

/// A file of which not everything is durable.
struct Suspect<'a> {
    inode: &'a Inode,
    /// Sectors that were written and differ from what is durable.
    differing: Vec<usize>,
    /// Sectors that were written without a change.
    same: Vec<usize>,
}

impl<'a> Suspect<'a> {
    fn new(inode: &'a Inode) -> Self {
        let touched = inode.touched_sectors();
        let (same, differing) = touched.partition(|&number| inode.live.same_sector(&inode.durable, number));
        Suspect { inode, differing, same }
    }

    /// The first one keeps everything, the last one loses everything.
    fn variants(&self, random: &mut Random) -> Vec<Variant> {
        let Inode { live, durable, .. } = self.inode;
        let count = self.differing.len();
        let all_kept = vec![Fate::Kept; count];
        let all_old = vec![Fate::Old; count];
        let fates = fates(count, random);
        let mut variants = Vec::new();
        for len in BTreeSet::from([live.len(), durable.len()]) {
            variants.extend(fates.iter().map(|fates| Variant { len, fates: fates.clone(), spoiled: None }));
        }
        let patterns: BTreeMap<usize, _> =
            [0, fates.len() - 1, random.below(fates.len()), random.below(fates.len())]
                .map(|i| (i, &fates[i]))
                .into();
        for len in self.lens(random) {
            let those = patterns.values().map(|&fates| Variant { len, fates: fates.clone(), spoiled: None });
            variants.extend(those);
        }
        if let (Some(&first), Some(&last)) = (self.same.first(), self.same.last()) {
            let any = self.same[random.below(self.same.len())];
            for spoiled in BTreeSet::from([first, any, last]) {
                let len = live.len().max(durable.len());
                let those =
                    patterns.values().map(|&fates| Variant { len, fates: fates.clone(), spoiled: Some(spoiled) });
                variants.extend(those);
            }
        }
        let is_first = |variant: &Variant| variant.len == live.len() && variant.fates == all_kept;
        let first = variants.iter().position(|variant| is_first(variant) && variant.spoiled.is_none()).unwrap();
        variants.swap(0, first);
        variants.push(Variant { len: durable.len(), fates: all_old, spoiled: None });
        variants
    }

    /// The lengths to try other than the live and the durable one.
    fn lens(&self, random: &mut Random) -> BTreeSet<u64> {
        let Inode { live, durable, lens, .. } = self.inode;
        let mut lens = lens.clone();
        let ends = [live.len(), durable.len()];
        let all = || lens.iter().chain(&ends);
        let (Some(&shortest), Some(&longest)) = (all().min(), all().max()) else { return lens };
        if shortest < longest {
            let sector = SECTOR_LEN as u64;
            let between = (shortest / sector + 1)..longest.div_ceil(sector);
            let count = between.end.saturating_sub(between.start);
            let near_ends = (0..count).filter(|i| *i < 3 || *i + 2 >= count);
            let chosen: Vec<u64> = near_ends.map(|i| (between.start + i) * sector).collect();
            lens.extend(chosen);
            // Odd lengths matter most within the data; the preallocated space is uniform.
            let last = self.differing.last().map_or(longest, |last| ((last + 1) * SECTOR_LEN) as u64);
            let end = last.clamp(shortest + 1, longest);
            lens.extend([shortest + 1, end - 1]);
            lens.extend((0..3).map(|_| shortest + random.next() % (end - shortest)));
        }
        for len in ends {
            lens.remove(&len);
        }
        lens
    }

    fn content(&self, variant: &Variant, random: &mut Random) -> Content {
        let Inode { live, durable, .. } = self.inode;
        // Only sectors that were written can differ, but a failed sync has left others that are on no disk.
        let mut content = durable.clone();
        content.set_len(live.len().max(durable.len()).max(variant.len));
        for (&number, fate) in self.differing.iter().zip(&variant.fates) {
            let sector = match fate {
                Fate::Kept => live.sector(number).cloned(),
                Fate::Old => continue,
                Fate::Zero => self.overwritten(number, |bytes| bytes.fill(0)),
                Fate::Garbage => self.overwritten(number, |bytes| random.fill(bytes)),
            };
            content.put_sector(number, sector);
        }
        if let Some(number) = variant.spoiled {
            content.put_sector(number, self.overwritten(number, |bytes| random.fill(bytes)));
        }
        content.set_len(variant.len);
        content
    }

    /// The durable sector with something else where it was written since.
    fn overwritten(&self, number: usize, fill: impl FnOnce(&mut [u8])) -> Option<Sector> {
        let touched = self.inode.touched[number];
        let mut bytes = self.inode.durable.sector_bytes(number);
        fill(&mut bytes[usize::from(touched.from)..usize::from(touched.to)]);
        Sector::new(bytes)
    }
}

/// What may have become of the sectors that differ.
fn fates(count: usize, random: &mut Random) -> Vec<Vec<Fate>> {
    if count <= FATES_MAX {
        let all = 0..FATES.len().pow(count as u32);
        return all
            .map(|n| (0..count).map(|i| FATES[n / FATES.len().pow(i as u32) % FATES.len()]).collect())
            .collect();
    }
    let mut all = vec![vec![Fate::Kept; count]];
    for kept in subsets(count, random) {
        if kept.iter().all(|&kept| kept) {
            continue;
        }
        for how in 0..=LOST.len() {
            let mut lost = || LOST.get(how).copied().unwrap_or_else(|| LOST[random.below(LOST.len())]);
            all.push(kept.iter().map(|&kept| if kept { Fate::Kept } else { lost() }).collect());
        }
    }
    all
}
