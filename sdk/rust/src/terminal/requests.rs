//! Requests that wait for the node's answer.

use std::collections::VecDeque;

use clarion_protocol::TopicName;
use clarion_protocol::terminal::TerminalFrame;

use super::shared::Reply;
use super::{RequestError, SESSION};
use crate::terminal::ledger::Ledger;

/// Requests that may be unanswered.
const PENDING_MAX: usize = 64;

/// Joining and leaving topics is idempotent, so these outlive the link and are asked again on the
/// next. A refresh belongs to its session.
#[derive(Default)]
pub(super) struct Requests {
    id_last: u64,
    topics: Vec<TopicRequest>,
    refreshes: VecDeque<(String, Reply<u64>)>,
}

struct TopicRequest {
    id: u64,
    topic: TopicName,
    join: bool,
    reply: Reply<()>,
}

impl Requests {
    pub(super) fn has_room(&self) -> bool {
        self.topics.len() + self.refreshes.len() < PENDING_MAX
    }

    /// Notes a request and says its number.
    pub(super) fn topic(&mut self, topic: TopicName, join: bool, reply: Reply<()>) -> u64 {
        self.id_last += 1;
        self.topics.push(TopicRequest { id: self.id_last, topic, join, reply });
        self.id_last
    }

    pub(super) fn refresh(&mut self, token: String, reply: Reply<u64>) {
        self.refreshes.push_back((token, reply));
    }

    /// The frame of a request.
    pub(super) fn frame(&self, id: u64, ledger: &Ledger) -> Option<TerminalFrame> {
        let request = self.topics.iter().find(|request| request.id == id)?;
        let topic = request.topic.clone();
        Some(if request.join {
            let cursor = ledger.own_cursor(&topic);
            TerminalFrame::Subscribe { s: SESSION, id, topic, cursor }
        } else {
            TerminalFrame::Unsubscribe { s: SESSION, id, topic }
        })
    }

    /// What is to be asked again on a new session.
    pub(super) fn unanswered(&self) -> Vec<u64> {
        self.topics.iter().map(|request| request.id).collect()
    }

    /// The answer to a request about a topic; says whether there was one with this number.
    pub(super) fn answer(&mut self, id: u64, outcome: Result<(), RequestError>) -> bool {
        match self.topics.iter().position(|request| request.id == id) {
            Some(at) => {
                // Who asked may have gone: then nobody needs the answer.
                let _ = self.topics.remove(at).reply.send(outcome);
                true
            }
            None => false,
        }
    }

    /// The answer to the oldest refresh; hands back its token.
    pub(super) fn refreshed(&mut self, outcome: Result<u64, RequestError>) -> Option<String> {
        let (token, reply) = self.refreshes.pop_front()?;
        let _ = reply.send(outcome);
        Some(token)
    }

    /// The session is over.
    pub(super) fn interrupted(&mut self) {
        while self.refreshed(Err(RequestError::Interrupted)).is_some() {}
    }
}
