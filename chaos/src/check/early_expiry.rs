//! C15: nothing expires before its time, whatever clocks say.

use super::facts::{At, Facts, ms};
use super::owed::{Missed, missed};
use super::{Findings, Invariant};

pub static INVARIANT: Invariant = Invariant {
    number: 15,
    name: "early-expiry",
    proves: "I11",
    promise: "a push expires no sooner than its `ttl` after it was accepted: a terminal that is \
              online for long enough before gets it, and none is counted as expired before",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let enough = ms(findings.options.within_ms);
    missed(facts, |missed| {
        if !missed.may_have_expired(facts) || missed.may_be_lost(facts) {
            return;
        }
        if let Some((session, online)) = online(facts, &missed)
            && online >= enough
        {
            let mut proof = missed.proof(facts);
            proof.push(session);
            let (words, ms) = (missed.in_words(facts), online / 1_000_000);
            findings
                .say(|| format!("{words}; it was online for {ms} ms before that expired"), &proof);
        }
    });
    for push in &facts.pushes {
        let Some((counts, asked)) = push.counts else { continue };
        // By default it lives for longer than any run.
        let early = push.expires_from().is_none_or(|from| asked.at < from);
        if counts.expired > 0 && early {
            let (key, expired) = (push.key, counts.expired);
            findings.say(
                || format!("{key} is counted as expired for {expired} before its time"),
                &[push.record, asked.record],
            );
        }
    }
}

/// The longest time that a terminal was online, with nothing broken, between the acceptance of a
/// push and the earliest time at which it may expire; and the session.
fn online(facts: &Facts<'_>, missed: &Missed<'_, '_>) -> Option<(u32, At)> {
    let push = missed.push;
    let known = push.accepted.map(|answer| answer.at);
    let stored = known.or_else(|| facts.given(push.index).next().map(|given| given.at))?;
    let expires = push.expires_from()?;
    let sessions = facts.terminal(missed.terminal).sessions.iter().filter_map(|session| {
        let from = session.opened.max(stored);
        let to = session.left.unwrap_or(facts.end).min(expires);
        (from < to).then(|| (session.record, facts.busy.longest_quiet(from, to)))
    });
    sessions.max_by_key(|(_, online)| *online)
}
