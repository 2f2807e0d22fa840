//! One connection from `open` to its end.

mod frames;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use clarion_protocol::terminal::{Open, TerminalFrame};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::SESSION;
use super::driver::{Delay, Driver, End};
use super::event::Why;
use super::ledger::Step;
use super::shared::{Command, Shared};
use crate::wire::Wire;

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
}

fn again(why: Why) -> Result<(), Box<End>> {
    Err(Box::new(End::again(why)))
}
