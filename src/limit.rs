//! How much a call that returns values returns at most.

/// How many values a call returns at most, and how many bytes of payload they have together.
///
/// One value is always returned, also if it alone has more bytes, so that a long one never blocks those after it.
/// Only a count of 0 gives nothing. A `usize` is a limit of the count alone.
///
/// The lengths are known without reading the payloads: a call reads only what it returns. Keys and run ids do not
/// count as payload.
///
/// ```
/// use backupy_state::{AgentKey, Limit, Store};
///
/// # let folder = tempfile::tempdir()?;
/// let store = Store::open(folder.path().join("state.db"), &AgentKey::new("key")?)?;
/// for run_id in ["run-1", "run-2", "run-3"] {
///     store.enqueue_job(run_id, &[7; 1000])?;
/// }
/// assert_eq!(store.dequeue_jobs(2)?.len(), 2);
/// // What fits into one message to the server, and at most 100 jobs.
/// assert_eq!(store.dequeue_jobs(Limit::bytes(2500).and_count(100))?.len(), 2);
/// assert_eq!(store.dequeue_jobs(Limit::bytes(10))?.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    count: Option<usize>,
    bytes: Option<usize>,
}

impl Limit {
    /// At most `n` values, of any length.
    ///
    /// ```
    /// # use backupy_state::Limit;
    /// assert_eq!(Limit::count(100), Limit::from(100));
    /// ```
    #[must_use]
    pub fn count(n: usize) -> Self {
        Limit { count: Some(n), bytes: None }
    }

    /// Values of at most `n` bytes together, or the first value alone if it is longer.
    ///
    /// ```
    /// # use backupy_state::{AgentKey, Limit, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let store = Store::open(folder.path().join("state.db"), &AgentKey::new("key")?)?;
    /// store.buffer_log(1_000, b"backup begun")?;
    /// store.buffer_log(2_000, b"backup done")?;
    /// assert_eq!(store.peek_logs(Limit::bytes(64 << 10))?.len(), 2);
    /// assert_eq!(store.peek_logs(Limit::bytes(0))?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn bytes(n: usize) -> Self {
        Limit { count: None, bytes: Some(n) }
    }

    /// Also at most `n` values. Of two counts, the lower one holds.
    ///
    /// ```
    /// # use backupy_state::Limit;
    /// assert_eq!(Limit::bytes(1000).and_count(10), Limit::count(10).and_bytes(1000));
    /// ```
    #[must_use]
    pub fn and_count(self, n: usize) -> Self {
        Limit { count: Some(self.count.map_or(n, |count| count.min(n))), ..self }
    }

    /// Also at most `n` bytes, or the first value alone. Of two numbers of bytes, the lower one holds.
    ///
    /// ```
    /// # use backupy_state::Limit;
    /// assert_eq!(Limit::count(10).and_bytes(2000).and_bytes(1000), Limit::count(10).and_bytes(1000));
    /// ```
    #[must_use]
    pub fn and_bytes(self, n: usize) -> Self {
        Limit { bytes: Some(self.bytes.map_or(n, |bytes| bytes.min(n))), ..self }
    }

    /// The values that are returned, out of those that there are. Takes no more of them than it must look at.
    pub(crate) fn take<T>(
        self,
        values: impl Iterator<Item = T>,
        len: impl Fn(&T) -> u32,
    ) -> impl Iterator<Item = T> {
        let max = self.bytes.map_or(u64::MAX, |bytes| bytes as u64);
        let mut bytes = None::<u64>;
        let fits = move |value: &T| {
            let is_first = bytes.is_none();
            let sum = bytes.unwrap_or(0).saturating_add(u64::from(len(value)));
            bytes = Some(sum);
            is_first || sum <= max
        };
        values.take(self.count.unwrap_or(usize::MAX)).take_while(fits)
    }
}

impl From<usize> for Limit {
    fn from(count: usize) -> Self {
        Limit::count(count)
    }
}
