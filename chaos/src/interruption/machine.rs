//! What the machine did meanwhile: a run measures Clarion and whatever else runs beside it.
//!
//! Two things are told apart. When the machine let *nobody* run, not even the driver's thread that does
//! nothing but look at the clock, that time is nobody's fault: it is taken off every wait. When others
//! (or the host of a virtual machine) used much of its time, what a fault cost cannot be compared with
//! what nothing cost at another time of the run: bounds that are such a comparison are not judged
//! then, and the report says so. Bounds in seconds are always judged.

use crate::history::{Event, Record};

/// Of the machine's time so many percent may go to others in a stretch that is compared with another.
pub const BUSY_PERCENT: u64 = 25;

/// What is known of the machine.
#[derive(Debug, Default)]
pub struct Machine {
    /// From when to when it let nobody run.
    stood: Vec<(u64, u64)>,
    /// Stretches in the order of time.
    used: Vec<Used>,
}

#[derive(Debug)]
struct Used {
    from: u64,
    to: u64,
    /// Processor time there was, and that others had; milliseconds.
    all_ms: u64,
    others_ms: u64,
}

impl Machine {
    /// What a history says of it.
    #[must_use]
    pub fn of(records: &[Record]) -> Self {
        let mut machine = Self::default();
        for Record { t, event, .. } in records {
            match event {
                Event::Stalled { from } => machine.stood.push((*from, *t)),
                Event::Machine { from, cores, others_ms, stolen_ms } => machine.used.push(Used {
                    from: *from,
                    to: *t,
                    all_ms: t.saturating_sub(*from) / 1_000_000 * cores,
                    others_ms: others_ms + stolen_ms,
                }),
                _ => {}
            }
        }
        machine
    }

    /// For how much of this time it let nobody run.
    #[must_use]
    pub fn stood(&self, from: u64, to: u64) -> u64 {
        let overlap = |(begin, end): &(u64, u64)| (*end).min(to).saturating_sub(from.max(*begin));
        self.stood.iter().map(overlap).sum()
    }

    /// How much of its time others had between the two, percent.
    #[must_use]
    pub fn others_percent(&self, from: u64, to: u64) -> u64 {
        let first = self.used.partition_point(|used| used.to <= from);
        let during = self.used[first..].iter().take_while(|used| used.from < to);
        let (others, all) =
            during.fold((0, 0), |(others, all), used| (others + used.others_ms, all + used.all_ms));
        (others * 100).checked_div(all).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn record(ms: u64, event: Event) -> Record {
        Record { t: ms * MS, by: "driver".into(), event }
    }

    #[test]
    fn it_is_known_when_it_stood_and_what_others_had() {
        let used = |from_ms: u64, others_ms| Event::Machine {
            from: from_ms * MS,
            cores: 2,
            others_ms,
            stolen_ms: 0,
        };
        let machine = Machine::of(&[
            record(900, Event::Stalled { from: 700 * MS }),
            record(1_000, used(0, 200)),
            record(2_000, used(1_000, 1_800)),
        ]);
        assert_eq!(machine.stood(0, 10_000 * MS), 200 * MS);
        assert_eq!(machine.stood(800 * MS, 850 * MS), 50 * MS);
        assert_eq!(machine.stood(900 * MS, 950 * MS), 0);
        assert_eq!(machine.others_percent(0, 500 * MS), 10);
        assert_eq!(machine.others_percent(0, 1_500 * MS), 50);
        assert_eq!(machine.others_percent(1_000 * MS, 1_100 * MS), 90);
        assert_eq!(machine.others_percent(5_000 * MS, 6_000 * MS), 0);
    }
}
