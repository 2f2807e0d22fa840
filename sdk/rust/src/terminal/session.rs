//! One connection from `open` to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use clarion_protocol::frame::FrameError;
use clarion_protocol::terminal::{self as frames, Deliver, NodeFrame, Open, TerminalFrame};
use clarion_protocol::{LogName, TopicName};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::driver::{Delay, Driver, End};
use super::event::{Event, Gap, Opened, Payload, Why};
use super::ledger::{Step, Verdict};
use super::shared::{Command, Queued, Shared};
use super::{RequestError, SESSION};
use crate::wire::{Wire, WireEvent};

/// How long the last frames of a link that is left may take.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) struct Session<'a> {
    driver: &'a mut Driver,
    shared: Arc<Shared>,
    wire: Wire,
    open: bool,
    /// The session must be open by then.
    open_by: Instant,
    heartbeat: Duration,
    sent_at: Instant,
    /// Something must be heard by then.
    heard_by: Option<Instant>,
    leave_at: Option<Instant>,
    flush_at: Option<Instant>,
    /// `close` was sent or is about to be; the end by then.
    closing: Option<Instant>,
    close_sent: bool,
    reading: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(driver: &'a mut Driver, wire: Wire, open_by: Instant) -> Self {
        let shared = Arc::clone(&driver.shared);
        Self {
            driver,
            shared,
            wire,
            open: false,
            open_by,
            heartbeat: Duration::MAX,
            sent_at: Instant::now(),
            heard_by: None,
            leave_at: None,
            flush_at: None,
            closing: None,
            close_sent: false,
            reading: true,
        }
    }

    /// Runs the session; says how it ended and whether it was ever open.
    pub(super) async fn run(mut self) -> (End, bool) {
        let cursors = self.shared.lock().ledger.own_cursors();
        self.send(&TerminalFrame::Open(Open {
            s: SESSION,
            product: self.driver.settings.product.clone(),
            token: self.driver.token.clone().unwrap_or_default(),
            agent: Some(self.driver.settings.agent.clone()),
            cursors,
            topics: self.driver.topics.clone(),
        }));
        let shared = Arc::clone(&self.shared);
        let mut sleep: Pin<Box<Sleep>> = Box::pin(sleep_until(self.open_by));
        let end = loop {
            self.reading = shared.has_room();
            // The timer may go off early and find nothing to do; that is cheaper than to move it
            // with every frame.
            let next = self.next_deadline();
            if next < sleep.deadline() || sleep.is_elapsed() {
                sleep.as_mut().reset(next);
            }
            let outcome = tokio::select! {
                event = self.wire.event(self.reading) => self.on_wire(event),
                () = shared.driver.notified() => self.on_wake(),
                result = self.driver.saver.done() => {
                    self.driver.saver.finished(result, &shared);
                    self.tell_node();
                    self.on_wake()
                }
                () = &mut sleep => self.on_time(),
            };
            if let Err(end) = outcome {
                break *end;
            }
        };
        // Politeness towards the node; the outcome changes nothing.
        self.wire.close();
        let _ = timeout(FAREWELL, self.wire.drained()).await;
        (end, self.open)
    }

    fn next_deadline(&self) -> Instant {
        let tuning = &self.driver.settings.tuning;
        let far = self.sent_at + Duration::from_secs(86_400);
        let all = [
            (!self.open).then_some(self.open_by),
            self.open.then(|| self.ping_at()),
            self.heard_by,
            self.leave_at,
            self.flush_at,
            self.closing,
            self.driver.saver.retry_at,
            self.wire.unflushed_since().map(|since| since + tuning.write_timeout),
        ];
        all.into_iter().flatten().min().unwrap_or(far)
    }

    /// Somewhat before the heartbeat is due.
    fn ping_at(&self) -> Instant {
        self.sent_at + self.heartbeat
    }

    fn send(&mut self, frame: &TerminalFrame) {
        self.wire.text(frame.to_json());
        self.sent_at = Instant::now();
    }

    fn expect_something(&mut self) {
        let by = Instant::now() + self.driver.settings.tuning.silence_max;
        self.heard_by.get_or_insert(by);
    }

    // ---- what the application did

    fn on_wake(&mut self) -> Result<(), Box<End>> {
        if !self.open {
            return if self.shared.lock().stop { Err(Box::new(End::Stopped)) } else { Ok(()) };
        }
        while self.driver.requests.has_room() {
            let Some(command) = self.shared.lock().commands.pop_front() else { break };
            self.on_command(command);
        }
        self.flush();
        self.close_if_asked();
        Ok(())
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Subscribe(topic, reply) => {
                let id = self.driver.requests.topic(topic, true, reply);
                self.ask(id);
            }
            Command::Unsubscribe(topic, reply) => {
                let id = self.driver.requests.topic(topic, false, reply);
                self.ask(id);
            }
            Command::Refresh(token, reply) => {
                self.driver.requests.refresh(token.clone(), reply);
                self.send(&TerminalFrame::Refresh { s: SESSION, token });
                self.expect_something();
            }
        }
    }

    fn ask(&mut self, id: u64) {
        let frame = self.driver.requests.frame(id, &self.shared.lock().ledger);
        if let Some(frame) = frame {
            self.send(&frame);
            self.expect_something();
        }
    }

    /// Saves and tells what was acknowledged, if that should not wait for more.
    fn flush(&mut self) {
        let (unflushed, held) = {
            let state = self.shared.lock();
            (state.ledger.unflushed(), state.ledger.held())
        };
        if unflushed == 0 {
            self.flush_at = None;
            return;
        }
        if self.driver.saver.is_running() {
            return;
        }
        let now = Instant::now();
        let tuning = &self.driver.settings.tuning;
        let due = held == 0
            || unflushed >= tuning.ack_batch
            || self.flush_at.is_some_and(|at| at <= now)
            || self.closing.is_some();
        if !due {
            self.flush_at.get_or_insert(now + tuning.ack_delay);
            return;
        }
        if let Some(at) = self.driver.limiter.wait_until(now)
            && self.closing.is_none()
        {
            self.flush_at = Some(at);
            return;
        }
        self.flush_at = None;
        self.driver.saver.start(&self.shared);
        self.tell_node();
    }

    /// Tells the node what is saved.
    fn tell_node(&mut self) {
        if !self.open {
            return;
        }
        let steps = self.shared.lock().ledger.steps();
        self.driver.limiter.spend(steps.len());
        for step in steps {
            self.send(&match step {
                Step::Ack(a) => TerminalFrame::Ack { s: SESSION, a },
                Step::Skip(l, o) => TerminalFrame::Skip { s: SESSION, l, o },
            });
        }
    }

    /// Sends `close` when the application asked for it and everything is saved and told.
    fn close_if_asked(&mut self) {
        if self.close_sent || !self.shared.lock().stop {
            return;
        }
        let by = Instant::now() + self.driver.settings.tuning.close_timeout;
        self.closing.get_or_insert(by);
        self.flush();
        let all_saved = self.shared.lock().ledger.unflushed() == 0;
        if all_saved && !self.driver.saver.is_running() {
            self.close_sent = true;
            self.send(&TerminalFrame::Close { s: SESSION });
        }
    }

    // ---- time

    fn on_time(&mut self) -> Result<(), Box<End>> {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let tuning = &self.driver.settings.tuning;
        let stalled = self.wire.unflushed_since().map(|since| since + tuning.write_timeout);
        if !self.open && self.open_by <= now {
            return again(Why::ConnectTimeout);
        }
        if due(self.closing) {
            return Err(Box::new(End::Stopped));
        }
        if due(stalled) {
            return again(Why::Stalled);
        }
        if due(self.heard_by) {
            if self.reading {
                return again(Why::Silent);
            }
            // What the node said may wait unread: the application has to make room first.
            self.heard_by = Some(now + tuning.silence_max);
        }
        if due(self.leave_at) {
            self.leave_at = None;
            self.flush_at = Some(now);
            self.flush();
            let end = End::Again { why: Why::GoingAway, delay: Delay::None, new_token: false };
            return Err(Box::new(end));
        }
        if self.open && self.ping_at() <= now {
            self.wire.ping();
            self.sent_at = now;
            self.expect_something();
        }
        self.on_wake()
    }

    // ---- what the node said

    fn on_wire(&mut self, event: WireEvent) -> Result<(), Box<End>> {
        self.heard_by = None;
        match event {
            WireEvent::Text(text) => match NodeFrame::parse(&text) {
                Ok(frame) => self.on_frame(frame),
                Err(FrameError::UnknownType { t }) => {
                    tracing::debug!(t, "ignored a frame of an unknown type");
                    Ok(())
                }
                Err(error) => again(Why::Protocol(error.to_string())),
            },
            WireEvent::Heard => Ok(()),
            _ if self.close_sent => Err(Box::new(End::Stopped)),
            WireEvent::Closed(Some((code, reason))) => {
                Err(Box::new(End::of_code(code, reason, None, None)))
            }
            WireEvent::Closed(None) => again(Why::Io("the node closed the connection".to_owned())),
            WireEvent::Failed(error) => again(Why::Io(error.to_string())),
        }
    }

    fn on_frame(&mut self, frame: NodeFrame) -> Result<(), Box<End>> {
        match frame {
            NodeFrame::Opened(opened) if opened.s == SESSION => return self.on_opened(opened),
            NodeFrame::Deliver(deliver) if deliver.s == SESSION => return self.on_deliver(deliver),
            NodeFrame::Subscribed { s: SESSION, id, log } => {
                self.shared.lock().ledger.joined(&log);
                if let LogName::Topic(topic) = log.log {
                    self.forget_topic(&topic);
                    self.driver.topics.push(topic.clone());
                    self.answer(id, Ok(()));
                    self.shared.tell(Event::Subscribed(topic));
                }
                self.flush();
            }
            NodeFrame::Unsubscribed { s: SESSION, id, topic } => {
                self.shared.lock().ledger.left(&topic);
                self.forget_topic(&topic);
                self.answer(id, Ok(()));
                self.shared.tell(Event::Unsubscribed(topic));
                self.flush();
            }
            NodeFrame::Refreshed { s: SESSION, exp } => {
                if let Some(token) = self.driver.requests.refreshed(Ok(exp)) {
                    self.driver.token = Some(token);
                }
            }
            NodeFrame::Gap { s: SESSION, l, epoch, from, to, reason } => {
                let log = self.shared.lock().ledger.gap(l, epoch, to, reason);
                if let Some(log) = log {
                    self.shared.tell(Event::Gap(Gap { log, epoch, from, to, reason }));
                }
                self.flush();
            }
            NodeFrame::Closed { s, code, reason, reconnect, detail } if s <= SESSION => {
                let end = if self.close_sent {
                    End::Stopped
                } else {
                    End::of_code(code, reason, detail, Some(reconnect))
                };
                return Err(Box::new(end));
            }
            NodeFrame::Error { s, id, code, reason, detail } if s <= SESSION => {
                self.answer(id, Err(RequestError::Refused { code, reason, detail }));
            }
            NodeFrame::Goaway { after_ms, .. } => {
                self.leave_at = Some(Instant::now() + Duration::from_millis(after_ms));
            }
            NodeFrame::Heartbeat { ms, .. } => self.set_heartbeat(ms),
            NodeFrame::Pong { .. } => {}
            // A session that is not ours.
            NodeFrame::Opened(_)
            | NodeFrame::Deliver(_)
            | NodeFrame::Subscribed { .. }
            | NodeFrame::Unsubscribed { .. }
            | NodeFrame::Refreshed { .. }
            | NodeFrame::Gap { .. }
            | NodeFrame::Closed { .. }
            | NodeFrame::Error { .. } => {}
        }
        Ok(())
    }

    fn forget_topic(&mut self, topic: &TopicName) {
        self.driver.topics.retain(|known| known != topic);
    }

    fn answer(&mut self, id: Option<u64>, outcome: Result<(), RequestError>) {
        match (id, outcome) {
            (Some(id), outcome) => {
                self.driver.requests.answer(id, outcome);
            }
            (None, Err(error)) => {
                tracing::debug!(%error, "the node reports an error");
                self.driver.requests.refreshed(Err(error));
            }
            (None, Ok(())) => {}
        }
    }

    /// The ping goes out before the node would miss it, a little different for every session.
    fn set_heartbeat(&mut self, ms: u64) {
        let share = fastrand::f64().mul_add(0.1, 0.85);
        self.heartbeat = Duration::from_millis(ms.max(1000)).mul_f64(share);
    }

    fn on_opened(&mut self, opened: frames::Opened) -> Result<(), Box<End>> {
        tracing::debug!(node = opened.node, generation = opened.generation, "session is open");
        self.open = true;
        self.set_heartbeat(opened.heartbeat_ms);
        self.shared.lock().ledger.opened(&opened.logs);
        for (topic, _) in &opened.refused {
            self.forget_topic(topic);
        }
        self.shared.tell(Event::Opened(Opened {
            node: opened.node,
            generation: opened.generation,
            time_ms: opened.time_ms,
            token_ends_s: opened.exp,
            logs: opened.logs.into_iter().map(|position| position.log).collect(),
            refused: opened.refused,
        }));
        for id in self.driver.requests.unanswered() {
            self.ask(id);
        }
        self.on_wake()
    }

    fn on_deliver(&mut self, deliver: Deliver) -> Result<(), Box<End>> {
        let mut wake = None;
        let dirty = {
            let mut state = self.shared.lock();
            for message in deliver.m {
                let (id, offset) = (message.id, message.o);
                let payload = payload(message).map_err(|error| Box::new(protocol(&error)))?;
                let Some(Verdict::Show { log, target, redelivered }) =
                    state.ledger.deliver(deliver.l, offset, id)
                else {
                    continue;
                };
                let queued = Queued::Message { id, log, target, payload, redelivered };
                wake = state.push(queued).or(wake);
            }
            state.ledger.unflushed() > 0
        };
        if let Some(waker) = wake {
            waker.wake();
        }
        if dirty {
            self.flush();
        }
        Ok(())
    }
}

fn payload(message: frames::Message) -> Result<Payload, FrameError> {
    if message.b.is_none()
        && let Some(json) = message.d
    {
        return Ok(Payload::Json(json));
    }
    match message.payload()? {
        frames::Payload::Json(json) => Ok(Payload::Json(json.to_owned())),
        frames::Payload::Bytes { content_type, data } => {
            Ok(Payload::Bytes { content_type: content_type.to_owned(), data: data.into() })
        }
    }
}

fn protocol(error: &FrameError) -> End {
    End::again(Why::Protocol(error.to_string()))
}

fn again(why: Why) -> Result<(), Box<End>> {
    Err(Box::new(End::again(why)))
}
