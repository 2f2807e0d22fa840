//! Starts probes, speaks with them, and waits for what they say.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::probe::{CONFIG, MARK};

/// After this a condition counts as never met. Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(40);
pub const COOKIE: &str = "a cookie of this test";

/// A node in a process of its own; killed when dropped.
pub struct Node {
    pub id: String,
    pub boot: String,
    pub addr: SocketAddr,
    child: Child,
    input: ChildStdin,
    lines: Receiver<Value>,
    /// Events that nobody has waited for yet.
    events: VecDeque<Value>,
}

/// The settings of a probe, to be changed by a test.
pub fn config(id: &str) -> Value {
    json!({
        "id": id,
        "listen": "127.0.0.1:0",
        "cluster": "test",
        "cookie": COOKIE,
        "heartbeat_ms": 750,
    })
}

pub fn with(mut config: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

impl Node {
    pub fn start(config: &Value) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "probe::probe", "--nocapture", "--test-threads=1"])
            .env(CONFIG, config.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(10_000);
        let name = config["id"].to_string();
        std::thread::spawn(move || {
            for line in output.lines() {
                let Ok(line) = line else { return };
                if std::env::var_os("CLARION_PEER_PROBE_SHOW").is_some() {
                    eprintln!("{name}: {line}");
                }
                let line = match line.strip_prefix(MARK) {
                    Some(line) => serde_json::from_str(line).unwrap(),
                    None if line.contains("clarion_cluster") => json!({"log": line}),
                    None => continue,
                };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut node = Self {
            id: config["id"].as_str().unwrap().to_owned(),
            boot: String::new(),
            addr: ([127, 0, 0, 1], 0).into(),
            child,
            input,
            lines,
            events: VecDeque::new(),
        };
        let ready = node.event(|event| event["ready"].is_string());
        node.boot = ready["boot"].as_str().unwrap().to_owned();
        node.addr = ready["ready"].as_str().unwrap().parse().unwrap();
        node
    }

    /// The next event that `is_it`; those before it stay for others.
    pub fn event(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.events.iter().position(&is_it) {
                return self.events.remove(at).unwrap();
            }
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|error| {
                panic!("{}: {error}; had {:?}", self.id, self.events);
            });
            self.events.push_back(line);
        }
    }

    pub fn up(&mut self, peer: &str) -> Value {
        self.event(|event| event["up"] == peer)
    }

    pub fn down(&mut self, peer: &str, refused: bool) -> Value {
        self.event(|event| event["down"] == peer && event["refused"] == refused)
    }

    /// Waits for so many failures to reach a peer; what the last of them said.
    pub fn failures(&mut self, count: usize) -> String {
        let failed = |event: &Value| {
            event["log"].as_str().is_some_and(|line| line.contains("no link peer="))
        };
        let all: Vec<Value> = (0..count).map(|_| self.event(failed)).collect();
        all.last().unwrap()["log"].to_string()
    }

    /// Whether an event of the kind has been told and not been waited for.
    pub fn has(&self, key: &str) -> bool {
        self.events.iter().any(|event| !event[key].is_null())
    }

    pub fn ask(&mut self, command: Value) -> Value {
        writeln!(self.input, "{command}").unwrap();
        self.event(|event| event.get("answer").is_some())["answer"].clone()
    }

    pub fn send(&mut self, peer: &str, lane: u64, count: u64, size: u64) -> Value {
        self.ask(json!({"do": "send", "peer": peer, "lane": lane, "count": count, "size": size}))
    }

    pub fn status(&mut self, peer: &str) -> Value {
        self.ask(json!({"do": "status", "peer": peer}))
    }

    pub fn lane(&mut self, peer: &str, lane: usize) -> Value {
        self.status(peer)["lanes"][lane].clone()
    }

    pub fn want(&mut self, nodes: &[Value]) {
        self.ask(json!({"do": "want", "targets": nodes}));
    }

    /// As a target of others.
    pub fn target(&self) -> Value {
        self.target_at(self.addr)
    }

    /// The same, to be found elsewhere.
    pub fn target_at(&self, addr: SocketAddr) -> Value {
        json!({"id": self.id, "boot": self.boot, "addr": addr.to_string()})
    }

    /// Asks again and again until the answer is as it should be.
    pub fn until(&mut self, command: &Value, is_so: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(command.clone());
            if is_so(&answer) {
                return answer;
            }
            assert!(Instant::now() < until, "{}: last answer {answer}", self.id);
            std::thread::yield_now();
        }
    }

    /// Waits until so many messages were handled on a lane, and checks their order.
    pub fn handled(&mut self, peer: &str, lane: usize, count: u64) {
        let command = json!({"do": "status", "peer": peer});
        let answer = self
            .until(&command, |status| status["lanes"][lane]["received"].as_u64().unwrap() >= count);
        assert_eq!(answer["lanes"][lane]["received"], count);
        assert_eq!(answer["lanes"][lane]["disordered"], 0);
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Ends the process as a crash of the machine's process would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Until the kernel has stopped the process.
    pub fn stop_process(&self) {
        self.signal("-STOP");
        let stat = format!("/proc/{}/stat", self.child.id());
        let until = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Also one that is stopped: SIGKILL does not wait.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two nodes that want each other and have a link; `a` has dialled.
pub fn linked(a: &Value, b: &Value) -> (Node, Node) {
    let (mut a, mut b) = (Node::start(a), Node::start(b));
    let (at_a, at_b) = (a.target(), b.target());
    b.want(&[at_a]);
    a.want(&[at_b]);
    a.up(&b.id.clone());
    b.up(&a.id.clone());
    (a, b)
}
