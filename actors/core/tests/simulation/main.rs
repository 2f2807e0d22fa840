//! The cores of session, delivery, membership and placement, run together in a cluster that is
//! simulated: seeded, single-threaded, in virtual time. Nodes die, hang and wake, links break and lose
//! what was on its way, lanes overtake each other, the store fails over and forgets what `WAIT` did not
//! confirm, terminals come, go and switch. What must hold (I1 to I10, I12, I13 of `README.md`) is
//! checked at every step, whenever the cluster is calm, and at the end.
//!
//! | file | is |
//! | --- | --- |
//! | `schedule.rs` | what happens from outside, as a list; its text; its shrinking |
//! | `world.rs` | time, events, network, what decisions do |
//! | `store.rs` | the model of the store |
//! | `node.rs`, `owner.rs`, `relay.rs` | the glue of `actors/src` around the cores, as a model |
//! | `terminal.rs` | terminals with their SDK, back-ends that push |
//! | `audit.rs` | what must hold |
//!
//! `CLARION_SIMULATION_STEPS` runs so many steps, from `CLARION_SIMULATION_SEED` on;
//! `CLARION_SIMULATION_SCHEDULE` runs one schedule, in the settings of that seed, and with
//! `CLARION_SIMULATION_TRACE` prints every event of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod audit;
mod node;
mod owner;
mod relay;
mod schedule;
mod store;
mod terminal;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use schedule::{Decision, generate, parse, shrink};
use world::World;

/// Decisions in one schedule.
const LENGTH: usize = 250;

/// What kind of cluster it is.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub nodes: usize,
    /// No hints at all: the slow check must find everything.
    pub hints_off: bool,
    /// Messages between nodes are lost without anybody being told: more than links do.
    pub rough: bool,
    /// 0: the slow check is off, and everything must heal without it.
    pub head_check_ms: u64,
    /// Every event is printed.
    pub trace: bool,
}

impl Settings {
    /// Of a seed: three or four nodes; one in eight without hints, one in eight with losses.
    fn of(seed: u64) -> Self {
        let (hints_off, rough) = (seed % 8 == 6, seed % 8 == 7);
        let head_check_ms = if hints_off || rough { 5000 } else { 0 };
        Self { nodes: 3 + (seed / 8 % 2) as usize, hints_off, rough, head_check_ms, trace: false }
    }
}

/// What is made wrong on purpose, in the rules or around the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A retry does not look for its message (I2).
    RetriesBlindly,
    /// A retry begins before the attempt is over (I2).
    RetriesOverlap,
    /// The store answers before copies have confirmed.
    AnswerBeforeConfirm,
    /// A reader is given what copies have not confirmed (I1).
    ReadUnconfirmed,
    /// The store takes cursors of former sessions (I7).
    CursorWithoutGeneration,
    /// A session goes on though it was told that it is not the newest (I7).
    StaleSessionGoesOn,
    /// A cursor is saved when an entry is sent (I9).
    SavesWhatWasSent,
    /// Hints do not say what came before (I6).
    HintsWithoutPredecessor,
    /// An owner confirms interest without knowing the head (I4).
    ConfirmsBeforeHead,
    /// A hint counts as the confirmation of interest (I4): what the owner says later may be lost.
    HintsConfirm,
    /// Interest is not told again when a link was made anew (I12).
    ForgetsToAnnounce,
    /// What a full lane refused is not said later (I12).
    DropsSilently,
    /// A relay that does not hear an owner does not ask the store (I12).
    NeverPolls,
    /// An append that is found again is not hinted again (I12).
    FoundAgainIsNotHinted,
    /// Expiry is judged by the clock of the machine (I11).
    ExpiresByWallClock,
    /// Who comes back owns at once.
    NoQuarantine,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
    pub at_ms: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ms: {}", self.invariant, self.at_ms, self.what)
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Ran {
    steps: u64,
    decisions: usize,
    accepted: u64,
    calm_looks: u64,
}

/// Runs a schedule to its end, or to what must not be.
fn run(
    settings: Settings,
    mutant: Option<Mutant>,
    schedule: &[Decision],
) -> (Ran, Option<Violation>) {
    let mut ran = Ran::default();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(settings, mutant);
        for decision in schedule {
            if world.violation.is_some() {
                break;
            }
            world.apply(*decision);
            ran.decisions += 1;
        }
        if world.violation.is_none() {
            world.settle();
        }
        ran.steps = world.steps;
        (ran.accepted, ran.calm_looks) = (world.audit.accepted_count, world.audit.calm_looks);
        world.violation
    }));
    let violation = outcome.unwrap_or_else(|why| {
        let text = why.downcast_ref::<String>().cloned();
        let text = text.or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Some(Violation { invariant: "panic", what: text.unwrap_or_default(), at_ms: 0 })
    });
    (ran, violation)
}

/// The smallest schedule found that breaks the same invariant.
fn minimal(
    settings: Settings,
    mutant: Option<Mutant>,
    schedule: &[Decision],
    violation: &Violation,
    runs: usize,
) -> Vec<Decision> {
    shrink(schedule.to_vec(), runs, |candidate| {
        let again = run(settings, mutant, candidate).1;
        again.is_some_and(|again| again.invariant == violation.invariant)
    })
}

fn text(schedule: &[Decision]) -> String {
    schedule.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn replay(seed: u64, schedule: &[Decision]) -> String {
    let schedule = text(schedule);
    format!(
        "CLARION_SIMULATION_SEED={seed} CLARION_SIMULATION_SCHEDULE='{schedule}' \
         cargo test -p clarion-core --test simulation seeds_keep -- --nocapture"
    )
}

fn run_seed(seed: u64) -> Ran {
    let (settings, schedule) = (Settings::of(seed), generate(seed, LENGTH));
    let (ran, violation) = run(settings, None, &schedule);
    if let Some(violation) = violation {
        let schedule = &schedule[..ran.decisions];
        let small = minimal(settings, None, schedule, &violation, 600);
        let last = run(settings, None, &small).1.unwrap_or_else(|| violation.clone());
        panic!(
            "seed {seed}: {violation}\n{} of {} decisions: {last}\n{}",
            small.len(),
            schedule.len(),
            replay(seed, &small)
        );
    }
    ran
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// A fixed set of seeds, or as many as it takes for `CLARION_SIMULATION_STEPS`.
#[test]
fn seeds_keep_every_promise() {
    let first = variable("CLARION_SIMULATION_SEED");
    if let Ok(schedule) = std::env::var("CLARION_SIMULATION_SCHEDULE") {
        let trace = std::env::var_os("CLARION_SIMULATION_TRACE").is_some();
        let settings = Settings { trace, ..Settings::of(first.unwrap_or(0)) };
        let (ran, violation) = run(settings, None, &parse(&schedule));
        println!("{settings:?}: {ran:?}");
        assert_eq!(violation, None);
        return;
    }
    let steps = variable("CLARION_SIMULATION_STEPS").unwrap_or(1_000_000);
    let (mut sum, mut seed) = (Ran::default(), first.unwrap_or(1));
    while sum.steps < steps {
        let ran = run_seed(seed);
        sum.steps += ran.steps;
        sum.accepted += ran.accepted;
        sum.calm_looks += ran.calm_looks;
        seed += 1;
    }
    println!("seeds up to {seed}: {sum:?}");
    assert!(sum.accepted > 1000, "pushes are accepted: {sum:?}");
    assert!(sum.calm_looks > 100, "the cluster is calm now and then: {sum:?}");
}

/// Every mutant is found within so many seeds, and what is left of the schedule is small. `first`: where
/// to begin, so that the rare ones take no minute.
fn is_found(mutant: Mutant, first: u64, invariants: &[&str]) {
    const SEEDS: u64 = 300;
    for seed in first..first + SEEDS {
        let (settings, schedule) = (Settings::of(seed), generate(seed, LENGTH));
        let (ran, violation) = run(settings, Some(mutant), &schedule);
        let Some(violation) = violation else { continue };
        let small = minimal(settings, Some(mutant), &schedule[..ran.decisions], &violation, 150);
        println!(
            "{mutant:?}: seed {seed}, {violation}\n{} decisions: {}",
            small.len(),
            text(&small)
        );
        assert!(invariants.contains(&violation.invariant), "{mutant:?}: {violation}");
        assert!(small.len() < 60, "{mutant:?}: {} decisions", small.len());
        assert_eq!(run(settings, None, &small).1, None, "it is the mutant that fails");
        return;
    }
    panic!("{mutant:?} is not found within {SEEDS} seeds");
}

macro_rules! mutants {
    ($($name:ident: $mutant:ident, $first:literal, $($invariant:literal)|+;)*) => {
        $(#[test]
        fn $name() {
            is_found(Mutant::$mutant, $first, &[$($invariant),+]);
        })*
    };
}

mutants! {
    a_retry_that_does_not_look_is_found: RetriesBlindly, 1, "I2";
    attempts_that_overlap_are_found: RetriesOverlap, 1, "I2";
    an_answer_before_confirmation_is_found: AnswerBeforeConfirm, 1, "lost" | "I1";
    an_unconfirmed_read_is_found: ReadUnconfirmed, 1, "I1";
    a_cursor_without_generation_is_found: CursorWithoutGeneration, 1, "I7";
    a_stale_session_that_goes_on_is_found: StaleSessionGoesOn, 1, "I7" | "I9";
    a_cursor_of_what_was_only_sent_is_found: SavesWhatWasSent, 1, "lost" | "I13" | "I12";
    a_hint_without_predecessor_is_found: HintsWithoutPredecessor, 1, "lost" | "I12" | "I13" | "I8";
    a_confirmation_before_the_head_is_found: ConfirmsBeforeHead, 147, "lost" | "I12" | "I9";
    a_hint_taken_for_a_confirmation_is_found: HintsConfirm, 69, "lost" | "I12" | "I9";
    interest_that_is_not_told_again_is_found: ForgetsToAnnounce, 1, "lost" | "I12" | "I9";
    hints_dropped_silently_are_found: DropsSilently, 1, "lost" | "I12" | "I9";
    a_relay_that_never_polls_is_found: NeverPolls, 1, "lost" | "I12" | "I9";
    an_append_found_again_and_not_hinted_is_found: FoundAgainIsNotHinted, 1, "lost" | "I12" | "I9";
    expiry_by_the_wall_clock_is_found: ExpiresByWallClock, 1, "I11" | "I12" | "I13" | "lost";
    a_node_that_flaps_and_owns_is_found: NoQuarantine, 10, "quarantine";
}
