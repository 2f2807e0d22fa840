//! `clarion bench` on a small scale: it starts its own node and load, finds figures, loses nothing
//! and leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod command;

use command::{clarion, code, stderr};
use serde_json::Value;

fn bench(arguments: &str) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let output = clarion()
        .args(["--json", "bench"])
        .args(arguments.split_whitespace())
        .arg("--data")
        .arg(directory.path())
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn figure(reports: &Value, name: &str) -> f64 {
    let figures = reports[0]["figures"].as_array().unwrap();
    let found = figures.iter().find(|figure| figure["name"].as_str().unwrap().contains(name));
    found.unwrap_or_else(|| panic!("no {name} in {reports:#}"))["value"].as_f64().unwrap()
}

#[test]
fn resuming_terminals_get_all_that_waited_once() {
    let reports = bench("resume --links 30 --waiting 5");
    assert_eq!(figure(&reports, "lost"), 0.0, "{reports:#}");
    assert_eq!(figure(&reports, "received again"), 0.0, "{reports:#}");
    assert_eq!(figure(&reports, "gaps"), 0.0, "{reports:#}");
}

#[test]
fn pushes_at_a_rate_all_arrive_and_are_timed() {
    let reports = bench("latency --links 10 --rate 50 --seconds 1");
    assert_eq!(figure(&reports, "lost"), 0.0, "{reports:#}");
    assert!(figure(&reports, "push due to received p99") > 0.0, "{reports:#}");
    assert!(figure(&reports, "server CPU per message") > 0.0, "{reports:#}");
}

#[test]
fn the_sdk_client_serves_as_load_too() {
    let reports = bench("fanout --links 20 --paced 2 --burst 5 --client sdk");
    assert_eq!(figure(&reports, "one at a time: lost"), 0.0, "{reports:#}");
    assert_eq!(figure(&reports, "full speed: lost"), 0.0, "{reports:#}");
}

#[test]
fn heavy_messages_cross_a_cluster_are_timed_and_all_arrive() {
    let reports = bench("cluster latency --links 30 --rate 30 --seconds 2");
    assert_eq!(figure(&reports, "lost"), 0.0, "{reports:#}");
    assert_eq!(figure(&reports, "not accepted"), 0.0, "{reports:#}");
    assert!(figure(&reports, "push due to received p99") > 0.0, "{reports:#}");
    assert!(figure(&reports, "push node, owner and gateway all differ") > 0.0, "{reports:#}");
    assert!(figure(&reports, "CPU per message, Redis master") > 0.0, "{reports:#}");
}
