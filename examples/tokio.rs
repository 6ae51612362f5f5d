//! An agent in async code: tasks share one store, and its calls run where blocking is allowed.
//!
//! ```sh
//! cargo run --example tokio
//! ```
//!
//! - **Calls** block for as long as the disk takes, so [`Agent::call`] moves each to a thread of `spawn_blocking`.
//! - **Delivery** waits for jobs without polling: whoever enqueues one wakes it up, after the call has returned.
//!   It acks what it has delivered, and not what was enqueued under the same run id meanwhile.
//! - **Cancelling**: a call that has begun is not undone when its future is dropped, for instance by a timeout.
//!   The job is enqueued all the same, so its run id must be one that may come again.
//! - **Shutdown** stops the tasks first, and then closes the store, which any clone of the `Arc` can do. A call
//!   that comes later returns `Error::Closed`.

use std::error::Error;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use backupy_state::{AgentKey, Enqueued, Error as StateError, QueuedJob, Store};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{self, JoinHandle};
use tokio::time;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Clone)]
struct Agent {
    store: Arc<Store>,
    /// Notified when a job was enqueued.
    enqueued: Arc<Notify>,
}

impl Agent {
    fn new(store: Store) -> Self {
        Agent { store: Arc::new(store), enqueued: Arc::default() }
    }

    /// Runs a call of the store on a thread that may block.
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Store) -> backupy_state::Result<T> + Send + 'static,
    ) -> backupy_state::Result<T> {
        let store = Arc::clone(&self.store);
        task::spawn_blocking(move || call(&store)).await.unwrap_or_else(|panic| resume_unwind(panic.into_panic()))
    }

    async fn enqueue(&self, run_id: String, payload: Vec<u8>) -> backupy_state::Result<Enqueued> {
        let enqueued = Arc::clone(&self.enqueued);
        self.call(move |store| {
            // Also if nobody waits for this call any more.
            store.enqueue_job(&run_id, &payload).inspect(|_| enqueued.notify_one())
        })
        .await
    }

    /// Delivers jobs until it is told to stop.
    async fn deliver(self, server: Server, mut stop: watch::Receiver<bool>) -> Result<()> {
        loop {
            let page = self.call(|store| store.dequeue_jobs(10)).await?;
            let is_empty = page.is_empty();
            for job in page {
                server.send(job.clone()).await?;
                self.call(move |store| store.ack_delivered(&job)).await?;
            }
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                // Does not miss a job that was enqueued since the queue was found empty: `notify_one` is
                // remembered.
                () = self.enqueued.notified(), if is_empty => {}
                () = std::future::ready(()), if !is_empty => {}
            }
        }
    }

    /// Closes the store, whoever else has it.
    async fn close(&self) -> backupy_state::Result<()> {
        self.call(Store::close).await
    }
}

/// Where jobs are delivered.
#[derive(Clone)]
struct Server(mpsc::Sender<QueuedJob>);

impl Server {
    async fn send(&self, job: QueuedJob) -> Result<()> {
        Ok(self.0.send(job).await?)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (path, key) = (folder.path().join("state.db"), AgentKey::new("bkpy_0123456789abcdef0123456789abcdef")?);
    let opened = task::spawn_blocking(move || Store::open(path, &key)).await??;
    let agent = Agent::new(opened);
    let (server, mut delivered) = mpsc::channel(1);
    let (stop, stopped) = watch::channel(false);
    let delivery: JoinHandle<Result<()>> = tokio::spawn(agent.clone().deliver(Server(server), stopped));

    let enqueuing: Vec<_> = (1..=8)
        .map(|number| {
            let agent = agent.clone();
            tokio::spawn(async move { agent.enqueue(format!("run-{number}"), b"dump of orders".to_vec()).await })
        })
        .collect();
    for call in enqueuing {
        assert_eq!(call.await??, Enqueued::Added);
    }
    // The time is up at once, but the call has begun, so the job is enqueued and delivered.
    let cancelled = agent.enqueue("run-9".to_owned(), b"dump of users".to_vec());
    let _ = time::timeout(Duration::ZERO, cancelled).await;

    let mut run_ids = Vec::new();
    while run_ids.len() < 9 {
        run_ids.push(delivered.recv().await.ok_or("the delivery has ended")?.run_id);
    }
    run_ids.sort();
    println!("delivered: {}", run_ids.join(", "));
    assert_eq!(run_ids, (1..=9).map(|number| format!("run-{number}")).collect::<Vec<_>>());

    stop.send(true)?;
    delivery.await??;
    agent.close().await?;
    assert_eq!(agent.store.queue_depth(), 0);
    let late = agent.enqueue("run-10".to_owned(), Vec::new()).await;
    assert!(matches!(late, Err(StateError::Closed { .. })));
    println!("closed");
    Ok(())
}

#[test]
fn it_delivers_every_job_and_closes_the_store() {
    main().unwrap();
}
