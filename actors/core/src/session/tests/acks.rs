//! Acknowledgements, skips and their absence (I5, I9, I10, I13).

use super::*;

const TIMEOUT: u64 = 30_000;

#[test]
fn acknowledgements_are_cumulative_and_old_ones_ignored() {
    let mut bench = Bench::one(inbox(), 0, 0);
    bench.hint(1, run(1, 6));
    assert_eq!(bench.ack(1, 4), [Seen::Save(1, 4, 1, vec![])]);
    assert_eq!(bench.ack(1, 4), []);
    assert_eq!(bench.ack(1, 2), []);
    assert_eq!(bench.ack(1, 6), [Seen::Save(1, 6, 0, vec![])]);
}

/// I5: an acknowledgement above what this session was sent is a protocol error.
#[test]
fn an_acknowledgement_above_what_was_sent_closes() {
    let mut bench = Bench::one(inbox(), 0, 0);
    assert_eq!(bench.ack(1, 1), [Seen::Close(Code::AckAhead)]);
    let mut bench = Bench::one(inbox(), 0, 0);
    bench.hint(1, run(1, 2));
    assert_eq!(bench.ack(1, 3), [Seen::Close(Code::AckAhead)]);
    let mut bench = Bench::one(inbox(), 0, 0);
    bench.hint(1, run(1, 2));
    bench.hint(1, vec![tombstone(3)]);
    assert_eq!(bench.ack(1, 3), [Seen::Close(Code::AckAhead)], "passed, not sent");
}

#[test]
fn acknowledgements_of_a_log_that_was_left_are_ignored_and_of_unknown_ones_refused() {
    let mut bench = Bench::new(vec![start(inbox(), 0, 0), start(topic("a"), 0, 0)]);
    bench.session.leave(&topic("a"));
    assert_eq!(bench.ack(2, 9), []);
    assert_eq!(bench.skip(2, 9), []);
    assert_eq!(bench.ack(3, 9), [Seen::Close(Code::AckAhead)]);
    let mut bench = Bench::new(vec![start(inbox(), 0, 0)]);
    assert_eq!(bench.ack(0, 9), [Seen::Close(Code::AckAhead)]);
    let mut bench = Bench::new(vec![start(inbox(), 0, 0)]);
    assert_eq!(bench.skip(2, 9), [Seen::Close(Code::FrameUnexpected)]);
}

/// I10, I13.
#[test]
fn a_skipped_entry_is_passed_as_undeliverable() {
    let mut bench = Bench::one(inbox(), 0, 0);
    bench.hint(1, run(1, 3));
    let settled = vec![(1, Milestone::Undeliverable)];
    assert_eq!(bench.skip(1, 1), [Seen::Save(1, 1, 1, settled)]);
    assert_eq!(bench.skip(1, 1), [], "the frame came twice");
    assert_eq!(bench.skip(1, 3), [Seen::Close(Code::FrameUnexpected)], "not the first");
}

/// I10.
#[test]
fn the_first_and_second_time_out_send_again_and_the_third_closes() {
    let mut bench = Bench::one(inbox(), 0, 0);
    bench.hint(1, run(1, 2));
    assert_eq!(bench.deadline(), Some(bench.now_ms + TIMEOUT));
    assert_eq!(bench.tick_after(TIMEOUT - 1), []);
    assert_eq!(bench.tick_after(1), [Seen::Read(1, 0, 8, 65_536)]);
    assert_eq!(bench.deadline(), None, "nothing is owed before it is sent again");
    let again = [Seen::Again(1, vec![1, 2])];
    assert_eq!(bench.page(1, page_of(run(1, 2), 2, false)), again);
    assert_eq!(bench.tick_after(TIMEOUT), [Seen::Read(1, 0, 8, 65_536)]);
    assert_eq!(bench.page(1, page_of(run(1, 2), 2, false)), again);
    assert_eq!(bench.tick_after(TIMEOUT), [Seen::Close(Code::AckTimeout)]);
    assert_eq!(bench.finish(), [Seen::Save(1, 0, 3, vec![])]);
}

/// I10.
#[test]
fn progress_starts_the_time_out_anew() {
    let mut bench = Bench::one(inbox(), 0, 0);
    bench.hint(1, run(1, 4));
    for acked in 1..=3 {
        assert_eq!(bench.tick_after(TIMEOUT - 1), []);
        bench.ack(1, acked);
    }
    for _ in 0..2 {
        bench.tick_after(TIMEOUT);
        bench.page(1, page_of(run(4, 4), 4, false));
    }
    assert_eq!(bench.ack(1, 4), [Seen::Save(1, 4, 0, vec![])]);
    assert_eq!(bench.hint(1, run(5, 5)), [Seen::Batch(1, vec![5])]);
    assert_eq!(bench.tick_after(TIMEOUT).len(), 1, "the count began anew");
    bench.page(1, page_of(run(5, 5), 5, false));
    assert_eq!(bench.tick_after(TIMEOUT).len(), 1);
    bench.page(1, page_of(run(5, 5), 5, false));
    assert_eq!(bench.tick_after(TIMEOUT), [Seen::Close(Code::AckTimeout)]);
}

/// I10.
#[test]
fn progress_short_of_the_whole_window_resets_the_count_too() {
    let mut bench = Bench::one(inbox(), 0, 0);
    bench.hint(1, run(1, 2));
    for _ in 0..2 {
        bench.tick_after(TIMEOUT);
        bench.page(1, page_of(run(1, 2), 2, false));
    }
    assert_eq!(bench.ack(1, 1), [Seen::Save(1, 1, 3, vec![])]);
    assert_eq!(bench.tick_after(TIMEOUT), [Seen::Read(1, 1, 1, 65_536)]);
}

/// What is on its way holds its room while it is sent again; new entries go behind it.
#[test]
fn entries_that_come_while_others_are_sent_again_follow_them() {
    let mut bench = Bench::one(inbox(), 0, 0);
    bench.hint(1, run(1, 2));
    bench.tick_after(TIMEOUT);
    assert_eq!(bench.hint(1, run(3, 3)), [], "behind again");
    let seen = bench.page(1, page_of(run(1, 3), 3, false));
    assert_eq!(seen, [Seen::Again(1, vec![1, 2, 3])]);
    assert_eq!(bench.hint(1, run(4, 4)), [Seen::Batch(1, vec![4])]);
    assert_eq!(bench.ack(1, 4), [Seen::Save(1, 4, 0, vec![])]);
    assert_eq!(bench.deadline(), None);
}

#[test]
fn an_acknowledgement_that_crosses_the_resend_stops_it() {
    let mut bench = Bench::one(inbox(), 0, 0);
    bench.hint(1, run(1, 3));
    bench.tick_after(TIMEOUT);
    assert_eq!(bench.ack(1, 2), [Seen::Save(1, 2, 1, vec![])]);
    let seen = bench.page(1, page_of(run(1, 3), 3, false));
    assert_eq!(seen, [Seen::Again(1, vec![3])]);
}

/// I6, I11: a resend reads the store, so what expired or was recalled meanwhile is not sent.
#[test]
fn what_expired_or_was_recalled_is_not_sent_again() {
    let mut bench = Bench::one(inbox(), 0, 0);
    let soon = entry_of(1, 0, 10, 20_000);
    bench.hint(1, vec![Arc::clone(&soon)]);
    bench.hint(1, run(2, 4));
    bench.tick_after(TIMEOUT);
    let mut entries = vec![soon];
    entries.push(tombstone(2));
    entries.extend(run(3, 4));
    let seen = bench.page(1, page_of(entries, 4, false));
    let settled = vec![(1, Milestone::Expired), (2, Milestone::Recalled)];
    assert_eq!(seen, [Seen::Again(1, vec![3, 4]), Seen::Save(1, 2, 2, settled)]);
}

#[test]
fn what_is_gone_from_the_log_is_not_waited_for() {
    let mut bench = Bench::one(inbox(), 0, 0);
    bench.hint(1, vec![entry_of(1, 0, 10, 20_000), entry_of(2, 1, 10, 20_000)]);
    bench.tick_after(TIMEOUT);
    let seen = bench.page(1, page_of(vec![], 2, false));
    let settled = vec![(1, Milestone::Expired), (2, Milestone::Expired)];
    assert_eq!(seen, [Seen::Save(1, 2, 0, settled)]);
    assert!(bench.session.logs[0].motion.is_none());
    let missed = Event::Missed { log: 1, up_to: Offset(3) };
    assert_eq!(bench.step(missed), [Seen::Read(1, 2, 8, 1000)], "all bytes are free again");
}

/// I6.
#[test]
fn what_was_evicted_under_a_resend_is_told() {
    let mut bench = Bench::one(topic("a"), 0, 0);
    bench.hint(1, run(1, 4));
    bench.tick_after(TIMEOUT);
    let page = Page { evicted_to: Offset(3), ..page_of(run(4, 4), 4, false) };
    let seen = bench.page(1, page);
    assert_eq!(
        seen,
        [
            Seen::Gap(1, 0, 3, GapReason::Evicted),
            Seen::Again(1, vec![4]),
            Seen::Save(1, 3, 2, vec![(3, Milestone::Evicted)])
        ]
    );
    assert_eq!(bench.ack(1, 2), [], "old");
}

/// I6: the terminal goes on behind the gap, so it owes nothing before it, and what it skips first
/// is the first delivery after it.
#[test]
fn a_gap_takes_unacknowledged_deliveries_before_it_along() {
    let mut bench = Bench::one(topic("a"), 0, 1);
    bench.page(1, page_of(run(1, 1), 1, false));
    bench.step(Event::Missed { log: 1, up_to: Offset(3) });
    let page = Page { evicted_to: Offset(2), ..page_of(run(3, 3), 3, false) };
    assert_eq!(
        bench.page(1, page),
        [
            Seen::Gap(1, 0, 2, GapReason::Evicted),
            Seen::Deliver(1, vec![3]),
            Seen::Save(1, 2, 1, vec![(2, Milestone::Evicted)])
        ]
    );
    assert_eq!(bench.ack(1, 1), [], "the frames crossed");
    assert_eq!(bench.skip(1, 3), [Seen::Save(1, 3, 0, vec![(3, Milestone::Undeliverable)])]);
    assert!(bench.session.logs[0].motion.is_none(), "nothing is owed");
}

/// A read answered late or twice must not make the session believe that entries are gone.
#[test]
fn a_late_page_is_not_taken_for_the_one_of_the_resend() {
    let mut bench = Bench::one(inbox(), 0, 0);
    bench.hint(1, run(1, 2));
    // A read is in flight when the time-out comes: its answer is void.
    assert_eq!(bench.step(Event::Missed { log: 1, up_to: Offset(3) }), [Seen::Read(1, 2, 6, 980)]);
    assert_eq!(bench.tick_after(TIMEOUT), []);
    let late = || page_of(run(3, 3), 3, false);
    assert_eq!(bench.page(1, late()), [Seen::Read(1, 0, 8, 65_536)]);
    // And it is answered twice.
    assert_eq!(bench.page(1, late()), []);
    assert_eq!(bench.tick_after(700), [Seen::Read(1, 0, 8, 65_536)]);
    let seen = bench.page(1, page_of(run(1, 3), 3, false));
    assert_eq!(seen, [Seen::Again(1, vec![1, 2, 3])]);
}

#[test]
fn attempts_are_saved_at_the_end_only_when_they_changed() {
    let mut bench = Bench::one(inbox(), 0, 0);
    assert_eq!(bench.finish(), []);
    let mut bench = Bench::one(inbox(), 0, 0);
    bench.hint(1, run(1, 2));
    bench.ack(1, 1);
    assert_eq!(bench.finish(), [], "saved with the acknowledgement");
    let mut bench = Bench::one(inbox(), 0, 0);
    bench.hint(1, run(1, 2));
    assert_eq!(bench.finish(), [Seen::Save(1, 0, 1, vec![])]);
}

/// A session that crashed is rebuilt on its link: frames of the terminal that cross are no errors.
#[test]
fn a_rebuilt_session_keeps_aliases_and_bears_with_acknowledgements_of_the_former() {
    let logs = || vec![start(inbox(), 0, 3), start(topic("a"), 0, 0), start(topic("b"), 0, 3)];
    let mut former = Bench::new(logs());
    former.session.leave(&topic("a"));
    let mut effects = Vec::new();
    let starts = logs().into_iter().rev().collect();
    let session = Session::rebuild(&former.session, starts, &mut effects);
    let aliases: Vec<_> = session.logs().map(|log| (log.0, log.1.clone())).collect();
    assert_eq!(aliases, [(1, inbox()), (3, topic("b")), (4, topic("a"))]);
    let mut bench = Bench::new(vec![]);
    bench.session = session;
    assert_eq!(bench.ack(1, 3), []);
    assert_eq!(bench.skip(3, 1), []);
    assert_eq!(bench.ack(2, 1), [], "left in the former");
    bench.interest(1, 3);
    let page = page_of(run(1, 3), 3, false);
    assert_eq!(bench.page(1, page), [Seen::Deliver(1, vec![1, 2, 3])]);
    assert_eq!(bench.ack(1, 3), [Seen::Save(1, 3, 0, vec![])]);
    assert_eq!(bench.ack(9, 1), [Seen::Close(Code::AckAhead)], "never given");
}
