//! Histories in which one promise is broken, and no other: an episode behind a good history, with
//! products and terminals of its own. Each comes with its good form, to show what makes it bad.

use clarion_chaos::check::Options;
use clarion_chaos::history::{Client, Ending, Event, Record};
use clarion_protocol::http::Counts;
use clarion_protocol::{LogName, Offset};

use super::tape::{Tape, WINDOW, all_acknowledged, id_of, terminal, topic, topic_log, user};

/// One way to break a promise.
pub struct Bad {
    /// The invariant that finds it.
    pub invariant: &'static str,
    pub name: &'static str,
    /// Makes the episode; bad if so, else good.
    pub tell: fn(&mut Tape, bad: bool),
    pub options: fn(&mut Options),
}

pub const fn bad(invariant: &'static str, name: &'static str, tell: fn(&mut Tape, bool)) -> Bad {
    Bad { invariant, name, tell, options: |_| {} }
}

impl Bad {
    /// The good history with this episode behind it.
    pub fn behind(&self, good: &[Record], bad: bool) -> Vec<Record> {
        let mut tape = Tape::behind(good, 60_000);
        (self.tell)(&mut tape, bad);
        let mut records = good.to_vec();
        records.extend(tape.finish());
        records
    }
}

/// At least one for every invariant.
pub const ALL: [Bad; 53] = [
    bad("accepted-arrives", "a push that another got", lost_of_unknown_outcome),
    bad("accepted-arrives", "one of two terminals of a user", lost_for_one),
    bad("for-whom", "another terminal's inbox", others_inbox),
    bad("for-whom", "another product's broadcast", others_product),
    bad("for-whom", "another user's inbox", others_user),
    bad("members-only", "a topic that was never joined", never_joined),
    bad("members-only", "a topic that was left before", left_before),
    bad("members-only", "what was pushed before it joined", before_it_joined),
    bad("invented", "a push that nobody made", nobodys),
    bad("invented", "a push that was refused", refused_and_given),
    bad("invented", "a target that was refused", refused_target),
    bad("altered", "another payload", altered),
    bad("order-in-session", "two in the wrong order", wrong_order),
    bad("order-in-session", "one twice, not said to be again", twice_in_session),
    bad("order-over-sessions", "an older one in a later session", older_later),
    bad("real-time", "the later one stands before", stands_before),
    bad("real-time", "the later one stands before, of several targets", stands_before_of_several),
    bad("at-most-once", "the SDK after a reconnect", sdk_again),
    bad("at-most-once", "the SDK from another log", sdk_from_another_log),
    bad("at-most-once", "a push that is stored nowhere", stored_nowhere_twice),
    bad("position-passed", "what lies below the position", below_position),
    bad("position-kept", "acknowledged and closed in order", forgotten_though_closed),
    bad("position-kept", "acknowledged long ago", forgotten_though_old),
    bad("position-kept", "a cursor that was sent", sent_in_vain),
    bad("position-kept", "a position that was told", goes_back),
    bad("offsets-agree", "one message at two offsets", two_offsets),
    bad("offsets-agree", "two messages at one offset", one_offset),
    bad("offsets-agree", "the answer and the delivery", answered_otherwise),
    bad("stored-once", "a key with two ids", two_ids),
    bad("late-delivery", "long after it expired", late),
    bad("early-expiry", "not given though there was time", expired_for_one_online),
    bad("early-expiry", "counted as expired by a stepped clock", expired_by_a_stepped_clock),
    bad("generations", "not newer", same_generation),
    bad("counts", "an acknowledgement too few", a_count_too_few),
    bad("counts", "an acknowledgement too many", a_count_too_many),
    bad("counts", "parts that do not add up", do_not_add_up),
    bad("counts", "something pending", still_pending),
    bad("counts", "an audience without someone", small_audience),
    bad("counts", "somebody suppressed who never left", suppressed_nobody),
    bad("counts", "not counted at all", not_counted),
    bad("delivered-in-time", "a message that comes late", comes_late),
    bad("delivered-in-time", "late after all was whole", late_after_it_healed),
    bad("delivered-in-time", "no link for long", no_link_for_long),
    bad("answered-in-time", "an answer that comes late", answered_late),
    bad("neighbours", "others wait while one floods", others_wait),
    bad("leaks", "memory", |tape, bad| held(tape, bad, (900_000, 0, 0, 0))),
    bad("leaks", "sockets", |tape, bad| held(tape, bad, (0, 500, 0, 0))),
    bad("leaks", "threads", |tape, bad| held(tape, bad, (0, 0, 100, 0))),
    bad("leaks", "memory that rises slowly", rises_slowly),
    bad("queues-empty", "bytes for another node", |tape, bad| held(tape, bad, (0, 0, 0, 9000))),
    bad("gap-called-for", "history is said to be another one", gap_for_nothing),
    Bad {
        options: |options| options.evicts = true,
        ..bad("gap-called-for", "a range in which nothing was", gap_of_nothing)
    },
    bad("loss-is-told", "lost outside the model without a word", lost_without_a_word),
];

/// The others, which need no episode.
pub const MORE: [Bad; 8] = [
    bad("redelivered", "more than a window again", more_than_a_window),
    bad("redelivered", "again and again on a link", again_and_again),
    bad("hints-suffice", "found by the head check alone", |tape, bad| {
        tape.add("driver", Event::HeadChecked { found: u64::from(bad) });
    }),
    Bad {
        options: |options| options.hints_off = true,
        ..bad("hints-suffice", "hints were not off", |tape, bad| {
            tape.add("driver", Event::HeadChecked { found: u64::from(!bad) });
        })
    },
    bad("trouble", "an end for good", |tape, bad| {
        if bad {
            let what = "ended for good: 4208 ack_ahead".to_owned();
            tape.add("load-0", Event::Trouble { who: "p0/t0".into(), what });
        }
    }),
    bad("worth", "a fault that nothing overlapped", |tape, bad| {
        a_and_b(tape);
        let overlap = |tape: &mut Tape, keys: &[&str]| {
            for (number, key) in (0..).zip(keys) {
                given(tape, key, 10 + number);
            }
        };
        if bad {
            overlap(tape, &["w1", "w2", "w3"]);
        }
        tape.fault("node:node-1", "killed", false);
        if !bad {
            overlap(tape, &["w1", "w2", "w3"]);
        }
        tape.wait(100).mended().healed();
    }),
    bad("worth", "a fault that is never mended", |tape, bad| {
        a_and_b(tape);
        tape.fault("node:node-1", "killed", false);
        for (number, key) in (0..).zip(["w1", "w2", "w3"]) {
            given(tape, key, 10 + number);
        }
        if !bad {
            tape.healed();
        }
    }),
    bad("refusals", "most are refused though nothing is broken", |tape, bad| {
        a_and_b(tape);
        for number in 0..400 {
            let key = format!("refused-{number}");
            tape.invoke(&key, "x", &[terminal("a")]).wait(1);
            if bad {
                tape.refused(&key);
            } else {
                tape.unknown(&key);
            }
        }
    }),
];

/// Two terminals of user `u` in product `x`: `a` with the SDK, `b` without; online.
pub fn a_and_b(tape: &mut Tape) {
    tape.terminal("x/a", Some("u"), Client::Sdk).terminal("x/b", Some("u"), Client::RawPlain);
    tape.opened("x/a", 1, &[], &[]);
    tape.opened("x/b", 1, &[], &[]).wait(10);
}

/// A push to `a` and its whole way; counted at once.
pub fn given(tape: &mut Tape, key: &str, offset: u64) {
    tape.invoke(key, "x", &[terminal("a")]).wait(1);
    tape.accepted(key, &[(terminal("a"), Some(Offset(offset)))]).wait(1);
    tape.delivered("x/a", 1, LogName::Terminal, offset, key);
    tape.counted(key, all_acknowledged(1));
}

/// A push to the user, accepted; `a` has it.
fn pushed_to_user(tape: &mut Tape, key: &str, offset: u64) {
    tape.invoke(key, "x", &[user("u")]).wait(1);
    tape.accepted(key, &[(user("u"), Some(Offset(offset)))]).wait(1);
    tape.delivered("x/a", 1, LogName::User, offset, key);
}

fn lost_of_unknown_outcome(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.invoke("k", "x", &[user("u")]).wait(100).unknown("k");
    tape.delivered("x/a", 1, LogName::User, 10, "k");
    if !bad {
        tape.delivered("x/b", 1, LogName::User, 10, "k");
    }
}

fn lost_for_one(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.invoke("k", "x", &[user("u")]).wait(100).unknown("k");
    tape.delivered("x/b", 1, LogName::User, 10, "k");
    tape.left("x/a", 1, Ending::Closed).wait(50).opened("x/a", 2, &[], &[]).wait(50);
    if !bad {
        tape.delivered("x/a", 2, LogName::User, 10, "k");
    }
}

fn others_inbox(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    given(tape, "k", 10);
    if bad {
        tape.delivered("x/b", 1, LogName::Terminal, 10, "k");
    }
}

fn others_product(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.terminal("y/a", None, Client::Sdk).opened("y/a", 1, &[], &[]);
    tape.invoke("k", "x", &[clarion_protocol::http::Target::All]).wait(5).unknown("k");
    tape.delivered("x/a", 1, LogName::Broadcast, 10, "k");
    tape.delivered("x/b", 1, LogName::Broadcast, 10, "k");
    if bad {
        tape.delivered("y/a", 1, LogName::Broadcast, 10, "k");
    }
}

fn others_user(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.terminal("x/c", Some("v"), Client::Sdk).opened("x/c", 1, &[], &[]);
    pushed_to_user(tape, "k", 10);
    tape.delivered("x/b", 1, LogName::User, 10, "k").counted("k", all_acknowledged(2));
    if bad {
        tape.delivered("x/c", 1, LogName::User, 10, "k");
    }
}

fn never_joined(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    let log = topic_log("news");
    tape.joining("x/a", log.clone()).joined("x/a", log.clone()).wait(1);
    tape.invoke("k", "x", &[topic("news")]).wait(1);
    tape.accepted("k", &[(topic("news"), Some(Offset(10)))]).wait(1);
    tape.delivered("x/a", 1, log.clone(), 10, "k").counted("k", all_acknowledged(1));
    if bad {
        tape.delivered("x/b", 1, log, 10, "k");
    }
}

fn left_before(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    let log = topic_log("news");
    for who in ["x/a", "x/b"] {
        tape.joining(who, log.clone()).joined(who, log.clone()).wait(1);
    }
    tape.leaves("x/b", &log).wait(5_000);
    tape.invoke("k", "x", &[topic("news")]).wait(1);
    tape.accepted("k", &[(topic("news"), Some(Offset(10)))]).wait(1);
    tape.delivered("x/a", 1, log.clone(), 10, "k").counted("k", all_acknowledged(1));
    if bad {
        tape.delivered("x/b", 1, log, 10, "k");
    }
}

fn before_it_joined(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    let log = topic_log("news");
    tape.joining("x/a", log.clone()).joined("x/a", log.clone()).wait(1);
    tape.invoke("k", "x", &[topic("news")]).wait(1);
    tape.accepted("k", &[(topic("news"), Some(Offset(10)))]).wait(1);
    tape.delivered("x/a", 1, log.clone(), 10, "k").counted("k", all_acknowledged(1));
    tape.wait(5).joining("x/b", log.clone()).joined("x/b", log.clone()).wait(1);
    if bad {
        tape.delivered("x/b", 1, log, 10, "k");
    }
}

fn nobodys(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    if bad {
        tape.delivered("x/b", 1, LogName::Terminal, 10, "never pushed");
    }
}

fn refused_and_given(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.invoke("k", "x", &[terminal("b")]).wait(5).refused("k");
    if bad {
        tape.delivered("x/b", 1, LogName::Terminal, 10, "k");
    }
}

fn refused_target(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.invoke("k", "x", &[terminal("a"), terminal("b")]).wait(5);
    tape.accepted("k", &[(terminal("a"), Some(Offset(10))), (terminal("b"), None)]);
    tape.delivered("x/a", 1, LogName::Terminal, 10, "k").counted("k", all_acknowledged(1));
    if bad {
        tape.delivered("x/b", 1, LogName::Terminal, 10, "k");
    }
}

fn altered(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    given(tape, "k", 10);
    let last = tape.records.iter_mut().rev();
    for record in last {
        if let Event::Delivered { hash, .. } = &mut record.event
            && bad
        {
            *hash = "of something else".into();
        }
    }
}

/// Two pushes to `b` under way at once, so that either may stand first.
fn two_at_once(tape: &mut Tape, first: (&str, u64), second: (&str, u64), who: &str) {
    tape.invoke(first.0, "x", &[terminal(who)]).invoke(second.0, "x", &[terminal(who)]).wait(2);
    tape.accepted(first.0, &[(terminal(who), Some(Offset(first.1)))]);
    tape.accepted(second.0, &[(terminal(who), Some(Offset(second.1)))]);
}

fn wrong_order(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    two_at_once(tape, ("k1", 10), ("k2", 11), "b");
    let order = if bad { [(11, "k2"), (10, "k1")] } else { [(10, "k1"), (11, "k2")] };
    for (offset, key) in order {
        tape.delivered("x/b", 1, LogName::Terminal, offset, key);
        tape.counted(key, all_acknowledged(1));
    }
}

fn twice_in_session(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    two_at_once(tape, ("k1", 10), ("k2", 11), "b");
    for (offset, key) in [(10, "k1"), (11, "k2"), (11, "k2")] {
        tape.delivered("x/b", 1, LogName::Terminal, offset, key);
    }
    if let (Some(Event::Delivered { again, .. }), false) =
        (tape.records.last_mut().map(|record| &mut record.event), bad)
    {
        *again = true;
    }
    tape.counted("k1", all_acknowledged(1)).counted("k2", all_acknowledged(1));
}

fn older_later(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    two_at_once(tape, ("k1", 10), ("k2", 11), "a");
    let (first, second) = if bad { ((11, "k2"), (10, "k1")) } else { ((10, "k1"), (11, "k2")) };
    tape.delivered("x/a", 1, LogName::Terminal, first.0, first.1);
    tape.left("x/a", 1, Ending::Broken).wait(20).opened("x/a", 2, &[], &[]);
    tape.delivered("x/a", 2, LogName::Terminal, second.0, second.1);
    tape.counted("k1", all_acknowledged(1)).counted("k2", all_acknowledged(1));
}

fn stands_before(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.left("x/b", 1, Ending::Closed);
    let (first, second) = if bad { (20, 10) } else { (10, 20) };
    for (key, offset) in [("k1", first), ("k2", second)] {
        tape.invoke(key, "x", &[terminal("b")]).wait(1);
        tape.accepted(key, &[(terminal("b"), Some(Offset(offset)))]).wait(1);
        tape.counted(key, all_acknowledged(1));
    }
    tape.opened("x/b", 2, &[], &[(LogName::Terminal, Offset(0))]);
    let mut stored = [(first, "k1"), (second, "k2")];
    stored.sort_unstable();
    for (offset, key) in stored {
        tape.delivered("x/b", 2, LogName::Terminal, offset, key);
    }
}

/// What an answer does not name was not accepted by it.
fn stands_before_of_several(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.left("x/b", 1, Ending::Closed);
    tape.invoke("k1", "x", &[terminal("a"), terminal("b")]).wait(1);
    let told = [(terminal("a"), Some(Offset(10))), (terminal("b"), Some(Offset(20)))];
    tape.accepted("k1", if bad { &told } else { &told[..1] }).wait(1);
    tape.invoke("k2", "x", &[terminal("b")]).wait(1);
    tape.accepted("k2", &[(terminal("b"), Some(Offset(15)))]).wait(1);
    tape.delivered("x/a", 1, LogName::Terminal, 10, "k1");
    tape.opened("x/b", 2, &[], &[(LogName::Terminal, Offset(0))]);
    tape.delivered("x/b", 2, LogName::Terminal, 15, "k2");
    tape.delivered("x/b", 2, LogName::Terminal, 20, "k1");
    tape.counted("k1", all_acknowledged(2)).counted("k2", all_acknowledged(1));
}

fn sdk_again(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    given(tape, "k", 10);
    tape.left("x/a", 1, Ending::Closed).wait(20);
    if !bad {
        tape.add("load-0", Event::LostCursors { who: "x/a".into() });
    }
    tape.wait(20).opened("x/a", 2, &[], &[]);
    tape.delivered("x/a", 2, LogName::Terminal, 10, "k");
}

fn sdk_from_another_log(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.invoke("k", "x", &[terminal("a"), user("u")]).wait(1).unknown("k");
    tape.delivered("x/a", 1, LogName::Terminal, 10, "k");
    tape.delivered("x/b", 1, LogName::User, 20, "k");
    if bad {
        tape.delivered("x/a", 1, LogName::User, 20, "k");
    }
}

fn stored_nowhere_twice(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.invoke_for("k", "x", &[terminal("b")], Some(0)).wait(1);
    tape.accepted("k", &[(terminal("b"), None)]);
    tape.delivered("x/b", 1, LogName::Terminal, None, "k");
    if bad {
        tape.delivered("x/b", 1, LogName::Terminal, None, "k");
    }
}

fn below_position(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.invoke("k", "x", &[terminal("b")]).wait(1);
    tape.accepted("k", &[(terminal("b"), Some(Offset(10)))]).wait(1);
    tape.delivered("x/b", 1, LogName::Terminal, 10, "k").counted("k", all_acknowledged(1));
    tape.acknowledged("x/b", 1, LogName::Terminal, 10).wait(1);
    tape.left("x/b", 1, Ending::Closed).wait(50);
    tape.opened("x/b", 2, &[], &[(LogName::Terminal, Offset(10))]);
    if bad {
        tape.delivered("x/b", 2, LogName::Terminal, 10, "k");
    }
}

/// `b` has acknowledged 10, its session has ended so, and it comes again after `away` at `position`.
fn comes_again(tape: &mut Tape, how: Ending, held: u64, away: u64, position: u64) {
    a_and_b(tape);
    tape.invoke("k", "x", &[terminal("b")]).wait(1);
    tape.accepted("k", &[(terminal("b"), Some(Offset(10)))]).wait(1);
    tape.delivered("x/b", 1, LogName::Terminal, 10, "k").counted("k", all_acknowledged(1));
    tape.acknowledged("x/b", 1, LogName::Terminal, 10).wait(held);
    tape.left("x/b", 1, how).wait(away);
    tape.opened("x/b", 2, &[], &[(LogName::Terminal, Offset(position))]);
}

fn forgotten_though_closed(tape: &mut Tape, bad: bool) {
    comes_again(tape, Ending::Closed, 1, 50, if bad { 0 } else { 10 });
}

fn forgotten_though_old(tape: &mut Tape, bad: bool) {
    // What the node may not have heard, or written down, may be forgotten.
    let held = if bad { 2_000 } else { 10 };
    comes_again(tape, Ending::Dropped, held, 16_000, 0);
}

fn sent_in_vain(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.left("x/b", 1, Ending::Dropped).wait(50);
    let position = Offset(if bad { 5 } else { 10 });
    let (sent, told) = ([(LogName::User, Offset(10))], [(LogName::User, position)]);
    tape.opened("x/b", 2, &sent, &told);
}

fn goes_back(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.left("x/b", 1, Ending::Dropped).wait(50);
    tape.opened("x/b", 2, &[], &[(LogName::Broadcast, Offset(10))]);
    tape.left("x/b", 2, Ending::Dropped).wait(50);
    let position = Offset(if bad { 9 } else { 10 });
    tape.opened("x/b", 3, &[], &[(LogName::Broadcast, position)]);
}

fn two_offsets(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    pushed_to_user(tape, "k", 10);
    let offset = if bad { 11 } else { 10 };
    tape.delivered("x/b", 1, LogName::User, offset, "k").counted("k", all_acknowledged(2));
}

fn one_offset(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.invoke("k1", "x", &[user("u")]).invoke("k2", "x", &[user("u")]).wait(1);
    tape.unknown("k1").unknown("k2");
    tape.delivered("x/b", 1, LogName::User, 10, "k1").delivered("x/b", 1, LogName::User, 11, "k2");
    let (first, second) = if bad { ("k2", "k1") } else { ("k1", "k2") };
    tape.delivered("x/a", 1, LogName::User, 10, first);
    tape.delivered("x/a", 1, LogName::User, 11, second);
}

fn answered_otherwise(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.invoke("k", "x", &[terminal("a")]).wait(1);
    tape.accepted("k", &[(terminal("a"), Some(Offset(if bad { 11 } else { 10 })))]);
    tape.delivered("x/a", 1, LogName::Terminal, 10, "k").counted("k", all_acknowledged(1));
}

fn two_ids(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    given(tape, "k", 10);
    let (id, offset) = if bad { (id_of("another"), 11) } else { (id_of("k"), 10) };
    tape.accepted_as("k", id, &[(terminal("a"), Some(Offset(offset)))]);
}

fn late(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.left("x/a", 1, Ending::Closed);
    tape.invoke_for("k", "x", &[terminal("a")], Some(10_000)).wait(1);
    tape.accepted("k", &[(terminal("a"), Some(Offset(10)))]);
    tape.wait(if bad { 15_000 } else { 9_000 }).opened("x/a", 2, &[], &[]);
    tape.delivered("x/a", 2, LogName::Terminal, 10, "k");
    tape.wait(10_000).counted("k", all_acknowledged(1));
}

fn expired_for_one_online(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    if !bad {
        tape.left("x/a", 1, Ending::Closed).wait(1);
    }
    tape.invoke_for("k", "x", &[terminal("a")], Some(20_000)).wait(1);
    tape.accepted("k", &[(terminal("a"), Some(Offset(10)))]).wait(30_000);
    if !bad {
        tape.opened("x/a", 2, &[], &[]);
    }
    tape.counted("k", Counts { audience: 1, expired: 1, ..Counts::default() });
}

fn expired_by_a_stepped_clock(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    // A clock goes ahead by hours; what lives for a minute has not expired in one.
    tape.left("x/a", 1, Ending::Closed).wait(1);
    tape.fault("node:node-1", "clock", false);
    let ttl_ms = if bad { 60_000 } else { 10_000 };
    tape.invoke_for("k", "x", &[terminal("a")], Some(ttl_ms)).wait(1);
    tape.accepted("k", &[(terminal("a"), Some(Offset(10)))]);
    for (key, offset) in ["c1", "c2", "c3"].into_iter().zip(20..) {
        tape.invoke(key, "x", &[terminal("b")]).wait(1);
        tape.accepted(key, &[(terminal("b"), Some(Offset(offset)))]).wait(1);
        tape.delivered("x/b", 1, LogName::Terminal, offset, key);
        tape.counted(key, all_acknowledged(1));
    }
    tape.mended().healed().wait(30_000);
    tape.counted("k", Counts { audience: 1, expired: 1, ..Counts::default() });
    tape.wait(40_000).opened("x/a", 2, &[], &[]);
}

fn same_generation(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.left("x/a", 1, Ending::Closed).wait(20).opened("x/a", 2, &[], &[]);
    for record in &mut tape.records {
        if let Event::Opened { who, session: 2, generation, .. } = &mut record.event
            && &**who == "x/a"
            && bad
        {
            *generation = 1;
        }
    }
}

/// A push to the user that both terminals get, and what the server says of it.
fn counted_as(tape: &mut Tape, bad: bool, counts: Counts) {
    a_and_b(tape);
    pushed_to_user(tape, "k", 10);
    tape.delivered("x/b", 1, LogName::User, 10, "k").wait(1000);
    tape.counted("k", if bad { counts } else { all_acknowledged(2) });
}

fn a_count_too_few(tape: &mut Tape, bad: bool) {
    let counts = Counts {
        audience: 2,
        delivered: 2,
        acknowledged: 1,
        undeliverable: 1,
        ..Counts::default()
    };
    counted_as(tape, bad, counts);
}

fn a_count_too_many(tape: &mut Tape, bad: bool) {
    counted_as(tape, bad, all_acknowledged(3));
}

fn do_not_add_up(tape: &mut Tape, bad: bool) {
    counted_as(tape, bad, Counts { acknowledged: 1, ..all_acknowledged(2) });
}

fn still_pending(tape: &mut Tape, bad: bool) {
    counted_as(tape, bad, Counts { acknowledged: 1, pending: 1, ..all_acknowledged(2) });
}

fn small_audience(tape: &mut Tape, bad: bool) {
    counted_as(tape, bad, all_acknowledged(1));
}

fn suppressed_nobody(tape: &mut Tape, bad: bool) {
    counted_as(tape, bad, Counts { acknowledged: 1, suppressed: 1, ..all_acknowledged(2) });
}

fn not_counted(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    given(tape, "k", 10);
    if bad {
        tape.records.retain(|record| !matches!(record.event, Event::Counted { .. }));
    }
}

fn comes_late(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.invoke("k", "x", &[terminal("a")]).wait(1);
    tape.accepted("k", &[(terminal("a"), Some(Offset(10)))]).wait(if bad { 11_000 } else { 1 });
    tape.delivered("x/a", 1, LogName::Terminal, 10, "k").counted("k", all_acknowledged(1));
}

fn late_after_it_healed(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.fault("link:node-1>node-2", "cut_off", false);
    given(tape, "h1", 10);
    given(tape, "h2", 11);
    tape.invoke("k", "x", &[terminal("a")]).wait(1);
    tape.accepted("k", &[(terminal("a"), Some(Offset(12)))]).wait(30_000).mended().healed();
    tape.wait(if bad { 11_000 } else { 2_000 });
    tape.delivered("x/a", 1, LogName::Terminal, 12, "k").counted("k", all_acknowledged(1));
}

fn no_link_for_long(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.left("x/a", 1, Ending::Broken).wait(if bad { 12_000 } else { 500 });
    tape.opened("x/a", 2, &[], &[]);
}

fn answered_late(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.invoke("k", "x", &[terminal("a")]).wait(1);
    tape.delivered("x/a", 1, LogName::Terminal, 10, "k").wait(if bad { 12_000 } else { 1 });
    tape.accepted("k", &[(terminal("a"), Some(Offset(10)))]).counted("k", all_acknowledged(1));
}

fn others_wait(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.fault("product:flooder", "flood", false);
    for number in 0..80 {
        let key = format!("f{number}");
        tape.invoke(&key, "x", &[terminal("a")]).wait(if bad { 2_000 } else { 2 });
        tape.accepted(&key, &[(terminal("a"), Some(Offset(10 + number)))]);
        tape.delivered("x/a", 1, LogName::Terminal, 10 + number, &key);
        tape.counted(&key, all_acknowledged(1));
    }
    tape.mended().healed();
}

/// What a node that came with the load holds in the end, above what it had.
fn held(tape: &mut Tape, bad: bool, more: (u64, u64, u64, u64)) {
    for _ in 0..6 {
        let more = if bad { more } else { (0, 0, 0, 0) };
        let held = (200_000 + more.0, 60 + more.1, 8 + more.2, more.3);
        tape.wait(1_000).sample("node:node-2", Some(held));
    }
    asked_again(tape);
}

/// What is held is looked at before the counts are asked for.
fn asked_again(tape: &mut Tape) {
    tape.add("driver", Event::Counting { asked: 0, of: 0 });
}

fn rises_slowly(tape: &mut Tape, bad: bool) {
    // 60 MiB in half an hour: little at the end, but no end to it.
    for second in 0..1_800 {
        let more = if bad { second * 60 * 1024 / 1_800 } else { second % 7 * 4096 };
        tape.wait(1_000).sample("node:node-2", Some((200_000 + more, 60, 8, 0)));
    }
    asked_again(tape);
}

fn gap_for_nothing(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    if bad {
        tape.told_gap("x/b", 1, LogName::Broadcast, (20, 0), "epoch");
    }
}

fn gap_of_nothing(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    pushed_to_user(tape, "k", 10);
    if bad {
        tape.delivered("x/b", 1, LogName::User, 10, "k").counted("k", all_acknowledged(2));
    }
    // Of what it has, or of what is gone for it.
    tape.told_gap("x/b", 1, LogName::User, (0, 10), "evicted");
    if !bad {
        let counts =
            Counts { audience: 2, delivered: 1, acknowledged: 1, evicted: 1, ..Counts::default() };
        tape.counted("k", counts);
    }
}

fn lost_without_a_word(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.left("x/b", 1, Ending::Closed).wait(5);
    given(tape, "l1", 10);
    pushed_to_user(tape, "k", 10);
    tape.fault("redis:0/0", "emptied", true);
    for (number, key) in (0..).zip(["l2", "l3", "l4"]) {
        given(tape, key, 11 + number);
    }
    tape.mended().healed().wait(50).opened("x/b", 2, &[], &[]);
    if !bad {
        tape.told_gap("x/b", 2, LogName::User, (5, 0), "ahead");
    }
}

/// `b` gets so many before a fault, acknowledges none, and gets them again after it.
fn more_than_a_window(tape: &mut Tape, bad: bool) {
    let count = u64::from(WINDOW) + u64::from(bad);
    a_and_b(tape);
    let keys: Vec<String> = (0..count).map(|number| format!("k{number}")).collect();
    for (key, offset) in keys.iter().zip(10..) {
        tape.invoke(key, "x", &[terminal("b")]).wait(1);
        tape.accepted(key, &[(terminal("b"), Some(Offset(offset)))]);
        tape.delivered("x/b", 1, LogName::Terminal, offset, key);
        tape.counted(key, all_acknowledged(1));
    }
    tape.fault("node:node-1", "killed", false).left("x/b", 1, Ending::Broken);
    for (number, key) in (0..).zip(["o1", "o2", "o3"]) {
        given(tape, key, 30 + number);
    }
    tape.mended().opened("x/b", 2, &[], &[(LogName::Terminal, Offset(0))]).healed();
    for (key, offset) in keys.iter().zip(10..) {
        tape.delivered("x/b", 2, LogName::Terminal, offset, key);
    }
}

fn again_and_again(tape: &mut Tape, bad: bool) {
    a_and_b(tape);
    tape.invoke("k", "x", &[terminal("b")]).wait(1);
    tape.accepted("k", &[(terminal("b"), Some(Offset(10)))]);
    tape.delivered("x/b", 1, LogName::Terminal, 10, "k").counted("k", all_acknowledged(1));
    for _ in 0..if bad { WINDOW + 1 } else { 2 } {
        tape.wait(3_000).delivered("x/b", 1, LogName::Terminal, 10, "k");
        if let Some(Event::Delivered { again, .. }) =
            tape.records.last_mut().map(|record| &mut record.event)
        {
            *again = true;
        }
    }
}
