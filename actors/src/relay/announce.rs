//! Telling an owner everything that is read here of its slots (I12): when it became theirs, when the
//! link to it came up, when it lost what it knew.

use std::sync::{Arc, Weak};
use std::time::Duration;

use clarion_core::LogKey;
use clarion_core::placement::{self, SlotSet};

use super::RelayState;
use crate::cluster::heals::Heal;
use crate::cluster::port::Refused;
use crate::cluster::wire::{Announced, PeerMessage};
use crate::fault::{Mutant, mutated};
use crate::nodes::{NodeNumber, THIS_NODE};
use crate::owner::Interest;
use crate::router::Router;
use crate::task;

/// Logs in one message.
const LOGS_MAX: usize = 256;
/// How long a full lane is given.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// What every relay tells `to`. Whoever drops it last, the end of a crashed relay too, says that
/// this was all: what that one held is registered again, and told then.
pub(crate) struct Announcement {
    pub(crate) slots: SlotSet,
    pub(crate) to: NodeNumber,
    pub(crate) router: Weak<Router>,
    /// What it is part of.
    pub(crate) _heal: Option<Arc<Heal>>,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if let Some(router) = self.router.upgrade() {
            router.announced(&self.slots, self.to);
        }
    }
}

impl RelayState {
    pub(super) async fn announce(&mut self, announcement: Arc<Announcement>) {
        let Some(router) = self.arguments.router.upgrade() else { return };
        let mut logs = Vec::new();
        for (count, log) in self.logs.keys().enumerate() {
            if announcement.slots.contains(placement::slot_of(log)) {
                logs.push(Arc::clone(log));
            }
            if count % 4096 == 4095 {
                tokio::task::yield_now().await;
            }
        }
        if announcement.to == THIS_NODE {
            // Heads are compared with the store: since when the owner is blind is not known.
            let of = Interest { node: THIS_NODE, since_ms: 0, generation: 0 };
            logs.into_iter().for_each(|log| router.owners.interest(log, of));
        } else if !logs.is_empty() && !mutated(Mutant::SilentHandOver) {
            task::spawn(announce_to_peer(logs, announcement));
        }
    }

    /// Some owner in these slots changed, and it is not known which.
    pub(super) fn announce_again(&self, slots: &SlotSet) {
        let Some(router) = self.arguments.router.upgrade() else { return };
        for log in self.logs.keys().filter(|log| slots.contains(placement::slot_of(log))) {
            router.interest(Arc::clone(log), 0, 0);
        }
    }

    pub(super) fn announce_one(&mut self, log: Arc<LogKey>, owner: NodeNumber) {
        let Some(router) = self.arguments.router.upgrade() else { return };
        let told = router.nodes.ownership.target(placement::slot_of(&log)) == Some(owner);
        if told && self.logs.contains_key(&log) {
            router.interest(log, 0, 0);
        }
    }
}

/// As fast as the lane takes it. What is registered or left meanwhile is told beside it; interest
/// that is told too late costs a hint that nobody reads.
async fn announce_to_peer(logs: Vec<Arc<LogKey>>, announcement: Arc<Announcement>) {
    for logs in logs.chunks(LOGS_MAX) {
        let announced = |log: &Arc<LogKey>| Announced { log: Arc::clone(log), generation: 0 };
        let message =
            PeerMessage::Interest { logs: logs.iter().map(announced).collect(), since_ms: 0 };
        loop {
            let Some(router) = announcement.router.upgrade() else { return };
            let Some(peer) = router.nodes.peers.get(announcement.to) else { return };
            match peer.send(&message) {
                Ok(()) => break,
                Err(Refused::Full) => {}
                Err(Refused::Down | Refused::TooLarge) => return,
            }
            drop((router, peer));
            tokio::time::sleep(FULL_PAUSE).await;
        }
    }
}
