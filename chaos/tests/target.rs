//! A run against a cluster that somebody else has started: here a local one, broken by commands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "scenes/mod.rs"]
mod scenes;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use clarion_chaos::target::{EXAMPLE, TargetFile};
use clarion_chaos::workload::Doors;
use clarion_chaos::world::{World, WorldPlan};
use clarion_protocol::ProductId;
use clarion_sdk::Admin;
use rustix::process::{Pid, kill_process, test_kill_process};
use scenes::OrTold as _;

/// Only ends a test that hangs.
const DEADLINE: Duration = Duration::from_secs(240);
const TOKEN_VARIABLE: &str = "CLARION_TEST_ADMIN_TOKEN";
/// Times as short as a test wants them.
const QUICK: &str = "
[session]
heartbeat_min_ms = 1000
heartbeat_max_ms = 2000
heartbeat_grace_ms = 1000
[cluster]
quarantine_ms = 2000
[limits]
request_timeout_ms = 5000
";

fn chaos(arguments: &[&str], token: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clarion-chaos"));
    command.args(arguments).env(TOKEN_VARIABLE, token).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What it says, and its exit code.
fn said(output: &Output) -> (String, Option<i32>) {
    let all = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (String::from_utf8_lossy(&all).into_owned(), output.status.code())
}

fn with(directory: &Path, text: &str) -> String {
    let file = directory.join("target.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn the_example_is_understood_and_shown_without_touching_anything() {
    TargetFile::parse(EXAMPLE).unwrap();
    let (example, code) = said(&chaos(&["target", "--example"], "").output().unwrap());
    assert_eq!((example.as_str(), code), (EXAMPLE, Some(0)));
    let directory = tempfile::tempdir().unwrap();
    let file = with(directory.path(), EXAMPLE);
    let (text, code) = said(&chaos(&["--target", &file, "--dry-run"], "").output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    for line in [
        "would     node:node-1: SIGKILL, for 10 s",
        "  break   ssh node-1 'systemctl kill -s KILL clarion'",
        "  mend    ssh node-1 'systemctl start clarion'",
        "would     node:node-1: SIGSTOP, for 15 s",
        "skipped   node:node-2 cut_off: faults.allow has it not",
        "skipped   redis:0/0 hung: limits.never has it",
        "skipped   redis:0/0 killed: limits.never has it",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn what_is_not_to_be_done_is_refused_by_code() {
    let directory = tempfile::tempdir().unwrap();
    let confirm = ["--confirm", "staging"];
    let cases: [(&str, &str, &[&str], &str); 14] = [
        ("window = 64", "windows = 64", &confirm, "T01: "),
        ("[limits]", "[limit]", &confirm, "T01: "),
        ("allow = [\"killed\"", "allow = [\"emptied\"", &confirm, "T01: "),
        ("", "", &[], "T02: this breaks things in \"staging\": say `--confirm staging`"),
        ("", "", &["--confirm", "production"], "T02: the file is for \"staging\""),
        ("CLARION_ADMIN_TOKEN", "CLARION_TEST_NO_SUCH_VARIABLE", &confirm, "T03: "),
        ("wss://node-2", "https://node-2", &confirm, "T04: node-2: "),
        ("pushes_per_s = 50 ", "pushes_per_s = 60 ", &confirm, "T05: 60 pushes a second are 105"),
        ("terminals = 12 ", "terminals = 26 ", &confirm, "T05: 52 terminals"),
        ("name = \"node:node-2\"", "name = \"node-2\"", &confirm, "T06: \"node-2\""),
        ("never = [\"redis:0/0\"]", "never = [\"redis:0/1\"]", &confirm, "T06: limits.never"),
        (", for_s = 15", ", for_s = 21", &confirm, "T07: node:node-1 hung: for_s is 21"),
        ("broken_at_once = 1", "broken_at_once = 3", &confirm, "T08: limits.broken_at_once is 3"),
        ("allow = [\"killed\", \"hung\", \"restarted\"]", "allow = []", &confirm, "T09: "),
    ];
    for (from, to, arguments, error) in cases {
        assert!(EXAMPLE.contains(from), "{from}");
        let text = EXAMPLE.replacen(from, to, 1).replace("CLARION_ADMIN_TOKEN", TOKEN_VARIABLE);
        let file = with(directory.path(), &text);
        let all = [&["target", &file], arguments].concat();
        let (text, code) = said(&chaos(&all, "secret").output().unwrap());
        assert_eq!(code, Some(2), "{error}: {text}");
        assert!(text.starts_with(&format!("error {error}")), "{error}: {text}");
    }
    let no_mend =
        EXAMPLE.replacen(", mend = [\"ssh\", \"node-1\", \"systemctl start clarion\"]", "", 1);
    let error = TargetFile::parse(&no_mend).unwrap_err();
    assert_eq!(error.code(), "T07");
    assert!(error.to_string().contains("there is no `mend`"), "{error}");
}

/// Nodes that a script starts again have nobody else to end them.
struct Started(Vec<PathBuf>);

impl Drop for Started {
    fn drop(&mut self) {
        for file in &self.0 {
            if let Some(pid) = pid_in(file) {
                let _ = kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

fn pid_in(file: &Path) -> Option<Pid> {
    Pid::from_raw(std::fs::read_to_string(file).ok()?.trim().parse().ok()?)
}

/// Commands for a node: by its pid, and a script that starts it as it was started.
fn component(world: &mut World, name: &str, for_s: u64, directory: &Path) -> (String, PathBuf) {
    let node = world.node(name).or_told();
    let pid_file = directory.join(format!("{name}.pid"));
    std::fs::write(&pid_file, node.process().pid().unwrap().to_string()).unwrap();
    let spec = node.spec();
    let mut script = String::from("#!/bin/sh\n");
    let place = pid_file.display();
    // Nothing is done twice; one that was killed is there until its parent takes note of it.
    writeln!(script, "stat=/proc/$(cat {place})/stat").unwrap();
    writeln!(script, "[ -e $stat ] && ! grep -q ') Z ' $stat && exit 0").unwrap();
    for (variable, value) in &spec.environment {
        writeln!(script, "export {variable}='{value}'").unwrap();
    }
    let (program, config) = (spec.program.display(), node.config_file());
    let log = directory.join(format!("{name}-again.log"));
    writeln!(
        script,
        "setsid {program} start {} > {} 2>&1 < /dev/null &\necho $! > {place}",
        config.display(),
        log.display()
    )
    .unwrap();
    let start = directory.join(format!("start-{name}.sh"));
    std::fs::write(&start, script).unwrap();
    let signal = |signal: &str| format!("[\"sh\", \"-c\", \"kill -{signal} $(cat {place})\"]");
    let (kill, stop, wake) = (signal("KILL"), signal("STOP"), signal("CONT"));
    let start = start.display();
    let text = format!(
        "[[components]]\nname = \"node:{name}\"\n\
         killed = {{ break = {kill}, mend = [\"sh\", \"{start}\"], for_s = {for_s} }}\n\
         hung = {{ break = {stop}, mend = {wake}, for_s = {for_s} }}\n",
    );
    (text, pid_file)
}

fn file(world: &mut World, cluster: &str, for_s: u64, directory: &Path) -> (String, Vec<PathBuf>) {
    let mut text = format!(
        "[cluster]\nname = \"{cluster}\"\nadmin_token_env = \"{TOKEN_VARIABLE}\"\nheartbeat_ms = 2000\n\
         [load]\nprefix = \"chaos-test\"\nwarm_up = 200\n\
         [limits]\nminutes = 3\nbroken_at_once = 1\nbroken_s = 120\nnever = [\"node:node-3\"]\n\
         pushes_per_s = 100\nterminals = 24\n\
         [faults]\nallow = [\"killed\", \"hung\"]\n"
    );
    let doors = world.doors();
    for (http, terminals) in doors.http.iter().zip(&doors.terminals) {
        let (name, http, terminals) = (&http.name, &http.url, &terminals.url);
        write!(
            text,
            "[[doors]]\nname = \"{name}\"\nhttp = \"{http}\"\nterminals = \"{terminals}\"\n"
        )
        .unwrap();
    }
    let mut pids = Vec::new();
    for name in ["node-1", "node-3"] {
        let (part, pid) = component(world, name, for_s, directory);
        text += &part;
        pids.push(pid);
    }
    (text, pids)
}

/// Whether every node says that all three are there and well.
async fn all_see_all(doors: &Doors) -> bool {
    for door in &doors.http {
        let admin = Admin::new(&door.url, &doors.admin_token).unwrap();
        let Ok(state) = admin.cluster().await else { return false };
        let well = state.nodes.iter().filter(|node| node.reachable && !node.sick && !node.draining);
        if state.nodes.len() != 3 || well.count() != 3 {
            return false;
        }
    }
    true
}

async fn products(admin: &Admin) -> Vec<ProductId> {
    let page = admin.products(None, None).await.or_told();
    page.items.into_iter().map(|product| product.product).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_and_sigstop_of_a_running_cluster_by_commands_that_a_file_allows() {
    let directory = tempfile::tempdir().unwrap();
    let plan = WorldPlan { isolated: false, ..WorldPlan::named("three-nodes").or_told() };
    let plan = plan.common(QUICK).or_told();
    let mut world = World::build(plan, &directory.path().join("world")).await.or_told();
    let doors = world.doors();
    let admin = Admin::new(&world.node("node-2").or_told().http_url(), &doors.admin_token);
    let admin = admin.unwrap();
    let state = admin.cluster().await.or_told();
    let name = state.cluster.unwrap_or(state.node);
    let token = doors.admin_token.clone();

    // Another cluster's file.
    let (text, _) = file(&mut world, "elsewhere", 1, directory.path());
    let path = with(directory.path(), &text);
    let run = chaos(&["target", &path, "--confirm", "elsewhere"], &token).output().unwrap();
    let (text, code) = said(&run);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("error T10: the file is for \"elsewhere\""), "{text}");

    // Ctrl-C while something is broken.
    let (text, pids) = file(&mut world, &name, 120, directory.path());
    let _started = Started(pids.clone());
    let path = with(directory.path(), &text);
    let kept = directory.path().join("interrupted");
    let kept_at = kept.to_str().unwrap();
    let arguments = ["target", &path, "--confirm", &name, "--keep", kept_at];
    let child = chaos(&arguments, &token).spawn().unwrap();
    let killed = pid_in(&pids[0]).unwrap();
    let since = Instant::now();
    while test_kill_process(killed).is_ok() && !is_over(killed) {
        assert!(since.elapsed() < DEADLINE, "nothing is broken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(std::fs::read_to_string(kept.join("broken-now.txt")).unwrap().contains("node:node-1"));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (text, code) = said(&child.wait_with_output().unwrap());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("interrupted (SIGINT)"), "{text}");
    assert_eq!(std::fs::read_to_string(kept.join("broken-now.txt")).unwrap(), "", "{text}");
    let again = pid_in(&pids[0]).unwrap();
    assert!(again != killed && !is_over(again), "it is not mended: {text}");

    // A whole run, once the cluster is whole again.
    let until = Instant::now() + DEADLINE;
    while !all_see_all(&doors).await {
        assert!(Instant::now() < until, "not whole again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("for_s = 120", "for_s = 4").replace("minutes = 3", "minutes = 0.6");
    let path = with(directory.path(), &text);
    let kept = directory.path().join("kept");
    let arguments =
        ["target", &path, "--confirm", &name, "--seed", "1", "--keep", kept.to_str().unwrap()];
    let (text, code) = said(&chaos(&arguments, &token).output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    for line in [
        "skipped                node:node-3 killed: limits.never has it",
        "skipped                node:node-1 cut_off: the file has no commands for it",
        "breaking               node:node-1: SIGKILL",
        "breaking               node:node-1: SIGSTOP",
        "verdict                every promise was kept",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(kept.join("report.html").exists() && kept.join("history.jsonl").exists());

    // Nothing of it can be used any more.
    let ours: Vec<ProductId> = products(&admin).await;
    assert_eq!(ours.len(), 4, "{ours:?}");
    for product in ours {
        assert!(product.as_str().starts_with("chaos-test-"), "{product}");
        let info = admin.product(&product).await.or_told();
        assert!(info.api_keys.iter().all(|key| key.revoked_at_ms.is_some()), "{info:?}");
        assert!(info.token_keys.iter().all(|key| key.revoked_at_ms.is_some()), "{info:?}");
    }
    drop(world);
}

/// Whether it has ended, though nobody may have taken note of it.
fn is_over(pid: Pid) -> bool {
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let stat = std::fs::read_to_string(stat).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}
