//! A node's wall clock, which can be set while it runs: `libfaketime` (Debian: faketime), loaded before
//! anything else. Time that only passes (`CLOCK_MONOTONIC`) stays true.

use std::path::{Path, PathBuf};

use crate::Failure;

/// Where Debian puts it: `/usr/lib/<machine>/faketime`.
const LIBRARIES: &str = "/usr/lib";
/// The one for programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// See the module.
#[derive(Debug, Clone)]
pub struct Clock {
    /// What is in it is read at every look at the clock.
    file: PathBuf,
}

impl Clock {
    /// A clock that goes as the machine's does; its setting is in a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(file: &Path) -> Result<Self, Failure> {
        let clock = Self { file: file.to_owned() };
        clock.step(0)?;
        Ok(clock)
    }

    /// It is so many seconds before the machine's from now on, or behind.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn step(&self, seconds: i64) -> Result<(), Failure> {
        self.set(&format!("{seconds:+}"))
    }

    fn set(&self, setting: &str) -> Result<(), Failure> {
        // Never seen half written.
        let next = self.file.with_extension("next");
        let written = std::fs::write(&next, format!("{setting}\n"));
        let written = written.and_then(|()| std::fs::rename(&next, &self.file));
        written.map_err(Failure::of("cannot set a clock"))
    }

    /// What a process has in its environment that is to have this clock.
    ///
    /// # Errors
    /// When the library is not installed.
    pub fn environment(&self) -> Result<Vec<(String, String)>, Failure> {
        let library = library()
            .ok_or_else(|| Failure::new("libfaketime must be installed (Debian: faketime)"))?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let of = |name: &str, value: String| (name.to_owned(), value);
        Ok(vec![
            of("LD_PRELOAD", text(&library)),
            of("FAKETIME_TIMESTAMP_FILE", text(&self.file)),
            of("FAKETIME_NO_CACHE", "1".to_owned()),
            of("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            of("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ])
    }
}

/// The library; none when it is not installed.
fn library() -> Option<PathBuf> {
    let mut machines = std::fs::read_dir(LIBRARIES).ok()?.flatten();
    machines.find_map(|entry| Some(entry.path().join(LIBRARY)).filter(|path| path.exists()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};

    #[test]
    fn the_wall_clock_steps_and_passing_time_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::create(&directory.path().join("clock")).unwrap();
        let script = "import sys, time\nfor _ in sys.stdin:\n  \
            print(time.time(), time.monotonic(), flush=True)";
        let mut python = Command::new("python3")
            .args(["-c", script])
            .envs(clock.environment().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = python.stdin.take().unwrap();
        let mut lines = BufReader::new(python.stdout.take().unwrap()).lines();
        let mut look = || -> (f64, f64) {
            input.write_all(b"\n").unwrap();
            let line = lines.next().unwrap().unwrap();
            let (wall, passing) = line.split_once(' ').unwrap();
            (wall.parse().unwrap(), passing.parse().unwrap())
        };
        let before = look();
        for step in [3600_i32, -7200, 0] {
            clock.step(step.into()).unwrap();
            let now = look();
            let passed = now.1 - before.1;
            assert!((0.0..60.0).contains(&passed), "{passed}");
            let off = now.0 - before.0 - passed - f64::from(step);
            assert!(off.abs() < 1.0, "{step}: off by {off}");
        }
        drop(input);
        python.wait().unwrap();
    }
}
