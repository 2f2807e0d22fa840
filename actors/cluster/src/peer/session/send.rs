//! From a lane's queue to the port of the other node, and link control.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Peer, lock};
use crate::peer::frame::{self, Control, ControlKind, Header, LENGTH_BYTES, LINK_LANE};
use crate::peer::link::LinkMessage;
use crate::peer::outbox::Outbox;
use crate::peer::port::{PORTS, PortMessage};
use crate::peer::task;
use crate::peer::types::Lane;

impl Peer {
    fn header(&self, lane: u8, now_us: u64, told: (u64, u64)) -> Header {
        Header {
            lane,
            session: self.session,
            from_boot: self.shared.identity.boot.0,
            to_boot: self.boot.0,
            seq: 0,
            ack: told.0,
            grant: told.1,
            sent_us: now_us,
            life_ms: u32::try_from(self.shared.settings.frame_age_ms_max()).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn arm(&self, lane: Lane, delay_us: u64) {
        let Some(peer) = self.myself.upgrade() else { return };
        task::spawn_on(&self.shared.runtime, async move {
            tokio::time::sleep(Duration::from_micros(delay_us)).await;
            let mut out = lock(&peer.lanes[lane as usize].out);
            out.disarm();
            peer.flush(lane, &mut out, true);
        });
    }

    /// Sends what is due, in order: the lane is locked from its queue to ractor's.
    pub(super) fn flush(&self, lane: Lane, out: &mut Outbox, due: bool) {
        let Some(ports) = self.ports.get() else { return };
        if self.is_down() {
            return;
        }
        let now_us = self.shared.now_us();
        let mut told = None;
        loop {
            // What goes anyway carries the credit of the other direction along.
            let told = *told.get_or_insert_with(|| lock(&self.lanes[lane as usize].inlet).tell());
            let header = self.header(lane as u8, now_us, told);
            let Some(frame) = out.next_frame(due, now_us, header) else { break };
            metrics::counter!("clarion_peer_frames_sent_total", "lane" => lane.name()).increment(1);
            if ports[lane as usize].cast(PortMessage::Frame(frame)).is_err() {
                // The session is ending; the link hears of it from ractor.
                break;
            }
        }
        if let Some(delay_us) = out.arm() {
            self.arm(lane, delay_us);
        }
        if out.take_relief() && self.link.cast(LinkMessage::Relieved(self.session, lane)).is_err() {
            tracing::debug!(peer = %self.id, "nobody to tell of a lane that takes messages again");
        }
    }

    /// Link control goes beside the lanes: a handler that is slow holds up its lane, not heartbeats.
    pub(super) fn control(&self, kind: ControlKind, stamp_us: u64) {
        let Some(ports) = self.ports.get() else { return };
        let lanes = std::array::from_fn(|index| lock(&self.lanes[index].inlet).tell());
        let body = Control { kind, stamp_us, lanes }.encode();
        let mut side = lock(&self.control);
        side.sent += 1;
        let mut header = self.header(LINK_LANE, self.shared.now_us(), (0, 0));
        header.seq = side.sent;
        let messages = std::iter::once(&body[..]);
        let frame = frame::encode(&header, messages, body.len() + LENGTH_BYTES);
        if ports[PORTS - 1].cast(PortMessage::Frame(frame)).is_err() {
            tracing::debug!(peer = %self.id, "link control was not taken");
        }
    }

    /// One heartbeat. False if the peer has not answered for three.
    pub(in crate::peer) fn beat(&self) -> bool {
        let now_us = self.shared.now_us();
        let silent_us = now_us.saturating_sub(self.proof_us.load(Ordering::Acquire));
        if silent_us >= self.shared.settings.heartbeat_ms * 3000 {
            return false;
        }
        self.control(ControlKind::Ping, now_us);
        true
    }

    /// Tells that a lane takes messages again.
    pub(in crate::peer) fn tell_dropped(self: &Arc<Self>, lane: Lane) {
        if self.is_up() {
            self.guarded(|| self.shared.events.dropped(self, lane));
        }
    }
}
