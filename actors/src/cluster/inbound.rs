//! What other nodes say. Messages of a lane come in order and are handled at once: the rest is a cast
//! to an actor, or a task that one append or one question is bounded by.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use clarion_core::LogKey;
use clarion_core::placement::{Slot, SlotSet};

use super::Cluster;
use super::codec;
use super::peers::Linked;
use super::port::{Lane, PeerPort};
use super::wire::{AppendResult, PeerMessage, Question, Reply};
use crate::intake::NewEntry;
use crate::link::inbox::SessionEvent;
use crate::owner::Interest;
use crate::task;

impl Cluster {
    /// Messages of a lane came, in the order they were sent.
    pub fn received(&self, port: &Arc<dyn PeerPort>, lane: Lane, messages: Vec<Bytes>) {
        let Some(peer) = self.router.nodes.peers.of_port(port) else { return };
        peer.heard();
        let now_ms = self.store.time_ms();
        for bytes in messages {
            match codec::decode(&bytes, now_ms) {
                Ok(message) => self.handle(&peer, (lane, bytes.len()), message),
                Err(unreadable) => {
                    metrics::counter!("clarion_peer_messages_unreadable_total").increment(1);
                    tracing::warn!(node = %peer.id(), why = unreadable.0, "a message is unreadable");
                }
            }
        }
    }

    fn handle(&self, peer: &Arc<Linked>, (lane, bytes): (Lane, usize), message: PeerMessage) {
        let (number, nodes, owners) = (peer.number, &self.router.nodes, &self.router.owners);
        let relays = &nodes.local;
        match message {
            PeerMessage::Append { request, entries } => {
                // What it may send stays less by this for as long as it is served.
                let held = Arc::clone(&peer.port).hold(lane, bytes);
                self.serve(Arc::clone(peer), lane, request, entries, held);
            }
            PeerMessage::Appended { request, results } => {
                self.router.forwarder.answered(number, request, results);
            }
            PeerMessage::Ephemeral { batch } => {
                let owners = Arc::clone(owners);
                task::spawn(async move {
                    let _ = owners.ephemeral(batch).await;
                });
            }
            PeerMessage::Hint { batch, ephemeral, listed } => {
                relays.hint(batch, ephemeral, listed.then_some(number));
            }
            PeerMessage::Grew { heads } => {
                heads.into_iter().for_each(|(log, head)| owners.grew(log, head));
            }
            PeerMessage::Heads { heads } => relays.heads(heads),
            PeerMessage::Confirm { heads } => {
                heads.into_iter().for_each(|(log, head)| relays.confirm(log, head, Some(number)));
            }
            PeerMessage::Interest { logs, since_ms } => {
                for announced in logs {
                    let generation = announced.generation;
                    let of = Interest { node: number, since_ms, generation };
                    owners.interest(announced.log, of);
                }
            }
            PeerMessage::NoInterest { logs } => {
                logs.into_iter().for_each(|log| owners.no_interest(log, number));
            }
            PeerMessage::Complete { slots } => nodes.ownership.set_complete(number, &slots),
            PeerMessage::Leave { slots } => {
                nodes.ownership.unset_complete(number, &slots);
                owners.node_left(number, &Arc::new(slots));
            }
            PeerMessage::AnnounceAgain { slots } => {
                let told = |slot: &Slot| nodes.ownership.target(*slot) == Some(number);
                let slots: SlotSet = slots.iter().filter(told).collect();
                self.router.announce(slots, number, None);
            }
            PeerMessage::OwnerChanged { log } => relays.owner_changed(log, number),
            PeerMessage::Dropped { slots } => relays.compare_soon(&slots),
            PeerMessage::Superseded { log, generation } => relays.superseded(log, generation),
            PeerMessage::Ask { request, question } => {
                self.answer(Arc::clone(peer), request, question);
            }
            PeerMessage::Answer { request, reply } => {
                nodes.asking.answered(number, request, reply);
            }
            PeerMessage::ProductChanged { product } => self.products.forget(&product),
            // What it appended before it counted this node among its peers was not hinted.
            PeerMessage::Hello => relays.compare_soon(&SlotSet::full()),
        }
    }

    /// Appends for another node, through the owner here, whoever this node thinks owns the log: two
    /// owners at once are harmless, and every gateway that does not tell this one what it reads gets
    /// the hint.
    fn serve(
        &self,
        peer: Arc<Linked>,
        lane: Lane,
        request: u64,
        mut entries: Vec<NewEntry>,
        held: Box<dyn Send>,
    ) {
        let (owners, now_ms) = (Arc::clone(&self.router.owners), self.store.time_ms());
        entries.iter_mut().for_each(|entry| entry.begun_ms = now_ms);
        let serving = Serving::of(&self.serving);
        task::spawn(async move {
            let mut waiting = Vec::with_capacity(entries.len());
            for entry in &entries {
                // One that lay somewhere until its time was over is not worth a call; and behind
                // one that was not tried none is (I8).
                let before = waiting.last().is_none_or(Option::is_some);
                let answer = if before && now_ms <= entry.deadline_ms {
                    owners.append(entry).await
                } else {
                    None
                };
                waiting.push(answer);
            }
            let mut results = Vec::with_capacity(waiting.len());
            for answer in waiting {
                results.push(match answer {
                    None => AppendResult::NotTried,
                    Some(answer) => match answer.await {
                        Ok(result) => result.into(),
                        Err(_) => AppendResult::Unknown("its owner dropped it".into()),
                    },
                });
            }
            // Lost, the other end finds out by itself (I2).
            let _ = peer.send_on(lane, &PeerMessage::Appended { request, results });
            drop((serving, held));
        });
    }

    fn answer(&self, peer: Arc<Linked>, request: u64, question: Question) {
        let (nodes, doors) = (Arc::clone(&self.router.nodes), self.doors());
        let relays = Arc::clone(&nodes.local);
        task::spawn(async move {
            let notify = async |log: Arc<LogKey>, event| Reply::Is(relays.notify(log, event).await);
            let reply = match question {
                Question::Online(logs) => Reply::Each(relays.online(logs).await),
                Question::FlushCursors(log) => notify(log, SessionEvent::FlushCursors).await,
                Question::Kick(log) => notify(log, SessionEvent::Kicked).await,
                Question::Reload(log) => notify(log, SessionEvent::Reload).await,
                Question::Read(reads) => {
                    return nodes.read_for_other(&peer, request, reads).await;
                }
                Question::Status => match doors {
                    Some(doors) => Reply::Text(doors.status().await.to_string()),
                    None => Reply::Is(false),
                },
                Question::Drain => {
                    doors.iter().for_each(|doors| doors.drain_wanted());
                    Reply::Is(doors.is_some())
                }
            };
            let _ = peer.send(&PeerMessage::Answer { request, reply });
        });
    }
}

/// Counts a message of appends for as long as it is served.
struct Serving(Arc<AtomicUsize>);

impl Serving {
    fn of(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
