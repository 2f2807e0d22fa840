//! A node as a process of its own, which can be killed and started again on the same data and the
//! same addresses.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clarion_launch::Process;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::Failure;
use crate::workload::{Door, Doors, Patience};

/// How long a node may take until it is ready, its recovery included.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// How a good answer begins.
const OK: &str = "HTTP/1.1 200";

/// The pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Clients take their ports from 127.0.0.1, the node from another address: none of them can take
/// the node's port while it is down, nor connect to itself there.
const ADDRESS: &str = "127.0.0.2:0";

/// The place of the program in its command: nothing stands before it.
const PROGRAM_AT: usize = 0;

/// A node and where its files are. It ends with this, and with the program that started it, however
/// that ends.
#[derive(Debug)]
pub struct NodeProcess {
    process: Process,
    token: String,
    at: Option<Addresses>,
}

/// Where a node listens.
#[derive(Debug, Clone, Copy)]
struct Addresses {
    http: SocketAddr,
    terminals: SocketAddr,
}

/// What `clarion --json start` says once.
#[derive(Deserialize)]
struct ReadyLine {
    http: String,
    terminals: String,
}

impl NodeProcess {
    /// Makes config and store in `directory` and starts the node. `settings` is added to the
    /// config, `faults` is the value of `CLARION_FAULTS`.
    ///
    /// # Errors
    /// When that fails, or the node is not ready in time.
    pub async fn create(
        binary: PathBuf,
        directory: &Path,
        settings: &str,
        faults: Option<&str>,
    ) -> Result<Self, Failure> {
        let data = serde_json::Value::from(directory.join("data").to_string_lossy().into_owned());
        let config = format!(
            "[http]\nlisten = \"{ADDRESS}\"\n[terminals]\nlisten = \"{ADDRESS}\"\n\
             [store]\npath = {data}\nfree_bytes_min = 0\n{settings}"
        );
        let file = directory.join("node.toml");
        std::fs::write(&file, config).map_err(Failure::of("cannot write the config"))?;
        let token: String = (0..32).map(|_| fastrand::alphanumeric()).collect();
        let process = Process::new("the node", binary, &directory.join("node.log"))
            .arguments(["--json", "start"])
            .arguments([&file])
            .environment("CLARION_ADMIN_TOKEN", Some(&token))
            .environment("CLARION_FAULTS", faults);
        let init = [OsStr::new("store"), OsStr::new("init"), file.as_os_str()];
        process.run_once(init, PROGRAM_AT).await?;
        let mut node = Self { process, token, at: None };
        node.start().await?;
        Ok(node)
    }

    /// Starts it, and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it is not ready in time, or ends.
    pub async fn start(&mut self) -> Result<(), Failure> {
        let ready = async {
            if self.at.is_some() {
                self.process.start()?;
            } else {
                self.start_anywhere().await?;
            }
            while !self.get("/readyz").await.is_ok_and(|answer| answer.starts_with(OK)) {
                self.must_run()?;
                sleep(LOOK_AGAIN).await;
            }
            Ok(())
        };
        match timeout(READY_DEADLINE, ready).await {
            Ok(done) => done,
            Err(_) => Err(self.process.failure("is not ready in time").into()),
        }
    }

    /// Starts it and kills it after this time, wherever it is in its start.
    ///
    /// # Errors
    /// When it cannot be started, or ended by itself.
    pub async fn start_and_kill(&mut self, after: Duration) -> Result<(), Failure> {
        self.process.start()?;
        sleep(after).await;
        self.kill().await
    }

    /// The value of a counter of the node; 0 if it has none.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn counter(&self, name: &str) -> Result<u64, Failure> {
        let answer = self.get("/metrics").await.map_err(Failure::of("cannot read /metrics"))?;
        let values = answer.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(values.filter_map(|value| value.trim().parse::<u64>().ok()).sum())
    }

    /// Starts it at addresses that it chooses, and keeps them for later starts.
    async fn start_anywhere(&mut self) -> Result<(), Failure> {
        let output = self.process.start_with_output()?;
        let output = output.ok_or_else(|| Failure::new("the node has no output"))?;
        let mut line = String::new();
        let read = BufReader::new(output).read_line(&mut line).await;
        read.map_err(Failure::of("cannot read from the node"))?;
        let told = serde_json::from_str::<ReadyLine>(&line)
            .map_err(|error| self.process.failure(&format!("says {line:?}: {error}")))?;
        let address = |url: &str| {
            let address = url.split("//").last().unwrap_or(url);
            address.parse().map_err(Failure::of("the node tells an address that is none"))
        };
        let at = Addresses { http: address(&told.http)?, terminals: address(&told.terminals)? };
        let (http, terminals) = (at.http.to_string(), at.terminals.to_string());
        self.process.set_environment("CLARION_HTTP__LISTEN", Some(&http));
        self.process.set_environment("CLARION_TERMINALS__LISTEN", Some(&terminals));
        self.at = Some(at);
        Ok(())
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When it was gone before.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        self.must_run()?;
        Ok(self.process.kill().await?)
    }

    /// The base URL of the HTTP API.
    #[must_use]
    pub fn http_url(&self) -> String {
        self.at.map_or_else(String::new, |at| format!("http://{}", at.http))
    }

    /// The URL of the terminals' listener.
    #[must_use]
    pub fn terminals_url(&self) -> String {
        self.at.map_or_else(String::new, |at| format!("ws://{}", at.terminals))
    }

    /// How the load reaches it.
    #[must_use]
    pub fn doors(&self) -> Doors {
        Doors {
            http: vec![Door::new("node", self.http_url())],
            terminals: vec![Door::new("node", self.terminals_url())],
            admin_token: self.token.clone(),
            patience: Patience::ONE_NODE,
        }
    }

    /// That it runs.
    ///
    /// # Errors
    /// When it ended by itself.
    pub fn must_run(&mut self) -> Result<(), Failure> {
        Ok(self.process.must_run()?)
    }

    /// The whole answer to a request, as text.
    async fn get(&self, path: &str) -> io::Result<String> {
        let at = self.at.ok_or(io::ErrorKind::NotConnected)?.http;
        let mut stream = TcpStream::connect(at).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}
