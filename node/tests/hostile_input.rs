//! What strangers may send: a hundred thousand hostile inputs at both doors. The node stays up,
//! serves the others all the while, gives everything back, and its memory stays within what its
//! config allows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use support::raw_link::{BINARY, CLOSE, PING, PONG, RawLink, TEXT, frame, header, upgrade};
use support::witness::{KIB, MIB, Witness, all_given_back, store_bytes_max};
use support::{Key, Node, PATIENCE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Text of a frame that a terminal might send.
fn valid(rng: &mut Rng, s: u32, token: &str) -> Value {
    let topic = format!("t{}", rng.u8(..));
    match rng.u8(..9) {
        0 => json!({ "t": "ack", "s": s, "a": [[rng.u8(..), rng.u64(..1 << 53)]] }),
        1 => json!({ "t": "skip", "s": s, "l": rng.u8(..6), "o": rng.u64(..1 << 53) }),
        2 => json!({ "t": "subscribe", "s": s, "id": rng.u64(..), "topic": topic }),
        3 => json!({ "t": "unsubscribe", "s": s, "id": rng.u64(..), "topic": topic }),
        4 => json!({ "t": "refresh", "s": s, "token": "a.b.c" }),
        5 => json!({ "t": "close", "s": s }),
        6 => json!({ "t": "ping", "s": 0 }),
        7 => json!({ "t": "open", "s": s.saturating_add(1), "product": "demo", "token": token }),
        _ => {
            json!({ "t": "open", "s": s.saturating_add(1), "product": "demo", "token": token, "topics": [topic],
            "cursors": [["terminal", [rng.u64(..1 << 53), rng.u64(..1 << 53)]]] })
        }
    }
}

/// Some bytes of it are others now.
fn mutated(rng: &mut Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..rng.usize(1..8) {
        let at = rng.usize(..bytes.len());
        match rng.u8(..4) {
            0 => bytes[at] ^= 1 << rng.u8(..8),
            1 => bytes.insert(at, rng.u8(..)),
            2 if bytes.len() > 1 => drop(bytes.remove(at)),
            _ => bytes[at] = *rng.choice(b"{}[]\",:0-\0\\/\xff").unwrap(),
        }
    }
    bytes
}

fn deep(rng: &mut Rng) -> Vec<u8> {
    let depth = rng.usize(1..7000);
    match rng.u8(..3) {
        0 => "[".repeat(depth).into_bytes(),
        1 => format!("{}{}", "[".repeat(depth), "]".repeat(depth)).into_bytes(),
        _ => format!(
            r#"{{"t":"ack","s":1,"x":{}1{}}}"#,
            r#"{"a":"#.repeat(depth / 3),
            "}".repeat(depth / 3)
        )
        .into_bytes(),
    }
}

/// What is sent on a link that is up, and whether it is whole frames, so that a ping behind it is
/// answered or the link is closed. With a session, some of it gets past the parser.
fn on_a_link(rng: &mut Rng, token: &str) -> (Vec<u8>, bool) {
    let s = *rng.choice([1, 1, 1, 0, 2, 7, u32::MAX].iter()).unwrap();
    // Half of it is what a link survives: it would end with nearly every input otherwise.
    let harmless = *rng.choice([9, 10, 11, 14, 15, 16, 17].iter()).unwrap();
    let kind = if rng.bool() { harmless } else { rng.u8(..20) };
    let whole = match kind {
        0..=3 => {
            let text = valid(rng, s, token).to_string().into_bytes();
            frame(0x80 | TEXT, &mutated(rng, text))
        }
        4..=6 => frame(0x80 | TEXT, valid(rng, s, token).to_string().as_bytes()),
        7 => frame(0x80 | TEXT, &deep(rng)),
        8 => {
            let opcode = *rng.choice([TEXT, BINARY].iter()).unwrap();
            frame(0x80 | opcode, &vec![b' '; rng.usize(1..40_000)])
        }
        // A message in pieces, which is fine, and one that never ends.
        9..=12 => {
            let mut bytes = frame(TEXT, br#"{"t":"ping","s":0"#);
            for _ in 0..rng.usize(1..200) {
                bytes.extend(frame(0, rng.choice([&b""[..], b" "].iter()).unwrap()));
            }
            bytes.extend(frame(if rng.u8(..16) > 0 { 0x80 } else { 0 }, b"}"));
            bytes
        }
        13 => {
            let pairs: Vec<_> = (0..1000).map(|l| json!([l % 300, 1_u64 << 52])).collect();
            frame(0x80 | TEXT, json!({ "t": "ack", "s": 1, "a": pairs }).to_string().as_bytes())
        }
        // Nothing that was delivered, a thousand times.
        14 => {
            let pairs: Vec<_> = (0..1000).map(|l| json!([l % 3 + 1, 0])).collect();
            frame(0x80 | TEXT, json!({ "t": "ack", "s": 1, "a": pairs }).to_string().as_bytes())
        }
        15..=17 => (0..rng.u64(1..20))
            .flat_map(|id| {
                let kind = *rng.choice(["subscribe", "unsubscribe"].iter()).unwrap();
                let topic = format!("f{}", rng.u8(..));
                let frame_of = json!({ "t": kind, "s": 1, "id": id, "topic": topic });
                frame(0x80 | TEXT, frame_of.to_string().as_bytes())
            })
            .collect(),
        18 => {
            let length = *rng.choice([16_385, 1 << 20, 1 << 40, u64::MAX].iter()).unwrap();
            let mut bytes = header(0x80 | TEXT, length);
            bytes.resize(rng.usize(14..1000), b'x');
            return (bytes, false);
        }
        _ => return ((0..rng.usize(1..200)).map(|_| rng.u8(..)).collect(), false),
    };
    (whole, true)
}

/// Sends one input, and a ping behind it. `false`: the link has ended.
async fn survives(link: &mut RawLink, (bytes, whole): (Vec<u8>, bool)) -> bool {
    if !whole {
        let _ = link.send(&bytes).await;
        let _ = link.stream.shutdown().await;
        link.end().await;
        return false;
    }
    if !link.send(&[bytes, frame(0x80 | PING, b"")].concat()).await {
        return false;
    }
    loop {
        match link.frame().await {
            Some((PONG, _)) => return true,
            Some((CLOSE, _)) | None => return false,
            Some(_) => {}
        }
    }
}

/// A request that somebody might send to the API, wrong somewhere.
fn request(rng: &mut Rng, node: &Node, key: &Key) -> Vec<u8> {
    let path = key.path("/messages");
    let mut body =
        json!({ "audience": { "terminals": ["t"] }, "payload": { "n": rng.u64(..) } }).to_string();
    if rng.bool() {
        body = String::from_utf8_lossy(&deep(rng)).into_owned();
    }
    let signature = key.sign("POST", &node.url(&path), Some(&body));
    let length = match rng.u8(..8) {
        0 => "-1".to_owned(),
        1 => "99999999999999999999".to_owned(),
        2 => (300 * KIB).to_string(),
        _ => body.len().to_string(),
    };
    let text = format!(
        "POST {path} HTTP/1.1\r\nhost: {}\r\nauthorization: {signature}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}",
        node.http
    );
    match rng.u8(..4) {
        0 => (0..rng.usize(1..500)).map(|_| rng.u8(..)).collect(),
        1 => text.into_bytes()[..rng.usize(1..200)].to_vec(),
        _ => mutated(rng, text.into_bytes()),
    }
}

/// Sends bytes on a connection of their own and takes what comes back.
async fn throw(to: std::net::SocketAddr, bytes: &[u8]) {
    let Ok(mut stream) = TcpStream::connect(to).await else { return };
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer or the end");
}

/// Inputs until the link ends, or for a while; how many the node has taken.
async fn abuse_link(rng: &mut Rng, node: &Node, token: &str) -> u64 {
    let Some(mut link) = RawLink::connect(node.terminals).await else { return 0 };
    if rng.u8(..8) > 0 {
        link.open("demo", token, &[]).await;
    }
    for inputs in 1..60 {
        let input = on_a_link(rng, token);
        if !survives(&mut link, input).await {
            return inputs;
        }
    }
    60
}

/// The same on a back-end's connection.
async fn abuse_push_link(rng: &mut Rng, node: &Node, key: &Key) -> u64 {
    let path = key.path("/push");
    let signature = key.sign("GET", &node.url(&path), None);
    let request = upgrade(&node.http.to_string(), &path, "clarion.push.v1.json");
    let request = format!("{request}Authorization: {signature}\r\n");
    let Ok(stream) = TcpStream::connect(node.http).await else { return 0 };
    let Some(mut link) = RawLink::upgrade(stream, &request).await else { return 0 };
    for inputs in 1..60 {
        let audience = json!({ "terminals": [format!("t{}", rng.u8(..))] });
        let push =
            json!({ "t": "push", "id": inputs, "push": { "audience": audience, "payload": 1 } });
        let input = match rng.u8(..6) {
            0 => on_a_link(rng, ""),
            1 => (frame(0x80 | TEXT, &mutated(rng, push.to_string().into_bytes())), true),
            2 => {
                let text = format!(r#"{{"t":"push","id":{inputs},"push":{}}}"#, "[".repeat(10_000));
                (frame(0x80 | TEXT, text.as_bytes()), true)
            }
            _ => (frame(0x80 | TEXT, push.to_string().as_bytes()), true),
        };
        if !survives(&mut link, input).await {
            return inputs;
        }
    }
    60
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_hostile_inputs_leave_the_node_up_and_its_memory_bounded() {
    const INPUTS: u64 = 100_000;
    const AT_ONCE: u64 = 48;
    // The rate of frames is no subject here: it would only make this slow.
    let config = "[store]\ncache_bytes = 8388608\n[terminals]\nframes_per_s_max = 1000000\n\
                  open_timeout_ms = 1000\nhandshake_timeout_ms = 2000\n[log]\nlevel = \"warn\"\n";
    let node = Arc::new(Node::start(config).await);
    let key = node.product("demo").await;
    let sockets = node.sockets();
    let witness = Witness::start(&node, &key).await;
    let (before, inputs) = (node.resident_bytes(), Arc::new(AtomicU64::new(0)));
    let mut workers = JoinSet::new();
    for worker in 0..AT_ONCE {
        let terminal = format!("hostile-{worker}");
        let topics = json!(["*"]);
        let token = node.token(&key, json!({ "terminal": terminal, "topics": topics })).await;
        let (node, key, inputs) = (Arc::clone(&node), key.clone(), Arc::clone(&inputs));
        workers.spawn(async move {
            let mut rng = Rng::with_seed(worker);
            while inputs.load(Ordering::Relaxed) < INPUTS {
                let sent = match rng.u8(..10) {
                    0 => {
                        let bytes: Vec<u8> = (0..rng.usize(1..300)).map(|_| rng.u8(..)).collect();
                        throw(node.terminals, &bytes).await;
                        1
                    }
                    1 => {
                        let text = upgrade("h", "/v1/link", "clarion.v1.json") + "\r\n";
                        throw(node.terminals, &mutated(&mut rng, text.into_bytes())).await;
                        1
                    }
                    2 => {
                        throw(node.http, &request(&mut rng, &node, &key)).await;
                        1
                    }
                    3 => abuse_push_link(&mut rng, &node, &key).await,
                    _ => abuse_link(&mut rng, &node, &token).await,
                };
                inputs.fetch_add(sent, Ordering::Relaxed);
            }
        });
    }
    let (stop, mut peak) = (Arc::new(AtomicBool::new(false)), 0);
    let watch = {
        let (node, stop) = (Arc::clone(&node), Arc::clone(&stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                peak = peak.max(node.resident_bytes());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            peak
        })
    };
    while let Some(done) = workers.join_next().await {
        done.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let peak = watch.await.unwrap();
    let served = witness.finish().await;
    assert!(inputs.load(Ordering::Relaxed) >= INPUTS);
    assert!(served > 100, "the witness was served only {served} times");
    assert_eq!(node.get("/livez").await.status, 200);
    all_given_back(&node, sockets).await;
    // A connection holds at most a frame being read and what waits to be written (a link: 16 KiB and
    // 128 KiB; the API: `body_bytes_max`, twice while it is parsed), and the allocator its slack.
    let connection = 2 * (256 * KIB + 256 * KIB);
    let bound = before + AT_ONCE * connection + store_bytes_max(8 * MIB);
    assert!(peak < bound, "{} MiB, the bound is {} MiB", peak / MIB, bound / MIB);
    println!("{served} served; {} MiB before, {} MiB at most", before / MIB, peak / MIB);
}
