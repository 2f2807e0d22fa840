//! What nodes hold: memory, sockets, links, queues. After a run it is what it was before.

use std::time::Duration;

use clarion_launch::{Cluster, LaunchError, Node, wait};

use crate::Failure;
use crate::sampler::queued_bytes;

/// How long letting go may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// Sockets more than before that do not count: requests that are just being answered.
const SOCKETS_SLACK: u64 = 8;
/// Resident memory more than before that does not count, KiB: what the allocator keeps of a burst.
const RSS_SLACK_KIB: u64 = 64 * 1024;
/// The gauge of links with terminals.
const LINKS: &str = "clarion_links";

/// What a node held at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    name: String,
    rss_kib: u64,
    /// Besides the links with terminals.
    sockets: u64,
    links: u64,
    queued_bytes: u64,
}

impl Held {
    /// What every node that runs holds now.
    pub async fn of(cluster: &mut Cluster) -> Result<Vec<Self>, LaunchError> {
        let mut all = Vec::new();
        for node in &mut cluster.nodes {
            if node.process_mut().is_running() {
                all.push(Self::by(node).await?);
            }
        }
        Ok(all)
    }

    async fn by(node: &Node) -> Result<Self, LaunchError> {
        // A gauge of links is a whole number.
        let links = node.metric(LINKS).await? as u64;
        let held = node.process().resources()?;
        let state = node.admin("GET", "/v1/cluster").await?.json();
        let own = state["nodes"].as_array().into_iter().flatten();
        let own = own.filter(|other| other["node"] == node.name());
        let queued_bytes = own.map(|own| queued_bytes(&own["status"])).sum();
        Ok(Self {
            name: node.name().to_owned(),
            rss_kib: held.rss_kib,
            sockets: held.sockets.saturating_sub(links),
            links,
            queued_bytes,
        })
    }
}

/// Waits until every node holds no more than before, and all nodes together one link for each
/// terminal.
pub(super) async fn let_go(
    cluster: &mut Cluster,
    before: &[Held],
    terminals: usize,
) -> Result<(), Failure> {
    // Nodes that joined later are compared with the largest.
    let sockets_max = before.iter().map(|held| held.sockets).max().unwrap_or(0);
    let rss_max = before.iter().map(|held| held.rss_kib).max().unwrap_or(0);
    let gone = wait::until("what was held is let go of", DEADLINE, async || {
        let now = Held::of(cluster).await?;
        let links: u64 = now.iter().map(|held| held.links).sum();
        let too_much = now.iter().any(|held| {
            held.sockets > sockets_max + SOCKETS_SLACK
                || held.rss_kib > rss_max + RSS_SLACK_KIB
                || held.queued_bytes > 0
        });
        if too_much || links != terminals as u64 {
            let text = format!("{terminals} terminals; before: {before:?}; now: {now:?}");
            return Err(LaunchError::new(text));
        }
        Ok(())
    });
    Ok(gone.await?)
}
