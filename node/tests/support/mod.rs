//! A node as its operators run it: the binary in a process of its own, a config file, a data
//! directory, killed by its process id. Its log is shown when the test fails.
#![allow(dead_code, unused_imports, reason = "no test uses all of it")]
#![allow(clippy::disallowed_methods, reason = "tests wait for what they spawn")]

pub mod client;
pub mod http;
pub mod raw_link;
pub mod witness;

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use client::Client;
pub use http::{Key, Reply};

/// The admin token of every node here.
pub const ADMIN: &str = "the-administrators-token";

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A node process, or the place of one that was killed.
pub struct Node {
    pub http: SocketAddr,
    pub terminals: SocketAddr,
    pub directory: tempfile::TempDir,
    environment: Vec<(String, String)>,
    entry: Vec<String>,
    child: Option<Child>,
}

impl Node {
    /// A node with these lines in its config.
    pub async fn start(config: &str) -> Self {
        let mut node = Self::prepare(config);
        let made = node.command(&["store", "init", "node.toml"]);
        assert!(made.status.success(), "{made:?}");
        node.boot();
        node
    }

    /// A directory with a config, and no store yet. The node has a loopback address of its own, so
    /// that nobody takes its ports while it is down.
    pub fn prepare(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("node.toml"), config).unwrap();
        let any = SocketAddr::from((own_address(), 0));
        let (environment, entry) = (Vec::new(), Vec::new());
        Self { http: any, terminals: any, directory, environment, entry, child: None }
    }

    /// Sets an environment variable for the next processes.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The next processes are run by this command.
    pub fn enter(&mut self, entry: Vec<String>) {
        self.entry = entry;
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn store_path(&self) -> PathBuf {
        self.path("clarion-data")
    }

    fn clarion(&self) -> Command {
        let words = self.entry.iter().map(String::as_str);
        let mut words = words.chain([env!("CARGO_BIN_EXE_clarion")]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .current_dir(self.directory.path())
            .env("CLARION_ADMIN_TOKEN", ADMIN)
            .env("CLARION_HTTP__LISTEN", self.http.to_string())
            .env("CLARION_TERMINALS__LISTEN", self.terminals.to_string())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of the binary to its end.
    pub fn command(&self, arguments: &[&str]) -> Output {
        self.clarion().args(arguments).output().unwrap()
    }

    /// Starts the process and waits until it says that it serves.
    pub fn boot(&mut self) {
        if let Err(output) = self.try_boot() {
            panic!("the node did not start: {output}");
        }
    }

    /// Starts the process; says how it ended when it did not come to serve.
    pub fn try_boot(&mut self) -> Result<(), String> {
        assert!(self.child.is_none(), "the node runs");
        let mut log = std::fs::File::options();
        let log = log.create(true).append(true).open(self.path("log")).unwrap();
        let mut child = self
            .clarion()
            .args(["--json", "start", "node.toml"])
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            let status = child.wait().unwrap();
            return Err(format!("{status}: {line}{}", self.log()));
        };
        let address = |name: &str| {
            let url = ready[name].as_str().unwrap();
            url.rsplit('/').next().unwrap().parse().unwrap()
        };
        (self.http, self.terminals) = (address("http"), address("terminals"));
        self.child = Some(child);
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let asked = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(asked.success());
        child.wait().unwrap().code()
    }

    /// Waits for the process to end by itself.
    pub async fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let status = wait_for("the end of the process", || child.try_wait().unwrap()).await;
        status.code()
    }

    /// Whether the process is there.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Resident memory, bytes: what it allocated, without the program itself.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Open sockets of the process.
    pub fn sockets(&self) -> usize {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        let target = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
        let targets = entries.flatten().filter_map(target);
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    pub fn link_url(&self) -> String {
        format!("ws://{}/v1/link", self.terminals)
    }

    pub async fn get(&self, path: &str) -> Reply {
        http::send(self.http, "GET", path, &[], None).await
    }

    /// A request with the admin token; must succeed.
    pub async fn admin(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let bearer = format!("Bearer {ADMIN}");
        let body = body.map(|body| body.to_string());
        let headers = [("authorization", bearer.as_str())];
        let reply = http::send(self.http, method, path, &headers, body.as_deref()).await;
        assert!((200..300).contains(&reply.status), "{method} {path}: {reply:?}");
        reply.json()
    }

    /// Makes a product.
    pub async fn product(&self, name: &str) -> Key {
        self.product_with(json!({ "product": name })).await
    }

    pub async fn product_with(&self, product: Value) -> Key {
        let made = self.admin("POST", "/v1/products", Some(product)).await;
        Key::of(&made)
    }

    /// A signed push; whatever is answered.
    pub async fn try_push(&self, key: &Key, push: Value) -> Reply {
        let (path, body) = (key.path("/messages"), push.to_string());
        let signature = key.sign("POST", &self.url(&path), Some(&body));
        let headers = [("authorization", signature.as_str())];
        http::send(self.http, "POST", &path, &headers, Some(&body)).await
    }

    /// A signed push that is accepted; its answer.
    pub async fn push(&self, key: &Key, push: Value) -> Value {
        let reply = self.try_push(key, push).await;
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.json()
    }

    /// A push of a number to a terminal.
    pub async fn push_number(&self, key: &Key, terminal: &str, n: u64) -> Value {
        self.push(key, json!({ "audience": { "terminals": [terminal] }, "payload": n })).await
    }

    /// A push of a number to a topic.
    pub async fn push_topic(&self, key: &Key, topic: &str, n: u64) -> Value {
        self.push(key, json!({ "audience": { "topic": topic }, "payload": n })).await
    }

    /// A terminal's token.
    pub async fn token(&self, key: &Key, request: Value) -> String {
        let minted = self.admin("POST", &key.path("/tokens"), Some(request)).await;
        minted["token"].as_str().unwrap().to_owned()
    }

    /// The sum of a metric over its labels; 0 while it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.body;
        let of_name = |line: &&str| line.split([' ', '{']).next() == Some(name);
        let value = |line: &str| line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok());
        text.lines().filter(of_name).filter_map(value).sum()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(16_000);
            let tail = log.ceil_char_boundary(tail);
            eprintln!("---- the node's log\n{}\n----", &log[tail..]);
        }
    }
}

/// Loopback has 16 million addresses: one for each node of each test process.
fn own_address() -> Ipv4Addr {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let node = NEXT.fetch_add(1, Ordering::Relaxed) % 16;
    let [_, high, middle, low] = (((pid % 0xE_FFFF) << 4 | node) + 0x1_0000).to_be_bytes();
    Ipv4Addr::new(127, high.max(1), middle, low.clamp(1, 254))
}

/// Waits until `condition` has something to give.
pub async fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until an asynchronous `condition` holds.
pub async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < until, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A file beside the tests.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// The specification of the protocol.
pub fn specification() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/protocol/README.md");
    std::fs::read_to_string(path).unwrap()
}
