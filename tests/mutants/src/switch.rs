//! Which mutant is enabled: `run` copies this file to `src/mutants.rs`.
//!
//! `MUTANT` is its number, read before `main`: a plain number costs little, even in a loop over bytes. With
//! `--cfg recording`, none is enabled: the number of each mutant that is reached is appended to the file that
//! `MUTANTS_REACHED` names. Child processes inherit both variables.

#[cfg(not(recording))]
mod enabled {
    static mut ENABLED: u32 = 0;

    #[used]
    #[unsafe(link_section = ".init_array")]
    static READ: extern "C" fn() = read;

    extern "C" fn read() {
        let number = std::env::var("MUTANT").ok().and_then(|number| number.parse().ok()).unwrap_or(0);
        // SAFETY: there is one thread before `main`.
        unsafe { ENABLED = number };
    }

    #[inline(always)]
    pub fn on(number: u32) -> bool {
        // SAFETY: no thread writes it after `main` has begun.
        unsafe { ENABLED == number }
    }
}
#[cfg(not(recording))]
pub use enabled::on;

#[cfg(recording)]
pub fn on(number: u32) -> bool {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};

    static REACHED: [AtomicBool; 1 << 14] = [const { AtomicBool::new(false) }; 1 << 14];
    let reached = &REACHED[number as usize];
    if !reached.load(Ordering::Relaxed)
        && !reached.swap(true, Ordering::Relaxed)
        && let Some(file) = std::env::var_os("MUTANTS_REACHED")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).open(file)
    {
        let _ = file.write_all(format!("{number}\n").as_bytes());
    }
    false
}
