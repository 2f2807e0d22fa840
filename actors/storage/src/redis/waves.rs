//! Which saves of cursors go together: those that one ticket can speak of.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use clarion_core::{LogKey, LogKind, Settled};
use clarion_protocol::TerminalId;
use clarion_protocol::milestone::Milestone;

use crate::CursorSave;

/// Exceptions that a record notes of a cursor; what has more is saved in pieces.
pub(super) const NOTED_MAX: usize = 100;
/// Saves under one ticket: their index in it has two bytes.
const WAVE_MAX: usize = 1 << 16;

/// Whether what a save passes is noted until it is counted: not in the terminal's own inbox, where both
/// are one.
pub(super) fn is_noted(save: &CursorSave) -> bool {
    save.log.kind != LogKind::Terminal
}

/// Saves with where they were asked for, so that in each part of them no terminal saves the same
/// log twice, and none has more exceptions than a record notes. Mostly one part.
pub(super) fn waves(saves: Vec<CursorSave>) -> Vec<Vec<(usize, CursorSave)>> {
    let mut seen = HashSet::new();
    let simple = |save: &CursorSave| save.settled.len() <= NOTED_MAX;
    let once = saves
        .iter()
        .filter(|save| is_noted(save))
        .all(|save| simple(save) && seen.insert((save.terminal.clone(), Arc::clone(&save.log))));
    if once && saves.len() <= WAVE_MAX {
        return vec![saves.into_iter().enumerate().collect()];
    }
    let mut waves: Vec<Vec<(usize, CursorSave)>> = Vec::new();
    let mut next: HashMap<(TerminalId, Arc<LogKey>), usize> = HashMap::new();
    for (of, save) in saves.into_iter().enumerate() {
        for piece in pieces(save) {
            let key = (piece.terminal.clone(), Arc::clone(&piece.log));
            let wave = next.entry(key).or_default();
            while waves.get(*wave).is_some_and(|wave| wave.len() >= WAVE_MAX) {
                *wave += 1;
            }
            waves.resize_with(waves.len().max(*wave + 1), Vec::new);
            waves[*wave].push((of, piece));
            *wave += 1;
        }
    }
    waves
}

/// A save, in as many pieces as it takes for its exceptions to be noted.
fn pieces(mut save: CursorSave) -> Vec<CursorSave> {
    let mut pieces = Vec::new();
    while is_noted(&save) && save.settled.len() > NOTED_MAX {
        let others = save.settled.split_off(NOTED_MAX - 1);
        let mut settled = std::mem::replace(&mut save.settled, others);
        let cursor = settled.last().map_or(save.cursor, |last| last.offset.min(save.cursor));
        // A gap that goes on is told of in both.
        if ends_a_gap(&save.settled) {
            settled.push(Settled { offset: cursor, how: Milestone::Evicted });
        }
        pieces.push(CursorSave { cursor, attempts: 0, settled, ..save.clone() });
    }
    pieces.push(save);
    pieces
}

/// Whether what these begin with is in a gap that they tell the end of.
fn ends_a_gap(settled: &[Settled]) -> bool {
    let bounds = |how| matches!(how, Milestone::Evicted | Milestone::Acknowledged);
    let first = settled.iter().find(|settled| bounds(settled.how));
    first.is_some_and(|first| first.how == Milestone::Evicted)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clarion_protocol::{Epoch, Offset, ProductId};
    use proptest::prelude::*;

    use super::super::passed::Passed;
    use super::*;

    fn save(log: Arc<LogKey>, cursor: u64, settled: Vec<Settled>) -> CursorSave {
        CursorSave {
            terminal: TerminalId::new("t").unwrap(),
            log,
            generation: 1,
            epoch: Epoch(1),
            cursor: Offset(cursor),
            attempts: 3,
            settled,
            heartbeat_ms: None,
        }
    }

    fn product() -> ProductId {
        ProductId::new("demo").unwrap()
    }

    proptest! {
        #[test]
        fn pieces_say_what_the_whole_says(
            kinds in proptest::collection::vec(0..8_u8, 0..450),
            from in 0..200_u64,
        ) {
            let mut settled = Vec::new();
            for (at, kind) in kinds.iter().enumerate() {
                let offset = Offset(2 * at as u64 + 2);
                let how = match kind {
                    0 => Milestone::Evicted,
                    1 => Milestone::Acknowledged,
                    2 => Milestone::Expired,
                    _ => Milestone::Undeliverable,
                };
                settled.push(Settled { offset, how });
            }
            let whole = save(LogKey::broadcast(&product()), 1000, settled);
            let told = |saves: &[CursorSave]| {
                let (mut counts, mut after) = (BTreeMap::new(), Offset(from));
                for save in saves {
                    let mut passed = Passed::default();
                    passed.pass(after, save.cursor, &save.settled);
                    for offset in 1..=1000 {
                        let sum: &mut [i64; 5] = counts.entry(offset).or_default();
                        let here = passed.at_offset(Offset(offset));
                        sum.iter_mut().zip(here).for_each(|(sum, here)| *sum += here);
                    }
                    after = after.max(save.cursor);
                }
                counts
            };
            let pieces = pieces(whole.clone());
            prop_assert!(pieces.iter().all(|piece| piece.settled.len() <= NOTED_MAX));
            prop_assert_eq!(pieces.last().map(|last| (last.cursor, last.attempts)), Some((Offset(1000), 3)));
            prop_assert_eq!(told(&pieces), told(&[whole]));
        }
    }

    #[test]
    fn what_a_record_cannot_note_at_once_goes_in_pieces_in_users_inboxes_too() {
        let settled = |count| {
            let at = |offset| Settled { offset: Offset(offset), how: Milestone::Undeliverable };
            (1..=count).map(at).collect()
        };
        let user = LogKey::user(&product(), &clarion_protocol::UserId::new("u").unwrap());
        assert_eq!(waves(vec![save(Arc::clone(&user), 500, settled(100))]).len(), 1);
        assert_eq!(waves(vec![save(user, 500, settled(101))]).len(), 2);
        let own = LogKey::terminal(&product(), &TerminalId::new("t").unwrap());
        assert_eq!(waves(vec![save(own, 500, settled(101))]).len(), 1);
    }
}
