//! `map`: a picture of the state file. This file owns the arguments and the JSON report; `layout` finds out what
//! is where in the file, and `terminal` and `svg` draw it.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::target::{Target, absolute};
use crate::text::{Out, bytes, len_of};
use crate::verify::{self, Verified};

mod layout;
mod svg;
mod terminal;

use layout::Layout;

/// Draw a map of the state file
///
/// Shows the header, live bytes, dead bytes (replaced, removed, or the frames' own bytes), free space, a torn tail
/// and damage. Without the key, live and dead bytes are not distinguished. Also performs the checks of `verify`,
/// with the same exit codes. Uses colours only on a terminal, and not if NO_COLOR is set.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state map --svg map.svg")]
pub(crate) struct Args {
    /// Draw the map without the key: records, free space and damage
    #[arg(long)]
    no_key: bool,

    /// Write the map as SVG to this file, which must not exist; `-` writes it to stdout
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    svg: Option<PathBuf>,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let key = target.key_unless(args.no_key)?;
    if let Some(file) = &args.svg {
        if out.json && file.as_os_str() == "-" {
            return Err(Failure::usage("--svg - and --json both write to stdout; name a file for the picture"));
        }
        target.refuse_own_file(file)?;
    }
    let layout = Layout::read(target, key.as_ref())?;
    match &args.svg {
        None if out.json => out.report(&layout.report.path, Mapped::new(&layout)),
        None => terminal::draw(&layout, out),
        Some(file) if file.as_os_str() == "-" => out.bytes(svg::draw(&layout).as_bytes()),
        Some(file) => write_svg(file, &layout, out)?,
    }
    verify::check(&layout.report)
}

fn write_svg(file: &Path, layout: &Layout, out: &mut Out) -> Result<(), Failure> {
    let (picture, name) = (svg::draw(layout), absolute(file).display().to_string());
    File::create_new(file).and_then(|mut file| file.write_all(picture.as_bytes())).map_err(|error| match error
        .kind()
    {
        ErrorKind::AlreadyExists => Failure::usage(format!("{name} already exists; it was not changed")),
        _ => Failure::failed(format!("could not write {name}: {error}")),
    })?;
    let text = format!("{name}, {}", bytes(len_of(picture.as_bytes())));
    let fields = json!({ "svg": name, "svg_len": picture.len() });
    out.summary(&layout.report.path, fields, &[("picture", text)]);
    Ok(())
}

/// The report as JSON, without the path of the store.
#[derive(Serialize)]
struct Mapped<'a> {
    #[serde(flatten)]
    verified: Verified<'a>,
    /// The bytes of each kind.
    parts: Map<String, Value>,
    /// The bytes that each of the cells is for, but for the last one.
    cell_len: u64,
    /// One symbol for each.
    cells: String,
}

impl<'a> Mapped<'a> {
    fn new(layout: &'a Layout) -> Self {
        let (cell_len, cells) = layout.cells(terminal::CELLS_MAX);
        let part = |(kind, len): (layout::Kind, u64)| (kind.name().replace(' ', "_"), len.into());
        Mapped {
            verified: Verified::new(&layout.report),
            parts: layout.parts().into_iter().map(part).collect(),
            cell_len,
            cells: cells.into_iter().map(layout::Kind::symbol).collect(),
        }
    }
}
