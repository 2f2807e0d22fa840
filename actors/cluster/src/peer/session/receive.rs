//! From a frame that a port got to the handler, and what the frame says of the other direction.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Peer, UP, Why, lock};
use crate::peer::frame::{self, Control, ControlKind, Header, LINK_LANE};
use crate::peer::inlet::{Fault, Taken};
use crate::peer::types::Lane;

impl Peer {
    /// A frame that a port got for this session.
    pub(in crate::peer) fn on_frame(self: &Arc<Self>, header: &Header, messages: Vec<Bytes>) {
        if self.is_down() {
            return;
        }
        if header.from_boot != self.boot.0 || header.to_boot != self.shared.identity.boot.0 {
            return self.close(Why::Corrupt);
        }
        let now_us = self.shared.now_us();
        if self.shared.stands_still(now_us) {
            return self.close(Why::Stale);
        }
        let age_us = lock(&self.gauge).age_us(header.sent_us, now_us);
        if header.lane == LINK_LANE {
            return self.on_control(header, &messages, age_us, now_us);
        }
        let Some(lane) = Lane::ALL.get(usize::from(header.lane)).copied() else {
            return self.close(Why::Corrupt);
        };
        let age_us = self.stale_age_us(header, age_us, now_us);
        let cost = messages.iter().map(|message| frame::cost(message.len())).sum();
        let taken = {
            let mut inlet = lock(&self.lanes[lane as usize].inlet);
            inlet.take(header.seq, messages.len() as u64, cost, age_us, header.life_ms)
        };
        match taken {
            Ok(Taken::Next) => {}
            Ok(Taken::Duplicate) => {
                metrics::counter!("clarion_peer_duplicates_total").increment(1);
                return;
            }
            Err(fault) => return self.fault(fault),
        }
        // The peer sends only after it has heard that its ports were found here, so ours are known.
        self.greeted.store(true, Ordering::SeqCst);
        if self.phase.load(Ordering::Acquire) != UP {
            self.bring_up();
        }
        self.on_ack(lane, header.ack, header.grant, now_us);
        if self.is_down() {
            return;
        }
        self.guarded(|| self.shared.events.received(self, lane, messages));
        self.release(lane, cost);
    }

    /// A frame that has waited here for a slow handler is old and not stale: heartbeats that came in
    /// time show that the peer holds on to this session.
    fn stale_age_us(&self, header: &Header, age_us: u64, now_us: u64) -> u64 {
        let silent_us = now_us.saturating_sub(self.heard_us.load(Ordering::Acquire));
        if silent_us <= u64::from(header.life_ms) * 1000 { 0 } else { age_us }
    }

    pub(super) fn release(&self, lane: Lane, cost: u64) {
        let tell = lock(&self.lanes[lane as usize].inlet).release(cost);
        if tell && self.is_up() {
            self.control(ControlKind::Grant, 0);
        }
    }

    fn fault(self: &Arc<Self>, fault: Fault) {
        tracing::warn!(peer = %self.id, %fault, "closing the link");
        self.close(match fault {
            Fault::Stale => Why::Stale,
            Fault::Gap | Fault::Overrun => Why::Corrupt,
        });
    }

    fn on_control(self: &Arc<Self>, header: &Header, messages: &[Bytes], age_us: u64, now_us: u64) {
        if age_us > u64::from(header.life_ms) * 1000 {
            return self.fault(Fault::Stale);
        }
        self.heard_us.fetch_max(now_us, Ordering::AcqRel);
        {
            let mut side = lock(&self.control);
            if header.seq <= side.received {
                return;
            }
            if header.seq != side.received + 1 {
                drop(side);
                return self.fault(Fault::Gap);
            }
            side.received = header.seq;
        }
        let Some(control) = messages.first().and_then(|bytes| Control::decode(bytes)) else {
            return;
        };
        for (lane, (ack, grant)) in Lane::ALL.into_iter().zip(control.lanes) {
            self.on_ack(lane, ack, grant, now_us);
        }
        match control.kind {
            ControlKind::Hello => {
                self.greeted.store(true, Ordering::SeqCst);
                self.bring_up();
            }
            ControlKind::Ping => self.control(ControlKind::Pong, control.stamp_us),
            ControlKind::Pong => {
                let rtt_us = now_us.saturating_sub(control.stamp_us);
                self.rtt_us.store(rtt_us.max(1), Ordering::Relaxed);
                self.proof_us.fetch_max(now_us, Ordering::AcqRel);
            }
            ControlKind::Grant => {}
        }
    }

    fn on_ack(self: &Arc<Self>, lane: Lane, ack: u64, grant: u64, now_us: u64) {
        let mut out = lock(&self.lanes[lane as usize].out);
        match out.on_ack(ack, grant) {
            None => {
                drop(out);
                tracing::warn!(peer = %self.id, "acknowledges what was not sent");
                self.close(Why::Corrupt);
            }
            Some(acked) => {
                if acked.progress {
                    self.proof_us.fetch_max(now_us, Ordering::AcqRel);
                }
                if acked.unblocked {
                    self.flush(lane, &mut out, true);
                }
            }
        }
    }
}
