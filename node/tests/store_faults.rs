//! Faults of the store, told by the node: a disk that is full, files that are damaged, data that
//! is gone. Never silent, and nothing that was accepted is missing afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::raw_link::RawLink;
use support::{Key, Node, wait_until};

/// A file system of a given size, in a mount namespace that a process of ours keeps: it is gone
/// with that process, however the test ends.
struct Disk {
    keeper: Child,
    path: PathBuf,
}

impl Disk {
    fn mount(path: &Path, mib: u64) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={mib}m clarion-test '{}' && echo mounted && exec cat",
            path.display()
        );
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        let mut keeper = command
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n", "a small file system could not be mounted (needs root)");
        Self { keeper, path: path.to_owned() }
    }

    /// What runs a command where the file system is mounted.
    fn entry(&self, directory: &Path) -> Vec<String> {
        let pid = self.keeper.id().to_string();
        let mut entry = vec!["nsenter".into(), "--target".into(), pid, "--mount".into()];
        if !rustix::process::geteuid().is_root() {
            entry.extend(["--user".into(), "--preserve-credentials".into()]);
        }
        entry.extend(["env".into(), "-C".into(), directory.display().to_string()]);
        entry
    }

    /// The place of a file of it, seen from here.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.path.strip_prefix("/").unwrap().join(name);
        Path::new("/proc").join(self.keeper.id().to_string()).join("root").join(path)
    }

    fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.file("")).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Takes space until so many bytes are free.
    fn fill(&self, leave_bytes: u64) {
        let mut file = std::fs::File::options();
        let mut file = file.create(true).append(true).open(self.file("filler")).unwrap();
        while self.free_bytes() > leave_bytes {
            let take = (self.free_bytes() - leave_bytes).min(1 << 20);
            if file.write_all(&vec![7; usize::try_from(take).unwrap()]).is_err() {
                return;
            }
        }
    }

    /// Gives it back.
    fn clear(&self) {
        std::fs::remove_file(self.file("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// A node whose store is on a small disk.
async fn node_on(mib: u64, free_bytes_min: u64) -> (Node, Disk) {
    let mut node = Node::prepare("");
    let disk = Disk::mount(&node.path("disk"), mib);
    let store = node.path("disk").join("store");
    let config = format!(
        "[store]\npath = \"{}\"\nfree_bytes_min = {free_bytes_min}\n[logs]\n\
         inbox_entries_max = 100000\ninbox_bytes_max = 100000000\n",
        store.display()
    );
    std::fs::write(node.path("node.toml"), config).unwrap();
    node.enter(disk.entry(node.directory.path()));
    let made = node.command(&["store", "init", "node.toml"]);
    assert!(made.status.success(), "{made:?}");
    node.boot();
    (node, disk)
}

/// Everything in the terminal's inbox, in order, acknowledged.
async fn read_all(node: &Node, key: &Key, count: usize) -> Vec<u64> {
    let token = node.token(key, json!({ "terminal": "phone-1" })).await;
    let mut link = RawLink::connect(node.terminals).await.unwrap();
    assert_eq!(link.open("demo", &token, &[]).await.unwrap()["t"], "opened");
    receive(&mut link, count).await
}

async fn receive(link: &mut RawLink, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let deliver = link.next("deliver").await.expect("the link");
        let messages = deliver["m"].as_array().unwrap();
        numbers.extend(messages.iter().map(|m| m["d"]["n"].as_u64().unwrap()));
        let last = &messages.last().unwrap()["o"];
        link.send_json(&json!({ "t": "ack", "s": 1, "a": [[deliver["l"], last]] })).await;
    }
    numbers
}

fn push(n: u64, bytes: usize) -> Value {
    let payload = json!({ "n": n, "text": "x".repeat(bytes) });
    json!({ "audience": { "terminals": ["phone-1"] }, "payload": payload })
}

#[tokio::test]
async fn a_disk_below_its_watermark_refuses_pushes_and_nothing_else() {
    const WATERMARK: u64 = 64 << 20;
    let (node, disk) = node_on(256, WATERMARK).await;
    let key = node.product("demo").await;
    let token = node.token(&key, json!({ "terminal": "phone-1" })).await;
    let mut link = RawLink::connect(node.terminals).await.unwrap();
    assert_eq!(link.open("demo", &token, &[]).await.unwrap()["t"], "opened");
    let known = node.token(&key, json!({ "terminal": "phone-2" })).await;
    let mut second = RawLink::connect(node.terminals).await.unwrap();
    assert_eq!(second.open("demo", &known, &[]).await.unwrap()["t"], "opened");
    drop(second);
    for n in 0..10 {
        node.push(&key, push(n, 100)).await;
    }
    assert_eq!(receive(&mut link, 10).await, (0..10).collect::<Vec<_>>());

    disk.fill(WATERMARK / 2);
    let mut accepted = 10;
    let mut refusal = None;
    wait_until("a push to be refused", async || {
        let reply = node.try_push(&key, push(accepted, 100)).await;
        if reply.status == 202 {
            accepted += 1;
            return false;
        }
        refusal = Some(reply);
        true
    })
    .await;
    let refusal = refusal.unwrap();
    assert_eq!((refusal.status, refusal.code()), (503, "store_full".to_owned()), "{refusal:?}");
    let retry_after: u64 = refusal.header("retry-after").unwrap().parse().unwrap();
    assert!(retry_after >= 1, "{refusal:?}");
    assert_eq!(refusal.json()["retryable"], true, "{refusal:?}");
    let many = json!({ "audience": { "topic": "news" }, "payload": 1 });
    assert_eq!(node.try_push(&key, many).await.code(), "store_full");

    let ready = async |door: &str| node.get(&format!("/readyz?door={door}")).await.status;
    wait_until("the push door to close", async || ready("push").await == 503).await;
    assert_eq!(ready("terminals").await, 200);
    assert_eq!(node.get("/livez").await.status, 200);
    let reason = node.get("/readyz?door=push").await.json()["doors"]["push"]["reason"].to_string();
    assert!(reason.contains("free"), "{reason}");

    // What was accepted is delivered, sessions live, and terminals that are known are let in; one
    // that is new would have to be remembered, and is told to come back.
    let late = usize::try_from(accepted).unwrap() - 10;
    assert_eq!(receive(&mut link, late).await, (10..accepted).collect::<Vec<_>>());
    link.send_json(&json!({ "t": "ping", "s": 0 })).await;
    assert!(link.next("pong").await.is_some());
    let mut second = RawLink::connect(node.terminals).await.unwrap();
    assert_eq!(second.open("demo", &known, &[]).await.unwrap()["t"], "opened");
    let new = node.token(&key, json!({ "terminal": "phone-3" })).await;
    let mut third = RawLink::connect(node.terminals).await.unwrap();
    let closed = third.open("demo", &new, &[]).await.unwrap();
    assert_eq!((&closed["reason"], &closed["reconnect"]), (&json!("store_away"), &json!(true)));

    disk.clear();
    wait_until("the push door to open", async || ready("push").await == 200).await;
    node.push(&key, push(accepted, 100)).await;
    assert_eq!(receive(&mut link, 1).await, [accepted]);
    let mut third = RawLink::connect(node.terminals).await.unwrap();
    assert_eq!(third.open("demo", &new, &[]).await.unwrap()["t"], "opened");
}

#[tokio::test]
async fn a_disk_without_a_byte_left_loses_nothing_that_was_accepted() {
    let (mut node, disk) = node_on(256, 0).await;
    let key = node.product("demo").await;
    disk.fill(0);
    let mut accepted = Vec::new();
    let mut outcomes = Vec::new();
    for n in 0..2000 {
        if !node.runs() {
            break;
        }
        // The process may end under the request: its outcome is unknown then.
        let (path, body) = (key.path("/messages"), push(n, 3000).to_string());
        let signature = key.sign("POST", &node.url(&path), Some(&body));
        let headers = [("authorization", signature.as_str())];
        let Some(reply) =
            support::http::try_send(node.http, "POST", &path, &headers, Some(&body)).await
        else {
            continue;
        };
        if reply.status == 202 {
            accepted.push(n);
        } else {
            assert!([500, 503, 504].contains(&reply.status), "{reply:?}");
            assert_eq!(reply.json()["retryable"], true, "{reply:?}");
            outcomes.push(reply.code());
            if outcomes.len() > 50 {
                break;
            }
        }
    }
    let ended = if node.runs() { "serves" } else { "ended" };
    println!("{} accepted, {} refused, the node {ended}", accepted.len(), outcomes.len());
    assert!(!node.runs() || !outcomes.is_empty(), "the disk did not fill up");
    disk.clear();
    if node.runs() {
        wait_until("pushes to be taken again", async || {
            node.get("/readyz?door=push").await.status == 200
        })
        .await;
    } else {
        // A store that failed ends the process, which says so; started again it is whole.
        assert_eq!(node.ended().await, Some(1));
        assert!(node.log().contains("the store failed"), "{}", node.log());
        node.boot();
    }
    node.push(&key, push(1_000_000, 10)).await;
    // Those whose outcome was unknown may be there, too.
    let mut read = Vec::new();
    let token = node.token(&key, json!({ "terminal": "phone-1" })).await;
    let mut link = RawLink::connect(node.terminals).await.unwrap();
    assert_eq!(link.open("demo", &token, &[]).await.unwrap()["t"], "opened");
    while read.last() != Some(&1_000_000) {
        read.extend(receive(&mut link, 1).await);
    }
    let missing: Vec<_> = accepted.iter().filter(|n| !read.contains(n)).collect();
    assert!(missing.is_empty(), "accepted and missing: {missing:?}");
    assert!(read.is_sorted(), "{read:?}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
    found.sort();
}

#[tokio::test]
async fn a_damaged_file_is_told_and_never_silent() {
    const PUSHES: u64 = 200;
    let mut node = Node::start("[terminals]\nopen_timeout_ms = 2000\n").await;
    let key = node.product("demo").await;
    for n in 0..PUSHES {
        node.push(&key, push(n, 500)).await;
    }
    assert_eq!(node.stop(), Some(0));
    let (store, sound) = (node.store_path(), node.path("sound"));
    copy(&store, &sound);
    let mut all = Vec::new();
    files(&store, &mut all);
    let mut told = Vec::new();
    for file in all {
        let bytes = std::fs::read(&file).unwrap();
        // Where there is something to damage: in the middle of what is not zero.
        let Some(end) = bytes.iter().rposition(|byte| *byte != 0) else { continue };
        let mut damaged = bytes.clone();
        damaged[end / 2] ^= 0x55;
        std::fs::write(&file, damaged).unwrap();
        let name = file.strip_prefix(&store).unwrap().display().to_string();
        std::fs::write(node.path("log"), "").unwrap();
        match node.try_boot() {
            Err(output) => {
                assert!(output.starts_with("exit status: 1"), "{name}: {output}");
                // An unknown format may as well be that of another version.
                let what = if name == "version" { "unknown here" } else { "is damaged" };
                assert!(output.contains(what), "{name}: {output}");
                let mend = "then run `clarion store restored node.toml`";
                assert!(name == "version" || output.contains(mend), "{name}: {output}");
                told.push(name);
            }
            // It did not matter: then everything is there.
            Ok(()) => {
                let count = usize::try_from(PUSHES).unwrap();
                let read = read_all(&node, &key, count).await;
                assert_eq!(read, (0..PUSHES).collect::<Vec<_>>(), "{name}");
                node.kill();
            }
        }
        std::fs::remove_dir_all(&store).unwrap();
        copy(&sound, &store);
    }
    assert!(told.iter().any(|name| name.ends_with(".jnl")), "only {told:?} were noticed");
    // The backup that was put back is put into service; terminals are told of another history (I5).
    assert!(node.command(&["store", "restored", "node.toml"]).status.success());
    node.boot();
    let count = usize::try_from(PUSHES).unwrap();
    assert_eq!(read_all(&node, &key, count).await, (0..PUSHES).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_node_without_a_store_stops_with_the_command_that_makes_one() {
    // I5: a missing lineage is never made anew by itself.
    let mut node = Node::prepare("");
    let refused = node.try_boot().unwrap_err();
    assert!(refused.starts_with("exit status: 1"), "{refused}");
    assert!(refused.contains("clarion store init node.toml"), "{refused}");
    assert!(!node.store_path().exists(), "nothing was made");

    assert!(node.command(&["store", "init", "node.toml"]).status.success());
    node.boot();
    let key = node.product("demo").await;
    node.push(&key, push(1, 10)).await;
    node.kill();
    let away = node.path("away");
    std::fs::rename(node.store_path(), &away).unwrap();
    let refused = node.try_boot().unwrap_err();
    assert!(refused.contains("clarion store init node.toml"), "{refused}");
    assert!(refused.contains("mounted"), "{refused}");
    std::fs::rename(&away, node.store_path()).unwrap();
    node.boot();
    assert_eq!(read_all(&node, &key, 1).await, [1]);
    let twice = node.command(&["store", "init", "node.toml"]);
    assert_eq!(twice.status.code(), Some(1), "a store is never made over another: {twice:?}");
}
