//! Clients in other languages, as processes: they take orders as lines of JSON and tell what
//! happens in the same way.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::{Key, Node, PATIENCE, file};

/// A running client. It is killed when it is dropped.
pub struct Client {
    child: Child,
    orders: ChildStdin,
    events: Lines<BufReader<ChildStdout>>,
    told: Vec<Value>,
}

/// The interpreter with the libraries that strangers use.
pub fn python() -> PathBuf {
    PathBuf::from(needed("CLARION_TEST_PYTHON"))
}

fn needed(variable: &str) -> std::ffi::OsString {
    std::env::var_os(variable).unwrap_or_else(|| {
        panic!(
            "{variable} is not set: run the tests with `.ci/run`, or run `.ci/run python node` \
             once and set it (CLARION_TEST_PYTHON=target/venv/bin/python, \
             CLARION_TEST_NODE_MODULES=target/npm/node_modules, as absolute paths)"
        )
    })
}

impl Client {
    /// A script of `clients/` in Python.
    pub fn python(script: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(python());
        command.arg("-u").arg(file("clients").join(script)).args(arguments);
        Self::run(command)
    }

    /// A terminal of a product, running; `options` go over those of the client.
    pub async fn terminal(node: &Node, key: &Key, name: &str, options: Value) -> Self {
        let request = json!({ "terminal": name, "user": "alice", "topics": ["news", "quiet:*"] });
        let token = node.token(key, request).await;
        Self::terminal_with(node, key, &token, options)
    }

    /// The same with a given token.
    pub fn terminal_with(node: &Node, key: &Key, token: &str, options: Value) -> Self {
        let mut all = json!({ "url": node.link_url(), "product": key.product, "token": token });
        all.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        Self::python("terminal.py", &[&all.to_string()])
    }

    /// A script of `clients/` in JavaScript.
    pub fn javascript(script: &str) -> Self {
        let mut command = Command::new("node");
        command.arg(file("clients").join(script));
        command.env("NODE_PATH", needed("CLARION_TEST_NODE_MODULES"));
        Self::run(command)
    }

    fn run(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{error}: {command:?}"));
        let orders = child.stdin.take().unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, orders, events, told: Vec::new() }
    }

    /// Gives an order.
    pub async fn tell(&mut self, order: Value) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
        self.orders.flush().await.unwrap();
    }

    /// What the client tells next.
    pub async fn event(&mut self) -> Value {
        let line = match timeout(PATIENCE, self.events.next_line()).await {
            Ok(line) => line.unwrap(),
            Err(_) => panic!("the client tells nothing more; it told {}", self.account()),
        };
        let line = line.unwrap_or_else(|| panic!("the client ended; it told {}", self.account()));
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.told.push(event.clone());
        event
    }

    /// Gives an order and waits for what is told next.
    pub async fn ask(&mut self, order: Value) -> Value {
        self.tell(order).await;
        self.event().await
    }

    /// The next event of a kind; those before it are passed over.
    pub async fn next(&mut self, kind: &str) -> Value {
        loop {
            let event = self.event().await;
            if event["event"] == kind {
                return event;
            }
        }
    }

    /// The payloads of the next `count` messages, as numbers; of those that came before, too, when
    /// `repeats` is set.
    pub async fn numbers(&mut self, count: usize, repeats: bool) -> Vec<u64> {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let message = self.next("message").await;
            if repeats || message["known"] == false {
                numbers.push(message["d"].as_u64().unwrap_or_else(|| panic!("{message}")));
            }
        }
        numbers
    }

    /// Everything told so far, a line each.
    pub fn account(&self) -> String {
        self.told.iter().map(|event| format!("\n  {event}")).collect()
    }

    /// What has been told so far.
    pub fn told(&self) -> &[Value] {
        &self.told
    }

    /// SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}
