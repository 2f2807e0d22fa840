//! The load in its own processes, against a real node: everything that it can do is done and told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clarion_chaos::history::{About, Client, Ending, Event, History, Record};
use clarion_chaos::node_process::NodeProcess;
use clarion_chaos::sampler::{Sampler, Watched};
use clarion_chaos::settle::{self, CountsNearFaults};
use clarion_chaos::workload::{Rough, Size, Workload};
use clarion_chaos::{Failure, binary};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Only ends a test that hangs.
const DEADLINE: Duration = Duration::from_secs(90);
const SIZE: Size = Size { products: 2, terminals: 9, pushes_per_s: 60, members_change: true };

struct Running {
    /// Kept running.
    _node: NodeProcess,
    load: Workload,
    history: Arc<History>,
}

async fn start(directory: &Path) -> Running {
    let program = binary::provide(false, directory).unwrap();
    let history = History::create(&directory.join("history.jsonl"), About::default());
    let history = Arc::new(history.unwrap());
    let node = NodeProcess::create(program, directory, "", None).await;
    let node = node.unwrap_or_else(|failure| panic!("{failure}"));
    let load = Workload::start(node.doors(), Arc::clone(&history), SIZE, directory, 1);
    let load = timeout(DEADLINE, load).await.expect("a load in time");
    let load = load.unwrap_or_else(|failure| panic!("{failure}"));
    Running { _node: node, load, history }
}

impl Running {
    /// Waits until something has happened so often.
    async fn until(&mut self, what: &str, times: usize, is: impl Fn(&Event) -> bool) {
        let history = Arc::clone(&self.history);
        let happened = async {
            loop {
                let of = |all: &[Record]| all.iter().filter(|record| is(&record.event)).count();
                if history.look(of).unwrap() >= times {
                    return;
                }
                sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::select! {
            happened = timeout(DEADLINE, happened) => {
                happened.unwrap_or_else(|_| panic!("{what} did not happen {times} times"));
            }
            failure = self.load.ended() => panic!("{failure}"),
        }
    }

    async fn settled(&self) {
        let settled = timeout(DEADLINE, self.load.settled()).await.expect("settled in time");
        settled.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

async fn reaches(mut figure: watch::Receiver<u64>, least: u64) {
    let reached = timeout(DEADLINE, figure.wait_for(|figure| *figure >= least)).await;
    reached.expect("rough terminals connect").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_load_processes_do_and_tell_everything() {
    let directory = TempDir::new().unwrap();
    let mut running = start(directory.path()).await;
    let sampler = Sampler::start(Arc::clone(&running.history));
    let processes = running.load.processes();
    assert_eq!(processes.len(), 3, "back-ends and two of terminals: {processes:?}");
    let watched = |(process, pid)| Watched { process, pid: Some(pid), node: None };
    sampler.watch(processes.into_iter().map(watched).collect());

    running.until("pushes", 200, |event| matches!(event, Event::Accepted { .. })).await;
    for third in 0..3 {
        running.load.send_away(third);
        running.settled().await;
        running.load.bring_back(third);
        running.settled().await;
    }
    running.until("a topic left", 4, |event| matches!(event, Event::LeftTopic { .. })).await;

    // What misbehaves has products of its own.
    for how in [Rough::Slow, Rough::Silent, Rough::Malicious, Rough::Storm] {
        let connected = running.load.rough(how, 8).await.unwrap();
        let least = if how == Rough::Storm { 40 } else { 8 };
        reaches(connected, least).await;
    }
    running.load.rough_ends();
    running.load.flood(400, 20).await.unwrap();
    let of_flood = |key: &str| key.starts_with("flood-");
    running
        .until(
            "a flood is refused",
            100,
            |event| matches!(event, Event::Refused { key, .. } if of_flood(key)),
        )
        .await;
    running.load.flood_ends();

    finish(&mut running).await.unwrap_or_else(|failure| panic!("{failure}"));
    running.history.look(everything_was_told).unwrap();
}

async fn finish(running: &mut Running) -> Result<(), Failure> {
    timeout(DEADLINE, running.load.stop_pushing()).await.expect("pushers end")?;
    running.load.all_online();
    running.settled().await;
    settle::everything_arrived(&running.history).await;
    let backends = running.load.backends()?;
    settle::count(&running.history, &backends, CountsNearFaults::Whole).await
}

fn everything_was_told(records: &[Record]) {
    assert!(records.is_sorted_by_key(|record| record.t));
    let by: BTreeSet<&str> = records.iter().map(|record| &*record.by).collect();
    assert!(by.is_superset(&["driver", "load-0", "load-1", "load-2"].into()), "{by:?}");
    let has = |is: &dyn Fn(&Event) -> bool| records.iter().any(|record| is(&record.event));
    let (mut pushes, mut lanes, mut ttls) = (HashMap::new(), BTreeSet::new(), BTreeSet::new());
    for record in records {
        match &record.event {
            Event::Invoke { key, hash, lane, ttl_ms, door, .. } => {
                assert!(pushes.insert(key, (record.t, hash)).is_none(), "{key} twice");
                lanes.insert(&**lane);
                ttls.insert(ttl_ms.map(|ttl_ms| (ttl_ms > 0, ttl_ms > 600_000)));
                assert_eq!(&**door, "node");
            }
            Event::Accepted { key, .. } => assert!(pushes[key].0 < record.t, "{key}"),
            Event::Delivered { key, hash, .. } => {
                let (pushed, pushed_hash) = pushes[key];
                assert!(pushed < record.t && pushed_hash == hash, "{record:?}");
            }
            Event::Opened { door, node, .. } => {
                assert!(!door.is_empty() && !node.is_empty(), "{record:?}");
            }
            Event::Trouble { .. } | Event::ToldGap { .. } => panic!("{record:?}"),
            _ => {}
        }
    }
    assert_eq!(lanes, ["flood", "hasty", "http", "link"].into());
    assert_eq!(ttls.len(), 4, "none, zero, short and long: {ttls:?}");
    let sdk = |keeps: bool| {
        move |event: &Event| {
            matches!(event, Event::Terminal { client: Client::Sdk, keeps_cursors, .. }
                if *keeps_cursors == keeps)
        }
    };
    assert!(has(&sdk(true)) && has(&sdk(false)));
    assert!(has(&|event| matches!(event, Event::LostCursors { .. })));
    assert!(has(&|event| matches!(event, Event::Delivered { offset: None, .. })), "TTL 0");
    assert!(has(&|event| matches!(event, Event::Accepted { replayed: true, .. })));
    assert!(has(&|event| matches!(event, Event::Left { how: Ending::Closed, .. })));
    assert!(has(&|event| matches!(event, Event::Left { how: Ending::Dropped, .. })));
    assert!(has(&|event| matches!(event, Event::Acknowledged { .. })));
    assert!(has(&|event| matches!(event, Event::Sample(sample) if sample.rss_kib.is_some())));
    let counting = records.iter().find_map(|record| match &record.event {
        Event::Counting { asked, of } => Some((*asked, *of)),
        _ => None,
    });
    let (asked, of) = counting.unwrap();
    let counted = records.iter().filter(|record| matches!(record.event, Event::Counted { .. }));
    assert_eq!((asked, counted.count() as u64), (of, of));
    topics_change_in_turn(records);
}

/// Of a terminal and a topic: about to be joined, joined, about to be left, left; what nobody
/// answered is made an end of by leaving.
fn topics_change_in_turn(records: &[Record]) {
    let mut stands: HashMap<_, &str> = HashMap::new();
    let mut seen = BTreeSet::new();
    for record in records {
        let (who, log, step) = match &record.event {
            Event::Joining { who, log } => (who, log, "joining"),
            Event::Joined { who, log } => (who, log, "joined"),
            Event::Leaving { who, log } => (who, log, "leaving"),
            Event::LeftTopic { who, log } => (who, log, "left"),
            _ => continue,
        };
        if !log.to_string().starts_with("topic:") {
            continue;
        }
        let before = stands.insert((who, log), step).unwrap_or("left");
        let due = match step {
            "joining" => before == "left",
            "joined" => before == "joining",
            "leaving" => before != "left",
            _ => before == "leaving",
        };
        assert!(due, "{who} {log}: {step} after {before}");
        seen.insert((log.to_string(), step));
    }
    for topic in ["topic:staff", "topic:flash"] {
        for step in ["joining", "joined", "leaving", "left"] {
            assert!(seen.contains(&(topic.to_owned(), step)), "{topic} {step}: {seen:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_load_process_that_dies_fails_the_run_by_name() {
    let directory = TempDir::new().unwrap();
    let mut running = start(directory.path()).await;
    let (name, pid) = running.load.processes().pop().unwrap();
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().await.unwrap();
    assert!(killed.success());
    let failure = timeout(DEADLINE, running.load.ended()).await.expect("it is noticed");
    let told = failure.to_string();
    assert!(told.contains(&*name) && told.contains("signal: 9"), "{told}");
}
