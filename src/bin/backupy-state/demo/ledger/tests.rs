//! The ledger finds each kind of loss, and reports none if there is none.

use super::*;

/// Makes numbered calls, as an agent does.
#[derive(Default)]
struct Agent {
    ledger: Ledger,
    calls: u64,
}

impl Agent {
    fn begin(&mut self, kind: Kind, cell: &str, digest: Option<u64>) -> u64 {
        self.begin_all(kind, &[(cell, digest)])
    }

    fn begin_all(&mut self, kind: Kind, changes: &[(&str, Option<u64>)]) -> u64 {
        self.calls += 1;
        let changes = changes.iter().map(|&(cell, digest)| Change { cell: cell.to_owned(), digest }).collect();
        self.ledger.note(Message::Begun { call: self.calls, kind, changes });
        self.calls
    }

    fn end(&mut self, call: u64) {
        self.ledger.note(Message::Done { call });
    }

    fn put(&mut self, cell: &str, digest: u64) {
        let call = self.begin(Kind::EnqueueJob, cell, Some(digest));
        self.end(call);
    }

    fn remove(&mut self, cell: &str) {
        let call = self.begin(Kind::AckJob, cell, None);
        self.end(call);
    }

    fn deliver(&mut self, events: &[Event]) {
        self.ledger.note(Message::DeliveredEvents(events.to_vec()));
    }

    /// Acks all events in one call, as an agent does.
    fn begin_ack(&mut self, events: &[Event]) -> u64 {
        let changes: Vec<_> = events.iter().map(|event| (event.cell.as_str(), None)).collect();
        self.begin_all(Kind::AckLogs, &changes)
    }

    fn reopen(&mut self, held: &[(&str, u64)], log_events: u64) {
        for (cell, digest) in held {
            self.ledger.note(Message::Found { cell: (*cell).to_owned(), digest: *digest });
        }
        self.ledger.note(Message::Opened(Opened { records: 0, quarantined_bytes: 0, took_us: 0, log_events }));
    }

    /// The losses in a final state with `held` and `events`.
    fn check_final(mut self, held: &[(&str, u64)], events: &[Event]) -> Vec<String> {
        let events_held = events.iter().map(|event| (event.cell.clone(), event.digest));
        let held = held.iter().map(|(cell, digest)| ((*cell).to_owned(), *digest)).chain(events_held).collect();
        self.ledger.check_final(&held, events);
        self.ledger.losses.iter().map(|loss| format!("{} {}", loss.cell, loss.what)).collect()
    }
}

fn event(n: u64, ts_ms: i64) -> Event {
    Event { cell: format!("log/{n}"), ts_ms, digest: n }
}

const NOTHING: [String; 0] = [];

#[test]
fn a_store_that_keeps_every_acknowledged_call_has_no_losses() {
    let mut agent = Agent::default();
    agent.put("config", 1);
    agent.put("config", 2);
    agent.put("job/a", 3);
    agent.put("job/b", 4);
    agent.remove("job/a");
    agent.put("log/1", 1);
    agent.put("log/2", 2);
    agent.deliver(&[event(1, 10)]);
    let ack = agent.begin_ack(&[event(1, 10)]);
    agent.end(ack);
    assert_eq!(agent.check_final(&[("config", 2), ("job/b", 4)], &[event(2, 20)]), NOTHING);
}

#[test]
fn a_missing_acknowledged_job_is_a_loss() {
    let mut agent = Agent::default();
    agent.put("job/a", 1);
    assert_eq!(agent.check_final(&[], &[]), ["job/a was acknowledged and is missing"]);
}

#[test]
fn a_loss_at_a_restart_is_reported_there_and_only_once() {
    let mut agent = Agent::default();
    agent.put("job/a", 1);
    agent.put("job/b", 2);
    assert_eq!(agent.ledger.note_death(), 0);
    agent.reopen(&[("job/b", 2)], 0);
    assert_eq!(agent.ledger.losses.len(), 1);
    assert_eq!(agent.check_final(&[("job/b", 2)], &[]), ["job/a was acknowledged and is missing"]);
}

#[test]
fn a_payload_other_than_the_acknowledged_one_is_a_loss() {
    let mut agent = Agent::default();
    agent.put("job/a", 1);
    agent.put("job/a", 2);
    assert_eq!(agent.check_final(&[("job/a", 1)], &[]), ["job/a holds an older value than the acknowledged one"]);

    let mut agent = Agent::default();
    agent.put("job/a", 1);
    assert_eq!(agent.check_final(&[("job/a", 9)], &[]), ["job/a holds a value that no call wrote"]);
}

#[test]
fn an_acked_job_that_is_present_again_is_a_loss() {
    let mut agent = Agent::default();
    agent.put("job/a", 1);
    agent.remove("job/a");
    agent.ledger.note_death();
    agent.reopen(&[("job/a", 1)], 0);
    assert_eq!(agent.ledger.losses[0].what, "was removed and is present again");
}

#[test]
fn a_value_that_no_call_wrote_is_a_loss() {
    assert_eq!(Agent::default().check_final(&[("job/x", 1)], &[]), ["job/x holds a value that no call wrote"]);
    let mut agent = Agent::default();
    agent.ledger.check_seen("job/y", 1);
    agent.ledger.note(Message::DeliveredJob { cell: "job/z".to_owned(), digest: 1 });
    assert_eq!(agent.ledger.losses.len(), 2);
}

#[test]
fn a_call_in_flight_at_a_kill_may_have_taken_effect_or_not() {
    for held in [vec![], vec![("job/a", 1)]] {
        let mut agent = Agent::default();
        agent.begin(Kind::EnqueueJob, "job/a", Some(1));
        assert_eq!(agent.ledger.note_death(), 1);
        agent.reopen(&held, 0);
        assert_eq!(agent.check_final(&held, &[]), NOTHING);
    }
}

#[test]
fn what_a_restart_has_found_must_be_kept() {
    let mut agent = Agent::default();
    agent.begin(Kind::EnqueueJob, "job/a", Some(1));
    agent.ledger.note_death();
    agent.reopen(&[("job/a", 1)], 0);
    agent.ledger.note_death();
    agent.reopen(&[], 0);
    assert_eq!(agent.ledger.losses.len(), 1);
}

#[test]
fn either_of_two_overlapping_calls_may_be_the_last() {
    for held in [vec![], vec![("job/a", 2)]] {
        let mut agent = Agent::default();
        agent.put("job/a", 1);
        let put = agent.begin(Kind::EnqueueJob, "job/a", Some(2));
        let ack = agent.begin(Kind::AckJob, "job/a", None);
        agent.end(put);
        agent.end(ack);
        assert_eq!(agent.check_final(&held, &[]), NOTHING);
    }
    let mut agent = Agent::default();
    agent.put("job/a", 1);
    let put = agent.begin(Kind::EnqueueJob, "job/a", Some(2));
    let ack = agent.begin(Kind::AckJob, "job/a", None);
    agent.end(put);
    agent.end(ack);
    assert_eq!(agent.check_final(&[("job/a", 1)], &[]).len(), 1);
}

#[test]
fn a_job_delivered_before_its_enqueue_returned_counts_as_enqueued_before_its_ack() {
    let mut agent = Agent::default();
    let put = agent.begin(Kind::EnqueueJob, "job/a", Some(1));
    agent.ledger.note(Message::DeliveredJob { cell: "job/a".to_owned(), digest: 1 });
    agent.remove("job/a");
    agent.end(put);
    assert_eq!(agent.check_final(&[("job/a", 1)], &[]), ["job/a was removed and is present again"]);
}

#[test]
fn a_repeated_delivery_is_counted_and_is_not_a_loss() {
    let mut agent = Agent::default();
    agent.put("job/a", 1);
    for _ in 0..2 {
        agent.ledger.note(Message::DeliveredJob { cell: "job/a".to_owned(), digest: 1 });
    }
    // The ack was in flight at the kill, and has not taken effect.
    agent.begin(Kind::AckJob, "job/a", None);
    agent.ledger.note_death();
    agent.reopen(&[("job/a", 1)], 0);
    agent.ledger.note(Message::DeliveredJob { cell: "job/a".to_owned(), digest: 1 });
    assert_eq!(agent.ledger.jobs, Deliveries { deliveries: 3, repeated: 2 });
    assert_eq!(agent.check_final(&[("job/a", 1)], &[]), NOTHING);
}

#[test]
fn a_missing_acknowledged_log_event_is_a_loss() {
    let mut agent = Agent::default();
    agent.put("log/1", 1);
    agent.put("log/2", 2);
    assert_eq!(agent.check_final(&[], &[event(1, 10)]), ["log/2 was acknowledged and is missing"]);
}

#[test]
fn a_delivered_log_event_must_be_kept_until_its_ack() {
    let mut agent = Agent::default();
    agent.put("log/1", 1);
    for _ in 0..2 {
        agent.deliver(&[event(1, 10)]);
    }
    assert_eq!(agent.ledger.events, Deliveries { deliveries: 2, repeated: 1 });
    assert_eq!(agent.check_final(&[], &[]), ["log/1 was acknowledged and is missing"]);
}

#[test]
fn an_acked_log_event_that_is_present_again_is_a_loss() {
    let acked = || {
        let mut agent = Agent::default();
        agent.put("log/1", 1);
        agent.deliver(&[event(1, 10)]);
        let ack = agent.begin_ack(&[event(1, 10)]);
        agent.end(ack);
        agent
    };
    assert_eq!(acked().check_final(&[], &[]), NOTHING);
    assert_eq!(acked().check_final(&[], &[event(1, 10)]), ["log/1 was removed and is present again"]);
    let mut agent = acked();
    agent.deliver(&[event(1, 10)]);
    assert_eq!(agent.check_final(&[], &[]), ["log/1 was removed and is present again"]);
}

#[test]
fn a_log_event_that_was_never_buffered_is_a_loss() {
    let mut agent = Agent::default();
    agent.deliver(&[event(7, 10)]);
    assert_eq!(agent.check_final(&[], &[]), ["log/7 was delivered with a value that no call wrote"]);
    let mut agent = Agent::default();
    agent.put("log/1", 1);
    agent.ledger.note_death();
    agent.reopen(&[("log/1", 1)], 2);
    assert_eq!(agent.ledger.losses[0].what, "contains duplicate or unreadable events");
}

#[test]
fn an_interrupted_ack_of_log_events_removes_all_or_none() {
    let interrupted_ack = |left: &[Event]| {
        let mut agent = Agent::default();
        let events = [event(1, 10), event(2, 20)];
        agent.put("log/1", 1);
        agent.put("log/2", 2);
        agent.deliver(&events);
        agent.begin_ack(&events);
        agent.ledger.note_death();
        let held: Vec<_> = left.iter().map(|event| (event.cell.as_str(), event.digest)).collect();
        agent.reopen(&held, left.len() as u64);
        agent.check_final(&[], left)
    };
    assert_eq!(interrupted_ack(&[]), NOTHING);
    assert_eq!(interrupted_ack(&[event(1, 10), event(2, 20)]), NOTHING);
    assert_eq!(interrupted_ack(&[event(2, 20)]), ["log/1 was changed without the rest of its batch"]);
}

#[test]
fn an_interrupted_batch_takes_effect_as_a_whole_or_not_at_all() {
    let interrupted_batch = |held: &[(&str, u64)]| {
        let mut agent = Agent::default();
        agent.put("job/a", 1);
        agent.begin_all(Kind::Write, &[("job/a", None), ("job/a/done", Some(2))]);
        agent.ledger.note_death();
        agent.reopen(held, 0);
        agent.check_final(held, &[])
    };
    assert_eq!(interrupted_batch(&[("job/a", 1)]), NOTHING);
    assert_eq!(interrupted_batch(&[("job/a/done", 2)]), NOTHING);
    let torn = ["job/a was changed without the rest of its batch"];
    assert_eq!(interrupted_batch(&[]), torn);
    assert_eq!(interrupted_batch(&[("job/a", 1), ("job/a/done", 2)]), torn);
}

#[test]
fn a_job_enqueued_again_during_its_batch_may_be_kept_with_its_completion_message() {
    let held = [("job/a", 3), ("job/a/done", 2)];
    let mut agent = Agent::default();
    agent.put("job/a", 1);
    agent.begin(Kind::EnqueueJob, "job/a", Some(3));
    agent.begin_all(Kind::Write, &[("job/a", None), ("job/a/done", Some(2))]);
    agent.ledger.note_death();
    agent.reopen(&held, 0);
    assert_eq!(agent.check_final(&held, &[]), NOTHING);
}

#[test]
fn log_events_must_be_in_order_of_time_and_then_of_calls() {
    let buffered = || {
        let mut agent = Agent::default();
        agent.put("log/1", 1);
        agent.put("log/2", 2);
        agent
    };
    assert_eq!(buffered().check_final(&[], &[event(1, 10), event(2, 10)]), NOTHING);
    assert_eq!(buffered().check_final(&[], &[event(2, 10), event(1, 20)]), NOTHING);
    assert_eq!(buffered().check_final(&[], &[event(2, 10), event(1, 10)]), ["log/1 is out of order"]);
    assert_eq!(buffered().check_final(&[], &[event(1, 20), event(2, 10)]), ["log/2 is out of order"]);
}
