//! Those who are not there any more (I12): once a second they are asked whether anybody listens where
//! they did. One that refused is dead; it may start again behind a cut, where nobody on this side hears
//! of it, and then its address does not refuse any longer, though nothing may come through. What follows
//! from that is decided in `clarion_core::membership::Hearing`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clarion_cluster::peer::is_deaf;
use clarion_core::BootId;

use super::Cluster;
use crate::task;

/// How often they are asked.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(1);

/// Where they are asked: the addresses of all that are members, or are missed.
#[derive(Default)]
pub(super) struct Addresses(HashMap<(Arc<str>, BootId), SocketAddr>);

impl Addresses {
    /// The members changed, and `cluster` knows.
    pub(super) fn note(
        &mut self,
        members: impl IntoIterator<Item = (Arc<str>, BootId, SocketAddr)>,
        cluster: &Cluster,
    ) {
        self.0.retain(|(id, _), _| cluster.knows(id));
        self.0.extend(members.into_iter().map(|(id, boot, addr)| ((id, boot), addr)));
    }

    /// Asks those who are absent, beside the caller.
    pub(super) fn ask(&self, cluster: &Arc<Cluster>) {
        for run in cluster.absent() {
            let Some(addr) = self.0.get(&run).copied() else { continue };
            let cluster = Arc::downgrade(cluster);
            task::spawn(async move {
                let refuses = is_deaf(addr).await;
                if let Some(cluster) = cluster.upgrade() {
                    cluster.asked(&run.0, run.1, refuses);
                }
            });
        }
    }
}
