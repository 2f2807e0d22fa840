//! Requests that change something run to their end, also when their client goes away half-way or
//! their time is over: else a push would leave its idempotency key claimed until the claim runs
//! out, and a change of a product would be half made. Costs a channel send only when that happens.
//! A panic in a handler ends its request alone.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use clarion_protocol::Code;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::problem::Answer;
use super::routes::Running;

/// Abandoned requests that wait to be taken over; beyond them they are dropped, and counted.
const WAITING_MAX: usize = 1024;
/// Abandoned requests that run at a time.
const RUNNING_MAX: usize = 4096;

/// Where abandoned requests go.
pub(super) type Keeper = mpsc::Sender<Kept>;

/// A handler at work.
pub(super) struct Kept {
    running: Option<Running>,
    /// Who takes it over when it is dropped before its end.
    keeper: Option<Keeper>,
}

impl Kept {
    pub(super) fn new(running: Running, keeper: Option<Keeper>) -> Self {
        Self { running: Some(running), keeper }
    }
}

impl Future for Kept {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let Some(running) = self.running.as_mut() else {
            return Poll::Ready(Err(Code::Internal.into()));
        };
        let answer = match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(context))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(answer)) => answer,
            Err(_) => {
                metrics::counter!("clarion_http_handler_panics_total").increment(1);
                tracing::error!("a handler panicked");
                Err(Code::Internal.into())
            }
        };
        self.running = None;
        Poll::Ready(answer)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let (Some(running), Some(keeper)) = (self.running.take(), self.keeper.take()) else {
            return;
        };
        if keeper.try_send(Self::new(running, None)).is_err() {
            metrics::counter!("clarion_http_abandoned_dropped_total").increment(1);
        }
    }
}

/// The channel to [`run`].
pub(super) fn channel() -> (Keeper, mpsc::Receiver<Kept>) {
    mpsc::channel(WAITING_MAX)
}

/// Runs abandoned requests to their end, each at most `time` longer, until no more can come.
pub(super) async fn run(mut abandoned: mpsc::Receiver<Kept>, time: Duration) {
    let mut running = FuturesUnordered::new();
    let mut open = true;
    while open || !running.is_empty() {
        tokio::select! {
            Some(_) = running.next() => {}
            kept = abandoned.recv(), if open && running.len() < RUNNING_MAX => match kept {
                Some(kept) => running.push(timeout(time, kept)),
                None => open = false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::request::no_content;
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_is_abandoned_runs_to_its_end() {
        let (keeper, abandoned) = channel();
        let (go, gone) = oneshot::channel::<()>();
        let (done, seen) = oneshot::channel();
        let mut kept = Kept::new(
            Box::pin(async move {
                gone.await.unwrap();
                done.send(()).unwrap();
                Ok(no_content())
            }),
            Some(keeper),
        );
        assert!(futures_util::FutureExt::now_or_never(&mut kept).is_none());
        drop(kept);
        go.send(()).unwrap();
        run(abandoned, LONG).await;
        seen.await.expect("it ran on without its client");
    }

    #[tokio::test]
    async fn what_ended_is_not_run_again_and_a_panic_is_an_answer() {
        let (keeper, abandoned) = channel();
        let good = Kept::new(Box::pin(async { Ok(no_content()) }), Some(keeper.clone()));
        assert_eq!(good.await.unwrap().status(), 204);
        let bad = Kept::new(Box::pin(async { panic!("a handler's fault") }), Some(keeper));
        assert_eq!(bad.await.unwrap_err().code(), Code::Internal);
        run(abandoned, LONG).await;
    }

    #[tokio::test]
    async fn what_never_ends_is_given_up() {
        let (keeper, abandoned) = channel();
        let stuck = Kept::new(Box::pin(std::future::pending()), Some(keeper));
        drop(stuck);
        run(abandoned, Duration::from_millis(1)).await;
    }
}
