//! What the terminals' door answers newcomers that it does not let in, byte by byte.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::large_futures)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clarion_actors::System;
use clarion_cluster::membership::{Load, Membership, Settings};
use clarion_cluster::{Cookie, NodeIdentity, new_boot};
use clarion_config::Config;
use clarion_core::Roles;
use clarion_node::gateway;
use clarion_node::neighbours::{Myself, Neighbours};
use clarion_protocol::{Code, Problem};
use clarion_storage::memory::MemoryStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const UPGRADE: &str = "GET /v1/link HTTP/1.1\r\nhost: node\r\nupgrade: websocket\r\n\
    connection: upgrade\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    sec-websocket-protocol: clarion.v1.json\r\n\r\n";

struct Door {
    address: SocketAddr,
    system: System,
}

impl Door {
    async fn open(config: Config, neighbours: Neighbours) -> Self {
        let config = Arc::new(config);
        let store = Arc::new(MemoryStore::new());
        let system = System::start(Arc::clone(&config), store).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let never = std::future::pending::<()>();
        tokio::spawn(gateway::serve(system.clone(), config, neighbours, listener, never));
        Self { address, system }
    }

    /// The status of an attempt to upgrade; what comes with a refusal.
    async fn knock(&self) -> (u16, Option<(u32, Problem)>) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(UPGRADE.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status == 101 {
            return (status, None);
        }
        let header = |name: &str| {
            let line = head.lines().find(|line| line.starts_with(&format!("{name}: "))).unwrap();
            line.split_once(": ").unwrap().1.trim().to_owned()
        };
        let mut body = vec![0; header("content-length").parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(header("content-type"), "application/problem+json");
        let problem: Problem = serde_json::from_slice(&body).unwrap();
        (status, Some((header("retry-after").parse().unwrap(), problem)))
    }
}

fn myself(id: &str) -> Myself {
    Myself {
        id: id.to_owned(),
        roles: vec!["gateway".to_owned()],
        group: "default".to_owned(),
        http_url: "http://here".to_owned(),
        terminals_url: Some("ws://here".to_owned()),
    }
}

/// A member that gossips and does nothing else.
async fn member(id: &str, seeds: Vec<String>) -> Membership {
    let settings = Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        seeds,
        cluster: "test".to_owned(),
        gossip_ms: 20,
        quarantine_ms: 0,
        roles: Roles::ALL,
        version: "0".to_owned(),
        wire: (1, 1),
        http_url: format!("http://{id}"),
        terminals_url: Some(format!("ws://{id}")),
    };
    let identity = NodeIdentity { id: id.into(), boot: new_boot(), group: "default".into() };
    Membership::start(settings, identity, Cookie::new("0123456789abcdef").unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_node_that_drains_sends_newcomers_away_with_a_pause_that_differs() {
    let mut config = Config::default();
    config.node.drain_timeout_ms = 60_000;
    let door = Door::open(config, Neighbours::none(myself("a"))).await;
    assert_eq!(door.knock().await.0, 101);
    let system = door.system.clone();
    let drain = tokio::spawn(async move { system.drain().await });
    door.system.draining().await;
    let mut pauses = Vec::new();
    for _ in 0..20 {
        let (status, refusal) = door.knock().await;
        let (pause_s, problem) = refusal.expect("a refusal");
        assert_eq!((status, problem.known_code()), (503, Some(Code::Draining)));
        assert_eq!(problem.retry_after_s, Some(pause_s));
        pauses.push(pause_s);
    }
    assert!(pauses.iter().all(|pause| (1..=10).contains(pause)), "{pauses:?}");
    pauses.dedup();
    assert!(pauses.len() > 1, "they would all come back together");
    drain.abort();
}

#[tokio::test]
async fn an_overloaded_node_sends_newcomers_away_only_while_there_is_a_better_place() {
    let a = member("a", vec![]).await;
    let b = member("b", vec![a.local_addr().to_string()]).await;
    let neighbours = Neighbours::of(myself("a"), "test", a.view());
    let door = Door::open(Config::default(), neighbours.clone()).await;
    let loaded = |links| Load { links, links_max: 100, ..Load::default() };
    a.set_load(loaded(99));
    b.set_load(loaded(10));
    for (member, other) in [(&a, "b"), (&b, "a")] {
        let boot = async {
            let mut view = member.view();
            let seen = view.wait_for(|view| view.member(other).is_some()).await.unwrap();
            seen.member(other).unwrap().boot
        }
        .await;
        // Nobody dials here: each is told that there is a link.
        member.link(other, boot, clarion_cluster::membership::LinkState::Up);
    }
    let judging = tokio::spawn(neighbours.clone().judge());
    let refused = until(async || match door.knock().await {
        (503, Some((_, problem))) => Some(problem),
        _ => None,
    })
    .await;
    assert_eq!(refused.known_code(), Some(Code::Overloaded));
    // Its own terminals would find the other one.
    assert_eq!(neighbours.elsewhere(3, 7), ["ws://b"]);
    assert_eq!(neighbours.gateways("default", 8, 7)[0].url, "ws://b");

    // With both full nobody is sent round in circles.
    b.set_load(loaded(99));
    until(async || (door.knock().await.0 == 101).then_some(())).await;
    assert_eq!(neighbours.gateways("default", 8, 7).len(), 2, "better than nothing");
    judging.abort();
}

/// Asks again until there is an answer; the test's own time-out ends what never comes.
async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
