//! `clarion cluster up` of a profile, and commands of clients of its nodes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::Pid;
use serde_json::Value;

use super::{Running, clarion};

/// A running cluster; what it started ends with it.
pub struct Up {
    pub process: Running,
    /// What it said when it was ready.
    pub ready: Value,
    pub directory: tempfile::TempDir,
}

impl Up {
    /// From the text of a profile.
    pub fn start(profile: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("two.toml");
        std::fs::write(&file, profile).unwrap();
        Self::of(directory, &file)
    }

    pub fn of(directory: tempfile::TempDir, profile: &Path) -> Self {
        let mut command = clarion();
        command.current_dir(directory.path()).args(["--json", "cluster", "up"]).arg(profile);
        command.args(["--dir", "run", "--port", "0"]);
        let process = Running::start(command);
        let ready = serde_json::from_str(&process.out.next()).unwrap();
        Self { process, ready, directory }
    }

    /// A command that talks to one of the nodes.
    pub fn run(&self, node: usize, arguments: &[&str]) -> Output {
        self.client(node, arguments).output().unwrap()
    }

    pub fn start_client(&self, node: usize, arguments: &[&str]) -> Running {
        Running::start(self.client(node, arguments))
    }

    pub fn client(&self, node: usize, arguments: &[&str]) -> Command {
        let server = self.ready["nodes"][node]["http"].as_str().unwrap();
        let credentials = self.ready["credentials"].as_str().unwrap();
        let mut command = clarion();
        command.current_dir(self.directory.path()).args(arguments);
        command.env("CLARION_SERVER", server).env("CLARION_CREDENTIALS", credentials);
        command
    }

    /// The config of one of the nodes.
    pub fn config(&self, node: usize) -> PathBuf {
        PathBuf::from(self.ready["nodes"][node]["config"].as_str().unwrap())
    }

    /// What `cluster.json` says of a process.
    pub fn pid_of(&self, name: &str) -> Pid {
        let file = self.directory.path().join("run/cluster.json");
        let state: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let processes = state["processes"].as_array().unwrap();
        let process = processes.iter().find(|process| process["name"] == name).unwrap();
        Pid::from_raw(i32::try_from(process["pid"].as_i64().unwrap()).unwrap()).unwrap()
    }
}
