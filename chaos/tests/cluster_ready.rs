//! What a node with Redis tells load balancers while its Redis takes no writes: the push door is
//! not ready and says why, the terminals' door is, and all of it heals by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "scenes/mod.rs"]
mod scenes;

#[path = "scenes/one_product.rs"]
mod one_product;

use std::time::Duration;

use clarion_chaos::binary;
use clarion_launch::http::Answer;
use clarion_launch::redis::RedisServer;
use clarion_launch::{Cluster, LaunchError, Node, Profile, RedisGroup, Up, wait};
use clarion_protocol::Code;
use clarion_sdk::Backend;
use one_product::{Listener, OneProduct, push};
use scenes::OrTold as _;

/// Only ends a test that hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// One replica, which must confirm.
const PROFILE: &str = r#"
[profile]
about = "A node, a Redis master and its replica"
[redis]
layout = "replicated"
replicas = 1
[[nodes]]
name = "node"
"#;

struct Watched {
    cluster: Cluster,
    backend: Backend,
    listener: Listener,
    pushed: u64,
    /// Pushes that were not accepted and may arrive all the same.
    unknown: Vec<u64>,
}

impl Watched {
    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// The master and its replica.
    fn redis(&mut self) -> &mut [RedisServer] {
        match &mut self.cluster.redis {
            RedisGroup::Sentinel(group) => &mut group.shards[0].servers,
            other => panic!("{other:?}"),
        }
    }

    async fn ask(&self, query: &str) -> Answer {
        self.node().get(&format!("/readyz{query}")).await.or_told()
    }

    /// Waits until the push door is not ready and its reason holds `why`; the other door is, and
    /// what is pushed meanwhile is refused.
    async fn says(&mut self, why: &str) {
        wait::until(format!("not ready: {why}"), DEADLINE, async || {
            let answer = self.ask("?door=push").await;
            let reason = answer.json()["doors"]["push"]["reason"].to_string();
            if answer.status == 503 && reason.contains(why) {
                return Ok(());
            }
            Err(LaunchError::new(format!("{} {}", answer.status, answer.body)))
        })
        .await
        .or_told();
        let both = self.ask("").await;
        assert_eq!((both.status, &both.json()["doors"]["terminals"]["ready"]), (503, &true.into()));
        assert_eq!(self.ask("?door=terminals").await.status, 200);
        assert_eq!(self.ask("?door=push&unready=404").await.status, 404);
        let refused = push(&self.backend, self.pushed).await.unwrap_err();
        match refused.code() {
            Some(Code::StoreUnavailable) => {}
            Some(Code::OutcomeUnknown) => self.unknown.push(self.pushed),
            _ => panic!("{why}: {refused}"),
        }
        self.pushed += 1;
    }

    /// Waits until both doors are ready by themselves; a push gets through, in the session of the
    /// start.
    async fn heals(&mut self) {
        wait::until("ready again", DEADLINE, async || {
            let answer = self.ask("").await;
            if answer.status == 200 { Ok(()) } else { Err(LaunchError::new(answer.body)) }
        })
        .await
        .or_told();
        push(&self.backend, self.pushed).await.or_told();
        loop {
            let received: u64 = self.listener.next().await.parse().unwrap();
            if received == self.pushed {
                break;
            }
            assert!(self.unknown.contains(&received), "{received} was refused");
        }
        self.pushed += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_redis_and_the_push_door_says_why_it_is_not_ready() {
    let directory = tempfile::tempdir().unwrap();
    let program = binary::provide(false, directory.path()).or_told();
    let profile = Profile::parse(PROFILE, directory.path()).or_told();
    let up = Up::new(&directory.path().join("cluster"), &program);
    let cluster = Cluster::up(&profile, up).await.or_told();
    let http = cluster.nodes[0].http_url();
    let product = OneProduct::create(&http, cluster.admin_token(), "shop", "default").await;
    let (backend, listener) = (product.backend(&http), product.listen(&http).await);
    let mut watched = Watched { cluster, backend, listener, pushed: 0, unknown: Vec::new() };
    watched.heals().await;

    // The master becomes a replica of nobody that answers.
    watched.redis()[0].command(&["REPLICAOF", "127.0.0.1", "1"]).await.or_told();
    watched.says("read-only").await;
    watched.redis()[0].command(&["REPLICAOF", "NO", "ONE"]).await.or_told();
    watched.heals().await;

    watched.redis()[1].kill().await.or_told();
    watched.says("has 0 replicas and 1 must confirm").await;
    watched.redis()[1].restart().await.or_told();
    watched.heals().await;

    watched.redis()[0].kill().await.or_told();
    watched.says("is away").await;
    watched.redis()[0].restart().await.or_told();
    watched.heals().await;
    watched.cluster.stop().await.or_told();
}
