//! Mutants: ways in which a build with the feature `fault-hooks` breaks a promise on purpose, for
//! whoever checks the checker. Without the feature [`mutated`] is `false` when it is compiled, and
//! nothing of them is left.
//!
//! One is chosen when the node starts, by its name among the faults (`CLARION_FAULTS`).

macro_rules! mutants {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// A promise that is broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$doc])+ $variant,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name by which it is chosen.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

mutants! {
    /// The embedded store answers while the batch is in memory only, and commits a moment later.
    AnswerBeforeCommit = "answer-before-commit",
    /// Redis: no fence and no `WAIT` after what is to be durable.
    SkipWait = "skip-wait",
    /// Redis: a read gives what no replica has confirmed.
    UnconfirmedRead = "unconfirmed-read",
    /// A session takes a hint whatever its predecessor is.
    IgnorePredecessor = "ignore-predecessor",
    /// Cursors are not written.
    ForgetCursor = "forget-cursor",
    /// The embedded store writes cursors once more when another session may be there, and neither
    /// generation nor position hold that up.
    StaleCursor = "stale-cursor",
    /// A second attempt does not look for what the first one appended.
    BlindRetry = "blind-retry",
    /// Sessions judge expiry by the wall clock.
    WallClock = "wall-clock",
    /// Redis: what cursors passed is counted again, without its ticket.
    CountTwice = "count-twice",
    /// Owners are told that this was all, and nothing else.
    SilentHandOver = "silent-hand-over",
    /// A push that could not be appended is answered as if it had been.
    FalseAccept = "false-accept",
    /// One push to a terminal in eight goes to another one.
    WrongTerminal = "wrong-terminal",
    /// What goes out together goes out backwards.
    LoseOrder = "lose-order",
    /// Every link keeps a file open for good.
    LeakFiles = "leak-files",
}

/// Whether the node breaks this promise.
#[cfg(not(feature = "fault-hooks"))]
#[inline]
#[must_use]
pub const fn mutated(_: Mutant) -> bool {
    false
}

#[cfg(feature = "fault-hooks")]
pub use chosen::{choose, mutated};

#[cfg(feature = "fault-hooks")]
mod chosen {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Mutant;

    /// A bit for each.
    static CHOSEN: AtomicU32 = AtomicU32::new(0);

    /// Whether the node breaks this promise.
    #[inline]
    #[must_use]
    pub fn mutated(mutant: Mutant) -> bool {
        CHOSEN.load(Ordering::Relaxed) & (1 << mutant as u32) != 0
    }

    /// The node breaks the promise of this name from now on; false if there is none.
    #[must_use]
    pub fn choose(name: &str) -> bool {
        let Some(mutant) = Mutant::ALL.iter().find(|mutant| mutant.name() == name) else {
            return false;
        };
        CHOSEN.fetch_or(1 << *mutant as u32, Ordering::Relaxed);
        true
    }
}
