//! Pushes over one WebSocket: many in flight, confirmed by number, sent again under the same
//! idempotency keys when the connection breaks.

mod connection;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clarion_protocol::http::PushAccepted;
use clarion_protocol::push_link::{PushNodeFrame, SUBPROTOCOL_PUSH, Welcome};
use clarion_protocol::{FrameError, Problem};
use hyper::Method;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use url::Url;

use connection::Connection;

use super::PushError;
use super::error::Attempt;
use super::push::Push;
use crate::backoff::Backoff;
use crate::http::{Http, Place};
use crate::transport::{Connector, websocket_url};
use crate::wire::{self, ConnectFailure, Wire, WireEvent};

/// Pushes that wait for the window, for all senders together.
const QUEUE: usize = 1024;

/// The bounds and times of a [`PushLink`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkTuning {
    /// The delays between attempts to connect.
    pub reconnect: Backoff,
    /// The delays before a push that was refused for now is sent again.
    pub retry: Backoff,
    /// How long a push may take, from [`PushLink::send`] to its confirmation.
    pub deadline: Duration,
    /// How long a connection may take until the node's first frame.
    pub connect_timeout: Duration,
    /// How long a silent connection with unconfirmed pushes is trusted before a ping, and how long
    /// that may go unanswered.
    pub silence_max: Duration,
    /// A connection that lasted this long lets the back-off start over.
    pub stable_after: Duration,
}

impl Default for LinkTuning {
    fn default() -> Self {
        Self {
            reconnect: Backoff::RECONNECT,
            retry: Backoff::REQUEST,
            deadline: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            silence_max: Duration::from_secs(10),
            stable_after: Duration::from_secs(60),
        }
    }
}

/// A WebSocket for pushes. Cheap to clone; clones share it. It closes with the last of them.
#[derive(Clone)]
pub struct PushLink {
    jobs: mpsc::Sender<Job>,
    tuning: Arc<LinkTuning>,
}

impl fmt::Debug for PushLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushLink").finish_non_exhaustive()
    }
}

type Outcome = Result<PushAccepted, Attempt>;

/// A push on its way.
struct Job {
    body: Bytes,
    reply: oneshot::Sender<Outcome>,
}

impl PushLink {
    pub(super) fn start(
        http: Arc<Http>,
        place: Place,
        connector: Arc<dyn Connector>,
        tuning: LinkTuning,
    ) -> Result<Self, PushError> {
        let url = websocket_url(place.url()).map_err(|e| PushError::invalid(e.to_string()))?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let tuning = Arc::new(tuning);
        let driver = Driver {
            http,
            place,
            url,
            connector,
            tuning: Arc::clone(&tuning),
            queue,
            unconfirmed: VecDeque::new(),
            first: 1,
            failures: 0,
        };
        crate::task::spawn(driver.run());
        Ok(Self { jobs, tuning })
    }

    /// Sends a push and waits until it is confirmed. Call it for many pushes at once: they travel
    /// together, as many as the node's window allows. Pushes that are sent one after the other, and
    /// that the node does not refuse for now, keep their order.
    ///
    /// # Errors
    /// When the node refuses the push, or does not confirm it before the deadline.
    pub fn send(
        &self,
        push: Push,
    ) -> impl Future<Output = Result<PushAccepted, PushError>> + Send + use<> {
        let jobs = self.jobs.clone();
        let tuning = Arc::clone(&self.tuning);
        async move {
            let body = push.into_body()?;
            let deadline = Instant::now() + tuning.deadline;
            let mut attempts = 0;
            let mut unknown = false;
            loop {
                let (reply, confirmed) = oneshot::channel();
                let job = Job { body: body.clone(), reply };
                let round = async {
                    // Both ends live as long as the driver, which ends with the last handle.
                    if jobs.send(job).await.is_err() {
                        return Err(Attempt::ended());
                    }
                    confirmed.await.unwrap_or_else(|_| Err(Attempt::ended()))
                };
                let failed = match timeout_at(deadline, round).await {
                    Ok(Ok(accepted)) => return Ok(accepted),
                    Ok(Err(failed)) => failed,
                    Err(_) => Attempt::timed_out(),
                };
                attempts += 1;
                unknown |= failed.outcome_unknown;
                let retry_at = Instant::now() + failed.delay(&tuning.retry, attempts - 1);
                if !failed.repeat || retry_at >= deadline {
                    return Err(PushError::gave_up(failed, attempts, unknown));
                }
                sleep_until(retry_at).await;
            }
        }
    }
}

/// The task behind a [`PushLink`].
struct Driver {
    http: Arc<Http>,
    place: Place,
    url: Url,
    connector: Arc<dyn Connector>,
    tuning: Arc<LinkTuning>,
    queue: mpsc::Receiver<Job>,
    /// Numbers `first..`, in order; `None` once confirmed. Spans at most the window, as `first` is
    /// always unconfirmed and the window counts from there.
    unconfirmed: VecDeque<Option<Job>>,
    first: u64,
    failures: u32,
}

/// How a connection ended.
enum End {
    /// All handles are gone and everything is confirmed.
    Done,
    /// The node asked to connect again.
    Goaway,
    /// It broke.
    Broken(String),
    /// The node refuses the back-end itself: whoever waits is told.
    Refused(Attempt),
}

impl Driver {
    async fn run(mut self) {
        loop {
            let end = Box::pin(self.connection()).await;
            let (why, delay) = match end {
                End::Done => return,
                End::Goaway => ("the node drains".to_owned(), Duration::ZERO),
                End::Broken(why) => (why, self.backoff()),
                End::Refused(attempt) => {
                    self.refuse_all(&attempt);
                    let delay = self.backoff();
                    (attempt.to_string(), delay)
                }
            };
            tracing::debug!(why, ?delay, "push link is down");
            if self.queue.is_closed() && self.queue.is_empty() && self.is_idle() {
                return;
            }
            tokio::time::sleep(delay).await;
        }
    }

    fn backoff(&mut self) -> Duration {
        let delay = self.tuning.reconnect.random_delay(self.failures);
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Whether nobody waits for a confirmation any more.
    fn is_idle(&self) -> bool {
        self.unconfirmed.iter().flatten().all(|job| job.reply.is_closed())
    }

    /// Bad credentials do not become good by waiting.
    fn refuse_all(&mut self, attempt: &Attempt) {
        let waiting = std::iter::from_fn(|| self.queue.try_recv().ok());
        for job in self.unconfirmed.drain(..).flatten().chain(waiting) {
            let _ = job.reply.send(Err(attempt.clone()));
        }
    }

    async fn connection(&mut self) -> End {
        let deadline = Instant::now() + self.tuning.connect_timeout;
        let (wire, welcome) = match timeout_at(deadline, self.connect()).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(end)) => return end,
            Err(_) => return End::Broken("connecting took too long".to_owned()),
        };
        let connected_at = Instant::now();
        let end = Connection::new(self, wire, welcome).run().await;
        if connected_at.elapsed() >= self.tuning.stable_after {
            self.failures = 0;
        }
        end
    }

    async fn connect(&self) -> Result<(Wire, Welcome), End> {
        let broken = |what: String| End::Broken(what);
        let authorization = self
            .http
            .identity()
            .authorization(&Method::GET, self.place.url(), None)
            .map_err(|error| broken(error.to_string()))?;
        let authorization = authorization.to_str().unwrap_or_default().to_owned();
        let connector = &*self.connector;
        let bytes = 64 * 1024;
        let connected =
            wire::connect(connector, &self.url, SUBPROTOCOL_PUSH, Some(authorization), bytes);
        let mut wire = connected.await.map_err(|failure| match failure {
            ConnectFailure::Io(error) => End::Broken(error),
            ConnectFailure::Refused { status, retry_after_s, body } => {
                refusal(status, serde_json::from_slice(&body).ok(), retry_after_s)
            }
        })?;
        loop {
            match wire.event(true).await {
                WireEvent::Text(text) => match PushNodeFrame::parse(&text) {
                    Ok(PushNodeFrame::Welcome(welcome)) => return Ok((wire, welcome)),
                    Ok(_) => return Err(broken("the node did not say its window".to_owned())),
                    Err(FrameError::UnknownType { .. }) => {}
                    Err(error) => return Err(broken(error.to_string())),
                },
                WireEvent::Heard => {}
                WireEvent::Closed(_) => return Err(broken("the node closed it".to_owned())),
                WireEvent::Failed(error) => return Err(broken(error.to_string())),
            }
        }
    }
}

/// A refusal that another attempt may mend is like a broken connection.
fn refusal(status: u16, problem: Option<Problem>, retry_after_s: Option<u64>) -> End {
    let attempt = match problem {
        Some(problem) => Attempt::refused(problem, retry_after_s),
        None => Attempt::status(status, retry_after_s),
    };
    if attempt.repeat { End::Broken(attempt.to_string()) } else { End::Refused(attempt) }
}
