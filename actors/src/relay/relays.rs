//! The way to the relays of a node: which one a log is with, and what it can be told.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use clarion_core::placement::{self, SlotSet};
use clarion_core::{Batch, LogKey, Mode};
use clarion_protocol::Offset;
use clarion_storage::Read;
use tokio::sync::oneshot;

use super::announce::Announcement;
use super::backlog::{Backlog, Registrations};
use super::heads::Found;
use super::{PendingRead, RelayMessage, Subscriber};
use crate::cluster::heals::Heal;
use crate::link::inbox::SessionEvent;
use crate::nodes::NodeNumber;
use crate::supervisor::Slot;

/// All relays of a node.
pub(crate) struct Relays {
    slots: Vec<Arc<Slot<RelayMessage>>>,
    /// What waits in their mailboxes.
    backlogs: Vec<Arc<Backlog>>,
    registrations: Arc<Registrations>,
    per_mode: usize,
}

impl Relays {
    pub(crate) fn new(per_mode: usize) -> Self {
        let all = 0..per_mode * Mode::ALL.len();
        let backlogs = all.clone().map(|_| Arc::default()).collect();
        let slots = all.map(|_| Slot::new()).collect();
        Self { slots, backlogs, registrations: Arc::default(), per_mode }
    }

    /// Number, mode and slot of each.
    pub(crate) fn each(&self) -> impl Iterator<Item = (u16, Mode, &Arc<Slot<RelayMessage>>)> {
        let mode = |number: usize| Mode::ALL[number / self.per_mode];
        self.slots.iter().enumerate().map(move |(n, slot)| (n as u16, mode(n), slot))
    }

    /// What waits for the relay of that number.
    pub(crate) fn backlog(&self, number: u16) -> &Arc<Backlog> {
        &self.backlogs[number as usize]
    }

    /// The number of the relay of a log.
    pub(crate) fn number_of(&self, log: &LogKey) -> u16 {
        let mode = Mode::ALL.iter().position(|mode| *mode == log.kind.mode()).unwrap_or(0);
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(log);
        (mode * self.per_mode + (hash % self.per_mode as u64) as usize) as u16
    }

    fn of(&self, log: &LogKey) -> &Slot<RelayMessage> {
        &self.slots[self.number_of(log) as usize]
    }

    /// Waits while more registrations wait for the relays than a node should hold: to be awaited
    /// before a session, or a topic of one, is begun that will be registered.
    pub(crate) async fn room(&self) {
        self.registrations.room().await;
    }

    /// A session reads `log`; it finds `Item::Interest` in its inbox once nothing can slip by
    /// (I4). `generation` is given with a terminal's own inbox and ends older sessions (I7).
    pub(crate) fn register(
        &self,
        log: Arc<LogKey>,
        subscriber: Subscriber,
        since_ms: u64,
        generation: u64,
    ) {
        let (slot, queued) = (self.of(&log), self.registrations.take());
        // Lost in a crash: the link registers again when the relay is back.
        let _ = slot.cast(RelayMessage::Register { log, subscriber, since_ms, generation, queued });
    }

    /// A session reads it no more.
    pub(crate) fn deregister(&self, log: Arc<LogKey>, subscriber: Subscriber) {
        let (slot, queued) = (self.of(&log), self.registrations.take());
        let _ = slot.cast(RelayMessage::Deregister { log, subscriber, queued });
    }

    /// The log of `batch` grew. `listed`: the owner that believes that this node reads it.
    pub(crate) fn hint(&self, batch: Arc<Batch>, ephemeral: bool, listed: Option<NodeNumber>) {
        let number = self.number_of(&batch.log);
        let (slot, backlog) = (&self.slots[number as usize], self.backlog(number));
        if let Some(queued) = backlog.take_room(&batch) {
            let _ = slot.cast(RelayMessage::Hint { batch, ephemeral, listed, queued });
        } else if !ephemeral {
            self.dropped(number, &[placement::slot_of(&batch.log)].into_iter().collect());
        }
    }

    /// Something that told a relay how far logs of these slots go found no room.
    fn dropped(&self, number: u16, slots: &SlotSet) {
        if self.backlog(number).note_dropped(slots) {
            // Behind what waits already, so that there is room again when it is compared.
            let _ = self.slots[number as usize].cast(RelayMessage::Dropped);
        }
    }

    /// An owner registered this node's interest.
    pub(crate) fn confirm(&self, log: Arc<LogKey>, head: Offset, from: Option<NodeNumber>) {
        let number = self.number_of(&log);
        match self.backlog(number).take_room_for_words(1) {
            Some(queued) => {
                let confirm = RelayMessage::Confirm { log, head, from, queued };
                let _ = self.slots[number as usize].cast(confirm);
            }
            // A comparison finds it unconfirmed, and interest is told once more.
            None => self.dropped(number, &[placement::slot_of(&log)].into_iter().collect()),
        }
    }

    /// Logs have entries up to there: hints of them may not have come.
    pub(crate) fn heads(&self, heads: Vec<(Arc<LogKey>, Offset)>) {
        let mut of: HashMap<u16, Vec<_>> = HashMap::new();
        for head in heads {
            of.entry(self.number_of(&head.0)).or_default().push(head);
        }
        for (number, heads) in of {
            match self.backlog(number).take_room_for_words(heads.len()) {
                Some(queued) => {
                    let (found, queued) = (Found::Told, Some(queued));
                    let heads = RelayMessage::Heads { heads, found, queued };
                    let _ = self.slots[number as usize].cast(heads);
                }
                None => {
                    let slots = heads.iter().map(|(log, _)| placement::slot_of(log)).collect();
                    self.dropped(number, &slots);
                }
            }
        }
    }

    /// Compares the heads of all logs of these slots with the store, as part of `heal`.
    pub(crate) fn compare(&self, slots: &Arc<SlotSet>, heal: Option<&Arc<Heal>>) {
        for slot in &self.slots {
            let (slots, heal) = (Arc::clone(slots), heal.cloned());
            let _ = slot.cast(RelayMessage::Compare { slots, heal });
        }
    }

    /// The same because another node said that it dropped something. However often that is said, a
    /// relay is told once until it looks.
    pub(crate) fn compare_soon(&self, slots: &SlotSet) {
        (0..self.slots.len() as u16).for_each(|number| self.dropped(number, slots));
    }

    /// A session with this generation of the terminal of this inbox is on another node (I7). Without
    /// room for it that one finds out by its next write, or when it verifies its generation.
    pub(crate) fn superseded(&self, log: Arc<LogKey>, generation: u64) {
        let number = self.number_of(&log);
        if let Some(queued) = self.backlog(number).take_room_for_words(1) {
            let superseded = RelayMessage::Superseded { log, generation, queued };
            let _ = self.slots[number as usize].cast(superseded);
        }
    }

    /// Tell an owner all that is read of its slots.
    pub(crate) fn announce(&self, announcement: &Arc<Announcement>) {
        for slot in &self.slots {
            let announcement = Arc::clone(announcement);
            let _ = slot.cast(RelayMessage::Announce { announcement });
        }
    }

    /// Whether every relay takes messages from its mailbox.
    pub(crate) async fn progress(&self) {
        for slot in &self.slots {
            let (reply, answer) = oneshot::channel();
            if slot.cast(RelayMessage::Progress { reply }).is_ok() {
                let _ = answer.await;
            }
        }
    }

    /// Reads for a session: from memory if it can, else from the store. Leaves `Item::Page`.
    pub(crate) fn read(&self, read: Read, known: Offset, subscriber: Subscriber) {
        let slot = self.of(&read.log);
        let asked = Some((read, subscriber));
        let _ = slot.cast(RelayMessage::Read(PendingRead { asked, known }));
    }

    /// Which of these inboxes have a live session.
    pub(crate) async fn online(&self, logs: Vec<Arc<LogKey>>) -> Vec<bool> {
        let mut answers = Vec::with_capacity(logs.len());
        for log in logs {
            let (reply, answer) = oneshot::channel();
            let _ = self.of(&log).cast(RelayMessage::Online { log: Arc::clone(&log), reply });
            answers.push(answer);
        }
        let mut online = Vec::with_capacity(answers.len());
        for answer in answers {
            online.push(answer.await.unwrap_or(false));
        }
        online
    }

    /// Leaves `event` for the sessions of a terminal's inbox; answers whether there was one.
    pub(crate) async fn notify(&self, log: Arc<LogKey>, event: SessionEvent) -> bool {
        let (reply, answer) = oneshot::channel();
        let _ = self.of(&log).cast(RelayMessage::Notify { log: Arc::clone(&log), event, reply });
        answer.await.unwrap_or(false)
    }

    /// The owner of a log has stopped: announce interest in it again (I12).
    pub(crate) fn owner_changed(&self, log: Arc<LogKey>, owner: NodeNumber) {
        let number = self.number_of(&log);
        let slot = &self.slots[number as usize];
        if let Some(queued) = self.backlog(number).take_room_for_words(1) {
            let _ = slot.cast(RelayMessage::OwnerChanged { log, owner, queued });
        } else if self.backlog(number).note_unannounced(placement::slot_of(&log)) {
            let _ = slot.cast(RelayMessage::Dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use clarion_protocol::{ProductId, TopicName};

    use super::*;
    use crate::nodes::THIS_NODE;

    #[test]
    fn what_finds_no_room_is_made_up_for_by_slot_i12() {
        let relays = Relays::new(1);
        let topic = |name: &str| {
            LogKey::topic(&ProductId::new("demo").unwrap(), &TopicName::new(name).unwrap())
        };
        let (confirmed, grown, changed) = (topic("a"), topic("b"), topic("c"));
        let backlog = Arc::clone(relays.backlog(relays.number_of(&confirmed)));
        let full: Vec<_> = std::iter::from_fn(|| backlog.take_room_for_words(256)).collect();
        relays.confirm(Arc::clone(&confirmed), Offset(1), Some(THIS_NODE));
        relays.heads(vec![(Arc::clone(&grown), Offset(1))]);
        relays.owner_changed(Arc::clone(&changed), THIS_NODE);
        relays.superseded(topic("d"), 7);
        let slots = |logs: &[&Arc<LogKey>]| -> SlotSet {
            logs.iter().map(|log| placement::slot_of(log)).collect()
        };
        let (dropped, unannounced) = backlog.take_dropped();
        assert!(dropped == slots(&[&confirmed, &grown]));
        assert!(unannounced == slots(&[&changed]));
        // With room again nothing is noted.
        drop(full);
        relays.confirm(confirmed, Offset(1), Some(THIS_NODE));
        relays.owner_changed(changed, THIS_NODE);
        let (dropped, unannounced) = backlog.take_dropped();
        assert!(dropped.is_empty() && unannounced.is_empty());
    }
}
