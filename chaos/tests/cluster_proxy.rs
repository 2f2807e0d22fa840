//! Nodes behind Debian's HAProxy with the shipped config: clients know one address, a fail-over of
//! Redis closes no terminal link, a node that drains gets no new links.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scenes;

use scenes::lives_through;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_the_redis_master_behind_haproxy_closes_no_terminal_link() {
    lives_through("proxy-redis", 21).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_a_drained_node_behind_haproxy_gets_no_new_links_and_a_dead_one_loses_its_own() {
    lives_through("proxy-drain", 22).await;
}
