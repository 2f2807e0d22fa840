//! The node that is measured: a child of the bench with a data directory of its own, or one that
//! runs already. What it uses is read from `/proc`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::Common;
use crate::cli::connection::Connection;
use crate::cli::credentials::random_secret;
use crate::cli::exit::Failure;
use crate::telemetry::ProcessUsage;

/// Defaults, but for what would make the bench measure a limit instead of the node.
const CONFIG: &str = r#"
[node]
id = "bench"
drain_timeout_ms = 2000
[http]
listen = "127.0.0.1:0"
[terminals]
listen = "127.0.0.1:0"
links_per_ip_max = 0
accepts_per_s_max = 1000000
[session]
# Every link is heard of each 30 s, so that idle CPU is that of this heartbeat.
heartbeat_min_ms = 30000
heartbeat_max_ms = 30000
[limits]
push_window = 4096
pushes_in_flight_max = 65536
[log]
level = "warn"
"#;

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A node to measure.
pub(super) struct Node {
    pub(super) connection: Connection,
    child: Option<Child>,
    pid: Option<u32>,
    /// Where a node that was started here keeps everything, and its admin token.
    own: Option<(PathBuf, String)>,
}

#[derive(Deserialize)]
struct Ready {
    http: String,
    terminals: String,
}

impl Node {
    /// Starts a node, or finds the one that runs.
    pub(super) async fn of(common: &Common) -> Result<Self, Failure> {
        if common.running {
            let connection = Connection::find(&common.connection)?;
            return Ok(Self { connection, child: None, pid: common.pid, own: None });
        }
        Self::spawn(&common.data).await
    }

    async fn spawn(parent: &Path) -> Result<Self, Failure> {
        let directory = parent.join(format!("clarion-bench-{}", std::process::id()));
        let failed = |error: &dyn std::fmt::Display| {
            Failure::local(format!("cannot start a node in {}", directory.display()), error)
        };
        std::fs::create_dir_all(&directory).map_err(|error| failed(&error))?;
        let config = directory.join("node.toml");
        let path = serde_json::Value::from(directory.join("data").to_string_lossy().into_owned());
        std::fs::write(&config, format!("{CONFIG}[store]\npath = {path}\n"))
            .map_err(|error| failed(&error))?;
        let token = random_secret();
        let mut init = command(&["store", "init"], &config, &token)?;
        let init = init.status().await.map_err(|error| failed(&error))?;
        if !init.success() {
            return Err(failed(&format!("`clarion store init` ended with {init}")));
        }
        Self::start(directory, token).await
    }

    /// Starts a node on what is in `directory`.
    async fn start(directory: PathBuf, token: String) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::local(format!("cannot start a node in {}", directory.display()), error)
        };
        let mut start = command(&["--json", "start"], &directory.join("node.toml"), &token)?;
        let mut child = start.spawn().map_err(|error| failed(&error))?;
        let stdout = child.stdout.take().ok_or_else(|| failed(&"no pipe"))?;
        let mut line = String::new();
        timeout(READY_TIMEOUT, BufReader::new(stdout).read_line(&mut line))
            .await
            .map_err(|_| failed(&"it is not ready after a minute"))?
            .map_err(|error| failed(&error))?;
        let ready: Ready = serde_json::from_str(&line).map_err(|error| failed(&error))?;
        let connection = Connection::to(&ready.http, &ready.terminals, token.clone());
        let pid = child.id();
        Ok(Self { connection, child: Some(child), pid, own: Some((directory, token)) })
    }

    /// Stops the node that was started here and starts it again on its data: what it holds then
    /// is what its terminals cost, not what it once wrote for them. A node that runs elsewhere is
    /// left alone.
    pub(super) async fn restart(&mut self) -> Result<(), Failure> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        end(&mut child).await?;
        if let Some((directory, token)) = self.own.take() {
            *self = Self::start(directory, token).await?;
        }
        Ok(())
    }

    /// What the node used up to now; none when its process is not known.
    pub(super) fn usage(&self) -> Option<ProcessUsage> {
        ProcessUsage::of(self.pid?).ok()
    }

    /// The node's use when its memory has stopped moving: two readings a second apart within 1 %.
    pub(super) async fn settled(&self) -> Option<ProcessUsage> {
        const MOVE_MAX: u64 = 100;
        let mut before = self.usage()?;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.usage()?;
            let moved = now.resident_bytes.abs_diff(before.resident_bytes);
            let worked = now.cpu_s - before.cpu_s > 0.05;
            if (moved < now.resident_bytes / MOVE_MAX && !worked) || Instant::now() > deadline {
                return Some(now);
            }
            before = now;
        }
    }

    /// Stops the node that was started, and removes what it wrote.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        match self.child.take() {
            Some(mut child) => end(&mut child).await,
            None => Ok(()),
        }
    }
}

async fn end(child: &mut Child) -> Result<(), Failure> {
    terminate(child);
    if timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        child.kill().await.map_err(|error| Failure::local("cannot stop the node", error))?;
    }
    Ok(())
}

/// This program with these arguments on a config.
fn command(arguments: &[&str], config: &Path, token: &str) -> Result<Command, Failure> {
    let binary = std::env::current_exe()
        .map_err(|error| Failure::local("cannot find the program itself", error))?;
    let mut command = Command::new(binary);
    command.args(arguments).arg(config).env("CLARION_ADMIN_TOKEN", token);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Only when the bench failed or was interrupted; it may have ended by itself.
            let _ = child.start_kill();
        }
        if let Some((directory, _)) = &self.own {
            // What is left over is in a directory for temporary files.
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

fn terminate(child: &Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        // It may have ended by itself; waiting for it tells.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}
