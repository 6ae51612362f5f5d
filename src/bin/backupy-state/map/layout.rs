//! What lies where in a state file: stretches of one kind side by side, from its first byte to its last.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use backupy_state::{AgentKey, Error, FaultKind, Snapshot, VerifyReport};

use crate::failure::Failure;
use crate::place::Place;
use crate::progress::{self, Step};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Header,
    Live,
    Dead,
    /// Live or dead, which only the key tells.
    Record,
    Torn,
    Damaged,
    Free,
}

impl Kind {
    pub(super) const ALL: [Kind; 7] =
        [Kind::Header, Kind::Live, Kind::Dead, Kind::Record, Kind::Torn, Kind::Damaged, Kind::Free];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Header => "header",
            Kind::Live => "live",
            Kind::Dead => "dead",
            Kind::Record => "records",
            Kind::Torn => "torn tail",
            Kind::Damaged => "damaged",
            Kind::Free => "free",
        }
    }

    pub(super) fn means(self) -> &'static str {
        match self {
            Kind::Header => "written once, two copies",
            Kind::Live => "what the store holds",
            Kind::Dead => "replaced, removed, and the frames' own bytes",
            Kind::Record => "live and dead, not told apart",
            Kind::Torn => "left by a crash; the next open sets it aside",
            Kind::Damaged => "does not check, or cannot be reached",
            Kind::Free => "zeros, ready for the next frames",
        }
    }

    pub(super) fn mark(self) -> char {
        match self {
            Kind::Header => 'H',
            Kind::Live => '#',
            Kind::Dead => 'x',
            Kind::Record => '=',
            Kind::Torn => '~',
            Kind::Damaged => '!',
            Kind::Free => '.',
        }
    }
}

pub(super) struct Layout {
    pub(super) report: VerifyReport,
    /// In the order of the file, without gaps, none of them empty.
    regions: Vec<(Range<u64>, Kind)>,
}

impl Layout {
    /// Looks at the whole file, beside a writer too.
    pub(super) fn read(place: &Place, key: Option<&AgentKey>) -> Result<Self, Failure> {
        for _ in 0..ATTEMPTS {
            let (report, frames) = read_frames(place, key)?;
            let live = match key.map(|key| Snapshot::open(place.state(), key)).transpose() {
                Ok(None) => None,
                Ok(Some(snapshot)) if snapshot.stats().generation == report.generation => {
                    Some(backupy_state::testing::live_ranges(&snapshot))
                }
                // A compaction came in between; the next look is at the new file.
                Ok(Some(_)) => continue,
                // What is live in a damaged log, nobody can say; the report has what is wrong.
                Err(Error::Corrupt { .. } | Error::Unauthentic { .. }) if !report.is_intact() => None,
                Err(error) => return Err(error.into()),
            };
            return Ok(Layout::new(report, &frames, live.as_deref()));
        }
        Err(Failure::failed("the log was compacted again and again meanwhile; try once more"))
    }

    fn new(report: VerifyReport, frames: &[Range<u64>], live: Option<&[Range<u64>]>) -> Self {
        let mut regions = Regions { live: live.unwrap_or_default().iter().cloned().peekable(), all: Vec::new() };
        let file_len = report.file_len;
        let is_faulty = |range: &Range<u64>| report.faults.iter().any(|fault| range.contains(&fault.offset));
        let header_is_lost =
            report.faults.iter().any(|fault| fault.offset < HEADER_LEN && fault.kind != FaultKind::Header);
        for copy in [0..HEADER_LEN / 2, HEADER_LEN / 2..HEADER_LEN] {
            let kind = if header_is_lost || is_faulty(&copy) { Kind::Damaged } else { Kind::Header };
            regions.add_through(copy.end.min(file_len), kind);
        }
        for frame in frames {
            // Between two frames, where a reader has found its way over what does not check.
            regions.add_through(frame.start, Kind::Damaged);
            match live {
                _ if is_faulty(frame) => regions.add_through(frame.end, Kind::Damaged),
                None => regions.add_through(frame.end, Kind::Record),
                Some(_) => regions.add_live_or_dead_through(frame.end),
            }
        }
        let end = regions.end();
        regions.add_through(end + report.torn_len, Kind::Torn);
        let tail = regions.end()..file_len.max(regions.end());
        let is_reached = !header_is_lost && !is_faulty(&tail);
        regions.add_through(file_len, if is_reached { Kind::Free } else { Kind::Damaged });
        Layout { report, regions: regions.all }
    }

    /// How many bytes there are of each kind, of those that the picture has.
    pub(super) fn parts(&self) -> Vec<(Kind, u64)> {
        let always = |kind| match kind {
            Kind::Header | Kind::Free => true,
            Kind::Live | Kind::Dead => self.regions.iter().all(|(_, kind)| *kind != Kind::Record),
            Kind::Record | Kind::Torn | Kind::Damaged => false,
        };
        let len_of = |kind| {
            let of_kind = self.regions.iter().filter(|(_, its)| *its == kind);
            of_kind.map(|(range, _)| range.end - range.start).sum::<u64>()
        };
        let parts = Kind::ALL.map(|kind| (kind, len_of(kind)));
        parts.into_iter().filter(|(kind, len)| *len > 0 || always(*kind)).collect()
    }

    /// The file in cells of the same length, a power of two of bytes, at most `max` of them, and what each shows: what is wrong
    /// wins, and the header; else what there is most of. Where live and dead are finer than a cell, as many cells show the
    /// one and the other as there are bytes.
    pub(super) fn cells(&self, max: u64) -> (u64, Vec<Kind>) {
        let file_len = self.report.file_len.max(1);
        let cell_len = file_len.div_ceil(max).next_power_of_two().max(CELL_LEN_MIN);
        let mut held = vec![[0; Kind::ALL.len()]; usize::try_from(file_len.div_ceil(cell_len)).unwrap_or(0)];
        for (range, kind) in &self.regions {
            let mut at = range.start;
            while at < range.end {
                let cell = at / cell_len;
                let until = range.end.min((cell + 1) * cell_len);
                if let Some(held) = usize::try_from(cell).ok().and_then(|cell| held.get_mut(cell)) {
                    held[*kind as usize] += until - at;
                }
                at = until;
            }
        }
        let mut live_due = 0.0;
        let shown = held.iter().map(|held| shown(held, &mut live_due)).collect();
        (cell_len, shown)
    }
}

/// What one cell shows. `live_due` carries what the cells before it have shown too little of.
fn shown(held: &[u64; Kind::ALL.len()], live_due: &mut f64) -> Kind {
    let of = |kind: Kind| held[kind as usize];
    for kind in [Kind::Damaged, Kind::Header, Kind::Torn] {
        if of(kind) > 0 {
            return kind;
        }
    }
    let (live, dead) = (of(Kind::Live), of(Kind::Dead));
    if of(Kind::Free) > live + dead + of(Kind::Record) {
        return Kind::Free;
    }
    if of(Kind::Record) > 0 {
        return Kind::Record;
    }
    *live_due += live as f64 / (live + dead).max(1) as f64;
    if *live_due < 0.5 {
        return Kind::Dead;
    }
    *live_due -= 1.0;
    Kind::Live
}

struct Regions<L: Iterator<Item = Range<u64>>> {
    live: std::iter::Peekable<L>,
    all: Vec<(Range<u64>, Kind)>,
}

impl<L: Iterator<Item = Range<u64>>> Regions<L> {
    fn end(&self) -> u64 {
        self.all.last().map_or(0, |(range, _)| range.end)
    }

    fn add_through(&mut self, end: u64, kind: Kind) {
        let start = self.end();
        match self.all.last_mut() {
            _ if end <= start => {}
            Some((last, its)) if *its == kind => last.end = end,
            _ => self.all.push((start..end, kind)),
        }
    }

    fn add_live_or_dead_through(&mut self, end: u64) {
        while let Some(live) = self.live.next_if(|live| live.start < end) {
            self.add_through(live.start, Kind::Dead);
            self.add_through(live.end, Kind::Live);
        }
        self.add_through(end, Kind::Dead);
    }
}

fn read_frames(place: &Place, key: Option<&AgentKey>) -> Result<(VerifyReport, Vec<Range<u64>>), Failure> {
    let (done, whole) = (AtomicU64::new(0), place.state_len());
    let how_far = || Step { name: "reading", done: done.load(Relaxed), whole };
    let mut frames = Vec::new();
    let report = progress::shown(how_far, || {
        backupy_state::verify_each(place.state(), key, |frame| {
            frames.push(frame.offset..frame.offset + frame.len);
            done.store(frame.offset + frame.len, Relaxed);
        })
    })?;
    Ok((report, frames))
}

const HEADER_LEN: u64 = 4096;
/// As long as the shortest frame.
const CELL_LEN_MIN: u64 = 64;
const ATTEMPTS: usize = 5;
