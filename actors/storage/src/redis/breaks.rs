//! Tests break the steps of an operation here: what a crash or a time-out between them leaves.

use ::redis::Value;

use super::RedisStore;
use super::link::ScriptCall;
use crate::StoreResult;

/// A step that others follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A terminal's cursors are written.
    Save,
    /// What they passed is counted.
    Count,
    /// A teller is closed.
    Close,
    /// What is pending gets another ticket.
    Ticket,
    /// A session opens, or a terminal's record takes in a topic.
    Attach,
    /// It takes out a topic.
    Detach,
    /// A log is told that a terminal left.
    Leave,
    /// It is noted where a message is.
    Note,
}

#[cfg(any(test, feature = "conformance"))]
pub use self::under_test::Breaks;

#[cfg(any(test, feature = "conformance"))]
mod under_test {
    use std::sync::{Mutex, PoisonError};

    use super::Step;

    /// Which steps break next.
    #[derive(Debug, Default)]
    pub struct Breaks(Mutex<(Vec<(Step, bool)>, u32)>);

    impl Breaks {
        /// The next such step has an unknown outcome; `done`: it took effect.
        pub fn next(&self, step: Step, done: bool) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).0.push((step, done));
        }

        /// One in so many steps of saving and counting has an unknown outcome; 0: none.
        pub fn one_in(&self, steps: u32) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = steps;
        }

        pub(super) fn take(&self, step: Step) -> Option<bool> {
            let mut breaks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = breaks.0.iter().position(|(which, _)| *which == step) {
                return Some(breaks.0.remove(at).1);
            }
            let counts = step != Step::Note;
            (counts && breaks.1 > 0 && rand::random_range(0..breaks.1) == 0).then(rand::random)
        }
    }
}

impl RedisStore {
    /// Writes, unless a test breaks this step.
    #[cfg(any(test, feature = "conformance"))]
    pub(super) async fn broken(
        &self,
        step: Step,
        tag: &str,
        call: ScriptCall,
    ) -> StoreResult<Value> {
        match self.breaks.take(step) {
            None => self.shards.write(tag, call).await,
            Some(done) => {
                if done {
                    self.shards.write(tag, call).await?;
                }
                Err(crate::StoreError::Unknown(format!("a test broke {step:?}")))
            }
        }
    }

    #[cfg(not(any(test, feature = "conformance")))]
    pub(super) async fn broken(&self, _: Step, tag: &str, call: ScriptCall) -> StoreResult<Value> {
        self.shards.write(tag, call).await
    }
}
