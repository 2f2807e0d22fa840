//! The sessions of this node that read one log.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use clarion_core::LogKey;
use clarion_protocol::Offset;
use clarion_protocol::terminal::{LogAlias, SessionNumber};

use crate::link::inbox::{Item, LinkInbox};
use crate::ring::TailRing;

/// One session's interest in one log.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber {
    pub(crate) inbox: Arc<LinkInbox>,
    pub(crate) session: SessionNumber,
    pub(crate) alias: LogAlias,
}

impl PartialEq for Subscriber {
    fn eq(&self, other: &Self) -> bool {
        self.inbox.id == other.inbox.id && self.session == other.session
    }
}

impl Eq for Subscriber {}

impl Hash for Subscriber {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.inbox.id ^ (u64::from(self.session) << 48));
    }
}

/// How far a log goes, as far as is known here.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Head {
    pub(super) known: Offset,
    /// The owner confirmed the interest of this node. A hint says nothing of that: others hint too, and
    /// the confirmation may still be lost.
    confirmed: bool,
}

/// The sessions of one log. Most logs are inboxes and have one.
pub(super) enum Readers {
    One { subscriber: Subscriber, head: Head },
    Many(Box<Wide>),
}

pub(super) struct Wide {
    pub(super) subscribers: HashSet<Subscriber, BuildHasherDefault<IdHasher>>,
    pub(super) head: Head,
    pub(super) ring: TailRing,
}

#[allow(clippy::mutable_key_type, reason = "hashed and compared by ids that never change")]
impl Readers {
    pub(super) fn new(log: &LogKey, subscriber: Subscriber, ring_entries_max: usize) -> Self {
        if log.kind.is_wide() {
            let mut subscribers = HashSet::default();
            subscribers.insert(subscriber);
            let (ring, head) = (TailRing::new(ring_entries_max), Head::default());
            Self::Many(Box::new(Wide { subscribers, head, ring }))
        } else {
            Self::One { subscriber, head: Head::default() }
        }
    }

    /// The highest offset known, once the owner confirmed.
    pub(super) fn head(&self) -> Option<Offset> {
        let head = match self {
            Self::One { head, .. } => head,
            Self::Many(wide) => &wide.head,
        };
        head.confirmed.then_some(head.known)
    }

    pub(super) fn grow_head(&mut self, offset: Offset) {
        let head = self.head_mut();
        head.known = head.known.max(offset);
    }

    /// The owner confirmed, or there is none that could. Returns the highest offset known.
    pub(super) fn confirm(&mut self, offset: Offset) -> Offset {
        self.grow_head(offset);
        let head = self.head_mut();
        head.confirmed = true;
        head.known
    }

    fn head_mut(&mut self) -> &mut Head {
        match self {
            Self::One { head, .. } => head,
            Self::Many(wide) => &mut wide.head,
        }
    }

    pub(super) fn insert(&mut self, new: Subscriber, ring_entries_max: usize) {
        match self {
            Self::One { subscriber, .. } if *subscriber == new => *subscriber = new,
            Self::One { subscriber, head } => {
                let mut subscribers = HashSet::default();
                subscribers.insert(subscriber.clone());
                subscribers.insert(new);
                let ring = TailRing::new(ring_entries_max);
                *self = Self::Many(Box::new(Wide { subscribers, head: *head, ring }));
            }
            Self::Many(wide) => {
                wide.subscribers.replace(new);
            }
        }
    }

    /// Whether nobody is left. An inbox that is down to one reader costs as little as before.
    pub(super) fn remove(&mut self, gone: &Subscriber, log: &LogKey) -> bool {
        match self {
            Self::One { subscriber, .. } => subscriber == gone,
            Self::Many(wide) => {
                wide.subscribers.remove(gone);
                if wide.subscribers.capacity() > 8 * wide.subscribers.len().max(16) {
                    wide.subscribers.shrink_to_fit();
                }
                if let (false, 1) = (log.kind.is_wide(), wide.subscribers.len())
                    && let Some(subscriber) = wide.subscribers.iter().next().cloned()
                {
                    *self = Self::One { subscriber, head: wide.head };
                    return false;
                }
                wide.subscribers.is_empty()
            }
        }
    }

    pub(super) fn all(&self) -> Box<dyn Iterator<Item = &Subscriber> + Send + '_> {
        match self {
            Self::One { subscriber, .. } => Box::new(std::iter::once(subscriber)),
            Self::Many(wide) => Box::new(wide.subscribers.iter()),
        }
    }

    /// Tells each that hints up to there were lost.
    pub(super) fn missed(&self, up_to: Offset) {
        self.each(&mut |to| {
            to.inbox.leave(Item::Missed { session: to.session, log: to.alias, up_to });
        });
    }

    pub(super) fn each(&self, visit: &mut dyn FnMut(&Subscriber)) {
        self.all().for_each(visit);
    }
}

/// Link ids are unique already.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
    fn write(&mut self, _bytes: &[u8]) {}
    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

#[cfg(test)]
mod tests {
    use clarion_protocol::{ProductId, TopicName};

    use super::*;

    /// Somebody other than the owner may have hinted; what the owner says may be lost still.
    #[test]
    fn a_hint_is_no_confirmation_of_interest_i4() {
        let product = ProductId::new("demo").unwrap();
        let log = LogKey::topic(&product, &TopicName::new("news").unwrap());
        let subscriber = Subscriber { inbox: LinkInbox::new(1, 8), session: 1, alias: 1 };
        for log in [log, LogKey::broadcast(&product)] {
            let mut readers = Readers::new(&log, subscriber.clone(), 4);
            readers.grow_head(Offset(7));
            assert_eq!(readers.head(), None, "hinted, not confirmed");
            assert_eq!(readers.confirm(Offset(3)), Offset(7));
            assert_eq!(readers.head(), Some(Offset(7)));
        }
    }
}
