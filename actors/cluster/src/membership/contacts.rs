//! Where to knock: the seeds, looked up again and again, since a name may come to stand for other
//! addresses; and members that were lost without a farewell, so that a cluster that was cut in two
//! grows together also when no seed is left.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::watch;

use super::MEMBERS_MAX;

/// Most addresses that the seeds may stand for.
const SEED_ADDRS_MAX: usize = 64;
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between look-ups, shorter while one fails.
const LOOKUP_EVERY: Duration = Duration::from_secs(15);
const LOOKUP_AGAIN: Duration = Duration::from_secs(1);
/// How long a lost member is knocked at.
const LOST_MS_MAX: u64 = 3_600_000;
/// Pause between knocks while there is company.
const KNOCK_EVERY_MS: u64 = 2_000;
/// Addresses knocked at in one round while there is none.
const KNOCKS_MAX: usize = 16;

/// Looks the seeds up for ever. Addresses are told when they change.
pub(super) async fn look_up(seeds: Vec<String>, found: watch::Sender<Vec<SocketAddr>>) {
    let mut failing = false;
    loop {
        let mut addrs = Vec::new();
        let mut failed = None;
        for seed in &seeds {
            match tokio::time::timeout(LOOKUP_TIMEOUT, lookup_host(seed.as_str())).await {
                Ok(Ok(some)) => addrs.extend(some),
                Ok(Err(error)) => failed = Some((seed, error.to_string())),
                Err(_) => failed = Some((seed, "timed out".to_owned())),
            }
        }
        addrs.sort_unstable();
        addrs.dedup();
        addrs.truncate(SEED_ADDRS_MAX);
        if let Some((seed, error)) = &failed
            && !failing
        {
            tracing::warn!(%seed, %error, "a seed cannot be looked up; trying on");
        }
        failing = failed.is_some();
        // A failed look-up takes no address away: names fail more often than nodes move.
        found.send_if_modified(|known| {
            if failing {
                addrs.extend(
                    known.iter().filter(|addr| !addrs.contains(addr)).copied().collect::<Vec<_>>(),
                );
                addrs.truncate(SEED_ADDRS_MAX);
                addrs.sort_unstable();
            }
            let changed = *known != addrs;
            *known = addrs;
            changed
        });
        if found.is_closed() {
            return;
        }
        tokio::time::sleep(if failing { LOOKUP_AGAIN } else { LOOKUP_EVERY }).await;
    }
}

/// Chooses whom to knock at, besides those gossip talks to anyway.
pub(super) struct Contacts {
    me: SocketAddr,
    seeds: watch::Receiver<Vec<SocketAddr>>,
    /// Members lost without a farewell, and when.
    lost: BTreeMap<SocketAddr, u64>,
    knocked_ms: Option<u64>,
}

impl Contacts {
    pub(super) fn new(me: SocketAddr, seeds: watch::Receiver<Vec<SocketAddr>>) -> Self {
        Self { me, seeds, lost: BTreeMap::new(), knocked_ms: None }
    }

    /// A member at this address is gone and did not say so.
    pub(super) fn lose(&mut self, now_ms: u64, addr: SocketAddr) {
        if self.lost.len() < MEMBERS_MAX {
            self.lost.insert(addr, now_ms);
        }
    }

    /// Whom to knock at now, given those who live. `every_ms` is the pause while alone.
    pub(super) fn due(
        &mut self,
        now_ms: u64,
        every_ms: u64,
        live: &[SocketAddr],
    ) -> Vec<SocketAddr> {
        self.lost.retain(|addr, since_ms| {
            now_ms.saturating_sub(*since_ms) < LOST_MS_MAX && !live.contains(addr)
        });
        let alone = live.iter().all(|addr| *addr == self.me);
        let pause_ms = if alone { every_ms } else { KNOCK_EVERY_MS };
        if self.knocked_ms.is_some_and(|at| now_ms.saturating_sub(at) < pause_ms) {
            return Vec::new();
        }
        let seeds = self.seeds.borrow();
        let mut doors: Vec<SocketAddr> = seeds.iter().chain(self.lost.keys()).copied().collect();
        drop(seeds);
        doors.retain(|addr| *addr != self.me && !live.contains(addr));
        fastrand::shuffle(&mut doors);
        doors.truncate(if alone { KNOCKS_MAX } else { 1 });
        // Nothing to knock at is no round: the first address found is tried at once.
        if !doors.is_empty() {
            self.knocked_ms = Some(now_ms);
        }
        doors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn contacts(seeds: &[u16]) -> Contacts {
        let seeds = seeds.iter().map(|port| addr(*port)).collect();
        Contacts::new(addr(1), watch::channel(seeds).1)
    }

    #[test]
    fn alone_every_seed_is_knocked_at_each_round() {
        let mut contacts = contacts(&[1, 2, 3]);
        let mut due = contacts.due(0, 250, &[addr(1)]);
        due.sort_unstable();
        assert_eq!(due, [addr(2), addr(3)]);
        assert!(contacts.due(249, 250, &[addr(1)]).is_empty());
        assert_eq!(contacts.due(250, 250, &[addr(1)]).len(), 2);
    }

    #[test]
    fn in_company_one_silent_seed_is_knocked_at_now_and_then() {
        let mut contacts = contacts(&[2, 3]);
        assert_eq!(contacts.due(0, 250, &[addr(1), addr(2)]), [addr(3)]);
        assert!(contacts.due(KNOCK_EVERY_MS - 1, 250, &[addr(2)]).is_empty());
        assert!(contacts.due(KNOCK_EVERY_MS, 250, &[addr(2), addr(3)]).is_empty(), "all here");
    }

    #[test]
    fn the_lost_are_looked_for_and_bounded() {
        let mut contacts = contacts(&[]);
        contacts.lose(0, addr(9));
        assert_eq!(contacts.due(0, 250, &[addr(1)]), [addr(9)]);
        assert!(contacts.due(250, 250, &[addr(1), addr(9)]).is_empty(), "it is back");
        for port in 100..1_000 {
            contacts.lose(0, addr(port));
        }
        assert_eq!(contacts.lost.len(), MEMBERS_MAX);
        assert!(contacts.due(LOST_MS_MAX, 250, &[addr(1)]).is_empty());
    }

    #[tokio::test]
    async fn seeds_are_addresses_or_names() {
        let (found, mut seeds) = watch::channel(Vec::new());
        let names = vec!["127.0.0.1:7".to_owned(), "localhost:8".to_owned(), "no port".to_owned()];
        let looking = super::super::task::spawn(look_up(names, found));
        seeds.wait_for(|addrs| addrs.len() >= 2).await.unwrap();
        assert!(seeds.borrow().contains(&addr(7)));
        assert!(seeds.borrow().iter().any(|addr| addr.port() == 8));
        looking.abort();
    }
}
