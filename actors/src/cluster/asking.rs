//! Questions to other nodes and their answers: who is online, close a session, status, pages of logs.
//! Each waits a bounded time; who does not answer is taken to say no.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clarion_core::LogKey;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::peers::{Linked, LinkedPeers};
use super::wire::{PeerMessage, Question, Reply};
use crate::nodes::NodeNumber;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// Questions that may wait for an answer; above it they are taken to be answered with no.
const WAITING_MAX: usize = 16_384;
/// Inboxes in one question.
const LOGS_MAX: usize = 1024;

/// Questions on their way.
#[derive(Default)]
pub(crate) struct Asking {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, (NodeNumber, oneshot::Sender<Reply>)>>,
}

impl Asking {
    /// Asks one node.
    pub(crate) async fn ask(&self, peer: &Linked, question: Question) -> Option<Reply> {
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if waiting.len() >= WAITING_MAX {
                return None;
            }
            waiting.insert(request, (peer.number, reply));
        }
        let _gone = Gone { asking: self, request };
        peer.send(&PeerMessage::Ask { request, question }).ok()?;
        tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()
    }

    /// Asks every node; whether one said yes. Once one did the others are not waited for.
    pub(crate) async fn any(&self, peers: &LinkedPeers, question: &Question) -> bool {
        let peers = peers.all();
        let mut answers: FuturesUnordered<_> =
            peers.iter().map(|peer| self.ask(peer, question.clone())).collect();
        while let Some(answer) = answers.next().await {
            if matches!(answer, Some(Reply::Is(true))) {
                return true;
            }
        }
        false
    }

    /// Asks every node which of these inboxes have a session there.
    pub(crate) async fn each(&self, peers: &LinkedPeers, logs: Vec<Arc<LogKey>>) -> Vec<Vec<bool>> {
        let peers = peers.all();
        let of = |peer: Arc<Linked>| {
            let logs = &logs;
            async move {
                let mut online = Vec::with_capacity(logs.len());
                for logs in logs.chunks(LOGS_MAX) {
                    match self.ask(&peer, Question::Online(logs.to_vec())).await {
                        Some(Reply::Each(each)) if each.len() == logs.len() => online.extend(each),
                        _ => return Vec::new(),
                    }
                }
                online
            }
        };
        join_all(peers.into_iter().map(of)).await
    }

    /// An answer came.
    pub(crate) fn answered(&self, from: NodeNumber, request: u64, reply: Reply) {
        let mut waiting = self.waiting();
        if waiting.get(&request).is_some_and(|(of, _)| *of == from)
            && let Some((_, waits)) = waiting.remove(&request)
        {
            let _ = waits.send(reply);
        }
    }

    /// The link to a node ended: nobody answers.
    pub(crate) fn gone(&self, node: NodeNumber) {
        self.waiting().retain(|_, (of, _)| *of != node);
    }

    /// Questions that wait for an answer.
    pub(crate) fn len(&self) -> usize {
        self.waiting().len()
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, (NodeNumber, oneshot::Sender<Reply>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a question out of the books however the asking ends.
struct Gone<'a> {
    asking: &'a Asking,
    request: u64,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.asking.waiting().remove(&self.request);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use bytes::Bytes;

    use super::*;
    use crate::cluster::port::{Lane, PeerPort, Refused};

    /// Takes every question and answers none.
    struct Silent(Arc<str>);

    impl PeerPort for Silent {
        fn id(&self) -> &Arc<str> {
            &self.0
        }
        fn boot(&self) -> u64 {
            1
        }
        fn wire(&self) -> u16 {
            1
        }
        fn send(&self, _lane: Lane, _message: Bytes) -> Result<(), Refused> {
            Ok(())
        }
        fn status(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
    }

    fn silent() -> Arc<Linked> {
        LinkedPeers::new().add(Arc::new(Silent("silent".into()))).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn questions_that_wait_are_bounded_and_none_is_left_when_their_time_is_over() {
        let (asking, peer) = (Asking::default(), silent());
        let ask = |_| Box::pin(asking.ask(&peer, Question::Status));
        let mut asked: Vec<_> = (0..WAITING_MAX + 10).map(ask).collect();
        let mut refused = 0;
        asked.retain_mut(|asked| {
            let polled = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            refused += usize::from(matches!(polled, Poll::Ready(None)));
            polled.is_pending()
        });
        assert_eq!((asking.len(), refused), (WAITING_MAX, 10));
        assert!(join_all(asked).await.iter().all(Option::is_none));
        assert_eq!(asking.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_yes_is_enough_and_a_no_waits_for_everybody() {
        let (asking, peers) = (Asking::default(), LinkedPeers::new());
        let peer = |name: &str| peers.add(Arc::new(Silent(name.into()))).unwrap();
        let (_silent, speaks) = (peer("silent"), peer("speaks"));
        for yes in [true, false] {
            let began = tokio::time::Instant::now();
            let answer = async {
                let of_it = |(_, (of, _)): &(&u64, &(NodeNumber, _))| *of == speaks.number;
                let request = asking.waiting().iter().find(of_it).map(|(request, _)| *request);
                asking.answered(speaks.number, request.unwrap(), Reply::Is(yes));
            };
            let (any, ()) = tokio::join!(asking.any(&peers, &Question::Status), answer);
            assert_eq!((any, asking.len()), (yes, 0));
            assert_eq!(began.elapsed() >= PATIENCE, !yes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_from_whom_it_was_asked_of_and_a_link_that_ends_answers_no() {
        let (asking, peer) = (Asking::default(), silent());
        let answer = async {
            asking.answered(NodeNumber(99), 0, Reply::Is(true));
            asking.answered(peer.number, 0, Reply::Is(false));
        };
        let (asked, ()) = tokio::join!(asking.ask(&peer, Question::Status), answer);
        assert!(matches!(asked, Some(Reply::Is(false))));
        let gone = async { asking.gone(peer.number) };
        let (asked, ()) = tokio::join!(asking.ask(&peer, Question::Status), gone);
        assert!(asked.is_none() && asking.len() == 0);
    }
}
