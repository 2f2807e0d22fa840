use super::*;

const B: BootId = BootId(1);
const B_AGAIN: BootId = BootId(2);

fn name(id: &str) -> Arc<str> {
    Arc::from(id)
}

fn living(id: &str, boot: BootId) -> Living {
    Living { id: name(id), boot, appends: true, draining: false }
}

fn nobody(_: &str, _: BootId) -> bool {
    false
}

fn all(_: &str, _: BootId) -> bool {
    true
}

/// A node that heard `b`, by gossip and over a link that has ended since.
fn heard_b() -> Hearing {
    let mut hearing = Hearing::default();
    hearing.linked(&name("b"), B);
    hearing.members(0, [living("b", B)], all);
    hearing
}

fn b_is_unheard(hearing: &mut Hearing, now_ms: u64) -> bool {
    hearing.unheard(now_ms, nobody) == Some(Unheard::Node(name("b")))
}

#[test]
fn one_that_lives_is_unheard_without_a_link_to_this_run_of_it() {
    let mut hearing = heard_b();
    assert_eq!(hearing.unheard(0, all), None);
    assert_eq!(
        hearing.unheard(0, |_, boot| boot == B_AGAIN),
        Some(Unheard::Node(name("b"))),
        "a link to another run is none"
    );
}

#[test]
fn one_that_vanished_is_unheard_until_it_refuses_i12() {
    let mut hearing = heard_b();
    hearing.members(1000, [], nobody);
    assert!(b_is_unheard(&mut hearing, 1000));
    hearing.refused(2000, &name("b"), B);
    assert_eq!(hearing.unheard(2000, nobody), None);
    assert_eq!(hearing.absent().collect::<Vec<_>>(), [(&name("b"), B)]);
}

#[test]
fn one_that_is_dead_and_starts_again_behind_a_cut_is_unheard_i12() {
    let mut hearing = heard_b();
    hearing.refused(1000, &name("b"), B);
    hearing.members(1000, [], nobody);
    hearing.asked(2000, &name("b"), B, true);
    assert_eq!(hearing.unheard(2000, nobody), None, "dead");
    hearing.asked(3000, &name("b"), B, false);
    assert!(b_is_unheard(&mut hearing, 3000), "nothing tells that it is dead any more");
    hearing.asked(4000, &name("b"), B, true);
    assert_eq!(hearing.unheard(4000, nobody), None, "the cut is over, and it is");
    hearing.asked(5000, &name("b"), B, false);
    hearing.members(6000, [living("b", B_AGAIN)], all);
    assert_eq!(hearing.unheard(6000, all), None, "it is back");
    assert_eq!(hearing.absent().count(), 0);
}

#[test]
fn one_that_died_behind_a_cut_is_not_waited_for_once_it_refuses() {
    let mut hearing = heard_b();
    hearing.members(1000, [], nobody);
    hearing.asked(2000, &name("b"), B, false);
    assert!(b_is_unheard(&mut hearing, 2000));
    hearing.asked(3000, &name("b"), B, true);
    assert_eq!(hearing.unheard(3000, nobody), None);
}

#[test]
fn one_that_refused_and_is_seen_again_as_the_same_run_lives() {
    let mut hearing = heard_b();
    hearing.refused(1000, &name("b"), B);
    hearing.members(1000, [living("b", B)], nobody);
    assert_eq!(hearing.unheard(1000, nobody), None, "gossip has not noticed yet");
    hearing.members(1100, [], nobody);
    hearing.members(5000, [living("b", B)], nobody);
    assert!(b_is_unheard(&mut hearing, 5000), "something on the way refused");
}

#[test]
fn who_said_that_it_goes_and_who_appends_nothing_are_not_missed() {
    for (appends, draining) in [(true, true), (false, false)] {
        let mut hearing = heard_b();
        hearing.members(1000, [Living { appends, draining, ..living("b", B) }], all);
        hearing.members(2000, [], nobody);
        assert_eq!(hearing.unheard(2000, nobody), None);
        hearing.refused(3000, &name("b"), B);
        assert_eq!(hearing.absent().count(), 0, "nor is it asked");
    }
}

#[test]
fn one_that_was_linked_and_never_gossiped_is_missed_when_its_link_ends_i12() {
    let mut hearing = Hearing::default();
    hearing.linked(&name("b"), B);
    hearing.members(500, [], all);
    assert_eq!(hearing.unheard(500, all), None);
    hearing.ended(1000, &name("b"), B);
    assert!(b_is_unheard(&mut hearing, 1000));
    let mut hearing = heard_b();
    hearing.ended(1000, &name("b"), B);
    assert_eq!(hearing.absent().count(), 0, "gossip judges whom it knows");
}

#[test]
fn one_that_leaves_gossip_first_and_its_link_later_is_not_missed_if_it_said_so() {
    let mut hearing = heard_b();
    hearing.members(1000, [Living { draining: true, ..living("b", B) }], all);
    hearing.members(2000, [], all);
    hearing.ended(3000, &name("b"), B);
    hearing.refused(3000, &name("b"), B);
    assert_eq!(hearing.unheard(3000, nobody), None);
    assert_eq!(hearing.absent().count(), 0);
}

#[test]
fn a_node_that_was_told_of_others_hears_nobody_until_it_hears_of_one_i12() {
    let mut hearing = Hearing::default();
    assert_eq!(hearing.unheard(0, nobody), None, "it is alone");
    hearing.expect_others(0);
    assert_eq!(hearing.unheard(1000, nobody), Some(Unheard::Everybody));
    assert!(!hearing.has_company());
    assert_eq!(hearing.unheard(ABSENT_MS, nobody), None, "it is the first one");
    hearing.linked(&name("b"), B);
    assert_eq!(hearing.unheard(1000, all), None);
    assert!(hearing.knows("b") && !hearing.knows("c"));
}

#[test]
fn one_that_does_not_refuse_is_waited_for_for_ten_minutes_and_one_that_refuses_asked_for_longer() {
    let mut hearing = heard_b();
    hearing.members(0, [], nobody);
    assert!(b_is_unheard(&mut hearing, ABSENT_MS - 1));
    assert_eq!(hearing.unheard(ABSENT_MS, nobody), None);
    assert_eq!(hearing.absent().count(), 0);
    let mut hearing = heard_b();
    hearing.members(0, [], nobody);
    hearing.refused(0, &name("b"), B);
    assert_eq!(hearing.unheard(10 * ABSENT_MS, nobody), None);
    assert_eq!(hearing.absent().count(), 1);
    hearing.asked(10 * ABSENT_MS, &name("b"), B, false);
    assert!(b_is_unheard(&mut hearing, 11 * ABSENT_MS - 1));
}

#[test]
fn of_too_many_that_are_absent_the_longest_absent_is_forgotten() {
    let mut hearing = Hearing::default();
    for n in 0..=ABSENT_MAX as u64 {
        let id = name(&format!("n{n:04}"));
        hearing.members(n, [Living { id: Arc::clone(&id), ..living("", B) }], all);
        hearing.members(n, [], nobody);
    }
    assert_eq!(hearing.absent().count(), ABSENT_MAX);
    assert!(!hearing.knows("n0000") && hearing.knows("n0001"));
}
