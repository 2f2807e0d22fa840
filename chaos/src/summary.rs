//! The figures of a run.

use std::collections::{HashMap, HashSet};
use std::fmt;

use clarion_protocol::MessageId;

use crate::history::{Event, Name, Record};

/// What happened, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Kills of a node and other faults.
    pub kills: u32,
    /// Pushes that were made.
    pub pushed: usize,
    /// Those that were accepted.
    pub accepted: usize,
    /// Those that were refused.
    pub refused: usize,
    /// Those without an answer.
    pub unknown: usize,
    /// Messages that terminals were given, each terminal and message once.
    pub delivered: usize,
    /// How often one was given again (to terminals without SDK).
    pub duplicates: usize,
    /// Sessions that were opened.
    pub sessions: usize,
    /// Accepted pushes whose counts lack acknowledgements.
    pub counts_short: usize,
    /// How often only the slow head check found that a log had grown (I12).
    pub head_check_found: u64,
    /// The longest time from a kill to the next accepted push, milliseconds.
    pub push_interruption_ms: u64,
    /// The longest time from a kill to the next delivery, milliseconds.
    pub delivery_interruption_ms: u64,
    /// The longest time from a push to its acceptance, milliseconds.
    pub push_ms_max: u64,
    /// The longest time from the acceptance of a push to its delivery to a terminal that was online
    /// all the while, milliseconds.
    pub way_ms_max: u64,
    /// From the first record to the last, milliseconds.
    pub duration_ms: u64,
}

impl Summary {
    /// Counts what `records` hold.
    #[must_use]
    pub fn of(records: &[Record]) -> Self {
        let mut summary = Self::default();
        let mut given: HashSet<(&Name, MessageId)> = HashSet::new();
        // What is known of a push: accepted beats unknown beats refused.
        let mut outcomes: HashMap<&Name, u8> = HashMap::new();
        let (mut no_push_since, mut no_delivery_since) = (None, None);
        let mut pushed: HashMap<&Name, u64> = HashMap::new();
        let mut accepted: HashMap<&Name, u64> = HashMap::new();
        let mut online_since: HashMap<&Name, u64> = HashMap::new();
        for Record { t, event, .. } in records {
            // Milliseconds are enough here.
            let t = &(t / 1_000_000);
            summary.duration_ms = *t;
            match event {
                Event::Invoke { key, .. } => {
                    summary.pushed += 1;
                    pushed.entry(key).or_insert(*t);
                }
                Event::Accepted { key, .. } => {
                    if accepted.insert(key, *t).is_none() {
                        let since = pushed.get(key).map_or(0, |since| t - since);
                        summary.push_ms_max = summary.push_ms_max.max(since);
                    }
                    outcomes.insert(key, 2);
                    let since = no_push_since.take().map_or(0, |since| t - since);
                    summary.push_interruption_ms = summary.push_interruption_ms.max(since);
                }
                Event::Unknown { key, .. } => {
                    let known = outcomes.entry(key).or_default();
                    *known = 1.max(*known);
                }
                Event::Refused { key, .. } => {
                    outcomes.entry(key).or_default();
                }
                Event::Delivered { who, id, key, .. } => {
                    if given.insert((who, *id)) {
                        summary.delivered += 1;
                        let online = online_since.get(who).copied().unwrap_or(*t);
                        let way = accepted.get(key).filter(|at| **at > online);
                        let way = way.map_or(0, |at| t - at);
                        summary.way_ms_max = summary.way_ms_max.max(way);
                    } else {
                        summary.duplicates += 1;
                    }
                    let since = no_delivery_since.take().map_or(0, |since| t - since);
                    summary.delivery_interruption_ms = summary.delivery_interruption_ms.max(since);
                }
                Event::Counted { counts, .. } if counts.pending > 0 => summary.counts_short += 1,
                Event::HeadChecked { found } => summary.head_check_found += found,
                Event::Opened { who, .. } => {
                    summary.sessions += 1;
                    online_since.insert(who, *t);
                }
                Event::Fault { n, .. } => {
                    summary.kills = *n;
                    no_push_since.get_or_insert(*t);
                    no_delivery_since.get_or_insert(*t);
                }
                _ => {}
            }
        }
        let count = |wanted| outcomes.values().filter(|outcome| **outcome == wanted).count();
        (summary.accepted, summary.unknown, summary.refused) = (count(2), count(1), count(0));
        summary
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: u64| ms as f64 / 1000.0;
        writeln!(f, "duration               {:.1} s", seconds(self.duration_ms))?;
        writeln!(f, "kills                  {}", self.kills)?;
        writeln!(f, "pushed                 {}", self.pushed)?;
        writeln!(f, "  accepted             {}", self.accepted)?;
        writeln!(f, "  outcome unknown      {}", self.unknown)?;
        writeln!(f, "  refused              {}", self.refused)?;
        writeln!(f, "sessions opened        {}", self.sessions)?;
        writeln!(f, "delivered              {}", self.delivered)?;
        writeln!(f, "  again, without SDK   {}", self.duplicates)?;
        writeln!(f, "counts not complete    {}", self.counts_short)?;
        writeln!(f, "found by head check    {}", self.head_check_found)?;
        let (push, delivery) = (self.push_interruption_ms, self.delivery_interruption_ms);
        writeln!(f, "longest interruption   {:.2} s for pushes", seconds(push))?;
        writeln!(f, "                       {:.2} s for deliveries", seconds(delivery))?;
        writeln!(f, "slowest push           {:.2} s", seconds(self.push_ms_max))?;
        write!(
            f,
            "slowest way            {:.2} s to a terminal that was online",
            seconds(self.way_ms_max)
        )
    }
}
