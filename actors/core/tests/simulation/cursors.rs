//! The write-behind of cursors (`actors/src/cursors.rs`).

use clarion_core::entry::Settled;
use clarion_protocol::Offset;
use clarion_protocol::milestone::Milestone;

use crate::event::Purpose;
use crate::store::{Call, Save};
use crate::world::World;

pub const FLUSH_MS: u64 = 1000;

impl World {
    /// `CursorBuffer::note`: a later one of the same session takes the place of an earlier one.
    pub fn note_cursor(&mut self, n: usize, save: Save) {
        let dirty = &mut self.nodes[n].dirty;
        match dirty.get_mut(&(save.terminal, save.log)) {
            Some(known) if save.generation < known.generation => {}
            Some(known) => {
                let continues = known.generation == save.generation && known.epoch == save.epoch;
                let mut settled =
                    if continues { std::mem::take(&mut known.settled) } else { Vec::new() };
                if save.settled.iter().any(|settled| settled.how == Milestone::Evicted) {
                    let (offset, how) = (Offset(known.cursor), Milestone::Acknowledged);
                    settled.push(Settled { offset, how });
                }
                settled.extend(save.settled);
                *known = Save { settled, ..save };
            }
            None => drop(dirty.insert((save.terminal, save.log), save)),
        }
    }

    /// Nothing, if a flush is on its way already.
    pub fn flush(&mut self, n: usize) {
        if self.nodes[n].flushing {
            return;
        }
        let saves: Vec<Save> = std::mem::take(&mut self.nodes[n].dirty).into_values().collect();
        if !saves.is_empty() {
            self.nodes[n].flushing = true;
            self.call(n, Call::Save { saves: saves.clone() }, Purpose::Save { saves });
        }
    }

    pub fn saved(&mut self, n: usize, saves: Vec<Save>, answers: Option<Vec<bool>>) {
        self.nodes[n].flushing = false;
        match answers {
            Some(answers) => {
                for (save, newest) in saves.into_iter().zip(answers) {
                    if !newest {
                        self.stale(n, save.session);
                    }
                }
            }
            // Put back, below what was noted meanwhile.
            None => {
                for save in saves {
                    let newer = self.nodes[n].dirty.remove(&(save.terminal, save.log));
                    self.note_cursor(n, save);
                    if let Some(newer) = newer {
                        self.note_cursor(n, newer);
                    }
                }
            }
        }
    }
}
