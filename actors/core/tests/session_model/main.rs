//! The session against a model: a set of logs that grow, expire, are recalled, evicted and
//! restored; hints that are lost, doubled and reordered; reads that are answered late, twice or not
//! at all; a terminal that acknowledges, skips, stays silent and starts anew. What must hold is
//! checked at every effect (`checks.rs`), and once the faults stop, that everything arrived.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checks;
mod world;

use proptest::prelude::*;
use world::World;

/// What can happen; the number says where and how.
type Step = fn(&mut World, u32);

/// The steps, by weight: a number picks one.
const STEPS: &[(u32, Step)] = &[
    (8, World::append),
    (12, World::deliver_hint),
    (2, World::double_hint),
    (2, World::lose_hint),
    (2, World::tell_missed),
    (12, World::answer_read),
    (1, World::fail_read),
    (2, World::answer_twice),
    (10, World::acknowledge),
    (1, World::skip),
    (4, World::pass_time),
    (1, World::stay_silent),
    (2, World::restart),
    (1, World::crash),
    (1, World::restore),
    (2, World::evict),
    (2, World::recall),
    (2, World::purge),
    (2, World::confirm_interest),
    (1, World::rejoin),
];

fn run(steps: impl IntoIterator<Item = (u32, u32)>) {
    let mut world = World::new();
    let total: u32 = STEPS.iter().map(|(weight, _)| weight).sum();
    for (pick, argument) in steps {
        let mut pick = pick % total;
        for (weight, step) in STEPS {
            if pick < *weight {
                step(&mut world, argument);
                break;
            }
            pick -= weight;
        }
    }
    world.settle_down();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, max_shrink_iters: 30_000, ..Default::default() })]

    /// I1-I10 as far as the session keeps them; see `checks.rs`.
    #[test]
    fn nothing_is_lost_doubled_in_order_or_above_its_bounds(
        steps in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..300),
    ) {
        run(steps);
    }
}

/// The same, long, and the same every time.
#[test]
fn long_histories_keep_every_promise() {
    for seed in 0..60u64 {
        let mut state = seed;
        let mut random = move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed ^ (mixed >> 31)) as u32
        };
        run(std::iter::repeat_with(move || (random(), random())).take(3000));
    }
}
