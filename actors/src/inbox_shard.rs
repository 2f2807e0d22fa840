//! Owner of a share of the inboxes of terminals and users (step 3 of the way of a push, unicast).
//!
//! Receives appends from `push`, interest from relays. Sends hints to relays, answers to callers.
//! Parent: the supervisor, which restarts it at once; see `owner` for what a crash loses.

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::fault;
use crate::owner::{OwnedLogs, OwnerArguments, OwnerMessage};

pub(crate) struct InboxShard;

impl Actor for InboxShard {
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
        fault::point("inbox_shard");
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
