//! What a hop between two nodes costs: CPU per message at either end when messages are batched, the
//! way of a single message there and back, and a link that nobody uses. Two processes on loopback.
//!
//! `cargo bench -p clarion-cluster --bench hop [-- MESSAGES]`, 2,000,000 by default.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clarion_cluster::peer::{Lane, Peer, PeerEvents, PeerSettings, Peers, Refused, Target};
use clarion_cluster::{BootId, Cookie, NodeIdentity, new_boot};
use tokio::sync::Notify;

const FAR: &str = "CLARION_HOP_FAR";

/// CPU seconds of this process so far, user and system.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    ticks as f64 / 100.0
}

#[derive(Default)]
struct Counting {
    /// Gives back what comes on the unicast lane.
    echoes: bool,
    received: AtomicU64,
    changed: Notify,
}

impl PeerEvents for Counting {
    fn up(&self, _: &Arc<Peer>) {
        self.changed.notify_one();
    }

    fn down(&self, _: &Arc<Peer>, _: bool) {}

    fn received(&self, peer: &Arc<Peer>, lane: Lane, messages: Vec<Bytes>) {
        self.received.fetch_add(messages.len() as u64, Ordering::Release);
        if self.echoes && lane == Lane::Unicast {
            for message in messages {
                peer.send(lane, message).unwrap();
            }
        }
        self.changed.notify_one();
    }

    fn dropped(&self, _: &Arc<Peer>, _: Lane) {
        self.changed.notify_one();
    }
}

async fn start(id: &str, boot: BootId, events: Arc<Counting>) -> Peers {
    let settings = PeerSettings::new("127.0.0.1:0".parse().unwrap(), "bench", (1, 1));
    let identity = NodeIdentity { id: id.into(), boot, group: "default".into() };
    let cookie = Cookie::new("a cookie of the bench").unwrap();
    Peers::start(settings, identity, cookie, None, events).await.unwrap()
}

fn target(id: &str, boot: &str, addr: &str) -> Target {
    Target { id: id.into(), boot: boot.parse().unwrap(), addr: addr.parse().unwrap() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The other process: says where it listens, wants whom it is told, and tells its CPU when asked.
fn far(near: &str) {
    let runtime = runtime();
    let boot = new_boot();
    let events = Arc::new(Counting { echoes: true, ..Counting::default() });
    let peers = runtime.block_on(start("b", boot, events.clone()));
    let mut words = near.split(' ');
    peers.want(vec![target("a", words.next().unwrap(), words.next().unwrap())]);
    println!("{boot} {}", peers.local_addr());
    for line in std::io::stdin().lock().lines() {
        line.unwrap();
        println!("{} {}", cpu_s(), events.received.load(Ordering::Acquire));
    }
}

struct Far {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Far {
    fn start(boot: BootId, addr: SocketAddr) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(FAR, format!("{boot} {addr}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> (String, String) {
        let line = self.lines.next().unwrap().unwrap();
        let (first, second) = line.split_once(' ').unwrap();
        (first.to_owned(), second.to_owned())
    }

    /// Its CPU seconds and messages received.
    fn figures(&mut self) -> (f64, u64) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let (cpu, received) = self.line();
        (cpu.parse().unwrap(), received.parse().unwrap())
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends as fast as the lane takes it.
async fn flood(peer: &Peer, events: &Counting, messages: u64, bytes: usize) {
    let message = Bytes::from(vec![7; bytes]);
    let mut sent = 0;
    while sent < messages {
        match peer.send(Lane::Broadcast, message.clone()) {
            Ok(()) => sent += 1,
            Err(Refused::Full) => events.changed.notified().await,
            Err(refused) => panic!("{refused}"),
        }
        // As tasks do: the runtime gets its turn.
        if sent % 128 == 0 {
            tokio::task::yield_now().await;
        }
    }
}

async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

fn main() {
    if let Ok(near) = std::env::var(FAR) {
        return far(&near);
    }
    let messages: u64 =
        std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(2_000_000);
    let runtime = runtime();
    let (boot, events) = (new_boot(), Arc::new(Counting::default()));
    let peers = runtime.block_on(start("a", boot, events.clone()));
    let mut far = Far::start(boot, peers.local_addr());
    let (far_boot, far_addr) = far.line();
    peers.want(vec![target("b", &far_boot, &far_addr)]);
    let peer = runtime.block_on(async {
        loop {
            events.changed.notified().await;
            if let Some(peer) = peers.peers().pop() {
                return peer;
            }
        }
    });

    println!("| batched | messages/s | sender, us CPU each | receiver, us CPU each |");
    println!("| --- | --- | --- | --- |");
    for bytes in [100, 216, 1000] {
        let (far_cpu, far_received) = far.figures();
        let (cpu, began) = (cpu_s(), Instant::now());
        runtime.block_on(flood(&peer, &events, messages, bytes));
        while far.figures().1 < far_received + messages {
            runtime.block_on(pause(Duration::from_millis(10)));
        }
        let (took_s, cpu) = (began.elapsed().as_secs_f64(), cpu_s() - cpu);
        let far_cpu = far.figures().0 - far_cpu;
        let each_us = |cpu_s: f64| cpu_s * 1e6 / messages as f64;
        let rate = messages as f64 / took_s;
        println!("| {bytes} B | {rate:.0} | {:.2} | {:.2} |", each_us(cpu), each_us(far_cpu));
    }

    let mut trips: Vec<Duration> = runtime.block_on(async {
        let mut trips = Vec::new();
        for _ in 0..2000 {
            let before = events.received.load(Ordering::Acquire);
            let began = Instant::now();
            peer.send(Lane::Unicast, Bytes::from_static(b"there and back")).unwrap();
            while events.received.load(Ordering::Acquire) == before {
                events.changed.notified().await;
            }
            trips.push(began.elapsed());
            // A message that follows a pause goes at once; one in a burst waits for its batch.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        trips
    });
    trips.sort_unstable();
    let at = |share: f64| trips[(trips.len() as f64 * share) as usize].as_micros();
    println!("\nsingle message there and back: p50 {} us, p99 {} us", at(0.5), at(0.99));

    let (far_cpu, cpu) = (far.figures().0, cpu_s());
    runtime.block_on(pause(Duration::from_secs(20)));
    let (cpu, far_cpu) = (cpu_s() - cpu, far.figures().0 - far_cpu);
    println!("idle link: {:.2} and {:.2} ms CPU per second", cpu * 50.0, far_cpu * 50.0);
    println!("{:?}", peer.status());
}
