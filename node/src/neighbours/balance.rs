//! Sends some of the terminals that this node holds to the others when it has clearly more than its
//! share: after a rolling upgrade, or when a node was added, the last one is empty, and who stays
//! connected never asks for a better place. The decision is [`Balance`]'s; here it is fed and carried
//! out.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clarion_actors::System;
use clarion_cluster::membership::{Member, View};
use clarion_config::TerminalsConfig;
use clarion_core::gateways::{AccessPoint, Balance, BalanceRules, rank_lacking};

use super::{JUDGE_EVERY, Neighbours, access_point, doors};

impl Neighbours {
    /// Looks each second, for as long as there is a cluster.
    pub async fn balance(self, system: System, terminals: TerminalsConfig) {
        let rules = BalanceRules {
            links_max: u64::from(terminals.rebalance_links_per_s),
            over_percent: u64::from(terminals.rebalance_over_percent),
            over_links: terminals.rebalance_over_links,
            looks: terminals.rebalance_calm_s,
        };
        let Some((_, view)) = self.cluster.clone().filter(|_| rules.links_max > 0) else { return };
        let mut balance = Balance::default();
        // At most the links there are; who was told and stays is not told again.
        let mut told = HashSet::new();
        while view.has_changed().is_ok() {
            tokio::time::sleep(JUDGE_EVERY).await;
            let sent_before = balance.sends();
            let count = self.look(&mut balance, &rules, system.link_count());
            self.balancing.store(balance.sends(), Ordering::Relaxed);
            if count > 0 {
                let sent = system.send_some_away(count, JUDGE_EVERY, &mut told);
                metrics::counter!("clarion_links_rebalanced_total").increment(sent);
            }
            if balance.sends() != sent_before {
                told = HashSet::new();
                if balance.sends() {
                    tracing::info!("more terminals than this node's share: some go elsewhere");
                } else {
                    tracing::info!("no more terminals than this node's share, or not the time");
                }
            }
        }
    }

    fn look(&self, balance: &mut Balance, rules: &BalanceRules, links: usize) -> u64 {
        let Some(view) = self.view() else { return 0 };
        let here = AccessPoint { links: links as u64, ..access_point(view.me()) };
        let others: Vec<AccessPoint> =
            others(&view).into_iter().map(|(_, member)| access_point(member)).collect();
        balance.look(rules, &here, &others, view.members.iter().all(is_calm))
    }

    /// The access points with less than their share, in the order in which one that goes should try
    /// them. `None`: there is none.
    pub(super) fn lacking(&self, limit: usize, random: u64) -> Option<Vec<String>> {
        let view: Arc<View> = self.view()?;
        let others = others(&view);
        let points: Vec<AccessPoint> =
            others.iter().map(|(_, member)| access_point(member)).collect();
        let ranked = rank_lacking(&access_point(view.me()), &points, random).into_iter();
        let urls = ranked.filter_map(|at| Some(others.get(at)?.0.to_owned()));
        Some(urls.take(limit).collect()).filter(|urls: &Vec<_>| !urls.is_empty())
    }
}

/// The other access points of this node's group.
fn others(view: &View) -> Vec<(&str, &Member)> {
    let mut all = doors(view, &view.me().group);
    all.retain(|(_, member)| member.id != view.me().id);
    all
}

/// Whoever drains, is ill, was away lately or cannot be reached will move terminals, or logs, by itself.
fn is_calm(member: &Member) -> bool {
    let standing = &member.standing;
    let held = standing.why.is_held() || standing.quarantined_until_ms.is_some();
    standing.reachable && !member.draining && !member.sick && !held
}
