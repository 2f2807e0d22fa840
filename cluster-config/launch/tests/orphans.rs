//! Nothing outlives the program that started it, also when that is killed and can end nobody.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use clarion_launch::{LaunchError, Process, Signal, wait};

/// Set for a copy of this program that is to start processes in that directory, and wait for its end.
const STARTS: &str = "CLARION_TEST_STARTS_IN";

/// A process that runs, and one that hangs.
async fn start(directory: &Path) {
    let mut all = Vec::new();
    for name in ["runs", "hangs"] {
        let mut process =
            Process::new(name, "sleep", &directory.join(name)).arguments(["600"]).own_group(true);
        // The thread that wants it started ends long before.
        let runtime = tokio::runtime::Handle::current();
        let asked = std::thread::spawn(move || {
            let _within = runtime.enter();
            process.start().unwrap();
            process
        });
        all.push(asked.join().unwrap());
    }
    for process in &all {
        let name = format!("/proc/{}/comm", process.pid().unwrap());
        let runs = async || match std::fs::read_to_string(&name).unwrap().trim() {
            "sleep" => Ok(()),
            other => Err(LaunchError::new(other)),
        };
        wait::until("the program", Duration::from_secs(20), runs).await.unwrap();
    }
    all[1].signal(Signal::Stop).unwrap();
    let pids: Vec<String> = all.iter().map(|process| process.pid().unwrap().to_string()).collect();
    println!("started {}", pids.join(" "));
    std::future::pending().await
}

#[tokio::test]
async fn what_a_killed_program_started_ends_with_it() {
    if let Some(directory) = std::env::var_os(STARTS) {
        start(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "what_a_killed_program_started_ends_with_it", "--nocapture"]);
    let mut other = command.env(STARTS, directory.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
    let pids = lines.find_map(|line| Some(line.unwrap().split_once("started ")?.1.to_owned()));
    let stat = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let pids = pids.unwrap();
    for pid in pids.split(' ') {
        assert!(!stat(pid).unwrap().contains(") Z "), "it runs");
    }
    other.kill().unwrap();
    other.wait().unwrap();
    for pid in pids.split(' ') {
        let gone = async || match stat(pid) {
            Ok(stat) if !stat.contains(") Z ") => Err(LaunchError::new(stat)),
            _ => Ok(()),
        };
        wait::until("the end", Duration::from_secs(20), gone).await.unwrap();
    }
}
