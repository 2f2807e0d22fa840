//! How sessions and their link end, and what the terminal is told of it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;

use clarion_protocol::Code;
use clarion_protocol::terminal::{NodeFrame, SessionNumber};
use futures_util::Sink;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::{Link, LinkContext, Seat, Stage, encode};

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Link<S> {
    /// The WebSocket layer gave up; what can still be said is said.
    pub(super) fn socket_failed(&mut self, error: &SocketError, out: &mut Vec<u8>) {
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

    /// Ends a session and tells the terminal; the link ends with its last one, unless the terminal
    /// asked for it.
    pub(super) fn close_session(
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

    pub(super) fn closed(
        &self,
        s: SessionNumber,
        code: Code,
        detail: Option<String>,
        out: &mut Vec<u8>,
    ) {
        let (reason, reconnect) = (code.as_str().to_owned(), code.reconnect());
        let frame = NodeFrame::Closed { s, code: code.number(), reason, reconnect, detail };
        encode::frame(out, &frame);
    }

    /// Begins the closing handshake (RFC 6455, section 7).
    pub(super) fn close_link(&mut self, code: Code, out: &mut Vec<u8>) {
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
}
