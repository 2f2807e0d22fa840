//! The checks, one function each. Each waits [`PATIENCE`] at most for anything.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clarion_config::{Config, Environment, Role, StoreKind};
use clarion_sdk::Admin;
use clarion_sdk::backend::RequestTuning;
use clarion_sdk::transport::Tcp;
use tokio::net::{TcpListener, TcpStream, UdpSocket, lookup_host};
use tokio::time::timeout;

use super::report::{Finding, Report};
use crate::run;

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Descriptors of a process besides its links: listeners, the store, the API, other nodes.
const DESCRIPTORS_BESIDE: u64 = 512;

/// How far a clock may be off before a node is not ready (I11), and before it is worth a look.
const CLOCK_OFF_MS: (u64, u64) = (2000, 500);

/// All checks of a config that is fine by itself.
pub(super) async fn all(config: &Config, environment: &Environment, report: &mut Report) {
    report.add("open files", open_files(config));
    for (check, finding) in addresses(config).await {
        report.add(check, finding);
    }
    for finding in store(config, environment).await {
        report.add("store", finding);
    }
    if config.cluster.listen.is_none() {
        report.add("cluster", Finding::ok("this node is alone: cluster.listen is not set"));
        return;
    }
    for finding in seeds(config).await {
        report.add("seeds", finding);
    }
    for (check, finding) in nodes(config, environment).await {
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

/// The addresses to listen on: free, or held by a node that runs.
async fn addresses(config: &Config) -> Vec<(&'static str, Finding)> {
    let mut found = vec![("API", listens("http.listen", config.http.listen).await)];
    if config.node.roles.contains(&Role::Gateway) {
        found.push(("terminals", listens("terminals.listen", config.terminals.listen).await));
    }
    if let Some(listen) = config.cluster.listen {
        found.push(("peers", listens("cluster.listen", listen).await));
        found.push(("gossip", hears("cluster.listen", listen).await));
    }
    found
}

async fn listens(key: &str, address: SocketAddr) -> Finding {
    judged(key, address, "tcp", TcpListener::bind(address).await.map(drop))
}

async fn hears(key: &str, address: SocketAddr) -> Finding {
    judged(key, address, "udp", UdpSocket::bind(address).await.map(drop))
}

fn judged(key: &str, address: SocketAddr, kind: &str, bound: std::io::Result<()>) -> Finding {
    match bound {
        Ok(()) => Finding::ok(format!("{address}/{kind} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Finding::warn(
            format!("{address}/{kind} is taken: by this node, if it runs"),
            format!("`ss -lntup` shows by whom; else give {key} another port"),
        ),
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
            return vec![Finding::fail(error.message, error.mend.unwrap_or_default())];
        }
        Err(_) => {
            let place = run::store::place(config);
            let mend = "start Redis, or correct store.redis_nodes";
            return vec![Finding::fail(format!("{place}: no answer"), mend)];
        }
    }
    match timeout(PATIENCE * 2, run::store::open(config, environment)).await {
        Ok(Ok(store)) => {
            found.push(Finding::ok(format!("{} holds a store", run::store::place(config))));
            found.push(clock("Redis", store.time_ms()));
            // Nothing was written: what cannot be closed is of no interest.
            let _ = timeout(PATIENCE, store.close()).await;
        }
        Ok(Err(error)) => {
            found.push(Finding::fail(error.message, error.mend.unwrap_or_default()));
        }
        Err(_) => {
            let place = run::store::place(config);
            let mend = "look at the load and the log of the Redis servers";
            found.push(Finding::fail(format!("{place}: the store does not open"), mend));
        }
    }
    found
}

fn clock(whose: &str, their_ms: u64) -> Finding {
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ours_ms = u64::try_from(ours.as_millis()).unwrap_or(u64::MAX);
    let off_ms = ours_ms.abs_diff(their_ms);
    let message = format!("the clock is {off_ms} ms from that of {whose}");
    let mend = "keep all machines on NTP (`timedatectl` says whether this one is)";
    match off_ms {
        off if off > CLOCK_OFF_MS.0 => Finding::fail(message, mend),
        off if off > CLOCK_OFF_MS.1 => Finding::warn(message, mend),
        _ => Finding::ok(message),
    }
}

/// Whether the seeds have names and listen.
async fn seeds(config: &Config) -> Vec<Finding> {
    let own = config.cluster.advertise.or(config.cluster.listen);
    if config.cluster.seeds.is_empty() {
        return vec![Finding::ok("none: this node begins the cluster, others name it as theirs")];
    }
    let mut found = Vec::new();
    let mut reached = 0;
    for seed in &config.cluster.seeds {
        let addresses: Vec<SocketAddr> = match timeout(PATIENCE, lookup_host(seed)).await {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => {
                let mend = "correct cluster.seeds, or the DNS of this machine";
                found.push(Finding::warn(format!("{seed}: {error}"), mend));
                continue;
            }
            Err(_) => {
                found.push(Finding::warn(format!("{seed}: no name service"), "mend the DNS"));
                continue;
            }
        };
        if own.is_some_and(|own| addresses.contains(&own)) {
            found.push(Finding::ok(format!("{seed} is this node")));
            reached += 1;
            continue;
        }
        let connected = async {
            let mut why = "it has no address".to_owned();
            for address in &addresses {
                match TcpStream::connect(address).await {
                    Ok(_) => return Ok(()),
                    Err(error) => why = error.to_string(),
                }
            }
            Err(why)
        };
        match timeout(PATIENCE, connected).await {
            Ok(Ok(())) => {
                reached += 1;
                found.push(Finding::ok(format!("{seed} listens")));
            }
            Ok(Err(why)) => found.push(unreached(seed, &why)),
            Err(_) => found.push(unreached(seed, "no answer")),
        }
    }
    if reached == 0 {
        found.push(Finding::fail(
            "no seed is reached: this node would be a cluster of its own",
            "start one of the seeds first, or open their port (TCP and UDP) in the firewall",
        ));
    }
    found
}

fn unreached(seed: &str, why: &str) -> Finding {
    Finding::warn(
        format!("{seed}: {why}"),
        "start that node, or open its port (TCP and UDP) in the firewall; one seed that answers is \
         enough",
    )
}

/// What the running node says of the others, when it runs.
async fn nodes(config: &Config, environment: &Environment) -> Vec<(&'static str, Finding)> {
    let Some(admin) = admin(config, environment) else { return Vec::new() };
    let Ok(cluster) = admin.cluster().await else {
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
                format!("{} says that parts of it make no progress", node.node),
                "look at its log and load",
            )
        } else {
            Finding::ok(format!("{} {} is reached", node.node, node.version))
        };
        found.push(("nodes", finding));
        let time_ms = node.status.as_ref().and_then(|status| status["time_ms"].as_u64());
        if let Some(time_ms) = time_ms.filter(|_| node.node != cluster.node) {
            found.push(("clocks", clock(&node.node, time_ms)));
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
        let finding = listens("http.listen", taken.local_addr().unwrap()).await;
        assert_eq!(finding.level, Level::Warn, "{finding:?}");
        let free = listens("http.listen", "127.0.0.1:0".parse().unwrap()).await;
        assert_eq!(free.level, Level::Ok, "{free:?}");
        let elsewhere = hears("cluster.listen", "192.0.2.1:0".parse().unwrap()).await;
        assert_eq!(elsewhere.level, Level::Fail, "{elsewhere:?}");
    }

    #[test]
    fn clocks_are_judged_by_how_far_they_are_off() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now_ms = u64::try_from(now.as_millis()).unwrap();
        assert_eq!(clock("x", now_ms).level, Level::Ok);
        assert_eq!(clock("x", now_ms - 60_000).level, Level::Fail);
        assert_eq!(clock("x", now_ms + 60_000).level, Level::Fail);
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

    #[tokio::test]
    async fn seeds_that_nobody_answers_for_fail_together() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (there, gone) = {
            let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
            (listener.local_addr().unwrap(), gone.local_addr().unwrap())
        };
        let mut config = Config::default();
        config.cluster.listen = Some("127.0.0.1:1".parse().unwrap());
        config.cluster.seeds = vec![gone.to_string()];
        let levels = |found: &[Finding]| found.iter().map(|f| f.level).collect::<Vec<_>>();
        assert_eq!(levels(&seeds(&config).await), [Level::Warn, Level::Fail]);
        config.cluster.seeds.push(there.to_string());
        assert_eq!(levels(&seeds(&config).await), [Level::Warn, Level::Ok]);
        config.cluster.seeds = vec!["127.0.0.1:1".to_owned()];
        assert_eq!(levels(&seeds(&config).await), [Level::Ok], "its own address");
    }
}
