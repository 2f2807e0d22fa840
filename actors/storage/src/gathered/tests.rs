use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use tokio::sync::Semaphore;

use super::collector::Collector;
use super::*;
use crate::StoreError;

/// Answers each question with the number of the batch it was in, when it is let to.
struct Slow {
    batches: AtomicUsize,
    sizes: std::sync::Mutex<Vec<usize>>,
    go: Semaphore,
}

impl Slow {
    fn new() -> Arc<Self> {
        let sizes = std::sync::Mutex::default();
        Arc::new(Self { batches: AtomicUsize::new(0), sizes, go: Semaphore::new(0) })
    }

    async fn answer(&self, questions: Vec<u32>) -> Vec<StoreResult<usize>> {
        self.sizes.lock().unwrap().push(questions.len());
        let batch = self.batches.fetch_add(1, Ordering::SeqCst);
        self.go.acquire().await.unwrap().forget();
        questions.iter().map(|_| Ok(batch)).collect()
    }
}

async fn ask(of: Arc<Collector<u32, u32, usize>>, slow: Arc<Slow>, question: u32) -> usize {
    let answer = move |questions| {
        let slow = Arc::clone(&slow);
        async move { slow.answer(questions).await }
    };
    of.ask(Some(question), question, answer).await.unwrap()
}

/// Lets a future run until it waits.
async fn begin(future: &mut (impl Future + Unpin)) {
    poll_fn(|cx| {
        let _ = std::pin::Pin::new(&mut *future).poll(cx);
        Poll::Ready(())
    })
    .await;
    tokio::task::yield_now().await;
}

#[tokio::test]
async fn what_waits_leaves_together_and_the_same_is_asked_once() {
    let (slow, collector) = (Slow::new(), Collector::new("test", 1, 100));
    let mut first = pin!(ask(Arc::clone(&collector), Arc::clone(&slow), 7));
    begin(&mut first).await;
    assert_eq!(slow.batches.load(Ordering::SeqCst), 1, "an idle one leaves at once");
    let mut others: Vec<_> = [7, 8, 9, 8, 7]
        .map(|question| Box::pin(ask(Arc::clone(&collector), Arc::clone(&slow), question)))
        .into();
    for other in &mut others {
        begin(other).await;
    }
    slow.go.add_permits(2);
    assert_eq!(first.await, 0);
    for other in others {
        assert_eq!(other.await, 1, "also the 7: the first 7 had left before it was asked (I4)");
    }
    assert_eq!(*slow.sizes.lock().unwrap(), [1, 3]);
}

#[tokio::test]
async fn batches_are_bounded_and_those_who_gave_up_are_left_out() {
    let (slow, collector) = (Slow::new(), Collector::new("test", 1, 10));
    let mut first = pin!(ask(Arc::clone(&collector), Arc::clone(&slow), 1000));
    begin(&mut first).await;
    let mut others: Vec<_> = (0..25)
        .map(|question| Box::pin(ask(Arc::clone(&collector), Arc::clone(&slow), question)))
        .collect();
    for other in &mut others {
        begin(other).await;
    }
    let stays = others.split_off(5);
    drop(others);
    slow.go.add_permits(3);
    assert_eq!(first.await, 0);
    for other in stays {
        other.await;
    }
    assert_eq!(*slow.sizes.lock().unwrap(), [1, 10, 10]);
}

#[tokio::test]
async fn a_batch_that_panics_fails_its_callers_and_frees_its_place() {
    let (slow, collector) = (Slow::new(), Collector::<u32, u32, usize>::new("test", 1, 10));
    let lost = collector.ask(None, 1, |_: Vec<u32>| async { panic!("lost") }).await;
    assert!(matches!(lost, Err(StoreError::Unknown(_))));
    slow.go.add_permits(1);
    assert_eq!(ask(collector, Arc::clone(&slow), 2).await, 0);
}
