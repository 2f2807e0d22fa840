//! The back-ends' WebSocket: `GET /v1/products/{product}/push`. One task per connection owns the
//! socket and all its pushes; nothing is spawned.
//!
//! **Order (I8)**: each push takes its turn when its frame is read, and reaches the owners of its
//! logs after those before it. **Bounds**: at most `limits.push_window` pushes are unconfirmed; while
//! that many are, nothing is read. Confirmations that are ready together leave as one frame.
//! **A crash** of the node leaves pushes unconfirmed; their idempotency keys tell what became of
//! them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use clarion_actors::{Failure, Turns};
use clarion_protocol::push_link::{
    BackendFrame, Confirmation, PushNodeFrame, SUBPROTOCOL_PUSH, Welcome,
};
use clarion_protocol::{Code, FrameError, KeyId};
use clarion_storage::ProductRecord;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message, error::CapacityError};

use super::app::{App, Phase, PushLinkPlace, reached};
use super::problem::{Answer, problem};
use super::push;
use super::request::Call;
use super::request_id::RequestId;
use super::upgrade::{Handshake, Socket};

/// The node pings this often; two pings without an answer end the connection.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How long a write may wait for a back-end that does not read.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the back-end has to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a revoked key goes on pushing over an open connection, at most.
const KEY_CHECK: Duration = Duration::from_secs(1);
/// Frames that are read before confirmations get their turn.
const FRAMES_A_TURN: usize = 32;
/// Confirmation frames are not made longer than this by one more confirmation.
const CONFIRM_BYTES: usize = 64 * 1024;
const READ_BUFFER_BYTES: usize = 16 * 1024;
const WRITE_BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Answers the upgrade.
pub(super) async fn open(mut call: Call) -> Answer {
    let handshake = Handshake::check(&mut call.parts, SUBPROTOCOL_PUSH)?;
    let record = Arc::clone(call.product()?);
    let key = call.proven.key.clone().ok_or(Code::Internal)?;
    let limits = &call.app.config.limits;
    if *call.app.phase.borrow() != Phase::Serving {
        return Err(Code::Draining.into());
    }
    let place = call.app.push_links.enter(&record.product, limits.push_connections_max);
    let Some(place) = place else {
        let detail = "as many push connections as `limits.push_connections_max` allows";
        return Err((Code::LinkLimit, detail).into());
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(READ_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(limits.body_bytes_max))
        .max_frame_size(Some(limits.body_bytes_max));
    let (app, id) = (call.app, call.id);
    Ok(handshake.accept(config, move |socket| {
        let link = PushLink::new(app, record, key, id, place, socket);
        Box::pin(link.serve())
    }))
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The back-end closed it, or it broke: nothing more can be written.
    Gone,
    /// The node closes it, with this close code and reason.
    Close(u16, &'static str),
}

impl End {
    const fn code(code: Code) -> Self {
        Self::Close(code.number(), code.as_str())
    }
}

type Carrying = Pin<Box<dyn Future<Output = Confirmation> + Send>>;

/// One connection.
struct PushLink {
    app: App,
    record: Arc<ProductRecord>,
    key: KeyId,
    key_checked: Instant,
    id: RequestId,
    _place: PushLinkPlace,
    socket: Socket,
    carrying: FuturesUnordered<Carrying>,
    /// The order of what it carries.
    turns: Turns,
    confirmed: Vec<Confirmation>,
    window: usize,
    /// Pings without an answer.
    unanswered: u32,
    /// Whether nothing was read for a while since the last ping: then silence tells nothing.
    paused: bool,
    phase: watch::Receiver<Phase>,
    /// When the connection is closed after `goaway`.
    leave_at: Option<Instant>,
}

impl PushLink {
    fn new(
        app: App,
        record: Arc<ProductRecord>,
        key: KeyId,
        id: RequestId,
        place: PushLinkPlace,
        socket: Socket,
    ) -> Self {
        Self {
            window: app.config.limits.push_window as usize,
            phase: app.phase.clone(),
            app,
            record,
            key,
            key_checked: Instant::now(),
            id,
            _place: place,
            socket,
            carrying: FuturesUnordered::new(),
            turns: Turns::default(),
            confirmed: Vec::new(),
            unanswered: 0,
            paused: false,
            leave_at: None,
        }
    }

    async fn serve(mut self) {
        let product = self.record.product.clone();
        tracing::debug!(id = self.id.as_str(), %product, "a push connection began");
        let end = match self.welcome().await {
            Ok(()) => self.run().await,
            Err(end) => end,
        };
        tracing::debug!(id = self.id.as_str(), %product, ?end, "a push connection ends");
        self.finish(end).await;
    }

    async fn welcome(&mut self) -> Result<(), End> {
        let limits = &self.app.config.limits;
        let welcome = PushNodeFrame::Welcome(Welcome {
            window: limits.push_window,
            frame_bytes_max: u32::try_from(limits.body_bytes_max).unwrap_or(u32::MAX),
            heartbeat_ms: u64::try_from(HEARTBEAT.as_millis()).unwrap_or(u64::MAX),
        });
        self.write([welcome.to_json()]).await
    }

    async fn run(&mut self) -> End {
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let room = self.carrying.len() < self.window;
            self.paused |= !room;
            let leave_at = self.leave_at.unwrap_or_else(Instant::now);
            let turn = tokio::select! {
                biased;
                Some(confirmation) = self.carrying.next() => {
                    self.confirmed.push(confirmation);
                    Ok(())
                }
                frame = self.socket.next(), if room => self.take(frame).await,
                _ = heartbeat.tick() => self.heartbeat().await,
                () = reached(&mut self.phase, Phase::Draining),
                    if self.leave_at.is_none() => self.goaway().await,
                () = tokio::time::sleep_until(leave_at), if self.leave_at.is_some() => {
                    Err(End::code(Code::GoingAway))
                }
            };
            let turn = match turn {
                Ok(()) => self.take_what_is_there().await,
                ended => ended,
            };
            if let Err(end) = turn {
                return end;
            }
            if let Err(end) = self.write_confirmations().await {
                return end;
            }
        }
    }

    /// Takes frames and outcomes that wait already, so that they share appends and confirmations.
    async fn take_what_is_there(&mut self) -> Result<(), End> {
        for _ in 0..FRAMES_A_TURN {
            if self.carrying.len() >= self.window {
                break;
            }
            let Some(frame) = self.socket.next().now_or_never() else { break };
            self.take(frame).await?;
        }
        while let Some(Some(confirmation)) = self.carrying.next().now_or_never() {
            self.confirmed.push(confirmation);
        }
        Ok(())
    }

    async fn take(&mut self, frame: Option<Result<Message, SocketError>>) -> Result<(), End> {
        self.unanswered = 0;
        match frame {
            Some(Ok(Message::Text(text))) => self.push(&text).await,
            Some(Ok(Message::Binary(_))) => Err(End::Close(1003, "frames are text")),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(()),
            Some(Ok(Message::Close(_))) | None => Err(End::Gone),
            Some(Err(error)) => Err(end_of(&error)),
        }
    }

    async fn push(&mut self, text: &str) -> Result<(), End> {
        let (id, push) = match BackendFrame::parse(text) {
            Ok(BackendFrame::Push { id, push }) => (id, push),
            Err(error) => return self.malformed(text, &error),
        };
        if self.key_checked.elapsed() >= KEY_CHECK
            && let Err(code) = self.check_key().await
        {
            self.refuse(id, code, None);
            return Err(End::Close(1008, code.as_str()));
        }
        let (app, record) = (Arc::clone(&self.app), Arc::clone(&self.record));
        let request = self.id.clone();
        let turn = Some(self.turns.take());
        self.carrying.push(Box::pin(async move {
            match push::carry(&app, &record, &push, turn).await {
                Ok(accepted) => Confirmation { id, accepted: Some(accepted), problem: None },
                Err(failure) => {
                    let problem = problem(failure, request.as_str());
                    Confirmation { id, accepted: None, problem: Some(problem) }
                }
            }
        }));
        Ok(())
    }

    /// A push whose id can be read is refused by it; otherwise the two ends do not understand
    /// each other.
    fn malformed(&mut self, text: &str, error: &FrameError) -> Result<(), End> {
        let Some(id) = BackendFrame::peek_id(text) else {
            return Err(End::code(Code::FrameMalformed));
        };
        let code = match error {
            FrameError::Malformed { .. } => Code::InvalidField,
            FrameError::UnknownType { .. } => Code::FrameMalformed,
        };
        self.refuse(id, code, Some(error.to_string()));
        Ok(())
    }

    fn refuse(&mut self, id: u64, code: Code, detail: Option<String>) {
        let problem = problem(Failure { detail, ..Failure::new(code) }, self.id.as_str());
        self.confirmed.push(Confirmation { id, accepted: None, problem: Some(problem) });
    }

    /// Looks the product up again: a revoked key ends its connections too. While the store does
    /// not answer, what is known goes on to count.
    async fn check_key(&mut self) -> Result<(), Code> {
        self.key_checked = Instant::now();
        match self.app.system.product(&self.record.product).await {
            Ok(Some(record)) => self.record = record,
            Ok(None) => return Err(Code::KeyUnknown),
            Err(_) => return Ok(()),
        }
        match self.record.api_keys.iter().find(|key| key.key == self.key) {
            Some(key) if key.revoked_at_ms.is_none() => Ok(()),
            Some(_) => Err(Code::KeyRevoked),
            None => Err(Code::KeyUnknown),
        }
    }

    async fn heartbeat(&mut self) -> Result<(), End> {
        if let Err(code) = self.check_key().await {
            return Err(End::Close(1008, code.as_str()));
        }
        if std::mem::take(&mut self.paused) {
            self.unanswered = 0;
        }
        if self.unanswered >= 2 {
            return Err(End::code(Code::HeartbeatTimeout));
        }
        self.unanswered += 1;
        self.send([Message::Ping(bytes::Bytes::new())]).await
    }

    async fn goaway(&mut self) -> Result<(), End> {
        // Half of the time is left for what is unconfirmed then.
        let after_ms = fastrand::u64(0..=self.app.config.node.drain_timeout_ms / 2);
        self.leave_at = Some(Instant::now() + Duration::from_millis(after_ms));
        self.write([PushNodeFrame::Goaway { after_ms }.to_json()]).await
    }

    async fn write_confirmations(&mut self) -> Result<(), End> {
        if self.confirmed.is_empty() {
            return Ok(());
        }
        let frames = confirm_frames(&self.confirmed);
        self.confirmed.clear();
        self.write(frames).await
    }

    async fn write(&mut self, frames: impl IntoIterator<Item = String>) -> Result<(), End> {
        self.send(frames.into_iter().map(Message::from)).await
    }

    async fn send(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<(), End> {
        let socket = &mut self.socket;
        let sent = timeout(FLUSH_TIMEOUT, async move {
            for message in messages {
                socket.feed(message).await?;
            }
            socket.flush().await
        });
        match sent.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::code(Code::SlowTerminal)),
        }
    }

    /// Lets what is in flight end, tells it if anybody still listens, and closes.
    async fn finish(&mut self, end: End) {
        let deadline = Instant::now() + self.app.request_timeout;
        while let Ok(Some(confirmation)) =
            tokio::time::timeout_at(deadline, self.carrying.next()).await
        {
            self.confirmed.push(confirmation);
        }
        let End::Close(code, reason) = end else {
            // The answer to a close frame is written already, or cannot be.
            let _ = timeout(CLOSE_TIMEOUT, self.socket.flush()).await;
            return;
        };
        if end != End::code(Code::SlowTerminal) && self.write_confirmations().await.is_err() {
            return;
        }
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        let closing = async {
            self.socket.send(Message::Close(Some(frame))).await?;
            // Read on until the other end has closed: else what it did not read yet is lost.
            while let Some(Ok(_)) = self.socket.next().await {}
            Ok::<(), SocketError>(())
        };
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }
}

fn end_of(error: &SocketError) -> End {
    match error {
        SocketError::Utf8(_) => End::Close(1007, "text is not UTF-8"),
        SocketError::Capacity(CapacityError::MessageTooLong { .. }) => {
            End::Close(1009, "the frame is too large")
        }
        SocketError::Protocol(_) => End::Close(1002, "not the WebSocket protocol"),
        _ => End::Gone,
    }
}

/// Confirmations as frames, each of about [`CONFIRM_BYTES`] at most.
fn confirm_frames(confirmed: &[Confirmation]) -> Vec<String> {
    const HEAD: &str = r#"{"t":"confirm","c":["#;
    let (mut frames, mut frame) = (Vec::new(), String::new());
    for confirmation in confirmed {
        let one = serde_json::to_string(confirmation).unwrap_or_default();
        if !frame.is_empty() && frame.len() + one.len() > CONFIRM_BYTES {
            frame.push_str("]}");
            frames.push(std::mem::take(&mut frame));
        }
        frame.push_str(if frame.is_empty() { HEAD } else { "," });
        frame.push_str(&one);
    }
    if !frame.is_empty() {
        frame.push_str("]}");
        frames.push(frame);
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confirmation(id: u64, detail: &str) -> Confirmation {
        let failure = Failure::new(Code::InvalidField).detail(detail);
        Confirmation { id, accepted: None, problem: Some(problem(failure, "r1")) }
    }

    #[test]
    fn confirmations_that_are_ready_together_share_a_frame() {
        let c: Vec<_> = (0..3).map(|id| confirmation(id, "x")).collect();
        let frames = confirm_frames(&c);
        assert_eq!(frames, [PushNodeFrame::Confirm { c }.to_json()]);
        assert!(confirm_frames(&[]).is_empty());
    }

    #[test]
    fn frames_of_confirmations_are_bounded_and_none_is_lost() {
        let long = "d".repeat(CONFIRM_BYTES / 3);
        let c: Vec<_> = (0..10).map(|id| confirmation(id, &long)).collect();
        let frames = confirm_frames(&c);
        assert!(frames.len() >= 5 && frames.iter().all(|frame| frame.len() < CONFIRM_BYTES + 8));
        let read = frames.iter().flat_map(|frame| match PushNodeFrame::parse(frame).unwrap() {
            PushNodeFrame::Confirm { c } => c,
            other => panic!("{other:?}"),
        });
        assert_eq!(read.collect::<Vec<_>>(), c);
    }

    #[test]
    fn broken_frames_end_with_the_codes_of_rfc_6455() {
        use tokio_tungstenite::tungstenite::error::ProtocolError;
        let long = CapacityError::MessageTooLong { size: 2, max_size: 1 };
        assert_eq!(end_of(&long.into()), End::Close(1009, "the frame is too large"));
        let protocol = SocketError::Protocol(ProtocolError::UnmaskedFrameFromClient);
        assert_eq!(end_of(&protocol), End::Close(1002, "not the WebSocket protocol"));
        assert_eq!(end_of(&SocketError::ConnectionClosed), End::Gone);
    }
}
