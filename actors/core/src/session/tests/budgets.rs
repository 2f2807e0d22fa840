//! Windows and bytes: what is stuck stays alone (I9).

use super::*;

fn big(from: u64, to: u64, bytes: usize) -> Vec<Arc<Entry>> {
    (from..=to).map(|offset| entry_of(offset, offset - 1, bytes, NEVER)).collect()
}

fn two() -> Bench {
    let mut bench = Bench::new(vec![start(topic("a"), 0, 0), start(inbox(), 0, 0)]);
    bench.interest(1, 0);
    bench.interest(2, 0);
    bench
}

/// I9.
#[test]
fn a_window_never_exceeds_its_entries() {
    let mut bench = Bench::one(inbox(), 0, 0);
    assert_eq!(bench.hint(1, run(1, 8)), [Seen::Batch(1, (1..=8).collect())]);
    assert_eq!(bench.hint(1, run(9, 9)), []);
}

/// I9: the reserve is for inboxes.
#[test]
fn topics_leave_the_unicast_reserve_free() {
    let mut bench = two();
    assert_eq!(bench.hint(1, big(1, 4, 250)), [Seen::Deliver(1, vec![1, 2, 3])]);
    assert_eq!(bench.hint(2, big(1, 1, 250)), [Seen::Batch(2, vec![1])]);
    assert_eq!(bench.hint(2, big(2, 2, 1)), [], "the session's bytes are all on the way");
}

/// I9: a stuck topic never blocks private messages, not even with an entry larger than its bound.
#[test]
fn unicast_goes_on_while_a_topic_is_stuck() {
    for stuck in [vec![900], vec![700], vec![250, 250, 250]] {
        let mut bench = two();
        let mut at = 0;
        for bytes in stuck {
            at += 1;
            let seen = bench.hint(1, big(at, at, bytes));
            assert_eq!(seen.len(), 1, "{seen:?}");
        }
        bench.hint(1, big(at + 1, 100, 250));
        for offset in 1..=100 {
            let seen = bench.hint(2, big(offset, offset, 250));
            assert_eq!(seen, [Seen::Batch(2, vec![offset])]);
            assert_eq!(bench.ack(2, offset), [Seen::Save(2, offset, 0, vec![])]);
        }
    }
}

#[test]
fn an_entry_larger_than_the_bound_goes_when_nothing_else_of_its_class_is_on_the_way() {
    let mut bench = two();
    bench.hint(1, big(1, 1, 10));
    assert_eq!(bench.hint(1, big(2, 2, 5000)), []);
    assert_eq!(bench.ack(1, 1), [Seen::Save(1, 1, 0, vec![]), Seen::Read(1, 1, 8, 750)]);
    let page = page_of(big(2, 3, 5000), 3, false);
    assert_eq!(bench.page(1, page), [Seen::Deliver(1, vec![2])]);
    assert_eq!(bench.ack(1, 2), [Seen::Save(1, 2, 0, vec![]), Seen::Read(1, 2, 8, 750)]);
}

/// I9: inboxes first, then topics in turn, then the broadcast.
#[test]
fn room_goes_to_unicast_before_topics_before_broadcast() {
    let logs = [broadcast(), topic("a"), topic("b"), user_inbox(), inbox()];
    let mut limits = limits();
    limits.page_bytes = 200;
    let logs = logs.into_iter().map(|log| start(log, 0, 0)).collect();
    let mut bench = Bench::with(logs, limits);
    for alias in 1..=5 {
        bench.interest(alias, 0);
    }
    // All bytes are on the way in the inbox, and one entry in the broadcast; all logs fall behind.
    bench.hint(5, big(1, 1, 1000));
    bench.hint(1, big(1, 1, 1));
    for log in 1..=5 {
        assert_eq!(bench.step(Event::Missed { log, up_to: Offset(9) }), []);
    }
    let seen = bench.ack(5, 1);
    let read = |seen: &Seen| if let Seen::Read(log, ..) = seen { Some(*log) } else { None };
    let reads: Vec<_> = seen.iter().filter_map(read).collect();
    assert_eq!(reads, [5, 4, 2, 3, 1], "inboxes, topics, broadcast");
}

#[test]
fn topics_are_read_in_turn() {
    let logs = [topic("a"), topic("b"), topic("c")].map(|log| start(log, 0, 0));
    let mut bench = Bench::new(logs.into());
    let mut order = Vec::new();
    // Each page takes all bytes, so one topic is read at a time.
    let mut seen: Vec<_> = (1..=3).flat_map(|alias| bench.interest(alias, 100)).collect();
    for offset in 1..=6 {
        let log = match &seen[..] {
            [.., Seen::Read(log, ..)] => *log,
            other => panic!("{other:?}"),
        };
        order.push(log);
        let at = u64::div_ceil(offset, 3);
        assert_eq!(
            bench.page(log, page_of(big(at, at, 750), 100, true))[0],
            Seen::Deliver(log, vec![at])
        );
        seen = bench.ack(log, at);
    }
    assert_eq!(order, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn leaving_a_log_gives_its_room_back_at_the_next_tick() {
    let mut bench = Bench::new(vec![start(topic("a"), 0, 0), start(topic("b"), 0, 0)]);
    bench.interest(1, 0);
    bench.interest(2, 0);
    bench.hint(1, big(1, 1, 750));
    assert_eq!(bench.hint(2, big(1, 1, 700)), []);
    bench.session.leave(&topic("a"));
    assert_eq!(bench.deadline(), Some(0));
    assert_eq!(bench.step(Event::Tick), [Seen::Read(2, 0, 8, 750)]);
    assert_eq!(bench.deadline(), None);
}
