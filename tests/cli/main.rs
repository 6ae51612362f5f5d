//! The command line, run as a user would run it.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod codes;
mod data;
mod demo;
mod describe;
mod import;
mod keys;
mod map;
mod place;
mod reports;
mod salvage;
mod looks;
mod terminal;
mod upkeep;

#[path = "../import_bolt/writer.rs"]
mod bolt;
