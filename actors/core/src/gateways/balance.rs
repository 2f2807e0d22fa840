//! When a node sends standing links to the others: after a rolling upgrade, or when a node is added, the
//! last one has none, and terminals that stay connected never ask for a better place.

use std::collections::VecDeque;

use super::AccessPoint;
use super::rank::{Class, by_lot};

/// Looks after which links that were told to go have gone, and others have heard of it.
const UNDER_WAY_LOOKS: usize = 8;

/// What an operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalanceRules {
    /// Links that are sent away at each look at most; 0: none, ever.
    pub links_max: u64,
    /// A node begins above so many hundredths of its share,
    pub over_percent: u64,
    /// and above so many links more than its share.
    pub over_links: u64,
    /// Looks in a row at which that must be so, and nothing be amiss, before it begins.
    pub looks: u32,
}

impl BalanceRules {
    /// Above how many links a node of this share begins.
    fn begins_above(&self, share: u64) -> u64 {
        let by_percent = u128::from(share) * u128::from(self.over_percent.max(100)) / 100;
        u64::try_from(by_percent).unwrap_or(u64::MAX).max(share.saturating_add(self.over_links))
    }
}

/// How many links a node should send away, with hysteresis: it begins when it has held clearly more than
/// its share for a while, and ends near its share. To be looked at in even intervals, of a second or so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Balance {
    /// Looks in a row at which it had too many.
    uneven: u32,
    sends: bool,
    /// What the last looks sent away, the latest at the back; at most [`UNDER_WAY_LOOKS`].
    sent: VecDeque<u64>,
}

impl Balance {
    /// Takes in how loaded all access points of the group are, this node's and the others', and whether
    /// all is `calm`: nobody drains, is sick or in quarantine. Returns how many links go now.
    pub fn look(
        &mut self,
        rules: &BalanceRules,
        me: &AccessPoint,
        others: &[AccessPoint],
        calm: bool,
    ) -> u64 {
        if self.sent.len() == UNDER_WAY_LOOKS {
            self.sent.pop_front();
        }
        let all_good = || [me].into_iter().chain(others).all(|one| one.class() == Class::Good);
        if rules.links_max == 0 || others.is_empty() || !calm || !all_good() {
            (self.uneven, self.sends) = (0, false);
            self.sent.push_back(0);
            return 0;
        }
        let share = share(me, others);
        let begins_above = rules.begins_above(share);
        let ends_at = share + (begins_above - share) / 4;
        // What was sent away lately is still counted by somebody, here or there.
        let links = me.links.saturating_sub(self.sent.iter().sum());
        self.uneven = if links > begins_above { self.uneven.saturating_add(1) } else { 0 };
        self.sends = links > ends_at && (self.sends || self.uneven >= rules.looks.max(1));
        let now = if self.sends { rules.links_max.min(links - ends_at) } else { 0 };
        self.sent.push_back(now);
        now
    }

    /// Whether it sends links away.
    #[must_use]
    pub const fn sends(&self) -> bool {
        self.sends
    }
}

/// The order in which a link that is sent away for balance should try the others, as indices: those with
/// less than their share, drawn by lot in proportion to what they lack. Whoever has enough would only
/// send it on.
#[must_use]
pub fn rank_lacking(me: &AccessPoint, others: &[AccessPoint], random: u64) -> Vec<usize> {
    let lacks = |at: usize, one: &AccessPoint| {
        let rest = others.iter().enumerate().filter(|(other, _)| *other != at);
        let rest: Vec<_> = rest.map(|(_, other)| *other).chain([*me]).collect();
        // So much at most that the sum for some hundred fits.
        share(one, &rest).saturating_sub(one.links).min(1 << 40)
    };
    let good = others.iter().enumerate().filter(|(_, one)| one.class() == Class::Good);
    let lacking = good.map(|(at, one)| (at, lacks(at, one))).filter(|(_, lacks)| *lacks > 0);
    by_lot(lacking.collect(), random)
}

/// A node's part of all links, by how many it takes at most.
fn share(me: &AccessPoint, others: &[AccessPoint]) -> u64 {
    let all = || [me].into_iter().chain(others);
    let links: u128 = all().map(|one| u128::from(one.links)).sum();
    let links_max: u128 = all().map(|one| u128::from(one.links_max)).sum();
    // Below 2^128: each sum is of at most some hundred numbers below 2^64.
    let share = links.saturating_mul(u128::from(me.links_max)).div_ceil(links_max.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::mix;
    use proptest::prelude::*;

    const RULES: BalanceRules =
        BalanceRules { links_max: 10, over_percent: 125, over_links: 100, looks: 3 };

    fn loaded(links: u64) -> AccessPoint {
        AccessPoint { links, links_max: 10_000, ..AccessPoint::default() }
    }

    fn looks(balance: &mut Balance, count: usize, me: u64, others: &[u64]) -> Vec<u64> {
        let others: Vec<_> = others.iter().map(|links| loaded(*links)).collect();
        (0..count).map(|_| balance.look(&RULES, &loaded(me), &others, true)).collect()
    }

    #[test]
    fn it_begins_when_it_has_clearly_more_for_a_while_and_ends_near_its_share() {
        let mut balance = Balance::default();
        // The share is 1000: at 1250 nothing happens, above it something does.
        assert_eq!(looks(&mut balance, 9, 1250, &[1000, 750]), [0; 9]);
        assert_eq!(looks(&mut balance, 5, 1251, &[1000, 749]), [0, 0, 10, 10, 10]);
        // Those are not told twice: what is under way counts as gone.
        assert_eq!(looks(&mut balance, 3, 1090, &[1000, 910]), [0, 0, 0], "1062 is the end");
        assert!(!balance.sends());
        assert_eq!(looks(&mut balance, 20, 1250, &[1000, 750]), [0; 20], "and begins not at once");
    }

    #[test]
    fn few_links_are_left_where_they_are() {
        assert_eq!(looks(&mut Balance::default(), 20, 150, &[0, 0]), [0; 20]);
        assert!(looks(&mut Balance::default(), 20, 200, &[0, 0]).iter().any(|sent| *sent > 0));
    }

    #[test]
    fn whatever_is_amiss_ends_it_and_it_waits_anew() {
        let idle = loaded(0);
        let amiss = [
            AccessPoint { draining: true, ..idle },
            AccessPoint { sick: true, ..idle },
            AccessPoint { overloaded: true, ..idle },
        ];
        for amiss in amiss {
            let mut balance = Balance::default();
            assert_eq!(looks(&mut balance, 3, 3000, &[0]), [0, 0, 10]);
            assert_eq!(balance.look(&RULES, &loaded(3000), &[idle, amiss], true), 0);
            assert_eq!(looks(&mut balance, 3, 3000, &[0]), [0, 0, 10]);
            assert_eq!(balance.look(&RULES, &loaded(3000), &[idle], false), 0, "not calm");
            assert_eq!(looks(&mut balance, 3, 3000, &[0]), [0, 0, 10]);
        }
        let mut balance = Balance::default();
        let off = BalanceRules { links_max: 0, ..RULES };
        assert!((0..9).all(|_| balance.look(&off, &loaded(3000), &[idle], true) == 0));
        assert_eq!(looks(&mut balance, 9, 3000, &[]), [0; 9], "there is nowhere to go");
    }

    #[test]
    fn those_that_lack_most_are_drawn_most_and_those_with_enough_never() {
        let busy = AccessPoint { overloaded: true, ..loaded(0) };
        let others = [loaded(900), loaded(200), loaded(600), busy];
        assert_eq!(rank_lacking(&loaded(1300), &others, 7), [1], "the share is 600");
        let mut firsts = [0; 2];
        for random in 0..10_000 {
            firsts[rank_lacking(&loaded(900), &[loaded(0), loaded(300)], mix(random))[0]] += 1;
        }
        // 400 and 100 are lacking.
        assert!((7_800..8_200).contains(&firsts[0]), "{firsts:?}");
        assert!(rank_lacking(&loaded(5), &[loaded(5), loaded(5)], 7).is_empty());
    }

    /// A cluster of gateways: who is told to go leaves within some looks and connects to another that
    /// is drawn as terminals draw it; figures of others are some looks old.
    struct World {
        now: Vec<AccessPoint>,
        told: VecDeque<Vec<AccessPoint>>,
        balances: Vec<Balance>,
        /// Links on their way from a node, by the looks until they arrive.
        under_way: Vec<(u64, usize)>,
        begun: usize,
        moved: u64,
        random: u64,
    }

    impl World {
        fn random(&mut self) -> u64 {
            self.random = mix(self.random);
            self.random
        }

        fn step(&mut self, rules: &BalanceRules, delay: usize) {
            self.told.push_back(self.now.clone());
            if self.told.len() > delay + 1 {
                self.told.pop_front();
            }
            for at in 0..self.now.len() {
                let mut others = self.told[0].clone();
                others.remove(at);
                let sent_before = self.balances[at].sends();
                let count = self.balances[at].look(rules, &self.now[at].clone(), &others, true);
                self.begun += usize::from(!sent_before && self.balances[at].sends());
                self.moved += count;
                for _ in 0..count {
                    let after = 1 + self.random() % 3;
                    self.under_way.push((after, at));
                }
            }
            let mut arrive = Vec::new();
            self.under_way.retain_mut(|(after, from)| {
                *after -= 1;
                if *after == 0 {
                    arrive.push(*from);
                }
                *after > 0
            });
            for from in arrive {
                let random = self.random();
                let others: Vec<_> = (0..self.now.len()).filter(|at| *at != from).collect();
                let points: Vec<_> = others.iter().map(|at| self.told[0][*at]).collect();
                let ranked = rank_lacking(&self.now[from], &points, random);
                let Some(to) = ranked.first().map(|at| others[*at]) else { continue };
                self.now[from].links -= 1;
                self.now[to].links += 1;
            }
        }

        fn surplus(&self, at: usize) -> (u64, u64) {
            let mut others = self.now.clone();
            others.remove(at);
            let share = share(&self.now[at], &others);
            (share, self.now[at].links.saturating_sub(share))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the loads are, they are even after a while and stay so; each node begins a few
        /// times at most, and hardly more links move than have to.
        #[test]
        fn it_converges_and_never_goes_to_and_fro(
            loads in proptest::collection::vec((0u64..4_000, 1u64..=3), 2..=8),
            delay in 0usize..=3,
            links_max in 1u64..=40,
            seed in any::<u64>(),
        ) {
            let rules = BalanceRules { links_max, ..RULES };
            let point = |(links, size): &(u64, u64)| AccessPoint {
                links: *links,
                links_max: size * 40_000,
                ..AccessPoint::default()
            };
            let now: Vec<_> = loads.iter().map(point).collect();
            let mut world = World {
                balances: vec![Balance::default(); now.len()],
                now,
                told: VecDeque::new(),
                under_way: Vec::new(),
                begun: 0,
                moved: 0,
                random: seed,
            };
            let nodes = world.now.len();
            let surplus: u64 = (0..nodes).map(|at| world.surplus(at).1).sum();
            let enough = surplus / links_max + 100;
            for _ in 0..enough {
                world.step(&rules, delay);
            }
            let (moved, begun) = (world.moved, world.begun);
            for at in 0..nodes {
                let share = world.surplus(at).0;
                prop_assert!(world.now[at].links <= rules.begins_above(share), "{:?}", world.now);
            }
            prop_assert!(begun <= 2 * nodes, "begun {begun} times");
            prop_assert!(moved <= surplus + surplus / 4 + 50, "{moved} moved, {surplus} had to");
            for _ in 0..200 {
                world.step(&rules, delay);
            }
            prop_assert_eq!((world.moved, world.begun), (moved, begun), "it goes on");
        }
    }
}
