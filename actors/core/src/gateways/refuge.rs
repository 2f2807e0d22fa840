//! Whether the terminals of a node that is sick should go elsewhere.

use super::{AccessPoint, somewhere_well};

/// Looks in a row after which it counts. What makes all nodes sick, a store that is away for all of
/// them, does so within a second; nobody moves then, as no place is better.
const LOOKS: u8 = 2;

/// See the module. A look a second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Refuge {
    looks: u8,
}

impl Refuge {
    /// Whether terminals should go elsewhere now: the node has been sick, and another one well, with
    /// room for more, for some looks.
    pub fn look(&mut self, sick: bool, others: &[AccessPoint]) -> bool {
        let better = sick && somewhere_well(others);
        self.looks = if better { self.looks.saturating_add(1).min(LOOKS) } else { 0 };
        self.is_sought()
    }

    /// What the last look said.
    #[must_use]
    pub const fn is_sought(&self) -> bool {
        self.looks >= LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: AccessPoint = AccessPoint {
        links: 1,
        links_max: 10,
        cpu_permille: 0,
        overloaded: false,
        sick: false,
        draining: false,
    };

    #[test]
    fn who_is_sick_alone_is_left() {
        let mut refuge = Refuge::default();
        assert!(!refuge.look(true, &[WELL]), "not at the first look");
        assert!(refuge.look(true, &[WELL]));
        assert!(refuge.look(true, &[WELL, AccessPoint { sick: true, ..WELL }]), "one is enough");
        assert!(refuge.look(true, &[AccessPoint { overloaded: true, ..WELL }]), "busy is well");
        assert!(!refuge.look(false, &[WELL]), "it is well again");
        assert!(!refuge.look(true, &[WELL]), "and begins anew");
    }

    #[test]
    fn nobody_leaves_for_a_place_that_is_no_better() {
        let mut refuge = Refuge::default();
        let full = AccessPoint { links: 10, ..WELL };
        let worse =
            [AccessPoint { sick: true, ..WELL }, AccessPoint { draining: true, ..WELL }, full];
        for _ in 0..4 {
            assert!(!refuge.look(true, &worse));
            assert!(!refuge.look(true, &[]));
        }
    }
}
