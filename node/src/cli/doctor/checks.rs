//! The checks, one function each. Each waits [`PATIENCE`] at most for anything.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clarion_config::{Config, Environment, Role, StoreKind};
use clarion_protocol::http::ClusterStatus;
use clarion_sdk::Admin;
use clarion_sdk::backend::RequestTuning;
use clarion_sdk::transport::Tcp;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::report::{Finding, Report};
use super::seeds;
use crate::run;

/// How long anything is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Descriptors of a process besides its links: listeners, the store, the API, other nodes.
const DESCRIPTORS_BESIDE: u64 = 512;

/// How far a clock may be off before a node is not ready (I11), and before it is worth a look.
const CLOCK_OFF_MS: (u64, u64) = (2000, 500);

/// All checks of a config that is fine by itself.
pub(super) async fn all(config: &Config, environment: &Environment, report: &mut Report) {
    let running = running(config, environment).await;
    report.add("open files", open_files(config));
    for (check, finding) in addresses(config, running.as_ref()).await {
        report.add(check, finding);
    }
    for finding in store(config, environment).await {
        report.add("store", finding);
    }
    if config.cluster.listen.is_none() {
        report.add("cluster", Finding::ok("this node is alone: cluster.listen is not set"));
        return;
    }
    let status = running.as_ref().map(|running| &running.status);
    for finding in seeds::all(config, environment, status).await {
        report.add("seeds", finding);
    }
    for (check, finding) in nodes(config, running.as_ref()) {
        report.add(check, finding);
    }
}

fn open_files(config: &Config) -> Finding {
    let gateway = config.node.roles.contains(&Role::Gateway);
    let links = if gateway { config.terminals.links_max as u64 } else { 0 };
    let wanted = links + config.http.connections_max as u64 + DESCRIPTORS_BESIDE;
    match run::raise_descriptor_limit() {
        Some(limit) if limit < wanted => Finding::warn(
            format!("{limit} open files, {wanted} would be used with all links and connections"),
            "raise the hard limit (LimitNOFILE= of systemd, `ulimit -Hn`), or lower \
             terminals.links_max",
        ),
        Some(limit) => Finding::ok(format!("{limit}, enough for {links} links")),
        None => Finding::ok("no limit"),
    }
}

/// What a node said at this node's API, if one answers there that knows this node's admin token.
struct Running {
    status: ClusterStatus,
    /// The clock of this machine when it said so.
    said_ms: u64,
}

async fn running(config: &Config, environment: &Environment) -> Option<Running> {
    let status = admin(config, environment)?.cluster().await.ok()?;
    Some(Running { status, said_ms: now_ms() })
}

impl Running {
    /// Whether it is the node of the config.
    fn is(&self, config: &Config) -> bool {
        self.status.node == config.node.id
    }
}

/// Who holds an address that is taken, as far as the API of a running node tells.
#[derive(Clone, Copy)]
enum Holder<'a> {
    /// The node itself: it runs.
    Itself,
    /// A node of another name, with the same admin token.
    Other(&'a str),
    Unknown,
}

/// The addresses to listen on: free, or held by this node.
async fn addresses(config: &Config, running: Option<&Running>) -> Vec<(&'static str, Finding)> {
    let holder = match running {
        Some(running) if running.is(config) => Holder::Itself,
        Some(running) => Holder::Other(&running.status.node),
        None => Holder::Unknown,
    };
    let mut found = vec![("API", listens("http.listen", config.http.listen, holder).await)];
    if config.node.roles.contains(&Role::Gateway) {
        let listen = config.terminals.listen;
        found.push(("terminals", listens("terminals.listen", listen, holder).await));
    }
    if let Some(listen) = config.cluster.listen {
        found.push(("peers", listens("cluster.listen", listen, holder).await));
        found.push(("gossip", hears("cluster.listen", listen, holder).await));
    }
    found
}

async fn listens(key: &str, address: SocketAddr, holder: Holder<'_>) -> Finding {
    judged(key, address, "tcp", TcpListener::bind(address).await.map(drop), holder)
}

async fn hears(key: &str, address: SocketAddr, holder: Holder<'_>) -> Finding {
    judged(key, address, "udp", UdpSocket::bind(address).await.map(drop), holder)
}

fn judged(
    key: &str,
    address: SocketAddr,
    kind: &str,
    bound: std::io::Result<()>,
    holder: Holder<'_>,
) -> Finding {
    let mend = format!("`ss -lntup` shows by whom; stop that, or give {key} another port");
    match bound {
        Ok(()) => Finding::ok(format!("{address}/{kind} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => match holder {
            Holder::Itself => {
                Finding::ok(format!("{address}/{kind} is held by this node: it runs"))
            }
            Holder::Other(node) => Finding::fail(
                format!("{address}/{kind} is taken, and {node} runs at this node's http.listen"),
                mend,
            ),
            Holder::Unknown => Finding::warn(
                format!(
                    "{address}/{kind} is taken, and no node with this admin token answers at \
                     http.listen"
                ),
                mend,
            ),
        },
        Err(error) => Finding::fail(
            format!("{address}/{kind}: {error}"),
            format!("give {key} an address of this machine that this user may listen on"),
        ),
    }
}

async fn store(config: &Config, environment: &Environment) -> Vec<Finding> {
    match config.store.kind {
        StoreKind::Embedded => vec![directory(config)],
        StoreKind::Redis => redis(config, environment).await,
    }
}

fn directory(config: &Config) -> Finding {
    let path = &config.store.path;
    let shown = path.display();
    let filled = std::fs::read_dir(path).map(|mut entries| entries.next().is_some());
    match filled {
        Ok(true) => match rustix::fs::statvfs(path) {
            Ok(disk) if disk.f_bavail * disk.f_frsize < config.store.free_bytes_min => {
                Finding::fail(
                    format!("{shown}: the disk has less free than store.free_bytes_min"),
                    "free space: the store refuses pushes until then",
                )
            }
            Ok(_) | Err(_) => Finding::ok(format!("{shown} is there")),
        },
        Ok(false) => Finding::fail(
            format!("{shown} is empty"),
            "a new node: `clarion store init FILE`; else check whether its disk is mounted",
        ),
        Err(error) => Finding::fail(
            format!("{shown}: {error}"),
            "a new node: `clarion store init FILE`; else check the path and its owner",
        ),
    }
}

/// Every server against the fault model, then whether a store is there and what time it is.
async fn redis(config: &Config, environment: &Environment) -> Vec<Finding> {
    let mut found = Vec::new();
    match timeout(PATIENCE * 2, run::store::examine(config, environment)).await {
        Ok(Ok(said)) => {
            if said.is_empty() {
                found.push(Finding::ok("every server is what the store needs"));
            }
            for one in said {
                let level = if one.refuses { Finding::fail } else { Finding::warn };
                found.push(level(one.text, "see the fault model in actors/storage/README.md"));
            }
        }
        Ok(Err(error)) => {
            found.push(not_usable(error));
            found.extend(unreached(config).await);
            return found;
        }
        Err(_) => {
            let place = run::store::place(config);
            let mend = "start Redis, or correct store.redis_nodes";
            found.push(Finding::fail(format!("{place}: no answer"), mend));
            found.extend(unreached(config).await);
            return found;
        }
    }
    match timeout(PATIENCE * 2, run::store::open(config, environment)).await {
        Ok(Ok(store)) => {
            found.push(Finding::ok(format!("{} holds a store", run::store::place(config))));
            found.push(clock("Redis", store.time_ms(), now_ms()));
            // Nothing was written: what cannot be closed is of no interest.
            let _ = timeout(PATIENCE, store.close()).await;
        }
        Ok(Err(error)) => found.push(not_usable(error)),
        Err(_) => {
            let place = run::store::place(config);
            let mend = "look at the load and the log of the Redis servers";
            found.push(Finding::fail(format!("{place}: the store does not open"), mend));
        }
    }
    found
}

/// An error of the store, without the advice to run this command.
fn not_usable(error: run::StartError) -> Finding {
    let mend = error.mend.unwrap_or_default();
    let told = mend.split("; ").filter(|part| !part.starts_with("`clarion doctor"));
    Finding::fail(error.message, told.collect::<Vec<_>>().join("; "))
}

/// Which of the servers that the config names nobody listens for.
async fn unreached(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    for server in &config.store.redis_nodes {
        let why = match timeout(PATIENCE, TcpStream::connect(server)).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        let mend = "start it, or open its port in the firewall, or correct store.redis_nodes";
        found.push(Finding::warn(format!("{server}: {why}"), mend));
    }
    found
}

/// The clock of this machine, Unix milliseconds.
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Two clocks, read at the same moment.
fn clock(whose: &str, their_ms: u64, ours_ms: u64) -> Finding {
    let off_ms = ours_ms.abs_diff(their_ms);
    let message = format!("the clock is {off_ms} ms from that of {whose}");
    let mend = "keep all machines on NTP (`timedatectl` says whether this one is)";
    match off_ms {
        off if off > CLOCK_OFF_MS.0 => Finding::fail(message, mend),
        off if off > CLOCK_OFF_MS.1 => Finding::warn(message, mend),
        _ => Finding::ok(message),
    }
}

/// What the running node says of the others, when it runs.
fn nodes(config: &Config, running: Option<&Running>) -> Vec<(&'static str, Finding)> {
    let Some(Running { status: cluster, said_ms }) = running.filter(|running| running.is(config))
    else {
        return vec![("nodes", Finding::ok("this node does not run: nobody to ask about others"))];
    };
    let mut found = Vec::new();
    for node in &cluster.nodes {
        let finding = if !node.reachable {
            Finding::warn(
                format!("{} lives and has no link to this node", node.node),
                "open cluster.listen (TCP) between them in the firewall; compare cookies and TLS",
            )
        } else if node.sick {
            Finding::warn(
                format!(
                    "{} is sick: parts of it make no progress, or it does not reach the store",
                    node.node
                ),
                "look at its log, its load and its way to the store",
            )
        } else {
            Finding::ok(format!("{} {} is reached", node.node, node.version))
        };
        found.push(("nodes", finding));
        let time_ms = node.status.as_ref().and_then(|status| status["time_ms"].as_u64());
        if let Some(time_ms) = time_ms.filter(|_| node.node != cluster.node) {
            found.push(("clocks", clock(&node.node, time_ms, *said_ms)));
        }
    }
    let mut versions: Vec<&str> = cluster.nodes.iter().map(|node| node.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    if versions.len() > 2 {
        found.push((
            "versions",
            Finding::warn(
                format!("{} run together", versions.join(", ")),
                "finish one upgrade before the next: neighbouring versions work together",
            ),
        ));
    }
    found
}

fn admin(config: &Config, environment: &Environment) -> Option<Admin> {
    let token = config.admin_token(environment).ok()??;
    let scheme = if config.http.tls_cert_file.is_some() { "https" } else { "http" };
    let mut address = config.http.listen;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let mut tuning = RequestTuning::default();
    tuning.deadline = PATIENCE;
    let tcp = Tcp::new().ok()?;
    Admin::with(&format!("{scheme}://{address}"), token.expose(), &tcp, tuning).ok()
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_worth_a_look_and_an_address_of_another_machine_fails() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        for (holder, level) in [
            (Holder::Unknown, Level::Warn),
            (Holder::Itself, Level::Ok),
            (Holder::Other("b"), Level::Fail),
        ] {
            let finding = listens("http.listen", address, holder).await;
            assert_eq!(finding.level, level, "{finding:?}");
        }
        let unknown = Holder::Unknown;
        let free = listens("http.listen", "127.0.0.1:0".parse().unwrap(), unknown).await;
        assert_eq!(free.level, Level::Ok, "{free:?}");
        let elsewhere = hears("cluster.listen", "192.0.2.1:0".parse().unwrap(), unknown).await;
        assert_eq!(elsewhere.level, Level::Fail, "{elsewhere:?}");
    }

    #[test]
    fn clocks_are_judged_by_how_far_they_are_off() {
        let level = |theirs, ours| clock("x", theirs, ours).level;
        assert_eq!(level(100_000, 100_400), Level::Ok);
        assert_eq!(level(100_000, 101_000), Level::Warn);
        assert_eq!(level(160_000, 100_000), Level::Fail);
        assert_eq!(level(100_000, 160_000), Level::Fail);
    }

    #[test]
    fn a_store_that_is_not_there_says_how_to_make_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.path = directory.path().to_owned();
        let empty = super::directory(&config);
        assert!(empty.level == Level::Fail && empty.mend.unwrap().contains("store init"));
        config.store.path = directory.path().join("missing");
        assert_eq!(super::directory(&config).level, Level::Fail);
        config.store.path = directory.path().to_owned();
        std::fs::write(directory.path().join("x"), "").unwrap();
        assert_eq!(super::directory(&config).level, Level::Ok);
        config.store.free_bytes_min = u64::MAX;
        assert_eq!(super::directory(&config).level, Level::Fail);
    }
}
