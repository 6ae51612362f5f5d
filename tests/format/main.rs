//! Compares FORMAT.md with the code: the files on the page, their intermediate values, and two readers written
//! from the page alone, one in Rust and one in Python.
//!
//! The hex on the page is generated: `BACKUPY_WRITE_VECTORS=1 cargo test --test format the_page_is` writes it
//! anew.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic, and its numbers are small"
)]

use std::path::Path;

mod agree;
mod damaged;
#[path = "../common/depth.rs"]
mod depth;
mod golden;
mod memory;
mod mutated;
mod page_reader;
mod page_writer;
#[cfg(feature = "cli")]
mod python;
#[path = "../model/random.rs"]
mod random;
mod shapes;
mod tables;
mod vectors;
mod workload;

/// Has the store and both readers read the file, compares all that they say, and returns the row of FORMAT.md that
/// decided.
fn agree(file: &[u8], key: &[u8], what: &str) -> &'static str {
    #[cfg(feature = "cli")]
    python::agree(file, key, what);
    agree::agree(file, key, what)
}

fn page() -> String {
    std::fs::read_to_string(page_path()).unwrap()
}

fn page_path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("FORMAT.md")
}

#[test]
fn the_page_is_as_generated() {
    let page = page();
    let range = vectors::generated_part(&page);
    let generated = vectors::render(&vectors::vectors());
    if std::env::var_os("BACKUPY_WRITE_VECTORS").is_some() {
        let (before, after) = (&page[..range.start], &page[range.end..]);
        std::fs::write(page_path(), [before, &generated, after].concat()).unwrap();
        return;
    }
    for (on_page, generated) in page[range.clone()].lines().zip(generated.lines()) {
        assert_eq!(on_page, generated);
    }
    assert_eq!(page[range].len(), generated.len());
}

#[test]
fn the_store_writes_the_files_on_the_page() {
    let written = vectors::vectors().map(|vector| vector.bytes);
    assert_eq!(vectors::files_on_page(&page()), written);
}

#[test]
fn every_intermediate_value_on_the_page_follows_from_its_file() {
    let page = page();
    let mut vectors = vectors::vectors();
    for (vector, bytes) in vectors.iter_mut().zip(vectors::files_on_page(&page)) {
        vector.bytes = bytes;
    }
    let computed: Vec<_> = vectors.iter().flat_map(vectors::Vector::values).collect();
    let on_page = vectors::values_on_page(&page);
    assert!(on_page.len() > 100, "only {} values were found on the page", on_page.len());
    assert_eq!(on_page, computed);
}

#[test]
fn the_crc_has_the_check_value_of_the_page() {
    assert!(
        page().contains(&format!("check value for \"123456789\": {:#010X}", 0xCBF4_3926_u32).replace("0X", "0x"))
    );
    assert_eq!(page_reader::crc32(&[b"1234", b"56789"]), 0xCBF4_3926);
}
