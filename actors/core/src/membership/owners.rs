//! Who owns slots, given who is in quarantine and who was never linked: the rules in the head of [`super`].

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Role, Seen, Why};

/// The living whom their peers hold off.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// More of their peers hold them in quarantine than do not.
    pub(super) in_quarantine: Vec<Arc<str>>,
    /// More than half of their peers never had a link to them.
    pub(super) never_linked: Vec<Arc<str>>,
}

/// Owners, and the verdict on every member.
#[derive(Debug, Default)]
pub(super) struct Owners {
    pub(super) version: Option<u16>,
    pub(super) by_group: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    why: BTreeMap<Arc<str>, Why>,
}

impl Owners {
    pub(super) fn among<'a>(seen: impl Iterator<Item = &'a Seen>, held: &Held) -> Self {
        let living: Vec<_> = seen.filter(|one| one.lives()).collect();
        let mut owners = Self::default();
        let Some(version) = living.iter().map(|one| one.placement_version).min() else {
            return owners;
        };
        owners.version = Some(version);
        let mut groups: BTreeMap<&Arc<str>, Vec<&Seen>> = BTreeMap::new();
        for one in living {
            if !one.roles.has(Role::Broker) {
                owners.why.insert(Arc::clone(&one.id), Why::NoBroker);
            } else if one.placement_version > version.saturating_add(1) {
                owners.why.insert(Arc::clone(&one.id), Why::Version);
            } else {
                groups.entry(&one.group).or_default().push(one);
            }
        }
        for (group, brokers) in groups {
            owners.judge(group, &brokers, held);
        }
        owners
    }

    fn judge(&mut self, group: &Arc<str>, brokers: &[&Seen], held: &Held) {
        let staying: Vec<_> = brokers.iter().filter(|one| !one.draining).collect();
        let sick = staying.iter().filter(|one| one.sick).count();
        let most_are_sick = 2 * sick > staying.len();
        let why = |one: &Seen| {
            if one.draining {
                Why::Draining
            } else if one.sick && !most_are_sick {
                Why::Sick
            } else if held.never_linked.contains(&one.id) {
                Why::NeverLinked
            } else if held.in_quarantine.contains(&one.id) {
                Why::Quarantined
            } else if one.sick {
                Why::SickLikeMost
            } else {
                Why::Fit
            }
        };
        let mut verdicts: Vec<_> = brokers.iter().map(|one| (&one.id, why(one))).collect();
        for last_resort in [Why::NeverLinked, Why::Quarantined, Why::Draining] {
            if verdicts.iter().any(|(_, why)| why.owns()) {
                break;
            }
            for (_, why) in verdicts.iter_mut().filter(|(_, why)| *why == last_resort) {
                *why = Why::LastResort;
            }
        }
        let owning = verdicts.iter().filter(|(_, why)| why.owns());
        let mut owning: Vec<_> = owning.map(|(id, _)| Arc::clone(id)).collect();
        owning.sort_unstable();
        self.by_group.insert(Arc::clone(group), owning);
        self.why.extend(verdicts.into_iter().map(|(id, why)| (Arc::clone(id), why)));
    }

    pub(super) fn why(&self, one: &Seen) -> Why {
        self.why.get(&one.id).copied().unwrap_or(Why::Dead)
    }
}
