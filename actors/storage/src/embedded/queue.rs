//! A bounded queue from async callers to threads that block. Whatever waits is taken at once: that
//! is what makes groups.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug)]
struct State<T> {
    items: VecDeque<(T, usize)>,
    sleeping: usize,
    nudged: bool,
    closed: bool,
}

/// Why nothing was queued; the item comes back.
#[derive(Debug)]
pub(super) enum Refused<T> {
    Full(T),
    Closed(T),
}

#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
    weight: AtomicUsize,
    weight_max: usize,
}

impl<T> Queue<T> {
    pub(super) fn new(weight_max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                sleeping: 0,
                nudged: false,
                closed: false,
            }),
            wake: Condvar::new(),
            weight: AtomicUsize::new(0),
            weight_max,
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an item of some weight. An item heavier than the bound goes when the queue is empty.
    pub(super) fn push(&self, item: T, weight: usize) -> Result<(), Refused<T>> {
        let mut state = self.state();
        if state.closed {
            return Err(Refused::Closed(item));
        }
        let queued = self.weight.load(Ordering::Acquire);
        if queued > 0 && queued + weight > self.weight_max {
            return Err(Refused::Full(item));
        }
        self.weight.fetch_add(weight, Ordering::AcqRel);
        state.items.push_back((item, weight));
        let sleeping = state.sleeping > 0;
        drop(state);
        if sleeping {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Takes what waits, up to some weight (one item at least); waits for it at most so long. Empty
    /// after a time-out, a nudge, or when the queue is closed and drained.
    pub(super) fn take(&self, weight_max: usize, timeout: Duration, taken: &mut Vec<T>) -> Taken {
        let mut state = self.state();
        if state.items.is_empty() && !state.closed && !state.nudged {
            state.sleeping += 1;
            state = match self.wake.wait_timeout(state, timeout) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
            state.sleeping -= 1;
        }
        state.nudged = false;
        let mut weight = 0;
        while let Some((_, next)) = state.items.front() {
            if weight > 0 && weight + next > weight_max {
                break;
            }
            weight += next;
            if let Some((item, _)) = state.items.pop_front() {
                taken.push(item);
            }
        }
        self.weight.fetch_sub(weight, Ordering::AcqRel);
        if !taken.is_empty() {
            Taken::Some
        } else if state.closed {
            Taken::Closed
        } else {
            Taken::Nothing
        }
    }

    /// Wakes a sleeper that has something else to look at.
    pub(super) fn nudge(&self) {
        let mut state = self.state();
        state.nudged = true;
        if state.sleeping > 0 {
            self.wake.notify_one();
        }
    }

    /// Refuses what comes; what waits can still be taken.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_all();
    }

    /// Refuses what comes and hands over what waits.
    pub(super) fn close_and_drain(&self) -> Vec<T> {
        let mut state = self.state();
        state.closed = true;
        self.weight.store(0, Ordering::Release);
        let items = state.items.drain(..).map(|(item, _)| item).collect();
        drop(state);
        self.wake.notify_all();
        items
    }

    /// The weight of what waits.
    pub(super) fn weight(&self) -> usize {
        self.weight.load(Ordering::Acquire)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Some,
    Nothing,
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_at_once_and_a_closed_one_for_ever() {
        let queue = Queue::new(3);
        queue.push('a', 2).unwrap();
        assert!(matches!(queue.push('b', 2), Err(Refused::Full('b'))));
        queue.push('c', 1).unwrap();
        assert_eq!(queue.weight(), 3);
        let mut taken = Vec::new();
        assert_eq!(queue.take(2, Duration::ZERO, &mut taken), Taken::Some);
        assert_eq!(taken, ['a']);
        queue.close();
        assert!(matches!(queue.push('d', 1), Err(Refused::Closed('d'))));
        taken.clear();
        assert_eq!(queue.take(9, Duration::ZERO, &mut taken), Taken::Some);
        assert_eq!(taken, ['c']);
        taken.clear();
        assert_eq!(queue.take(9, Duration::from_secs(60), &mut taken), Taken::Closed);
    }

    #[test]
    fn an_item_heavier_than_the_bound_goes_alone() {
        let queue = Queue::new(3);
        queue.push('a', 10).unwrap();
        assert!(matches!(queue.push('b', 1), Err(Refused::Full('b'))));
        let mut taken = Vec::new();
        queue.take(1, Duration::ZERO, &mut taken);
        queue.push('b', 1).unwrap();
        assert_eq!(taken, ['a']);
    }
}
