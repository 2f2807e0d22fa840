//! What strangers may send: a hundred thousand hostile inputs at both doors, half handshakes,
//! silence, readers that do not read. The node stays up, serves the others all the while, gives
//! everything back, and its memory stays within what its config allows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use support::raw_link::{
    BINARY, CLOSE, End, PING, PONG, RawLink, TEXT, frame, header, upgrade,
};
use support::{Key, Node, PATIENCE, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// A terminal and a back-end that behave: pushes, each of which is received and acknowledged
/// before the next one. Whatever goes wrong ends the test.
struct Witness {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Witness {
    async fn start(node: &Arc<Node>, key: &Key) -> Self {
        let token = node.token(key, json!({ "terminal": "witness" })).await;
        let mut link = RawLink::connect(node.terminals).await.unwrap();
        let opened = link.open(&key.product, &token, &[]).await.unwrap();
        assert_eq!(opened["t"], "opened", "{opened}");
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (node, key) = (Arc::clone(node), key.clone());
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&served));
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let n = count.load(Ordering::Relaxed);
                node.push_number(&key, "witness", n).await;
                let deliver = link.next("deliver").await.expect("the witness's link");
                let message = &deliver["m"][0];
                assert_eq!(message["d"], n, "{deliver}");
                let ack = json!({ "t": "ack", "s": 1, "a": [[deliver["l"], message["o"]]] });
                assert!(link.send_json(&ack).await);
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await; // its pace
            }
        });
        Self { stop, served, task }
    }

    /// How many it was served.
    async fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.served.load(Ordering::Relaxed)
    }
}

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
        _ => json!({ "t": "open", "s": s.saturating_add(1), "product": "demo", "token": token, "topics": [topic],
            "cursors": [["terminal", [rng.u64(..1 << 53), rng.u64(..1 << 53)]]] }),
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
        _ => format!(r#"{{"t":"ack","s":1,"x":{}1{}}}"#, r#"{"a":"#.repeat(depth / 3), "}".repeat(depth / 3))
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
                bytes.extend(frame(0, *rng.choice([&b""[..], b" "].iter()).unwrap()));
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
    let mut body = json!({ "audience": { "terminals": ["t"] }, "payload": { "n": rng.u64(..) } }).to_string();
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
        let push = json!({ "t": "push", "id": inputs, "push": { "audience": audience, "payload": 1 } });
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

/// Waits until the process holds no more sockets than before, and its links are gone.
async fn all_given_back(node: &Node, sockets: usize) {
    wait_until("the sockets to be given back", async || {
        let status = node.admin("GET", "/v1/status", None).await;
        status["links"] == 0 && node.sockets() <= sockets
    })
    .await;
}

/// What the store may take: its cache, and what it has not written to tables yet. `fjall` keeps up
/// to 64 MiB of a table in memory.
fn store_bytes_max(cache_bytes: u64) -> u64 {
    cache_bytes + 64 * MIB
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
    wait_until("the pinger to be given up", async || ended(&node, "slow_terminal").await == READERS + 1).await;

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
        ("subscribe, never opened", true,
            text(json!({ "t": "subscribe", "s": 9, "id": 1, "topic": "news" })), 4207),
        ("unsubscribe, never opened", false,
            text(json!({ "t": "unsubscribe", "s": 1, "id": 1, "topic": "news" })), 4207),
        ("refresh, never opened", true, text(json!({ "t": "refresh", "s": 9, "token": "a" })), 4207),
        ("close, never opened", false, text(json!({ "t": "close", "s": 1 })), 4207),
        ("opened twice", true,
            text(json!({ "t": "open", "s": 1, "product": "demo", "token": token })), 4207),
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
