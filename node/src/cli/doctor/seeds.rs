//! The seeds: whether they have names, who listens there, and whether they would take this node as one
//! of theirs. That is asked with the handshake of the links between nodes, without becoming one.

use std::net::SocketAddr;

use clarion_actors::cluster::wire_versions;
use clarion_cluster::peer::{AskError, Asked, Asker, PeerTls};
use clarion_config::{Config, Environment};
use clarion_protocol::http::ClusterStatus;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::checks::PATIENCE;
use super::report::{Finding, Level};
use crate::run;

/// What a seed is for this node, and whether the node gets into the cluster through it.
struct Judged {
    finding: Finding,
    reached: bool,
}

/// Every seed; `running` is what this node says, if it runs.
pub(super) async fn all(
    config: &Config,
    environment: &Environment,
    running: Option<&ClusterStatus>,
) -> Vec<Finding> {
    if config.cluster.seeds.is_empty() {
        return vec![Finding::ok("none: this node begins the cluster, others name it as theirs")];
    }
    let asker = match asker(config, environment) {
        Ok(asker) => asker,
        Err(finding) => return vec![finding],
    };
    let this = This {
        id: &config.node.id,
        address: config.cluster.advertise.or(config.cluster.listen),
        boot: running.and_then(|status| {
            let own = status.nodes.iter().find(|node| node.node == config.node.id)?;
            (status.node == config.node.id).then_some(own.boot.as_str())
        }),
        asker,
    };
    let mut found = Vec::new();
    let mut reached = false;
    for seed in &config.cluster.seeds {
        let judged = this.judge(seed).await;
        reached |= judged.reached;
        found.push(judged.finding);
    }
    if !reached && found.iter().all(|finding| finding.level != Level::Fail) {
        found.push(Finding::fail(
            "no seed takes this node: it would be a cluster of its own",
            "start one of the seeds first, or open their port (TCP and UDP) in the firewall",
        ));
    }
    found
}

fn asker(config: &Config, environment: &Environment) -> Result<Asker, Finding> {
    let in_words = |message: String, mend: Option<String>| {
        Finding::fail(message, mend.unwrap_or_else(|| "correct the config".to_owned()))
    };
    let cookie = run::cookie(config, environment)
        .map_err(|error| in_words(error.message, error.mend))?
        .ok_or_else(|| in_words("there is no cookie".to_owned(), None))?;
    let cluster = &config.cluster;
    let files = (&cluster.tls_cert_file, &cluster.tls_key_file, &cluster.tls_ca_file);
    let tls = match files {
        (Some(cert), Some(key), Some(ca)) => {
            Some(PeerTls { cert_file: cert.clone(), key_file: key.clone(), ca_file: ca.clone() })
        }
        _ => None,
    };
    Asker::new(&config.node.id, &cluster.name, wire_versions(), cookie, tls.as_ref()).map_err(
        |error| in_words(error.to_string(), Some("correct the files of cluster.tls_*".to_owned())),
    )
}

/// This node, as far as seeds are judged by it.
struct This<'a> {
    id: &'a str,
    /// Where others reach it.
    address: Option<SocketAddr>,
    /// Which run of it is on, if it runs.
    boot: Option<&'a str>,
    asker: Asker,
}

impl This<'_> {
    async fn judge(&self, seed: &str) -> Judged {
        let not = |finding| Judged { finding, reached: false };
        let addresses: Vec<SocketAddr> = match timeout(PATIENCE, lookup_host(seed)).await {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => {
                let mend = "correct cluster.seeds, or the DNS of this machine";
                return not(Finding::warn(format!("{seed}: {error}"), mend));
            }
            Err(_) => {
                let mend = "mend the DNS of this machine";
                return not(Finding::warn(format!("{seed}: no name service"), mend));
            }
        };
        if self.address.is_some_and(|own| addresses.contains(&own)) {
            let finding = Finding::ok(format!("{seed} is this node"));
            return Judged { finding, reached: true };
        }
        let mut last = not(unreached(seed, "it has no address"));
        for address in addresses {
            last = match self.asker.ask(address, PATIENCE).await {
                Ok(asked) => self.judge_node(seed, &asked),
                Err(error) => not(refused(seed, &error)),
            };
            if last.reached {
                break;
            }
        }
        last
    }

    fn judge_node(&self, seed: &str, asked: &Asked) -> Judged {
        let id = &asked.id;
        if **id != *self.id {
            let finding = Finding::ok(format!("{seed} is {id}, and takes this node as its peer"));
            return Judged { finding, reached: true };
        }
        if self.boot == Some(asked.boot.to_string().as_str()) {
            let finding = Finding::ok(format!("{seed} is this node, which runs"));
            return Judged { finding, reached: true };
        }
        let message = match self.boot {
            Some(_) => format!("{seed}: another node runs there as `{id}`, this node's id"),
            None => format!("{seed}: a node runs there as `{id}`, this node's id"),
        };
        let finding = Finding::fail(message, "give one of the two another node.id");
        Judged { finding, reached: false }
    }
}

fn refused(seed: &str, error: &AskError) -> Finding {
    let mend = match error {
        AskError::Connect(_) | AskError::Silent => return unreached(seed, &error.to_string()),
        AskError::Foreign { .. } => {
            let mend = "name the cluster.listen of another node (not its API) in cluster.seeds; \
                        and set cluster.tls_* on all nodes or on none";
            return Finding::warn(format!("{seed}: {error}"), mend);
        }
        AskError::Older => {
            let mend = "nothing, while an upgrade is under way: only cookies were not compared";
            return Finding::warn(format!("{seed}: {error}"), mend);
        }
        AskError::Cookie => {
            "give all nodes the same cookie: cluster.cookie_file, or CLARION_COOKIE"
        }
        AskError::Cluster => "correct cluster.name, or the seed",
        AskError::Certificate(_) => {
            "sign the certificates of all nodes by cluster.tls_ca_file, each for the DNS name \
             NODE.CLUSTER.peer or *.CLUSTER.peer"
        }
        AskError::Wire => "upgrade one release after the other",
    };
    Finding::fail(format!("{seed}: {error}"), mend)
}

fn unreached(seed: &str, why: &str) -> Finding {
    Finding::warn(
        format!("{seed}: {why}"),
        "start that node, or open its port (TCP and UDP) in the firewall; one seed that answers is \
         enough",
    )
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn environment() -> Environment {
        Environment::from_pairs([("CLARION_COOKIE", "0123456789abcdef")])
    }

    #[tokio::test]
    async fn seeds_that_nobody_answers_for_fail_together() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut config = Config::default();
        config.cluster.listen = Some("127.0.0.1:1".parse().unwrap());
        config.cluster.seeds = vec![gone.to_string()];
        let levels = async |config: &Config| {
            let found = all(config, &environment(), None).await;
            found.iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(levels(&config).await, [Level::Warn, Level::Fail]);
        config.cluster.seeds.push("127.0.0.1:1".to_owned());
        assert_eq!(levels(&config).await, [Level::Warn, Level::Ok], "its own address");
        config.cluster.seeds.clear();
        assert_eq!(levels(&config).await, [Level::Ok]);
    }

    #[test]
    fn a_mistake_of_the_config_fails_and_an_absence_is_worth_a_look() {
        let level = |error: &AskError| refused("b:1", error).level;
        assert_eq!(level(&AskError::Silent), Level::Warn);
        assert_eq!(level(&AskError::Foreign { tls: false }), Level::Warn);
        assert_eq!(level(&AskError::Older), Level::Warn);
        for error in [AskError::Cookie, AskError::Cluster, AskError::Wire] {
            assert_eq!(level(&error), Level::Fail, "{error}");
        }
    }

    #[test]
    fn a_node_of_the_same_name_is_this_one_only_in_the_same_run() {
        let environment = environment();
        let mut config = Config::default();
        config.cluster.listen = Some("127.0.0.1:1".parse().unwrap());
        let asker = asker(&config, &environment).unwrap();
        let boot = clarion_cluster::BootId(7);
        let asked = |id: &str| Asked { id: id.into(), boot, wire: 1 };
        let own = boot.to_string();
        let mut this = This { id: "a", address: None, boot: Some(&own), asker };
        assert!(this.judge_node("s", &asked("a")).reached);
        assert!(this.judge_node("s", &asked("b")).reached);
        this.boot = Some("8");
        assert_eq!(this.judge_node("s", &asked("a")).finding.level, Level::Fail);
        this.boot = None;
        assert_eq!(this.judge_node("s", &asked("a")).finding.level, Level::Fail);
    }
}
