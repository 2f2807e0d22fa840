//! Looks at every process once a second: what the kernel counts of it, and what a node says of
//! itself. A process that is down has a sample, too, in which nothing is known. And at the machine, on
//! which others may run.

mod machine;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clarion_launch::http;
use futures_util::future::join_all;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::history::{Event, History, Name, Sample};
use machine::{Lookout, Usage};

/// The time between two samples of a process.
const EVERY: Duration = Duration::from_secs(1);
/// How long a node may take for its answer: one that hangs must not hold up the others' samples.
const ANSWER: Duration = Duration::from_millis(700);
/// Milliseconds of a tick of CPU time; Linux tells programs a hundred a second on every machine.
const TICK_MS: u64 = 10;

/// A process that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Its name in the history: that of its component.
    pub process: Name,
    /// None while it is down.
    pub pid: Option<u32>,
    /// Where a node is asked.
    pub node: Option<Api>,
}

/// The API of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// Where it listens.
    pub at: SocketAddr,
    /// The administrator's token.
    pub token: String,
}

/// Takes samples until it is dropped.
#[derive(Debug)]
pub struct Sampler {
    watched: Arc<Mutex<Vec<Watched>>>,
    /// Both end with this.
    _task: JoinSet<()>,
    _lookout: Lookout,
}

impl Sampler {
    /// Begins; nothing is watched yet.
    #[must_use]
    pub fn start(history: Arc<History>) -> Self {
        let watched = Arc::new(Mutex::new(Vec::new()));
        let mut task = JoinSet::new();
        let lookout = Lookout::start(Arc::clone(&history));
        task.spawn(run(history, Arc::clone(&watched)));
        Self { watched, _task: task, _lookout: lookout }
    }

    /// Watches these from now on; to be called again whenever a process has started or ended.
    pub fn watch(&self, processes: Vec<Watched>) {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = processes;
    }
}

async fn run(history: Arc<History>, watched: Arc<Mutex<Vec<Watched>>>) {
    let mut turns = interval(EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut usage = Usage::default();
    loop {
        turns.tick().await;
        let now = watched.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let used = usage.turn(history.clock(), now.iter().filter_map(|process| process.pid));
        used.into_iter().for_each(|event| history.add(event));
        for sample in join_all(now.iter().map(look_at)).await {
            history.add(Event::Sample(Box::new(sample)));
        }
    }
}

async fn look_at(watched: &Watched) -> Sample {
    let kernel = watched.pid.and_then(Kernel::of);
    let status = match (&watched.node, &kernel) {
        (Some(node), Some(_)) => status(node).await,
        _ => None,
    };
    let said = |field: &str| status.as_ref().and_then(|status| status[field].as_u64());
    Sample {
        process: Name::clone(&watched.process),
        rss_kib: kernel.map(|kernel| kernel.rss_kib),
        fds: kernel.map(|kernel| kernel.fds),
        threads: kernel.map(|kernel| kernel.threads),
        cpu_ms: kernel.map(|kernel| kernel.cpu_ms),
        links: said("links"),
        sessions: said("sessions"),
        queued_bytes: status.as_ref().map(queued_bytes),
    }
}

async fn status(node: &Api) -> Option<Value> {
    let asked = http::request("GET", node.at, "/v1/status", Some(&node.token));
    match timeout(ANSWER, asked).await {
        Ok(Ok(answer)) if answer.status == 200 => Some(answer.json()),
        _ => None,
    }
}

/// What the status of a node says to be queued, in bytes: the sum of every `queued_bytes`, a number
/// or one for each lane.
#[must_use]
pub fn queued_bytes(status: &Value) -> u64 {
    match status {
        Value::Object(fields) => {
            let of = |(name, value): (&String, &Value)| match name.as_str() {
                "queued_bytes" => sum(value),
                _ => queued_bytes(value),
            };
            fields.iter().map(of).sum()
        }
        Value::Array(items) => items.iter().map(queued_bytes).sum(),
        _ => 0,
    }
}

fn sum(value: &Value) -> u64 {
    match value {
        Value::Object(fields) => fields.values().map(sum).sum(),
        Value::Array(items) => items.iter().map(sum).sum(),
        other => other.as_u64().unwrap_or(0),
    }
}

/// What the kernel counts of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kernel {
    rss_kib: u64,
    fds: u64,
    threads: u64,
    cpu_ms: u64,
}

impl Kernel {
    /// None when there is no such process, or it ended and nobody has taken note of it yet.
    fn of(pid: u32) -> Option<Self> {
        let place = PathBuf::from(format!("/proc/{pid}"));
        let status = std::fs::read_to_string(place.join("status")).ok()?;
        let figure = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let stat = std::fs::read_to_string(place.join("stat")).ok()?;
        Some(Self {
            // A process that has ended has none.
            rss_kib: figure("VmRSS:")?,
            fds: std::fs::read_dir(place.join("fd")).ok()?.count() as u64,
            threads: figure("Threads:")?,
            cpu_ms: cpu_ms(&stat)?,
        })
    }
}

/// User and system time of a process.
fn cpu_ms(stat: &str) -> Option<u64> {
    // Behind the name, which may hold anything, in parentheses; they are the 14th and 15th field of
    // all, the 3rd stands first here.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    Some((user + system) * TICK_MS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::history::{About, Record, read};

    #[test]
    fn queues_are_found_wherever_they_stand() {
        let status = json!({
            "peers": [{ "queued_bytes": { "control": 1, "unicast": 2 } }, { "queued_bytes": 4 }],
            "store": { "queued": 7 },
        });
        assert_eq!(queued_bytes(&status), 7);
    }

    #[test]
    fn cpu_time_is_read_behind_the_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 12 0 0";
        assert_eq!(cpu_ms(stat), Some(2000));
        assert_eq!(cpu_ms("7 (a"), None);
    }

    #[tokio::test]
    async fn a_process_has_figures_and_one_that_is_down_has_none() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("history.jsonl");
        let history = Arc::new(History::create(&path, About::default()).unwrap());
        let sampler = Sampler::start(Arc::clone(&history));
        let watched = |process: &str, pid| Watched { process: process.into(), pid, node: None };
        sampler.watch(vec![watched("self", Some(std::process::id())), watched("down", None)]);
        let samples = loop {
            tokio::task::yield_now().await;
            let samples = history.look(samples).unwrap();
            if samples.len() >= 2 {
                break samples;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        drop(sampler);
        assert_eq!(read(&path).unwrap().torn, None);
        let own = samples.iter().find(|sample| &*sample.process == "self").unwrap();
        assert!(own.rss_kib.unwrap() > 1000 && own.fds.unwrap() > 2 && own.threads.unwrap() > 0);
        assert!(own.cpu_ms.is_some() && own.sessions.is_none());
        let down = samples.iter().find(|sample| &*sample.process == "down").unwrap();
        assert_eq!((down.rss_kib, down.fds, down.threads, down.cpu_ms), (None, None, None, None));
    }

    fn samples(records: &[Record]) -> Vec<Sample> {
        let of = |record: &Record| match &record.event {
            Event::Sample(sample) => Some((**sample).clone()),
            _ => None,
        };
        records.iter().filter_map(of).collect()
    }
}
