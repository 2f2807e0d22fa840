//! C17: the server's counts are what happened.

use clarion_protocol::http::Counts;

use super::facts::{Acknowledged, Answer, At, Delivery, Facts, Push, Stored, ms};
use super::{Findings, Invariant};

/// An acknowledgement is counted within this.
const COUNTED_WITHIN_MS: u64 = 5_000;

pub static INVARIANT: Invariant = Invariant {
    number: 17,
    name: "counts",
    proves: "I13",
    promise: "the server's counts of a push add up to its audience, and every number is what the \
              history says: the audience, who acknowledged, who left, who was told a gap; nothing \
              is pending at the end",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let stored = |push: &&Push<'_>| {
        !push.only_online() && push.targets.iter().any(|target| target.stored == Stored::Yes)
    };
    let mut counted = 0;
    let asked = facts.counting.map(|counting| (counting.asked, counting.of));
    for push in facts.pushes.iter().filter(stored) {
        let lacks = findings.options.counts_may_lack && facts.accepted_near_a_fault(push);
        // What is gone with the store's history is gone with its counts.
        let gone = facts.outside_model_after(push.invoked);
        match push.counts {
            Some((counts, answer)) => {
                counted += 1;
                for wrong in wrong(facts, push, counts, answer, lacks || gone) {
                    let key = push.key;
                    findings.say(
                        || format!("{key}: {wrong}: {counts:?}"),
                        &[push.record, answer.record],
                    );
                }
            }
            None if lacks || gone => counted += 1,
            None if asked.is_some_and(|(asked, of)| asked >= of) => {
                let key = push.key;
                findings.say(|| format!("{key} was accepted but is not counted"), &[push.record]);
            }
            None => {}
        }
    }
    match facts.counting {
        None if facts.pushes.iter().any(|push| stored(&push)) => {
            findings.say(|| "the server was not asked for its counts".to_owned(), &[]);
        }
        Some(counting) if counted < counting.asked && counting.asked < counting.of => {
            let asked = counting.asked;
            findings.say(
                || format!("of {asked} pushes the counts were asked for, but {counted} have any"),
                &[counting.record],
            );
        }
        _ => {}
    }
}

/// What the history says of a push, in numbers of terminals.
#[derive(Default)]
struct Own {
    /// In its audience for certain, and perhaps.
    audience: (u64, u64),
    /// Given it, and certain to have acknowledged it in time.
    given: (u64, u64),
    /// Left the audience, or may have.
    leavers: u64,
    /// Told a gap in the log.
    told: u64,
}

impl Own {
    fn of(facts: &Facts<'_>, push: &Push<'_>, counted: Answer) -> Self {
        let mut own = Self::default();
        for target in push.targets.iter().filter(|target| target.stored != Stored::No) {
            let certain = target.stored == Stored::Yes;
            for &reader in &facts.log(target.log).readers {
                let surely = certain && facts.member_surely(reader, target.log, push);
                let perhaps = facts.member_perhaps(reader, target.log, push);
                own.audience.0 += u64::from(surely);
                own.audience.1 += u64::from(perhaps);
                let memberships = facts.terminal(reader).memberships.get(&target.log);
                let mut memberships = memberships.into_iter().flatten();
                let leaves = perhaps && memberships.any(|membership| membership.leaving.is_some());
                own.leavers += u64::from(leaves);
                let mut gaps = facts.gaps.iter();
                let told = gaps.any(|gap| gap.terminal == reader && gap.log == target.log);
                own.told += u64::from(told);
                if !perhaps {
                    continue;
                }
                let given = |given: &&super::facts::Delivery| given.terminal == reader;
                let Some(first) = facts.given(push.index).find(given) else { continue };
                own.given.0 += 1;
                // Who expires it, leaves or is cut off right after may not have said so in time.
                let said = acknowledged_at(facts, first).unwrap_or(At::MAX);
                let in_time = said.saturating_add(ms(COUNTED_WITHIN_MS));
                let session = facts.terminal(reader).sessions.get(first.session as usize);
                let stays = session.is_some_and(|session| {
                    session.left.is_none_or(|left| left >= in_time)
                        && facts.untouched.is_quiet(first.at, in_time)
                });
                let expires = push.expires_from().filter(|from| *from <= counted.at);
                let heard = expires.is_none_or(|from| stays && in_time <= from);
                own.given.1 += u64::from(heard && !leaves);
            }
        }
        own
    }
}

/// When the terminal acknowledged what it was given: the SDK as soon as the application has it.
fn acknowledged_at(facts: &Facts<'_>, given: &Delivery) -> Option<At> {
    let terminal = facts.terminal(given.terminal);
    if terminal.is_sdk() {
        return Some(given.at);
    }
    let from = terminal.acknowledged.partition_point(|ack| ack.at < given.at);
    let mut acks = terminal.acknowledged[from..].iter();
    let covers = |ack: &&Acknowledged| {
        ack.session == given.session && ack.log == given.log && Some(ack.offset) >= given.offset
    };
    acks.find(covers).map(|ack| ack.at)
}

/// Everything that is wrong with the counts of a push.
fn wrong(
    facts: &Facts<'_>,
    push: &Push<'_>,
    counts: Counts,
    counted: Answer,
    lacks: bool,
) -> Vec<String> {
    let Counts { audience, delivered, acknowledged, expired, .. } = counts;
    let Counts { undeliverable, suppressed, evicted, pending, .. } = counts;
    let own = Own::of(facts, push, counted);
    let mut wrong = Vec::new();
    let mut say = |is: bool, what: &dyn Fn() -> String| {
        if is {
            wrong.push(what());
        }
    };
    let sum = acknowledged + expired + undeliverable + suppressed + evicted + pending;
    say(sum != audience, &|| format!("the parts add up to {sum}, the audience is {audience}"));
    say(delivered < acknowledged, &|| "acknowledged more than delivered".to_owned());
    let ((surely, perhaps), (given, heard)) = (own.audience, own.given);
    // A cursor that a terminal sends speaks for all that lies before it, expired entries too, where
    // the node that had passed those died before it wrote so.
    let expired_by = push.expires_from().filter(|from| *from <= counted.at);
    let vague = expired_by.is_some() && !facts.untouched.is_quiet(push.invoked, counted.at);
    say(acknowledged > given && !vague, &|| format!("{given} terminals have it"));
    say(audience > perhaps, &|| format!("it was for {perhaps} at most"));
    say(undeliverable > 0, &|| "nobody gave it up".to_owned());
    say(suppressed > own.leavers, &|| format!("{} terminals left", own.leavers));
    say(evicted > own.told, &|| format!("{} terminals were told a gap", own.told));
    if !lacks {
        say(acknowledged < heard, &|| format!("{heard} terminals have it for certain"));
        say(audience < surely, &|| format!("it was for {surely} at least"));
        say(pending > 0, &|| "some are pending".to_owned());
    }
    wrong
}
