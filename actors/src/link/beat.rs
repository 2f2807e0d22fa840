//! The heartbeat of a link, and everything else on it that time brings.

use std::sync::atomic::Ordering;

use clarion_protocol::Code;
use clarion_protocol::terminal::NodeFrame;
use tokio::io::{AsyncRead, AsyncWrite};

use super::host::Host;
use super::{CLOSE_PATIENCE_MS, Link, STABLE_HEARTBEATS, Stage, encode};

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Link<S> {
    pub(super) fn tick(&mut self, out: &mut Vec<u8>) {
        let now_ms = self.context.store.time_ms();
        let limits = &self.context.limits;
        if self.closing.is_some_and(|(_, since)| now_ms >= since + CLOSE_PATIENCE_MS) {
            self.ended.get_or_insert("closed_by_node");
        }
        if self.stuck_since_ms > 0 && now_ms >= self.stuck_since_ms + limits.flush_timeout_ms {
            self.ended.get_or_insert(Code::SlowTerminal.as_str());
        }
        if self.closing.is_some() || self.ended.is_some() {
            return; // nothing follows a close frame
        }
        if self.sessions.is_empty() && now_ms >= self.idle_since_ms + limits.open_timeout_ms {
            self.close_link(Code::OpenTimeout, out);
        }
        if now_ms >= self.raise_at_ms {
            self.raise_heartbeat(now_ms, out);
        }
        let keys: Vec<_> = self.sessions.iter().map(|seat| seat.key).collect();
        for key in keys {
            self.with_host(key, out, Host::tick);
        }
    }

    /// The heartbeat the terminal's last session ended with.
    pub(super) fn start_heartbeat(&mut self, heartbeat_ms: u64) {
        let limits = &self.context.limits;
        self.heartbeat_ms = heartbeat_ms.clamp(limits.heartbeat_min_ms, limits.heartbeat_max_ms);
        let now_ms = self.context.store.time_ms();
        self.raise_at_ms = now_ms + STABLE_HEARTBEATS * self.heartbeat_ms;
        self.set_silence();
    }

    /// A link that proved stable may be silent for longer.
    pub(super) fn raise_heartbeat(&mut self, now_ms: u64, out: &mut Vec<u8>) {
        let max_ms = self.context.limits.heartbeat_max_ms;
        if self.heartbeat_ms >= max_ms {
            self.raise_at_ms = u64::MAX;
            return;
        }
        self.heartbeat_ms = (self.heartbeat_ms * 2).min(max_ms);
        self.raise_at_ms = now_ms + STABLE_HEARTBEATS * self.heartbeat_ms;
        self.set_silence();
        encode::frame(out, &NodeFrame::Heartbeat { s: 0, ms: self.heartbeat_ms });
    }

    pub(super) fn set_silence(&self) {
        let silence_ms = self.heartbeat_ms + self.context.limits.heartbeat_grace_ms;
        let silence_s = silence_ms.div_ceil(1000) as u32;
        self.inbox.silence_max_s.store(silence_s, Ordering::Relaxed);
    }

    pub(super) fn set_deadline(&self) {
        let limits = &self.context.limits;
        let mut deadline_ms = self.raise_at_ms;
        if self.sessions.is_empty() {
            deadline_ms = deadline_ms.min(self.idle_since_ms + limits.open_timeout_ms);
        }
        if self.stuck_since_ms > 0 {
            deadline_ms = deadline_ms.min(self.stuck_since_ms + limits.flush_timeout_ms);
        }
        if self.frames_left == 0 {
            deadline_ms = 0;
        }
        if let Some((_, since_ms)) = self.closing {
            deadline_ms = deadline_ms.min(since_ms + CLOSE_PATIENCE_MS);
        }
        for seat in &self.sessions {
            if let Stage::Live(host) = &seat.stage {
                deadline_ms = deadline_ms.min(host.deadline_ms(&self.context));
            }
        }
        self.inbox.deadline_ms.store(deadline_ms, Ordering::Relaxed);
    }
}
