//! The command line, run as a user would run it.

mod codes;
mod demo;
mod keys;
mod place;
mod reports;
