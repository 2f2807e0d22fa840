//! Sends the terminals of this node elsewhere while it is sick and others are not. A node that alone
//! does not reach the store can neither read what its terminals missed nor save what they have; they
//! would wait for as long as it is so.

use std::collections::HashSet;

use clarion_actors::System;
use clarion_core::gateways::Refuge;

use super::{JUDGE_EVERY, Neighbours, others};

/// In how many seconds all are told, unless the config has a rate.
const SECONDS: u64 = 3;

impl Neighbours {
    /// Looks each second, for as long as there is a cluster. At most `links_per_s` are told in a second;
    /// 0: all in some seconds.
    pub async fn seek_refuge(self, system: System, links_per_s: u32) {
        let Some((_, view)) = self.cluster.clone() else { return };
        let mut refuge = Refuge::default();
        // At most the links there are; who was told and stays is not told again.
        let mut told = HashSet::new();
        while view.has_changed().is_ok() {
            tokio::time::sleep(JUDGE_EVERY).await;
            let before = refuge.is_sought();
            if !self.needs_refuge(&mut refuge) {
                if before {
                    tracing::info!("terminals are not sent to other nodes any more");
                }
                told = HashSet::new();
                continue;
            }
            if !before {
                tracing::warn!(
                    "this node is sick and others are not: its terminals are sent there"
                );
            }
            let count = match u64::from(links_per_s) {
                0 => (system.link_count() as u64).div_ceil(SECONDS),
                most => most,
            };
            let sent = system.send_some_away(count, JUDGE_EVERY, &mut told);
            metrics::counter!("clarion_links_sent_from_sick_total").increment(sent);
        }
    }

    fn needs_refuge(&self, refuge: &mut Refuge) -> bool {
        let Some(view) = self.view() else { return false };
        refuge.look(view.me().sick, &others(&view))
    }
}
