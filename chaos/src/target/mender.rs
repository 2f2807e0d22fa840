//! Who mends, whatever happens: what is about to be broken is noted down first, with the command that
//! mends it, and crossed out once that has succeeded. What a killed run left is in its file.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::sleep;

use super::command::{self, shown};
use crate::Failure;

/// What is broken now, in the directory of the run: a line each, the command that mends it last.
pub const BROKEN_FILE: &str = "broken-now.txt";
/// How often a mend is tried, and the pause between.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Mender {
    pending: Vec<Pending>,
    file: PathBuf,
    deadline: Duration,
}

#[derive(Debug, Clone)]
struct Pending {
    n: u32,
    what: String,
    mend: Vec<String>,
}

impl Mender {
    /// Nothing is broken yet.
    pub const fn new(file: PathBuf, deadline: Duration) -> Self {
        Self { pending: Vec::new(), file, deadline }
    }

    /// This is about to be broken.
    ///
    /// # Errors
    /// When that cannot be noted down: then it must not be.
    pub fn owes(&mut self, n: u32, what: String, mend: Vec<String>) -> Result<(), Failure> {
        self.pending.push(Pending { n, what, mend });
        let noted = self.note();
        if noted.is_err() {
            self.pending.pop();
        }
        noted
    }

    fn note(&self) -> Result<(), Failure> {
        let line =
            |Pending { what, mend, .. }: &Pending| format!("{what}; mend: {}\n", shown(mend));
        let text: String = self.pending.iter().map(line).collect();
        std::fs::write(&self.file, text).map_err(Failure::of("cannot note what is broken"))
    }

    /// Mends it.
    ///
    /// # Errors
    /// When its command fails again and again; it stays owed.
    pub async fn mend(&mut self, n: u32) -> Result<(), Failure> {
        let Some(place) = self.pending.iter().position(|pending| pending.n == n) else {
            return Ok(());
        };
        let Pending { what, mend, .. } = self.pending[place].clone();
        let mut tried = 0;
        loop {
            tried += 1;
            match command::run(&mend, self.deadline).await {
                Ok(()) => break,
                Err(failure) if tried == TRIES => {
                    let failure = failure.to_string();
                    loud(&what, &mend, &failure);
                    return Err(Failure::new(format!("{what} is not mended: {failure}")));
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
        self.pending.remove(place);
        self.note()
    }

    /// Mends everything that is owed; says what could not be.
    pub async fn mend_all(&mut self) -> Vec<String> {
        let mut complaints = Vec::new();
        let owed: Vec<u32> = self.pending.iter().rev().map(|pending| pending.n).collect();
        for n in owed {
            complaints.extend(self.mend(n).await.err().map(|failure| failure.to_string()));
        }
        // It was told; there is nothing more to do about it here.
        self.pending.clear();
        complaints
    }
}

impl Drop for Mender {
    /// Only where nobody came to mend: a panic.
    fn drop(&mut self) {
        for Pending { what, mend, .. } in self.pending.drain(..).rev() {
            let Some((program, arguments)) = mend.split_first() else { continue };
            let mut command = std::process::Command::new(program);
            let ended = command.args(arguments).stdin(Stdio::null()).status();
            if !ended.as_ref().is_ok_and(std::process::ExitStatus::success) {
                loud(&what, &mend, &format!("{ended:?}"));
            }
        }
    }
}

fn loud(what: &str, mend: &[String], why: &str) {
    eprintln!(
        "\n!!!! STILL BROKEN: {what}\n!!!! its mend failed: {why}\n!!!! run by hand:\n\n    {}\n",
        shown(mend)
    );
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn sh(text: String) -> Vec<String> {
        vec!["sh".to_owned(), "-c".to_owned(), text]
    }

    #[tokio::test]
    async fn what_is_owed_stands_in_a_file_until_it_is_mended() {
        let directory = TempDir::new().unwrap();
        let (file, done) = (directory.path().join(BROKEN_FILE), directory.path().join("done"));
        let mut mender = Mender::new(file.clone(), LONG);
        let mend = sh(format!("touch {}", done.display()));
        mender.owes(1, "node:a: SIGKILL".to_owned(), mend.clone()).unwrap();
        let noted = std::fs::read_to_string(&file).unwrap();
        assert!(noted.contains("node:a: SIGKILL") && noted.contains("touch"), "{noted}");
        mender.mend(1).await.unwrap();
        assert!(done.exists() && std::fs::read_to_string(&file).unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_mended_is_told_and_does_not_keep_the_rest_from_it() {
        let directory = TempDir::new().unwrap();
        let done = directory.path().join("done");
        let mut mender = Mender::new(directory.path().join(BROKEN_FILE), LONG);
        mender.owes(1, "a".to_owned(), sh(format!("touch {}", done.display()))).unwrap();
        mender.owes(2, "b".to_owned(), sh("exit 1".to_owned())).unwrap();
        let complaints = mender.mend_all().await;
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].contains("b is not mended"), "{complaints:?}");
        assert!(done.exists());
    }

    #[test]
    fn who_goes_without_a_word_mends_all_the_same() {
        let directory = TempDir::new().unwrap();
        let done = directory.path().join("done");
        let mut mender = Mender::new(directory.path().join(BROKEN_FILE), LONG);
        mender.owes(1, "a".to_owned(), sh(format!("touch {}", done.display()))).unwrap();
        drop(mender);
        assert!(done.exists());
    }
}
