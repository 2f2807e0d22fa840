//! Less of the machine for one process: descriptors, memory, time. Whatever it has it keeps.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, pidfd_send_signal, prlimit,
};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Failure;

/// Running and standing take turns of this length together.
const TURN: Duration = Duration::from_millis(40);
const MIB: u64 = 1024 * 1024;

/// A limit that was changed, and what it was before.
#[derive(Debug)]
pub(crate) struct Limited {
    pid: Pid,
    resource: Resource,
    before: Rlimit,
}

impl Limited {
    /// The process can open no more than it has open.
    pub fn descriptors(pid: u32) -> Result<Self, Failure> {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
        let open = open.map_err(Failure::of("cannot count descriptors"))?.count() as u64;
        // The limit is one above the highest number, of which there may be gaps: they are left.
        Self::set(pid, Resource::Nofile, open)
    }

    /// The process gets so much more address space and no more.
    pub fn memory(pid: u32, more_mib: u64) -> Result<Self, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        let status = status.map_err(Failure::of("cannot see how much memory it has"))?;
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
        let size = size.and_then(|size| size.split_whitespace().next()?.parse::<u64>().ok());
        Self::set(pid, Resource::As, size.unwrap_or(0) * 1024 + more_mib * MIB)
    }

    fn set(pid: u32, resource: Resource, current: u64) -> Result<Self, Failure> {
        let pid = pid_of(pid)?;
        let now = prlimit(Some(pid), resource, Rlimit { current: Some(current), maximum: None });
        // The hard limit may not be raised: then it stays what it is.
        let before = match now {
            Ok(before) => before,
            Err(_) => {
                let limit = Rlimit { current: Some(current), maximum: hard_limit(pid, resource) };
                prlimit(Some(pid), resource, limit).map_err(Failure::of("cannot set a limit"))?
            }
        };
        Ok(Self { pid, resource, before })
    }

    /// As it was. A process that ended meanwhile needs nothing.
    pub fn lift(self) {
        let _ = prlimit(Some(self.pid), self.resource, self.before);
    }
}

/// The hard limit as the kernel shows it; none is no limit.
fn hard_limit(pid: Pid, resource: Resource) -> Option<u64> {
    let name = match resource {
        Resource::Nofile => "Max open files",
        _ => "Max address space",
    };
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero()));
    let limits = limits.unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// A process that runs for a part of the time only, until this is dropped.
#[derive(Debug)]
pub(crate) struct Slowed {
    process: OwnedFd,
    // Ends with it.
    _turns: JoinSet<()>,
}

impl Slowed {
    /// It runs for so many of a hundred.
    pub fn start(pid: u32, percent: u8) -> Result<Self, Failure> {
        let open = || {
            pidfd_open(pid_of(pid)?, PidfdFlags::empty()).map_err(Failure::of("no such process"))
        };
        let (process, own) = (open()?, open()?);
        let runs = TURN.mul_f64(f64::from(percent.min(100)) / 100.0);
        let mut turns = JoinSet::new();
        turns.spawn(async move {
            while pidfd_send_signal(&own, Signal::STOP).is_ok() {
                sleep(TURN.saturating_sub(runs)).await;
                if pidfd_send_signal(&own, Signal::CONT).is_err() {
                    break;
                }
                sleep(runs).await;
            }
        });
        Ok(Self { process, _turns: turns })
    }

    /// It runs all the time again.
    pub fn stop(mut self) {
        self._turns.abort_all();
        // The turn may have ended while it stood.
        let _ = pidfd_send_signal(&self.process, Signal::CONT);
    }
}

fn pid_of(pid: u32) -> Result<Pid, Failure> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| Failure::new("no such process"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    fn python(script: &str) -> Child {
        let mut command = Command::new("python3");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Tells when it runs, waits for a line, tries, and says whether it could.
    fn tries(what: &str) -> String {
        format!(
            "import sys\nprint('here', flush=True)\nfor _ in (1, 2):\n  sys.stdin.readline()\n  \
             try:\n    {what}\n    print('could', flush=True)\n  \
             except (OSError, MemoryError): print('could not', flush=True)"
        )
    }

    struct Asked {
        child: Child,
        lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
    }

    impl Asked {
        fn start(what: &str) -> Self {
            use std::io::BufRead as _;
            let mut child = python(&tries(what));
            let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
            let mut asked = Self { child, lines };
            assert_eq!(asked.lines.next().unwrap().unwrap(), "here");
            asked
        }

        fn says(&mut self) -> String {
            use std::io::Write as _;
            self.child.stdin.as_mut().unwrap().write_all(b"now\n").unwrap();
            self.lines.next().unwrap().unwrap()
        }
    }

    #[test]
    fn a_process_without_descriptors_opens_nothing_until_the_limit_is_lifted() {
        let mut asked = Asked::start("[open('/dev/null') for _ in range(8)]");
        let limited = Limited::descriptors(asked.child.id()).unwrap();
        assert_eq!(asked.says(), "could not");
        limited.lift();
        assert_eq!(asked.says(), "could");
        asked.child.wait().unwrap();
    }

    #[test]
    fn a_process_gets_no_more_memory_until_the_limit_is_lifted() {
        let mut asked = Asked::start("bytearray(100 << 20)");
        let limited = Limited::memory(asked.child.id(), 8).unwrap();
        assert_eq!(asked.says(), "could not");
        limited.lift();
        assert_eq!(asked.says(), "could");
        asked.child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_slowed_process_gets_its_part_of_the_time() {
        let mut child = python("while True: pass");
        let ticks = |child: &Child| -> u64 {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            stat.rsplit_once(')').unwrap().1.split_whitespace().nth(11).unwrap().parse().unwrap()
        };
        let slowed = Slowed::start(child.id(), 25).unwrap();
        let before = ticks(&child);
        sleep(Duration::from_secs(1)).await;
        // A hundred ticks a second; one-sided, as others run beside it.
        let ran = ticks(&child) - before;
        assert!(ran < 60, "{ran}");
        slowed.stop();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
