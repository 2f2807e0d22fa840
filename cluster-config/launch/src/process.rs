//! One local process: started, signalled, restarted with the same command, killed when dropped, and
//! when the program that started it ends, however that ends.

mod starter;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::LaunchError;

/// Bytes of a log's end that are read to quote it.
const TAIL_BYTES: u64 = 16 * 1024;
/// Lines of a log's end that are quoted in errors.
const TAIL_LINES: usize = 20;

/// What can be sent to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Please end.
    Terminate,
    /// As Ctrl-C does.
    Interrupt,
    /// End at once; the process does not notice.
    Kill,
    /// Hang: it keeps its memory and sockets and does nothing.
    Stop,
    /// Go on after [`Signal::Stop`].
    Continue,
}

/// What a process holds, as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resources {
    /// Resident memory in KiB.
    pub rss_kib: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Those of them that are sockets.
    pub sockets: u64,
    /// Threads.
    pub threads: u64,
}

/// A process, running or not.
#[derive(Debug)]
pub struct Process {
    name: String,
    /// Program and arguments.
    command: Vec<OsString>,
    environment: Vec<(OsString, Option<OsString>)>,
    directory: Option<PathBuf>,
    log: PathBuf,
    /// The length that the log had before.
    log_before: u64,
    own_group: bool,
    child: Option<Child>,
}

impl Process {
    /// A process that is not started yet. What it prints is appended to `log`. `name` is what it
    /// is called in errors and in the combined log.
    #[must_use]
    pub fn new(name: &str, program: impl AsRef<OsStr>, log: &Path) -> Self {
        Self {
            name: name.to_owned(),
            command: vec![program.as_ref().to_owned()],
            environment: Vec::new(),
            directory: None,
            log: log.to_owned(),
            log_before: log.metadata().map_or(0, |file| file.len()),
            own_group: false,
            child: None,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Puts a command before it that runs it in its own place (`ip netns exec NAME`).
    #[must_use]
    pub fn entered_by<S: AsRef<OsStr>>(mut self, entry: impl IntoIterator<Item = S>) -> Self {
        self.command.splice(0..0, entry.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment, or takes it away.
    #[must_use]
    pub fn environment(mut self, name: &str, value: Option<&str>) -> Self {
        self.set_environment(name, value);
        self
    }

    /// The same for its next start.
    pub fn set_environment(&mut self, name: &str, value: Option<&str>) {
        let name = OsString::from(name);
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value.map(OsString::from)));
    }

    /// Replaces the program for its next start.
    pub fn set_program(&mut self, old: &Path, new: &Path) {
        for word in &mut self.command {
            if word == old.as_os_str() {
                new.as_os_str().clone_into(word);
            }
        }
    }

    /// The directory it runs in.
    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// Whether it has a process group of its own: then Ctrl-C in the terminal does not reach it,
    /// and who started it ends it in order.
    #[must_use]
    pub const fn own_group(mut self, own_group: bool) -> Self {
        self.own_group = own_group;
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file with what it prints.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The length that this file had before: what earlier runs in the same directory printed.
    #[must_use]
    pub const fn log_before(&self) -> u64 {
        self.log_before
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start(&mut self) -> Result<(), LaunchError> {
        let output = self.log_file()?;
        self.spawn(output.into())
    }

    /// Starts it with its standard output to be read by the caller.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start_with_output(&mut self) -> Result<Option<ChildStdout>, LaunchError> {
        self.spawn(Stdio::piped())?;
        Ok(self.child.as_mut().and_then(|child| child.stdout.take()))
    }

    fn spawn(&mut self, output: Stdio) -> Result<(), LaunchError> {
        if self.is_running() {
            return Err(LaunchError::new(format!("{} runs already", self.name)));
        }
        let mut command = self.to_command()?;
        command.stdout(output).stderr(self.log_file()?);
        let child = starter::start(command);
        self.child = Some(child.map_err(LaunchError::of(format!("cannot start {}", self.name)))?);
        Ok(())
    }

    /// Runs the same program with other arguments, in the same place and environment, to its end.
    ///
    /// # Errors
    /// When it cannot be started, or ends with an error.
    pub async fn run_once<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        program_at: usize,
    ) -> Result<(), LaunchError> {
        let mut other = Self {
            name: self.name.clone(),
            command: self.command.iter().take(program_at + 1).cloned().collect(),
            environment: self.environment.clone(),
            directory: self.directory.clone(),
            log: self.log.clone(),
            log_before: self.log_before,
            own_group: self.own_group,
            child: None,
        };
        other = other.arguments(arguments);
        let mut command = other.to_command()?;
        command.stdout(self.log_file()?).stderr(self.log_file()?);
        let mut child = starter::start(command).map_err(LaunchError::of(&self.name))?;
        let status = child.wait().await.map_err(LaunchError::of(&self.name))?;
        if status.success() { Ok(()) } else { Err(self.failure(&format!("ended with {status}"))) }
    }

    fn to_command(&self) -> Result<Command, LaunchError> {
        // What starts it for us would say so where nobody looks.
        let missing = self.command.first().filter(|program| !is_there(program));
        if let Some(program) = missing {
            let (name, program) = (&self.name, program.display());
            return Err(LaunchError::new(format!("cannot start {name}: there is no {program}")));
        }
        let bound = starter::bound();
        let mut words = bound.iter().chain(&self.command);
        let program = words.next().ok_or_else(|| LaunchError::new("there is no program"))?;
        let mut command = Command::new(program);
        command.args(words);
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if self.own_group {
            command.process_group(0);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    fn log_file(&self) -> Result<File, LaunchError> {
        let file = File::options().append(true).create(true).open(&self.log);
        file.map_err(LaunchError::of(format!("cannot write {}", self.log.display())))
    }

    /// Its process id; none when it does not run.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    /// Whether it runs (or hangs).
    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    /// How it ended; none while it runs. One that was never started counts as ended.
    fn ended(&mut self) -> Option<Option<ExitStatus>> {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(None)) => None,
            Some(Ok(Some(status))) => Some(Some(status)),
            Some(Err(_)) | None => Some(None),
        }
    }

    /// That it runs.
    ///
    /// # Errors
    /// When it does not; with the end of its log.
    pub fn must_run(&mut self) -> Result<(), LaunchError> {
        match self.ended() {
            None => Ok(()),
            Some(Some(status)) => Err(self.failure(&format!("ended by itself: {status}"))),
            Some(None) => Err(self.failure("is not started")),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<(), LaunchError> {
        use rustix::process::{Pid, Signal as Number, kill_process};
        let number = match signal {
            Signal::Terminate => Number::TERM,
            Signal::Interrupt => Number::INT,
            Signal::Kill => Number::KILL,
            Signal::Stop => Number::STOP,
            Signal::Continue => Number::CONT,
        };
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.ok_or_else(|| LaunchError::new(format!("{} does not run", self.name)))?;
        kill_process(pid, number).map_err(LaunchError::of(format!("cannot signal {}", self.name)))
    }

    /// Kills it (SIGKILL) and waits until it is gone. Nothing happens when it is gone already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn kill(&mut self) -> Result<(), LaunchError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().await.map_err(LaunchError::of(format!("cannot kill {}", self.name)))
    }

    /// Asks it to end (SIGTERM) and waits for that; kills it at the deadline. Says how it ended;
    /// none when it did not run or had to be killed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn terminate(
        &mut self,
        deadline: Duration,
    ) -> Result<Option<ExitStatus>, LaunchError> {
        if !self.is_running() {
            self.child = None;
            return Ok(None);
        }
        self.signal(Signal::Terminate)?;
        self.wait(deadline).await
    }

    /// Waits until it ends by itself; kills it at the deadline. As [`Process::terminate`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn wait(&mut self, deadline: Duration) -> Result<Option<ExitStatus>, LaunchError> {
        let Some(child) = self.child.as_mut() else { return Ok(None) };
        match timeout(deadline, child.wait()).await {
            Ok(ended) => {
                self.child = None;
                ended.map(Some).map_err(LaunchError::of(format!("cannot wait for {}", self.name)))
            }
            Err(_) => self.kill().await.map(|()| None),
        }
    }

    /// What it holds just now.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resources(&self) -> Result<Resources, LaunchError> {
        let gone = || LaunchError::new(format!("{} does not run", self.name));
        let place = PathBuf::from(format!("/proc/{}", self.pid().ok_or_else(gone)?));
        let status = std::fs::read_to_string(place.join("status"))
            .map_err(LaunchError::of(format!("cannot look at {}", self.name)))?;
        let figure = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let mut found = Resources {
            rss_kib: figure("VmRSS:"),
            threads: figure("Threads:"),
            ..Resources::default()
        };
        let open = std::fs::read_dir(place.join("fd"))
            .map_err(LaunchError::of(format!("cannot look at {}", self.name)))?;
        for entry in open.flatten() {
            found.descriptors += 1;
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            if target.to_string_lossy().starts_with("socket:") {
                found.sockets += 1;
            }
        }
        Ok(found)
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines).unwrap_or_default()
    }

    /// An error about it, with the end of its log.
    #[must_use]
    pub fn failure(&self, what: &str) -> LaunchError {
        let (name, log) = (&self.name, self.log.display());
        let tail = self.log_tail(TAIL_LINES);
        LaunchError::new(format!("{name} {what}; its log ({log}) ends:\n{tail}"))
    }
}

/// Whether there is such a program, here or where programs are looked for.
fn is_there(program: &OsStr) -> bool {
    let program = Path::new(program);
    if program.components().count() > 1 {
        return program.exists();
    }
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places).any(|place| place.join(program).exists())
}

fn tail(path: &Path, lines: usize) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}

#[cfg(test)]
mod tests;
