#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backupy_state_fuzz::index::run(bytes));
