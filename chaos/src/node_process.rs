//! A node as a process of its own, which can be killed and started again on the same data and the
//! same addresses.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
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

/// A node and where its files are.
#[derive(Debug)]
pub struct NodeProcess {
    binary: PathBuf,
    directory: PathBuf,
    faults: Option<String>,
    token: String,
    at: Option<Addresses>,
    child: Option<Child>,
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
        let mut node = Self {
            binary,
            directory: directory.to_owned(),
            faults: faults.map(str::to_owned),
            token: (0..32).map(|_| fastrand::alphanumeric()).collect(),
            at: None,
            child: None,
        };
        std::fs::write(node.config(), config).map_err(Failure::of("cannot write the config"))?;
        let init = node.command(&["store", "init"])?.status().await;
        let init = init.map_err(Failure::of("cannot run `clarion store init`"))?;
        if !init.success() {
            return Err(node.failure(&format!("`clarion store init` ended with {init}")));
        }
        node.start().await?;
        Ok(node)
    }

    /// Starts it, and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it is not ready in time, or ends.
    pub async fn start(&mut self) -> Result<(), Failure> {
        self.spawn()?;
        let ready = async {
            if self.at.is_none() {
                self.at = Some(self.told_addresses().await?);
            }
            while !self.get("/readyz").await.is_ok_and(|answer| answer.starts_with(OK)) {
                self.must_run()?;
                sleep(LOOK_AGAIN).await;
            }
            Ok(())
        };
        match timeout(READY_DEADLINE, ready).await {
            Ok(done) => done,
            Err(_) => Err(self.failure("the node is not ready in time")),
        }
    }

    /// Starts it and kills it after this time, wherever it is in its start.
    ///
    /// # Errors
    /// When it cannot be started, or ended by itself.
    pub async fn start_and_kill(&mut self, after: Duration) -> Result<(), Failure> {
        self.spawn()?;
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

    fn spawn(&mut self) -> Result<(), Failure> {
        let mut command = self.command(&["--json", "start"])?;
        if let Some(at) = self.at {
            command.env("CLARION_HTTP__LISTEN", at.http.to_string());
            command.env("CLARION_TERMINALS__LISTEN", at.terminals.to_string());
        } else {
            command.stdout(Stdio::piped());
        }
        self.child = Some(command.spawn().map_err(Failure::of("cannot start clarion"))?);
        Ok(())
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When it was gone before.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        self.must_run()?;
        if let Some(mut child) = self.child.take() {
            child.kill().await.map_err(Failure::of("cannot kill the node"))?;
        }
        Ok(())
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
        let ended = match &mut self.child {
            Some(child) => child.try_wait().map_err(Failure::of("cannot look at the node"))?,
            None => return Err(self.failure("the node is not started")),
        };
        match ended {
            Some(status) => Err(self.failure(&format!("the node ended by itself: {status}"))),
            None => Ok(()),
        }
    }

    fn config(&self) -> PathBuf {
        self.directory.join("node.toml")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("node.log")
    }

    fn command(&self, arguments: &[&str]) -> Result<Command, Failure> {
        let log = File::options().append(true).create(true).open(self.log());
        let log = log.map_err(Failure::of("cannot write the node's log"))?;
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg(self.config()).env("CLARION_ADMIN_TOKEN", &self.token);
        command.env_remove("CLARION_FAULTS");
        if let Some(faults) = &self.faults {
            command.env("CLARION_FAULTS", faults);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        Ok(command)
    }

    async fn told_addresses(&mut self) -> Result<Addresses, Failure> {
        let stdout = self.child.as_mut().and_then(|child| child.stdout.take());
        let stdout = stdout.ok_or_else(|| Failure::new("the node has no output"))?;
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line).await;
        read.map_err(Failure::of("cannot read from the node"))?;
        let told = serde_json::from_str::<ReadyLine>(&line)
            .map_err(|error| self.failure(&format!("the node says {line:?}: {error}")))?;
        let address = |url: &str| {
            let address = url.split("//").last().unwrap_or(url);
            address.parse().map_err(Failure::of("the node tells an address that is none"))
        };
        Ok(Addresses { http: address(&told.http)?, terminals: address(&told.terminals)? })
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

    /// A failure with the end of the node's log.
    fn failure(&self, what: &str) -> Failure {
        const LINES: usize = 20;
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LINES)..].join("\n");
        Failure::new(format!("{what}; its log ({}) ends:\n{tail}", self.log().display()))
    }
}
