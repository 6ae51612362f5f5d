//! Where the latest pages of a queue in the order [`Fifo`](crate::QueueOrder::Fifo) ended.
//!
//! A page continues after the last job of the one before. If that job was enqueued again meanwhile, it is at the
//! back, and a page after it would be empty although jobs remain. So the next page begins where the one before
//! ended. Once a page returns the job at its new place, only that place counts: else a loop could go back again
//! and again. Two loops are not told apart: a page of one of them that returns the job ends what is known for the
//! other.

use std::collections::VecDeque;

use crate::Limit;
use crate::format::bucket::Bucket;
use crate::format::location::Location;
use crate::index::{Index, Key, Place};

/// The last job of each page, and the place it had. The newest one is last.
#[derive(Default)]
pub(super) struct PageEnds(VecDeque<(Key, Place)>);

impl PageEnds {
    /// The next page: from the front, or after the job `after`, if that is queued.
    pub(super) fn next_page(&mut self, index: &Index, after: Option<&str>, limit: Limit) -> Vec<(Key, Location)> {
        let place_of = |key: &[u8]| index.get(Bucket::Queue, key).map(|location| location.order());
        let after = after.and_then(|run_id| {
            let place = place_of(run_id.as_bytes())?;
            let noted = self.0.iter().find(|(key, _)| **key == *run_id.as_bytes());
            Some(noted.map_or(place, |(_, end)| *end))
        });
        let page = index.jobs_after_place(after, limit);
        if let (Some((_, first)), Some((last_key, last))) = (page.first(), page.last()) {
            let range = Some(first.order())..=Some(last.order());
            self.0.retain(|(key, _)| !range.contains(&place_of(key)));
            self.0.push_back((last_key.clone(), last.order()));
            if self.0.len() > COUNT_MAX {
                self.0.pop_front();
            }
        }
        page
    }

    /// The jobs are the same in `new`, in the same order, but have other places.
    pub(super) fn carry_over(&mut self, old: &Index, new: &Index) {
        self.0.iter_mut().for_each(|(_, end)| *end = old.place_in(new, *end));
    }
}

/// More loops than this at a time do not page through one queue.
const COUNT_MAX: usize = 16;
