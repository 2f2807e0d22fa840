//! When a node has had enough newcomers.

/// How loaded this node is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Strain {
    /// Links that are open.
    pub links: u64,
    /// Links it takes at most; 0 if it takes none, which is no overload.
    pub links_max: u64,
    /// CPU in use since the last look, in thousandths of what it may use.
    pub cpu_permille: u32,
}

/// Links from which on a node is overloaded, in thousandths of the most.
const LINKS_HIGH_PERMILLE: u128 = 950;
/// Links up to which it no longer is.
const LINKS_LOW_PERMILLE: u128 = 900;
/// CPU from which on a node is overloaded, if it lasts.
const CPU_HIGH_PERMILLE: u32 = 900;
/// CPU up to which it no longer is, if that lasts.
const CPU_LOW_PERMILLE: u32 = 700;
/// Looks in a row that count as lasting: CPU jumps, links do not.
const LOOKS: u8 = 3;

/// Whether newcomers should go elsewhere, with hysteresis: between the marks it stays as it was. To
/// be looked at in even intervals, of a second or so; whether there is a better place is asked of
/// [`super::somewhere_better`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overload {
    by_links: bool,
    by_cpu: bool,
    /// Looks in a row at which CPU was beyond the mark that would change `by_cpu`.
    beyond: u8,
}

impl Overload {
    /// Takes in how loaded the node is now; whether it is overloaded.
    pub fn look(&mut self, now: Strain) -> bool {
        let mark = if self.by_links { LINKS_LOW_PERMILLE } else { LINKS_HIGH_PERMILLE };
        let (links, links_max) = (u128::from(now.links) * 1000, u128::from(now.links_max) * mark);
        self.by_links =
            now.links_max > 0 && if self.by_links { links > links_max } else { links >= links_max };
        let beyond = if self.by_cpu {
            now.cpu_permille <= CPU_LOW_PERMILLE
        } else {
            now.cpu_permille >= CPU_HIGH_PERMILLE
        };
        self.beyond = if beyond { self.beyond + 1 } else { 0 };
        if self.beyond >= LOOKS {
            (self.by_cpu, self.beyond) = (!self.by_cpu, 0);
        }
        self.is_overloaded()
    }

    /// What the last look said.
    #[must_use]
    pub const fn is_overloaded(&self) -> bool {
        self.by_links || self.by_cpu
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn links(links: u64) -> Strain {
        Strain { links, links_max: 1_000, cpu_permille: 0 }
    }

    fn cpu(cpu_permille: u32) -> Strain {
        Strain { cpu_permille, ..links(0) }
    }

    fn looks(overload: &mut Overload, strains: impl IntoIterator<Item = Strain>) -> Vec<bool> {
        strains.into_iter().map(|strain| overload.look(strain)).collect()
    }

    #[test]
    fn links_count_at_once_and_between_the_marks_nothing_changes() {
        let seen = looks(&mut Overload::default(), [949, 950, 901, 900, 949, 950].map(links));
        assert_eq!(seen, [false, true, true, false, false, true]);
    }

    #[test]
    fn cpu_counts_when_it_lasts() {
        let mut overload = Overload::default();
        let seen = looks(&mut overload, [999, 999, 100, 999, 900, 900].map(cpu));
        assert_eq!(seen, [false, false, false, false, false, true]);
        let seen = looks(&mut overload, [0, 0, 701, 700, 700, 700, 800].map(cpu));
        assert_eq!(seen, [true, true, true, true, true, false, false]);
    }

    #[test]
    fn a_node_without_links_is_not_full() {
        assert!(!Overload::default().look(Strain::default()));
    }

    proptest! {
        /// It changes its mind for a reason only: after each change the load must cross to the other
        /// mark before the next one.
        #[test]
        fn it_does_not_waver_between_the_marks(
            before in proptest::collection::vec(0u64..=1_000, 0..20),
            between in proptest::collection::vec((901u64..950, 701u32..900), 1..50),
        ) {
            let mut overload = Overload::default();
            looks(&mut overload, before.into_iter().map(links));
            let was = overload.is_overloaded();
            for (links, cpu_permille) in between {
                let now = Strain { links, links_max: 1_000, cpu_permille };
                prop_assert_eq!(overload.look(now), was);
            }
        }

        #[test]
        fn extremes_decide_whatever_was_before(
            before in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u32>()), 0..20),
        ) {
            let strain = |(links, links_max, cpu_permille)| Strain { links, links_max, cpu_permille };
            let mut overload = Overload::default();
            looks(&mut overload, before.into_iter().map(strain));
            let mut other = overload;
            prop_assert!(looks(&mut overload, [cpu(1_000); 3])[2]);
            prop_assert!(!looks(&mut other, [cpu(0); 3])[2]);
        }
    }
}
