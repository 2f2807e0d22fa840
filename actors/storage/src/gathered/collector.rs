//! Single requests, gathered into batches while others are on their way.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::{StoreError, StoreResult};

/// Gathers questions that are asked one by one. One that comes while fewer than `running_max`
/// batches are on their way leaves at once; else it waits for the next batch, and those that ask
/// the same while it waits share its answer. Never one that has left: its answer may be older than
/// the question (I4).
///
/// It holds what its callers wait for and nothing else, so they bound it.
pub(super) struct Collector<K, Q, A> {
    state: Mutex<State<K, Q, A>>,
    /// The label of its metrics.
    sort: &'static str,
    running_max: usize,
    batch_max: usize,
}

struct State<K, Q, A> {
    waiting: VecDeque<Asked<Q, A>>,
    /// How many left before the first one that waits: `places` count from the beginning.
    left: u64,
    places: HashMap<K, u64>,
    running: usize,
}

struct Asked<Q, A> {
    question: Q,
    callers: Vec<oneshot::Sender<StoreResult<A>>>,
}

impl<K, Q, A> Collector<K, Q, A>
where
    K: Eq + Hash + Send + 'static,
    Q: Send + 'static,
    A: Clone + Send + 'static,
{
    pub(super) fn new(sort: &'static str, running_max: usize, batch_max: usize) -> Arc<Self> {
        let state = State { waiting: VecDeque::new(), left: 0, places: HashMap::new(), running: 0 };
        Arc::new(Self { state: Mutex::new(state), sort, running_max, batch_max })
    }

    /// Asks; `key` says which questions are the same (`None`: no other is). `answer` answers a
    /// batch, in its order.
    pub(super) async fn ask<F, R>(
        self: &Arc<Self>,
        key: Option<K>,
        question: Q,
        answer: F,
    ) -> StoreResult<A>
    where
        F: Fn(Vec<Q>) -> R + Send + 'static,
        R: Future<Output = Vec<StoreResult<A>>> + Send + 'static,
    {
        let (reply, answered) = oneshot::channel();
        if self.add(key, question, reply) {
            spawn(Running { of: Arc::clone(self), counted: true }.run(answer));
        }
        answered.await.unwrap_or_else(|_| Err(StoreError::Unknown("the batch was lost".into())))
    }

    /// Says whether a batch may leave.
    fn add(&self, key: Option<K>, question: Q, reply: oneshot::Sender<StoreResult<A>>) -> bool {
        let mut state = self.lock();
        if let Some(place) = key.as_ref().and_then(|key| state.places.get(key)).copied() {
            let at = usize::try_from(place - state.left).unwrap_or(usize::MAX);
            if let Some(same) = state.waiting.get_mut(at) {
                same.callers.push(reply);
                return false;
            }
        }
        if let Some(key) = key {
            let place = state.left + state.waiting.len() as u64;
            state.places.insert(key, place);
        }
        state.waiting.push_back(Asked { question, callers: vec![reply] });
        let leaves = state.running < self.running_max;
        state.running += usize::from(leaves);
        leaves
    }

    /// The next batch, without those whose callers have all given up. Empty: nothing waits.
    fn take(&self) -> Vec<Asked<Q, A>> {
        let mut state = self.lock();
        let mut batch = Vec::new();
        while batch.len() < self.batch_max {
            let Some(asked) = state.waiting.pop_front() else { break };
            state.left += 1;
            if asked.callers.iter().any(|caller| !caller.is_closed()) {
                batch.push(asked);
            }
        }
        let left = state.left;
        if state.waiting.is_empty() {
            state.places = HashMap::new();
            state.waiting.shrink_to(self.batch_max);
        } else {
            state.places.retain(|_, place| *place >= left);
        }
        batch
    }

    /// How many asked, how much of it was different, in how many batches.
    fn count(&self, questions: usize, callers: usize) {
        let sort = self.sort;
        metrics::counter!("clarion_store_gathered_requests_total", "sort" => sort)
            .increment(callers as u64);
        metrics::counter!("clarion_store_gathered_questions_total", "sort" => sort)
            .increment(questions as u64);
        metrics::counter!("clarion_store_gathered_batches_total", "sort" => sort).increment(1);
    }

    fn lock(&self) -> MutexGuard<'_, State<K, Q, A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the batches on their way; over however it ends.
struct Running<K, Q, A> {
    of: Arc<Collector<K, Q, A>>,
    counted: bool,
}

impl<K, Q, A> Running<K, Q, A>
where
    K: Eq + Hash + Send + 'static,
    Q: Send + 'static,
    A: Clone + Send + 'static,
{
    async fn run<F, R>(mut self, answer: F)
    where
        F: Fn(Vec<Q>) -> R,
        R: Future<Output = Vec<StoreResult<A>>>,
    {
        loop {
            let batch = self.of.take();
            if batch.is_empty() {
                // Whoever comes now, before the place is free, is taken by the next look.
                let mut state = self.of.lock();
                if state.waiting.is_empty() {
                    state.running -= 1;
                    self.counted = false;
                    return;
                }
                continue;
            }
            let (questions, callers): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|asked| (asked.question, asked.callers)).unzip();
            self.of.count(questions.len(), callers.iter().map(Vec::len).sum());
            let mut answers = answer(questions).await.into_iter();
            for callers in callers {
                let missing = || Err(StoreError::Unknown("no answer".into()));
                let answer = answers.next().unwrap_or_else(missing);
                for caller in callers {
                    let _ = caller.send(answer.clone());
                }
            }
        }
    }
}

impl<K, Q, A> Drop for Running<K, Q, A> {
    fn drop(&mut self) {
        if self.counted {
            self.of.state.lock().unwrap_or_else(PoisonError::into_inner).running -= 1;
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a batch must not end with one of its callers")]
fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(work));
}
