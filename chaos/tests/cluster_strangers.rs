//! Who does not belong to the cluster is turned away at the nodes' own port, and the nodes go on: a
//! wrong cookie, a wrong certificate, silence, noise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clarion_chaos::binary;
use clarion_launch::{Cluster, LaunchError, Node, NodeSpec, Profile, Up, wait};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use toml::Value;

const DEADLINE: Duration = Duration::from_secs(60);

/// Connections to a node that did not get through their handshake.
const FAILED: &str = "clarion_peer_handshakes_failed_total";

const PROFILE: &str = r#"
[profile]
about = "Two nodes that know each other"
[redis]
layout = "standalone"
[common.cluster]
handshake_timeout_ms = 1000
[[nodes]]
name = "node"
count = 2
"#;

struct Scene {
    cluster: Cluster,
    directory: TempDir,
}

async fn two_nodes(change: impl FnOnce(&mut Profile, &Path)) -> Scene {
    let directory = tempfile::tempdir().unwrap();
    let program = binary::provide(false, directory.path()).unwrap_or_else(|e| panic!("{e}"));
    let mut profile = Profile::parse(PROFILE, directory.path()).unwrap();
    change(&mut profile, directory.path());
    let up = Up::new(&directory.path().join("cluster"), &program);
    let cluster = Cluster::up(&profile, up).await.unwrap_or_else(|e| panic!("{e}"));
    Scene { cluster, directory }
}

impl Scene {
    fn peers_addr(&self) -> SocketAddr {
        self.cluster.nodes[0].peers_addr().unwrap()
    }

    /// Waits until a counter of the first node is above `before`.
    async fn counts(&self, name: &str, before: f64) {
        counts(&self.cluster.nodes[0], name, before).await;
    }

    /// Waits until the first node knows the name.
    async fn hears_of(&self, name: &str) {
        wait::until(format!("node-1 hears of {name}"), DEADLINE, async || {
            let known = self.known().await;
            let heard = known.iter().any(|known| known == name);
            if heard { Ok(()) } else { Err(LaunchError::new(format!("it knows {known:?}"))) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }

    async fn metric(&self, name: &str) -> f64 {
        self.cluster.nodes[0].metric(name).await.unwrap()
    }

    /// The names that the first node knows.
    async fn known(&self) -> Vec<String> {
        let state = self.cluster.nodes[0].admin("GET", "/v1/cluster").await.unwrap().json();
        let nodes = state["nodes"].as_array().unwrap().clone();
        nodes.iter().map(|node| node["node"].as_str().unwrap().to_owned()).collect()
    }

    /// A node of another name, with whatever else `change` makes different, started.
    fn stranger(&self, name: &str, change: impl FnOnce(&mut NodeSpec)) -> Node {
        let mut spec = self.cluster.nodes[1].spec().clone();
        spec.name = name.to_owned();
        spec.directory = self.directory.path().join(name);
        set(&mut spec, "node", "id", name);
        for section in ["http", "terminals", "cluster"] {
            let at = clarion_launch::port::free().unwrap().to_string();
            set(&mut spec, section, "listen", &at);
        }
        change(&mut spec);
        let mut node = Node::prepare(spec).unwrap();
        node.start().unwrap();
        node
    }

    /// The two nodes are as they were, a restarted one included.
    async fn stands(mut self) {
        self.cluster.nodes[1].stop().await.unwrap_or_else(|e| panic!("{e}"));
        self.cluster.nodes[1].restart().await.unwrap_or_else(|e| panic!("{e}"));
        self.cluster.wait_joined().await.unwrap_or_else(|e| panic!("{e}"));
        self.cluster.stop().await.unwrap_or_else(|e| panic!("{e}"));
    }
}

async fn counts(node: &Node, name: &str, before: f64) {
    wait::until(format!("{name} of {} above {before}", node.name()), DEADLINE, async || {
        let now = node.metric(name).await?;
        if now > before { Ok(()) } else { Err(LaunchError::new(format!("it is {now}"))) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", node.process().log_tail(40)));
}

fn set(spec: &mut NodeSpec, section: &str, key: &str, value: &str) {
    let section = spec.config.get_mut(section).unwrap().as_table_mut().unwrap();
    section.insert(key.to_owned(), Value::String(value.to_owned()));
}

/// A file that only its owner reads.
fn secret_file(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_a_node_with_a_wrong_cookie_is_not_heard() {
    let scene = two_nodes(|_, _| {}).await;
    let before = scene.metric("clarion_cluster_gossip_dropped_total").await;
    let cookie = scene.directory.path().join("wrong-cookie");
    secret_file(&cookie, "another-cookie-of-enough-length\n");
    let stranger = scene.stranger("stranger", |spec| {
        set(spec, "cluster", "cookie_file", &cookie.display().to_string());
    });
    scene.counts("clarion_cluster_gossip_dropped_total", before).await;
    assert_eq!(scene.known().await, ["node-1", "node-2"]);
    drop(stranger);
    scene.stands().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_who_is_silent_or_noisy_is_cut_off_and_keeps_nobody_out() {
    let mut scene = two_nodes(|_, _| {}).await;
    let at = scene.peers_addr();
    let failed = scene.metric(FAILED).await;
    // More than may be in their handshake at a time: they say nothing.
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(at).await.unwrap());
    }
    // A node that belongs here comes in all the same.
    scene.cluster.nodes[1].kill().await.unwrap();
    scene.cluster.nodes[1].restart().await.unwrap_or_else(|e| panic!("{e}"));
    scene.cluster.wait_joined().await.unwrap_or_else(|e| panic!("{e}"));
    for stream in &mut silent {
        until_closed(stream).await;
    }
    scene.counts(FAILED, failed).await;
    // Frames that are none: too long, or nothing sensible at all.
    let resident = scene.cluster.nodes[0].process().resources().unwrap().rss_kib;
    for first in [[0xff_u8; 8], *b"GET / HT", [0; 8]] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let noise: Vec<u8> = first.iter().copied().cycle().take(4 << 20).collect();
        // The node may close before all of it is written.
        let _ = timeout(DEADLINE, stream.write_all(&noise)).await.unwrap();
        until_closed(&mut stream).await;
    }
    let gossip = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dropped = scene.metric("clarion_cluster_gossip_dropped_total").await;
    for length in [0, 1, 32, 1400, 60_000] {
        gossip.send_to(&vec![0xa5; length], at).await.unwrap();
    }
    scene.counts("clarion_cluster_gossip_dropped_total", dropped).await;
    let held = scene.cluster.nodes[0].process().resources().unwrap();
    assert!(held.rss_kib < resident + 64 * 1024, "{held:?} after {resident}");
    assert_eq!(scene.known().await, ["node-1", "node-2"]);
    scene.stands().await;
}

/// Reads until the node closes the connection.
async fn until_closed(stream: &mut TcpStream) {
    let mut buffer = [0; 1024];
    let closed = async { while let Ok(1..) = stream.read(&mut buffer).await {} };
    timeout(DEADLINE, closed).await.expect("the node keeps a stranger's connection");
}

/// An authority, and a certificate of it for nodes on this machine: the chain, the key, the
/// authority, as files.
fn certificates(directory: &Path, name: &str) -> [PathBuf; 3] {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, format!("{name} authority"));
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let names = ["node-1", "node-2", "a-stranger", "stranger"];
    let names = names.map(|name| format!("{name}.clarion.peer"));
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(names.to_vec()).unwrap().signed_by(&key, &issuer).unwrap();
    let texts = [leaf.pem(), key.serialize_pem(), authority.pem()];
    let files = ["crt", "key", "ca"].map(|kind| directory.join(format!("{name}.{kind}")));
    for (file, text) in files.iter().zip(texts) {
        secret_file(file, &text);
    }
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_a_node_with_a_wrong_certificate_gets_no_link() {
    const KEYS: [&str; 3] = ["tls_cert_file", "tls_key_file", "tls_ca_file"];
    let scene = two_nodes(|profile, directory| {
        let files = certificates(directory, "ours");
        let lines: Vec<String> = KEYS
            .iter()
            .zip(files)
            .map(|(k, f)| format!("{k} = {:?}", f.display().to_string()))
            .collect();
        let text = format!("[cluster]\n{}", lines.join("\n"));
        profile.add_common(&clarion_launch::cluster::sections(&text).unwrap());
    })
    .await;
    let files = certificates(scene.directory.path(), "theirs");
    let failed = scene.metric(FAILED).await;
    // The node whose id sorts first dials: one stranger knocks, the other one is knocked at.
    let strangers = ["a-stranger", "stranger"].map(|name| {
        scene.stranger(name, |spec| {
            for (key, file) in KEYS.iter().zip(&files) {
                set(spec, "cluster", key, &file.display().to_string());
            }
        })
    });
    // They have the cookie, so they are heard of.
    for stranger in &strangers {
        scene.hears_of(stranger.name()).await;
    }
    // More than the first attempt of one link, and nothing but strangers is there to fail.
    scene.counts(FAILED, failed + 2.0).await;
    counts(&strangers[1], FAILED, 2.0).await;
    let state = scene.cluster.nodes[0].admin("GET", "/v1/cluster").await.unwrap().json();
    for stranger in &strangers {
        let nodes = state["nodes"].as_array().unwrap();
        let seen = nodes.iter().find(|node| node["node"] == stranger.name()).unwrap();
        assert_eq!(seen["reachable"], false, "{seen}");
    }
    drop(strangers);
    scene.stands().await;
}
