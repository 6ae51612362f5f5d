//! An agent that makes calls on a machine, and checks each answer against the model.

use backupy_state::{Batch, Error, LogBatch, Result, Store};

use super::call::{Call, data_key, run_id, session_id, value};
use super::model::{Answer, Memory, Model};
use super::oracle::{BackedUp, Mark, Oracle};
use super::state::events_of;
use super::store::{Mode, Opened, key_of, open_at};
use super::{Machine, Sim};

/// An agent that makes calls on a machine, by default a simulated one, and records what the store has promised it.
#[derive(Debug)]
pub struct Agent<M = Sim> {
    pub sim: M,
    pub oracle: Oracle,
    pub backups: Vec<BackedUp>,
    /// Whether opening may find any state that the store ever had: the disk may have lied.
    pub takes_older_states: bool,
    mode: Mode,
    store: Option<Opened>,
    memory: Memory,
    /// The batch that goes with `memory.peeked`.
    peeked: Option<LogBatch>,
    number: u64,
    /// Whether it is unknown if a failed call took effect: then the log may hold more than the store shows.
    is_open_ended: bool,
    marks: Vec<Mark>,
}

impl<M: Machine> Agent<M> {
    /// Not started: there is no store yet.
    pub fn new(sim: M, mode: Mode) -> Self {
        let mut agent = Agent {
            sim,
            oracle: Oracle::default(),
            backups: Vec::new(),
            takes_older_states: false,
            mode,
            store: None,
            memory: Memory::default(),
            peeked: None,
            number: 0,
            is_open_ended: false,
            marks: Vec::new(),
        };
        agent.mark();
        agent
    }

    /// Another process than the one that made the calls before: its values and its backups are others.
    pub fn number_calls_from(&mut self, number: u64) {
        self.number = number;
    }

    /// Opens the store, or makes it. What it then holds is durable.
    pub fn start(&mut self) -> Result<()> {
        let opened = open_at(&self.sim, self.mode, &self.sim.path(), self.oracle.current().is_other_key)?;
        self.started(opened)
    }

    /// Opens the store with the key it is not under, and with the other one as the key it may still be under.
    fn start_rekeyed(&mut self) -> Result<()> {
        let is_other_key = !self.oracle.current().is_other_key;
        let next = Model { is_other_key, ..self.oracle.current().clone() };
        self.oracle.states.push(next);
        self.mark();
        let mut options = self.mode.options(&self.sim);
        options.previous_key(key_of(!is_other_key));
        let store = options.open(self.sim.path(), &key_of(is_other_key))?;
        assert!(store.recovery().rekeyed);
        self.started(Opened { store, is_other_key })
    }

    /// Goes on with a store that was just opened, which must hold a state that the oracle allows.
    pub fn started(&mut self, opened: Opened) -> Result<()> {
        (self.memory, self.peeked, self.is_open_ended) = (Memory::default(), None, false);
        let store = self.store.insert(opened);
        let found = Model::read(store)?;
        let is_found =
            |allowed: &Model| allowed.without_logs() == found && allowed.logs.len() == store.log_count();
        let allowed = if self.takes_older_states { self.oracle.history() } else { self.oracle.allowed() };
        let at = allowed.iter().rposition(is_found);
        let at = at.unwrap_or_else(|| panic!("found {found:#?}, not among {allowed:#?}"));
        let found = allowed[at].clone();
        self.oracle.settle(found);
        self.mark();
        Ok(())
    }

    pub fn store(&self) -> &Opened {
        self.store.as_ref().unwrap()
    }

    pub fn is_open(&self) -> bool {
        self.store.is_some()
    }

    /// Ends the process without a word to the store.
    pub fn kill(&mut self) {
        self.sim.kill();
        self.store = None;
    }

    /// Closes the store, if it is open.
    pub fn close(&mut self) -> Result<()> {
        let Some(opened) = self.store.take() else { return Ok(()) };
        let before = self.oracle.states.len() - 1;
        if self.memory.unrecorded > 0 {
            let mut next = self.oracle.current().clone();
            next.record_drops(&mut self.memory);
            self.oracle.states.push(next);
            self.mark();
        }
        opened.store.close()?;
        // A full disk may lose the count of dropped events, and nothing else.
        self.oracle.durable = if self.sim.may_be_full() { before } else { self.oracle.states.len() - 1 };
        self.mark();
        Ok(())
    }

    /// Makes the call and checks its answer. After an error that leaves the effect open, the state with it and the
    /// one without it are both allowed.
    pub fn make(&mut self, call: Call) -> Result<()> {
        self.number += 1;
        match call {
            Call::Reopen => {
                self.close()?;
                return self.start();
            }
            Call::Kill => {
                self.kill();
                return self.start();
            }
            Call::ReopenRekeyed => {
                self.close()?;
                return self.start_rekeyed();
            }
            Call::Backup => return self.back_up(),
            _ => {}
        }
        let mut memory = self.memory.clone();
        let (next, expected) = self.oracle.current().after(call, self.number, self.mode.when_full(), &mut memory);
        let changes = next.is_some();
        self.oracle.states.extend(next);
        self.mark();
        match self.answer(call) {
            Ok(answer) => {
                assert!(self.is_open_ended || answer == expected, "{call:?}: {answer:?}, not {expected:?}");
                self.memory = memory;
                if self.mode.is_durable(call) && (changes || matches!(call, Call::Sync | Call::Compact)) {
                    self.oracle.durable = self.oracle.states.len() - 1;
                }
                self.mark();
                Ok(())
            }
            Err(error) => {
                self.is_open_ended |= leaves_effect_open(call, &error);
                if changes && !leaves_effect_open(call, &error) {
                    self.oracle.states.pop();
                }
                self.mark();
                Err(error)
            }
        }
    }

    fn back_up(&mut self) -> Result<()> {
        let path = self.sim.folder().join(format!("backup-{}.db", self.number));
        self.backups.push(BackedUp { path: path.clone(), holds: self.oracle.current().clone(), done_at: None });
        self.mark();
        self.store().backup(&path)?;
        self.backups.last_mut().unwrap().done_at = Some(self.sim.ops());
        self.mark();
        Ok(())
    }

    fn answer(&mut self, call: Call) -> Result<Answer> {
        let Agent { store, peeked, number, .. } = self;
        let opened = store.as_mut().unwrap();
        match call {
            Call::PeekLogs { n } => {
                let batch = opened.peek_logs(n)?;
                let answer = Answer::Peeked(events_of(batch.events()), batch.dropped());
                *peeked = Some(batch);
                Ok(answer)
            }
            Call::AckLogs { n } => {
                let batch = match peeked {
                    Some(batch) => batch.clone(),
                    None => opened.peek_logs(n)?,
                };
                let removed = opened.ack_logs(&batch)?;
                *peeked = None;
                Ok(Answer::Removed(removed))
            }
            Call::Rekey => {
                opened.rekey(&key_of(!opened.is_other_key))?;
                opened.is_other_key = !opened.is_other_key;
                Ok(Answer::Done)
            }
            _ => answer(opened, call, *number),
        }
    }

    /// The states that a crash after so many operations may leave.
    pub fn allowed_at(&self, ops: usize) -> &[Model] {
        let mark = self.marks.iter().rev().find(|mark| mark.ops <= ops).unwrap();
        // A call that failed without an effect has taken its state back.
        &self.oracle.states[mark.durable..mark.states.min(self.oracle.states.len())]
    }

    /// How many changes had been acknowledged as durable after so many operations.
    pub fn acknowledged_at(&self, ops: usize) -> usize {
        self.marks.iter().rev().find(|mark| mark.ops <= ops).unwrap().durable
    }

    fn mark(&mut self) {
        let Oracle { states, durable } = &self.oracle;
        self.marks.push(Mark { ops: self.sim.ops(), durable: *durable, states: states.len() });
    }
}

/// Whether the record may be in the file all the same.
fn leaves_effect_open(call: Call, error: &Error) -> bool {
    match call {
        // The rename was made; a power cut may leave either of the two files.
        Call::Rekey => matches!(error, Error::Io { operation: "sync the folder", .. }),
        _ => matches!(error, Error::Io { operation: "write" | "sync", .. } | Error::Replaced { .. }),
    }
}

fn answer(store: &Store, call: Call, number: u64) -> Result<Answer> {
    Ok(match call {
        Call::SaveConfig { len } => {
            store.save_config(number, &value(number, len))?;
            Answer::Done
        }
        Call::Enqueue { job, len } => Answer::Enqueued(store.enqueue_job(&run_id(job), &value(number, len))?),
        Call::Ack { job } => Answer::Acked(store.ack_job(&run_id(job))?),
        Call::SaveSession { len } => {
            store.save_session(&session_id(number, len), number as i64)?;
            Answer::Done
        }
        Call::Heartbeat => {
            store.record_heartbeat(number as i64)?;
            Answer::Done
        }
        Call::BufferLog { ts_ms, len } => Answer::Admitted(store.buffer_log(ts_ms, &value(number, len))?),
        Call::Batch { job, len } => {
            let batch = Batch::new().ack_job(&run_id(job)).enqueue_job(&run_id(job + 1), &value(number, len));
            let batch = batch.put_data(&data_key(job), &value(number, len)).delete_data(&data_key(job + 1));
            store.write(&batch.record_heartbeat(number as i64).buffer_log(number as i64, &value(number, len)))?;
            Answer::Done
        }
        Call::PutData { key, len } => {
            store.put_data(&data_key(key), &value(number, len))?;
            Answer::Done
        }
        Call::DeleteData { key } => Answer::Deleted(store.delete_data(&data_key(key))?),
        Call::DrainLogs { n } => Answer::Drained(events_of(&store.drain_logs(n)?)),
        Call::Compact => {
            let generation = store.stats().generation;
            let report = store.compact()?;
            assert_eq!((report.generation, store.stats().generation), (generation + 1, generation + 1));
            Answer::Done
        }
        Call::Sync => {
            store.sync()?;
            Answer::Done
        }
        // The agent makes these itself.
        Call::PeekLogs { .. } | Call::AckLogs { .. } | Call::Rekey | Call::Backup => Answer::Done,
        Call::Reopen | Call::ReopenRekeyed | Call::Kill => Answer::Done,
    })
}
