//! What did not arrive, and whether anything excuses it. Several invariants share this: a delivery
//! that did not happen is lost, expired too early, or lost outside the fault model without a word.

use super::facts::{Facts, Push, Stored, Target};

/// A push, one of its targets, and a terminal that was in the target's audience all the while and
/// was not given it.
#[derive(Clone, Copy)]
pub struct Missed<'f, 'a> {
    pub push: &'f Push<'a>,
    pub target: &'f Target,
    pub terminal: u32,
}

impl Missed<'_, '_> {
    /// Whether its time was over before the history was.
    pub fn may_have_expired(&self, facts: &Facts<'_>) -> bool {
        self.push.expires_from().is_some_and(|from| from <= facts.end)
    }

    /// Whether something outside the fault model happened that may have taken it from the store.
    pub fn may_be_lost(&self, facts: &Facts<'_>) -> bool {
        facts.outside_model_after(self.push.invoked)
    }

    pub fn in_words(&self, facts: &Facts<'_>) -> String {
        let accepted = self.target.stored == Stored::Yes;
        let why = if accepted { "was accepted" } else { "was given to another" };
        format!("{} did not get {}, which {why}", facts.terminal(self.terminal).who, self.push.key)
    }

    /// Where it was pushed, where it was accepted, and the terminal's last session.
    pub fn proof(&self, facts: &Facts<'_>) -> Vec<u32> {
        let mut proof = vec![self.push.record];
        proof.extend(self.push.accepted.map(|answer| answer.record));
        let sessions = &facts.terminal(self.terminal).sessions;
        proof.extend(sessions.last().map(|session| session.record));
        if self.target.stored != Stored::Yes {
            proof.extend(facts.given(self.push.index).next().map(|given| given.record));
        }
        proof
    }
}

/// Goes through everything that was not given to somebody it was for, and that the terminal was
/// not told to be gone (I6).
pub fn missed<'f, 'a>(facts: &'f Facts<'a>, mut each: impl FnMut(Missed<'f, 'a>)) {
    // Which push a terminal was last seen to have.
    let mut has = vec![u32::MAX; facts.terminals.len()];
    for push in facts.pushes.iter().filter(|push| !push.only_online()) {
        for given in facts.given(push.index) {
            has[given.terminal as usize] = push.index;
        }
        for target in &push.targets {
            let log = facts.log(target.log);
            let got = |reader: &u32| has[*reader as usize] == push.index;
            if target.stored != Stored::Yes && !log.readers.iter().any(got) {
                continue;
            }
            for &terminal in log.readers.iter().filter(|reader| !got(reader)) {
                if facts.member_throughout(terminal, target.log, push)
                    && !facts.told_gone(terminal, target.log, push, target)
                {
                    each(Missed { push, target, terminal });
                }
            }
        }
    }
}
