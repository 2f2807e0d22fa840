//! Who behaves while others do not, and what must be true afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use super::raw_link::RawLink;
use super::{Key, Node, wait_until};

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;

/// A terminal and a back-end that behave: pushes, each of which is received and acknowledged
/// before the next one. Whatever goes wrong ends the test.
pub struct Witness {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Witness {
    pub async fn start(node: &Arc<Node>, key: &Key) -> Self {
        let token = node.token(key, json!({ "terminal": "witness" })).await;
        let mut link = RawLink::connect(node.terminals).await.unwrap();
        let opened = link.open(&key.product, &token, &[]).await.unwrap();
        assert_eq!(opened["t"], "opened", "{opened}");
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (node, key) = (Arc::clone(node), key.clone());
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&served));
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let n = count.load(Ordering::Relaxed);
                node.push_number(&key, "witness", n).await;
                let deliver = link.next("deliver").await.expect("the witness's link");
                let message = &deliver["m"][0];
                assert_eq!(message["d"], n, "{deliver}");
                let ack = json!({ "t": "ack", "s": 1, "a": [[deliver["l"], message["o"]]] });
                assert!(link.send_json(&ack).await);
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await; // its pace
            }
        });
        Self { stop, served, task }
    }

    /// How many it was served.
    pub async fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.served.load(Ordering::Relaxed)
    }
}

/// Waits until the process holds no more sockets than before, and its links are gone.
pub async fn all_given_back(node: &Node, sockets: usize) {
    wait_until("the sockets to be given back", async || {
        let status = node.admin("GET", "/v1/status", None).await;
        status["links"] == 0 && node.sockets() <= sockets
    })
    .await;
}

/// What the store may take: its cache, and what it has not written to tables yet. `fjall` keeps up
/// to 64 MiB of a table in memory.
pub fn store_bytes_max(cache_bytes: u64) -> u64 {
    cache_bytes + 64 * MIB
}
