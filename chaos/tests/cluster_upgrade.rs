//! Rolling upgrade: nodes of wire version N and N + 1 live together under load, each is replaced in
//! turn, and nothing is lost, repeated or out of order. A program with the feature `fault-hooks`
//! stands for both releases: `CLARION_FAULT_WIRE=2` makes it the next one, which writes more into a
//! hint than the former can read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scenes;

use scenes::lives_through;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_upgrade_of_one_node_after_the_other_loses_nothing_fault() {
    lives_through("upgrade", 41).await;
}
