//! What a push is for, target by target, and what became of each (step 4).

use std::sync::Arc;

use clarion_core::{LogKey, Mode};
use clarion_protocol::http::{
    Audience, Position, PushAccepted, Target, TargetError, TargetOutcome,
};
use clarion_protocol::{Code, Epoch, Offset, ProductId};
use clarion_storage::{Appended, StoreError};

use crate::cluster::pending::NotAppended;
use crate::failure::Failure;
use crate::fault::{self, Mutant, mutated};

/// The answer: a 202, or an error if every target failed.
pub(super) fn answer(accepted: PushAccepted) -> Result<PushAccepted, Failure> {
    let failed = |target: &TargetOutcome| target.error.is_some();
    if !accepted.targets.iter().all(failed) {
        return Ok(accepted);
    }
    let errors: Vec<&TargetError> =
        accepted.targets.iter().filter_map(|target| target.error.as_ref()).collect();
    let code = match errors.as_slice() {
        [only] => only.code,
        all if all.iter().any(|error| error.retryable) => Code::AllTargetsFailedRetryable,
        _ => Code::AllTargetsFailed,
    };
    Err(Failure { targets: accepted.targets, ..Failure::new(code) })
}

pub(super) fn replay(outcome: &[u8]) -> Result<PushAccepted, Failure> {
    match serde_json::from_slice::<PushAccepted>(outcome) {
        Ok(accepted) => answer(PushAccepted { replayed: true, ..accepted }),
        Err(_) => Err(Failure::new(Code::Internal).detail("the recorded outcome is not readable")),
    }
}

/// The outcome of a target that an earlier request settled for good.
pub(super) fn settled(earlier: &PushAccepted, target: &Target) -> Option<TargetOutcome> {
    let outcome = earlier.targets.iter().find(|outcome| outcome.target == *target)?;
    let again = outcome.error.as_ref().is_some_and(|error| error.retryable);
    (!again).then(|| outcome.clone())
}

pub(super) fn unknown(why: &str) -> NotAppended {
    NotAppended::Store(StoreError::Unknown(why.into()))
}

pub(super) fn outcome(target: Target, result: Result<Appended, NotAppended>) -> TargetOutcome {
    match result {
        Ok(appended) => TargetOutcome {
            target,
            position: Some(Position { epoch: appended.epoch, offset: appended.offset }),
            error: None,
        },
        Err(_) if mutated(Mutant::FalseAccept) => {
            let position = Position { epoch: Epoch::default(), offset: Offset(1) };
            TargetOutcome { target, position: Some(position), error: None }
        }
        Err(error) => {
            TargetOutcome { target, position: None, error: Some(target_error(error.code())) }
        }
    }
}

pub(super) fn target_error(code: Code) -> TargetError {
    TargetError { code, retryable: code.retryable(), detail: None }
}

pub(super) const fn mode_of(audience: &Audience) -> Mode {
    match audience {
        Audience::All => Mode::Broadcast,
        Audience::Terminals(_) | Audience::Users(_) => Mode::Unicast,
        Audience::Topic(_) => Mode::Multicast,
    }
}

pub(super) fn targets_of(audience: &Audience) -> Vec<Target> {
    match audience {
        Audience::All => vec![Target::All],
        Audience::Terminals(terminals) => terminals.iter().cloned().map(Target::Terminal).collect(),
        Audience::Users(users) => users.iter().cloned().map(Target::User).collect(),
        Audience::Topic(topic) => vec![Target::Topic(topic.clone())],
    }
}

/// The log of a target.
pub(crate) fn log_of(product: &ProductId, target: &Target) -> Arc<LogKey> {
    match target {
        Target::All => LogKey::broadcast(product),
        Target::Terminal(terminal) => LogKey::terminal(product, &fault::misled(terminal)),
        Target::User(user) => LogKey::user(product, user),
        Target::Topic(topic) => LogKey::topic(product, topic),
    }
}
