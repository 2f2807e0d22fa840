//! What the machine does besides the run. The history has it so that nobody takes a busy machine for a
//! slow Clarion, or the other way round: see [`interruption`](crate::interruption).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Kernel, TICK_MS};
use crate::history::{Clock, Event, History};

/// How often somebody looks at the clock who does nothing else.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Who is so much late for it did not get to run. Far more than one waits for a processor who needs
/// it this seldom, however many others want it.
const LATE: Duration = Duration::from_millis(150);

/// A thread of its own that looks at the clock: whatever else the driver does must not make it late.
#[derive(Debug)]
pub(super) struct Lookout {
    /// The thread ends when this does.
    ends: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lookout {
    pub fn start(history: Arc<History>) -> Self {
        let (ends, ended) = sync_channel::<()>(1);
        let look = move || {
            let clock = history.clock();
            let mut last = clock.now();
            while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                if let Some(from) = stood(last, clock.now()) {
                    history.add(Event::Stalled { from });
                }
                // What it takes to write that down is not the machine's fault.
                last = clock.now();
            }
        };
        let thread = std::thread::Builder::new().name("lookout".to_owned()).spawn(look).ok();
        Self { ends: Some(ends), thread }
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        drop(self.ends.take());
        if let Some(thread) = self.thread.take() {
            // It does nothing that could fail.
            let _ = thread.join();
        }
    }
}

/// Since when the machine let nobody run, if two looks were so far apart.
fn stood(last: u64, now: u64) -> Option<u64> {
    let due = last + LOOK_EVERY.as_nanos() as u64;
    (now > due + LATE.as_nanos() as u64).then_some(due)
}

/// Who used the processors, from one turn to the next.
#[derive(Debug, Default)]
pub(super) struct Usage {
    last: Option<Turn>,
}

#[derive(Debug, Clone)]
struct Turn {
    at: u64,
    times: Times,
    /// Processor time of each process of the run, milliseconds.
    own: BTreeMap<u32, u64>,
}

impl Usage {
    /// What to tell of the time since the last turn; `processes` are those of the run.
    pub fn turn(&mut self, clock: Clock, processes: impl Iterator<Item = u32>) -> Option<Event> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let all = processes.chain([std::process::id()]);
        let own = all.filter_map(|pid| Some((pid, Kernel::of(pid)?.cpu_ms))).collect();
        let now = Turn { at: clock.now(), times: Times::of(&stat)?, own };
        let last = self.last.replace(now.clone())?;
        Some(now.since(&last))
    }
}

impl Turn {
    fn since(&self, last: &Self) -> Event {
        let own = self.own.iter().map(|(pid, ms)| {
            // Who was not there before has used all of it since.
            ms.saturating_sub(last.own.get(pid).copied().unwrap_or(0))
        });
        let used_ms = self.times.used_ms.saturating_sub(last.times.used_ms);
        Event::Machine {
            from: last.at,
            cores: self.times.cores,
            others_ms: used_ms.saturating_sub(own.sum()),
            stolen_ms: self.times.stolen_ms.saturating_sub(last.times.stolen_ms),
        }
    }
}

/// `/proc/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    cores: u64,
    /// Of processes, milliseconds. Interrupts count for nobody: most are of the run's own packets.
    used_ms: u64,
    stolen_ms: u64,
}

impl Times {
    fn of(stat: &str) -> Option<Self> {
        let cores = stat.lines().filter(|line| line.starts_with("cpu")).count() as u64;
        let all = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = all.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let [user, nice, system, _idle, _io, _irq, _softirq, stolen, ..] = ticks[..] else {
            return None;
        };
        let used_ms = (user + nice + system) * TICK_MS;
        Some(Self { cores: cores.checked_sub(1)?, used_ms, stolen_ms: stolen * TICK_MS })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn who_is_late_did_not_get_to_run() {
        assert_eq!(stood(0, 160 * MS), None);
        assert_eq!(stood(5 * MS, 1_000 * MS), Some(25 * MS));
    }

    #[test]
    fn times_of_the_machine_are_read() {
        let stat = "cpu  100 20 30 900 5 6 7 8 0 0\ncpu0 50 10 15 450 2 3 3 4 0 0\n\
                    cpu1 50 10 15 450 3 3 4 4 0 0\nintr 12\n";
        assert_eq!(Times::of(stat), Some(Times { cores: 2, used_ms: 1_500, stolen_ms: 80 }));
        assert_eq!(Times::of("nothing"), None);
    }

    #[test]
    fn what_the_run_did_not_use_others_did() {
        let turn = |at, used_ms, own: &[(u32, u64)]| Turn {
            at,
            times: Times { cores: 2, used_ms, stolen_ms: 0 },
            own: own.iter().copied().collect(),
        };
        // Process 1 ended meanwhile, 3 began.
        let (last, now) =
            (turn(0, 1_000, &[(1, 70), (2, 400)]), turn(9, 2_000, &[(2, 500), (3, 50)]));
        let event = now.since(&last);
        assert_eq!(event, Event::Machine { from: 0, cores: 2, others_ms: 850, stolen_ms: 0 });
    }
}
