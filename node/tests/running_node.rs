//! A node as people run it: `clarion dev` and `clarion start`, and the commands that talk to them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod command;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use command::{ADMIN_TOKEN, Dev, Running, clarion, code, config_in, stderr, stdout};
use rustix::process::Signal;
use serde_json::{Value, json};

#[test]
fn what_is_pushed_is_listened_to_and_accounted_for() {
    let mut dev = Dev::start();
    for (file, mode) in [("demo.json", 0o600), ("admin-token", 0o600), ("", 0o700)] {
        let path = dev.directory.path().join("clarion-data/dev").join(file);
        let found = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{}", path.display());
    }
    let join = ["--json", "listen", "phone-1", "--user", "ada", "--topic", "news"];
    let mut listen = Running::start(dev.client(&[&join[..], &["--count", "4"]].concat()));
    listen.err.until("listening, connected to");
    let mut accepted = Vec::new();
    for arguments in [
        ["--terminal", "phone-1", "--text", "to the terminal"],
        ["--user", "ada", "--json-payload", "{\"to\": \"the user\"}"],
        ["--topic", "news", "--text", "to the topic"],
    ] {
        let output = dev.run(&[&["--json", "push"][..], &arguments].concat());
        accepted.push(command::json(&output)["id"].clone());
    }
    let picture = dev.directory.path().join("picture");
    std::fs::write(&picture, [0, 159, 146, 150]).unwrap();
    let to_all = ["push", "--all", "--file", "picture", "--content-type", "image/x-test"];
    accepted.push(command::json(&dev.run(&[&["--json"][..], &to_all].concat()))["id"].clone());

    let got: Vec<Value> =
        (0..4).map(|_| serde_json::from_str(&listen.out.next()).unwrap()).collect();
    assert_eq!(listen.wait(), Some(0));
    // Nothing is promised across logs.
    let of = |log: &str| got.iter().find(|message| message["log"] == log).unwrap();
    assert_eq!(of("terminal")["payload"], "to the terminal");
    assert_eq!(of("user")["payload"], json!({"to": "the user"}));
    assert_eq!(of("topic:news")["payload"], "to the topic");
    assert_eq!(of("broadcast")["payload_base64"], "AJ+Slg==");
    assert_eq!(of("broadcast")["content_type"], "image/x-test");

    // The listener ended in good order: what it acknowledged is counted.
    let id = accepted[2].as_str().unwrap();
    let state = command::json(&dev.run(&["--json", "message", id]));
    assert_eq!(state["counts"]["audience"], 1, "{state:#}");
    assert_eq!(state["counts"]["acknowledged"], 1, "{state:#}");
    let shown = command::json(&dev.run(&["--json", "terminal", "show", "phone-1"]));
    assert_eq!((&shown["user"], &shown["online"]), (&json!("ada"), &json!(false)));
    assert_eq!(stdout(&dev.run(&["topic", "members", "news"])), "phone-1\n");
    assert!(stdout(&dev.run(&["terminal", "list"])).contains("phone-1"));
    let status = command::json(&dev.run(&["--json", "status"]));
    assert_eq!(status["links"], 0, "{status:#}");

    dev.node.signal(Signal::TERM);
    assert_eq!(dev.node.wait(), Some(0), "drained");
}

#[test]
fn a_listener_connects_again_by_itself_and_misses_nothing() {
    let dev = Dev::start();
    let listen = Running::start(dev.client(&["--json", "listen", "phone-1", "--count", "2"]));
    listen.err.until("listening, connected to");
    let push = |dev: &Dev, text: &str| dev.run(&["push", "--terminal", "phone-1", "--text", text]);
    assert_eq!(code(&push(&dev, "before")), 0);
    assert!(listen.out.next().contains("before"));
    let (http, terminals) = (dev.http.clone(), dev.terminals.clone());
    let keys = std::fs::read(dev.directory.path().join("clarion-data/dev/demo.json")).unwrap();
    let directory = dev.kill();
    listen.err.until("link is down");
    let address = |url: &str| url.split("//").nth(1).unwrap().to_owned();
    let dev = Dev::start_in(directory, &address(&http), &address(&terminals));
    assert_eq!(code(&push(&dev, "after")), 0, "the keys are the same as before");
    assert!(listen.out.next().contains("after"));
    let kept = std::fs::read(dev.directory.path().join("clarion-data/dev/demo.json")).unwrap();
    assert_eq!(keys, kept);
}

#[test]
fn what_the_node_refuses_is_4_with_its_code_and_hint() {
    let dev = Dev::start();
    let output = dev.run(&["terminal", "show", "nobody"]);
    assert_eq!(code(&output), 4);
    assert!(stderr(&output).contains("error: terminal_unknown"), "{}", stderr(&output));
    assert!(stderr(&output).contains("hint: "), "{}", stderr(&output));
    assert!(stderr(&output).contains("request id: "), "{}", stderr(&output));
    let push = |text: &str| dev.run(&["push", "--all", "--key", "k1", "--text", text]);
    assert_eq!(code(&push("one")), 0);
    assert_eq!(code(&push("one")), 0, "the same again");
    let output = push("another");
    assert_eq!(code(&output), 4);
    assert!(stderr(&output).contains("idempotency_mismatch"), "{}", stderr(&output));
    let wrong = dev.client(&["status"]).env("CLARION_ADMIN_TOKEN", "x".repeat(20)).output();
    assert_eq!(code(&wrong.unwrap()), 4);
}

#[test]
fn products_are_made_with_keys_that_work_and_can_be_revoked() {
    let dev = Dev::start();
    let created = dev.run(&["product", "create", "shop", "--save"]);
    assert_eq!(code(&created), 0, "{}", stderr(&created));
    let push = || dev.run(&["push", "--product", "shop", "--all", "--text", "x"]);
    assert_eq!(code(&push()), 0);
    assert!(!stdout(&created).contains("secret "), "a kept secret is not shown");
    let second = dev.run(&["product", "create", "shop"]);
    assert_eq!(code(&second), 4);
    let shown = command::json(&dev.run(&["--json", "product", "show", "shop"]));
    let old = shown["api_keys"][0]["key"].as_str().unwrap().to_owned();
    assert_eq!(code(&dev.run(&["product", "add-key", "shop", "--save"])), 0);
    assert_eq!(code(&dev.run(&["product", "revoke-key", "shop", &old])), 0);
    assert_eq!(code(&push()), 0, "the new key took its place");
    assert!(stdout(&dev.run(&["product", "list"])).contains("shop"));

    // A token made by the node, as this machine has no secret of the product.
    let bare = dev.directory.path().join("bare");
    std::fs::create_dir(&bare).unwrap();
    let token = std::fs::read_to_string(dev.directory.path().join("clarion-data/dev/admin-token"));
    let minted = dev
        .client(&["token", "t1", "--product", "shop"])
        .current_dir(&bare)
        .env("CLARION_ADMIN_TOKEN", token.unwrap())
        .output()
        .unwrap();
    assert_eq!(stdout(&minted).trim().split('.').count(), 3, "{}", stderr(&minted));
    let mut listen = dev.client(&["listen", "t1", "--product", "shop", "--count", "1"]);
    listen.current_dir(&bare).env("CLARION_TOKEN", stdout(&minted).trim());
    let mut listen = Running::start(listen);
    let to_t1 = ["push", "--product", "shop", "--terminal", "t1", "--text", "hi"];
    assert_eq!(code(&dev.run(&to_t1)), 0);
    assert_eq!(listen.wait(), Some(0));
}

#[test]
fn a_kicked_listener_ends_with_4_and_one_in_time_with_1() {
    let dev = Dev::start();
    let mut listen = Running::start(dev.client(&["listen", "phone-1"]));
    listen.err.until("listening, connected to");
    assert!(stdout(&dev.run(&["terminal", "kick", "phone-1"])).contains("is closed"));
    assert_eq!(listen.wait(), Some(4));
    assert!(listen.err.rest().iter().any(|line| line.contains("4201 kicked")));
    let none = dev.run(&["listen", "phone-2", "--count", "1", "--timeout", "0s"]);
    assert_eq!(code(&none), 1, "{}", stderr(&none));
}

/// A link that is up and never does anything.
fn silent_link(terminals: &str) -> TcpStream {
    let address = terminals.split("//").nth(1).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "GET /v1/link HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: clarion.v1.json\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    stream
}

struct Started {
    node: Running,
    http: String,
    terminals: String,
    _directory: tempfile::TempDir,
}

fn start(environment: &[(&str, &str)]) -> Started {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let file = config_in(directory.path(), &format!("[store]\npath = {data:?}"));
    let command = |arguments: &[&str]| {
        let mut command = clarion();
        command.args(arguments).arg(&file).env("CLARION_ADMIN_TOKEN", ADMIN_TOKEN);
        command.envs(environment.iter().copied());
        command
    };
    assert!(command(&["store", "init"]).output().unwrap().status.success());
    let node = Running::start(command(&["--json", "start"]));
    let ready: Value = serde_json::from_str(&node.out.next()).unwrap();
    let text = |field: &str| ready[field].as_str().unwrap().to_owned();
    let (http, terminals) = (text("http"), text("terminals"));
    Started { node, http, terminals, _directory: directory }
}

#[test]
fn a_second_signal_ends_a_drain_at_once_with_130() {
    // The link has minutes to open a session, and the drain minutes to wait for the link.
    let mut started = start(&[
        ("CLARION_NODE__DRAIN_TIMEOUT_MS", "600000"),
        ("CLARION_TERMINALS__OPEN_TIMEOUT_MS", "600000"),
        ("CLARION_LOG__FORMAT", "json"),
    ]);
    let _link = silent_link(&started.terminals);
    started.node.signal(Signal::TERM);
    let line: Value = serde_json::from_str(&started.node.err.until("draining")).unwrap();
    assert_eq!(line["signal"], "SIGTERM", "{line}");
    started.node.signal(Signal::INT);
    assert_eq!(started.node.wait(), Some(130));
}

#[test]
fn a_signal_after_an_operators_drain_is_the_first() {
    let mut started = start(&[
        ("CLARION_NODE__ID", "node-1"),
        ("CLARION_NODE__DRAIN_TIMEOUT_MS", "600000"),
        ("CLARION_TERMINALS__OPEN_TIMEOUT_MS", "600000"),
    ]);
    let link = silent_link(&started.terminals);
    let address = started.http.split("//").nth(1).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "POST /v1/cluster/nodes/node-1/drain HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Authorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    started.node.err.until("an operator asked for it");
    started.node.signal(Signal::TERM);
    started.node.err.until("draining already");
    drop(link);
    assert_eq!(started.node.wait(), Some(0));
}

#[test]
fn a_drain_ends_links_that_do_not_go_and_exits_with_0_in_time() {
    let mut started = start(&[("CLARION_NODE__DRAIN_TIMEOUT_MS", "1000")]);
    let mut link = silent_link(&started.terminals);
    started.node.signal(Signal::INT);
    let mut told = Vec::new();
    link.read_to_end(&mut told).unwrap();
    assert!(!told.is_empty(), "it was told before it was closed");
    assert_eq!(started.node.wait(), Some(0));
}

#[test]
fn metrics_are_prometheus_text_with_build_and_process() {
    let started = start(&[]);
    let address = started.http.split("//").nth(1).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for name in [
        "clarion_build_info{version=\"0.1.0\"",
        "clarion_process_cpu_seconds_total ",
        "clarion_process_resident_bytes ",
        "clarion_process_open_fds ",
    ] {
        assert!(answer.contains(name), "{name} is not in\n{answer}");
    }
}
