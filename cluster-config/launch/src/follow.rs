//! The logs of several processes as one stream.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

/// The pause between two looks at the files.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Bytes that are read of a file at once; what is more comes with the next look.
const READ_BYTES_MAX: u64 = 256 * 1024;
/// A line longer than this is cut, bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Reads logs as they grow. A process that writes much is read in turn with the others; lines that
/// are not yet complete wait.
#[derive(Debug)]
pub struct LogFollower {
    files: Vec<Followed>,
}

#[derive(Debug)]
struct Followed {
    name: String,
    path: PathBuf,
    read: u64,
    /// The beginning of a line whose end is still to come.
    begun: Vec<u8>,
}

impl LogFollower {
    /// Follows each file from this length on.
    pub(crate) fn new<'a>(files: impl Iterator<Item = (&'a str, &'a Path, u64)>) -> Self {
        let files = files.map(|(name, path, from)| Followed {
            name: name.to_owned(),
            path: path.to_owned(),
            read: from,
            begun: Vec::new(),
        });
        Self { files: files.collect() }
    }

    /// The longest name, for whoever aligns them.
    #[must_use]
    pub fn name_width(&self) -> usize {
        self.files.iter().map(|file| file.name.len()).max().unwrap_or(0)
    }

    /// Waits for new lines: each with the name of its process. May be dropped while it waits.
    pub async fn next(&mut self) -> Vec<(String, String)> {
        loop {
            let lines = self.ready();
            if !lines.is_empty() {
                return lines;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The new lines that are there.
    pub fn ready(&mut self) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        for file in &mut self.files {
            // One that cannot be read now has nothing to tell.
            let _ = file.read(&mut lines);
        }
        lines
    }
}

impl Followed {
    fn read(&mut self, lines: &mut Vec<(String, String)>) -> std::io::Result<()> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        self.read += file.take(READ_BYTES_MAX).read_to_end(&mut bytes)? as u64;
        self.begun.append(&mut bytes);
        while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
            let rest = self.begun.split_off(end + 1);
            let line = std::mem::replace(&mut self.begun, rest);
            let line = String::from_utf8_lossy(&line[..end.min(LINE_BYTES_MAX)]).into_owned();
            lines.push((self.name.clone(), line));
        }
        if self.begun.len() > LINE_BYTES_MAX {
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.begun)).into_owned();
            lines.push((self.name.clone(), line));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_once_whole_and_with_their_name() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        let mut follower = LogFollower::new([("a", &*a, 0), ("bb", &*b, 0)].into_iter());
        assert_eq!(follower.name_width(), 2);
        assert_eq!(follower.ready(), []);
        std::fs::write(&a, "one\ntw").unwrap();
        std::fs::write(&b, "x\n").unwrap();
        let line = |name: &str, line: &str| (name.to_owned(), line.to_owned());
        assert_eq!(follower.ready(), [line("a", "one"), line("bb", "x")]);
        std::fs::write(&a, "one\ntwo\n").unwrap();
        assert_eq!(follower.ready(), [line("a", "two")]);
        assert_eq!(follower.ready(), []);
    }

    #[test]
    fn what_was_there_before_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "old\nnew\n").unwrap();
        let mut follower = LogFollower::new([("a", &*path, 4)].into_iter());
        assert_eq!(follower.ready(), [("a".to_owned(), "new".to_owned())]);
    }

    #[test]
    fn a_line_without_end_does_not_fill_memory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, vec![b'x'; 3 * LINE_BYTES_MAX]).unwrap();
        let mut follower = LogFollower::new([("a", &*path, 0)].into_iter());
        assert_eq!(follower.ready().len(), 1);
        assert!(follower.files[0].begun.is_empty());
    }
}
