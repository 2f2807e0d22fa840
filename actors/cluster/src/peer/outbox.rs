//! What one lane has to send: a bounded queue, the credit that the peer gave, when a frame is due.
//! Pure: time comes in as microseconds of any monotonic clock.
//!
//! Credit is counted in all bytes ever sent and ever allowed in the session, so a lost or repeated
//! grant does no harm. One frame may go beyond it: the lane sends while there is any credit left.

use std::collections::VecDeque;

use bytes::Bytes;

use super::frame::{self, Header, LENGTH_BYTES, cost};
use super::types::{LANE_MESSAGES_MAX, LaneStatus, MESSAGE_BYTES_MAX, Refused};

/// The slice of the settings that a lane needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) queue_bytes: u64,
    pub(super) frame_bytes: usize,
    pub(super) frame_messages: usize,
    pub(super) frame_delay_us: u64,
}

/// What to do after a message was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Push {
    /// Nothing: a timer runs, or credit is missing.
    Wait,
    /// Call [`Outbox::next_frame`] with `due` after so many microseconds.
    Arm(u64),
    /// Call it now. `due`: what is there goes, full frame or not.
    Flush { due: bool },
}

/// What an acknowledgement has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acked {
    /// The peer has handled something more.
    pub(super) progress: bool,
    /// There was no credit and now there is: call [`Outbox::next_frame`] with `due`.
    pub(super) unblocked: bool,
}

#[derive(Debug)]
pub(super) struct Outbox {
    limits: Limits,
    queue: VecDeque<Bytes>,
    /// Cost of the queue.
    queued: u64,
    /// Bytes of the queue as they stand in a frame.
    framed: usize,
    /// Cost of everything ever sent, and what the peer allows in all.
    sent_cost: u64,
    granted: u64,
    /// Last sequence sent and handled; cost of what is between, per frame.
    seq: u64,
    acked: u64,
    in_flight: VecDeque<(u64, u64)>,
    in_flight_cost: u64,
    last_frame_us: Option<u64>,
    armed: bool,
    /// Something was refused since it was last told.
    refused: bool,
    sent: u64,
    dropped: u64,
}

impl Outbox {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            queue: VecDeque::new(),
            queued: 0,
            framed: 0,
            sent_cost: 0,
            granted: 0,
            seq: 0,
            acked: 0,
            in_flight: VecDeque::new(),
            in_flight_cost: 0,
            last_frame_us: None,
            armed: false,
            refused: false,
            sent: 0,
            dropped: 0,
        }
    }

    /// Takes a message, or refuses it and remembers that it did.
    pub(super) fn push(
        &mut self,
        message: Bytes,
        now_us: impl FnOnce() -> u64,
    ) -> Result<Push, Refused> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(Refused::TooLarge);
        }
        let cost = cost(message.len());
        // A message is taken by an empty queue however small the queue is made.
        let full = self.queued + cost > self.limits.queue_bytes && !self.queue.is_empty();
        if full || self.queue.len() >= LANE_MESSAGES_MAX {
            self.dropped += 1;
            self.refused = true;
            return Err(Refused::Full);
        }
        self.queued += cost;
        self.framed += message.len() + LENGTH_BYTES;
        self.queue.push_back(message);
        if !self.has_credit() {
            return Ok(Push::Wait);
        }
        if self.is_full() {
            return Ok(Push::Flush { due: false });
        }
        if self.armed {
            return Ok(Push::Wait);
        }
        let delay_us = self.limits.frame_delay_us;
        let since_us =
            self.last_frame_us.map_or(u64::MAX, |last_us| now_us().saturating_sub(last_us));
        if since_us >= delay_us {
            return Ok(Push::Flush { due: true });
        }
        self.armed = true;
        Ok(Push::Arm(delay_us - since_us))
    }

    /// The next frame, while there is credit: a full one, or with `due` any.
    pub(super) fn next_frame(
        &mut self,
        due: bool,
        now_us: u64,
        mut header: Header,
    ) -> Option<Vec<u8>> {
        if self.queue.is_empty() || !self.has_credit() || !(due || self.is_full()) {
            return None;
        }
        let (mut count, mut bytes, mut spent) = (0, 0, 0);
        for message in self.queue.iter().take(self.limits.frame_messages) {
            let more = bytes + message.len() + LENGTH_BYTES;
            if count > 0 && more > self.limits.frame_bytes {
                break;
            }
            count += 1;
            bytes = more;
            spent += cost(message.len());
        }
        self.seq += 1;
        header.seq = self.seq;
        let messages = self.queue.iter().take(count).map(|message| &message[..]);
        let frame = frame::encode(&header, messages, bytes);
        self.queue.drain(..count);
        self.queued -= spent;
        self.framed -= bytes;
        self.sent_cost += spent;
        self.in_flight.push_back((self.seq, spent));
        self.in_flight_cost += spent;
        self.sent += count as u64;
        self.last_frame_us = Some(now_us);
        Some(frame)
    }

    /// After the frames are gone: how long until what is left is due, in microseconds, if no timer
    /// runs for it yet. Without credit nothing is due: the grant is what it waits for.
    pub(super) fn arm(&mut self) -> Option<u64> {
        let wanted = !self.queue.is_empty() && self.has_credit() && !self.armed;
        self.armed |= wanted;
        wanted.then_some(self.limits.frame_delay_us)
    }

    /// The timer of [`Push::Arm`] has fired.
    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }

    /// What the peer says: handled up to `ack`, allowed `grant` in all. `None` if it claims to have
    /// handled what was never sent.
    pub(super) fn on_ack(&mut self, ack: u64, grant: u64) -> Option<Acked> {
        if ack > self.seq {
            return None;
        }
        let blocked = !self.has_credit();
        self.granted = self.granted.max(grant);
        let progress = ack > self.acked;
        self.acked = self.acked.max(ack);
        while let Some((_, spent)) = self.in_flight.pop_front_if(|(seq, _)| *seq <= ack) {
            self.in_flight_cost -= spent;
        }
        Some(Acked { progress, unblocked: blocked && self.has_credit() })
    }

    /// Whether refusals are to be told now: half of the queue is free again.
    pub(super) fn take_relief(&mut self) -> bool {
        let relieved = self.refused
            && self.queued <= self.limits.queue_bytes / 2
            && self.queue.len() <= LANE_MESSAGES_MAX / 2;
        if relieved {
            self.refused = false;
        }
        relieved
    }

    /// The link is down: frees the queue and says how many messages were lost in it.
    pub(super) fn clear(&mut self) -> usize {
        let lost = self.queue.len();
        self.queue = VecDeque::new();
        self.in_flight = VecDeque::new();
        self.queued = 0;
        self.framed = 0;
        self.in_flight_cost = 0;
        lost
    }

    fn has_credit(&self) -> bool {
        self.granted > self.sent_cost
    }

    fn is_full(&self) -> bool {
        self.framed >= self.limits.frame_bytes || self.queue.len() >= self.limits.frame_messages
    }

    pub(super) fn status(&self) -> LaneStatus {
        LaneStatus {
            credit_bytes: self.granted as i64 - self.sent_cost as i64,
            queued_bytes: self.queued,
            queued_messages: self.queue.len() as u64,
            in_flight_bytes: self.in_flight_cost,
            in_flight_frames: self.in_flight.len() as u64,
            sent: self.sent,
            received: 0,
            dropped: self.dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits =
        Limits { queue_bytes: 10_000, frame_bytes: 1000, frame_messages: 8, frame_delay_us: 1000 };

    fn message(bytes: usize) -> Bytes {
        Bytes::from(vec![7; bytes])
    }

    fn open(limits: Limits, grant: u64) -> Outbox {
        let mut outbox = Outbox::new(limits);
        assert!(outbox.on_ack(0, grant).is_some());
        outbox
    }

    fn acked(progress: bool, unblocked: bool) -> Option<Acked> {
        Some(Acked { progress, unblocked })
    }

    fn frame(outbox: &mut Outbox, due: bool, now_us: u64) -> Option<usize> {
        outbox
            .next_frame(due, now_us, Header::default())
            .map(|bytes| frame::decode(&bytes.into()).unwrap().1.len())
    }

    #[test]
    fn the_first_after_a_pause_goes_at_once_and_the_rest_is_collected() {
        let mut outbox = open(LIMITS, 1 << 20);
        assert_eq!(outbox.push(message(10), || 5000), Ok(Push::Flush { due: true }));
        assert_eq!(frame(&mut outbox, true, 5000), Some(1));
        assert_eq!(outbox.push(message(10), || 5400), Ok(Push::Arm(600)));
        assert_eq!(outbox.push(message(10), || 5500), Ok(Push::Wait));
        assert_eq!(frame(&mut outbox, false, 5500), None);
        outbox.disarm();
        assert_eq!(frame(&mut outbox, true, 6000), Some(2));
        assert_eq!(frame(&mut outbox, true, 6000), None);
    }

    #[test]
    fn a_full_frame_goes_before_its_time() {
        let mut outbox = open(LIMITS, 1 << 20);
        assert_eq!(outbox.push(message(1), || 0), Ok(Push::Flush { due: true }));
        assert_eq!(frame(&mut outbox, true, 0), Some(1));
        for n in 0..7 {
            let expected = if n == 0 { Push::Arm(999) } else { Push::Wait };
            assert_eq!(outbox.push(message(1), || 1), Ok(expected));
        }
        assert_eq!(outbox.push(message(1), || 1), Ok(Push::Flush { due: false }));
        assert_eq!(frame(&mut outbox, false, 1), Some(8));
        assert_eq!(outbox.push(message(900), || 1), Ok(Push::Wait));
        assert_eq!(outbox.push(message(900), || 1), Ok(Push::Flush { due: false }));
        assert_eq!(frame(&mut outbox, false, 1), Some(1));
        assert_eq!(frame(&mut outbox, false, 1), None);
        assert_eq!(outbox.arm(), None, "the timer still runs");
        outbox.disarm();
        assert_eq!(outbox.arm(), Some(1000));
    }

    #[test]
    fn without_credit_nothing_goes_and_a_grant_frees_it() {
        let mut outbox = open(LIMITS, 0);
        for _ in 0..20 {
            assert_eq!(outbox.push(message(10), || 0), Ok(Push::Wait));
        }
        assert_eq!(frame(&mut outbox, true, 0), None);
        assert_eq!(outbox.on_ack(0, 1), acked(false, true));
        assert_eq!(frame(&mut outbox, true, 0), Some(8), "one frame beyond the credit");
        assert_eq!(frame(&mut outbox, true, 0), None);
        assert_eq!(outbox.status().credit_bytes, 1 - 8 * cost(10) as i64);
        assert_eq!(outbox.on_ack(1, 8 * cost(10)), acked(true, false));
        assert_eq!(frame(&mut outbox, true, 0), None, "paid back, nothing left");
        assert_eq!(outbox.on_ack(1, 8 * cost(10) + 1), acked(false, true));
        assert_eq!(outbox.on_ack(1, 8 * cost(10) + 2), acked(false, false));
        assert_eq!(frame(&mut outbox, true, 0), Some(8));
        assert_eq!(outbox.on_ack(3, 0), None, "handled what was not sent");
    }

    #[test]
    fn a_full_queue_refuses_and_tells_when_half_is_free() {
        let mut outbox = open(LIMITS, 0);
        let mut taken = 0;
        while outbox.push(message(36), || 0).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 100);
        assert_eq!(outbox.push(message(36), || 0), Err(Refused::Full));
        assert_eq!((outbox.status().queued_bytes, outbox.status().dropped), (10_000, 2));
        assert!(!outbox.take_relief());
        outbox.on_ack(0, 1 << 20);
        for _ in 0..6 {
            assert_eq!(frame(&mut outbox, true, 0), Some(8));
        }
        assert!(!outbox.take_relief(), "52 of 100 are left");
        assert_eq!(frame(&mut outbox, true, 0), Some(8));
        assert!(outbox.take_relief());
        assert!(!outbox.take_relief(), "told once");
    }

    #[test]
    fn a_message_too_large_for_any_frame_is_refused() {
        let mut outbox = open(LIMITS, 1 << 20);
        assert_eq!(outbox.push(message(MESSAGE_BYTES_MAX + 1), || 0), Err(Refused::TooLarge));
        assert!(outbox.push(message(MESSAGE_BYTES_MAX), || 0).is_ok());
        let frame = outbox.next_frame(true, 0, Header::default()).unwrap();
        assert!(frame.len() < 1 << 20);
    }

    #[test]
    fn the_number_of_waiting_messages_is_bounded_too() {
        let limits = Limits { queue_bytes: u64::MAX, ..LIMITS };
        let mut outbox = open(limits, 0);
        for _ in 0..LANE_MESSAGES_MAX {
            outbox.push(Bytes::new(), || 0).unwrap();
        }
        assert_eq!(outbox.push(Bytes::new(), || 0), Err(Refused::Full));
    }

    proptest! {
        #[test]
        fn bounds_hold_and_nothing_is_lost_or_reordered(
            steps in proptest::collection::vec((0_u8..4, 0_usize..1500), 1..300),
        ) {
            let mut outbox = open(LIMITS, 0);
            let (mut next, mut expected, mut sent_cost) = (0_u32, 0_u32, 0_u64);
            let (mut granted, mut now_us, mut armed_at) = (0_u64, 0_u64, None);
            for (step, size) in steps {
                now_us += 300;
                let mut due = None;
                match step {
                    0 | 1 => {
                        let mut bytes = vec![0; size.max(4)];
                        bytes[..4].copy_from_slice(&next.to_le_bytes());
                        match outbox.push(bytes.into(), || now_us) {
                            Ok(push) => {
                                next += 1;
                                match push {
                                    Push::Flush { due: at_once } => due = Some(at_once),
                                    Push::Arm(us) => {
                                        prop_assert!(armed_at.is_none());
                                        armed_at = Some(now_us + us);
                                    }
                                    Push::Wait => {}
                                }
                            }
                            Err(refused) => prop_assert_eq!(refused, Refused::Full),
                        }
                    }
                    2 => {
                        granted += size as u64;
                        let acked = outbox.seq;
                        outbox.on_ack(acked, granted);
                        due = Some(true);
                    }
                    _ => {}
                }
                if armed_at.is_some_and(|at| at <= now_us) {
                    armed_at = None;
                    outbox.disarm();
                    due = Some(true);
                }
                if let Some(due) = due {
                    while let Some(bytes) = outbox.next_frame(due, now_us, Header::default()) {
                        prop_assert!(sent_cost < granted, "sent without credit");
                        let (_, messages) = frame::decode(&bytes.into()).unwrap();
                        prop_assert!(messages.len() <= LIMITS.frame_messages);
                        for message in messages {
                            sent_cost += cost(message.len());
                            prop_assert_eq!(&message[..4], &expected.to_le_bytes()[..]);
                            expected += 1;
                        }
                    }
                    if let Some(us) = outbox.arm() {
                        prop_assert!(armed_at.is_none());
                        armed_at = Some(now_us + us);
                    }
                }
                let status = outbox.status();
                prop_assert!(status.queued_bytes <= LIMITS.queue_bytes + cost(1500));
                prop_assert_eq!(u64::from(next - expected), status.queued_messages);
                prop_assert!(
                    status.queued_messages == 0 || status.credit_bytes <= 0 || armed_at.is_some(),
                    "a message waits for nothing"
                );
            }
        }
    }
}
