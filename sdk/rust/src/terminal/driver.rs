//! The life of a terminal: connect, run a session, wait, connect again, until something final.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use clarion_protocol::terminal::SUBPROTOCOL_JSON;
use clarion_protocol::{Code, Problem, TopicName};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::event::{Closed, Event, Why};
use super::gateways::Route;
use super::limiter::Limiter;
use super::requests::Requests;
use super::session::Session;
use super::shared::Shared;
use super::{Settings, token};
use crate::cursors::{CursorError, CursorStore};
use crate::wire::{self, ConnectFailure, Wire};

/// How an attempt or a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// For good.
    Final(Closed),
    /// To be tried again.
    Again { why: Why, delay: Delay, new_token: bool },
    /// The application asked for it.
    Stopped,
}

/// How long to wait before the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delay {
    /// The node named the moment already.
    None,
    /// Back-off, and at least this.
    Backoff(Duration),
}

/// The task of a terminal.
pub(super) struct Driver {
    pub(super) settings: Settings,
    pub(super) shared: Arc<Shared>,
    pub(super) token: Option<String>,
    /// Topics that every `open` names.
    pub(super) topics: Vec<TopicName>,
    pub(super) requests: Requests,
    pub(super) saver: Saver,
    pub(super) limiter: Limiter,
    /// Where the next attempt goes.
    pub(super) route: Route,
    failures: u32,
}

/// Ends the event stream also when the task is dropped with its runtime.
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl End {
    pub(super) const fn again(why: Why) -> Self {
        Self::Again { why, delay: Delay::Backoff(Duration::ZERO), new_token: false }
    }

    /// What a code means; `reconnect` is what the node said about it, if it did.
    pub(super) fn of_code(
        code: u16,
        reason: String,
        detail: Option<String>,
        reconnect: Option<bool>,
    ) -> Self {
        let new_token = (4100..4200).contains(&code);
        let is_final = code >= 4200 || (reconnect == Some(false) && !new_token);
        if is_final {
            return Self::Final(Closed { code, reason, detail });
        }
        let reason = match detail {
            Some(detail) => format!("{reason}: {detail}"),
            None => reason,
        };
        let why = Why::Closed { code, reason };
        Self::Again { why, delay: Delay::Backoff(Duration::ZERO), new_token }
    }

    fn of_failure(failure: ConnectFailure) -> Self {
        let (status, retry_after_s, body) = match failure {
            ConnectFailure::Io(error) => return Self::again(Why::Io(error)),
            ConnectFailure::Refused { status, retry_after_s, body } => {
                (status, retry_after_s, body)
            }
        };
        let problem = serde_json::from_slice::<Problem>(&body).ok();
        let code = problem.as_ref().and_then(Problem::known_code).map_or(0, Code::number);
        let named_s = problem.as_ref().and_then(|p| p.retry_after_s).map(u64::from);
        let detail = problem.map_or_else(String::new, |p| p.detail.unwrap_or(p.title));
        if code >= 4100 {
            let reason = Code::from_number(code).map_or("", Code::as_str).to_owned();
            return Self::of_code(code, reason, Some(detail), None);
        }
        let at_least = Duration::from_secs(retry_after_s.or(named_s).unwrap_or(0));
        Self::Again {
            why: Why::Refused { status, detail },
            delay: Delay::Backoff(at_least),
            new_token: false,
        }
    }
}

impl Driver {
    pub(super) fn new(
        settings: Settings,
        route: Route,
        shared: Arc<Shared>,
        token: String,
        topics: Vec<TopicName>,
    ) -> Self {
        let saver = Saver {
            store: settings.store.clone(),
            retry: settings.tuning.save_retry,
            running: None,
            retry_at: None,
        };
        let limiter = Limiter::new(settings.tuning.ack_frames_per_s, Instant::now());
        let requests = Requests::default();
        let token = Some(token);
        Self { settings, shared, token, topics, requests, saver, limiter, route, failures: 0 }
    }

    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _end = EndOnDrop(Arc::clone(&shared));
        let closed = loop {
            let end = Box::pin(self.attempt()).await;
            shared.lock().ledger.disconnected();
            self.requests.interrupted();
            match end {
                End::Final(closed) => break closed,
                End::Stopped => break stopped(),
                End::Again { why: Why::Closed { code, reason }, new_token: true, .. }
                    if !self.settings.source.is_renewable() =>
                {
                    break Closed { code, reason, detail: Some("no other token".to_owned()) };
                }
                End::Again { why, delay, new_token } => {
                    if new_token {
                        self.token = None;
                    }
                    let wrong_group = Code::WrongGroup.number();
                    if matches!(&why, Why::Closed { code, .. } if *code == wrong_group) {
                        // The others of the list are of the same group.
                        self.route.sent_away(&[]);
                    }
                    if !self.pause(why, delay).await {
                        break stopped();
                    }
                }
            }
        };
        self.save_the_rest().await;
        tracing::debug!(code = closed.code, "terminal ends");
        shared.tell(Event::Closed(closed));
    }

    async fn attempt(&mut self) -> End {
        let deadline = Instant::now() + self.settings.tuning.connect_timeout;
        let shared = Arc::clone(&self.shared);
        let connected = unless_stopped(&shared, timeout_at(deadline, self.connect())).await;
        let wire = match connected {
            None => return End::Stopped,
            Some(Err(_)) => return End::again(Why::ConnectTimeout),
            Some(Ok(Err(end))) => return end,
            Some(Ok(Ok(wire))) => wire,
        };
        let opened_at = Instant::now();
        let (end, was_open) = Session::new(self, wire, deadline).run().await;
        if was_open && opened_at.elapsed() >= self.settings.tuning.stable_after {
            self.failures = 0;
        }
        end
    }

    async fn connect(&mut self) -> Result<Wire, End> {
        if self.token.is_none() {
            let token = self.settings.source.token().await;
            self.adopt(token.map_err(|error| End::again(Why::Token(error.to_string())))?)?;
        }
        let bytes = self.settings.tuning.read_buffer_bytes;
        let connector = &*self.settings.connector;
        let url = self.route.next(connector).await;
        let url = url.map_err(|error| End::again(Why::Gateways(error)))?;
        let wire = wire::connect(connector, &url, SUBPROTOCOL_JSON, None, bytes).await;
        wire.map_err(End::of_failure)
    }

    /// A token speaks for one terminal. Another user's is fine, another terminal's is not: its
    /// logs have nothing to do with the cursors here.
    fn adopt(&mut self, token: String) -> Result<(), End> {
        let owner = token::owner(self.settings.product.as_str(), &token);
        let mut state = self.shared.lock();
        if !owner.is_same_terminal(state.ledger.owner()) {
            return Err(End::Final(Closed {
                code: Code::RefreshMismatch.number(),
                reason: Code::RefreshMismatch.as_str().to_owned(),
                detail: Some("the token source gave a token of another terminal".to_owned()),
            }));
        }
        state.ledger.change_owner(owner);
        drop(state);
        self.token = Some(token);
        Ok(())
    }

    /// Waits before the next attempt; false when the application asked for the end.
    async fn pause(&mut self, why: Why, delay: Delay) -> bool {
        let retry_in = match delay {
            Delay::None => Duration::ZERO,
            Delay::Backoff(at_least) => {
                let backoff = self.settings.tuning.reconnect.random_delay(self.failures);
                self.failures = self.failures.saturating_add(1);
                // The named pause is that node's; another access point has not asked for one.
                let at_least = if self.route.has_another() { Duration::ZERO } else { at_least };
                at_least + backoff
            }
        };
        tracing::debug!(%why, ?retry_in, "link is down");
        self.shared.tell(Event::Disconnected { why, retry_in });
        let until = Instant::now() + retry_in;
        loop {
            if self.shared.lock().stop {
                return false;
            }
            self.saver.start(&self.shared);
            tokio::select! {
                () = sleep_until(until) => return true,
                () = self.shared.driver.notified() => {}
                result = self.saver.done() => self.saver.finished(result, &self.shared),
            }
        }
    }

    /// What was acknowledged after the last save.
    async fn save_the_rest(&mut self) {
        let deadline = Instant::now() + self.settings.tuning.close_timeout;
        self.saver.retry_at = None;
        loop {
            self.saver.start(&self.shared);
            if !self.saver.is_running() {
                return;
            }
            match timeout_at(deadline, self.saver.done()).await {
                Ok(result) => self.saver.finished(result, &self.shared),
                Err(_) => return,
            }
        }
    }
}

fn stopped() -> Closed {
    let code = Code::SessionClosed;
    Closed { code: code.number(), reason: code.as_str().to_owned(), detail: None }
}

/// The outcome, unless the application asks for the end first.
async fn unless_stopped<T>(shared: &Shared, work: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(work);
    loop {
        if shared.lock().stop {
            return None;
        }
        tokio::select! {
            outcome = &mut work => return Some(outcome),
            () = shared.driver.notified() => {}
        }
    }
}

/// Runs one save of the cursors at a time.
pub(super) struct Saver {
    store: Option<Arc<dyn CursorStore>>,
    retry: Duration,
    running: Option<JoinHandle<Result<(), CursorError>>>,
    pub(super) retry_at: Option<Instant>,
}

impl Saver {
    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Starts to save what changed, unless a save runs or the last one failed a moment ago.
    /// Without a store that is done at once.
    pub(super) fn start(&mut self, shared: &Shared) {
        if self.is_running() || self.retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        let mut state = shared.lock();
        if state.ledger.unflushed() == 0 {
            return;
        }
        self.retry_at = None;
        state.ledger.saving();
        let Some(store) = self.store.clone() else {
            state.ledger.saved(true);
            return;
        };
        let snapshot = state.ledger.snapshot_with(&[]);
        drop(state);
        self.running = Some(crate::task::spawn(async move { store.save(&snapshot).await }));
    }

    /// Waits for the running save; forever if there is none. Safe to drop and call again.
    pub(super) async fn done(&mut self) -> Result<(), CursorError> {
        let Some(running) = &mut self.running else { return pending().await };
        running.await.unwrap_or_else(|error| Err(CursorError::Other(Box::new(error))))
    }

    /// Takes the outcome of [`Saver::done`].
    pub(super) fn finished(&mut self, result: Result<(), CursorError>, shared: &Shared) {
        self.running = None;
        shared.lock().ledger.saved(result.is_ok());
        if let Err(error) = result {
            self.retry_at = Some(Instant::now() + self.retry);
            shared.tell(Event::CursorsNotSaved(error));
        }
    }
}
