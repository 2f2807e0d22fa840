//! An entry that makes the terminal fail ends as undeliverable, and it alone (I10).

use super::*;

/// A terminal that handles deliveries one by one and dies of the poison, across sessions that each
/// start from what the last one saved.
struct Rig {
    entries: Vec<Arc<Entry>>,
    poison: u64,
    cursor: u64,
    attempts: u8,
    handled: Vec<u64>,
    undeliverable: Vec<u64>,
}

impl Rig {
    fn note(&mut self, seen: &[Seen]) {
        for seen in seen {
            if let Seen::Save(_, cursor, attempts, settled) = seen {
                (self.cursor, self.attempts) = (*cursor, *attempts);
                for (offset, how) in settled {
                    assert_eq!(*how, Milestone::Undeliverable);
                    self.undeliverable.push(*offset);
                }
            }
        }
    }

    /// One life of the terminal. Acknowledges after each delivered frame, not each entry.
    fn live(&mut self) {
        let head = self.entries.last().unwrap().offset.0;
        let mut log = start(inbox(), self.cursor, head);
        log.attempts = self.attempts;
        let mut bench = Bench::new(vec![log]);
        let mut todo = bench.interest(1, head);
        while !todo.is_empty() {
            let mut next = Vec::new();
            self.note(&todo);
            for seen in todo {
                match seen {
                    Seen::Read(_, after, max, _) => {
                        let mut found: Vec<_> =
                            self.entries.iter().filter(|e| e.offset.0 > after).cloned().collect();
                        let more = found.len() > max as usize;
                        found.truncate(max as usize);
                        next.extend(bench.page(1, page_of(found, head, more)));
                    }
                    Seen::Deliver(_, offsets) => {
                        if offsets.contains(&self.poison) {
                            let last = bench.finish();
                            self.note(&next);
                            self.note(&last);
                            return;
                        }
                        self.handled.extend(&offsets);
                        next.extend(bench.ack(1, *offsets.last().unwrap()));
                    }
                    Seen::Save(..) => {}
                    Seen::Batch(..)
                    | Seen::Again(..)
                    | Seen::Gap(..)
                    | Seen::Control(_)
                    | Seen::Close(_) => panic!("{seen:?}"),
                }
            }
            todo = next;
        }
        self.note(&bench.finish());
    }
}

#[test]
fn a_poison_entry_in_the_middle_of_a_window_is_undeliverable_alone() {
    for poison in [1, 4, 8, 13, 30] {
        let mut rig = Rig {
            entries: run(1, 30),
            poison,
            cursor: 0,
            attempts: 0,
            handled: vec![],
            undeliverable: vec![],
        };
        let mut lives = 0;
        while rig.cursor < 30 {
            rig.live();
            lives += 1;
            assert!(lives < 40, "it ends");
        }
        assert_eq!(rig.undeliverable, [poison]);
        let expected: Vec<_> = (1..=30).filter(|offset| *offset != poison).collect();
        assert_eq!(rig.handled, expected, "every other entry, each once, in order");
    }
}

/// I10: the attempts of other sessions count.
#[test]
fn attempts_count_across_sessions_and_end_the_delivery() {
    let mut log = start(inbox(), 0, 1);
    log.attempts = 9;
    let mut bench = Bench::new(vec![log]);
    bench.interest(1, 1);
    assert_eq!(bench.page(1, page_of(run(1, 1), 1, false)), [Seen::Deliver(1, vec![1])]);
    let settled = vec![(1, Milestone::Undeliverable)];
    assert_eq!(bench.tick_after(30_000), [Seen::Save(1, 1, 0, settled)]);
    assert_eq!(bench.deadline(), None);
}

/// Giving an entry up is no progress of the terminal.
#[test]
fn a_silent_terminal_is_closed_though_an_entry_was_given_up() {
    let limits = SessionLimits { attempts_max: 2, ..limits() };
    let mut bench = Bench::with(vec![start(inbox(), 0, 0)], limits);
    bench.interest(1, 0);
    bench.hint(1, run(1, 2));
    bench.tick_after(30_000);
    assert_eq!(bench.page(1, page_of(run(1, 2), 2, false)), [Seen::Again(1, vec![1])]);
    let settled = vec![(1, Milestone::Undeliverable)];
    assert_eq!(bench.tick_after(30_000)[0], Seen::Save(1, 1, 1, settled));
    assert_eq!(bench.page(1, page_of(run(2, 2), 2, false)), [Seen::Again(1, vec![2])]);
    assert_eq!(bench.tick_after(30_000), [Seen::Close(Code::AckTimeout)]);
}

/// Also when the session ends otherwise.
#[test]
fn the_last_attempt_ends_with_the_session() {
    let mut log = start(inbox(), 0, 2);
    log.attempts = 9;
    let mut bench = Bench::new(vec![log]);
    bench.interest(1, 2);
    bench.page(1, page_of(run(1, 2), 2, false));
    assert_eq!(bench.finish(), [Seen::Save(1, 1, 0, vec![(1, Milestone::Undeliverable)])]);
}

/// No entry is passed unsent on another's attempts, whatever the store says.
#[test]
fn an_entry_is_sent_at_least_once_before_it_is_undeliverable() {
    let mut log = start(inbox(), 0, 1);
    log.attempts = 200;
    let mut bench = Bench::new(vec![log]);
    bench.interest(1, 1);
    assert_eq!(bench.page(1, page_of(run(1, 1), 1, false)), [Seen::Deliver(1, vec![1])]);
}

/// The suspect expired while the terminal was away: the next one is not blamed.
#[test]
fn attempts_of_an_entry_that_is_gone_are_forgotten() {
    for page in [
        page_of(vec![entry_of(1, 0, 10, 10), entry_of(2, 1, 10, NEVER)], 2, false),
        page_of(vec![entry_of(2, 1, 10, NEVER)], 2, false),
    ] {
        let mut log = start(inbox(), 0, 2);
        log.attempts = 9;
        let mut bench = Bench::new(vec![log]);
        bench.interest(1, 2);
        let seen = bench.page(1, page);
        assert_eq!(seen[0], Seen::Deliver(1, vec![2]));
        let Seen::Save(1, 1, 1, _) = &seen[1] else { panic!("{seen:?}") };
    }
}

/// From three attempts on the first entry goes alone, and so do those after it for a window.
#[test]
fn a_suspect_is_sent_alone_and_so_are_the_next_ones() {
    let mut log = start(inbox(), 0, 20);
    log.attempts = 3;
    let mut bench = Bench::new(vec![log]);
    assert_eq!(bench.interest(1, 20), [Seen::Read(1, 0, 1, 1000)]);
    for offset in 1..=8 {
        let page = page_of(run(offset, offset), 20, true);
        assert_eq!(bench.page(1, page), [Seen::Deliver(1, vec![offset])]);
        let entries = if offset == 8 { 8 } else { 1 };
        let seen = bench.ack(1, offset);
        assert_eq!(seen, [Seen::Save(1, offset, 0, vec![]), Seen::Read(1, offset, entries, 1000)]);
    }
}

/// A resend isolates the suspect too; what went with it before waits.
#[test]
fn a_resend_of_a_suspect_is_alone() {
    let mut log = start(inbox(), 0, 3);
    log.attempts = 2;
    let mut bench = Bench::new(vec![log]);
    bench.interest(1, 3);
    bench.page(1, page_of(run(1, 3), 3, false));
    assert_eq!(bench.tick_after(30_000), [Seen::Read(1, 0, 1, 65_536)]);
    let seen = bench.page(1, page_of(run(1, 3), 3, false));
    assert_eq!(seen, [Seen::Again(1, vec![1])], "whatever the page holds");
    let settled = vec![];
    assert_eq!(bench.ack(1, 1), [Seen::Save(1, 1, 1, settled), Seen::Read(1, 1, 1, 65_536)]);
    assert_eq!(bench.page(1, page_of(run(2, 2), 3, true)), [Seen::Again(1, vec![2])]);
    // A cumulative acknowledgement of the first pass covers what was not sent again yet.
    assert_eq!(bench.ack(1, 3), [Seen::Save(1, 3, 0, vec![])]);
    assert_eq!(bench.deadline(), None);
}
