//! HAProxy in front of nodes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::{LaunchError, Node, Process, http, wait};

/// How long it may take until it listens.
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// A running HAProxy. Its config is an ordinary one; addresses come from the environment
/// (`PROXY_HTTP`, `PROXY_TERMINALS`, and for each node `NODE_1_HTTP` and so on).
#[derive(Debug)]
pub struct HaProxy {
    process: Process,
    http: SocketAddr,
    terminals: SocketAddr,
}

/// What a proxy is to be like.
#[derive(Debug, Clone)]
pub struct ProxySpec {
    /// Its name.
    pub name: String,
    /// Where its files go; is made.
    pub directory: PathBuf,
    /// Its config.
    pub config: PathBuf,
    /// Where back-ends connect.
    pub http: SocketAddr,
    /// Where terminals connect.
    pub terminals: SocketAddr,
    /// A command that runs it in its own place; mostly empty.
    pub entry: Vec<String>,
    /// See [`Process::own_group`].
    pub own_group: bool,
}

impl HaProxy {
    /// Starts it before these nodes, and waits until it listens.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn start(spec: ProxySpec, nodes: &[Node]) -> Result<Self, LaunchError> {
        let ProxySpec { name, directory, config, http, terminals, entry, own_group } = spec;
        let at = directory.display();
        std::fs::create_dir_all(&directory)
            .map_err(LaunchError::of(format!("cannot make {at}")))?;
        let program =
            if Path::new("/usr/sbin/haproxy").exists() { "/usr/sbin/haproxy" } else { "haproxy" };
        // `-db`: in the foreground.
        let mut process = Process::new(&name, program, &directory.join("log"))
            .arguments(["-db".as_ref(), "-f".as_ref(), config.as_os_str()])
            .entered_by(entry)
            .own_group(own_group);
        process.set_environment("PROXY_HTTP", Some(&http.to_string()));
        process.set_environment("PROXY_TERMINALS", Some(&terminals.to_string()));
        for node in nodes {
            let name = variable(node.name());
            let mut set = |what: &str, value: &str| {
                process.set_environment(&format!("{name}_{what}"), Some(value));
            };
            set("HTTP", &node.http_addr().to_string());
            set("HTTP_PORT", &node.http_addr().port().to_string());
            if let Some(terminals) = node.terminals_addr() {
                set("TERMINALS", &terminals.to_string());
            }
        }
        let mut proxy = Self { process, http, terminals };
        proxy.restart().await?;
        Ok(proxy)
    }

    /// Starts it again after it ended, and waits until it listens.
    ///
    /// # Errors
    /// When it runs, or does not listen in time.
    pub async fn restart(&mut self) -> Result<(), LaunchError> {
        self.process.start().map_err(|error| {
            error.with("`haproxy` must be installed (Debian: apt install haproxy)")
        })?;
        let what = format!("{} listens", self.process.name());
        let listens = wait::until(what, READY_DEADLINE, async || {
            if self.process.must_run().is_err() {
                return Ok(());
            }
            TcpStream::connect(self.terminals).await.map(drop).map_err(LaunchError::of("connect"))
        });
        listens.await.map_err(|error| error.with(self.process.failure("does not listen")))?;
        self.process.must_run()
    }

    /// That it passes a request on to a node that is ready for pushes.
    ///
    /// # Errors
    /// When it does not.
    pub async fn passes(&self) -> Result<(), LaunchError> {
        let answer = http::request("GET", self.http, "/readyz?door=push", None).await?;
        if answer.status == 200 {
            return Ok(());
        }
        let (name, status) = (self.process.name(), answer.status);
        Err(LaunchError::new(format!("{name} answers {status} {}", answer.body)))
    }

    /// Where back-ends connect.
    #[must_use]
    pub const fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Where terminals connect.
    #[must_use]
    pub const fn terminals_addr(&self) -> SocketAddr {
        self.terminals
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
}

/// A node's name as part of a variable's: capitals, `_` for all but letters and digits.
fn variable(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_become_variables() {
        assert_eq!(super::variable("node-1"), "NODE_1");
    }
}
