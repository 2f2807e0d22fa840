//! Peers that misbehave without a word too many: half handshakes, silence, readers that do not read,
//! frames that the protocol does not allow. Each is ended with its own code, costs what the config
//! says, and hurts nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(missing_docs)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use support::raw_link::{BINARY, End, PING, RawLink, TEXT, frame, header, upgrade};
use support::witness::{KIB, MIB, Witness, all_given_back, store_bytes_max};
use support::{Node, PATIENCE, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A connection with a small window, so that little fits between the node and it.
async fn narrow(to: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    socket.connect(to).await.unwrap()
}

async fn ended(node: &Node, reason: &str) -> u64 {
    let label = format!(r#"clarion_links_ended_total{{reason="{reason}"}} "#);
    let metrics = node.get("/metrics").await.body;
    let count = metrics.lines().find_map(|line| line.strip_prefix(&label));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_hostile_readers_that_do_not_read_cost_what_the_config_says() {
    const READERS: u64 = 40;
    let config = "[store]\ncache_bytes = 8388608\n[terminals]\nsend_buffer_bytes = 8192\n\
                  flush_timeout_ms = 2000\nframes_per_s_max = 1000000\n[log]\nlevel = \"warn\"\n";
    let node = Arc::new(Node::start(config).await);
    let key = node.product("demo").await;
    let sockets = node.sockets();
    let witness = Witness::start(&node, &key).await;
    let before = node.resident_bytes();
    let mut readers = Vec::new();
    for n in 0..READERS {
        let request = json!({ "terminal": format!("reader-{n}"), "topics": ["news"] });
        let token = node.token(&key, request).await;
        let stream = narrow(node.terminals).await;
        let request = upgrade("h", "/v1/link", "clarion.v1.json");
        let mut link = RawLink::upgrade(stream, &request).await.unwrap();
        assert_eq!(link.open("demo", &token, &["news"]).await.unwrap()["t"], "opened");
        readers.push(link);
    }
    // A tenth reads a byte a second, the rest nothing at all.
    let mut slow: Vec<_> = readers.drain(..readers.len() / 10).collect();
    let drip = tokio::spawn(async move {
        loop {
            for link in &mut slow {
                if link.stream.read_u8().await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let backend = clarion_sdk::Backend::builder(&node.url(""), "demo", &key.key, &key.secret);
    let link = backend.build().unwrap().connect().unwrap();
    let text = "x".repeat(4000);
    let mut pushes = JoinSet::new();
    for n in 0..1500_u32 {
        let push = clarion_sdk::Push::to_topic("news").json(&json!([n, text])).unwrap();
        let link = link.clone();
        pushes.spawn(async move { link.send(push).await });
    }
    let mut peak = 0;
    while let Some(pushed) = pushes.join_next().await {
        pushed.unwrap().unwrap();
        peak = peak.max(node.resident_bytes());
    }
    drop(link);
    wait_until("the readers to be given up", async || {
        peak = peak.max(node.resident_bytes());
        ended(&node, "slow_terminal").await == READERS
    })
    .await;

    // Pings without end, and nobody takes the pongs.
    let mut pinger = RawLink::upgrade(
        narrow(node.terminals).await,
        &upgrade("h", "/v1/link", "clarion.v1.json"),
    )
    .await
    .unwrap();
    let token = node.token(&key, json!({ "terminal": "pinger" })).await;
    assert_eq!(pinger.open("demo", &token, &[]).await.unwrap()["t"], "opened");
    let ping = frame(0x80 | PING, &[b'p'; 125]).repeat(100);
    while timeout(PATIENCE, pinger.stream.write_all(&ping)).await.expect("the end").is_ok() {
        peak = peak.max(node.resident_bytes());
    }
    wait_until("the pinger to be given up", async || {
        ended(&node, "slow_terminal").await == READERS + 1
    })
    .await;

    assert!(witness.finish().await > 20);
    assert_eq!(node.get("/livez").await.status, 200);
    drip.abort();
    drop(readers);
    all_given_back(&node, sockets).await;
    // What is on its way to a reader is in its window (64 KiB) and in the output of the link, at most
    // twice 64 KiB and a step beyond; the entries themselves are shared. The topic keeps
    // its newest 256 entries in memory, the API what is in flight: 1024 pushes of 4 KiB, some copies.
    let bound = before + READERS * 4 * 64 * KIB + 5 * 1500 * 4 * KIB + store_bytes_max(8 * MIB);
    assert!(peak < bound, "{} MiB, the bound is {} MiB", peak / MIB, bound / MIB);
    println!("{} MiB before, {} MiB at most", before / MIB, peak / MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_hostile_silence_is_ended_and_costs_nobody_else() {
    const EACH: usize = 200;
    let config = "[terminals]\nhandshake_timeout_ms = 1000\nopen_timeout_ms = 1000\n[http]\n\
                  connections_max = 2000\n[limits]\nrequest_timeout_ms = 1000\n[log]\n\
                  level = \"warn\"\n";
    let node = Arc::new(Node::start(config).await);
    let key = node.product("demo").await;
    let sockets = node.sockets();
    let witness = Witness::start(&node, &key).await;
    let half = upgrade("h", "/v1/link", "clarion.v1.json");
    let (mut ends, mut kept) = (JoinSet::new(), Vec::new());
    for n in 0..EACH {
        // Nothing at all, half a request, and one that never ends.
        for bytes in ["", &half[..n.min(half.len())], &half] {
            let mut stream = TcpStream::connect(node.terminals).await.unwrap();
            stream.write_all(bytes.as_bytes()).await.unwrap();
            ends.spawn(async move {
                let mut rest = Vec::new();
                let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the end");
            });
        }
        // A link without a session.
        let mut link = RawLink::connect(node.terminals).await.unwrap();
        ends.spawn(async move { assert_eq!(link.end().await, End::Code(4004)) });
        // The API: silence, and a body that does not come.
        let path = key.path("/messages");
        let body = format!(
            "POST {path} HTTP/1.1\r\nhost: h\r\nauthorization: {}\r\n\
             content-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
            key.sign("POST", &format!("http://h{path}"), Some("{}"))
        );
        let mut stream = TcpStream::connect(node.http).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        ends.spawn(async move {
            let mut answer = Vec::new();
            let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the end");
            let answer = support::Reply::parse(&answer);
            assert_eq!((answer.status, answer.code()), (408, "request_timeout".to_owned()));
        });
        for bytes in ["", "GET / HT"] {
            let mut stream = TcpStream::connect(node.http).await.unwrap();
            stream.write_all(bytes.as_bytes()).await.unwrap();
            kept.push(stream);
        }
    }
    while let Some(end) = ends.join_next().await {
        end.unwrap();
    }
    assert!(witness.finish().await > 20);
    assert_eq!(node.get("/livez").await.status, 200);
    drop(kept);
    all_given_back(&node, sockets).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_hostile_tls_handshakes_are_ended() {
    let mut node = Node::prepare(
        "[terminals]\nhandshake_timeout_ms = 1000\ntls_cert_file = \"cert.pem\"\n\
         tls_key_file = \"key.pem\"\n[log]\nlevel = \"warn\"\n",
    );
    certificate(&node);
    assert!(node.command(&["store", "init", "node.toml"]).status.success());
    node.boot();
    let sockets = node.sockets();
    // The start of a ClientHello: a record of 512 bytes, of which ten come.
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3, 7, 7, 7, 7];
    let mut rng = Rng::with_seed(1);
    let mut ends = JoinSet::new();
    for n in 0..300 {
        let mut bytes = match n % 3 {
            0 => Vec::new(),
            1 => hello[..rng.usize(1..hello.len())].to_vec(),
            _ => (0..rng.usize(1..600)).map(|_| rng.u8(..)).collect(),
        };
        if n % 6 == 4 {
            bytes.resize(517, rng.u8(..));
        }
        let mut stream = TcpStream::connect(node.terminals).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        ends.spawn(async move {
            let mut rest = Vec::new();
            let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the end");
        });
    }
    while let Some(end) = ends.join_next().await {
        end.unwrap();
    }
    assert_eq!(node.get("/livez").await.status, 200);
    all_given_back(&node, sockets).await;
}

/// Makes a certificate and its key beside the config.
fn certificate(node: &Node) {
    let script = "
import datetime, os
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization as s
from cryptography.hazmat.primitives.asymmetric import ec
key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
names = x509.SubjectAlternativeName([x509.DNSName('localhost')])
cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    .serial_number(1).not_valid_before(now - day).not_valid_after(now + day)
    .add_extension(names, critical=True).sign(key, hashes.SHA256()))
open('cert.pem', 'wb').write(cert.public_bytes(s.Encoding.PEM))
with open(os.open('key.pem', os.O_CREAT | os.O_WRONLY, 0o600), 'wb') as file:
    file.write(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
";
    let made = std::process::Command::new(support::client::python())
        .args(["-c", script])
        .current_dir(node.directory.path())
        .status()
        .unwrap();
    assert!(made.success());
}

/// A fresh link, with a session when there is a token.
async fn link(node: &Node, token: Option<&str>) -> RawLink {
    let mut link = RawLink::connect(node.terminals).await.unwrap();
    if let Some(token) = token {
        let opened = link.open("demo", token, &[]).await.unwrap();
        assert_eq!(opened["t"], "opened", "{opened}");
    }
    link
}

#[tokio::test]
async fn every_offence_ends_the_link_with_its_code() {
    let node = Node::start("").await;
    let key = node.product("demo").await;
    let token = node.token(&key, json!({ "terminal": "phone-1" })).await;
    let text = |value: Value| frame(0x80 | TEXT, value.to_string().as_bytes());
    let offences: [(&str, bool, Vec<u8>, u16); 19] = [
        ("no JSON", false, frame(0x80 | TEXT, b"{"), 4205),
        ("no frame", false, text(json!([1])), 4205),
        ("an unknown type", true, text(json!({ "t": "shout", "s": 1 })), 4205),
        ("deep JSON", true, frame(0x80 | TEXT, "[".repeat(16_000).as_bytes()), 4205),
        ("binary", true, frame(0x80 | BINARY, b"{}"), 4205),
        ("ping of a session", true, text(json!({ "t": "ping", "s": 1 })), 4205),
        ("too large", true, frame(0x80 | TEXT, &vec![b' '; 16_385]), 4206),
        ("claims to be large", true, header(0x80 | TEXT, 1 << 40), 4206),
        ("ack, never opened", false, text(json!({ "t": "ack", "s": 1, "a": [[1, 1]] })), 4207),
        ("ack of another", true, text(json!({ "t": "ack", "s": 9, "a": [[1, 1]] })), 4207),
        ("ack of the link", true, text(json!({ "t": "ack", "s": 0, "a": [[1, 1]] })), 4207),
        ("skip, never opened", true, text(json!({ "t": "skip", "s": 9, "l": 1, "o": 1 })), 4207),
        (
            "subscribe, never opened",
            true,
            text(json!({ "t": "subscribe", "s": 9, "id": 1, "topic": "news" })),
            4207,
        ),
        (
            "unsubscribe, never opened",
            false,
            text(json!({ "t": "unsubscribe", "s": 1, "id": 1, "topic": "news" })),
            4207,
        ),
        (
            "refresh, never opened",
            true,
            text(json!({ "t": "refresh", "s": 9, "token": "a" })),
            4207,
        ),
        ("close, never opened", false, text(json!({ "t": "close", "s": 1 })), 4207),
        (
            "opened twice",
            true,
            text(json!({ "t": "open", "s": 1, "product": "demo", "token": token })),
            4207,
        ),
        ("ack ahead", true, text(json!({ "t": "ack", "s": 1, "a": [[1, 1]] })), 4208),
        ("ack of no log", true, text(json!({ "t": "ack", "s": 1, "a": [[99, 0]] })), 4208),
    ];
    for (what, session, bytes, code) in offences {
        let mut link = link(&node, session.then_some(&*token)).await;
        assert!(link.send(&bytes).await, "{what}");
        assert_eq!(link.end().await, End::Code(code), "{what}");
    }
    // Frames in pieces are fine, as many as they like.
    let mut patient = link(&node, Some(&token)).await;
    let ping = br#"{"t":"ping","s":0}"#;
    let mut pieces = frame(TEXT, b"");
    for byte in ping {
        pieces.extend(frame(0, &[*byte]));
        pieces.extend(frame(0, b""));
    }
    pieces.extend(frame(0x80, b""));
    assert!(patient.send(&pieces).await);
    assert_eq!(patient.next("pong").await.unwrap()["s"], 0);
    // Too many sessions: that one is refused, the others live.
    for s in 2..=8 {
        let open = json!({ "t": "open", "s": s, "product": "demo", "token": node
            .token(&key, json!({ "terminal": format!("phone-{s}") })).await });
        assert!(patient.send_json(&open).await);
        assert_eq!(patient.next("opened").await.unwrap()["s"], s);
    }
    let open = json!({ "t": "open", "s": 9, "product": "demo", "token": token });
    assert!(patient.send_json(&open).await);
    assert_eq!(patient.next("closed").await.unwrap()["reason"], "too_many_sessions");
    assert!(patient.send(&text(json!({ "t": "ping", "s": 0 }))).await);
    assert!(patient.next("pong").await.is_some());
}

#[tokio::test]
async fn a_flood_is_read_no_faster_than_the_config_says_and_hurts_only_itself() {
    let node = Arc::new(Node::start("[terminals]\nframes_per_s_max = 50\n").await);
    let key = node.product("demo").await;
    let token = node.token(&key, json!({ "terminal": "flood" })).await;
    let mut flood = link(&node, Some(&token)).await;
    let ping = frame(0x80 | TEXT, br#"{"t":"ping","s":0}"#);
    let witness = Witness::start(&node, &key).await;
    assert!(flood.send(&ping.repeat(300)).await);
    for _ in 0..300 {
        assert!(flood.next("pong").await.is_some(), "it is slowed down, not closed");
    }
    assert!(witness.finish().await > 20);
}

/// A probe, or somebody who took the terminals' listener for the API, is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_on_the_listener_of_terminals_is_answered() {
    let node = Node::start("").await;
    let mut stream = TcpStream::connect(node.terminals).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = support::Reply::parse(&answer);
    assert_eq!((answer.status, answer.code()), (400, "subprotocol_missing".to_owned()));
}
