//! Owner of one topic (step 3 of the way of a push, multicast). Virtual: the first push or reader
//! starts it, idleness stops it.
//!
//! Receives appends from `push`, interest from relays. Sends hints to relays, answers to callers.
//! Parent: the supervisor; started again on use; see `owner` for what a crash loses.

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::fault;
use crate::owner::{OwnedLogs, OwnerArguments, OwnerMessage};

pub(crate) struct Topic;

impl Actor for Topic {
    type Msg = OwnerMessage;
    type State = OwnedLogs;
    type Arguments = OwnerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(OwnedLogs::new(arguments, &myself))
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        logs: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        fault::point("topic");
        if !logs.handle(message) {
            myself.stop(None);
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Self::Msg>,
        _event: SupervisionEvent,
        _logs: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(()) // it has no children
    }
}
