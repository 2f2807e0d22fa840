//! A load process, as the driver has it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::plan::{Part, Plan, STATE_START, State, Wanted};
use crate::Failure;
use crate::history::{History, Name, Record};

/// Names the program whose subcommand `load` is the load, if it is not this one or beside it.
pub const PROGRAM_VARIABLE: &str = "CLARION_CHAOS_BIN";

/// The program and its hidden subcommand.
const PROGRAM: &str = "clarion-chaos";
const SUBCOMMAND: &str = "load";
/// Lines of its log that a failure quotes.
const TAIL_LINES: usize = 20;

/// A load process that runs until this is dropped.
#[derive(Debug)]
pub(super) struct LoadProcess {
    name: Name,
    pid: Option<u32>,
    wanted: watch::Sender<Wanted>,
    online: Vec<watch::Receiver<bool>>,
    stopped: watch::Receiver<bool>,
    connected: watch::Receiver<u64>,
    /// Why it is over.
    ended: watch::Receiver<Option<String>>,
    /// What talks with it; the process ends with that.
    _task: JoinSet<()>,
}

/// What it told, for those who wait for it.
struct Told {
    online: Vec<watch::Sender<bool>>,
    stopped: watch::Sender<bool>,
    connected: watch::Sender<u64>,
}

impl LoadProcess {
    /// Starts one. Its log is in `directory`.
    pub async fn start(
        plan: &Plan,
        history: &Arc<History>,
        directory: &Path,
    ) -> Result<Self, Failure> {
        let terminals = match &plan.part {
            Part::Terminals(terminals) => terminals.len(),
            Part::BackEnds { .. } | Part::Rough(_) => 0,
        };
        let log = directory.join(format!("{}.log", plan.by));
        let mut child = spawn(&log)?;
        let pid = child.id();
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::new("a load process has no pipes"));
        };
        let mut stdin = stdin;
        let plan_line = serde_json::to_string(plan).map_err(Failure::of("the plan"))?;
        write(&mut stdin, &plan_line).await.map_err(Failure::of("cannot start a load process"))?;
        let (online, are_online) = (0..terminals).map(|_| watch::channel(false)).unzip();
        let (wanted, to_tell) = watch::channel(Wanted::default());
        let (stopped, is_stopped) = watch::channel(false);
        let (connected, have_connected) = watch::channel(0);
        let (end, ended) = watch::channel(None);
        wanted.send_replace(Wanted { online: vec![false; terminals], ..Wanted::default() });
        let told = Told { online, stopped, connected };
        let (name, history) = (Name::clone(&plan.by), Arc::clone(history));
        let mut task = JoinSet::new();
        task.spawn(run(child, (stdin, stdout), to_tell, told, history, end, (name, log)));
        Ok(Self {
            name: Name::clone(&plan.by),
            pid,
            wanted,
            online: are_online,
            stopped: is_stopped,
            connected: have_connected,
            ended,
            _task: task,
        })
    }

    pub fn name(&self) -> &Name {
        &self.name
    }

    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Changes what is wanted of it; what it is told does not say again what it knows.
    pub fn want(&self, change: impl FnOnce(&mut Wanted)) {
        self.wanted.send_if_modified(|wanted| {
            let before = wanted.clone();
            change(wanted);
            *wanted != before
        });
    }

    /// Waits until each of its terminals is what it is to be.
    pub async fn settled(&self) -> Result<(), Failure> {
        let wanted = self.wanted.borrow().online.clone();
        for (wanted, online) in wanted.into_iter().zip(&self.online) {
            let mut online = online.clone();
            if online.wait_for(|is| *is == wanted).await.is_err() {
                return Err(self.ended().await);
            }
        }
        Ok(())
    }

    /// Waits until its back-ends have ended.
    pub async fn stopped(&self) -> Result<(), Failure> {
        let mut stopped = self.stopped.clone();
        match stopped.wait_for(|stopped| *stopped).await.is_ok() {
            true => Ok(()),
            false => Err(self.ended().await),
        }
    }

    /// How often its rough terminals have connected, to wait for more.
    pub fn connected(&self) -> watch::Receiver<u64> {
        self.connected.clone()
    }

    /// Waits until it is over, and says why that is. It was not to be.
    pub async fn ended(&self) -> Failure {
        let mut ended = self.ended.clone();
        let why = ended.wait_for(Option::is_some).await;
        let why = why.ok().and_then(|why| why.clone());
        Failure::new(why.unwrap_or_else(|| format!("{} ended", self.name)))
    }
}

fn spawn(log: &Path) -> Result<Child, Failure> {
    let program = program()?;
    let file = File::options().append(true).create(true).open(log);
    let file = file.map_err(Failure::of("cannot write the log of a load process"))?;
    let mut command = Command::new(&program);
    command.arg(SUBCOMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
    // Ctrl-C is for the driver, which ends it in turn; it ends with the driver in any case, as its
    // standard input does.
    command.process_group(0).kill_on_drop(true);
    command.spawn().map_err(Failure::of(&format!("cannot start {}", program.display())))
}

/// The program with the subcommand: this one, or, in tests, the one that was built beside them.
fn program() -> Result<PathBuf, Failure> {
    if let Some(named) = std::env::var_os(PROGRAM_VARIABLE) {
        return Ok(named.into());
    }
    let own = std::env::current_exe().map_err(Failure::of("cannot find the own program"))?;
    if own.file_stem().is_some_and(|name| name == PROGRAM) {
        return Ok(own);
    }
    let beside = own.ancestors().skip(1).take(2).map(|directory| directory.join(PROGRAM));
    let found = beside.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| {
        Failure::new(format!("no {PROGRAM} beside {}; build it first", own.display()))
    })
}

/// The life of a process: what it is told, and what it tells.
async fn run(
    mut child: Child,
    (mut stdin, stdout): (ChildStdin, ChildStdout),
    mut wanted: watch::Receiver<Wanted>,
    told: Told,
    history: Arc<History>,
    end: watch::Sender<Option<String>>,
    (name, log): (Name, PathBuf),
) {
    let tell = async {
        while wanted.changed().await.is_ok() {
            let now = wanted.borrow_and_update().clone();
            let Ok(line) = serde_json::to_string(&now) else { return };
            if write(&mut stdin, &line).await.is_err() {
                return std::future::pending().await;
            }
        }
    };
    let heard = tokio::select! {
        heard = read(stdout, &told, &history) => heard,
        // Nobody wants it any more.
        () = tell => {
            let _ = child.kill().await;
            return;
        }
    };
    // Its output is at its end, or cannot be understood: it is over either way.
    let status = match heard {
        Ok(()) => child.wait().await.map_or_else(|error| error.to_string(), |s| s.to_string()),
        Err(failure) => {
            let _ = child.kill().await;
            failure.to_string()
        }
    };
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    let place = log.display();
    end.send_replace(Some(format!("{name} ended: {status}; its log ({place}) ends:\n{tail}")));
}

/// Reads what a process tells, as fast as it comes: it never waits for its pipe.
async fn read(stdout: ChildStdout, told: &Told, history: &History) -> Result<(), Failure> {
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await.map_err(Failure::of("its output"))? {
        let bad = || Failure::new(format!("it told what is no record: {line}"));
        if line.starts_with(STATE_START) {
            told.state(serde_json::from_str(&line).map_err(|_| bad())?);
        } else {
            let record: Record = serde_json::from_str(&line).map_err(|_| bad())?;
            history.append(&record, &line);
        }
    }
    Ok(())
}

impl Told {
    fn state(&self, state: State) {
        match state {
            State::Online { place, online } => {
                if let Some(terminal) = self.online.get(place) {
                    terminal.send_replace(online);
                }
            }
            State::Stopped => {
                self.stopped.send_replace(true);
            }
            State::Rough { connected } => {
                self.connected.send_replace(connected);
            }
        }
    }
}

async fn write(stdin: &mut ChildStdin, line: &str) -> std::io::Result<()> {
    stdin.write_all(line.as_bytes()).await?;
    stdin.write_all(b"\n").await?;
    stdin.flush().await
}
