use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const EPOCH: Epoch = Epoch(1);

fn position(l: LogAlias, log: LogName, offset: u64) -> LogPosition {
    LogPosition { l, log, epoch: EPOCH, offset: Offset(offset) }
}

fn ledger(logs: &[LogPosition]) -> Ledger {
    let mut ledger = Ledger::new(Owner::default(), Snapshot::default(), 1024);
    ledger.opened(logs);
    ledger
}

fn flush(ledger: &mut Ledger) -> Vec<Step> {
    ledger.saving();
    ledger.saved(true);
    ledger.steps()
}

fn show(ledger: &mut Ledger, alias: LogAlias, offset: u64, id: u128) -> Option<Target> {
    match ledger.deliver(alias, Some(Offset(offset)), MessageId(id)) {
        Some(Verdict::Show { target, .. }) => target,
        _ => None,
    }
}

#[test]
fn the_node_is_told_only_what_was_saved() {
    let mut ledger = ledger(&[position(0, LogName::Terminal, 0)]);
    let target = show(&mut ledger, 0, 1, 1).unwrap();
    ledger.settle(target, MessageId(1), Settle::Ack);
    assert_eq!(ledger.steps(), []);
    ledger.saving();
    assert_eq!(ledger.steps(), []);
    ledger.saved(false);
    assert_eq!(ledger.steps(), []);
    assert!(ledger.unflushed() > 0, "to be tried again");
    ledger.saving();
    ledger.saved(true);
    assert_eq!(ledger.steps(), [Step::Ack(vec![(0, Offset(1))])]);
    assert_eq!(ledger.steps(), [], "once");
}

#[test]
fn what_is_acknowledged_during_a_save_waits_for_the_next() {
    let mut ledger = ledger(&[position(0, LogName::Terminal, 0)]);
    let first = show(&mut ledger, 0, 1, 1).unwrap();
    let second = show(&mut ledger, 0, 2, 2).unwrap();
    ledger.settle(first, MessageId(1), Settle::Ack);
    ledger.saving();
    ledger.settle(second, MessageId(2), Settle::Ack);
    ledger.saved(true);
    assert_eq!(ledger.steps(), [Step::Ack(vec![(0, Offset(1))])]);
    assert!(ledger.unflushed() > 0);
    assert_eq!(flush(&mut ledger), [Step::Ack(vec![(0, Offset(2))])]);
}

#[test]
fn i5_a_gap_during_a_save_does_not_bring_the_old_position_back() {
    let mut ledger = ledger(&[position(0, LogName::Terminal, 0)]);
    let target = show(&mut ledger, 0, 90, 1).unwrap();
    ledger.settle(target, MessageId(1), Settle::Ack);
    ledger.saving();
    ledger.gap(0, EPOCH, Offset(10), GapReason::Ahead);
    ledger.saved(true);
    assert_eq!(ledger.own_cursors(), [(LogName::Terminal, Cursor(EPOCH, Offset(10)))]);
}

#[test]
fn an_evicting_gap_keeps_what_lies_above_it() {
    let mut ledger = ledger(&[position(0, LogName::Broadcast, 0)]);
    show(&mut ledger, 0, 1, 1).unwrap();
    let above = show(&mut ledger, 0, 9, 9).unwrap();
    ledger.gap(0, EPOCH, Offset(5), GapReason::Evicted);
    assert_eq!(ledger.held(), 1);
    assert_eq!(show(&mut ledger, 0, 9, 9), None, "still held");
    ledger.settle(above, MessageId(9), Settle::Ack);
    assert_eq!(flush(&mut ledger), [Step::Ack(vec![(0, Offset(9))])]);
}

#[test]
fn a_shadow_shares_the_fate_of_what_it_shadows() {
    let logs = [position(0, LogName::Terminal, 0), position(1, LogName::User, 0)];
    let mut ledger = ledger(&logs);
    let target = show(&mut ledger, 0, 1, 7).unwrap();
    assert_eq!(show(&mut ledger, 1, 100, 7), None);
    ledger.settle(target, MessageId(7), Settle::Release);
    assert_eq!(flush(&mut ledger), []);
    let again = show(&mut ledger, 1, 100, 7).unwrap();
    ledger.settle(again, MessageId(7), Settle::Ack);
    assert_eq!(flush(&mut ledger), [Step::Ack(vec![(1, Offset(100))])]);
    assert_eq!(show(&mut ledger, 0, 1, 7), None, "it was handled");
    assert_eq!(flush(&mut ledger), [Step::Ack(vec![(0, Offset(1))])]);
}

#[test]
fn the_memory_of_ids_is_bounded() {
    let mut seen = Seen::new(3, (0..9).map(MessageId));
    assert!(seen.contains(MessageId(8)) && !seen.contains(MessageId(5)));
    assert!(seen.insert(MessageId(9)) && !seen.insert(MessageId(9)));
    assert_eq!(seen.with(&[MessageId(20)]), [8, 9, 20].map(MessageId));
    let mut none = Seen::new(0, []);
    assert!(none.insert(MessageId(1)) && none.insert(MessageId(1)));
}

/// What a node and an application may do.
#[derive(Debug, Clone)]
enum Op {
    /// The node sends the next entries of a log, some of which expired.
    Deliver {
        log: usize,
        count: u64,
        expired: u64,
    },
    /// The node sends again from its cursor.
    Again {
        log: usize,
    },
    /// The application settles one of what it holds.
    Settle {
        which: prop::sample::Index,
        how: u8,
    },
    Flush {
        ok: bool,
    },
    Reconnect,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => (0_usize..2, 1_u64..5, 0_u64..3)
            .prop_map(|(log, count, expired)| Op::Deliver { log, count, expired }),
        1 => (0_usize..2).prop_map(|log| Op::Again { log }),
        6 => (any::<prop::sample::Index>(), 0_u8..8)
            .prop_map(|(which, how)| Op::Settle { which, how }),
        3 => any::<bool>().prop_map(|ok| Op::Flush { ok }),
        1 => Just(Op::Reconnect),
    ];
    proptest::collection::vec(op, 0..120)
}

/// The node's side of one log, and what the application did with it.
#[derive(Default)]
struct Model {
    next: u64,
    cursor: u64,
    sent: u64,
    live: BTreeSet<u64>,
    settled: BTreeSet<u64>,
}

impl Model {
    fn between(&self, after: u64, up_to: u64) -> Vec<u64> {
        self.live.iter().copied().filter(|offset| (after + 1..=up_to).contains(offset)).collect()
    }
}

fn take_steps(ledger: &mut Ledger, models: &mut [Model; 2]) {
    for step in ledger.steps() {
        let (acks, skip) = match step {
            Step::Ack(acks) => (acks, None),
            Step::Skip(alias, offset) => (Vec::new(), Some((alias, offset))),
        };
        for (alias, Offset(offset)) in acks {
            let model = &mut models[usize::from(alias)];
            assert!(offset <= model.sent, "I5: acknowledged ahead of what was sent");
            assert!(offset > model.cursor, "acknowledged in vain");
            let mut unsettled = model.between(model.cursor, offset);
            unsettled.retain(|offset| !model.settled.contains(offset));
            assert!(unsettled.is_empty(), "acknowledged what was not handled: {unsettled:?}");
            model.cursor = offset;
        }
        if let Some((alias, Offset(offset))) = skip {
            let model = &mut models[usize::from(alias)];
            let first = model.live.range(model.cursor + 1..).next();
            assert_eq!(first, Some(&offset), "skipped out of turn");
            model.cursor = offset;
        }
    }
}

proptest! {
    /// Whatever happens: no acknowledgement ahead of what was sent (I5) or handled, nothing held is
    /// shown twice, nothing handled is shown again, and in the end everything is acknowledged.
    #[test]
    fn acknowledgements_follow_the_application(ops in ops()) {
        let names = [LogName::Terminal, LogName::Broadcast];
        let mut models: [Model; 2] = Default::default();
        let at = |models: &[Model; 2]| [
            position(0, names[0].clone(), models[0].cursor),
            position(1, names[1].clone(), models[1].cursor),
        ];
        let mut ledger = ledger(&at(&models));
        let mut held: BTreeMap<(usize, u64), Target> = BTreeMap::new();
        let id = |log: usize, offset: u64| u128::from(offset) * 2 + log as u128;
        for op in ops {
            match op {
                Op::Deliver { log, count, expired } => {
                    let model = &mut models[log];
                    model.next += expired;
                    for _ in 0..count {
                        model.next += 1;
                        let offset = model.next;
                        model.live.insert(offset);
                        // What the node sent before this link broke comes first, in order.
                        for offset in model.between(model.sent, offset) {
                            model.sent = offset;
                            if let Some(target) = show(&mut ledger, log as u16, offset, id(log, offset)) {
                                prop_assert!(!models_settled(model, offset), "handled, shown again");
                                prop_assert!(held.insert((log, offset), target).is_none(), "shown twice");
                            }
                        }
                    }
                }
                Op::Again { log } => {
                    let model = &models[log];
                    for &offset in &model.between(model.cursor, model.sent) {
                        if let Some(target) = show(&mut ledger, log as u16, offset, id(log, offset)) {
                            prop_assert!(!models_settled(model, offset), "handled, shown again");
                            prop_assert!(held.insert((log, offset), target).is_none(), "shown twice");
                        }
                    }
                }
                Op::Settle { which, how } => {
                    if held.is_empty() { continue; }
                    let key = *held.keys().nth(which.index(held.len())).unwrap();
                    let target = held.remove(&key).unwrap();
                    let how = match how { 0 => Settle::Release, 1 => Settle::Skip, _ => Settle::Ack };
                    ledger.settle(target, MessageId(id(key.0, key.1)), how);
                    if how != Settle::Release {
                        models[key.0].settled.insert(key.1);
                    }
                }
                Op::Flush { ok } => {
                    ledger.saving();
                    ledger.saved(ok);
                    take_steps(&mut ledger, &mut models);
                }
                Op::Reconnect => {
                    ledger.disconnected();
                    for (log, Cursor(_, offset)) in ledger.own_cursors() {
                        let model = &mut models[usize::from(log == names[1])];
                        model.cursor = model.cursor.max(offset.0);
                    }
                    for model in &mut models {
                        model.sent = model.cursor;
                    }
                    ledger.opened(&at(&models));
                }
            }
            prop_assert_eq!(ledger.held(), held.len());
        }
        // The node sends all that is missing, the application handles all.
        for (log, model) in models.iter_mut().enumerate() {
            for offset in model.between(model.cursor, u64::MAX) {
                model.sent = model.sent.max(offset);
                if let Some(target) = show(&mut ledger, log as u16, offset, id(log, offset)) {
                    held.insert((log, offset), target);
                }
            }
        }
        for ((log, offset), target) in held {
            ledger.settle(target, MessageId(id(log, offset)), Settle::Ack);
            models[log].settled.insert(offset);
        }
        ledger.saving();
        ledger.saved(true);
        take_steps(&mut ledger, &mut models);
        for model in &models {
            prop_assert_eq!(model.live.last().copied().unwrap_or(0).max(model.cursor), model.cursor);
        }
    }
}

fn models_settled(model: &Model, offset: u64) -> bool {
    model.settled.contains(&offset)
}
