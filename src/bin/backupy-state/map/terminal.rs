//! The map as text. Each kind has its own symbol, so that the map is complete without colours.

use std::env;
use std::io::{self, IsTerminal};

use crate::text::{Out, bytes, grouped};

use super::layout::{Kind, Layout};

const WIDTH: usize = 64;
const HEIGHT: usize = 16;
pub(super) const CELLS_MAX: u64 = (WIDTH * HEIGHT) as u64;

pub(super) fn draw(layout: &Layout, out: &mut Out) {
    let paint = Paint::new();
    let (cell_len, cells) = layout.cells(CELLS_MAX);
    let report = &layout.report;
    out.row("state", report.path.display());
    out.row("generation", report.generation);
    out.row("frames", grouped(report.frames));
    out.row("file", format_args!("{}, {} per symbol", bytes(report.file_len), bytes(cell_len)));
    out.line("");
    let room = out.width_for(WIDTH, OFFSET_WIDTH);
    // A power of two, so that each row begins at a round offset.
    let width = [WIDTH, WIDTH / 2].into_iter().find(|width| *width <= room).unwrap_or(WIDTH / 4);
    for (row, kinds) in cells.chunks(width).enumerate() {
        let offset = len_of_cells(row * width, cell_len);
        out.drawing(format_args!("{:>11} {}", grouped(offset), paint.all(kinds)), OFFSET_WIDTH + kinds.len(), "");
    }
    out.line("");
    let parts = layout.parts();
    let longest = parts.iter().map(|(_, len)| bytes(*len).len()).max().unwrap_or_default();
    for (kind, len) in parts {
        let (symbol, name, description) = (paint.all(&[kind]), kind.name(), kind.description());
        let text = format!(" {name:<10} {:>longest$}  {description}", bytes(len));
        out.drawing(format_args!("{:>OFFSET_WIDTH$}{symbol}", ""), OFFSET_WIDTH + 1, &text);
    }
}

fn len_of_cells(count: usize, cell_len: u64) -> u64 {
    count as u64 * cell_len
}

const OFFSET_WIDTH: usize = 12;

/// Whether symbols are coloured.
struct Paint(bool);

impl Paint {
    fn new() -> Self {
        let is_set = |var| env::var_os(var).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Paint(io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb)
    }

    fn all(&self, kinds: &[Kind]) -> String {
        let runs = kinds.chunk_by(|a, b| a == b);
        runs.map(|run| self.run(run[0], run.len())).collect()
    }

    fn run(&self, kind: Kind, count: usize) -> String {
        let symbols = kind.symbol().to_string().repeat(count);
        if self.0 { format!("\x1b[{}m{symbols}\x1b[0m", colours(kind)) } else { symbols }
    }
}

/// From the palette of 256 colours: those closest to the colours of the SVG.
fn colours(kind: Kind) -> &'static str {
    match kind {
        Kind::Header => "97;48;5;25",
        Kind::Live => "30;48;5;36",
        Kind::Dead => "30;48;5;246",
        Kind::Record => "30;48;5;74",
        Kind::Torn => "30;48;5;220",
        Kind::Damaged => "97;48;5;160",
        Kind::Free => "2",
    }
}
