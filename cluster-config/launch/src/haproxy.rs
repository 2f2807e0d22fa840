//! HAProxy in front of nodes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::{LaunchError, Node, Process, wait};

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

impl HaProxy {
    /// Starts it with this config before these nodes, and waits until it listens.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn start(
        directory: &Path,
        config: &Path,
        (http, terminals): (SocketAddr, SocketAddr),
        nodes: &[Node],
        own_group: bool,
    ) -> Result<Self, LaunchError> {
        let at = directory.display();
        std::fs::create_dir_all(directory).map_err(LaunchError::of(format!("cannot make {at}")))?;
        let program =
            if Path::new("/usr/sbin/haproxy").exists() { "/usr/sbin/haproxy" } else { "haproxy" };
        // `-db`: in the foreground.
        let mut process = Process::new("haproxy", program, &directory.join("log"))
            .arguments(["-db".as_ref(), "-f".as_ref(), config.as_os_str()])
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
        proxy.process.start().map_err(|error| {
            error.with("`haproxy` must be installed (Debian: apt install haproxy)")
        })?;
        let listens = wait::until("haproxy listens", READY_DEADLINE, async || {
            if proxy.process.must_run().is_err() {
                return Ok(());
            }
            TcpStream::connect(terminals).await.map(drop).map_err(LaunchError::of("connect"))
        });
        listens.await.map_err(|error| error.with(proxy.process.failure("does not listen")))?;
        proxy.process.must_run()?;
        Ok(proxy)
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
