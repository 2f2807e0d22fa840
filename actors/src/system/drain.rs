//! How a node goes: slots first, then terminals, what they acknowledged, what other nodes wait for,
//! the store last.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clarion_protocol::Code;
use futures_util::future::join_all;

use super::{Inner, System};
use crate::link::inbox::{Item, LinkEvent};

/// The part of the drain time-out over which links are sent away; the rest is for the last ones.
const GOAWAY_SHARE: f64 = 0.6;
/// How long the other nodes are given to see that this one owns nothing any more.
const MOVE_AWAY_MAX: Duration = Duration::from_secs(1);

/// When each link leaves: one in each of as many parts of the time as there are links, somewhere in
/// it. So the rate holds in every second, and no two nodes that drain beat in time.
#[derive(Debug, Clone, Copy)]
struct Spread {
    links: u64,
    over_ms: u64,
}

impl Spread {
    /// `per_s` of 0: over the longest time.
    fn of(links: u64, per_s: u32, longest_ms: u64) -> Self {
        let over_ms = match per_s {
            0 => longest_ms,
            per_s => (links * 1000).div_ceil(u64::from(per_s)).min(longest_ms),
        };
        Self { links, over_ms }
    }

    const fn is_faster_than(self, per_s: u32) -> bool {
        per_s > 0 && self.links * 1000 > self.over_ms * per_s as u64
    }

    /// The moment of the n-th link, from 0; links that came meanwhile begin anew.
    fn moment(self, n: u64, random: u64) -> u64 {
        let links = self.links.max(1);
        let jitter = random % self.over_ms.max(1);
        ((n % links) * self.over_ms + jitter) / links
    }
}

impl System {
    /// Resolves when the node began to drain.
    pub async fn draining(&self) {
        let mut draining = self.inner.draining.subscribe();
        // An error means that the node is gone, which is as good.
        let _ = draining.wait_for(|draining| *draining).await;
    }

    /// Says in the cluster that this node is about to go: it owns nothing from then on, and no new
    /// terminals are sent to it. It still serves everything. [`System::drain`] does this first.
    pub fn announce_drain(&self) {
        if let Some(joined) = self.inner.joined.get() {
            joined.membership.set_draining(true);
        }
    }

    /// Drains: refuses pushes, sends links `goaway` spread over the drain time-out or at
    /// `node.drain_links_per_s`, closes what is left at its end, flushes cursors, finishes what
    /// other nodes wait for, leaves the cluster and closes the store.
    pub async fn drain(&self) {
        self.announce_drain();
        self.inner.draining.send_replace(true);
        let total = Duration::from_millis(self.inner.config.node.drain_timeout_ms);
        let deadline = Instant::now() + total;
        self.send_links_away(total.mul_f64(GOAWAY_SHARE));
        // Kept: time for the close frames, cursors and the store.
        let farewell = deadline - total.mul_f64(0.25).min(Duration::from_secs(3));
        self.wait_for_links(farewell).await;
        for shard in &self.inner.shards {
            shard.each(|| LinkEvent::Close(Code::GoingAway));
        }
        self.wait_for_links(farewell + total.mul_f64(0.1)).await;
        let cursors = self.inner.shards.iter().map(|shard| shard.cursors.drain());
        let left = deadline.saturating_duration_since(Instant::now());
        if tokio::time::timeout(left, join_all(cursors)).await.is_err() {
            tracing::warn!("the store did not take all cursors: their messages come again");
        }
        self.finish_appends(deadline.max(Instant::now() + MOVE_AWAY_MAX)).await;
        self.inner.stop().await;
        if let Err(error) = self.inner.store.close().await {
            tracing::error!(%error, "the store did not close cleanly");
        }
    }

    /// No faster than other nodes can take them, and never all at once.
    fn send_links_away(&self, longest: Duration) {
        let per_s = self.inner.config.node.drain_links_per_s;
        let spread = Spread::of(self.link_count() as u64, per_s, longest.as_millis() as u64);
        if spread.is_faster_than(per_s) {
            let (links, ms) = (spread.links, spread.over_ms);
            tracing::warn!(
                links,
                ms,
                "node.drain_timeout_ms is too short for node.drain_links_per_s: links go faster"
            );
        }
        let next = Cell::new(0);
        for shard in &self.inner.shards {
            shard.each(|| {
                let after_ms = spread.moment(next.replace(next.get() + 1), fastrand::u64(..));
                LinkEvent::Goaway { after_ms }
            });
        }
    }

    /// Sends so many links elsewhere, drawn by lot and spread over a time, none that was `told` before.
    /// Nobody insists: who does not go stays. Returns how many it were.
    pub fn send_some_away(&self, count: u64, over: Duration, told: &mut HashSet<u64>) -> u64 {
        let links = self.inner.shards.iter().flat_map(|shard| shard.links_now());
        let (stay, links): (Vec<_>, Vec<_>) = links.partition(|link| told.contains(&link.id));
        // Who went is not remembered: one that comes back has another number.
        *told = stay.iter().map(|link| link.id).collect();
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(links.len());
        let spread = Spread::of(count as u64, 0, over.as_millis() as u64);
        for (n, link) in fastrand::choose_multiple(links, count).into_iter().enumerate() {
            let after_ms = spread.moment(n as u64, fastrand::u64(..));
            told.insert(link.id);
            link.leave(Item::Link(LinkEvent::Goaway { after_ms }));
        }
        count as u64
    }

    async fn wait_for_links(&self, until: Instant) {
        while self.link_count() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until other nodes send nothing more here and what is in flight has its answer.
    async fn finish_appends(&self, until: Instant) {
        let Some(joined) = self.inner.joined.get() else { return };
        let me = &self.inner.router.myself;
        let mut view = joined.membership.view();
        let owns_nothing =
            view.wait_for(|view| view.table(&me.group).is_none_or(|table| table.load(&me.id) == 0));
        let left = until.saturating_duration_since(Instant::now()).min(MOVE_AWAY_MAX);
        let _ = tokio::time::timeout(left, owns_nothing).await;
        while self.inner.in_flight() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Inner {
    /// Appends of this node's pushes that are on their way to other nodes, and of other nodes here.
    pub(super) fn in_flight(&self) -> usize {
        self.router.forwarder.len().0 + self.cluster.serving()
    }

    /// Stops actors and links, in the order of the kind table.
    pub(super) async fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        if let Some(joined) = self.joined.get() {
            joined.membership.leave().await;
        }
        self.supervisor.stop().await;
        if let Some(joined) = self.joined.get() {
            joined.peers.stop().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Spread;

    #[test]
    fn a_rate_that_the_time_does_not_allow_is_told() {
        let fits = Spread::of(500, 100, 5_000);
        assert_eq!((fits.over_ms, fits.is_faster_than(100)), (5_000, false));
        let hurries = Spread::of(501, 100, 5_000);
        assert_eq!((hurries.over_ms, hurries.is_faster_than(100)), (5_000, true));
        let free = Spread::of(501, 0, 5_000);
        assert_eq!((free.over_ms, free.is_faster_than(0)), (5_000, false));
        assert_eq!(Spread::of(0, 100, 5_000).moment(0, 7), 0);
    }

    proptest! {
        /// In any second leave as many as the rate says, and one more at either end of it.
        #[test]
        fn the_rate_holds_in_every_second(
            links in 1u64..3_000,
            per_s in 1u32..2_000,
            seed in any::<u64>(),
        ) {
            let mut random = fastrand::Rng::with_seed(seed);
            let spread = Spread::of(links, per_s, u64::MAX);
            let moments: Vec<u64> = (0..links).map(|n| spread.moment(n, random.u64(..))).collect();
            prop_assert!(moments.is_sorted());
            prop_assert!(moments.iter().all(|at| *at <= spread.over_ms));
            let most = per_s as usize + 2;
            let crowded = moments.windows(most + 1).find(|some| some[most] - some[0] < 1_000);
            prop_assert_eq!(crowded, None);
        }
    }
}
