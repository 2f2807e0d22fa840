//! What the terminals of a load process got, counted together.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// Nanoseconds of the monotonic clock, the same for all processes of a machine.
pub(super) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The payload of every bench message: a number, and bytes to make it as long as wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Payload {
    pub(super) n: u64,
}

impl Payload {
    /// The payload as JSON of exactly `bytes` bytes (or as short as it can be).
    pub(super) fn json(n: u64, bytes: usize) -> String {
        let bare = format!("{{\"n\":{n},\"pad\":\"\"}}");
        let pad = "x".repeat(bytes.saturating_sub(bare.len()));
        format!("{{\"n\":{n},\"pad\":\"{pad}\"}}")
    }
}

/// Counts since the last reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Terminals with a live session.
    pub(super) live: u64,
    /// Messages received for the first time.
    pub(super) received: u64,
    /// Messages received again.
    pub(super) duplicates: u64,
    /// Gaps told.
    pub(super) gaps: u64,
    /// Sessions that ended though nobody asked.
    pub(super) broken: u64,
    /// When the newest message came, monotonic nanoseconds.
    pub(super) newest_ns: u64,
}

/// Shared by all terminals of a process.
#[derive(Debug, Default)]
pub(super) struct Tally {
    live: AtomicU64,
    received: AtomicU64,
    duplicates: AtomicU64,
    gaps: AtomicU64,
    broken: AtomicU64,
    newest_ns: AtomicU64,
    /// Who waits for messages waits for this many; waking them for each would cost more than the
    /// message.
    awaited: AtomicU64,
    recording: AtomicBool,
    receipts: Mutex<Vec<(u64, u64)>>,
    reasons: Mutex<Vec<String>>,
    changed: Notify,
}

/// Reasons of broken sessions that are kept for the report.
const REASONS_MAX: usize = 5;

impl Tally {
    pub(super) fn live(&self, terminals: i64) {
        let step = terminals.unsigned_abs();
        if terminals < 0 {
            self.live.fetch_sub(step, Ordering::Relaxed);
        } else {
            self.live.fetch_add(step, Ordering::Relaxed);
        }
        self.changed.notify_waiters();
    }

    pub(super) fn received(&self, messages: u64) {
        self.newest_ns.fetch_max(monotonic_ns(), Ordering::Relaxed);
        let total = self.received.fetch_add(messages, Ordering::SeqCst) + messages;
        if total >= self.awaited.load(Ordering::SeqCst) {
            self.changed.notify_waiters();
        }
    }

    pub(super) fn duplicate(&self) {
        self.duplicates.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn gap(&self) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn broken(&self, reason: String) {
        self.broken.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut reasons) = self.reasons.lock()
            && reasons.len() < REASONS_MAX
        {
            reasons.push(reason);
        }
        self.changed.notify_waiters();
    }

    /// Notes when a message came, while receipts are recorded.
    pub(super) fn payload(&self, json: &str) {
        if !self.recording.load(Ordering::Relaxed) {
            return;
        }
        let now = monotonic_ns();
        if let Ok(Payload { n }) = serde_json::from_str(json)
            && let Ok(mut receipts) = self.receipts.lock()
        {
            receipts.push((n, now));
        }
    }

    /// Forgets what was counted (but not who is live); records receipts from now on, or not.
    pub(super) fn reset(&self, recording: bool) {
        self.recording.store(recording, Ordering::Relaxed);
        for counter in [&self.received, &self.duplicates, &self.gaps, &self.broken, &self.newest_ns]
        {
            counter.store(0, Ordering::Relaxed);
        }
        let _ = self.take_receipts();
    }

    /// The receipts so far: number of the message, monotonic nanoseconds.
    pub(super) fn take_receipts(&self) -> Vec<(u64, u64)> {
        self.receipts.lock().map(|mut receipts| std::mem::take(&mut *receipts)).unwrap_or_default()
    }

    pub(super) fn take_reasons(&self) -> Vec<String> {
        self.reasons.lock().map(|mut reasons| std::mem::take(&mut *reasons)).unwrap_or_default()
    }

    pub(super) fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            live: get(&self.live),
            received: get(&self.received),
            duplicates: get(&self.duplicates),
            gaps: get(&self.gaps),
            broken: get(&self.broken),
            newest_ns: get(&self.newest_ns),
        }
    }

    /// Waits until so many messages were received and so many terminals are live, both at the
    /// same time. One waits at a time.
    pub(super) async fn until(&self, received: u64, live: std::ops::RangeInclusive<u64>) {
        self.awaited.store(received, Ordering::SeqCst);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let counts = self.counts();
            if counts.received >= received && live.contains(&counts.live) {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_the_length_asked_for() {
        assert_eq!(Payload::json(7, 100).len(), 100);
        assert_eq!(Payload::json(123_456_789, 100).len(), 100);
        let read: Payload = serde_json::from_str(&Payload::json(42, 0)).unwrap();
        assert_eq!(read.n, 42);
    }

    #[tokio::test]
    async fn waiting_ends_when_the_last_message_came() {
        let tally = Tally::default();
        tally.reset(true);
        let (counts, ()) = tokio::join!(
            async {
                tally.until(3, 0..=0).await;
                tally.counts()
            },
            async {
                for n in 0..3 {
                    tally.payload(&Payload::json(n, 50));
                    tally.received(1);
                }
            }
        );
        assert_eq!(counts.received, 3);
        assert!(counts.newest_ns > 0);
        let numbers: Vec<u64> = tally.take_receipts().into_iter().map(|(n, _)| n).collect();
        assert_eq!(numbers, [0, 1, 2]);
    }
}
