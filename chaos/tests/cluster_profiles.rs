//! The shipped launch profiles, started as they are but for their ports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "scenes/mod.rs"]
mod scenes;

#[path = "scenes/one_product.rs"]
mod one_product;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clarion_chaos::binary;
use clarion_launch::{Cluster, LaunchError, Node, Profile, Up, wait};
use clarion_sdk::Backend;
use one_product::{Listener, OneProduct, push};
use scenes::OrTold as _;

/// Profiles of one node's config: nothing to launch.
const CONFIGS: [&str; 2] = ["single.toml", "cluster-node.toml"];

/// Only ends a test that hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// Pushes after the others know that a node has died.
const AFTER: u64 = 20;

fn profiles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-config/profiles")
}

async fn up(profile: &Path, directory: &Path, program: &Path) -> Cluster {
    let profile = Profile::load(profile).or_told();
    let mut up = Up::new(directory, program);
    up.first_port = Some(0);
    Cluster::up(&profile, up).await.or_told()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nothing_every_profile_starts_and_passes_a_message() {
    let directory = tempfile::tempdir().unwrap();
    let program = binary::provide(false, directory.path()).or_told();
    let mut files: Vec<_> =
        std::fs::read_dir(profiles()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.ends_with(".toml") && !CONFIGS.contains(&name)
    });
    files.sort();
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let name = file.file_stem().unwrap();
        let begun = std::time::Instant::now();
        let cluster = up(&file, &directory.path().join(name), &program).await;
        let started = begun.elapsed();
        // The first node of every profile takes pushes; terminals go where they are sent.
        let http = match cluster.haproxy() {
            Some(proxy) => format!("http://{}", proxy.http_addr()),
            None => cluster.nodes[0].http_url(),
        };
        let product = OneProduct::create(&http, cluster.admin_token(), "shop", "default").await;
        let mut listener = product.listen(&http).await;
        listener.passes(&product.backend(&http), 1).await;
        listener.leave().await;
        cluster.stop().await.or_told();
        println!("{name:?}: up after {started:?}, stopped after {:?}", begun.elapsed());
    }
}

/// A product of one group, with what it must not lose.
struct Served {
    product: OneProduct,
    backend: Backend,
    listener: Listener,
    owner: String,
    pushed: u64,
}

impl Served {
    async fn by(node: &Node, name: &str, group: &str) -> Self {
        let http = node.http_url();
        let product = OneProduct::create(&http, node.admin_token(), name, group).await;
        let (backend, mut listener) = (product.backend(&http), product.listen(&http).await);
        listener.passes(&backend, 0).await;
        let owner = product.owner().await.unwrap();
        for serving in [&owner, &listener.node] {
            assert_eq!(
                serving.rsplit_once('-').unwrap().0,
                node.name().rsplit_once('-').unwrap().0
            );
        }
        Self { product, backend, listener, owner, pushed: 1 }
    }

    async fn pass(&mut self) {
        self.listener.passes(&self.backend, self.pushed).await;
        self.pushed += 1;
    }

    /// Pushes, each at the first attempt and received in the first session, until `survivor` knows
    /// that `dead` is gone, and some more; the inbox stays with its owner.
    async fn notices_nothing(&mut self, survivor: &Node, dead: &str) {
        let mut more = 0;
        while more < AFTER {
            self.pass().await;
            if more > 0 || !reaches(survivor, dead).await {
                more += 1;
            }
        }
        assert_eq!(self.product.owner().await.as_ref(), Some(&self.owner));
    }
}

async fn reaches(node: &Node, other: &str) -> bool {
    let state = node.admin("GET", "/v1/cluster").await.or_told().json();
    let nodes = state["nodes"].as_array().unwrap();
    nodes.iter().any(|node| node["node"] == other && node["reachable"] == true)
}

/// Kills the node of the group of `struck` that owns an inbox while `other` is under load, and
/// mends that; the indices are those of the groups' nodes.
async fn one_group_is_struck(
    cluster: &mut Cluster,
    (struck, its): (&str, [usize; 2]),
    (other, others): (&str, [usize; 2]),
) {
    let hit = Served::by(&cluster.nodes[its[0]], &format!("{struck}-hit"), struck).await;
    let whole = &cluster.nodes[others[0]];
    let mut whole = Served::by(whole, &format!("{other}-whole"), other).await;
    let [dead, survivor] =
        if cluster.nodes[its[0]].name() == hit.owner { its } else { [its[1], its[0]] };
    cluster.nodes[dead].kill().await.or_told();
    whole.notices_nothing(&cluster.nodes[others[1]], &hit.owner).await;

    // The group that was struck goes on with the node that is left.
    let http = cluster.nodes[survivor].http_url();
    hit.listener.leave().await;
    let (backend, mut listener) = (hit.product.backend(&http), hit.product.listen(&http).await);
    wait::until(format!("{struck} takes pushes"), DEADLINE, async || {
        push(&backend, hit.pushed).await.map_err(LaunchError::of("the push"))
    })
    .await
    .or_told();
    // What it acknowledged may have died with the node and comes again.
    while listener.next().await != hit.pushed.to_string() {}
    cluster.nodes[dead].restart().await.or_told();
    cluster.wait_joined().await.or_told();
    whole.pass().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_a_node_and_the_other_isolation_group_notices_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let program = binary::provide(false, directory.path()).or_told();
    let file = profiles().join("isolation-groups.toml");
    let mut cluster = up(&file, &directory.path().join("cluster"), &program).await;
    // In the order of the profile.
    let (most, gold) = (("default", [0, 1]), ("gold", [2, 3]));
    one_group_is_struck(&mut cluster, most, gold).await;
    one_group_is_struck(&mut cluster, gold, most).await;
    cluster.stop().await.or_told();
}
