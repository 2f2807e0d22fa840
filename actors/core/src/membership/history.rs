//! What one node remembers of one name: whether it was there, how often it came back.

use super::{Link, Seen};
use crate::identity::BootId;

/// The quarantine doubles this often at most: 16 times the first.
const DOUBLINGS_MAX: u32 = 4;
/// Flaps are forgotten after so long without one.
const STABLE_MS: u64 = 600_000;
/// How long after it was first seen a link to a member may be missing: far longer than dialling it
/// takes, also while a whole cluster starts.
pub(super) const UNLINKED_MS: u64 = 10_000;

/// What a member says of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vote {
    /// It came back too lately.
    Quarantine,
    /// It has been well for long enough.
    Cleared,
    /// It was there at first sight, and may have come back just before.
    Abstain,
    /// There was never a link to this run of it, for too long.
    NeverLinked,
}

impl Vote {
    /// Quarantine counts up.
    pub(super) const fn weight(self) -> i64 {
        match self {
            Self::Quarantine => 1,
            Self::Cleared => -1,
            Self::Abstain | Self::NeverLinked => 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct History {
    boot: BootId,
    up: bool,
    /// Since when it is up in this life, or gone.
    since_ms: u64,
    /// It was draining when it was last seen: its end is no flap.
    drained: bool,
    /// It lost its slots by sickness: getting well is coming back.
    was_out: bool,
    flaps: u32,
    quarantine_ms: u64,
    until_ms: u64,
    /// Whether it was well for long enough since it was first seen.
    known: bool,
    /// When this run of it was first seen.
    run_since_ms: u64,
    /// Whether there was a link to this run of it.
    linked: bool,
}

impl History {
    /// Seen for the first time.
    pub(super) fn new(now_ms: u64, quarantine_ms: u64, one: &Seen) -> Self {
        Self {
            boot: one.boot,
            up: true,
            since_ms: now_ms,
            drained: one.draining,
            was_out: false,
            flaps: 0,
            quarantine_ms,
            until_ms: 0,
            known: false,
            run_since_ms: now_ms,
            linked: one.linked == Link::Up,
        }
    }

    /// Seen alive. `doubted`: somebody holds it in quarantine.
    pub(super) fn seen(&mut self, now_ms: u64, one: &Seen, doubted: bool) {
        let other_life = !self.up || self.boot != one.boot;
        let recovered = self.was_out && !one.sick;
        if other_life || recovered {
            if (other_life && !self.drained) || recovered {
                self.came_back(now_ms);
            } else {
                self.settle(now_ms);
                self.known = true;
            }
            self.since_ms = now_ms;
            self.was_out = false;
        }
        if self.boot != one.boot {
            (self.run_since_ms, self.linked) = (now_ms, false);
        }
        self.linked |= one.linked == Link::Up;
        self.boot = one.boot;
        self.up = true;
        self.drained = one.draining;
        let stable = now_ms.saturating_sub(self.since_ms) >= self.quarantine_ms;
        if stable && !doubted {
            self.known = true;
        }
    }

    /// We ourselves have no flaps: the others judge us.
    pub(super) const fn myself(&mut self, one: &Seen) {
        self.boot = one.boot;
        self.was_out = false;
    }

    /// Not there, or dead.
    pub(super) fn gone(&mut self, now_ms: u64) {
        if self.up {
            self.settle(now_ms);
            self.up = false;
            self.since_ms = now_ms;
        }
    }

    pub(super) const fn out_for_sickness(&mut self) {
        self.was_out = true;
    }

    fn came_back(&mut self, now_ms: u64) {
        self.settle(now_ms);
        let doublings = self.flaps.min(DOUBLINGS_MAX);
        self.flaps = self.flaps.saturating_add(1);
        let quarantine_ms = self.quarantine_ms.saturating_mul(1 << doublings);
        self.until_ms = now_ms.saturating_add(quarantine_ms);
        self.known = true;
    }

    /// Before `since_ms` moves on: forgets what is long ago.
    fn settle(&mut self, now_ms: u64) {
        self.flaps = self.flaps(now_ms);
    }

    pub(super) const fn boot(&self) -> BootId {
        self.boot
    }

    pub(super) const fn is_up(&self) -> bool {
        self.up
    }

    pub(super) fn gone_since(&self) -> Option<u64> {
        (!self.up).then_some(self.since_ms)
    }

    pub(super) fn flaps(&self, now_ms: u64) -> u32 {
        if now_ms.saturating_sub(self.since_ms) >= STABLE_MS { 0 } else { self.flaps }
    }

    pub(super) fn quarantined_until(&self, now_ms: u64) -> Option<u64> {
        (self.up && self.until_ms > now_ms).then_some(self.until_ms)
    }

    pub(super) fn vote(&self, now_ms: u64) -> Vote {
        if self.until_ms > now_ms {
            Vote::Quarantine
        } else if now_ms >= self.unlinked_at_ms() {
            Vote::NeverLinked
        } else if self.known {
            Vote::Cleared
        } else {
            Vote::Abstain
        }
    }

    /// From when on this run of it counts as never linked.
    const fn unlinked_at_ms(&self) -> u64 {
        if self.linked { u64::MAX } else { self.run_since_ms.saturating_add(UNLINKED_MS) }
    }

    /// When the vote changes by itself.
    pub(super) fn next_ms(&self, now_ms: u64) -> Option<u64> {
        let known_ms = self.since_ms.saturating_add(self.quarantine_ms);
        let known_ms = (!self.known).then_some(known_ms);
        let unlinked_ms = (!self.linked).then(|| self.unlinked_at_ms());
        let changes = [Some(self.until_ms), known_ms, unlinked_ms].into_iter().flatten();
        changes.filter(|change_ms| self.up && *change_ms > now_ms).min()
    }
}
