//! The process that a test starts as a node: takes commands from its input, one JSON object a line,
//! and writes events and answers.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use clarion_cluster::peer::{
    Held, Lane, Peer, PeerEvents, PeerSettings, PeerTls, Peers, Refused, Target,
};
use clarion_cluster::{Cookie, NodeIdentity};
use serde_json::{Value, json};

pub const CONFIG: &str = "CLARION_PEER_PROBE";
/// What a probe writes begins so; the test harness around it writes, too.
pub const MARK: &str = "@@ ";

fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{MARK}{value}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

#[derive(Default)]
struct Events {
    peers: Mutex<BTreeMap<String, Arc<Peer>>>,
    /// Next number to be sent, by peer and lane.
    next: Mutex<BTreeMap<(String, u8), u64>>,
    /// By peer and lane: messages received, next number expected, messages out of order.
    counts: Mutex<BTreeMap<(String, u8), [u64; 3]>>,
    /// Handlers wait while this is true.
    blocked: Mutex<bool>,
    unblocked: Condvar,
    holding: AtomicBool,
    held: Mutex<Vec<Held>>,
    panic_up: AtomicBool,
    panic_received: AtomicBool,
}

impl PeerEvents for Events {
    fn up(&self, peer: &Arc<Peer>) {
        assert!(!self.panic_up.swap(false, Ordering::SeqCst), "as ordered");
        // Numbers begin anew with each session.
        for lane in Lane::ALL {
            let mut counts = self.counts.lock().unwrap();
            counts.entry((peer.id.to_string(), lane as u8)).or_default()[1] = 0;
            self.next.lock().unwrap().insert((peer.id.to_string(), lane as u8), 0);
        }
        self.peers.lock().unwrap().insert(peer.id.to_string(), peer.clone());
        say(&json!({"up": peer.id, "boot": peer.boot.to_string(), "wire": peer.wire}));
    }

    fn down(&self, peer: &Arc<Peer>, refused: bool) {
        assert!(!peer.is_up());
        assert_eq!(peer.send(Lane::Control, Bytes::new()), Err(Refused::Down));
        say(&json!({"down": peer.id, "boot": peer.boot.to_string(), "refused": refused}));
    }

    fn received(&self, peer: &Arc<Peer>, lane: Lane, messages: Vec<Bytes>) {
        assert!(!self.panic_received.swap(false, Ordering::SeqCst), "as ordered");
        assert!(self.peers.lock().unwrap().contains_key(&*peer.id), "before it was up");
        // So that what waits behind this handler in its worker goes on.
        tokio::task::block_in_place(|| {
            let mut blocked = self.blocked.lock().unwrap();
            while *blocked {
                blocked = self.unblocked.wait(blocked).unwrap();
            }
        });
        let mut counts = self.counts.lock().unwrap();
        let count = counts.entry((peer.id.to_string(), lane as u8)).or_default();
        let mut bytes = 0;
        for message in &messages {
            let number = u64::from_le_bytes(message[..8].try_into().unwrap());
            count[0] += 1;
            count[2] += u64::from(number != count[1]);
            count[1] = number + 1;
            bytes += message.len() + clarion_cluster::peer::MESSAGE_COST_BYTES;
        }
        if self.holding.load(Ordering::SeqCst) {
            self.held.lock().unwrap().push(peer.hold(lane, bytes));
        }
    }

    fn dropped(&self, peer: &Arc<Peer>, lane: Lane) {
        say(&json!({"dropped": peer.id, "lane": lane as u8}));
    }
}

/// The node; runs only when [`support`](crate::support) has started it.
#[test]
fn probe() {
    let Ok(config) = std::env::var(CONFIG) else { return };
    let config: Value = serde_json::from_str(&config).unwrap();
    tracing_subscriber::fmt()
        .with_env_filter("clarion_cluster=debug,ractor=warn,ractor_cluster=info")
        .with_ansi(false)
        .with_writer(std::io::stdout)
        .init();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(run(config));
    // Without waiting for handlers that block for ever.
    std::process::exit(0);
}

async fn run(config: Value) {
    let text = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str, default: u64| config[key].as_u64().unwrap_or(default);
    let identity = NodeIdentity {
        id: text("id").into(),
        boot: clarion_cluster::new_boot(),
        group: "default".into(),
    };
    let wire = (number("wire_min", 1) as u16, number("wire_max", 1) as u16);
    let mut settings = PeerSettings::new(text("listen").parse().unwrap(), text("cluster"), wire);
    settings.heartbeat_ms = number("heartbeat_ms", settings.heartbeat_ms);
    settings.handshake_timeout_ms = number("handshake_timeout_ms", 5000);
    settings.lane_credit_bytes = number("lane_credit_bytes", settings.lane_credit_bytes);
    settings.lane_queue_bytes = number("lane_queue_bytes", 4 << 20) as usize;
    settings.frame_delay_us = number("frame_delay_us", settings.frame_delay_us);
    let tls = config["tls"].is_object().then(|| {
        let file = |key: &str| config["tls"][key].as_str().unwrap().into();
        PeerTls { cert_file: file("cert"), key_file: file("key"), ca_file: file("ca") }
    });
    let events = Arc::new(Events::default());
    let cookie = Cookie::new(&text("cookie")).unwrap();
    let boot = identity.boot;
    let peers = Peers::start(settings, identity, cookie, tls, events.clone()).await.unwrap();
    say(&json!({"ready": peers.local_addr().to_string(), "boot": boot.to_string()}));
    let (commands, mut lines) = tokio::sync::mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            commands.blocking_send(line.unwrap()).unwrap();
        }
    });
    while let Some(line) = lines.recv().await {
        let command: Value = serde_json::from_str(&line).unwrap();
        let answer = obey(&command, &peers, &events).await;
        say(&json!({"answer": answer}));
        if command["do"] == "stop" {
            return;
        }
    }
}

async fn obey(command: &Value, peers: &Peers, events: &Arc<Events>) -> Value {
    let text = |key: &str| command[key].as_str().unwrap_or_default();
    let peer = || events.peers.lock().unwrap().get(text("peer")).cloned();
    match text("do") {
        "want" => {
            let targets = command["targets"].as_array().unwrap().iter().map(|target| Target {
                id: target["id"].as_str().unwrap().into(),
                boot: target["boot"].as_str().unwrap().parse().unwrap(),
                addr: target["addr"].as_str().unwrap().parse().unwrap(),
            });
            peers.want(targets.collect());
            json!(null)
        }
        "send" => send(command, &peer().unwrap(), events),
        "status" => status(peer(), peers, events, text("peer")),
        "block" => {
            *events.blocked.lock().unwrap() = command["on"].as_bool().unwrap();
            events.unblocked.notify_all();
            json!(null)
        }
        "hold" => {
            let on = command["on"].as_bool().unwrap();
            events.holding.store(on, Ordering::SeqCst);
            if !on {
                events.held.lock().unwrap().clear();
            }
            json!(null)
        }
        "panic" => {
            let flag = if text("in") == "up" { &events.panic_up } else { &events.panic_received };
            flag.store(true, Ordering::SeqCst);
            json!(null)
        }
        "crash" => crash(text("what")),
        "process" => {
            let actors = ractor::registry::pid_registry::get_all_pids();
            let names = actors.iter().filter(|cell| cell.supports_remoting());
            json!({
                "files": files(),
                "listening": listening(),
                "actors": actors.len(),
                "remotable": names.map(ractor::ActorCell::get_name).collect::<Vec<_>>(),
            })
        }
        "stop" => {
            peers.stop().await;
            json!({"listening": listening(), "peers": peers.peers().len()})
        }
        other => panic!("{other}"),
    }
}

fn send(command: &Value, peer: &Arc<Peer>, events: &Events) -> Value {
    let lane = Lane::ALL[command["lane"].as_u64().unwrap() as usize];
    let size = command["size"].as_u64().unwrap_or(100) as usize;
    let mut next = events.next.lock().unwrap();
    let number = next.entry((peer.id.to_string(), lane as u8)).or_default();
    let (mut sent, mut full, mut down) = (0_u64, 0_u64, 0_u64);
    for _ in 0..command["count"].as_u64().unwrap() {
        let mut message = vec![0xa5; size.max(8)];
        message[..8].copy_from_slice(&number.to_le_bytes());
        match peer.send(lane, message.into()) {
            Ok(()) => {
                sent += 1;
                *number += 1;
            }
            Err(Refused::Full) => full += 1,
            Err(Refused::Down) => down += 1,
            Err(Refused::TooLarge) => return json!({"too_large": true}),
        }
    }
    json!({"sent": sent, "full": full, "down": down})
}

fn status(peer: Option<Arc<Peer>>, peers: &Peers, events: &Events, id: &str) -> Value {
    let counts = events.counts.lock().unwrap();
    let lanes: Vec<Value> = Lane::ALL
        .iter()
        .map(|lane| {
            let [received, _, disordered] =
                counts.get(&(id.to_owned(), *lane as u8)).copied().unwrap_or_default();
            let status = peer.as_ref().map(|peer| *peer.status().lane(*lane)).unwrap_or_default();
            json!({
                "received": received,
                "disordered": disordered,
                "credit": status.credit_bytes,
                "queued": status.queued_bytes,
                "queued_messages": status.queued_messages,
                "in_flight": status.in_flight_bytes,
                "dropped": status.dropped,
                "sent": status.sent,
            })
        })
        .collect();
    json!({
        "up": peer.as_ref().is_some_and(|peer| peer.is_up()),
        "peers": peers.peers().len(),
        "rtt_us": peer.map(|peer| peer.status().rtt_us),
        "lanes": lanes,
    })
}

/// Ends an actor as a crash would: what it held is lost.
fn crash(what: &str) -> Value {
    let cell = match what.strip_prefix("port ") {
        Some(port) => ractor::pg::which_scoped_groups(&"clarion.peer".to_owned())
            .into_iter()
            .filter(|group| group.ends_with(&format!("/{port}")))
            .find_map(|group| {
                ractor::pg::get_scoped_local_members(&"clarion.peer".to_owned(), &group).pop()
            }),
        None if what == "server" => {
            ractor::registry::pid_registry::get_all_pids().into_iter().find(|cell| {
                cell.is_message_type_of::<ractor_cluster::NodeServerMessage>() == Some(true)
            })
        }
        None => ractor::registry::registered()
            .into_iter()
            .filter(|name| name.starts_with(what))
            .find_map(ractor::registry::where_is),
    };
    let cell = cell.unwrap();
    cell.kill();
    json!(null)
}

fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Local ports on which this process listens.
fn listening() -> Vec<u16> {
    let mine: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|link| {
            let link = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
            Some(link)
        })
        .collect();
    let mut ports: Vec<u16> = ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .iter()
        .flat_map(|table| {
            let table = std::fs::read_to_string(table).unwrap_or_default();
            table.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
        })
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = fields[3] == "0A" && mine.iter().any(|inode| inode == fields[9]);
            let port = fields[1].rsplit(':').next()?;
            listens.then(|| u16::from_str_radix(port, 16).unwrap())
        })
        .collect();
    ports.sort_unstable();
    ports
}
