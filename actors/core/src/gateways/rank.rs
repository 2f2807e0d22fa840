//! Ranking access points.

use crate::placement::mix;

/// What is known of an access point: by gossip, so up to a second or two old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccessPoint {
    /// Links that are open.
    pub links: u64,
    /// Links it takes at most.
    pub links_max: u64,
    /// CPU in use, in thousandths of what it may use.
    pub cpu_permille: u32,
    /// It says that it is overloaded, see [`super::Overload`].
    pub overloaded: bool,
    /// It does not work as it should.
    pub sick: bool,
    /// It is on its way out.
    pub draining: bool,
}

/// How bad a place is; only those of the best class there is are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Good,
    /// Overloaded or full: its links still work.
    Busy,
    Sick,
    Draining,
}

impl AccessPoint {
    pub(super) fn class(&self) -> Class {
        if self.draining {
            Class::Draining
        } else if self.sick {
            Class::Sick
        } else if self.overloaded || self.links >= self.links_max {
            Class::Busy
        } else {
            Class::Good
        }
    }

    /// Links that it can still take (a million at most), times the square of how idle it is (0 to
    /// 1024, by links or by CPU, whichever is worse). At least 1, so that each has a place in the
    /// order; at most 2^40.
    fn attraction(&self) -> u64 {
        let free = self.links_max.saturating_sub(self.links);
        let by_links = u128::from(free) * 1024 / u128::from(self.links_max.max(1));
        let by_links = u64::try_from(by_links).unwrap_or(1024);
        let by_cpu = u64::from(1000u32.saturating_sub(self.cpu_permille)) * 1024 / 1000;
        // Even at full CPU the links count: what must not be chosen is of another class.
        let idle = by_links.min(by_cpu.max(64));
        (free.min(1 << 20) * idle * idle).max(1)
    }
}

/// The order in which a terminal should try them, as indices, the best first. Left out are those
/// that are overloaded, full, sick or draining, as long as there are better ones.
///
/// The order is drawn by lot, with `random` as the only chance in it: the first place goes to each
/// in proportion to the links it can still take and to the square of how idle it is, the second in
/// the same way among the rest, and so on. So equal ones share newcomers equally, an empty one among
/// half-full ones gets more than its share without being run down by all at once while the figures
/// are old, and larger ones get more.
#[must_use]
pub fn rank(access_points: &[AccessPoint], random: u64) -> Vec<usize> {
    let Some(best) = access_points.iter().map(AccessPoint::class).min() else { return Vec::new() };
    let candidates = access_points.iter().enumerate().filter(|(_, one)| one.class() == best);
    by_lot(candidates.map(|(index, one)| (index, one.attraction())).collect(), random)
}

/// Draws one after the other, each in proportion to its attraction, which is not 0, among those left.
pub(super) fn by_lot(mut left: Vec<(usize, u64)>, mut random: u64) -> Vec<usize> {
    let mut ranked = Vec::with_capacity(left.len());
    while !left.is_empty() {
        random = mix(random);
        let total: u64 = left.iter().map(|(_, attraction)| attraction).sum();
        let mut lot = draw(random, total);
        let won = left.iter().position(|(_, attraction)| {
            let won = lot < *attraction;
            lot = lot.saturating_sub(*attraction);
            won
        });
        ranked.push(left.remove(won.unwrap_or(0)).0);
    }
    ranked
}

/// A number below `total`, each as likely as the others but for rounding.
fn draw(random: u64, total: u64) -> u64 {
    let scaled = u128::from(random) * u128::from(total);
    u64::try_from(scaled >> 64).unwrap_or(0)
}

/// Whether a node that is overloaded or draining should send its newcomers away: only if there is an
/// access point that is neither, else they would go round in circles.
#[must_use]
pub fn somewhere_better(others: &[AccessPoint]) -> bool {
    others.iter().any(|one| one.class() == Class::Good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn loaded(links: u64) -> AccessPoint {
        AccessPoint { links, links_max: 1_000, ..AccessPoint::default() }
    }

    /// How often each is the first of ten thousand orders.
    fn firsts(access_points: &[AccessPoint]) -> Vec<usize> {
        let mut firsts = vec![0; access_points.len()];
        for random in 0..10_000 {
            firsts[rank(access_points, mix(random))[0]] += 1;
        }
        firsts
    }

    #[test]
    fn nothing_has_no_order() {
        assert_eq!(rank(&[], 7), Vec::<usize>::new());
        assert_eq!(rank(&[AccessPoint::default()], 7), [0], "better than nothing");
    }

    #[test]
    fn equal_ones_share_newcomers() {
        let firsts = firsts(&[loaded(500); 4]);
        assert!(firsts.iter().all(|first| (2_350..2_650).contains(first)), "{firsts:?}");
    }

    #[test]
    fn the_idle_get_more() {
        let firsts = firsts(&[loaded(0), loaded(500), loaded(900)]);
        // 1000 : 125 : 1 by the cube of what is free.
        assert!((8_750..9_050).contains(&firsts[0]), "{firsts:?}");
        assert!((960..1_260).contains(&firsts[1]), "{firsts:?}");
        assert!((1..40).contains(&firsts[2]), "{firsts:?}");
    }

    #[test]
    fn the_larger_gets_more_and_busy_cpu_repels() {
        let larger = AccessPoint { links: 1_000, links_max: 2_000, ..AccessPoint::default() };
        let by_size = firsts(&[loaded(500), larger]);
        assert!((3_150..3_500).contains(&by_size[0]), "{by_size:?}");
        let by_cpu = firsts(&[loaded(0), AccessPoint { cpu_permille: 900, ..loaded(0) }]);
        assert!(by_cpu[0] > 9_800, "{by_cpu:?}");
    }

    #[test]
    fn the_second_best_come_only_when_there_is_nothing_better() {
        let busy = AccessPoint { overloaded: true, ..loaded(0) };
        let full = loaded(1_000);
        let sick = AccessPoint { sick: true, ..loaded(0) };
        let draining = AccessPoint { draining: true, ..loaded(0) };
        let mut all = vec![draining, sick, full, busy, loaded(999)];
        assert_eq!(rank(&all, 1), [4]);
        assert!(somewhere_better(&all));
        all.pop();
        let mut ranked = rank(&all, 1);
        ranked.sort_unstable();
        assert_eq!(ranked, [2, 3]);
        assert!(!somewhere_better(&all));
        assert_eq!(rank(&all[..2], 1), [1]);
        assert_eq!(rank(&all[..1], 1), [0]);
    }

    /// Newcomers level out what is uneven, though all look at figures that are a batch old.
    #[test]
    fn newcomers_level_the_loads() {
        let mut access_points = [loaded(0), loaded(300), loaded(600)];
        for batch in 0..15 {
            let told = access_points;
            for newcomer in 0..100 {
                access_points[rank(&told, mix(batch * 100 + newcomer))[0]].links += 1;
            }
        }
        let loads = access_points.map(|one| one.links);
        assert_eq!(loads.iter().sum::<u64>(), 2_400);
        assert!(loads.iter().all(|load| (740..860).contains(load)), "{loads:?}");
    }

    fn access_point() -> impl Strategy<Value = AccessPoint> {
        let mark = || proptest::bool::weighted(0.2);
        let number = prop_oneof![0u64..2_000, any::<u64>()];
        (number.clone(), number, any::<u16>(), mark(), mark(), mark()).prop_map(
            |(links, links_max, cpu, overloaded, sick, draining)| AccessPoint {
                links,
                links_max,
                cpu_permille: cpu.into(),
                overloaded,
                sick,
                draining,
            },
        )
    }

    proptest! {
        #[test]
        fn each_of_the_best_class_is_there_once(
            access_points in proptest::collection::vec(access_point(), 0..60),
            random in any::<u64>(),
        ) {
            let ranked = rank(&access_points, random);
            let best = access_points.iter().map(AccessPoint::class).min();
            let is_best = |index: &usize| Some(access_points[*index].class()) == best;
            let expected: Vec<_> = (0..access_points.len()).filter(is_best).collect();
            let mut sorted = ranked.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, expected);
            prop_assert_eq!(rank(&access_points, random), ranked, "no chance but the number");
        }

        #[test]
        fn less_load_attracts_more(one in access_point(), links in any::<u64>(), cpu in 0u32..1000) {
            let less = AccessPoint { links: one.links.min(links), ..one };
            prop_assert!(less.attraction() >= one.attraction());
            let less = AccessPoint { cpu_permille: one.cpu_permille.min(cpu), ..one };
            prop_assert!(less.attraction() >= one.attraction());
            prop_assert!(less.class() == one.class());
        }

        #[test]
        fn a_lot_is_below_the_total(random in any::<u64>(), total in 1..=u64::MAX) {
            prop_assert!(draw(random, total) < total);
        }
    }
}
