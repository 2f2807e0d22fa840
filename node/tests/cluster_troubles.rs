//! What goes wrong in a cluster is told in words that the README explains: each of them is provoked
//! here and looked up there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod command;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use command::up::Up;
use command::{Lines, Running, clarion, stdout};
use rustix::process::{Signal, kill_process};

const README: &str = include_str!("../README.md");

/// Two nodes, and a Redis whose only replica has to confirm.
const PROFILE: &str = r#"
[profile]
about = "two nodes"

[redis]
layout = "replicated"
replicas = 1

[common.node]
drain_timeout_ms = 500

[[nodes]]
name = "node"
count = 2
"#;

/// A third node, with the config of the second and these changes.
fn third(config: &Path, changes: &[(&str, &str)]) -> Running {
    let mut command = clarion();
    command.arg("start").arg(config);
    for (listen, address) in [
        ("CLARION_HTTP__LISTEN", "127.0.0.1:0"),
        ("CLARION_TERMINALS__LISTEN", "127.0.0.1:0"),
        ("CLARION_CLUSTER__LISTEN", "127.0.0.1:0"),
        ("CLARION_NODE__ID", "node-3"),
    ] {
        command.env(listen, address);
    }
    command.envs(changes.iter().copied());
    Running::start(command)
}

/// Waits for a line of log that says so, and finds it explained.
fn told(lines: &Lines, words: &str) -> String {
    assert!(README.contains(words), "`{words}` is not explained");
    lines.until(words)
}

#[test]
fn strangers_doubles_and_copies_that_are_gone_are_told_in_words_that_the_readme_explains() {
    let mut up = Up::start(PROFILE);
    let log = &up.process.err;

    let cookie = up.directory.path().join("other-cookie");
    std::fs::write(&cookie, "0123456789abcdef0123456789abcdef").unwrap();
    std::fs::set_permissions(&cookie, std::fs::Permissions::from_mode(0o600)).unwrap();
    let changes = [("CLARION_CLUSTER__COOKIE_FILE", cookie.to_str().unwrap())];
    let stranger = third(&up.config(1), &changes);
    told(log, "gossip with another cookie or cluster name: not heard");
    told(&stranger.err, "no seed has answered: this node acts as the first of the cluster");
    drop(stranger);

    let double = third(&up.config(1), &[("CLARION_NODE__ID", "node-1")]);
    let line = log.until("two nodes run as `node-1`");
    assert!(README.contains("two nodes run as"), "not explained");
    assert!(line.contains(" came first, ") && line.contains(" second. "), "{line}");
    let second = double.err.until("came second");
    assert!(second.contains("This node needs an id of its own"), "{second}");
    told_by_status(&up, "two nodes run as");
    drop(double);

    kill_process(up.pid_of("node-2"), Signal::KILL).unwrap();
    log.until("has ended");
    let mut again = clarion();
    again.arg("start").arg(up.config(1));
    let again = Running::start(again);
    again.err.until("ready");
    told_by_status(&up, "quarantined, came back once");

    kill_process(up.pid_of("redis-0-1"), Signal::KILL).unwrap();
    told(&again.err, "has 0 replicas and 1 must confirm");
    drop(again);
    up.process.signal(Signal::INT);
    assert_eq!(up.process.wait(), Some(0));
}

/// Asks until `clarion cluster status` says so.
fn told_by_status(up: &Up, words: &str) {
    assert!(README.contains(words), "`{words}` is not explained");
    let began = std::time::Instant::now();
    loop {
        let shown = stdout(&up.run(0, &["cluster", "status"]));
        if shown.contains(words) {
            return;
        }
        assert!(began.elapsed() < command::PATIENCE, "{words} is not in\n{shown}");
    }
}
