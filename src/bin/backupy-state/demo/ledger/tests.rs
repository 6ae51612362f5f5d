//! That the ledger finds each kind of loss when one is made up, and none where there is none.

use super::*;

/// Calls as an agent makes them, with numbers of their own.
#[derive(Default)]
struct Agent {
    ledger: Ledger,
    calls: u64,
}

impl Agent {
    fn begin(&mut self, kind: Kind, cell: &str, mark: Option<u64>) -> u64 {
        self.calls += 1;
        self.ledger.note(Message::Begun { call: self.calls, kind, cell: cell.to_owned(), mark });
        self.calls
    }

    fn end(&mut self, call: u64) {
        self.ledger.note(Message::Done { call });
    }

    fn put(&mut self, cell: &str, mark: u64) {
        let call = self.begin(Kind::EnqueueJob, cell, Some(mark));
        self.end(call);
    }

    fn remove(&mut self, cell: &str) {
        let call = self.begin(Kind::AckJob, cell, None);
        self.end(call);
    }

    fn begin_drain(&mut self, n: u64) -> u64 {
        self.calls += 1;
        self.ledger.note(Message::DrainBegun { call: self.calls, n });
        self.calls
    }

    fn drain(&mut self, events: &[Event]) {
        let call = self.begin_drain(8);
        self.ledger.note(Message::Drained { call, events: events.to_vec() });
    }

    fn reopen(&mut self, held: &[(&str, u64)], log_events: u64) {
        for (cell, mark) in held {
            self.ledger.note(Message::Found { cell: (*cell).to_owned(), mark: *mark });
        }
        self.ledger.note(Message::Opened(Opened { records: 0, bytes_set_aside: 0, took_us: 0, log_events }));
    }

    /// What is wrong at the end of the day.
    fn settle(mut self, held: &[(&str, u64)], events: &[Event]) -> Vec<String> {
        let held = held.iter().map(|(cell, mark)| ((*cell).to_owned(), *mark)).collect();
        self.ledger.settle(&held, events);
        self.ledger.losses.iter().map(|loss| format!("{} {}", loss.cell, loss.what)).collect()
    }
}

fn event(n: u64, ts_ms: i64) -> Event {
    Event { cell: format!("log/{n}"), ts_ms, mark: n }
}

const NOTHING: [String; 0] = [];

#[test]
fn a_store_that_holds_its_word_loses_nothing() {
    let mut agent = Agent::default();
    agent.put("config", 1);
    agent.put("config", 2);
    agent.put("job/a", 3);
    agent.put("job/b", 4);
    agent.remove("job/a");
    agent.put("log/1", 1);
    agent.put("log/2", 2);
    agent.drain(&[event(1, 10)]);
    assert_eq!(agent.settle(&[("config", 2), ("job/b", 4)], &[event(2, 20)]), NOTHING);
}

#[test]
fn an_acknowledged_job_that_is_gone_is_lost() {
    let mut agent = Agent::default();
    agent.put("job/a", 1);
    assert_eq!(agent.settle(&[], &[]), ["job/a was acknowledged and is gone"]);
}

#[test]
fn a_loss_at_a_restart_is_found_there_and_only_once() {
    let mut agent = Agent::default();
    agent.put("job/a", 1);
    agent.put("job/b", 2);
    assert_eq!(agent.ledger.note_death(), 0);
    agent.reopen(&[("job/b", 2)], 0);
    assert_eq!(agent.ledger.losses.len(), 1);
    assert_eq!(agent.settle(&[("job/b", 2)], &[]), ["job/a was acknowledged and is gone"]);
}

#[test]
fn another_payload_than_the_acknowledged_one_is_a_loss() {
    let mut agent = Agent::default();
    agent.put("job/a", 1);
    agent.put("job/a", 2);
    assert_eq!(agent.settle(&[("job/a", 1)], &[]), ["job/a holds an older value than the acknowledged one"]);

    let mut agent = Agent::default();
    agent.put("job/a", 1);
    assert_eq!(agent.settle(&[("job/a", 9)], &[]), ["job/a holds a value that no call ever wrote"]);
}

#[test]
fn an_acked_job_that_comes_back_is_a_loss() {
    let mut agent = Agent::default();
    agent.put("job/a", 1);
    agent.remove("job/a");
    agent.ledger.note_death();
    agent.reopen(&[("job/a", 1)], 0);
    assert_eq!(agent.ledger.losses[0].what, "was removed and is back");
}

#[test]
fn what_nobody_wrote_is_a_loss() {
    assert_eq!(Agent::default().settle(&[("job/x", 1)], &[]), ["job/x holds a value that no call ever wrote"]);
    let mut agent = Agent::default();
    agent.ledger.check_seen("job/y", 1);
    agent.ledger.note(Message::Delivered { cell: "job/z".to_owned(), mark: 1 });
    assert_eq!(agent.ledger.losses.len(), 2);
}

#[test]
fn a_call_in_flight_at_a_kill_may_have_happened_or_not() {
    for held in [vec![], vec![("job/a", 1)]] {
        let mut agent = Agent::default();
        agent.begin(Kind::EnqueueJob, "job/a", Some(1));
        assert_eq!(agent.ledger.note_death(), 1);
        agent.reopen(&held, 0);
        assert_eq!(agent.settle(&held, &[]), NOTHING);
    }
}

#[test]
fn what_a_restart_has_shown_must_stay() {
    let mut agent = Agent::default();
    agent.begin(Kind::EnqueueJob, "job/a", Some(1));
    agent.ledger.note_death();
    agent.reopen(&[("job/a", 1)], 0);
    agent.ledger.note_death();
    agent.reopen(&[], 0);
    assert_eq!(agent.ledger.losses.len(), 1);
}

#[test]
fn of_overlapping_calls_either_may_be_the_last() {
    for held in [vec![], vec![("job/a", 2)]] {
        let mut agent = Agent::default();
        agent.put("job/a", 1);
        let put = agent.begin(Kind::EnqueueJob, "job/a", Some(2));
        let ack = agent.begin(Kind::AckJob, "job/a", None);
        agent.end(put);
        agent.end(ack);
        assert_eq!(agent.settle(&held, &[]), NOTHING);
    }
    let mut agent = Agent::default();
    agent.put("job/a", 1);
    let put = agent.begin(Kind::EnqueueJob, "job/a", Some(2));
    let ack = agent.begin(Kind::AckJob, "job/a", None);
    agent.end(put);
    agent.end(ack);
    assert_eq!(agent.settle(&[("job/a", 1)], &[]).len(), 1);
}

#[test]
fn a_delivered_job_was_there_before_its_ack_though_its_own_call_had_not_returned() {
    let mut agent = Agent::default();
    let put = agent.begin(Kind::EnqueueJob, "job/a", Some(1));
    agent.ledger.note(Message::Delivered { cell: "job/a".to_owned(), mark: 1 });
    agent.remove("job/a");
    agent.end(put);
    assert_eq!(agent.settle(&[("job/a", 1)], &[]), ["job/a was removed and is back"]);
}

#[test]
fn a_second_delivery_is_counted_and_no_loss() {
    let mut agent = Agent::default();
    agent.put("job/a", 1);
    for _ in 0..2 {
        agent.ledger.note(Message::Delivered { cell: "job/a".to_owned(), mark: 1 });
    }
    assert_eq!((agent.ledger.deliveries, agent.ledger.repeated_deliveries), (2, 1));
    assert_eq!(agent.settle(&[("job/a", 1)], &[]), NOTHING);
}

#[test]
fn an_acknowledged_log_event_that_is_gone_is_lost() {
    let mut agent = Agent::default();
    agent.put("log/1", 1);
    agent.put("log/2", 2);
    let wrong = agent.settle(&[], &[event(1, 10)]);
    assert_eq!(wrong, ["log/2 was acknowledged and is gone"]);
}

#[test]
fn log_events_that_a_restart_misses_are_counted_once() {
    let mut agent = Agent::default();
    for n in 1..=3 {
        agent.put(&format!("log/{n}"), n);
    }
    for _ in 0..2 {
        agent.ledger.note_death();
        agent.reopen(&[], 1);
    }
    agent.ledger.settle(&BTreeMap::new(), &[event(3, 30)]);
    assert_eq!((agent.ledger.lost(), agent.ledger.drained_unseen), (2, 0));
    assert_eq!(agent.ledger.losses[0].what, "holds too few of the acknowledged events");
}

#[test]
fn a_lost_log_event_is_found_behind_one_that_landed_in_flight() {
    let mut agent = Agent::default();
    agent.put("log/1", 1);
    agent.begin(Kind::BufferLog, "log/2", Some(2));
    agent.ledger.note_death();
    agent.reopen(&[], 1);
    assert_eq!(agent.settle(&[], &[event(2, 20)]), ["log/1 was acknowledged and is gone"]);
}

#[test]
fn more_log_events_than_were_buffered_are_a_loss() {
    let mut agent = Agent::default();
    agent.put("log/1", 1);
    agent.ledger.note_death();
    agent.reopen(&[], 2);
    assert_eq!(agent.ledger.losses[0].what, "holds more events than were ever buffered");
}

#[test]
fn a_killed_drain_may_have_taken_as_many_as_it_asked_for_and_no_more() {
    let killed_in_a_drain = |log_events| {
        let mut agent = Agent::default();
        for n in 1..=4 {
            agent.put(&format!("log/{n}"), n);
        }
        agent.begin_drain(2);
        agent.ledger.note_death();
        agent.reopen(&[], log_events);
        agent
    };
    let rest = [event(3, 30), event(4, 40)];
    let mut agent = killed_in_a_drain(2);
    agent.ledger.settle(&BTreeMap::new(), &rest);
    assert_eq!((agent.ledger.drained_unseen, agent.ledger.losses.len()), (2, 0));

    // One too many is gone at once.
    assert_eq!(killed_in_a_drain(1).ledger.losses.len(), 1);
    // The restart showed that the drain took none, so none may be missing later.
    assert_eq!(killed_in_a_drain(4).settle(&[], &rest).len(), 2);
}

#[test]
fn a_log_event_that_is_drained_twice_or_was_never_buffered_is_a_loss() {
    let mut agent = Agent::default();
    agent.put("log/1", 1);
    agent.drain(&[event(1, 10)]);
    agent.drain(&[event(1, 10)]);
    agent.drain(&[event(7, 10)]);
    let wrong = agent.settle(&[], &[]);
    assert_eq!(wrong, ["log/1 was drained twice", "log/7 was drained, but no call ever wrote it so"]);
}

#[test]
fn log_events_must_come_in_order_of_time_and_then_of_calls() {
    let buffered = || {
        let mut agent = Agent::default();
        agent.put("log/1", 1);
        agent.put("log/2", 2);
        agent
    };
    assert_eq!(buffered().settle(&[], &[event(1, 10), event(2, 10)]), NOTHING);
    assert_eq!(buffered().settle(&[], &[event(2, 10), event(1, 20)]), NOTHING);
    assert_eq!(buffered().settle(&[], &[event(2, 10), event(1, 10)]), ["log/1 came out of order"]);
    assert_eq!(buffered().settle(&[], &[event(1, 20), event(2, 10)]), ["log/2 came out of order"]);
}
