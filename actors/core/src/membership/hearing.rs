//! Whether everybody is heard who may append to the logs that are read here (I12). Who is not sends no
//! hints, and says nothing later either: until it is heard, relays compare heads with the store.
//!
//! # The rules
//! 1. A member that gossip holds alive is unheard while there is no link to this run of it.
//! 2. One that vanished without a word is **absent**, and unheard: it may be dead, or cut off from this
//!    node alone.
//! 3. One that refused (nobody listens at its address) is absent too, but not unheard: nothing of it runs.
//!    That is true when it is asked, and not for good: it may start again behind a cut, where nobody on
//!    this side hears of it. So whoever is absent is to be asked again and again ([`Hearing::absent`]), and
//!    is unheard as soon as it does not refuse ([`Hearing::asked`]).
//! 4. Who said that it goes is not missed, nor is who is seen again, as this run or as another.
//! 5. A node that was told of others when it started, and has heard of nobody since, hears nobody: it is
//!    cut off, or the first one.
//!
//! What cannot be known here: that there is a node of which this one never heard.
//!
//! # Bounds
//! 256 runs are remembered as absent; the longest absent go first. One that does not refuse is waited
//! for for ten minutes: a machine that was taken away does not refuse either.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::identity::BootId;

/// How long one that vanished, and does not refuse, may still be appending. After that the slow head
/// check has to do.
const ABSENT_MS: u64 = 10 * 60 * 1000;
/// Runs that are remembered as absent.
const ABSENT_MAX: usize = 256;

/// A member that gossip holds alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Living {
    /// Its name.
    pub id: Arc<str>,
    /// Its incarnation.
    pub boot: BootId,
    /// Whether it may append to logs that are read here.
    pub appends: bool,
    /// Whether it said that it is about to go.
    pub draining: bool,
}

/// Who is not heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unheard {
    /// This one, and maybe others.
    Node(Arc<str>),
    /// Nobody was heard of since this node started, though there should be others.
    Everybody,
}

/// One that was heard of, and is there as far as is known.
#[derive(Debug, Clone, Copy)]
struct Known {
    boot: BootId,
    appends: bool,
    draining: bool,
    /// Gossip holds it alive. If not, there is a link to it.
    listed: bool,
}

impl Known {
    const fn is_missed(self) -> bool {
        self.appends && !self.draining
    }
}

#[derive(Debug, Clone, Copy)]
struct Absent {
    /// Since when it is as it is.
    since_ms: u64,
    /// Nobody listens where it did, when it was last asked.
    refuses: bool,
}

type Run = (Arc<str>, BootId);

/// The memory of one node. Time is the caller's, in milliseconds.
#[derive(Debug, Default)]
pub struct Hearing {
    known: BTreeMap<Arc<str>, Known>,
    absent: BTreeMap<Run, Absent>,
    /// Until when it is waited for anybody to be heard of.
    alone_until_ms: u64,
}

impl Hearing {
    /// This node was told of others when it started: until it hears of any it does not hear all.
    pub fn expect_others(&mut self, now_ms: u64) {
        if self.known.is_empty() && self.absent.is_empty() {
            self.alone_until_ms = now_ms.saturating_add(ABSENT_MS);
        }
    }

    /// All others that gossip holds alive now. `linked`: whether there is a link to a run.
    pub fn members(
        &mut self,
        now_ms: u64,
        living: impl IntoIterator<Item = Living>,
        linked: impl Fn(&str, BootId) -> bool,
    ) {
        let known = |one: Living| {
            let Living { id, boot, appends, draining } = one;
            (id, Known { boot, appends, draining, listed: true })
        };
        let mut now: BTreeMap<_, _> = living.into_iter().map(known).collect();
        let before = std::mem::take(&mut self.known);
        for (id, was) in &before {
            if now.get(id).is_some_and(|one| one.boot == was.boot) {
                continue;
            }
            if !now.contains_key(id) && linked(id, was.boot) {
                // A link has heartbeats of its own.
                now.insert(Arc::clone(id), Known { listed: false, ..*was });
            } else {
                self.vanished(now_ms, id, *was);
            }
        }
        // Whoever is here is not absent, unless it refused and gossip has not noticed yet. One that
        // comes back after it refused lives: something on the way refused.
        self.absent.retain(|(id, boot), _| {
            let stayed = || before.get(id).is_some_and(|was| was.boot == *boot);
            now.get(id).is_none_or(|one| one.boot == *boot && stayed())
        });
        self.known = now;
        self.note_company();
    }

    /// A link came up.
    pub fn linked(&mut self, id: &Arc<str>, boot: BootId) {
        self.absent.retain(|(known, _), _| known != id);
        if self.known.get(id).is_none_or(|known| known.boot != boot) {
            let unlisted = Known { boot, appends: true, draining: false, listed: false };
            self.known.insert(Arc::clone(id), unlisted);
        }
        self.note_company();
    }

    /// A link ended.
    pub fn ended(&mut self, now_ms: u64, id: &Arc<str>, boot: BootId) {
        let unlisted = |known: &&Known| known.boot == boot && !known.listed;
        if let Some(was) = self.known.get(id).filter(unlisted).copied() {
            self.known.remove(id);
            self.vanished(now_ms, id, was);
        }
    }

    /// Nobody listens any more where this run did.
    pub fn refused(&mut self, now_ms: u64, id: &Arc<str>, boot: BootId) {
        let is_known = self.known.get(id).is_some_and(|known| known.boot == boot);
        if is_known || self.absent.contains_key(&(Arc::clone(id), boot)) {
            self.note_absent(now_ms, id, boot, true);
        }
    }

    /// The runs that are absent: to be asked once a second whether they still refuse, or do by now.
    pub fn absent(&self) -> impl Iterator<Item = (&Arc<str>, BootId)> {
        self.absent.keys().map(|(id, boot)| (id, *boot))
    }

    /// One that is absent was asked: nobody listens at its address (`refuses`), or somebody does, or
    /// nothing was heard, as behind a cut. Returns whether that is news.
    pub fn asked(&mut self, now_ms: u64, id: &Arc<str>, boot: BootId, refuses: bool) -> bool {
        let before = self.absent.get(&(Arc::clone(id), boot));
        let news = before.is_some_and(|one| one.refuses != refuses);
        if news {
            self.note_absent(now_ms, id, boot, refuses);
        }
        news
    }

    /// Somebody who may append and is not heard.
    pub fn unheard(
        &mut self,
        now_ms: u64,
        linked: impl Fn(&str, BootId) -> bool,
    ) -> Option<Unheard> {
        self.absent.retain(|_, one| one.refuses || now_ms < one.since_ms.saturating_add(ABSENT_MS));
        let refuses = |id: &Arc<str>, boot| {
            self.absent.get(&(Arc::clone(id), boot)).is_some_and(|one| one.refuses)
        };
        let is_unheard = |(id, known): &(&Arc<str>, &Known)| {
            known.appends && !linked(id, known.boot) && !refuses(id, known.boot)
        };
        let living = self.known.iter().find(is_unheard).map(|(id, _)| id);
        let absent = || self.absent.iter().find(|(_, one)| !one.refuses).map(|((id, _), _)| id);
        match living.or_else(absent) {
            Some(id) => Some(Unheard::Node(Arc::clone(id))),
            None => (now_ms < self.alone_until_ms).then_some(Unheard::Everybody),
        }
    }

    /// Whether this node has heard of one, and not of its leaving.
    #[must_use]
    pub fn knows(&self, id: &str) -> bool {
        self.known.contains_key(id) || self.absent.keys().any(|(known, _)| **known == *id)
    }

    /// Whether anybody was heard of.
    #[must_use]
    pub fn has_company(&self) -> bool {
        !self.known.is_empty() || !self.absent.is_empty()
    }

    fn note_company(&mut self) {
        if !self.known.is_empty() {
            self.alone_until_ms = 0;
        }
    }

    fn vanished(&mut self, now_ms: u64, id: &Arc<str>, was: Known) {
        let run = (Arc::clone(id), was.boot);
        if !was.is_missed() {
            self.absent.remove(&run);
        } else if !self.absent.contains_key(&run) {
            self.note_absent(now_ms, id, was.boot, false);
        }
    }

    fn note_absent(&mut self, now_ms: u64, id: &Arc<str>, boot: BootId, refuses: bool) {
        self.absent.insert((Arc::clone(id), boot), Absent { since_ms: now_ms, refuses });
        if self.absent.len() > ABSENT_MAX {
            let longest = self.absent.iter().min_by_key(|(_, one)| one.since_ms);
            if let Some(run) = longest.map(|(run, _)| run.clone()) {
                self.absent.remove(&run);
            }
        }
    }
}

#[cfg(test)]
#[path = "hearing_tests.rs"]
mod tests;
