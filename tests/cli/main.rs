//! The command line, run as a user would run it: one file for each command, and a few for what commands share.

#![allow(clippy::unwrap_used, reason = "test helpers may panic, as tests do")]

mod advice;
mod anchor;
mod backup;
mod compact;
mod completions;
mod config;
mod damage_table;
mod data;
mod demo;
mod documented;
mod dump_state;
mod exit_codes;
mod frames;
mod global_options;
mod health_check;
mod heartbeat;
mod help;
mod import;
mod init;
mod input;
mod json;
mod logs;
mod maintenance;
mod man;
mod map;
mod output;
mod prometheus;
mod queue;
mod rekey;
mod remedies;
mod running_agent;
mod salvage;
mod sandbox;
mod secrets;
mod session;
mod shown_examples;
mod stats;
mod terminal;
mod verify;

#[path = "../import_bolt/writer.rs"]
mod bolt;
