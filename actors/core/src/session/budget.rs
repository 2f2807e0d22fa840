//! The payload bytes that a session has on the way, with a part that only inboxes may use (I9).

use crate::log::LogKind;

use super::types::SessionLimits;

/// Bytes on the way, and bytes that reads in flight were promised.
///
/// Bound: inboxes and wide logs together stay within `window_bytes`, wide logs alone within
/// `window_bytes - unicast_reserve_bytes`. One entry that is larger than that may go when nothing
/// else of its class is on the way, so each class exceeds its bound by at most one entry.
#[derive(Debug, Default)]
pub(super) struct Budget {
    unicast: u32,
    wide: u32,
    unicast_reads: u32,
    wide_reads: u32,
}

/// The most bytes that topics and broadcast may have on the way.
const fn wide_max(limits: &SessionLimits) -> u32 {
    limits.window_bytes.saturating_sub(limits.unicast_reserve_bytes)
}

/// What is left for a class when so much of both is taken.
fn room(kind: LogKind, wide: u32, unicast: u32, limits: &SessionLimits) -> u32 {
    let wide_max = wide_max(limits);
    if kind.is_wide() {
        let all = limits.window_bytes.saturating_sub(wide.saturating_add(unicast));
        wide_max.saturating_sub(wide).min(all)
    } else {
        // I9: one oversized wide entry must not eat the reserve: at most the wide bound counts.
        limits.window_bytes.saturating_sub(wide.min(wide_max).saturating_add(unicast))
    }
}

impl Budget {
    /// The bound of the class that `kind` belongs to.
    pub(super) const fn max(kind: LogKind, limits: &SessionLimits) -> u32 {
        if kind.is_wide() { wide_max(limits) } else { limits.window_bytes }
    }

    /// Bytes that may still go out on logs of `kind`.
    pub(super) fn room(&self, kind: LogKind, limits: &SessionLimits) -> u32 {
        room(kind, self.wide, self.unicast, limits)
    }

    /// Bytes that a new read of a log of `kind` may ask for: those of other reads are promised.
    pub(super) fn room_to_read(&self, kind: LogKind, limits: &SessionLimits) -> u32 {
        let wide = self.wide.saturating_add(self.wide_reads);
        room(kind, wide, self.unicast.saturating_add(self.unicast_reads), limits)
    }

    /// Whether `bytes` in one entry may go out now.
    pub(super) fn fits(&self, kind: LogKind, bytes: u32, limits: &SessionLimits) -> bool {
        bytes <= self.room(kind, limits) || self.is_clear(kind)
    }

    /// Whether nothing of the class of `kind` is on the way.
    pub(super) const fn is_clear(&self, kind: LogKind) -> bool {
        if kind.is_wide() { self.wide == 0 } else { self.unicast == 0 }
    }

    /// Whether no read of the class of `kind` is in flight with bytes promised.
    pub(super) const fn reads_clear(&self, kind: LogKind) -> bool {
        if kind.is_wide() { self.wide_reads == 0 } else { self.unicast_reads == 0 }
    }

    /// Bytes went out.
    pub(super) fn take(&mut self, kind: LogKind, bytes: u32) {
        let class = self.class(kind);
        *class = class.saturating_add(bytes);
    }

    /// Bytes were settled.
    pub(super) fn release(&mut self, kind: LogKind, bytes: u32) {
        let class = self.class(kind);
        *class = class.saturating_sub(bytes);
    }

    /// A read was promised bytes.
    pub(super) fn promise(&mut self, kind: LogKind, bytes: u32) {
        let class = self.read_class(kind);
        *class = class.saturating_add(bytes);
    }

    /// A read came back.
    pub(super) fn redeem(&mut self, kind: LogKind, bytes: u32) {
        let class = self.read_class(kind);
        *class = class.saturating_sub(bytes);
    }

    const fn class(&mut self, kind: LogKind) -> &mut u32 {
        if kind.is_wide() { &mut self.wide } else { &mut self.unicast }
    }

    const fn read_class(&mut self, kind: LogKind) -> &mut u32 {
        if kind.is_wide() { &mut self.wide_reads } else { &mut self.unicast_reads }
    }
}
