//! What the driver of a terminal shares with its handles, its event stream and its messages. One
//! lock, held for moments and never across an await; nothing in it grows beyond its bound.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use clarion_protocol::{LogName, MessageId, TopicName};
use futures_util::Stream;
use tokio::sync::{Notify, oneshot};

use super::RequestError;
use super::event::{Event, Message, Payload, Receipt};
use super::ledger::{Ledger, Settle, Target};

/// Requests that may wait for the driver.
const COMMANDS_MAX: usize = 256;

/// See the module.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Wakes the driver.
    pub(super) driver: Notify,
    /// Acknowledgements after which the driver is woken at once.
    ack_batch: usize,
    /// Events that may wait for the application before reading stops.
    buffer: usize,
}

pub(super) struct State {
    pub(super) ledger: Ledger,
    events: VecDeque<Queued>,
    app: Option<Waker>,
    pub(super) commands: VecDeque<Command>,
    /// The driver does not read because the application has enough to do.
    pub(super) paused: bool,
    /// The application is gone, or asked for the end.
    pub(super) stop: bool,
    /// The driver is gone.
    ended: bool,
}

/// An event that waits. Messages get their receipt, which refers back here, when they are taken.
pub(super) enum Queued {
    Event(Box<Event>),
    Message {
        id: MessageId,
        log: LogName,
        target: Option<Target>,
        payload: Payload,
        redelivered: bool,
    },
}

/// What the application asks for.
pub(super) enum Command {
    Subscribe(TopicName, Reply<()>),
    Unsubscribe(TopicName, Reply<()>),
    Refresh(String, Reply<u64>),
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, RequestError>>;

impl Shared {
    pub(super) fn new(ledger: Ledger, ack_batch: usize, buffer: usize) -> Self {
        Self {
            state: Mutex::new(State {
                ledger,
                events: VecDeque::new(),
                app: None,
                commands: VecDeque::new(),
                paused: false,
                stop: false,
                ended: false,
            }),
            driver: Notify::new(),
            ack_batch,
            buffer,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what became of a message, and wakes the driver when that is worth a flush:
    /// for the first of a burst, which starts the timer, for the last, and for a full batch.
    pub(super) fn settle(&self, target: Target, id: MessageId, how: Settle) {
        let wake = {
            let ledger = &mut self.lock().ledger;
            let before = ledger.unflushed();
            ledger.settle(target, id, how);
            let now = ledger.unflushed();
            now > 0 && (before == 0 || ledger.held() == 0 || now >= self.ack_batch)
        };
        if wake {
            self.driver.notify_one();
        }
    }

    pub(super) fn command(&self, command: Command) -> Result<(), RequestError> {
        {
            let mut state = self.lock();
            if state.ended || state.stop {
                return Err(RequestError::Ended);
            }
            if state.commands.len() >= COMMANDS_MAX {
                return Err(RequestError::Busy);
            }
            state.commands.push_back(command);
        }
        self.driver.notify_one();
        Ok(())
    }

    /// Asks the driver to end in good order.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.driver.notify_one();
    }

    /// Tells the application something.
    pub(super) fn tell(&self, event: Event) {
        let waker = self.lock().push(Queued::Event(Box::new(event)));
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether the application has room for more; if not, taking events will wake the driver.
    pub(super) fn has_room(&self) -> bool {
        let mut state = self.lock();
        state.paused = state.events.len() >= self.buffer;
        !state.paused
    }

    /// The last word: requests fail from now on, and the stream ends after what is queued.
    pub(super) fn end(&self) {
        let (commands, waker) = {
            let mut state = self.lock();
            state.ended = true;
            (std::mem::take(&mut state.commands), state.app.take())
        };
        drop(commands);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl State {
    /// Queues an event; the waker is to be woken without the lock. Messages that arrive once the
    /// application is on its way out are for its next start.
    #[must_use]
    pub(super) fn push(&mut self, event: Queued) -> Option<Waker> {
        if self.stop && matches!(event, Queued::Message { .. }) {
            return None;
        }
        self.events.push_back(event);
        self.app.take()
    }
}

/// The events of a terminal: a stream, and [`Events::next`] without one. Dropping it ends the
/// terminal in good order, like [`TerminalHandle::close`](super::TerminalHandle::close).
pub struct Events {
    shared: Arc<Shared>,
    auto_ack: bool,
    previous: Option<(Target, MessageId)>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("auto_ack", &self.auto_ack).finish_non_exhaustive()
    }
}

impl Events {
    pub(super) const fn new(shared: Arc<Shared>, auto_ack: bool) -> Self {
        Self { shared, auto_ack, previous: None }
    }

    /// The next event; `None` after [`Event::Closed`]. Safe to drop and call again. With automatic
    /// acknowledgement this acknowledges the message that was returned before.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Some((target, id)) = self.previous.take() {
            self.shared.settle(target, id, Settle::Ack);
        }
        let (queued, wake_driver) = {
            let mut state = self.shared.lock();
            let Some(queued) = state.events.pop_front() else {
                if state.ended {
                    return Poll::Ready(None);
                }
                if !state.app.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    state.app = Some(cx.waker().clone());
                }
                return Poll::Pending;
            };
            let has_room = state.events.len() <= self.shared.buffer / 2;
            (queued, state.paused && has_room)
        };
        if wake_driver {
            self.shared.driver.notify_one();
        }
        Poll::Ready(Some(match queued {
            Queued::Event(event) => *event,
            Queued::Message { id, log, target, payload, redelivered } => {
                if self.auto_ack {
                    self.previous = target.map(|target| (target, id));
                }
                let receipt = Receipt::new(Arc::clone(&self.shared), target, id, self.auto_ack);
                let offset = target.map(|target| target.offset);
                Event::Message(Message { id, log, offset, payload, redelivered, receipt })
            }
        }))
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.get_mut().poll_event(cx)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.shared.stop();
    }
}
