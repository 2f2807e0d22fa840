//! Where a session starts (I3, I4, I5).

use super::*;

fn started(start: StartLog) -> (Vec<Seen>, u64) {
    let bench = Bench::new(vec![start]);
    let position = bench.session.logs().next().unwrap().3.0;
    (bench.started, position)
}

fn with_own(cursor: u64, head: u64, own: (u64, u64)) -> StartLog {
    StartLog { own: Some((Epoch(own.0), Offset(own.1))), ..start(inbox(), cursor, head) }
}

#[test]
fn starts_at_the_stored_cursor() {
    assert_eq!(started(start(inbox(), 5, 9)), (vec![], 5));
}

#[test]
fn starts_at_the_higher_of_own_and_stored_cursor() {
    assert_eq!(started(with_own(5, 9, (7, 3))), (vec![], 5));
    assert_eq!(started(with_own(5, 9, (7, 8))), (vec![Seen::Save(1, 8, 0, vec![])], 8));
}

/// I10: attempts belong to the first entry behind the stored cursor, which the terminal handled.
#[test]
fn a_higher_own_cursor_clears_the_attempts() {
    let mut log = with_own(5, 9, (7, 6));
    log.attempts = 9;
    let mut bench = Bench::new(vec![log]);
    assert_eq!(bench.started, [Seen::Save(1, 6, 0, vec![])]);
    bench.interest(1, 9);
    bench.page(1, page_of(run(7, 9), 9, false));
    assert_eq!(bench.finish(), [Seen::Save(1, 6, 1, vec![])]);
}

/// I5.
#[test]
fn a_stored_cursor_of_another_epoch_is_a_gap_and_moves_into_the_new_one() {
    let log = StartLog { cursor_epoch: Epoch(6), ..start(topic("a"), 5, 9) };
    let mut effects = Vec::new();
    let session = Session::new(vec![log], 0, &mut effects);
    let Effect::Gap { epoch, .. } = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(*epoch, EPOCH);
    let Effect::Save { epoch, .. } = &effects[1] else { panic!("{effects:?}") };
    assert_eq!(*epoch, EPOCH);
    let seen: Vec<_> = effects.iter().map(see).collect();
    assert_eq!(seen, [Seen::Gap(1, 5, 0, GapReason::Epoch), Seen::Save(1, 0, 0, vec![])]);
    assert_eq!(session.logs().next().unwrap().3, Offset::ZERO);
}

/// I5.
#[test]
fn an_own_cursor_of_another_epoch_is_a_gap() {
    let (seen, position) = started(with_own(5, 9, (6, 8)));
    assert_eq!(seen, [Seen::Gap(1, 8, 0, GapReason::Epoch), Seen::Save(1, 0, 0, vec![])]);
    assert_eq!(position, 0);
}

/// I5: a cursor above the durable head is never believed, and never saved.
#[test]
fn a_cursor_above_the_head_is_a_gap() {
    let (seen, position) = started(start(inbox(), 10, 9));
    assert_eq!(seen, [Seen::Gap(1, 10, 0, GapReason::Ahead), Seen::Save(1, 0, 0, vec![])]);
    assert_eq!(position, 0);
    let (seen, position) = started(with_own(5, 9, (7, 10)));
    assert_eq!(seen, [Seen::Gap(1, 10, 0, GapReason::Ahead), Seen::Save(1, 0, 0, vec![])]);
    assert_eq!(position, 0);
    // A good own cursor does not make lost history whole.
    let (seen, _) = started(with_own(10, 9, (7, 3)));
    assert_eq!(seen[0], Seen::Gap(1, 10, 0, GapReason::Ahead));
}

/// A terminal that names the present epoch has been told of it.
#[test]
fn an_own_cursor_of_the_present_epoch_outlives_a_stored_one_of_the_former() {
    let log = StartLog { cursor_epoch: Epoch(6), ..with_own(500, 9, (7, 3)) };
    assert_eq!(started(log), (vec![Seen::Save(1, 3, 0, vec![])], 3));
}

/// I4.
#[test]
fn a_log_is_not_read_before_the_interest_is_confirmed() {
    let mut bench = Bench::new(vec![start(inbox(), 5, 9)]);
    assert_eq!(bench.step(Event::Tick), []);
    assert_eq!(bench.hint(1, run(6, 9)), []);
    assert_eq!(bench.step(Event::Missed { log: 1, up_to: Offset(10) }), []);
    assert_eq!(bench.interest(1, 9), [Seen::Read(1, 5, 8, 1000)]);
}

/// I4: even a hint that continues at the position waits: one before it may have been missed.
#[test]
fn nothing_is_delivered_before_the_interest_is_confirmed() {
    let mut bench = Bench::new(vec![start(inbox(), 5, 5)]);
    assert_eq!(bench.hint(1, run(6, 6)), []);
    assert_eq!(bench.interest(1, 6), [Seen::Read(1, 5, 8, 1000)]);
}

/// I4: live at once when there is nothing behind the cursor.
#[test]
fn a_log_at_its_head_is_live_without_a_read() {
    let mut bench = Bench::one(inbox(), 5, 5);
    assert_eq!(bench.hint(1, run(6, 6)), [Seen::Batch(1, vec![6])]);
}

/// I4: the owner's head counts, not that of the start.
#[test]
fn what_was_appended_before_the_interest_is_read() {
    let mut bench = Bench::new(vec![start(inbox(), 5, 5)]);
    assert_eq!(bench.interest(1, 6), [Seen::Read(1, 5, 8, 1000)]);
}

#[test]
fn a_log_joined_twice_keeps_its_alias_and_a_left_alias_is_not_used_again() {
    let mut bench = Bench::new(vec![start(inbox(), 5, 5)]);
    let mut effects = Vec::new();
    let mut join = |bench: &mut Bench, name| {
        bench.session.join(start(topic(name), 5, 5), 0, &mut effects).unwrap()
    };
    assert_eq!(join(&mut bench, "a"), 2);
    assert_eq!(join(&mut bench, "a"), 2);
    assert_eq!(bench.session.leave(&topic("a")), Some(2));
    assert_eq!(bench.session.leave(&topic("a")), None);
    assert_eq!(join(&mut bench, "a"), 3);
    assert_eq!(bench.session.log(3), Some(&topic("a")));
    assert_eq!(bench.session.log(2), None);
}
