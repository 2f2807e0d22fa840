//! One connection of a push link.

use std::time::Duration;

use clarion_protocol::push_link::{Confirmation, PushNodeFrame, Welcome};
use clarion_protocol::{Code, FrameError, Problem};
use tokio::time::{Instant, sleep_until, timeout};

use super::{Driver, End, Job, QUEUE};
use crate::backend::error::Attempt;
use crate::wire::{Wire, WireEvent};

/// How long the last frames of a connection that is left may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// One connection of the link.
pub(super) struct Connection<'a> {
    driver: &'a mut Driver,
    wire: Wire,
    window: u64,
    frame_bytes_max: usize,
    /// The next number to be given.
    next: u64,
    heard_at: Instant,
    pinged: bool,
    silence_max: Duration,
    /// Set by `goaway`: no new pushes, and away at that moment.
    leave_at: Option<Instant>,
    received: Vec<Job>,
}

impl<'a> Connection<'a> {
    pub(super) fn new(driver: &'a mut Driver, wire: Wire, welcome: Welcome) -> Self {
        let silence_max = driver.tuning.silence_max;
        let next = driver.first;
        Self {
            driver,
            wire,
            window: u64::from(welcome.window.max(1)),
            frame_bytes_max: usize::try_from(welcome.frame_bytes_max).unwrap_or(usize::MAX),
            next,
            heard_at: Instant::now(),
            pinged: false,
            silence_max,
            leave_at: None,
            received: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) -> End {
        self.send_again();
        loop {
            let in_flight = self.next - self.driver.first;
            let room = self.window.saturating_sub(in_flight);
            let take = self.leave_at.is_none() && room > 0;
            let room = usize::try_from(room).unwrap_or(QUEUE).min(QUEUE);
            let deadline = self.deadline();
            tokio::select! {
                event = self.wire.event(true) => {
                    if let Err(end) = self.on_wire(event) {
                        return end;
                    }
                }
                count = self.driver.queue.recv_many(&mut self.received, room), if take => {
                    if count == 0 {
                        // All handles are gone, and with them all who wait.
                        return self.leave(End::Done).await;
                    }
                    self.send_received();
                }
                () = sleep_until(deadline) => match self.on_time() {
                    Some(End::Goaway) => return self.leave(End::Goaway).await,
                    Some(end) => return end,
                    None => {}
                }
            }
        }
    }

    fn deadline(&self) -> Instant {
        let silent = self.heard_at + self.silence_max * if self.pinged { 2 } else { 1 };
        self.leave_at.map_or(silent, |at| at.min(silent))
    }

    /// What an earlier connection left unconfirmed goes first, in its order.
    fn send_again(&mut self) {
        let jobs = std::mem::take(&mut self.driver.unconfirmed);
        for job in jobs.into_iter().flatten() {
            self.send(job);
        }
    }

    fn send_received(&mut self) {
        for job in std::mem::take(&mut self.received) {
            self.send(job);
        }
    }

    /// Sends it, unless its sender gave up meanwhile: that may push it elsewhere by now.
    fn send(&mut self, job: Job) {
        if job.reply.is_closed() {
            return;
        }
        let id = self.next;
        // What `BackendFrame::Push` writes, around a body that was written once.
        let body = String::from_utf8_lossy(&job.body);
        let mut frame = String::with_capacity(body.len() + 48);
        frame.push_str("{\"t\":\"push\",\"id\":");
        frame.push_str(&id.to_string());
        frame.push_str(",\"push\":");
        frame.push_str(&body);
        frame.push('}');
        if frame.len() > self.frame_bytes_max {
            // The node would end the connection, and again after each reconnect.
            let detail = format!("a frame may have {} bytes", self.frame_bytes_max);
            let problem = Problem::new(Code::BodyTooLarge, detail);
            let _ = job.reply.send(Err(Attempt::refused(problem, None)));
            return;
        }
        self.next += 1;
        self.wire.text(frame);
        self.driver.unconfirmed.push_back(Some(job));
    }

    fn on_wire(&mut self, event: WireEvent) -> Result<(), End> {
        self.heard_at = Instant::now();
        self.pinged = false;
        match event {
            WireEvent::Text(text) => match PushNodeFrame::parse(&text) {
                Ok(PushNodeFrame::Confirm { c }) => c.into_iter().for_each(|c| self.confirm(c)),
                Ok(PushNodeFrame::Goaway { after_ms }) => {
                    self.leave_at = Some(Instant::now() + Duration::from_millis(after_ms));
                }
                Ok(PushNodeFrame::Welcome(_)) | Err(FrameError::UnknownType { .. }) => {}
                Err(error) => return Err(End::Broken(error.to_string())),
            },
            WireEvent::Heard => {}
            WireEvent::Closed(frame) => {
                let why = frame.map_or_else(String::new, |(code, why)| format!(": {code} {why}"));
                return Err(End::Broken(format!("the node closed it{why}")));
            }
            WireEvent::Failed(error) => return Err(End::Broken(error.to_string())),
        }
        Ok(())
    }

    fn confirm(&mut self, confirmation: Confirmation) {
        let driver = &mut *self.driver;
        let index = confirmation.id.checked_sub(driver.first).and_then(|i| usize::try_from(i).ok());
        let slot = index.and_then(|index| driver.unconfirmed.get_mut(index));
        let Some(job) = slot.and_then(Option::take) else { return };
        let outcome = match (confirmation.accepted, confirmation.problem) {
            (Some(accepted), _) => Ok(accepted),
            (None, Some(problem)) => Err(Attempt::refused(problem, None)),
            (None, None) => Err(Attempt::unreadable()),
        };
        let _ = job.reply.send(outcome);
        while matches!(driver.unconfirmed.front(), Some(None)) {
            driver.unconfirmed.pop_front();
            driver.first += 1;
        }
    }

    fn on_time(&mut self) -> Option<End> {
        let now = Instant::now();
        if self.leave_at.is_some_and(|at| at <= now) {
            return Some(End::Goaway);
        }
        if self.heard_at + self.silence_max * 2 <= now && self.pinged {
            return Some(End::Broken("nothing was heard".to_owned()));
        }
        if self.heard_at + self.silence_max <= now && !self.pinged {
            self.wire.ping();
            self.pinged = true;
        }
        None
    }

    async fn leave(mut self, end: End) -> End {
        self.wire.close();
        let _ = timeout(FAREWELL, self.wire.drained()).await;
        end
    }
}
