//! What one lane has received: is a frame the next one, is it still to be handled, and how much may
//! the peer send. Pure.

use thiserror::Error;

/// Why a frame ends the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Fault {
    /// A frame was lost: what follows must not be taken for the whole.
    #[error("gap in the sequence of frames")]
    Gap,
    /// Older than its sender lets it be handled.
    #[error("stale frame")]
    Stale,
    /// More bytes than were granted.
    #[error("more than was granted")]
    Overrun,
}

/// How to take a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is the next one.
    Next,
    /// It was handled before: pass over it.
    Duplicate,
}

/// The age of what a peer sends, though the clocks of two machines agree in nothing.
///
/// Every frame carries its sender's monotonic time. Receipt minus that is the difference of the
/// clocks plus the time under way; the least ever seen is taken as the difference, and what a frame
/// shows beyond it is its age. So the age is too small by the shortest time under way, never too
/// large by more than the clocks run apart, for which [`DRIFT_PPM`] is allowed. The least of a
/// sliding time would not do: a process that wakes after an hour would find only old frames in it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AgeGauge {
    least: Option<(i64, u64)>,
}

/// How far two monotonic clocks may run apart, in millionths.
const DRIFT_PPM: u64 = 200;

impl AgeGauge {
    /// Age of what was sent at `sent_us` (sender's clock) and is here at `now_us` (ours), in
    /// microseconds.
    pub(super) fn age_us(&mut self, sent_us: u64, now_us: u64) -> u64 {
        let sample = now_us.wrapping_sub(sent_us) as i64;
        if let Some((least, at_us)) = self.least {
            let drift_us = now_us.saturating_sub(at_us) / 1_000_000 * DRIFT_PPM;
            let expected = least.saturating_add(drift_us as i64);
            if sample > expected {
                return sample.saturating_sub(expected).unsigned_abs();
            }
        }
        self.least = Some((sample, now_us));
        0
    }
}

#[derive(Debug)]
pub(super) struct Inlet {
    window: u64,
    /// Last sequence taken.
    seq: u64,
    /// Cost of all that was received, and of what is still held.
    received_cost: u64,
    held: u64,
    /// Last grant that was told.
    told: u64,
    messages: u64,
}

impl Inlet {
    pub(super) fn new(window: u64) -> Self {
        Self { window, seq: 0, received_cost: 0, held: 0, told: window, messages: 0 }
    }

    /// Judges a frame of `cost` bytes that is `age_us` old; a frame taken is held until
    /// [`release`](Self::release).
    pub(super) fn take(
        &mut self,
        seq: u64,
        messages: u64,
        cost: u64,
        age_us: u64,
        life_ms: u32,
    ) -> Result<Taken, Fault> {
        if age_us > u64::from(life_ms) * 1000 {
            return Err(Fault::Stale);
        }
        if seq <= self.seq {
            return Ok(Taken::Duplicate);
        }
        if seq != self.seq + 1 {
            return Err(Fault::Gap);
        }
        // One frame may go beyond the credit, as long as there was any.
        if self.received_cost >= self.granted() {
            return Err(Fault::Overrun);
        }
        self.seq = seq;
        self.received_cost += cost;
        self.held += cost;
        self.messages += messages;
        Ok(Taken::Next)
    }

    /// `cost` bytes are handled. True if the peer should hear of its new credit now.
    pub(super) fn release(&mut self, cost: u64) -> bool {
        self.held = self.held.saturating_sub(cost);
        self.granted() - self.told >= self.window / 4
    }

    /// `cost` bytes more are held than those of the frames that run.
    pub(super) fn hold(&mut self, cost: u64) {
        self.held += cost;
    }

    /// Bytes that the peer may send in all; never less than what it was told, however much is held.
    pub(super) fn granted(&self) -> u64 {
        (self.received_cost + self.window).saturating_sub(self.held).max(self.told)
    }

    /// Sequence taken and bytes allowed, to be told.
    pub(super) fn tell(&mut self) -> (u64, u64) {
        self.told = self.granted();
        (self.seq, self.told)
    }

    pub(super) const fn messages(&self) -> u64 {
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_are_taken_once_and_in_order() {
        let mut inlet = Inlet::new(1000);
        assert_eq!(inlet.take(1, 1, 10, 0, 100), Ok(Taken::Next));
        assert_eq!(inlet.take(1, 1, 10, 0, 100), Ok(Taken::Duplicate));
        assert_eq!(inlet.take(2, 1, 10, 0, 100), Ok(Taken::Next));
        assert_eq!(inlet.take(4, 1, 10, 0, 100), Err(Fault::Gap));
        assert_eq!(inlet.messages(), 2);
    }

    #[test]
    fn a_stale_frame_is_a_fault_even_if_it_is_the_next() {
        let mut inlet = Inlet::new(1000);
        assert_eq!(inlet.take(1, 1, 10, 100_000, 100), Ok(Taken::Next));
        assert_eq!(inlet.take(2, 1, 10, 100_001, 100), Err(Fault::Stale));
    }

    #[test]
    fn credit_comes_back_with_what_is_released() {
        let mut inlet = Inlet::new(1000);
        assert_eq!(inlet.tell(), (0, 1000));
        assert_eq!(inlet.take(1, 1, 600, 0, 1), Ok(Taken::Next));
        assert_eq!(inlet.take(2, 1, 600, 0, 1), Ok(Taken::Next), "the one beyond");
        assert_eq!(inlet.tell(), (2, 1000));
        assert_eq!(inlet.take(3, 1, 1, 0, 1), Err(Fault::Overrun));
        assert!(!inlet.release(249));
        assert!(inlet.release(1));
        assert_eq!(inlet.tell(), (2, 1250));
        assert!(!inlet.release(1), "told");
        assert_eq!(inlet.take(3, 1, 1, 0, 1), Ok(Taken::Next));
    }

    #[test]
    fn age_ignores_what_the_clocks_show() {
        let mut gauge = AgeGauge::default();
        let ahead = 1 << 50;
        assert_eq!(gauge.age_us(ahead, 1_000), 0);
        assert_eq!(gauge.age_us(ahead + 5_000, 6_000), 0);
        assert_eq!(gauge.age_us(ahead + 6_000, 9_000), 2_000);
        // Faster than any before: the new measure.
        assert_eq!(gauge.age_us(ahead + 10_000, 10_500), 0);
        assert_eq!(gauge.age_us(ahead + 11_000, 12_000), 500);
    }

    #[test]
    fn what_was_sent_before_an_hour_of_sleep_is_an_hour_old() {
        let mut gauge = AgeGauge::default();
        assert_eq!(gauge.age_us(1_000, 1_000), 0);
        let hour_us = 3_600_000_000;
        for sent_us in [2_000, 3_000, 4_000] {
            let age_us = gauge.age_us(sent_us, hour_us);
            assert!(age_us > hour_us - 1_000_000, "{age_us}");
        }
        assert_eq!(gauge.age_us(hour_us, hour_us), 0);
    }

    #[test]
    fn what_a_handler_holds_is_not_granted_again() {
        let mut inlet = Inlet::new(1000);
        assert_eq!(inlet.take(1, 1, 900, 0, 1), Ok(Taken::Next));
        inlet.hold(900);
        assert!(!inlet.release(900));
        assert_eq!(inlet.tell(), (1, 1000));
        assert!(inlet.release(900));
        assert_eq!(inlet.tell(), (1, 1900));
    }

    proptest! {
        #[test]
        fn age_is_at_most_what_it_took(
            difference in -1_000_000_000_000_i64..1_000_000_000_000,
            sends in proptest::collection::vec((0_u64..1_000_000, 0_u64..5_000_000), 1..50),
        ) {
            let mut gauge = AgeGauge::default();
            let mut at_us = 2_000_000_000_000_u64;
            for (gap_us, under_way_us) in sends {
                at_us += gap_us;
                let sent_us = at_us.wrapping_add_signed(difference);
                prop_assert!(gauge.age_us(sent_us, at_us + under_way_us) <= under_way_us);
            }
        }
    }
}
