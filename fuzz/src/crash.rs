//! Calls, a power cut at any operation, and any image that the disk could then hold; then a second power cut
//! during the recovery. The oracle in `tests/sim/oracle.rs` decides which states are allowed.

use arbitrary::{Arbitrary, Unstructured};

use crate::sim::crash::some_images;
use crate::sim::world::{Image, World};
use crate::sim::{Agent, Call, Mode, Model, Oracle, open};
use crate::sim::{Moment, Sim};

const CALLS_MAX: usize = 24;
/// For each combination of names that the disk could have.
const IMAGES: usize = 3;

#[derive(Arbitrary, Debug)]
enum Step {
    Config { len: u8 },
    Enqueue { job: u8, len: u8 },
    Ack { job: u8 },
    Session { len: u8 },
    Heartbeat,
    Log { ts_ms: i8, len: u8 },
    Drain { n: u8 },
    Sync,
    Reopen,
    Kill,
    Compact,
    Rekey,
    ReopenRekeyed,
    Backup,
    Batch { job: u8, len: u8 },
    Peek { n: u8 },
    AckPeeked { n: u8 },
    PutData { key: u8, len: u8 },
    DeleteData { key: u8 },
}

/// Where and how the power is cut.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Cut {
    moment: u16,
    seed: u16,
}

pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let (Ok(mode), Ok(cut), Ok(second)) =
        (u8::arbitrary(&mut input), Cut::arbitrary(&mut input), input.arbitrary())
    else {
        return;
    };
    let mut agent = Agent::new(Sim::new(5), Mode::ALL[usize::from(mode) % 3]);
    agent.sim.record();
    agent.start().unwrap();
    for _ in 0..CALLS_MAX {
        let Ok(step) = Step::arbitrary(&mut input) else { break };
        make(&mut agent, &step);
        if input.is_empty() {
            break;
        }
    }
    let moment = choose(agent.sim.take_moments(), cut);
    let allowed = agent.allowed_at(moment.ops);
    some_images(&moment.world, cut.seed.into(), IMAGES, &mut |image| check(image, allowed, second));
}

fn make(agent: &mut Agent, step: &Step) {
    let len = |len: u8| if len > 250 { 5000 } else { usize::from(len) };
    // Long enough that no two log events are equal, because the oracle identifies them by their contents.
    let log_len = |n| len(n).max(8);
    let call = match *step {
        Step::Config { len: n } => Call::SaveConfig { len: len(n) },
        Step::Enqueue { job, len: n } => Call::Enqueue { job: job % 4, len: len(n) },
        Step::Ack { job } => Call::Ack { job: job % 4 },
        Step::Session { len: n } => Call::SaveSession { len: len(n) },
        Step::Heartbeat => Call::Heartbeat,
        Step::Log { ts_ms, len: n } => Call::BufferLog { ts_ms: i64::from(ts_ms % 3), len: log_len(n) },
        Step::Drain { n } => Call::DrainLogs { n: usize::from(n % 4) },
        Step::Sync => Call::Sync,
        Step::Reopen => Call::Reopen,
        Step::Kill => Call::Kill,
        Step::Compact => Call::Compact,
        Step::Rekey => Call::Rekey,
        Step::ReopenRekeyed => Call::ReopenRekeyed,
        Step::Backup => Call::Backup,
        Step::Batch { job, len: n } => Call::Batch { job: job % 4, len: log_len(n) },
        Step::Peek { n } => Call::PeekLogs { n: usize::from(n % 4) },
        Step::AckPeeked { n } => Call::AckLogs { n: usize::from(n % 4) },
        Step::PutData { key, len: n } => Call::PutData { key: key % 3, len: len(n) },
        Step::DeleteData { key } => Call::DeleteData { key: key % 3 },
    };
    agent.make(call).unwrap();
}

fn choose(mut moments: Vec<Moment>, cut: Cut) -> Moment {
    // Counted from the end, because only the latest writes are not yet durable.
    let last = moments.len() - 1;
    moments.swap_remove(last - usize::from(cut.moment) % moments.len())
}

/// Opens the store, checks its state, cuts the power again during the recovery, and writes to the store.
fn check(image: &Image, allowed: &[Model], second: Cut) {
    let sim = Sim::on(image, 6);
    sim.record();
    let store = open(&sim, Mode::Sync).unwrap();
    let moments = sim.take_moments();
    let found = Model::take(&store).unwrap();
    sim.kill();
    drop(store);
    assert!(allowed.contains(&found), "found {found:#?}, not among {allowed:#?}");

    let moment = choose(moments, second);
    some_images(&moment.world, second.seed.into(), 1, &mut |image| {
        let again = Model::on_copy(&World::of(image)).unwrap();
        assert!(again == found, "found {again:#?}, but before a second power cut {found:#?}");
    });
    check_writable(moment.world, found);
}

fn check_writable(world: World, found: Model) {
    let mut agent = Agent::new(Sim::at(world, 7), Mode::Sync);
    agent.oracle = Oracle::of(found);
    agent.start().unwrap();
    for call in [Call::Enqueue { job: 9, len: 100 }, Call::Kill, Call::Ack { job: 9 }, Call::Reopen] {
        agent.make(call).unwrap();
    }
    assert_eq!(&Model::take(agent.store()).unwrap(), agent.oracle.current());
}
