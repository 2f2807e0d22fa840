//! A node: `clarion start` with a config file of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::{Table, Value};

use crate::http::{self, Answer};
use crate::process::Process;
use crate::{LaunchError, Signal, wait};

/// How long a node may take until it is ready, its recovery included.
pub const READY_DEADLINE: Duration = Duration::from_secs(60);
/// What a node does whose config names no roles.
const ROLES: [&str; 3] = ["gateway", "push", "broker"];
/// Besides the time that its config gives it to say goodbye.
const STOP_MARGIN: Duration = Duration::from_secs(10);
/// Secrets of the environment that would go before the node's files.
const NOT_INHERITED: [&str; 6] = [
    "CLARION_ADMIN_TOKEN",
    "CLARION_COOKIE",
    "CLARION_FAULTS",
    "CLARION_REDIS_PASSWORD",
    "CLARION_REDIS_SENTINEL_PASSWORD",
    "CLARION_NODE__ID",
];

/// What a node is to be like.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Its name and id.
    pub name: String,
    /// Where its files go; is made.
    pub directory: PathBuf,
    /// The program.
    pub program: PathBuf,
    /// Its whole config: `http.listen` at least.
    pub config: Table,
    /// The administrator's token, as the config's file has it.
    pub admin_token: Arc<str>,
    /// A command that runs it in its own place (`ip netns exec NAME`); mostly empty.
    pub entry: Vec<String>,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
    /// See [`Process::own_group`].
    pub own_group: bool,
}

/// A node process, and what is to be known to use it. After a kill it is started again with the
/// same name, config and addresses.
#[derive(Debug)]
pub struct Node {
    process: Process,
    spec: NodeSpec,
    http: SocketAddr,
    terminals: Option<SocketAddr>,
    peers: Option<SocketAddr>,
}

impl Node {
    /// Writes its config; it is not started yet.
    ///
    /// # Errors
    /// When that cannot be written, or names no address of the API.
    pub fn prepare(spec: NodeSpec) -> Result<Self, LaunchError> {
        let NodeSpec { name, directory, program, config, .. } = &spec;
        let at = |section| address(config, section, "listen");
        let http = at("http").ok_or_else(|| LaunchError::new("http.listen is missing"))?;
        let (terminals, peers) = (at("terminals"), at("cluster"));
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(directory)?;
            std::fs::write(directory.join("node.toml"), config.to_string())
        };
        write().map_err(LaunchError::of(format!("cannot write {}", directory.display())))?;
        let mut process = Process::new(name, program, &directory.join("log"))
            .arguments(["start".as_ref(), directory.join("node.toml").as_os_str()])
            .entered_by(&spec.entry)
            .own_group(spec.own_group);
        for name in NOT_INHERITED {
            process.set_environment(name, None);
        }
        for (name, value) in &spec.environment {
            process.set_environment(name, Some(value));
        }
        Ok(Self { process, spec, http, terminals, peers })
    }

    /// Runs `clarion store init` with its config: makes the store, or says that there is one.
    ///
    /// # Errors
    /// When it fails.
    pub async fn init_store(&self) -> Result<(), LaunchError> {
        self.store("init").await
    }

    /// Runs `clarion store restored` with its config: gives a store that was put back from a backup
    /// a new lineage. Nodes must not run meanwhile.
    ///
    /// # Errors
    /// When it fails.
    pub async fn store_restored(&self) -> Result<(), LaunchError> {
        self.store("restored").await
    }

    async fn store(&self, what: &str) -> Result<(), LaunchError> {
        let config = self.config_file();
        let arguments = ["store".as_ref(), what.as_ref(), config.as_os_str()];
        self.process.run_once(arguments, self.spec.entry.len()).await
    }

    /// Starts it; [`Node::wait_ready`] waits for it.
    ///
    /// # Errors
    /// When it runs, or cannot be started.
    pub fn start(&mut self) -> Result<(), LaunchError> {
        self.process.start()
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it does not in time, or ended.
    pub async fn wait_ready(&mut self) -> Result<(), LaunchError> {
        let what = format!("{} ready", self.name());
        let ready = wait::until(what, READY_DEADLINE, async || match self.process.must_run() {
            Err(ended) => Ok(Err(ended)),
            Ok(()) => self.says_ready().await.map(Ok),
        });
        ready.await.map_err(|error| error.with(self.process.failure("is not ready")))?
    }

    /// That it says that it is ready.
    pub(crate) async fn says_ready(&self) -> Result<(), LaunchError> {
        match self.get("/readyz").await? {
            Answer { status: 200, .. } => Ok(()),
            answer => Err(LaunchError::new(format!("{} {}", answer.status, answer.body))),
        }
    }

    /// Starts it again after it ended, and waits until it is ready.
    ///
    /// # Errors
    /// When it runs, or is not ready in time.
    pub async fn restart(&mut self) -> Result<(), LaunchError> {
        self.start()?;
        self.wait_ready().await
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn kill(&mut self) -> Result<(), LaunchError> {
        self.process.kill().await
    }

    /// Ends it in good order (SIGTERM): it drains. Killed when it takes longer than its config
    /// allows; then that is an error. Nothing happens when it does not run.
    ///
    /// # Errors
    /// When it had to be killed, or ended with an error.
    pub async fn stop(&mut self) -> Result<(), LaunchError> {
        if !self.process.is_running() {
            return Ok(());
        }
        // One that hangs goes on to hear it.
        self.signal(Signal::Continue)?;
        self.signal(Signal::Terminate)?;
        self.wait_stopped().await
    }

    /// Waits until it ends in good order after it was asked to; as [`Node::stop`].
    ///
    /// # Errors
    /// When it had to be killed, or ended with an error.
    pub async fn wait_stopped(&mut self) -> Result<(), LaunchError> {
        let drain =
            value(&self.spec.config, "node", "drain_timeout_ms").and_then(Value::as_integer);
        let drain =
            Duration::from_millis(drain.map_or(10_000, |ms| u64::try_from(ms).unwrap_or(0)));
        match self.process.wait(drain + STOP_MARGIN).await? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.process.failure(&format!("ended with {status}"))),
            None => Err(self.process.failure("did not end when it was asked to")),
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<(), LaunchError> {
        self.process.signal(signal)
    }

    /// A page of its API that needs no token.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn get(&self, path: &str) -> Result<Answer, LaunchError> {
        http::request("GET", self.http, path, None).await
    }

    /// A request of the administrator, without a body.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn admin(&self, method: &str, path: &str) -> Result<Answer, LaunchError> {
        http::request(method, self.http, path, Some(&self.spec.admin_token)).await
    }

    /// The sum of a counter or gauge over its labels; 0 if it has none.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn metric(&self, name: &str) -> Result<f64, LaunchError> {
        let answer = self.get("/metrics").await?;
        Ok(answer.body.lines().filter_map(|line| sample(line, name)).sum())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Where its API listens.
    #[must_use]
    pub const fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Where terminals connect; none when it has no such role.
    #[must_use]
    pub const fn terminals_addr(&self) -> Option<SocketAddr> {
        self.terminals
    }

    /// Where other nodes reach it; none when it is alone.
    #[must_use]
    pub const fn peers_addr(&self) -> Option<SocketAddr> {
        self.peers
    }

    /// The base URL of its API.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// The URL of its terminals' listener; empty when it has none.
    #[must_use]
    pub fn terminals_url(&self) -> String {
        self.terminals.map_or_else(String::new, |at| format!("ws://{at}"))
    }

    /// What it does in the cluster.
    #[must_use]
    pub fn roles(&self) -> Vec<&str> {
        let roles = value(&self.spec.config, "node", "roles").and_then(Value::as_array);
        roles.map_or_else(|| ROLES.to_vec(), |all| all.iter().filter_map(Value::as_str).collect())
    }

    /// Whether it has this role.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles().contains(&role)
    }

    /// The token of its administrator.
    #[must_use]
    pub fn admin_token(&self) -> &str {
        &self.spec.admin_token
    }

    /// Its config file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.spec.directory.join("node.toml")
    }

    /// What it was made from.
    #[must_use]
    pub const fn spec(&self) -> &NodeSpec {
        &self.spec
    }

    /// Its process.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// Its process, to change it.
    pub const fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Replaces its program for the next start: an upgrade.
    pub fn set_program(&mut self, program: &Path) {
        self.process.set_program(&self.spec.program, program);
        program.clone_into(&mut self.spec.program);
    }
}

/// A key of a config.
pub(crate) fn value<'a>(config: &'a Table, section: &str, key: &str) -> Option<&'a Value> {
    config.get(section)?.get(key)
}

pub(crate) fn address(config: &Table, section: &str, key: &str) -> Option<SocketAddr> {
    value(config, section, key)?.as_str()?.parse().ok()
}

/// The value of a line of `/metrics`, if it is one of `name`.
fn sample(line: &str, name: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let value = match rest.strip_prefix('{') {
        Some(labels) => labels.rsplit_once('}')?.1,
        None => rest.strip_prefix(' ')?,
    };
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_their_whole_name() {
        assert_eq!(sample("clarion_links 5", "clarion_links"), Some(5.0));
        assert_eq!(sample("clarion_links{kind=\"a} b\"} 7", "clarion_links"), Some(7.0));
        assert_eq!(sample("clarion_links_max 9", "clarion_links"), None);
        assert_eq!(sample("# TYPE clarion_links gauge", "clarion_links"), None);
    }
}
