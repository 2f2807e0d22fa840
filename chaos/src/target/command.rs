//! Commands that somebody allowed. Each has a process group of its own: Ctrl-C is for us, and what it
//! started besides does not outlive it when it takes too long.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;
use tokio::time::timeout;

use crate::Failure;

/// Of what a command said a failure quotes so much.
const QUOTED_BYTES: usize = 2_000;

/// Runs it to its end.
///
/// # Errors
/// When it cannot be started, fails, or takes too long: then it is killed.
pub async fn run(words: &[String], deadline: Duration) -> Result<(), Failure> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| Failure::new("a command without words"))?;
    let failed = |what: String| Failure::new(format!("`{}` {what}", shown(words)));
    let mut command = Command::new(program);
    command.args(arguments).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| failed(format!("cannot be started: {error}")))?;
    let group = Group(child.id());
    let ended = timeout(deadline, child.wait_with_output()).await;
    let Ok(ended) = ended else {
        drop(group);
        return Err(failed(format!("took longer than {} s", deadline.as_secs())));
    };
    // It may have left something running on purpose.
    group.let_go();
    let output = ended.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said[said.len().saturating_sub(QUOTED_BYTES)..]);
    Err(failed(format!("ended with {}\n{}", output.status, said.trim())))
}

/// As one would type it.
pub fn shown(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    let word = |word: &String| match word.is_empty() || !word.chars().all(plain) {
        true => format!("'{}'", word.replace('\'', r"'\''")),
        false => word.clone(),
    };
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// A process group that is killed with this.
struct Group(Option<u32>);

impl Group {
    fn let_go(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        vec!["sh".to_owned(), "-c".to_owned(), text.to_owned()]
    }

    #[tokio::test]
    async fn a_command_that_fails_says_what_it_said() {
        let long = Duration::from_secs(60);
        run(&words("exit 0"), long).await.unwrap();
        let failure = run(&words("echo no room; exit 3"), long).await.unwrap_err().to_string();
        assert!(failure.contains("no room") && failure.contains('3'), "{failure}");
        let failure = run(&["/no/such".to_owned()], long).await.unwrap_err().to_string();
        assert!(failure.contains("cannot be started"), "{failure}");
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_killed_with_what_it_started() {
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("pid");
        let text = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let failure = run(&words(&text), Duration::from_secs(1)).await.unwrap_err();
        assert!(failure.to_string().contains("longer than 1 s"), "{failure}");
        let pid = std::fs::read_to_string(file).unwrap();
        let state = format!("/proc/{}/stat", pid.trim());
        let is_over = || {
            let stat = std::fs::read_to_string(&state).unwrap_or_default();
            // Nobody may have taken note of its end.
            stat.is_empty() || stat.contains(") Z ")
        };
        while !is_over() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn words_are_shown_as_one_types_them() {
        assert_eq!(shown(&words("it's so")), r"sh -c 'it'\''s so'");
    }
}
