//! What a terminal says on its link.

use std::pin::Pin;
use std::task::Context;

use clarion_core::session::Event;
use clarion_protocol::Code;
use clarion_protocol::terminal::{NodeFrame, Open, SessionNumber, TerminalFrame};
use futures_util::Sink;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;

use super::host::{Host, Stepped, Surroundings};
use super::{Link, Seat, Stage, encode};

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Link<S> {
    pub(super) fn message(&mut self, cx: &mut Context<'_>, message: Message, out: &mut Vec<u8>) {
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

    pub(super) fn refuse_frame(&mut self, detail: &str, out: &mut Vec<u8>) {
        let code = Code::FrameMalformed;
        let (reason, detail) = (code.as_str().to_owned(), Some(detail.to_owned()));
        let frame = NodeFrame::Error { s: 0, id: None, code: code.number(), reason, detail };
        encode::frame(out, &frame);
        self.close_link(code, out);
    }

    pub(super) fn frame(&mut self, frame: TerminalFrame, out: &mut Vec<u8>) {
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
    pub(super) fn request(
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

    pub(super) fn refuse_session(&mut self, s: SessionNumber, why: &str, out: &mut Vec<u8>) {
        let code = Code::FrameUnexpected;
        let detail = Some(format!("session {s} {why}"));
        let (reason, number) = (code.as_str().to_owned(), code.number());
        encode::frame(out, &NodeFrame::Error { s: 0, id: None, code: number, reason, detail });
        self.close_link(code, out);
    }

    pub(super) fn open(&mut self, open: Open, out: &mut Vec<u8>) {
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
}
