//! Random good histories pass; whatever single thing is changed in them is found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod histories;

use clarion_chaos::check::{Options, registry};
use fastrand::Rng;
use histories::mutations::{self, Mutation};
use histories::simulation::{self, Kind};
use histories::{broken, options};
use proptest::prelude::*;

fn kind() -> impl Strategy<Value = Kind> {
    (0..3_u8, 100..900_usize).prop_map(|(kind, steps)| Kind {
        steps,
        evicts: kind == 1,
        loses: kind == 2,
    })
}

#[test]
fn a_terminal_that_acknowledges_late_may_find_its_message_expired() {
    let kind = Kind { steps: 750, evicts: true, loses: false };
    let records = simulation::run(9_146_520_356_187_260_616, kind);
    let options = Options { evicts: true, ..options() };
    let (broken, what) = broken(&records, &options, registry());
    assert!(broken.is_empty(), "{what}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn good_histories_pass(seed in any::<u64>(), kind in kind()) {
        let records = simulation::run(seed, kind);
        let mut options = options();
        options.evicts = kind.evicts;
        let (broken, what) = broken(&records, &options, registry());
        prop_assert!(broken.is_empty(), "{what}");
    }
}

/// Every mutation in histories of several seeds; how often each was made is counted, so that none
/// is never made.
#[test]
fn single_changes_are_found() {
    let mut rng = Rng::with_seed(4);
    let mut made = vec![0; mutations::ALL.len()];
    for _ in 0..6 {
        let seed = rng.u64(..);
        let good = simulation::run(seed, Kind { steps: 400, ..Kind::PLAIN });
        for (made, (name, mutation)) in made.iter_mut().zip(mutations::ALL) {
            let mutation: Mutation = mutation;
            for _ in 0..2 {
                let mut records = good.clone();
                if mutation(&mut records, &mut rng) {
                    *made += 1;
                    let (broken, _) = broken(&records, &options(), registry());
                    assert!(!broken.is_empty(), "{name}, seed {seed}: not found");
                }
            }
        }
    }
    for (made, (name, _)) in made.iter().zip(mutations::ALL) {
        assert!(*made >= 6, "{name}: made {made} times");
    }
}
