//! What every change must live through: no component is a single point of failure, and faults drawn
//! from a seed. The kill loop of the embedded node is the third part, in its own file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scenes;

use scenes::lives_through;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_every_component_in_turn_leaves_no_single_point_of_failure() {
    lives_through("spof", 51).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_what_a_seed_draws_loses_nothing() {
    lives_through("random", 52).await;
}
