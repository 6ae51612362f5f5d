//! Measures every figure in a process and a folder of its own, the engines in turn, round by round.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::engines::{BBOLT, BBOLT_BATCH, FLOOR, RING, STORE};
use crate::figure::Figure;
use crate::report;
use crate::works::{self, Work};

#[derive(Default)]
pub(crate) struct Options {
    rounds: usize,
    only: Vec<String>,
    /// The binary that was built with feature `ring`.
    ring: Option<PathBuf>,
    /// The Go program.
    bbolt: Option<PathBuf>,
    /// Versions that the lock file does not know.
    pub(crate) versions: Vec<String>,
    pub(crate) date: String,
    /// Where the stores lie while they are measured.
    pub(crate) work: PathBuf,
    /// A disk that nobody else writes to, for the work that counts what is written.
    pub(crate) own_disk: Option<PathBuf>,
    /// Where the report goes.
    out: PathBuf,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Self {
        let mut options = Options { rounds: 5, work: "target".into(), out: "..".into(), ..Options::default() };
        for pair in words.chunks(2) {
            match *pair {
                ["--rounds", count] => options.rounds = count.parse().expect("a number behind --rounds"),
                ["--only", name] => options.only.push(name.to_owned()),
                ["--ring", path] => options.ring = Some(path.into()),
                ["--bbolt", path] => options.bbolt = Some(path.into()),
                ["--version-of", version] => options.versions.push(version.to_owned()),
                ["--date", date] => options.date = date.to_owned(),
                ["--work", path] => options.work = path.into(),
                ["--own-disk", path] => options.own_disk = Some(path.into()),
                ["--out", path] => options.out = path.into(),
                _ => panic!("what is {pair:?}? --rounds N, --only NAME, --work FOLDER, --out FOLDER"),
            }
        }
        options
    }

    pub(crate) fn run(&self) {
        assert!(
            !report::is_in_memory(&self.work),
            "a sync does nothing in memory: give a folder on a disk by --work"
        );
        let works: Vec<_> = works::all().into_iter().filter(|work| self.is_wanted(work)).collect();
        let mut results = Results::default();
        for round in 0..self.rounds {
            for work in &works {
                let begun = Instant::now();
                for repeat in 0..work.repeats {
                    self.measure(work, round * work.repeats + repeat, &mut results);
                }
                eprintln!("round {} {:<20} {:>6.1} s", round + 1, work.name, begun.elapsed().as_secs_f64());
            }
            // A part of the table must not take the place of the whole.
            if self.only.is_empty() {
                report::write(&self.out, &results, self, round + 1);
            }
        }
        if !self.only.is_empty() {
            println!("{}", report::tables(&results));
        }
    }

    fn is_wanted(&self, work: &Work) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| work.name.contains(word.as_str()))
    }

    fn measure(&self, work: &Work, round: usize, results: &mut Results) {
        let mut engines = work.engines.to_vec();
        // So that none is always the first or the last.
        let len = engines.len();
        engines.rotate_left(round % len);
        for engine in engines {
            let Some(program) = self.program(engine) else { continue };
            let disk = self.own_disk.as_ref().filter(|_| work.name == "device").unwrap_or(&self.work);
            let folder = tempfile::tempdir_in(disk).unwrap();
            rustix::fs::syncfs(std::fs::File::open(disk).unwrap()).unwrap();
            match run(&program, work.name, engine, folder.path()) {
                Ok(figure) => results.add(work.name, engine, round, figure),
                Err(why) => eprintln!("{} by {engine}: {why}", work.name),
            }
        }
    }

    fn program(&self, engine: &str) -> Option<PathBuf> {
        match engine {
            RING => self.ring.clone(),
            BBOLT | BBOLT_BATCH => self.bbolt.clone(),
            _ => std::env::current_exe().ok(),
        }
    }
}

fn run(program: &Path, work: &str, engine: &str, folder: &Path) -> Result<Figure, String> {
    let output = Command::new(program).args(["run", work, engine]).arg(folder).output();
    let output = output.map_err(|error| error.to_string())?;
    let line = String::from_utf8_lossy(&output.stdout);
    Figure::from_json(line.trim()).ok_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// All figures of a run.
#[derive(Default)]
pub(crate) struct Results(BTreeMap<(&'static str, &'static str), BTreeMap<usize, Figure>>);

/// A figure: work, engine, field.
pub(crate) type Name = (&'static str, &'static str, &'static str);

/// Over the rounds.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median =
            if values.len().is_multiple_of(2) { (values[half - 1] + values[half]) / 2.0 } else { values[half] };
        Some(Spread { median, least, most })
    }

    pub(crate) fn map(self, change: impl Fn(f64) -> f64) -> Self {
        let (a, b) = (change(self.least), change(self.most));
        Spread { median: change(self.median), least: a.min(b), most: a.max(b) }
    }
}

impl Results {
    fn add(&mut self, work: &'static str, engine: &'static str, round: usize, figure: Figure) {
        self.0.entry((work, engine)).or_default().insert(round, figure);
    }

    fn get(&self, (work, engine, field): Name, round: usize) -> Option<f64> {
        self.0.get(&(work, engine))?.get(&round)?.0.get(field).copied()
    }

    pub(crate) fn rounds(&self) -> std::ops::Range<usize> {
        0..self.0.values().flat_map(|rounds| rounds.keys()).max().map_or(0, |last| last + 1)
    }

    pub(crate) fn spread(&self, name: Name) -> Option<Spread> {
        Spread::of(self.rounds().filter_map(|round| self.get(name, round)).collect())
    }

    /// One figure by another of the same round.
    pub(crate) fn ratio(&self, above: Name, below: Name) -> Option<Spread> {
        let ratio = |round| Some(self.get(above, round)? / self.get(below, round)?);
        Spread::of(self.rounds().filter_map(ratio).collect())
    }

    pub(crate) fn has_field(&self, work: &str, field: &str) -> bool {
        let mut of_work = self.0.iter().filter(|((of, _), _)| *of == work);
        of_work.any(|(_, rounds)| rounds.values().any(|figure| figure.0.contains_key(field)))
    }

    pub(crate) fn has(&self, work: &str) -> bool {
        self.0.keys().any(|(of, _)| *of == work)
    }

    /// The peer with the least median.
    pub(crate) fn best_peer(&self, work: &str, field: &'static str) -> Option<&'static str> {
        let is_peer = |engine: &str| ![STORE, RING, FLOOR].contains(&engine);
        let of_work = self.0.keys().filter(|(of, engine)| *of == work && is_peer(engine));
        let medians =
            of_work.filter_map(|(work, engine)| Some((*engine, self.spread((work, engine, field))?.median)));
        medians.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(engine, _)| engine)
    }
}
