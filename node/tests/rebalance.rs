//! A node that is added to a cluster gets its share of the terminals that stand, and then it is over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "the load is no part of a node")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clarion_launch::{Cluster, LaunchError, Node, Profile, Up, wait};
use clarion_protocol::http::{ProductCreate, TokenRequest};
use clarion_protocol::{ProductId, TerminalId};
use clarion_sdk::terminal::Why;
use clarion_sdk::{Admin, Backend, Event, Push, Terminal};
use tokio::task::JoinSet;

const PROFILE: &str = r#"
[profile]
about = "two nodes, and room for more"

[redis]
layout = "standalone"

[common.terminals]
rebalance_links_per_s = 20
rebalance_over_links = 5
rebalance_calm_s = 2

[[nodes]]
name = "node"
count = 2
"#;

const DEADLINE: Duration = Duration::from_secs(120);
const TERMINALS: usize = 60;

/// What became of a terminal.
#[derive(Debug, Default, Clone)]
struct Seen {
    node: Option<String>,
    lost: Vec<Why>,
    given: BTreeMap<String, u32>,
}

impl Seen {
    fn take(&mut self, event: Event) {
        match event {
            Event::Opened(opened) => self.node = Some(opened.node),
            Event::Disconnected { why, .. } => {
                self.node = None;
                self.lost.push(why);
            }
            Event::Message(message) => {
                *self.given.entry(message.json().unwrap()).or_default() += 1;
                message.ack();
            }
            Event::Gap(gap) => panic!("{gap:?}"),
            Event::Closed(end) => panic!("{end:?}"),
            _ => {}
        }
    }
}

type All = Arc<Mutex<Vec<Seen>>>;

async fn until(what: &str, all: &All, holds: impl Fn(&[Seen]) -> bool) {
    let waited = wait::until(what, DEADLINE, async || {
        let all = all.lock().unwrap();
        if holds(&all) { Ok(()) } else { Err(LaunchError::new(format!("{:?}", on_each(&all)))) }
    });
    waited.await.unwrap();
}

/// How many are on each node.
fn on_each(all: &[Seen]) -> BTreeMap<Option<String>, usize> {
    let mut on = BTreeMap::new();
    all.iter().for_each(|seen| *on.entry(seen.node.clone()).or_default() += 1);
    on
}

async fn terminals(admin: &Admin, product: &str, node: &Node) -> (All, JoinSet<()>) {
    let all: All = Arc::new(Mutex::new(vec![Seen::default(); TERMINALS]));
    let mut clients = JoinSet::new();
    for n in 0..TERMINALS {
        let request = TokenRequest {
            terminal: TerminalId::new(&format!("t{n}")).unwrap(),
            user: None,
            kind: None,
            topics: Vec::new(),
            ttl_s: None,
        };
        let token = admin.mint_token(&ProductId::new(product).unwrap(), &request).await.unwrap();
        let builder = Terminal::discovering(&node.http_url(), product, token.token);
        let all = Arc::clone(&all);
        clients.spawn(async move {
            let (_handle, mut events) = builder.connect().await.unwrap();
            while let Some(event) = events.next().await {
                all.lock().unwrap()[n].take(event);
            }
        });
    }
    (all, clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_node_that_is_added_gets_its_share_of_terminals_that_stand() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("two.toml");
    std::fs::write(&file, PROFILE).unwrap();
    let profile = Profile::load(&file).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_clarion"));
    let mut up = Up::new(&directory.path().join("cluster"), program);
    up.first_port = Some(0);
    let mut cluster = Cluster::up(&profile, up).await.unwrap();
    let node = &cluster.nodes[0];
    let admin = Admin::new(&node.http_url(), node.admin_token()).unwrap();
    let create = ProductCreate {
        product: ProductId::new("demo").unwrap(),
        kinds: None,
        allow_sha1_body_hash: None,
        pushes_per_s_max: None,
        isolation_group: None,
        token_public_key_pem: None,
    };
    let key = admin.create_product(&create).await.unwrap().api_keys.into_iter().next().unwrap();
    let (key, secret) = (key.key.to_string(), key.secret.unwrap());
    let backend = Backend::builder(&node.http_url(), "demo", &key, &secret).build().unwrap();
    let (all, clients) = terminals(&admin, "demo", node).await;
    until("all are online", &all, |all| all.iter().all(|seen| seen.node.is_some())).await;

    cluster.add_node(0, "late").await.unwrap();
    cluster.wait_joined().await.unwrap();
    // The share is 20; a node begins above 25 and ends at 21.
    let mut pushed = 0;
    let even = |all: &[Seen]| {
        let on = on_each(all);
        on.len() == 3 && on.iter().all(|(node, count)| node.is_some() && *count <= 25)
    };
    while !even(&all.lock().unwrap()) {
        backend.push(Push::to_all().json(&format!("text {pushed}")).unwrap()).await.unwrap();
        pushed += 1;
        assert!(pushed < 1200, "{:?}", on_each(&all.lock().unwrap()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Both have said that they are through, and nothing more happens for longer than they wait.
    tokio::time::sleep(Duration::from_secs(5)).await;
    until("all are online", &all, even).await;
    let mut moved = 0.0;
    for node in &cluster.nodes {
        moved += node.metric("clarion_links_rebalanced_total").await.unwrap_or(0.0);
    }
    assert!((10.0..=40.0).contains(&moved), "{moved} were sent away, about 18 had to be");
    backend.push(Push::to_all().json("last").unwrap()).await.unwrap();
    until("all have the last", &all, |all| all.iter().all(|seen| seen.given.contains_key("last")))
        .await;
    for seen in &*all.lock().unwrap() {
        assert_eq!(seen.given.len(), pushed + 1, "{seen:?}");
        assert!(seen.given.values().all(|count| *count == 1), "{seen:?}");
        assert!(seen.lost.iter().all(|why| *why == Why::GoingAway), "{seen:?}");
        assert!(seen.lost.len() <= 2, "sent to and fro: {seen:?}");
    }
    drop(clients);
    cluster.stop().await.unwrap();
}
