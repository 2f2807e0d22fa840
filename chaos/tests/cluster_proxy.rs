//! Nodes behind Debian's HAProxy with the shipped config: clients know one address, a fail-over of
//! Redis closes no terminal link, a node that drains gets no new links.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scenes;

use std::time::Duration;

use clarion_chaos::scene::Setting;
use clarion_launch::{LaunchError, Profile, wait};
use scenes::{OrTold as _, SOME, finish, sentinel, shipped, start};

const DEADLINE: Duration = Duration::from_secs(60);
const LINKS: &str = "clarion_links";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_the_redis_master_behind_haproxy_closes_no_terminal_link() {
    let mut setting = Setting::shipped("haproxy", 21).unwrap();
    // The same, but with sentinels that make another master.
    let text = "[profile]\nabout = \"\"\n[redis]\nlayout = \"sentinel\"\n[[nodes]]\nname = \"n\"";
    setting.profile.redis = Profile::parse(text, "".as_ref()).unwrap().redis;
    let mut scene = start(setting).await;
    let before = scene.broken_sessions();
    scene.fault("kill -9 of the Redis master");
    let redis = sentinel(&mut scene);
    let old = redis.master_index(0).await.or_told();
    redis.shards[0].servers[old].kill().await.or_told();
    redis.wait_master_other_than(0, old).await.or_told();
    scene.pushes(2 * SOME).await.or_told();
    assert_eq!(scene.broken_sessions(), before, "a link was closed");
    let redis = sentinel(&mut scene);
    redis.shards[0].servers[old].restart().await.or_told();
    redis.wait_settled().await.or_told();
    scene.pushes(SOME).await.or_told();
    assert_eq!(scene.broken_sessions(), before, "a link was closed");
    finish(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_a_drained_node_behind_haproxy_gets_no_new_links_and_a_dead_one_loses_its_own() {
    let mut scene = shipped("haproxy", 22).await;
    let drain = scene.cluster.node("node-1").unwrap();
    drain.admin("POST", "/v1/cluster/nodes/node-2/drain").await.or_told();
    scene.fault("node-2 drains");
    let node = scene.cluster.node("node-2").unwrap();
    wait::until("node-2 has no links", DEADLINE, async || {
        if !node.process_mut().is_running() {
            return Ok(());
        }
        match node.metric(LINKS).await? {
            0.0 => Ok(()),
            links => Err(LaunchError::new(format!("it has {links}"))),
        }
    })
    .await
    .or_told();
    for third in 0..3 {
        scene.come_and_go(third).await.or_told();
    }
    let node = scene.cluster.node("node-2").unwrap();
    if node.process_mut().is_running() {
        assert_eq!(node.metric(LINKS).await.or_told(), 0.0, "it got new links");
    }
    scene.pushes(SOME).await.or_told();
    scene.cluster.node("node-2").unwrap().stop().await.or_told();
    scene.restart("node-2").await.or_told();
    scene.cluster.wait_joined().await.or_told();
    // One that dies: its terminals learn at once and come in elsewhere.
    scene.kill("node-3").await.or_told();
    scene.pushes(SOME).await.or_told();
    scene.restart("node-3").await.or_told();
    scene.cluster.wait_joined().await.or_told();
    scene.pushes(SOME).await.or_told();
    finish(scene).await;
}
