//! A cluster of processes with one command, looked at, drained and stopped as a person would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod command;

use std::path::Path;

use command::up::Up;
use command::{clarion, code, json, run, stderr, stdout};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

/// Small and quick: one Redis, two nodes.
const PROFILE: &str = r#"
[profile]
about = "two nodes"

[redis]
layout = "standalone"

[common.node]
drain_timeout_ms = 500

[[nodes]]
name = "node"
count = 2
"#;

fn pids(up: &Up) -> Vec<Pid> {
    let nodes = up.ready["nodes"].as_array().unwrap();
    let pids = nodes.iter().map(|node| node["pid"].as_i64().unwrap());
    pids.map(|pid| Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()).collect()
}

#[test]
fn a_cluster_comes_up_is_drained_and_ends_with_all_it_started() {
    let mut up = Up::start(PROFILE);
    assert_eq!(up.ready["ready"], true, "{}", up.ready);
    assert_eq!(up.ready["nodes"].as_array().unwrap().len(), 2, "{}", up.ready);

    let status = json(&up.run(0, &["--json", "cluster", "status"]));
    let named: Vec<&str> =
        status["nodes"].as_array().unwrap().iter().map(|n| n["node"].as_str().unwrap()).collect();
    assert_eq!(named, ["node-1", "node-2"]);
    for node in status["nodes"].as_array().unwrap() {
        assert_eq!((&node["reachable"], &node["owns"]), (&Value::from(true), &Value::from(true)));
        assert_eq!(node["status"]["store"]["writable"], true, "{node}");
    }
    let shown = stdout(&up.run(1, &["cluster", "status"]));
    for part in ["node-1", "node-2", "ROUND TRIP", "unicast", "inbox_shard", "writable"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    for lane in ["control ", "unicast ", "multicast ", "broadcast "] {
        assert_eq!(shown.matches(lane).count(), 2, "{lane}for each end of the link\n{shown}");
    }
    assert!(!shown.contains("null"), "{shown}");

    // Both nodes say the same of where a log is.
    let place = |node| json(&up.run(node, &["--json", "where", "terminal", "phone-1"]));
    let (first, second) = (place(0), place(1));
    assert_eq!((&first["owner"], &first["slot"]), (&second["owner"], &second["slot"]));

    // Accepted by one node, received through the access points that the other lists.
    let push = up.run(0, &["push", "--terminal", "phone-1", "--text", "hello"]);
    assert_eq!(code(&push), 0, "{}", stderr(&push));
    let server = up.ready["nodes"][1]["http"].as_str().unwrap().to_owned();
    let listen = ["listen", "phone-1", "--count", "1", "--timeout", "60s", "--gateways", &server];
    let listen = up.run(1, &listen);
    assert!(stdout(&listen).contains("hello"), "{}\n{}", stdout(&listen), stderr(&listen));

    // A terminal on the node that drains goes to the other one and misses nothing.
    let listening =
        up.start_client(0, &["listen", "phone-2", "--count", "1", "--gateways", &server]);
    let on = listening.err.until("listening, connected to");
    let on = on.rsplit(' ').next().unwrap().to_owned();
    let stays = usize::from(on == "node-1");
    let place = up.run(stays, &["where", "terminal", "phone-2"]);
    assert!(stdout(&place).contains(&format!("readers {on}")), "{}", stdout(&place));
    let drained = up.run(stays, &["cluster", "drain", &on, "--wait"]);
    assert_eq!(code(&drained), 0, "{}", stderr(&drained));
    assert!(stdout(&drained).contains(&format!("{on} has left")), "{}", stdout(&drained));
    up.process.err.until("has ended");
    listening.err.until("listening, connected to");
    let push = up.run(stays, &["push", "--terminal", "phone-2", "--text", "moved"]);
    assert_eq!(code(&push), 0, "{}", stderr(&push));
    assert!(listening.out.next().contains("moved"));
    let owner = json(&up.run(stays, &["--json", "where", "terminal", "phone-1"]));
    assert_ne!(owner["owner"], on, "what it owned is another's: {owner}");
    let unknown = up.run(stays, &["cluster", "drain", "node-9"]);
    assert_eq!(code(&unknown), 4, "{}", stderr(&unknown));

    let pids = pids(&up);
    up.process.signal(Signal::INT);
    assert_eq!(up.process.wait(), Some(0), "{:?}", up.process.err.rest());
    for pid in pids {
        assert!(test_kill_process(pid).is_err(), "{pid:?} runs on");
    }
    let state: Vec<_> = std::fs::read_dir(up.directory.path().join("run")).unwrap().collect();
    assert!(!state.is_empty(), "its data stays");
}

#[test]
fn kill_a_node_by_hand_and_the_terminal_has_every_message() {
    const MESSAGES: usize = 100;
    const KILLED_AT: usize = 30;
    let profiles = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-config/profiles");
    let mut up = Up::of(tempfile::tempdir().unwrap(), &profiles.join("three-nodes.toml"));
    let nodes = up.ready["nodes"].as_array().unwrap().clone();
    let count = MESSAGES.to_string();
    let mut listen = vec!["listen", "phone-1", "--count", &count, "--timeout", "100s"];
    for node in &nodes {
        listen.extend(["--gateways", node["http"].as_str().unwrap()]);
    }
    let mut listening = up.start_client(0, &listen);
    let on = listening.err.until("listening, connected to");
    let on = on.rsplit(' ').next().unwrap().to_owned();

    // Pushes go to the node that has the terminal, and to the next one when that fails.
    let mut asked = nodes.iter().position(|node| node["node"] == on.as_str()).unwrap();
    for number in 0..MESSAGES {
        let (key, payload) = (format!("walk-{number}"), number.to_string());
        let push = ["push", "--terminal", "phone-1", "--json-payload", &payload, "--key", &key];
        let mut failed = Vec::new();
        loop {
            let mut pushing = up.start_client(asked, &push);
            if number == KILLED_AT && failed.is_empty() {
                kill_process(up.pid_of(&on), Signal::KILL).unwrap();
            }
            if pushing.wait() == Some(0) {
                break;
            }
            failed.push(pushing.err.rest());
            assert!(failed.len() <= nodes.len(), "{number}: {failed:?}");
            asked = (asked + 1) % nodes.len();
        }
    }
    let received: Vec<String> = (0..MESSAGES).map(|_| listening.out.next()).collect();
    let received: Vec<&str> =
        received.iter().filter_map(|line| line.split(' ').next_back()).collect();
    let pushed: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(received, pushed, "each once, in order");
    assert_eq!(listening.wait(), Some(0));

    let left = usize::from(on == "node-1");
    let status = json(&up.run(left, &["--json", "cluster", "status"]));
    for node in status["nodes"].as_array().unwrap() {
        assert_eq!(node["reachable"], node["node"] != on.as_str(), "{node}");
    }
    up.process.err.until("has ended");
    up.process.signal(Signal::INT);
    assert_eq!(up.process.wait(), Some(0), "{:?}", up.process.err.rest());
}

#[test]
fn doctor_checks_what_a_launched_node_needs() {
    let mut up = Up::start(PROFILE);
    let config = up.ready["nodes"][0]["config"].as_str().unwrap().to_owned();
    let report = json(&up.run(0, &["--json", "doctor", &config]));
    let checks = report["checks"].as_array().unwrap();
    let level = |name: &str| -> Vec<&str> {
        let named = checks.iter().filter(|check| check["check"] == name);
        named.map(|check| check["level"].as_str().unwrap()).collect()
    };
    assert_eq!(level("config"), ["ok"], "{report}");
    assert_eq!(level("nodes"), ["ok", "ok"], "{report}");
    assert!(level("store").contains(&"ok") && !level("store").contains(&"fail"), "{report}");
    assert!(!level("clocks").is_empty(), "{report}");
    for held in ["API", "terminals", "peers", "gossip"] {
        assert_eq!(level(held), ["ok"], "by the node itself, which runs: {report}");
    }
    newcomers_are_told_what_keeps_them_out(&up);

    // With everything gone the store and the seeds fail, and the exit code says so.
    up.process.signal(Signal::TERM);
    assert_eq!(up.process.wait(), Some(0), "{:?}", up.process.err.rest());
    let output = up.run(0, &["doctor", &config]);
    assert_eq!(code(&output), 1, "{}", stdout(&output));
    assert!(stdout(&output).contains("FAIL  store"), "{}", stdout(&output));
    assert!(stdout(&output).contains("mend: "), "{}", stdout(&output));
}

#[test]
fn a_program_that_is_not_installed_is_named_with_its_package() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("two.toml"), PROFILE).unwrap();
    let mut command = clarion();
    command.current_dir(directory.path()).args(["cluster", "up", "two.toml", "--port", "0"]);
    let output = command.env("PATH", "/nowhere").output().unwrap();
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("`redis-server` must be installed"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("doctor"), "no config is at fault: {}", stderr(&output));
}

/// A third node, looked at before it starts: with all that the others have, then with a mistake.
fn newcomers_are_told_what_keeps_them_out(up: &Up) {
    let config = up.ready["nodes"][1]["config"].as_str().unwrap();
    let other_cookie = up.directory.path().join("other-cookie");
    std::fs::write(&other_cookie, "0123456789abcdef0123456789abcdef").unwrap();
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&other_cookie, owner_only).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let doctor = |changes: &[(&str, &str)]| {
        let mut command = up.client(0, &["doctor", config]);
        command.env("CLARION_NODE__ID", "node-9");
        command.env("CLARION_HTTP__LISTEN", "127.0.0.1:0");
        command.env("CLARION_TERMINALS__LISTEN", "127.0.0.1:0");
        command.env("CLARION_CLUSTER__LISTEN", free.to_string());
        command.envs(changes.iter().copied());
        let output = command.output().unwrap();
        (code(&output), stdout(&output))
    };
    let (code, told) = doctor(&[]);
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("is node-1, and takes this node as its peer"), "{told}");
    let api = up.ready["nodes"][1]["http"].as_str().unwrap().strip_prefix("http://").unwrap();
    for (changes, expected) in [
        (
            [("CLARION_CLUSTER__COOKIE_FILE", other_cookie.to_str().unwrap())],
            "it is a node with another cookie",
        ),
        ([("CLARION_CLUSTER__NAME", "other")], "it is a node of a cluster of another name"),
        ([("CLARION_NODE__ID", "node-1")], "a node runs there as `node-1`, this node's id"),
        ([("CLARION_HTTP__LISTEN", api)], "node-2 runs at this node's http.listen"),
    ] {
        let (code, told) = doctor(&changes);
        assert_eq!(code, 1, "{told}");
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
    // Something else where a seed should be: here, an API.
    let (code, told) = doctor(&[("CLARION_CLUSTER__SEEDS", api)]);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("what listens there does not speak as a node"), "{told}");
}

#[test]
fn what_is_no_profile_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let up = |name: &str| run(directory.path(), &["cluster", "up", name]);
    std::fs::write(directory.path().join("node.toml"), "[node]\nid = \"a\"\n").unwrap();
    std::fs::write(directory.path().join("typo.toml"), PROFILE.replace("layout", "layuot"))
        .unwrap();
    for (name, told) in
        [("missing.toml", "missing.toml"), ("node.toml", "clarion start"), ("typo.toml", "layuot")]
    {
        let output = up(name);
        assert_eq!(code(&output), 3, "{name}: {}", stderr(&output));
        assert!(stderr(&output).contains(told), "{name}: {}", stderr(&output));
        assert!(stderr(&output).contains("hint: "), "{name}: {}", stderr(&output));
    }

    // A name that is not there: those that are.
    std::fs::create_dir(directory.path().join("mine")).unwrap();
    for name in ["b", "a"] {
        std::fs::write(directory.path().join(format!("mine/{name}.toml")), PROFILE).unwrap();
    }
    for name in ["mine/c.toml", "mine"] {
        let output = up(name);
        assert_eq!(code(&output), 3, "{name}: {}", stderr(&output));
        let told = "hint: there are mine/a.toml, mine/b.toml";
        assert!(stderr(&output).contains(told), "{name}: {}", stderr(&output));
    }

    // And the other way round: a profile is no node's config.
    for command in ["check-config", "start", "doctor"] {
        let output = run(directory.path(), &[command, "mine/a.toml"]);
        let told = stdout(&output) + &stderr(&output);
        assert_ne!(code(&output), 0, "{command}: {told}");
        assert!(told.contains("this is a launch profile"), "{command}: {told}");
        assert!(told.contains("clarion cluster up"), "{command}: {told}");
        assert!(!told.contains("unknown section"), "{command}: {told}");
    }
}
