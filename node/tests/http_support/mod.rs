//! A node's HTTP door over a store in memory, and a client that sends exactly what a test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clarion_actors::System;
use clarion_config::Config;
use clarion_node::http::{AdminToken, bind, serve};
use clarion_node::neighbours::{Myself, Neighbours};
use clarion_protocol::Code;
use clarion_protocol::http::{ApiKeyInfo, ProductInfo};
use clarion_protocol::oauth::{SignRequest, sign};
use clarion_storage::Store as _;
use clarion_storage::memory::MemoryStore;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const ADMIN: &str = "the-administrators-token";

/// A running door.
pub struct Node {
    pub address: SocketAddr,
    pub store: Arc<MemoryStore>,
    pub system: System,
    shutdown: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

/// A product's first key, or a later one.
#[derive(Clone)]
pub struct Key {
    pub product: String,
    pub key: String,
    pub secret: String,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Node {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(tune: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        tune(&mut config);
        let config = Arc::new(config);
        let store = Arc::new(MemoryStore::new());
        let system = System::start(Arc::clone(&config), store.clone()).await.unwrap();
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, down) = oneshot::channel::<()>();
        let (serving_system, token) = (system.clone(), AdminToken::new(ADMIN));
        let serving = tokio::spawn(async move {
            let metrics = Arc::new(|| "clarion_up 1\n".to_owned());
            let down = async { drop(down.await) };
            let neighbours = Neighbours::none(Myself {
                id: config.node.id.clone(),
                roles: config.node.roles.iter().map(|role| role.as_str().to_owned()).collect(),
                group: config.node.isolation_group.clone(),
                http_url: format!("http://{address}"),
                terminals_url: Some("ws://127.0.0.1:8081".to_owned()),
            });
            serve(serving_system, config, neighbours, token, metrics, listener, down)
                .await
                .unwrap();
        });
        Self { address, store, system, shutdown: Some(shutdown), serving }
    }

    /// Tells the door to stop.
    pub fn shut_down(&mut self) {
        drop(self.shutdown.take());
    }

    /// Waits until it has.
    pub async fn stopped(self) {
        self.serving.await.unwrap();
    }

    pub async fn connect(&self) -> Connection {
        Connection(TcpStream::connect(self.address).await.unwrap())
    }

    /// One request on a connection of its own.
    pub async fn send(&self, request: Request) -> Reply {
        self.connect().await.send(request).await
    }

    pub async fn admin(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        let request =
            Request::new(method, path).header("authorization", &format!("Bearer {ADMIN}"));
        self.send(match body {
            Some(body) => request.json(&body.to_string()),
            None => request,
        })
        .await
    }

    /// Creates a product and answers with its key.
    pub async fn product(&self, body: Value) -> Key {
        let reply = self.admin("POST", "/v1/products", Some(body)).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        let product: ProductInfo = serde_json::from_str(&reply.body).unwrap();
        Key::of(product.product.as_str(), &product.api_keys[0])
    }

    pub async fn demo(&self) -> Key {
        self.product(json!({ "product": "demo" })).await
    }

    /// The URL of a path, as clients sign it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn now_s(&self) -> u64 {
        self.store.time_ms() / 1000
    }

    /// The `Authorization` header of a request.
    pub fn signature(&self, key: &Key, method: &str, path: &str, body: Option<&str>) -> String {
        self.signature_with(key, method, path, body, &nonce(), self.now_s())
    }

    pub fn signature_with(
        &self,
        key: &Key,
        method: &str,
        path: &str,
        body: Option<&str>,
        nonce: &str,
        timestamp: u64,
    ) -> String {
        let url = self.url(path);
        let body = body.map(str::as_bytes);
        let (key, secret) = (&*key.key, &*key.secret);
        sign(&SignRequest { method, url: &url, body, key, secret, nonce, timestamp })
    }

    /// A signed request.
    pub fn signed(&self, key: &Key, method: &str, path: &str, body: Option<&str>) -> Request {
        let signature = self.signature(key, method, path, body);
        let request = Request::new(method, path).header("authorization", &signature);
        match body {
            Some(body) => request.json(body),
            None => request,
        }
    }

    /// A signed push.
    pub fn push(&self, key: &Key, body: &str) -> Request {
        self.signed(key, "POST", &key.messages(), Some(body))
    }
}

/// Never the same twice in a process.
pub fn nonce() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("nonce-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Key {
    pub fn of(product: &str, key: &ApiKeyInfo) -> Self {
        let secret = key.secret.clone().unwrap();
        Self { product: product.to_owned(), key: key.key.to_string(), secret }
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/v1/products/{}{rest}", self.product)
    }

    pub fn messages(&self) -> String {
        self.path("/messages")
    }
}

/// A request, byte by byte.
#[derive(Clone)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        let (method, path) = (method.to_owned(), path.to_owned());
        Self { method, path, headers: Vec::new(), body: String::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn json(self, body: &str) -> Self {
        self.header("content-type", "application/json").body(body)
    }

    pub fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| n != name);
        self
    }
}

/// One connection of a client.
pub struct Connection(pub TcpStream);

impl Connection {
    pub async fn write(&mut self, request: &Request) {
        let Request { method, path, headers, body } = request;
        let host = self.0.peer_addr().unwrap();
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            text += &format!("content-length: {}\r\n", body.len());
        }
        text += "\r\n";
        text += body;
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    pub async fn read(&mut self) -> Reply {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("an answer"));
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length = length.map_or(0, |(_, value)| value.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        Reply { status, headers, body: String::from_utf8(body).unwrap() }
    }

    pub async fn send(&mut self, request: Request) -> Reply {
        self.write(&request).await;
        self.read().await
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Asserts that this is a complete problem document of `code`.
    #[track_caller]
    pub fn refuses(&self, code: Code) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code.as_str(), "{problem}");
        assert_eq!(problem["status"], code.http_status(), "{problem}");
        assert_eq!(self.status, code.http_status(), "{problem}");
        assert_eq!(problem["retryable"], code.retryable(), "{problem}");
        assert_eq!(problem["doc_url"], format!("/docs/codes#{code}"), "{problem}");
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"), "{problem}");
        let retry_after = self.header("retry-after").map(|text| text.parse::<u32>().unwrap());
        assert_eq!(retry_after.is_some(), code.retryable(), "{problem}");
        assert!(retry_after.is_none_or(|seconds| seconds >= 1), "{problem}");
        assert_eq!(problem["retry_after_s"].as_u64(), retry_after.map(u64::from), "{problem}");
        let challenged = self.header("www-authenticate").is_some();
        assert_eq!(challenged, self.status == 401, "{problem}");
        problem
    }
}
