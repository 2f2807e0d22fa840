//! Admission of one product and mode on the node that takes the push (steps 1 and 2 of the way of
//! a push): how many may be in flight, and the product's quota. Virtual.
//!
//! Receives requests for places and places given back. Sends nothing. Parent: the supervisor;
//! started again on use. A crash forgets who is in flight: permits of the former incarnation are
//! not counted again, and requests that wait for a place fail as retryable.

use std::sync::Arc;
use std::time::Duration;

use clarion_core::admission::{Admission, AdmissionLimits, Refusal};
use clarion_storage::Store;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use crate::fault;
use crate::supervisor::Slot;

/// The way to a lane.
#[derive(Clone)]
pub(crate) struct LaneHandle {
    pub(crate) slot: Arc<Slot<LaneMessage>>,
}

impl LaneHandle {
    /// Returns once it has taken a message from its mailbox.
    pub(crate) async fn progress(&self) {
        let (reply, answer) = oneshot::channel();
        if self.slot.cast(LaneMessage::Progress { reply }).is_ok() {
            let _ = answer.await;
        }
    }

    /// Asks for a place. `None`: the lane crashed, try again.
    pub(crate) async fn admit(&self) -> Option<Result<Permit, Refusal>> {
        let (reply, answer) = oneshot::channel();
        self.slot.cast(LaneMessage::Admit { reply }).ok()?;
        let admitted = answer.await.ok()?;
        Some(admitted.map(|incarnation| Permit { slot: Arc::clone(&self.slot), incarnation }))
    }
}

/// A place in flight; given back when dropped.
pub(crate) struct Permit {
    slot: Arc<Slot<LaneMessage>>,
    incarnation: u32,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let _ = self.slot.cast(LaneMessage::Release { incarnation: self.incarnation });
    }
}

/// What a lane receives.
pub(crate) enum LaneMessage {
    /// A push wants in.
    Admit { reply: oneshot::Sender<Result<u32, Refusal>> },
    /// A push is through.
    Release { incarnation: u32 },
    /// Say that messages are handled.
    Progress { reply: oneshot::Sender<()> },
    /// Stop if nothing happened for long.
    CheckIdle,
}

impl ractor::Message for LaneMessage {}

/// What a lane is given.
#[derive(Clone)]
pub(crate) struct LaneArguments {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) in_flight_max: u32,
    pub(crate) pushes_per_s_max: Option<u32>,
    pub(crate) idle_stop_ms: u64,
    pub(crate) incarnation: u32,
}

pub(crate) struct Lane;

pub(crate) struct LaneState {
    arguments: LaneArguments,
    admission: Admission,
    last_used_ms: u64,
}

impl Actor for Lane {
    type Msg = LaneMessage;
    type State = LaneState;
    type Arguments = LaneArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let pause = Duration::from_millis(arguments.idle_stop_ms.max(1000));
        drop(myself.send_interval(pause, || LaneMessage::CheckIdle));
        let now_ms = arguments.store.time_ms();
        let limits = AdmissionLimits {
            in_flight_max: arguments.in_flight_max,
            per_s_max: arguments.pushes_per_s_max,
        };
        let admission = Admission::new(u64::from(arguments.incarnation), limits, now_ms);
        Ok(LaneState { arguments, admission, last_used_ms: now_ms })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        fault::point("lane");
        match message {
            LaneMessage::Admit { reply } => state.admit(reply),
            LaneMessage::Release { incarnation } => {
                state.admission.release(u64::from(incarnation), 1)
            }
            LaneMessage::Progress { reply } => drop(reply.send(())),
            LaneMessage::CheckIdle => {
                if state.is_idle() {
                    myself.stop(None);
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Self::Msg>,
        _event: SupervisionEvent,
        _state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(()) // it has no children
    }
}

impl LaneState {
    fn admit(&mut self, reply: oneshot::Sender<Result<u32, Refusal>>) {
        self.last_used_ms = self.arguments.store.time_ms();
        let admitted = self.admission.admit(1, self.last_used_ms);
        let answer = admitted.map(|()| self.arguments.incarnation);
        if reply.send(answer).is_err() {
            // The caller went away between asking and now.
            self.admission.release(self.admission.incarnation(), 1);
        }
    }

    fn is_idle(&self) -> bool {
        let quiet_ms = self.arguments.store.time_ms().saturating_sub(self.last_used_ms);
        self.admission.in_flight() == 0 && quiet_ms >= self.arguments.idle_stop_ms
    }
}
