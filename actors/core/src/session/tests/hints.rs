//! Hints: only ever a shortcut for the read (I6, I8).

use super::*;

#[test]
fn a_batch_that_continues_here_goes_out_whole() {
    let mut bench = Bench::one(inbox(), 5, 5);
    assert_eq!(bench.hint(1, run(6, 8)), [Seen::Batch(1, vec![6, 7, 8])]);
    assert_eq!(bench.hint(1, run(9, 9)), [Seen::Batch(1, vec![9])]);
    assert_eq!(bench.ack(1, 9), [Seen::Save(1, 9, 0, vec![])]);
}

#[test]
fn a_hint_that_was_passed_is_ignored() {
    let mut bench = Bench::one(inbox(), 5, 5);
    bench.hint(1, run(6, 8));
    assert_eq!(bench.hint(1, run(6, 8)), []);
    assert_eq!(bench.hint(1, run(3, 7)), []);
    assert_eq!(bench.hint(1, run(7, 9)), [Seen::Deliver(1, vec![9])]);
}

/// I8: nothing is delivered over what is missing.
#[test]
fn a_hint_behind_a_missing_entry_is_read() {
    let mut bench = Bench::one(inbox(), 5, 5);
    assert_eq!(bench.hint(1, run(7, 7)), [Seen::Read(1, 5, 8, 1000)]);
    // Now behind: the missing one alone is noted too, in whatever order hints come.
    assert_eq!(bench.hint(1, run(6, 6)), []);
    let page = page_of(run(6, 7), 7, false);
    assert_eq!(bench.page(1, page), [Seen::Deliver(1, vec![6, 7])]);
    assert_eq!(bench.hint(1, run(8, 8)), [Seen::Batch(1, vec![8])]);
}

/// I6: a predecessor below the position judges nothing: what lay there was passed.
#[test]
fn a_predecessor_below_the_position_continues() {
    let mut bench = Bench::one(inbox(), 5, 5);
    assert_eq!(bench.hint(1, vec![entry_of(9, 3, 10, NEVER)]), [Seen::Batch(1, vec![9])]);
}

#[test]
fn the_part_of_a_batch_that_fits_goes_out_and_the_rest_is_read_later() {
    let mut bench = Bench::one(inbox(), 5, 5);
    assert_eq!(bench.hint(1, run(6, 15)), [Seen::Deliver(1, (6..=13).collect())]);
    let acked = bench.ack(1, 13);
    assert_eq!(acked, [Seen::Save(1, 13, 0, vec![]), Seen::Read(1, 13, 8, 1000)]);
}

#[test]
fn missed_hints_are_read() {
    let mut bench = Bench::one(inbox(), 5, 5);
    let missed = |up_to| Event::Missed { log: 1, up_to: Offset(up_to) };
    assert_eq!(bench.step(missed(5)), []);
    assert_eq!(bench.step(missed(6)), [Seen::Read(1, 5, 8, 1000)]);
}

/// I9: the cursor goes along with what is passed silently. I13: and says how it was settled.
#[test]
fn expired_recalled_and_control_entries_are_passed_silently() {
    let mut bench = Bench::one(inbox(), 5, 5);
    bench.now_ms = 1000;
    let expired = entry_of(6, 5, 10, 1000);
    let entries = vec![expired, tombstone(7), control(8, "a"), entry_of(9, 8, 10, 1001)];
    let settled = vec![(6, Milestone::Expired), (7, Milestone::Recalled)];
    let seen = bench.hint(1, entries);
    assert_eq!(
        seen,
        [Seen::Control("+a".into()), Seen::Deliver(1, vec![9]), Seen::Save(1, 8, 1, settled)]
    );
}

/// I9: what is passed behind an unacknowledged entry waits for it.
#[test]
fn the_cursor_stays_before_the_first_unacknowledged_entry() {
    let mut bench = Bench::one(inbox(), 5, 5);
    bench.hint(1, run(6, 6));
    assert_eq!(bench.hint(1, vec![tombstone(7), control(8, "a")]), [Seen::Control("+a".into())]);
    bench.hint(1, run(9, 9));
    let settled = vec![(7, Milestone::Recalled)];
    assert_eq!(bench.ack(1, 6), [Seen::Save(1, 8, 1, settled)]);
}

/// The cursor moves over what was removed before the first delivery, so that the attempts are
/// known to be that entry's (I10).
#[test]
fn the_cursor_is_just_before_the_first_delivery() {
    let mut bench = Bench::one(inbox(), 5, 9);
    let page = page_of(vec![entry_of(9, 8, 10, NEVER)], 9, false);
    assert_eq!(bench.page(1, page), [Seen::Deliver(1, vec![9]), Seen::Save(1, 8, 1, vec![])]);
}

/// I5: a hint of another lineage proves nothing; a read does.
#[test]
fn a_hint_of_another_epoch_is_not_delivered_but_read() {
    let mut bench = Bench::one(inbox(), 5, 5);
    assert_eq!(bench.hint_in(Epoch(8), 1, run(6, 6)), [Seen::Read(1, 5, 8, 1000)]);
    let page = Page { epoch: Epoch(8), ..page_of(run(6, 6), 6, false) };
    let seen = bench.page(1, page);
    assert_eq!(
        seen,
        [
            Seen::Gap(1, 5, 0, GapReason::Epoch),
            Seen::Save(1, 0, 0, vec![]),
            Seen::Read(1, 0, 8, 1000)
        ]
    );
    assert_eq!(bench.session.logs().next().unwrap().2, Epoch(8));
}

/// ttl 0: outside of window and acknowledgement.
#[test]
fn ephemeral_entries_go_at_once_or_never() {
    let mut bench = Bench::one(topic("a"), 5, 5);
    let ephemeral = |bytes: &[usize]| {
        let entries = bytes.iter().map(|bytes| entry_of(0, 0, *bytes, 0)).collect();
        Event::Ephemeral { log: 1, batch: Arc::new(Batch::new(topic("a"), EPOCH, entries)) }
    };
    assert_eq!(bench.step(ephemeral(&[300, 400])), [Seen::Batch(1, vec![0, 0])]);
    assert_eq!(bench.step(ephemeral(&[300, 500, 100])), [Seen::Deliver(1, vec![0, 0])]);
    assert_eq!(bench.step(ephemeral(&[751])), []);
    assert_eq!(bench.deadline(), None);
    assert!(bench.session.logs[0].motion.is_none());
}
