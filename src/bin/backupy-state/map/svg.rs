//! The map as one self-contained SVG file.
//!
//! Colour-blind readers can distinguish the colours (after Okabe and Ito), and dead, torn and damaged regions are
//! hatched. The picture follows the viewer's choice of a light or dark theme.

use std::fmt::Write;

use crate::text::{bytes, counted, escaped, grouped};

use super::layout::{Kind, Layout};

const WIDTH: u64 = 916;
const LEFT: u64 = 116;
/// A power of two, so that each row begins at a round offset.
const COLUMNS: usize = 128;
const CELL_WIDTH: u64 = 6;
const ROWS_MAX: u64 = 24;
const ROW_STEP: u64 = 18;
const ROW_HEIGHT: u64 = 15;
const LEGEND_STEP: u64 = 24;

pub(super) fn draw(layout: &Layout) -> String {
    let (cell_len, cells) = layout.cells(COLUMNS as u64 * ROWS_MAX);
    let parts = layout.parts();
    let rows = cells.len().div_ceil(COLUMNS) as u64;
    let map_top = 172;
    let legend_top = map_top + rows * ROW_STEP + 34;
    let notes_top = legend_top + parts.len() as u64 * LEGEND_STEP + 22;
    let notes = notes(layout, cell_len);
    let height = notes_top + notes.len() as u64 * 20 + 8;

    let mut svg = head(layout, height);
    draw_shares(&mut svg, &parts, layout.report.file_len);
    for (row, kinds) in (0..).zip(cells.chunks(COLUMNS)) {
        draw_row(&mut svg, map_top + row * ROW_STEP, row * COLUMNS as u64 * cell_len, kinds);
    }
    for (i, (kind, len)) in (0..).zip(&parts) {
        draw_legend(&mut svg, legend_top + i * LEGEND_STEP, *kind, *len, layout.report.file_len);
    }
    for (i, (class, note)) in (0..).zip(&notes) {
        let y = notes_top + i * 20;
        let _ = writeln!(svg, r#"<text class="{class}" x="32" y="{y}">{}</text>"#, xml_escaped(note));
    }
    svg + "</svg>\n"
}

fn head(layout: &Layout, height: u64) -> String {
    let report = &layout.report;
    let path = xml_escaped(&shortened(&report.path.display().to_string(), 60));
    let (frames, len) = (counted(report.frames, "frame"), bytes(report.file_len));
    let facts = format!("{frames} in a file of {len}, generation {}", report.generation);
    let (right, inner) = (WIDTH - 1, height - 1);
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg"
 viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-labelledby="title">
<title id="title">Map of {path}</title>
<style>
text {{ font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
 font-size: 14px; fill: #1f2328; }}
.title {{ font-size: 20px; font-weight: 600; }}
.quiet {{ fill: #59636e; }}
.wrong {{ fill: #b3261e; font-weight: 600; }}
.offset {{ font-size: 12px; fill: #59636e; text-anchor: end; }}
.number {{ text-anchor: end; }}
.card {{ fill: #ffffff; stroke: #d1d9e0; }}
.line {{ stroke: #1f2328; stroke-opacity: 0.25; fill: none; }}
.header {{ fill: #0072b2; }}
.live {{ fill: #009e73; }}
.dead {{ fill: #c3c9cf; }}
.records {{ fill: #56b4e9; }}
.torn {{ fill: #f0e442; }}
.damaged {{ fill: #d55e00; }}
.free {{ fill: #eff2f5; }}
.stroke {{ stroke: #000000; stroke-opacity: 0.35; stroke-width: 1.3; }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3; }}
.quiet, .offset {{ fill: #9198a1; }}
.wrong {{ fill: #ff8f73; }}
.card {{ fill: #0d1117; stroke: #3d444d; }}
.line {{ stroke: #e6edf3; }}
.dead {{ fill: #59636e; }}
.free {{ fill: #1c222a; }}
}}
</style>
<defs>
<pattern id="dead" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<path class="stroke" d="M0 0V6"/></pattern>
<pattern id="torn" width="6" height="6" patternUnits="userSpaceOnUse"><path class="stroke" d="M0 3H6"/></pattern>
<pattern id="damaged" width="8" height="8" patternUnits="userSpaceOnUse">
<path class="stroke" d="M0 0L8 8M8 0L0 8"/></pattern>
</defs>
<rect class="card" x="0.5" y="0.5" width="{right}" height="{inner}" rx="10"/>
<text class="title" x="32" y="44">{path}</text>
<text class="quiet" x="32" y="68">{facts}</text>
"##
    )
}

/// Draws one bar with the share of each kind.
fn draw_shares(svg: &mut String, parts: &[(Kind, u64)], file_len: u64) {
    let (top, height) = (92, 26);
    let width = WIDTH - 64;
    let at = |len: u64| {
        32 + u64::try_from(u128::from(len) * u128::from(width) / u128::from(file_len.max(1))).unwrap_or(0)
    };
    let mut seen = 0;
    for (kind, len) in parts {
        let (from, to) = (at(seen), at(seen + len));
        // A kind with any bytes is visible, however few they are.
        let to = if *len > 0 { to.max(from + 1) } else { to };
        seen += len;
        draw_region(svg, *kind, from, top, to - from, height);
    }
    let _ = writeln!(svg, r#"<rect class="line" x="32" y="{top}" width="{width}" height="{height}"/>"#);
    let y = top + height + 36;
    let _ =
        writeln!(svg, r#"<text class="quiet" x="{LEFT}" y="{y}">the file from its first byte to its last</text>"#);
}

fn draw_row(svg: &mut String, top: u64, offset: u64, kinds: &[Kind]) {
    let (label_x, label_y) = (LEFT - 12, top + 12);
    let _ = writeln!(svg, r#"<text class="offset" x="{label_x}" y="{label_y}">{}</text>"#, grouped(offset));
    let mut x = LEFT;
    for run in kinds.chunk_by(|a, b| a == b) {
        let width = run.len() as u64 * CELL_WIDTH;
        draw_region(svg, run[0], x, top, width, ROW_HEIGHT);
        x += width;
    }
}

fn draw_legend(svg: &mut String, top: u64, kind: Kind, len: u64, file_len: u64) {
    draw_region(svg, kind, LEFT, top, 28, ROW_HEIGHT);
    let _ = writeln!(svg, r#"<rect class="line" x="{LEFT}" y="{top}" width="28" height="{ROW_HEIGHT}"/>"#);
    let y = top + 12;
    let percent = len as f64 * 100.0 / file_len.max(1) as f64;
    let _ = writeln!(svg, r#"<text x="{}" y="{y}">{}</text>"#, LEFT + 40, kind.name());
    let _ = writeln!(svg, r#"<text class="number" x="{}" y="{y}">{}</text>"#, LEFT + 290, bytes(len));
    let _ = writeln!(svg, r#"<text class="number quiet" x="{}" y="{y}">{percent:.1} %</text>"#, LEFT + 360);
    let _ = writeln!(svg, r#"<text class="quiet" x="{}" y="{y}">{}</text>"#, LEFT + 384, kind.description());
}

fn draw_region(svg: &mut String, kind: Kind, x: u64, y: u64, width: u64, height: u64) {
    if width == 0 {
        return;
    }
    let class = if kind == Kind::Torn { "torn" } else { kind.name() };
    let _ = writeln!(svg, r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}"/>"#);
    if matches!(kind, Kind::Dead | Kind::Torn | Kind::Damaged) {
        let _ =
            writeln!(svg, r##"<rect fill="url(#{class})" x="{x}" y="{y}" width="{width}" height="{height}"/>"##);
    }
}

/// The lines of text at the bottom, each with its CSS class.
fn notes(layout: &Layout, cell_len: u64) -> Vec<(&'static str, String)> {
    let mut notes = vec![("quiet", format!("The smallest step is {}.", bytes(cell_len)))];
    let faults = &layout.report.faults;
    for fault in faults.iter().take(FAULTS_MAX) {
        notes.push(("wrong", format!("At offset {}: {}.", grouped(fault.offset), fault.what)));
    }
    if faults.len() > FAULTS_MAX {
        notes.push(("wrong", format!("And {} more.", faults.len() - FAULTS_MAX)));
    }
    notes
}

const FAULTS_MAX: usize = 5;

/// Keeps the end of a long path, which identifies the file better than its beginning.
fn shortened(path: &str, max: usize) -> String {
    let path = escaped(path);
    let count = path.chars().count();
    if count <= max { path } else { format!("…{}", path.chars().skip(count - max + 1).collect::<String>()) }
}

fn xml_escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
