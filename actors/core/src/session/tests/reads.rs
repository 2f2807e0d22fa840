//! Reads: authoritative, one at a time, patient (I5, I6).

use super::*;

#[test]
fn one_read_is_in_flight_at_a_time_and_pages_continue() {
    let mut bench = Bench::one(inbox(), 0, 0);
    assert_eq!(bench.interest(1, 20), [Seen::Read(1, 0, 8, 1000)]);
    assert_eq!(bench.interest(1, 21), []);
    assert_eq!(bench.step(Event::Tick), []);
    let seen = bench.page(1, page_of(run(1, 3), 21, true));
    assert_eq!(seen, [Seen::Deliver(1, vec![1, 2, 3]), Seen::Read(1, 3, 5, 970)]);
}

/// A read for one or two entries costs as much as one for a window.
#[test]
fn the_next_read_waits_for_a_quarter_of_the_window() {
    let mut bench = Bench::one(inbox(), 0, 20);
    bench.page(1, page_of(run(1, 8), 20, true));
    assert_eq!(bench.ack(1, 1), [Seen::Save(1, 1, 1, vec![])]);
    assert_eq!(bench.ack(1, 2), [Seen::Save(1, 2, 1, vec![]), Seen::Read(1, 8, 2, 940)]);
}

#[test]
fn a_log_is_live_only_when_it_reached_all_that_was_noted() {
    let mut bench = Bench::one(inbox(), 5, 7);
    assert_eq!(bench.hint(1, run(8, 8)), []);
    let seen = bench.page(1, page_of(run(6, 7), 7, false));
    // The page is older than the hint: asked again at once.
    assert_eq!(seen, [Seen::Deliver(1, vec![6, 7]), Seen::Read(1, 7, 6, 980)]);
    assert_eq!(bench.hint(1, run(9, 9)), []);
    assert_eq!(bench.page(1, page_of(run(8, 9), 9, false)), [Seen::Deliver(1, vec![8, 9])]);
    assert_eq!(bench.hint(1, run(10, 10)), [Seen::Batch(1, vec![10])]);
}

/// The tail of a log may be gone (expired and removed): the head says so.
#[test]
fn the_position_follows_the_head_when_nothing_is_left_before_it() {
    let mut bench = Bench::one(inbox(), 5, 9);
    assert_eq!(bench.page(1, page_of(vec![], 9, false)), [Seen::Save(1, 9, 0, vec![])]);
    assert_eq!(bench.hint(1, run(10, 10)), [Seen::Batch(1, vec![10])]);
}

/// I5, I6: also for a terminal whose position is before every entry: it joined an empty topic.
#[test]
fn what_was_evicted_unread_is_told() {
    for cursor in [0, 5] {
        let mut bench = Bench::one(topic("a"), cursor, 20);
        let page = Page { evicted_to: Offset(17), ..page_of(run(18, 20), 20, false) };
        let seen = bench.page(1, page);
        assert_eq!(
            seen,
            [
                Seen::Gap(1, cursor, 17, GapReason::Evicted),
                Seen::Deliver(1, vec![18, 19, 20]),
                Seen::Save(1, 17, 1, vec![(17, Milestone::Evicted)])
            ]
        );
    }
}

/// I6: what was evicted behind the position is no business of this terminal.
#[test]
fn what_was_evicted_after_it_was_read_is_not_told() {
    let mut bench = Bench::one(topic("a"), 5, 7);
    let page = Page { evicted_to: Offset(5), ..page_of(run(6, 7), 7, false) };
    assert_eq!(bench.page(1, page), [Seen::Deliver(1, vec![6, 7])]);
}

/// I5: acknowledgements on their way speak of the former lineage and would be taken for the new.
#[test]
fn another_epoch_under_deliveries_starts_the_session_anew() {
    let mut bench = Bench::one(inbox(), 5, 6);
    bench.page(1, page_of(run(6, 6), 6, false));
    bench.step(Event::Missed { log: 1, up_to: Offset(7) });
    let page = Page { epoch: Epoch(8), ..page_of(run(1, 2), 2, false) };
    assert_eq!(bench.page(1, page), [Seen::Close(Code::StoreAway)]);
    assert!(Code::StoreAway.reconnect());
    assert_eq!(bench.ack(1, 6), [], "a closed session is silent");
    assert_eq!(bench.deadline(), None);
}

#[test]
fn a_page_that_nobody_asked_for_is_ignored() {
    let mut bench = Bench::one(inbox(), 5, 5);
    assert_eq!(bench.page(1, page_of(run(6, 7), 7, false)), []);
    bench.step(Event::Missed { log: 1, up_to: Offset(8) });
    let seen = bench.page(1, page_of(run(6, 8), 8, false));
    assert_eq!(seen, [Seen::Deliver(1, vec![6, 7, 8])]);
    assert_eq!(bench.page(1, page_of(run(6, 9), 9, false)), [], "answered twice");
}

#[test]
fn a_failed_read_is_tried_again_after_a_growing_pause_and_soon_once_the_store_is_back() {
    let mut bench = Bench::one(inbox(), 5, 6);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert_eq!(bench.step(Event::ReadFailed { log: 1 }), []);
        let pause = bench.deadline().unwrap() - bench.now_ms;
        assert_eq!(bench.tick_after(pause - 1), []);
        assert_eq!(bench.tick_after(1), [Seen::Read(1, 5, 8, 1000)]);
        pauses.push(pause);
    }
    for (pause, base) in pauses.iter().zip([500, 1000, 1000, 1000, 1000, 1000, 1000, 1000]) {
        assert!((base..base + base / 4).contains(pause), "{pauses:?}");
    }
    bench.page(1, page_of(run(6, 6), 6, false));
    bench.step(Event::Missed { log: 1, up_to: Offset(7) });
    bench.step(Event::ReadFailed { log: 1 });
    assert!(bench.deadline().unwrap() - bench.now_ms < 1000, "success resets the pause");
}

/// A reader that shows less than the owner told (a lagging tail ring) must not be asked in a loop.
#[test]
fn a_page_without_what_is_known_to_be_there_is_asked_again_after_a_pause() {
    let mut bench = Bench::one(inbox(), 5, 9);
    assert_eq!(bench.page(1, page_of(run(6, 7), 7, false)), [Seen::Deliver(1, vec![6, 7])]);
    assert!(bench.deadline().unwrap() >= bench.now_ms + 500);
    let seen = bench.tick_after(700);
    assert_eq!(seen, [Seen::Read(1, 7, 6, 980)]);
    // Nor one that says there is more, and shows nothing.
    assert_eq!(bench.page(1, page_of(vec![], 9, true)), []);
    assert!(bench.deadline().unwrap() >= bench.now_ms + 500);
}

#[test]
fn control_entries_are_carried_out_in_order_and_once() {
    let mut bench = Bench::one(inbox(), 0, 4);
    let entries = || {
        let mut entries = run(1, 1);
        entries.extend([control(2, "a")]);
        entries.extend(run(3, 3));
        entries.extend([control(4, "b")]);
        entries
    };
    let seen = bench.page(1, page_of(entries(), 4, false));
    assert_eq!(
        seen,
        [
            Seen::Deliver(1, vec![1]),
            Seen::Control("+a".into()),
            Seen::Deliver(1, vec![3]),
            Seen::Control("+b".into())
        ]
    );
    assert_eq!(bench.tick_after(30_000), [Seen::Read(1, 0, 8, 65_536)]);
    let seen = bench.page(1, page_of(entries(), 4, false));
    assert_eq!(seen, [Seen::Again(1, vec![1, 3])]);
    assert_eq!(bench.ack(1, 3), [Seen::Save(1, 4, 0, vec![])]);
}

/// Memory is bounded whatever is passed behind an unacknowledged entry.
#[test]
fn what_is_passed_silently_counts_in_the_window_until_the_cursor_passes_it() {
    let mut bench = Bench::one(inbox(), 0, 0);
    bench.hint(1, run(1, 1));
    bench.step(Event::Missed { log: 1, up_to: Offset(20) });
    let recalled = |from, to| -> Vec<_> { (from..=to).map(tombstone).collect() };
    assert_eq!(bench.page(1, page_of(recalled(2, 20), 20, false)), []);
    assert_eq!(bench.session.logs[0].on_way(), 8);
    let settled = (2..=8).map(|offset| (offset, Milestone::Recalled)).collect();
    assert_eq!(bench.ack(1, 1), [Seen::Save(1, 8, 0, settled), Seen::Read(1, 8, 8, 1000)]);
}
