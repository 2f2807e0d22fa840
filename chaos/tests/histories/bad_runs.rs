//! Episodes in which a fault interrupts too long, or the run is not worth its verdict.

use clarion_chaos::check::Rows;
use clarion_chaos::history::Event;
use clarion_chaos::interruption::{Bound, Expects};
use clarion_protocol::{LogName, Offset};

use super::bad::{Bad, a_and_b, bad, given};
use super::tape::{Tape, all_acknowledged, terminal};

const KILLED: Expects = Expects::all(Bound::Ms(3_000));

pub const ALL: [Bad; 6] = [
    bad("interruptions", "a push that waits for a node that was killed", |tape, bad| {
        waits_for_an_answer(tape, if bad { 3_500 } else { 2_900 });
    }),
    bad("interruptions", "a delivery while a sentinel is away", |tape, bad| {
        waits_for_a_message(tape, if bad { 4_000 } else { 400 });
    }),
    bad("interruptions", "a terminal of the node that hangs", |tape, bad| {
        waits_at_a_node_that_hangs(tape, if bad { 12_500 } else { 11_500 });
    }),
    Bad {
        options: |options| options.rows = Rows::EveryClass,
        ..bad("complete", "a component that was never hung", |tape, bad| {
            everything_done(tape, if bad { "hung" } else { "" });
        })
    },
    Bad {
        options: |options| options.overlap_total_min = 800,
        ..bad("worth", "few pushes for all faults together", |tape, bad| {
            a_and_b(tape);
            tape.fault("node:node-1", "killed", false);
            for number in 0..if bad { 4 } else { 900 } {
                given(tape, &format!("w{number}"), 10 + number);
            }
            tape.wait(100).mended().healed();
        })
    },
    bad("leaks", "sockets of proxies that links leave behind", |tape, bad| {
        proxies(tape, if bad { 100 } else { 0 });
    }),
];

/// Something is broken, with enough pushes around it, and whole after what happens meanwhile.
pub fn broken(tape: &mut Tape, kind: &str, expects: Expects, meanwhile: impl FnOnce(&mut Tape)) {
    tape.fault_that("node:node-1", kind, &expects.to_string());
    for (number, key) in (0..).zip(["w1", "w2", "w3"]) {
        given(tape, key, 10 + number);
    }
    meanwhile(tape);
    tape.wait(10).mended().healed();
}

fn waits_for_an_answer(tape: &mut Tape, ms: u64) {
    a_and_b(tape);
    broken(tape, "killed", KILLED, |tape| {
        tape.invoke("k", "x", &[terminal("b")]).wait(ms);
        tape.accepted("k", &[(terminal("b"), Some(Offset(20)))]);
        tape.delivered("x/b", 1, LogName::Terminal, 20, "k").counted("k", all_acknowledged(1));
    });
}

pub fn waits_for_a_message(tape: &mut Tape, ms: u64) {
    a_and_b(tape);
    broken(tape, "killed", Expects::NOTHING, |tape| {
        tape.invoke("k", "x", &[terminal("b")]).wait(1);
        tape.accepted("k", &[(terminal("b"), Some(Offset(20)))]).wait(ms);
        tape.delivered("x/b", 1, LogName::Terminal, 20, "k").counted("k", all_acknowledged(1));
    });
}

/// Both terminals are at `node-1`, and heartbeats take 2 s at most.
fn waits_at_a_node_that_hangs(tape: &mut Tape, ms: u64) {
    a_and_b(tape);
    let expects = Expects { own: Bound::Heartbeat(10_000), ..Expects::all(Bound::Ms(6_000)) };
    broken(tape, "hung", expects, |tape| {
        tape.invoke("k", "x", &[terminal("b")]).wait(1);
        tape.accepted("k", &[(terminal("b"), Some(Offset(20)))]).wait(ms);
        tape.delivered("x/b", 1, LogName::Terminal, 20, "k").counted("k", all_acknowledged(1));
    });
}

/// What the good history has is killed, hung and cut off, or named; but for what is left out.
fn everything_done(tape: &mut Tape, but: &str) {
    for component in ["node:node-1", "node:node-2", "redis:0/0", "link:node-1>node-2"] {
        for kind in ["killed", "hung", "cut_off"].into_iter().filter(|kind| *kind != but) {
            let (component, kind) = (component.into(), kind.into());
            tape.add("driver", Event::Skipped { component, kind, why: "not root".to_owned() });
        }
    }
}

/// A link goes from one proxy to the other, and takes its two sockets with it or not.
fn proxies(tape: &mut Tape, left: u64) {
    for turn in 0..20 {
        let (first, second) = if turn < 10 { (80, 40) } else { (40 + left, 80) };
        tape.wait(1_000).sample("proxy:0", Some((10_000, first, 2, 0)));
        tape.sample("proxy:1", Some((10_000, second, 2, 0)));
    }
    tape.add("driver", Event::Counting { asked: 0, of: 0 });
}
