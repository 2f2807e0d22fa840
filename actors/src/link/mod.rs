//! A link: one task that owns a terminal's socket and drives its sessions (steps 7 and 8 of the
//! way of a push).
//!
//! Receives frames of the terminal, and items of its inbox from relays, readers and its shard.
//! Sends frames, and the effects of its sessions. Parent: a link shard, to which it reports.
//! Everything it holds is bounded: the inbox by `session.inbox_items_max`, what is written by the
//! sessions' windows and [`OUT_HIGH_BYTES`], what is read by the frame limit and rate. When it
//! dies the terminal resumes elsewhere from its cursors.

pub(crate) mod context;
mod encode;
pub mod first;
mod host;
pub(crate) mod inbox;
pub mod io;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use clarion_core::session::Event;
use clarion_protocol::terminal::{Cursor, NodeFrame, Open, SessionNumber, TerminalFrame};
use clarion_protocol::{Code, LogName};
use clarion_storage::{SubscribeOutcome, UnsubscribeOutcome};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use context::LinkContext;
use host::{Host, Stepped, Surroundings};
use inbox::{Answer, Grant, Item, LinkEvent, LinkInbox, Refused, SessionEvent};
use io::LinkIo;

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

    fn message(&mut self, cx: &mut Context<'_>, message: Message, out: &mut Vec<u8>) {
        match message {
            Message::Text(text) if self.closing.is_none() => match TerminalFrame::parse(&text) {
                Ok(frame) => self.frame(frame, out),
                Err(error) => self.refuse_frame(&error.to_string(), out),
            },
            Message::Binary(_) if self.closing.is_none() => {
                self.refuse_frame("frames of clarion.v1.json are text", out);
            }
            // The library queued the pong; this hands it to the socket.
            Message::Ping(_) | Message::Close(_) => {
                let _ = Pin::new(&mut self.socket).poll_flush(cx);
            }
            Message::Text(_) | Message::Binary(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }

    /// The WebSocket layer gave up; what can still be said is said.
    fn socket_failed(&mut self, error: &SocketError, out: &mut Vec<u8>) {
        let reason = match (error, self.closing) {
            (_, Some((code, _))) => code.as_str(),
            (SocketError::Capacity(_), None) => {
                self.close_link(Code::FrameTooLarge, out);
                Code::FrameTooLarge.as_str()
            }
            (SocketError::Protocol(_) | SocketError::Utf8(_), None) => "websocket_violation",
            _ => "connection_lost",
        };
        self.ended.get_or_insert(reason);
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

    fn refuse_frame(&mut self, detail: &str, out: &mut Vec<u8>) {
        let code = Code::FrameMalformed;
        let (reason, detail) = (code.as_str().to_owned(), Some(detail.to_owned()));
        let frame = NodeFrame::Error { s: 0, id: None, code: code.number(), reason, detail };
        encode::frame(out, &frame);
        self.close_link(code, out);
    }

    fn frame(&mut self, frame: TerminalFrame, out: &mut Vec<u8>) {
        let number = match &frame {
            TerminalFrame::Open(_) | TerminalFrame::Ping { .. } => None,
            TerminalFrame::Ack { s, .. }
            | TerminalFrame::Skip { s, .. }
            | TerminalFrame::Subscribe { s, .. }
            | TerminalFrame::Unsubscribe { s, .. }
            | TerminalFrame::Refresh { s, .. }
            | TerminalFrame::Close { s } => Some(*s),
        };
        let mut s = 0;
        if let Some(number) = number {
            if number == 0 || number > self.last_session {
                return self.refuse_session(number, "was never opened", out);
            }
            match self.sessions.iter().find(|seat| seat.number == number) {
                Some(seat) => s = seat.key,
                None => return, // it is over: the frames crossed
            }
        }
        match frame {
            TerminalFrame::Ack { a, .. } => {
                for (log, offset) in a {
                    self.step(s, Event::Ack { log, offset }, out);
                }
            }
            TerminalFrame::Ping { s: 0 } => encode::frame(out, &NodeFrame::Pong { s: 0 }),
            TerminalFrame::Ping { .. } => self.refuse_frame("`s` of a ping is 0", out),
            TerminalFrame::Skip { l, o, .. } => {
                self.step(s, Event::Skip { log: l, offset: o }, out)
            }
            TerminalFrame::Open(open) => self.open(open, out),
            TerminalFrame::Subscribe { id, topic, cursor, .. } => {
                self.request(s, id, out, |host, around| {
                    if !host.may_join(&topic) {
                        let detail = Some(topic.to_string());
                        host.error(Some(id), Code::TopicForbidden, detail, around);
                        return;
                    }
                    let Some(turn) = host.request(id, around) else { return };
                    host.remember_own(&topic, cursor, around.context.limits.topics_max);
                    around.context.subscribe(around.inbox, s, id, &host.identity, topic, turn);
                });
            }
            TerminalFrame::Unsubscribe { id, topic, .. } => {
                self.request(s, id, out, |host, around| {
                    let Some(turn) = host.request(id, around) else { return };
                    around.context.unsubscribe(around.inbox, s, id, &host.identity, topic, turn);
                });
            }
            TerminalFrame::Refresh { token, .. } => self.with_host(s, out, |host, around| {
                if host.begin_refresh() {
                    around.context.refresh(around.inbox, s, &host.identity, token);
                }
                Stepped::On
            }),
            TerminalFrame::Close { .. } => self.close_session(s, Code::SessionClosed, "", out),
        }
    }

    /// A request for a live session; refused for now while the session is being rebuilt.
    fn request(
        &mut self,
        session: SessionNumber,
        id: u64,
        out: &mut Vec<u8>,
        act: impl FnOnce(&mut Host, &mut Surroundings<'_>),
    ) {
        let seat = self.sessions.iter().find(|seat| seat.key == session);
        if let Some(Seat { number, stage: Stage::Reopening(_), .. }) = seat {
            let (s, code) = (*number, Code::Overloaded);
            let (number, reason) = (code.number(), code.as_str().to_owned());
            let frame = NodeFrame::Error { s, id: Some(id), code: number, reason, detail: None };
            return encode::frame(out, &frame);
        }
        self.with_host(session, out, |host, around| {
            act(host, around);
            Stepped::On
        });
    }

    fn refuse_session(&mut self, s: SessionNumber, why: &str, out: &mut Vec<u8>) {
        let code = Code::FrameUnexpected;
        let detail = Some(format!("session {s} {why}"));
        let (reason, number) = (code.as_str().to_owned(), code.number());
        encode::frame(out, &NodeFrame::Error { s: 0, id: None, code: number, reason, detail });
        self.close_link(code, out);
    }

    fn open(&mut self, open: Open, out: &mut Vec<u8>) {
        if open.s <= self.last_session {
            return self.refuse_session(open.s, "is not above those used on this link before", out);
        }
        self.last_session = open.s;
        if self.sessions.len() >= self.context.limits.sessions_max {
            return self.closed(open.s, Code::TooManySessions, None, out);
        }
        let (number, key) = (open.s, self.next_key());
        self.sessions.push(Seat { number, key, stage: Stage::Opening(open.cursors.clone()) });
        self.context.open(&self.inbox, key, open);
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

    fn answer(&mut self, session: SessionNumber, answer: Answer, out: &mut Vec<u8>) {
        match answer {
            Answer::Opened(answer) => self.opened(session, answer, out),
            Answer::Subscribed { id, topic, outcome } => {
                self.with_host(session, out, |host, around| {
                    host.answered(id);
                    let own = host.take_own(&topic);
                    match outcome {
                        Ok(SubscribeOutcome::Joined(log) | SubscribeOutcome::AlreadyIn(log)) => {
                            return host.join(log, own, id, around);
                        }
                        Ok(SubscribeOutcome::Banned) => {
                            host.error(id, Code::TopicBanned, None, around);
                        }
                        Ok(SubscribeOutcome::TooMany) => {
                            host.error(id, Code::TooManyTopics, None, around);
                        }
                        Err(_) => host.error(id, Code::StoreUnavailable, None, around),
                    }
                    Stepped::On
                });
            }
            Answer::Unsubscribed { id, topic, outcome } => {
                self.with_host(session, out, |host, around| {
                    host.answered(id);
                    match outcome {
                        Ok(UnsubscribeOutcome::Left | UnsubscribeOutcome::NotIn) => {
                            host.leave(topic, id, around);
                        }
                        Err(_) => host.error(id, Code::StoreUnavailable, None, around),
                    }
                    Stepped::On
                });
            }
            Answer::Refreshed(Ok(identity)) => self.with_host(session, out, |host, around| {
                host.answered(Some(host::REFRESH));
                if !identity.is_same(&host.identity) {
                    return Stepped::Close(Code::RefreshMismatch, "");
                }
                let exp = identity.exp_s;
                host.refreshed(identity);
                encode::frame(around.out, &NodeFrame::Refreshed { s: host.number, exp });
                Stepped::On
            }),
            Answer::Refreshed(Err(refused)) => {
                self.with_host(session, out, |_, _| Stepped::Close(refused.code, ""));
            }
            Answer::Closed { .. } if self.closing.is_some() => {} // nothing follows a close frame
            Answer::Closed { number } => self.closed(number, Code::SessionClosed, None, out),
        }
    }

    fn opened(
        &mut self,
        session: SessionNumber,
        answer: Result<Box<Grant>, Refused>,
        out: &mut Vec<u8>,
    ) {
        let Some(at) = self.seat(session) else { return };
        if matches!(self.sessions[at].stage, Stage::Live(_)) {
            return;
        }
        let grant = match answer {
            Ok(grant) => *grant,
            Err(refused) => return self.close_session(session, refused.code, "", out),
        };
        let number = self.sessions[at].number;
        let nothing = Stage::Opening(Vec::new());
        let (host, stepped) = match std::mem::replace(&mut self.sessions[at].stage, nothing) {
            Stage::Opening(own) => {
                if let Some(heartbeat_ms) = grant.opened.heartbeat_ms {
                    self.start_heartbeat(heartbeat_ms);
                }
                Host::begin((number, session), grant, &own, &mut self.around(out))
            }
            Stage::Reopening(former) | Stage::Live(former) => {
                Host::rebuild(*former, session, grant, &mut self.around(out))
            }
        };
        self.sessions[at].stage = Stage::Live(Box::new(host));
        self.after(session, stepped, out);
    }

    fn session_event(&mut self, session: SessionNumber, event: SessionEvent, out: &mut Vec<u8>) {
        self.with_host(session, out, |host, around| match event {
            SessionEvent::NewerGeneration(newer) if newer > host.generation => {
                Stepped::Close(Code::Replaced, "")
            }
            SessionEvent::NewerGeneration(_) => Stepped::On,
            SessionEvent::Stale => Stepped::Close(Code::Replaced, ""),
            SessionEvent::AboveHead => Stepped::Close(Code::StoreAway, "history was lost"),
            SessionEvent::Kicked => Stepped::Close(Code::Kicked, ""),
            SessionEvent::FlushCursors => {
                around.shard.flush_soon();
                Stepped::On
            }
            SessionEvent::Reload => Stepped::On,
        });
        if matches!(event, SessionEvent::Reload) {
            self.reopen(session, out);
        }
    }

    fn link_event(&mut self, event: LinkEvent, out: &mut Vec<u8>) {
        match event {
            LinkEvent::Tick => self.tick(out),
            LinkEvent::Close(code) => {
                self.close_link(code, out);
                if code == Code::HeartbeatTimeout {
                    // Nobody seems to listen: no time is spent on a farewell.
                    self.ended.get_or_insert(code.as_str());
                }
            }
            LinkEvent::Goaway { .. } if self.closing.is_some() => {}
            LinkEvent::Goaway { after_ms } => {
                encode::frame(
                    out,
                    &NodeFrame::Goaway { s: 0, after_ms, to: self.context.elsewhere() },
                );
            }
            LinkEvent::RelayRestarted { relay } => {
                let keys: Vec<_> = self.sessions.iter().map(|seat| seat.key).collect();
                for key in keys {
                    self.with_host(key, out, |host, around| host.register_again(relay, around));
                }
            }
            LinkEvent::ProductMoved if self.closing.is_some() => {}
            LinkEvent::ProductMoved => {
                let moved = |seat: &&Seat| match &seat.stage {
                    Stage::Live(host) => self.context.is_elsewhere(&host.identity.product),
                    Stage::Opening(_) | Stage::Reopening(_) => false, // found by the next look
                };
                let keys: Vec<_> =
                    self.sessions.iter().filter(moved).map(|seat| seat.key).collect();
                for key in keys {
                    self.close_session(key, Code::WrongGroup, "", out);
                }
            }
        }
    }

    fn tick(&mut self, out: &mut Vec<u8>) {
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
    fn start_heartbeat(&mut self, heartbeat_ms: u64) {
        let limits = &self.context.limits;
        self.heartbeat_ms = heartbeat_ms.clamp(limits.heartbeat_min_ms, limits.heartbeat_max_ms);
        let now_ms = self.context.store.time_ms();
        self.raise_at_ms = now_ms + STABLE_HEARTBEATS * self.heartbeat_ms;
        self.set_silence();
    }

    /// A link that proved stable may be silent for longer.
    fn raise_heartbeat(&mut self, now_ms: u64, out: &mut Vec<u8>) {
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

    fn set_silence(&self) {
        let silence_ms = self.heartbeat_ms + self.context.limits.heartbeat_grace_ms;
        let silence_s = silence_ms.div_ceil(1000) as u32;
        self.inbox.silence_max_s.store(silence_s, Ordering::Relaxed);
    }

    fn set_deadline(&self) {
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

    /// Ends a session and tells the terminal; the link ends with its last one, unless the terminal
    /// asked for it.
    fn close_session(
        &mut self,
        session: SessionNumber,
        code: Code,
        detail: &str,
        out: &mut Vec<u8>,
    ) {
        let Some(at) = self.seat(session) else { return };
        let Seat { number, stage, .. } = self.sessions.swap_remove(at);
        let live = matches!(stage, Stage::Live(_));
        if let Stage::Live(mut host) = stage {
            let heartbeat_ms = self.heartbeat_ms;
            tracing::debug!(kind = ?host.kind(), code = code.as_str(), "a session ended");
            host.end(heartbeat_ms, &mut self.around(out));
        }
        metrics::counter!("clarion_sessions_closed_total", "code" => code.as_str()).increment(1);
        if live && code == Code::SessionClosed {
            LinkContext::close(&self.inbox, session, number, Arc::clone(&self.shard.cursors));
        } else {
            let detail = (!detail.is_empty()).then(|| detail.to_owned());
            self.closed(number, code, detail, out);
        }
        if self.sessions.is_empty() {
            self.idle_since_ms = self.context.store.time_ms();
            if code != Code::SessionClosed {
                self.close_link(code, out);
            }
        }
    }

    fn closed(&self, s: SessionNumber, code: Code, detail: Option<String>, out: &mut Vec<u8>) {
        let (reason, reconnect) = (code.as_str().to_owned(), code.reconnect());
        let frame = NodeFrame::Closed { s, code: code.number(), reason, reconnect, detail };
        encode::frame(out, &frame);
    }

    /// Begins the closing handshake (RFC 6455, section 7).
    fn close_link(&mut self, code: Code, out: &mut Vec<u8>) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some((code, self.context.store.time_ms()));
        // What was composed goes before the close frame.
        let noop = std::task::Waker::noop();
        let mut cx = Context::from_waker(noop);
        if self.socket.get_mut().write(&mut cx, out).is_err() {
            self.ended.get_or_insert("write_failed");
        }
        out.clear();
        let close = CloseFrame { code: code.number().into(), reason: code.as_str().into() };
        let _ = Pin::new(&mut self.socket).start_send(Message::Close(Some(close)));
        let _ = Pin::new(&mut self.socket).poll_flush(&mut cx);
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
