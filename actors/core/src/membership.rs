//! Who may own slots, and why not: from what gossip and links tell, with a memory of who came back.
//! Pure: the caller brings everything it sees, and the time; a clock of its own that only moves
//! forward, in milliseconds, will do.
//!
//! # The rules
//! 1. Members of a group that live, have the broker role and place by a version that is understood
//!    own its slots, unless a later rule takes some of them out. Who is **draining** is out.
//! 2. Who is **sick** is out, unless more than half of the rest are sick too: a fault that most share
//!    is not theirs, and nobody would be served better by fewer owners.
//! 3. Who is in **quarantine** is out: it died, or restarted without having drained, or was out for
//!    sickness, and has not been well for long enough since.
//! 4. Who was **never linked** is out: more than half of its living peers of its own group have had no
//!    link to this run of it, each for longer than ten seconds since it saw it first. (Groups may be kept
//!    apart by the network: what others do not reach says nothing.) Somebody with the cookie but a wrong
//!    certificate is among the members and serves nobody.
//! 5. If that leaves nobody, the missing links do not count (then nobody knows whose fault they are); if
//!    nobody even then, quarantine does not, and at last draining neither.
//!
//! A member that is seen for the first time is not in quarantine: clusters start, and grow, at once.
//! The quarantine doubles with each flap, up to 16 times the first, and flaps are forgotten after
//! ten minutes without one.
//!
//! # Agreement
//! Rules 1, 2 and 5 depend on what all see alike; the memory behind rules 3 and 4 does not: a node that
//! just started has none, one that was cut off remembers the deaths of all others, and each sees its own
//! links only. So each member tells by gossip whom it holds in quarantine and to whom it never had a link
//! ([`Verdict`]), and what counts is whether more of a member's peers hold it there than do not, and
//! whether most of them miss the link: one that is cut off takes nothing from others. Who knows nothing
//! of a member abstains. Nodes that
//! disagree for a moment do no harm: two owners at once are safe (I1, I2), only wasteful.
//!
//! # Versions
//! All place by the lowest placement version among the living members of the cluster, whatever their
//! group and roles: those who only send must agree too. A release computes its own version and the
//! one before; members whose version is further above the lowest own nothing until the oldest have
//! gone. So a rolling upgrade from N to N+1 places by N until the last N has left, and then at once
//! by N+1.
//!
//! # Bounds
//! What is remembered: 1,024 names that are not there, about 100 bytes each, the longest gone go
//! first, and all that are there.

mod hearing;
mod history;
mod owners;
mod verdict;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use hearing::{Hearing, Living, Unheard};
pub use verdict::{NoVerdict, Verdict};

use crate::identity::{BootId, Role, Roles};
use crate::placement::SlotTable;
use history::{History, Vote};
use owners::{Held, Owners};

/// Names of the gone that are remembered.
const GONE_MAX: usize = 1024;

/// The state of our link to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// It carries messages.
    Up,
    /// It does not, or not yet.
    Down,
    /// It broke, and dialling again was refused: nobody listens there. Counts as dead.
    Refused,
}

/// What is seen of a member now.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its name.
    pub id: Arc<str>,
    /// Its incarnation.
    pub boot: BootId,
    /// What it does.
    pub roles: Roles,
    /// Its isolation group.
    pub group: Arc<str>,
    /// The newest placement version it computes.
    pub placement_version: u16,
    /// It is on its way out.
    pub draining: bool,
    /// It says that it does not work as it should.
    pub sick: bool,
    /// Gossip holds it alive.
    pub alive: bool,
    /// Our link to it; of no meaning for ourselves.
    pub linked: Link,
    /// Whom it holds in quarantine, whom it never had a link to; empty while it has told nothing.
    pub verdict: Verdict,
}

impl Seen {
    fn lives(&self) -> bool {
        self.alive && self.linked != Link::Refused
    }
}

/// Why a member owns slots or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// Owns: nothing speaks against it.
    Fit,
    /// Owns although it is sick: most of its group are.
    SickLikeMost,
    /// Owns although it is never linked, in quarantine or draining: nobody else could.
    LastResort,
    /// Owns nothing: it is dead.
    Dead,
    /// Owns nothing: it has not the broker role.
    NoBroker,
    /// Owns nothing: its placement version is too far above that of others.
    Version,
    /// Owns nothing: it is draining.
    Draining,
    /// Owns nothing: it is sick.
    Sick,
    /// Owns nothing: it is in quarantine.
    Quarantined,
    /// Owns nothing: most of its peers never had a link to it.
    NeverLinked,
}

impl Why {
    /// The name in status and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fit => "fit",
            Self::SickLikeMost => "sick_like_most",
            Self::LastResort => "last_resort",
            Self::Dead => "dead",
            Self::NoBroker => "no_broker",
            Self::Version => "version",
            Self::Draining => "draining",
            Self::Sick => "sick",
            Self::Quarantined => "quarantined",
            Self::NeverLinked => "never_linked",
        }
    }

    /// Whether others hold the member off for what it did: it may come back any moment.
    #[must_use]
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Quarantined | Self::NeverLinked | Self::LastResort)
    }

    /// Whether a member for which this is so owns slots.
    #[must_use]
    pub const fn owns(self) -> bool {
        matches!(self, Self::Fit | Self::SickLikeMost | Self::LastResort)
    }
}

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The incarnation that this is about.
    pub boot: BootId,
    /// Whether it owns slots of its group.
    pub owns: bool,
    /// Why, or why not.
    pub why: Why,
    /// Whether we can send to it: it lives and the link is up, or it is ourselves.
    pub reachable: bool,
    /// Until when we ourselves hold it in quarantine; others may think otherwise.
    pub quarantined_until_ms: Option<u64>,
    /// How often it came back lately.
    pub flaps: u32,
}

/// The memory of one node.
#[derive(Debug)]
pub struct Members {
    me: Arc<str>,
    quarantine_ms: u64,
    histories: BTreeMap<Arc<str>, History>,
    standings: BTreeMap<Arc<str>, Standing>,
    owners: Owners,
    next_ms: Option<u64>,
}

impl Members {
    /// A node's, which has seen nobody yet. The first quarantine of a member that comes back lasts
    /// for `quarantine_ms`.
    #[must_use]
    pub fn new(me: Arc<str>, quarantine_ms: u64) -> Self {
        Self {
            me,
            quarantine_ms,
            histories: BTreeMap::new(),
            standings: BTreeMap::new(),
            owners: Owners::default(),
            next_ms: None,
        }
    }

    /// Takes in all that is seen now, ourselves included; who is missing is dead. Of two entries of
    /// one name a living one counts, then the first. To be called whenever anything changed, and at
    /// [`Members::next_ms`].
    pub fn observe(&mut self, now_ms: u64, seen: Vec<Seen>) -> &BTreeMap<Arc<str>, Standing> {
        let mut by_id: BTreeMap<Arc<str>, Seen> = BTreeMap::new();
        for mut one in seen {
            if one.id == self.me {
                (one.alive, one.linked) = (true, Link::Up);
            }
            if by_id.get(&one.id).is_none_or(|other| !other.lives() && one.lives()) {
                by_id.insert(Arc::clone(&one.id), one);
            }
        }
        self.remember(now_ms, &by_id);
        let held = self.count_votes(now_ms, &by_id);
        self.owners = Owners::among(by_id.values(), &held);
        for (id, one) in &by_id {
            if self.owners.why(one) == Why::Sick
                && let Some(history) = self.histories.get_mut(id)
            {
                history.out_for_sickness();
            }
        }
        self.standings =
            by_id.iter().map(|(id, one)| (Arc::clone(id), self.standing(now_ms, one))).collect();
        self.forget_the_longest_gone();
        let deadlines = self.histories.values().filter_map(|history| history.next_ms(now_ms));
        self.next_ms = deadlines.min();
        &self.standings
    }

    /// Where those stand that were seen last.
    #[must_use]
    pub fn standings(&self) -> &BTreeMap<Arc<str>, Standing> {
        &self.standings
    }

    /// The owners in each group that has any, sorted.
    #[must_use]
    pub fn owners(&self) -> &BTreeMap<Arc<str>, Vec<Arc<str>>> {
        &self.owners.by_group
    }

    /// A table for each group that has owners.
    #[must_use]
    pub fn tables(&self) -> BTreeMap<Arc<str>, SlotTable> {
        let table = |members: &Vec<Arc<str>>| SlotTable::new(members.iter().cloned());
        self.owners.by_group.iter().map(|(group, all)| (Arc::clone(group), table(all))).collect()
    }

    /// The version to place by; `None` while nobody was seen.
    #[must_use]
    pub fn placement_version(&self) -> Option<u16> {
        self.owners.version
    }

    /// When a quarantine ends or a vote changes with nothing new being seen.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        self.next_ms
    }

    /// What to tell the others.
    #[must_use]
    pub fn verdict(&self, now_ms: u64) -> Verdict {
        let living =
            self.histories.iter().filter(|(id, history)| **id != self.me && history.is_up());
        living.map(|(_, history)| (history.boot(), history.vote(now_ms))).collect()
    }

    fn remember(&mut self, now_ms: u64, by_id: &BTreeMap<Arc<str>, Seen>) {
        for (id, history) in &mut self.histories {
            if by_id.get(id).is_none_or(|one| !one.lives()) {
                history.gone(now_ms);
            }
        }
        for (id, one) in by_id.iter().filter(|(_, one)| one.lives()) {
            let doubted = by_id
                .values()
                .any(|other| other.lives() && other.verdict.vote(one.boot) == Vote::Quarantine);
            let Some(history) = self.histories.get_mut(id) else {
                let fresh = History::new(now_ms, self.quarantine_ms, one);
                self.histories.insert(Arc::clone(id), fresh);
                continue;
            };
            if *id == self.me {
                history.myself(one);
            } else {
                history.seen(now_ms, one, doubted);
            }
        }
    }

    fn count_votes(&self, now_ms: u64, by_id: &BTreeMap<Arc<str>, Seen>) -> Held {
        let living = || by_id.values().filter(|one| one.lives());
        let vote = |voter: &Seen, about: &Seen| match self.histories.get(&about.id) {
            Some(history) if voter.id == self.me => history.vote(now_ms),
            _ => voter.verdict.vote(about.boot),
        };
        let mut held = Held::default();
        for about in living() {
            let (mut quarantine, mut unlinked, mut peers) = (0, 0, 0);
            for voter in living().filter(|voter| voter.id != about.id) {
                let vote = vote(voter, about);
                quarantine += vote.weight();
                if voter.group == about.group {
                    unlinked += usize::from(vote == Vote::NeverLinked);
                    peers += 1;
                }
            }
            if quarantine > 0 {
                held.in_quarantine.push(Arc::clone(&about.id));
            }
            if 2 * unlinked > peers {
                held.never_linked.push(Arc::clone(&about.id));
            }
        }
        held
    }

    fn standing(&self, now_ms: u64, one: &Seen) -> Standing {
        let why = self.owners.why(one);
        let history = self.histories.get(&one.id);
        Standing {
            boot: one.boot,
            owns: why.owns(),
            why,
            reachable: one.lives() && one.linked == Link::Up,
            quarantined_until_ms: history.and_then(|history| history.quarantined_until(now_ms)),
            flaps: history.map_or(0, |history| history.flaps(now_ms)),
        }
    }

    fn forget_the_longest_gone(&mut self) {
        let gone = |(id, history): (&Arc<str>, &History)| {
            history.gone_since().map(|since_ms| (since_ms, Arc::clone(id)))
        };
        let mut gone: Vec<_> = self.histories.iter().filter_map(gone).collect();
        if gone.len() > GONE_MAX {
            gone.sort_unstable();
            for (_, id) in &gone[..gone.len() - GONE_MAX] {
                self.histories.remove(id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
