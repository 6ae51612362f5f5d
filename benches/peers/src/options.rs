//! The command line of a run.

use std::path::PathBuf;

#[derive(Default)]
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) only: Vec<String>,
    /// The binary that was built with feature `ring`.
    pub(crate) ring: Option<PathBuf>,
    /// The Go program.
    pub(crate) bbolt: Option<PathBuf>,
    /// Versions that are not in the lock file.
    pub(crate) versions: Vec<String>,
    pub(crate) date: String,
    /// Where the stores are while they are measured.
    pub(crate) work: PathBuf,
    /// A disk that no other process writes to, for the workload that counts the bytes written.
    pub(crate) own_disk: Option<PathBuf>,
    /// Where the report is written.
    pub(crate) out: PathBuf,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Self {
        let mut options = Options { rounds: 5, work: "target".into(), out: "..".into(), ..Options::default() };
        for pair in words.chunks(2) {
            match *pair {
                ["--rounds", count] => options.rounds = count.parse().expect("--rounds takes a number"),
                ["--only", name] => options.only.push(name.to_owned()),
                ["--ring", path] => options.ring = Some(path.into()),
                ["--bbolt", path] => options.bbolt = Some(path.into()),
                ["--version-of", version] => options.versions.push(version.to_owned()),
                ["--date", date] => options.date = date.to_owned(),
                ["--work", path] => options.work = path.into(),
                ["--own-disk", path] => options.own_disk = Some(path.into()),
                ["--out", path] => options.out = path.into(),
                _ => {
                    panic!("unknown option {pair:?}; known: --rounds N, --only NAME, --work FOLDER, --out FOLDER")
                }
            }
        }
        options
    }
}
