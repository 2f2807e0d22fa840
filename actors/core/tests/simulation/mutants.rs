//! What is made wrong on purpose, and that it is found: who checks the checker.

use crate::schedule::generate;
use crate::{LENGTH, Settings, minimal, run, text};

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
    /// One that refused once is dead for good, whatever it starts behind a cut (I12).
    DeadForGood,
    /// An append that is found again is not hinted again (I12).
    FoundAgainIsNotHinted,
    /// Expiry is judged by the clock of the machine (I11).
    ExpiresByWallClock,
    /// Who comes back owns at once.
    NoQuarantine,
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
    one_that_is_dead_for_good_is_found: DeadForGood, 464, "lost" | "I12" | "I9";
    a_node_that_flaps_and_owns_is_found: NoQuarantine, 10, "quarantine";
}
