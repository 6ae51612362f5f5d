//! The command line, run as a user would run it.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod codes;
mod demo;
mod keys;
mod place;
mod reports;
mod salvage;
mod looks;
mod upkeep;
