//! What the tests of the command line share: the binary, a node of their own, and waiting for lines.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod up;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Only ends a test that hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The binary, without whatever is set where the tests run.
pub fn clarion() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clarion"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CLARION_") || name == "RUST_LOG" || name == "CARGO" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn run(directory: &Path, arguments: &[&str]) -> Output {
    clarion().current_dir(directory).args(arguments).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// The result of a command that must succeed, as JSON.
pub fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}\n{}", stdout(output), stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Lines of a child as they come.
pub struct Lines(Receiver<String>);

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, lines) = sync_channel(1024);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self(lines)
    }

    pub fn next(&self) -> String {
        self.0.recv_timeout(PATIENCE).expect("another line")
    }

    /// The first line that holds `text`.
    pub fn until(&self, text: &str) -> String {
        loop {
            let line = self.next();
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Every line up to the end of the stream.
    pub fn rest(&self) -> Vec<String> {
        self.0.iter().collect()
    }
}

/// A child that does not outlive its test.
pub struct Running {
    child: Child,
    pub out: Lines,
    pub err: Lines,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out: ChildStdout = child.stdout.take().unwrap();
        let err: ChildStderr = child.stderr.take().unwrap();
        Self { child, out: Lines::of(out), err: Lines::of(err) }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `clarion dev` in a directory of its own.
pub struct Dev {
    pub node: Running,
    pub directory: tempfile::TempDir,
    pub http: String,
    pub terminals: String,
}

impl Dev {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::start_in(directory, "127.0.0.1:0", "127.0.0.1:0")
    }

    pub fn start_in(directory: tempfile::TempDir, http: &str, terminals: &str) -> Self {
        let mut command = clarion();
        command.current_dir(directory.path());
        command.args(["--json", "dev", "--http", http, "--terminals", terminals]);
        let node = Running::start(command);
        let ready: Value = serde_json::from_str(&node.out.next()).unwrap();
        let text = |field: &str| ready[field].as_str().unwrap().to_owned();
        let (http, terminals) = (text("http"), text("terminals"));
        Self { node, directory, http, terminals }
    }

    /// A command of a client of this node.
    pub fn client(&self, arguments: &[&str]) -> Command {
        let mut command = clarion();
        command.current_dir(self.directory.path()).args(arguments);
        command.env("CLARION_SERVER", &self.http).env("CLARION_TERMINALS", &self.terminals);
        command
    }

    /// Runs a client of this node to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.client(arguments).output().unwrap()
    }

    /// Ends the node without a word and gives its directory back.
    pub fn kill(mut self) -> tempfile::TempDir {
        self.node.signal(Signal::KILL);
        self.node.wait();
        self.directory
    }
}

/// A config file with any free ports.
pub fn config_in(directory: &Path, more: &str) -> PathBuf {
    let file = directory.join("node.toml");
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[terminals]\nlisten = \"127.0.0.1:0\"\n{more}\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// A token that is long enough.
pub const ADMIN_TOKEN: &str = "an-admin-token-for-tests";
