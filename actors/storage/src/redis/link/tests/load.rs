//! Writers that remember what was acknowledged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::task::JoinSet;

use super::*;
use crate::StoreError;

/// Writers under way, each with lists of its own.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    writers: JoinSet<Vec<(String, Vec<u64>)>>,
}

impl Load {
    /// `writers` tasks write one number after another to ten lists each.
    pub(super) fn start(shards: &Arc<Shards>, writers: u32) -> Self {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let (shards, stop) = (Arc::clone(shards), Arc::clone(&stop));
            let acknowledged = Arc::clone(&acknowledged);
            tasks.spawn(async move {
                let lists = (0..10).map(|list| (format!("{writer}-{list}"), Vec::new()));
                let mut lists: Vec<(String, Vec<u64>)> = lists.collect();
                let mut next = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    for (tag, known) in &mut lists {
                        match shards.write(tag, push(tag, next)).await {
                            Ok(_) => {
                                known.push(next);
                                acknowledged.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(StoreError::Unknown(_)) => {}
                            Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
                            Err(error) => panic!("{error}"),
                        }
                        next += 1;
                    }
                }
                lists
            });
        }
        Self { stop, acknowledged, writers: tasks }
    }

    /// Waits until so many more were acknowledged.
    pub(super) async fn more(&self, count: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + count;
        let look = || match self.acknowledged.load(Ordering::Relaxed) {
            done if done >= goal => Ok(()),
            done => Err(format!("{done} of {goal}")),
        };
        until("more acknowledged", look).await;
    }

    /// Stops and looks for everything that was acknowledged, in its order, once.
    pub(super) async fn stop_and_check(mut self, shards: &Arc<Shards>) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = 0;
        while let Some(lists) = self.writers.join_next().await {
            for (tag, known) in lists.unwrap() {
                let found = items(shards, &tag).await.unwrap();
                assert!(
                    found.is_sorted_by(|a, b| a < b),
                    "{tag} has an order of its own: {found:?}"
                );
                let missing: Vec<_> = known
                    .iter()
                    .filter(|item| found.binary_search(item).is_err())
                    .take(5)
                    .collect();
                assert!(missing.is_empty(), "{tag} lacks what was acknowledged: {missing:?}");
                total += known.len() as u64;
            }
        }
        total
    }
}
