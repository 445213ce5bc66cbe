//! The changes of one resource that watches can still be told of.

use std::collections::VecDeque;

use super::{Event, Refusal};

/// A bounded ring of changes, oldest first.
#[derive(Debug)]
pub(crate) struct History {
    events: VecDeque<Event>,
    capacity: usize,
    /// Changes up to and including this version are forgotten.
    forgotten: u64,
}

impl History {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            events: VecDeque::new(),
            capacity,
            forgotten: 0,
        }
    }

    pub(crate) fn record(&mut self, event: Event) {
        if self.events.len() >= self.capacity
            && let Some(oldest) = self.events.pop_front()
        {
            self.forgotten = oldest.object.version();
        }
        self.events.push_back(event);
    }

    pub(crate) fn forget_all(&mut self) {
        if let Some(newest) = self.events.back() {
            self.forgotten = newest.object.version();
        }
        self.events.clear();
    }

    /// Up to `limit` changes after `version`, and whether that was all of them.
    pub(crate) fn since(&self, version: u64, limit: usize) -> Result<(Vec<Event>, bool), Refusal> {
        if version < self.forgotten {
            return Err(Refusal::expired(version, self.forgotten));
        }
        let start = self
            .events
            .partition_point(|event| event.object.version() <= version);
        let events: Vec<Event> = self.events.range(start..).take(limit).cloned().collect();
        let complete = start + events.len() == self.events.len();
        Ok((events, complete))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::{Change, Object, Resource};

    fn event(version: u64) -> Event {
        let value = json!({"metadata": {"name": "a", "resourceVersion": version.to_string()}});
        let object = Object::new(Resource::Node, version, &value);
        Event {
            change: Change::Modified,
            object,
            before: None,
        }
    }

    fn versions(history: &History, since: u64) -> Vec<u64> {
        let (events, _) = history.since(since, 100).unwrap();
        events.iter().map(|event| event.object.version()).collect()
    }

    #[test]
    fn a_full_ring_forgets_the_oldest_and_says_so() {
        let mut history = History::new(2);
        for version in [3, 5, 9] {
            history.record(event(version));
        }
        assert_eq!(versions(&history, 3), [5, 9]);
        assert_eq!(versions(&history, 6), [9]);
        assert_eq!(history.since(2, 100).unwrap_err().code, 410);
    }

    #[test]
    fn batches_are_bounded() {
        let mut history = History::new(10);
        (1..=5).for_each(|version| history.record(event(version)));
        let (events, complete) = history.since(1, 2).unwrap();
        assert_eq!((events.len(), complete), (2, false));
        let (events, complete) = history.since(3, 2).unwrap();
        assert_eq!((events.len(), complete), (2, true));
    }
}
