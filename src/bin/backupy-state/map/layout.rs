//! Divides a state file into adjacent regions of one kind each, from its first byte to its last.

use std::ops::Range;

use backupy_state::testing::live_ranges;
use backupy_state::{AgentKey, Error, FaultKind, FrameInfo, Snapshot, VerifyReport};

use crate::failure::Failure;
use crate::target::Target;
use crate::verify;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Header,
    Live,
    Dead,
    /// Live or dead: only the key can distinguish them.
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

    pub(super) fn description(self) -> &'static str {
        match self {
            Kind::Header => "two copies, and marks of how far the log is durable",
            Kind::Live => "the contents of the store",
            Kind::Dead => "replaced or removed data, and the frames' own bytes",
            Kind::Record => "live and dead, not distinguished without the key",
            Kind::Torn => "an unfinished write; the next open quarantines it",
            Kind::Damaged => "fails its checks, or cannot be reached",
            Kind::Free => "zeros, preallocated for the next frames",
        }
    }

    pub(super) fn symbol(self) -> char {
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
    /// In file order, without gaps and without empty regions.
    regions: Vec<(Range<u64>, Kind)>,
}

impl Layout {
    /// Reads the whole file, also while a writer appends to it.
    pub(super) fn read(target: &Target, key: Option<&AgentKey>) -> Result<Self, Failure> {
        for _ in 0..ATTEMPTS {
            let mut frames = Vec::new();
            let each = |frame: &FrameInfo| frames.push(frame.offset..frame.offset + frame.len);
            let report = verify::with_bar("reading", target, key, each)?;
            let live = match key.map(|key| Snapshot::open(target.state(), key)).transpose() {
                Ok(None) => None,
                Ok(Some(snapshot)) if snapshot.stats().generation == report.generation => {
                    Some(live_ranges(&snapshot))
                }
                // A compaction replaced the file between the two reads; the next attempt reads the new file.
                Ok(Some(_)) => continue,
                // What is live in a damaged log is unknown; the report lists the faults.
                Err(Error::Corrupt { .. } | Error::Unauthentic { .. }) if !report.is_intact() => None,
                Err(error) => return Err(error.into()),
            };
            return Ok(Layout::new(report, &frames, live.as_deref()));
        }
        Err(Failure::failed("the log was compacted during every attempt to read it; try again"))
    }

    fn new(report: VerifyReport, frames: &[Range<u64>], live: Option<&[Range<u64>]>) -> Self {
        let mut regions = Regions { live: live.unwrap_or_default().iter().cloned().peekable(), all: Vec::new() };
        let file_len = report.file_len;
        let is_faulty = |range: &Range<u64>| report.faults.iter().any(|fault| range.contains(&fault.offset));
        // Without a header that can be used, nothing was checked: no generation is 0.
        let header_is_lost = report.generation == 0;
        // Such a fault means that neither copy can be used.
        let are_copies_lost = report.faults.iter().any(|fault| {
            fault.offset < COPIES[1].end && !matches!(fault.kind, FaultKind::Header | FaultKind::Index)
        });
        for part in COPIES.into_iter().chain([MARK_PAGE]) {
            let is_lost = header_is_lost || (are_copies_lost && part != MARK_PAGE) || is_faulty(&part);
            regions.add_through(part.end.min(file_len), if is_lost { Kind::Damaged } else { Kind::Header });
        }
        for frame in frames {
            // A gap between two frames: bytes that failed their checks, after which a frame was found.
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

    /// The number of bytes of each kind that the map shows.
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

    /// Divides the file into at most `max` cells of the same length, a power of two, and chooses the kind that
    /// each cell shows: damage, the header or a torn tail if the cell contains any, else the kind with the most
    /// bytes. Where live and dead regions are shorter than a cell, the numbers of live and dead cells are in
    /// proportion to the bytes.
    pub(super) fn cells(&self, max: u64) -> (u64, Vec<Kind>) {
        let file_len = self.report.file_len.max(1);
        let cell_len = file_len.div_ceil(max).next_power_of_two().max(CELL_LEN_MIN);
        let mut cells = vec![[0; Kind::ALL.len()]; usize::try_from(file_len.div_ceil(cell_len)).unwrap_or(0)];
        for (range, kind) in &self.regions {
            let mut at = range.start;
            while at < range.end {
                let cell = at / cell_len;
                let until = range.end.min((cell + 1) * cell_len);
                if let Some(bytes_of) = usize::try_from(cell).ok().and_then(|cell| cells.get_mut(cell)) {
                    bytes_of[*kind as usize] += until - at;
                }
                at = until;
            }
        }
        let mut live_due = 0.0;
        let shown = cells.iter().map(|bytes_of| shown(bytes_of, &mut live_due)).collect();
        (cell_len, shown)
    }
}

/// The kind that one cell shows. `live_due` carries the rounding error from cell to cell: the live bytes, in
/// cells, that the previous cells have not shown.
fn shown(bytes_of: &[u64; Kind::ALL.len()], live_due: &mut f64) -> Kind {
    let of = |kind: Kind| bytes_of[kind as usize];
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

/// The halves of the header page, each with a copy of the header and of the base record.
const COPIES: [Range<u64>; 2] = [0..2048, 2048..4096];
const MARK_PAGE: Range<u64> = 4096..8192;
/// The length of the shortest frame.
const CELL_LEN_MIN: u64 = 64;
const ATTEMPTS: usize = 5;
