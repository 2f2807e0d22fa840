//! The combined log of `clarion cluster up`: each line with the name of its process, each process in
//! a colour of its own where a person reads.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};

use clarion_launch::Cluster;
use clarion_launch::follow::LogFollower;

use crate::cli::output::Output;

/// Colours of names that can be told apart on dark and light ground (ANSI 3-bit, bright ones last).
const COLOURS: [u8; 10] = [32, 36, 35, 34, 33, 92, 96, 95, 94, 93];

/// How a Redis server marks what is worth a look.
const REDIS_WARNING: &str = " # ";

/// What has ended.
const RED: u8 = 31;

pub(super) struct CombinedLog {
    follower: LogFollower,
    /// In the order of their colours.
    names: Vec<String>,
    width: usize,
    coloured: bool,
    output: Output,
    /// Redis servers and sentinels: only their warnings are shown.
    quiet: BTreeSet<String>,
    /// Nodes whose end was told.
    ended: BTreeSet<String>,
}

impl CombinedLog {
    pub(super) fn of(cluster: &Cluster, output: Output) -> Self {
        let follower = cluster.follow_logs();
        let names: Vec<String> =
            cluster.processes().map(|process| process.name().to_owned()).collect();
        let talks = |name: &String| {
            name == "haproxy" || cluster.nodes.iter().any(|node| node.name() == name)
        };
        let quiet: BTreeSet<String> = names.iter().filter(|name| !talks(name)).cloned().collect();
        let mut log = Self {
            width: follower.name_width(),
            follower,
            names,
            quiet,
            // https://no-color.org
            coloured: std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            output,
            ended: BTreeSet::new(),
        };
        // How Redis started is of no interest: it did.
        let mut lines = log.follower.ready();
        lines.retain(|(name, _)| !log.quiet.contains(name));
        log.show(lines);
        log
    }

    /// Waits for new lines.
    pub(super) async fn next(&mut self) -> Vec<(String, String)> {
        tokio::select! {
            lines = self.follower.next() => lines,
            // So that ends are told although nobody writes.
            () = tokio::time::sleep(std::time::Duration::from_millis(500)) => Vec::new(),
        }
    }

    /// Shows lines on stderr; results for scripts have stdout for themselves.
    pub(super) fn show(&self, lines: Vec<(String, String)>) {
        let mut text = String::new();
        for (name, line) in lines {
            if self.quiet.contains(&name) && !line.contains(REDIS_WARNING) {
                continue;
            }
            text.push_str(&self.line(&name, &line));
        }
        // When stderr is gone nobody is left to tell.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Shows what is left in the logs.
    pub(super) fn show_rest(&mut self) {
        let lines = self.follower.ready();
        self.show(lines);
    }

    /// Tells once which nodes ended, and how they are started again.
    pub(super) fn show_ends(&mut self, cluster: &mut Cluster) {
        for node in &mut cluster.nodes {
            if node.process_mut().is_running() {
                self.ended.remove(node.name());
            } else if self.ended.insert(node.name().to_owned()) {
                let file = node.config_file();
                let text = format!(
                    "has ended; `clarion start {}` starts it again by hand",
                    file.display()
                );
                self.output.note(self.coloured_line(RED, node.name(), &text).trim_end());
            }
        }
    }

    fn line(&self, name: &str, line: &str) -> String {
        let at = self.names.iter().position(|known| known == name).unwrap_or(0);
        self.coloured_line(COLOURS[at % COLOURS.len()], name, line)
    }

    fn coloured_line(&self, colour: u8, name: &str, line: &str) -> String {
        let width = self.width;
        if self.coloured {
            format!("\x1b[{colour}m{name:width$} |\x1b[0m {line}\n")
        } else {
            format!("{name:width$} | {line}\n")
        }
    }
}
