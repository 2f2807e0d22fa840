//! A link: one task that owns a terminal's socket and drives its sessions (steps 7 and 8 of the
//! way of a push).
//!
//! Receives frames of the terminal, and items of its inbox from relays, readers and its shard.
//! Sends frames, and the effects of its sessions. Parent: a link shard, to which it reports.
//! Everything it holds is bounded: the inbox by `session.inbox_items_max`, what is written by the
//! sessions' windows and [`OUT_HIGH_BYTES`], what is read by the frame limit and rate. When it
//! dies the terminal resumes elsewhere from its cursors.

mod answers;
mod beat;
pub(crate) mod context;
mod encode;
mod ending;
pub mod first;
mod frames;
mod host;
pub(crate) mod inbox;
pub mod io;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use clarion_core::session::Event;
use clarion_protocol::terminal::{Cursor, SessionNumber};
use clarion_protocol::{Code, LogName};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use context::LinkContext;
use host::{Host, Stepped, Surroundings};
use inbox::{Item, LinkInbox};
use io::LinkIo;

use crate::fault;
use crate::link_shard::{LinkShardHandle, uptime_s};

/// Bytes on their way out above which the link takes nothing more from its inbox. Twice this and
/// it reads nothing more either.
const OUT_HIGH_BYTES: usize = 64 * 1024;
/// How long a closing link waits for the terminal's close frame.
const CLOSE_PATIENCE_MS: u64 = 2000;
/// Heartbeats in a row after which a link counts as stable at the present interval.
const STABLE_HEARTBEATS: u64 = 3;

/// A link in service.
pub(crate) struct Link<S> {
    socket: WebSocketStream<LinkIo<S>>,
    pub(crate) inbox: Arc<LinkInbox>,
    shard: Arc<LinkShardHandle>,
    context: Arc<LinkContext>,
    sessions: Vec<Seat>,
    /// The last key that was given to a session.
    last_key: SessionNumber,
    /// The highest number opened on this link; numbers only go up.
    last_session: SessionNumber,
    heartbeat_ms: u64,
    /// When the heartbeat is raised, if the link lives that long; Unix milliseconds of the store.
    raise_at_ms: u64,
    /// Since when it has had no session, or since when output does not move.
    idle_since_ms: u64,
    stuck_since_ms: u64,
    closing: Option<(Code, u64)>,
    crashes: u32,
    crashes_since_ms: u64,
    frames_left: u32,
    frames_at_s: u32,
    ended: Option<&'static str>,
}

/// A session of the link.
struct Seat {
    /// What the terminal calls it.
    number: SessionNumber,
    /// What items of the inbox call it; another one after each crash.
    key: SessionNumber,
    stage: Stage,
}

/// Where a session stands.
enum Stage {
    /// Its token is being verified and its cursors read.
    Opening(Vec<(LogName, Cursor)>),
    /// It delivers. Boxed: a link that waits for its first session does not pay for it.
    Live(Box<Host>),
    /// It crashed, or its record changed: it is being opened again in the place of this one.
    Reopening(Box<Host>),
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Link<S> {
    pub(crate) fn new(
        socket: WebSocketStream<LinkIo<S>>,
        inbox: Arc<LinkInbox>,
        shard: Arc<LinkShardHandle>,
        context: Arc<LinkContext>,
    ) -> Self {
        let (now_ms, now_s) = (context.store.time_ms(), uptime_s());
        fault::leak_a_file();
        let heartbeat_ms = context.limits.heartbeat_min_ms;
        inbox.heard(now_s);
        let link = Self {
            frames_left: context.limits.frames_per_s_max.saturating_mul(2),
            frames_at_s: now_s,
            socket,
            inbox,
            shard,
            context,
            sessions: Vec::with_capacity(1), // most links carry one
            last_key: 0,
            last_session: 0,
            heartbeat_ms,
            raise_at_ms: now_ms + STABLE_HEARTBEATS * heartbeat_ms,
            idle_since_ms: now_ms,
            stuck_since_ms: 0,
            closing: None,
            crashes: 0,
            crashes_since_ms: 0,
            ended: None,
        };
        link.set_silence();
        link.set_deadline();
        link
    }

    /// Serves until the link ends, beginning with a message that was read already; says how it did.
    pub(crate) async fn run(mut self: Box<Self>, mut first: Option<Message>) -> &'static str {
        let reason = std::future::poll_fn(|cx| self.poll(cx, first.take())).await;
        let mut out = Vec::new();
        // A silent death: back to the shortest heartbeat.
        let silent = reason == Code::HeartbeatTimeout.as_str();
        let heartbeat_ms =
            if silent { self.context.limits.heartbeat_min_ms } else { self.heartbeat_ms };
        for seat in std::mem::take(&mut self.sessions) {
            if let Stage::Live(mut host) = seat.stage {
                host.end(heartbeat_ms, &mut self.around(&mut out));
            }
        }
        self.inbox.end();
        reason
    }

    fn poll(&mut self, cx: &mut Context<'_>, first: Option<Message>) -> Poll<&'static str> {
        let mut out = encode::take_scratch();
        if let Some(message) = first {
            self.message(cx, message, &mut out);
        }
        loop {
            self.inbox.register(cx.waker());
            let (mut progress, kept) = (false, self.kept());
            while self.ended.is_none()
                && let Some(item) = self.inbox.take_control()
            {
                self.item(item, &mut out);
                progress = true;
            }
            while self.ended.is_none() && out.len() + self.kept() < OUT_HIGH_BYTES {
                let Some(item) = self.inbox.take() else { break };
                self.item(item, &mut out);
                progress = true;
            }
            if self.ended.is_none() && out.len() + self.kept() < 2 * OUT_HIGH_BYTES {
                progress |= self.poll_socket(cx, &mut out);
            }
            self.write(cx, &out);
            out.clear();
            // What waited for room has it now, and nothing else would wake the link for it.
            progress |= kept >= OUT_HIGH_BYTES && self.kept() < kept;
            if self.ended.is_some() || !progress {
                break;
            }
        }
        encode::return_scratch(out);
        self.set_deadline();
        match self.ended {
            Some(reason) => Poll::Ready(reason),
            None => Poll::Pending,
        }
    }

    fn kept(&self) -> usize {
        self.socket.get_ref().kept()
    }

    fn write(&mut self, cx: &mut Context<'_>, out: &[u8]) {
        let before = self.kept() + out.len();
        let io = self.socket.get_mut();
        let written = match out {
            [] if io.kept() == 0 => Ok(()),
            [] => match io.poll_kept(cx) {
                Poll::Ready(result) => result,
                Poll::Pending => Ok(()),
            },
            out => io.write(cx, out),
        };
        if written.is_err() {
            self.ended.get_or_insert("write_failed");
        }
        if self.kept() == 0 {
            self.stuck_since_ms = 0;
        } else if self.stuck_since_ms == 0 || self.kept() < before {
            self.stuck_since_ms = self.context.store.time_ms();
        }
    }

    /// Takes one frame of the terminal. `false`: there is none.
    fn poll_socket(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> bool {
        let now_s = uptime_s();
        if !self.within_rate(now_s) {
            return false; // the shard's next sweep wakes it: see `set_deadline`
        }
        let message = match Pin::new(&mut self.socket).poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => message,
            Poll::Ready(Some(Err(error))) => {
                self.socket_failed(&error, out);
                return false;
            }
            Poll::Ready(None) => {
                self.ended
                    .get_or_insert(self.closing.map_or("closed_by_terminal", |(c, _)| c.as_str()));
                return false;
            }
            Poll::Pending => return false,
        };
        self.inbox.heard(now_s);
        self.frames_left = self.frames_left.saturating_sub(1);
        self.message(cx, message, out);
        true
    }

    /// Whether another frame may be read now. A terminal that sends more than it may is not closed
    /// but read more slowly: TCP holds it back.
    fn within_rate(&mut self, now_s: u32) -> bool {
        let rate = self.context.limits.frames_per_s_max;
        let refill = rate.saturating_mul(now_s.saturating_sub(self.frames_at_s));
        self.frames_left = self.frames_left.saturating_add(refill).min(rate.saturating_mul(2));
        self.frames_at_s = now_s;
        self.frames_left > 0
    }

    fn next_key(&mut self) -> SessionNumber {
        self.last_key = self.last_key.wrapping_add(1);
        self.last_key
    }

    fn seat(&self, key: SessionNumber) -> Option<usize> {
        self.sessions.iter().position(|seat| seat.key == key)
    }

    fn item(&mut self, item: Item, out: &mut Vec<u8>) {
        if self.closing.is_some() && !matches!(item, Item::Link(_)) {
            return; // nothing follows a close frame
        }
        match item {
            Item::Hint { session, log, ephemeral: false, batch } => {
                self.step(session, Event::Hint { log, batch }, out);
            }
            Item::Hint { session, log, ephemeral: true, batch } => {
                self.step(session, Event::Ephemeral { log, batch }, out);
            }
            Item::Interest { session, log, head } => {
                self.step(session, Event::Interest { log, head }, out);
            }
            Item::Missed { session, log, up_to } => {
                self.step(session, Event::Missed { log, up_to }, out);
            }
            Item::Page { session, log, page } => self.step(
                session,
                page.map_or(Event::ReadFailed { log }, |page| Event::Page { log, page: *page }),
                out,
            ),
            Item::Answer { session, answer } => self.answer(session, *answer, out),
            Item::Session { session, event } => self.session_event(session, event, out),
            Item::Link(event) => self.link_event(event, out),
        }
    }

    /// An event for a live session; for any other it is void.
    fn step(&mut self, session: SessionNumber, event: Event, out: &mut Vec<u8>) {
        self.with_host(session, out, |host, around| host.step(event, around));
    }

    fn with_host(
        &mut self,
        session: SessionNumber,
        out: &mut Vec<u8>,
        act: impl FnOnce(&mut Host, &mut Surroundings<'_>) -> Stepped,
    ) {
        let seat = self.sessions.iter_mut().find(|seat| seat.key == session);
        let Some(Seat { stage: Stage::Live(host), .. }) = seat else { return };
        let mut around = Surroundings {
            context: &self.context,
            shard: &self.shard,
            inbox: &self.inbox,
            out,
            now_ms: self.context.store.time_ms(),
            heartbeat_ms: self.heartbeat_ms,
        };
        let stepped = act(host, &mut around);
        self.after(session, stepped, out);
    }

    fn after(&mut self, session: SessionNumber, stepped: Stepped, out: &mut Vec<u8>) {
        match stepped {
            Stepped::On => {}
            Stepped::Close(code, detail) => self.close_session(session, code, detail, out),
            Stepped::Crashed => {
                self.shard.session_crashed();
                let now_ms = self.context.store.time_ms();
                if now_ms >= self.crashes_since_ms + self.context.limits.crash_window_ms {
                    (self.crashes, self.crashes_since_ms) = (0, now_ms);
                }
                self.crashes += 1;
                if self.crashes > self.context.limits.crashes_max {
                    self.close_session(session, Code::SessionCrashed, "", out);
                    self.close_link(Code::SessionCrashed, out);
                } else {
                    self.reopen(session, out);
                }
            }
        }
    }

    /// Builds a session again in place, from its cursors.
    fn reopen(&mut self, session: SessionNumber, out: &mut Vec<u8>) {
        let Some(at) = self.seat(session) else { return };
        let nothing = Stage::Opening(Vec::new());
        match std::mem::replace(&mut self.sessions[at].stage, nothing) {
            Stage::Live(host) => {
                let who = (Arc::clone(&host.identity), host.generation);
                host.deregister(&self.around(out));
                self.sessions[at].stage = Stage::Reopening(host);
                let key = self.next_key();
                self.sessions[at].key = key;
                let cursors = Arc::clone(&self.shard.cursors);
                self.context.reopen(&self.inbox, key, who, cursors);
            }
            other => self.sessions[at].stage = other,
        }
    }

    fn around<'a>(&'a self, out: &'a mut Vec<u8>) -> Surroundings<'a> {
        Surroundings {
            context: &self.context,
            shard: &self.shard,
            inbox: &self.inbox,
            out,
            now_ms: self.context.store.time_ms(),
            heartbeat_ms: self.heartbeat_ms,
        }
    }
}
