//! The cluster as the node's doors see it.

use std::sync::Arc;

use clarion_cluster::Cookie;
use clarion_cluster::membership::View;
use clarion_config::Config;
use clarion_core::LogKey;
use clarion_core::placement;
use clarion_storage::Store;
use futures_util::future::join_all;
use serde::Serialize;
use tokio::sync::watch;

use super::System;
use crate::cluster::Cluster;
use crate::cluster::join::Joined;
use crate::cluster::wire::{Question, Reply};
use crate::failure::Failure;

/// Where a log is owned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Where {
    /// The log.
    pub log: String,
    /// Its slot.
    pub slot: u16,
    /// The isolation group that serves it.
    pub group: String,
    /// Who serves it, the owner first.
    pub order: Vec<WhereNode>,
}

/// One of those that serve a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WhereNode {
    /// Its name.
    pub node: String,
    /// Whether this node has a link to it, or is it.
    pub reachable: bool,
    /// Why it is where it is in the order.
    pub why: &'static str,
}

impl System {
    /// Starts a node of the cluster that the config names, over the store that its nodes share.
    ///
    /// # Errors
    /// An actor did not start, or the address for other nodes cannot be used; nothing is left
    /// running.
    pub async fn start_in_cluster(
        config: Arc<Config>,
        store: Arc<dyn Store>,
        cookie: Cookie,
    ) -> Result<Self, Failure> {
        let system = Self::start_among_others(Arc::clone(&config), store).await?;
        match Joined::join(&system.inner.cluster, &config, cookie).await {
            Ok(joined) => {
                // Who has not said what it can carry is sent no terminals.
                joined.membership.set_load(system.inner.load(0));
                let _ = system.inner.joined.set(joined);
                Ok(system)
            }
            Err(failure) => {
                system.inner.stop().await;
                Err(failure)
            }
        }
    }

    /// The members of the cluster, and news of them. `None`: the node is alone, or was given members
    /// from outside.
    #[must_use]
    pub fn view(&self) -> Option<watch::Receiver<Arc<View>>> {
        self.inner.joined.get().map(|joined| joined.membership.view())
    }

    /// What links and membership tell their events to.
    #[must_use]
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.inner.cluster
    }

    /// Who owns a log of a product of `group`, and who serves it when the owner cannot.
    #[must_use]
    pub fn where_is(&self, log: &LogKey, group: &str) -> Where {
        let (router, slot) = (&self.inner.router, placement::slot_of(log));
        let mut order = router.topology().order(group, slot);
        if !router.myself.clustered {
            order.push(Arc::clone(&router.myself.id));
        }
        let node = |(place, id): (usize, Arc<str>)| WhereNode {
            reachable: id == router.myself.id || router.nodes.peers.of(&id).is_some(),
            why: if place == 0 { "owner by placement" } else { "next in placement order" },
            node: id.to_string(),
        };
        let order = order.into_iter().enumerate().map(node).collect();
        Where { log: log.to_string(), slot: slot.0, group: group.to_owned(), order }
    }

    /// The status of every node that answers, this one first.
    pub async fn cluster_status(&self) -> Vec<serde_json::Value> {
        let nodes = &self.inner.router.nodes;
        let peers = nodes.peers.all();
        let answers = peers.iter().map(|peer| nodes.asking.ask(peer, Question::Status));
        let (here, answers) = tokio::join!(self.status(), join_all(answers));
        let mut all = vec![here];
        for (peer, answer) in peers.iter().zip(answers) {
            all.push(match answer {
                Some(Reply::Text(text)) => serde_json::from_str(&text).unwrap_or_default(),
                _ => serde_json::json!({ "node": &**peer.id(), "answers": false }),
            });
        }
        all
    }

    /// Says how terminals that are sent away find other access points.
    pub fn set_elsewhere(&self, elsewhere: impl Fn() -> Vec<String> + Send + Sync + 'static) {
        self.inner.context.set_elsewhere(Box::new(elsewhere));
    }

    /// The nodes with sessions that read a log now, as far as they answer.
    pub async fn readers(&self, log: &Arc<LogKey>) -> Vec<String> {
        let nodes = &self.inner.router.nodes;
        let peers = nodes.peers.all();
        let question = Question::Online(vec![Arc::clone(log)]);
        let answers = peers.iter().map(|peer| nodes.asking.ask(peer, question.clone()));
        let here = self.inner.relays.online(vec![Arc::clone(log)]);
        let (here, answers) = tokio::join!(here, join_all(answers));
        let me = here.contains(&true).then(|| self.inner.router.myself.id.to_string());
        let others = peers.iter().zip(answers).filter_map(|(peer, answer)| match answer {
            Some(Reply::Each(each)) if each.contains(&true) => Some(peer.id().to_string()),
            _ => None,
        });
        let mut readers: Vec<String> = me.into_iter().chain(others).collect();
        readers.sort_unstable();
        readers
    }

    /// Asks a node to drain, as if it had been told to stop. `false`: it did not answer.
    pub async fn drain_node(&self, id: &str) -> bool {
        if *id == *self.inner.router.myself.id {
            self.inner.drain_wanted.send_replace(true);
            return true;
        }
        let nodes = &self.inner.router.nodes;
        let Some(peer) = nodes.peers.of(id) else { return false };
        matches!(nodes.asking.ask(&peer, Question::Drain).await, Some(Reply::Is(true)))
    }

    /// Resolves when somebody wants this node to go: whoever runs it then calls [`System::drain`].
    pub async fn drain_wanted(&self) {
        let mut wanted = self.inner.drain_wanted.subscribe();
        // An error means that the node is gone, which is as good.
        let _ = wanted.wait_for(|wanted| *wanted).await;
    }
}
