//! A shell stands for the process.

use super::*;

fn shell(directory: &Path, script: &str) -> Process {
    Process::new("shell", "sh", &directory.join("log")).arguments(["-c", script])
}

fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

async fn until_state(pid: u32, wanted: Option<char>) {
    let look = async || match state(pid) {
        now if now == wanted => Ok(()),
        now => Err(LaunchError::new(format!("it is {now:?}"))),
    };
    crate::wait::until("the state", Duration::from_secs(20), look).await.unwrap();
}

#[tokio::test]
async fn it_is_stopped_continued_and_killed_by_its_id() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = shell(directory.path(), "exec sleep 600");
    assert!(process.must_run().is_err());
    process.start().unwrap();
    assert!(process.start().is_err(), "it runs already");
    let pid = process.pid().unwrap();
    process.signal(Signal::Stop).unwrap();
    until_state(pid, Some('T')).await;
    assert!(process.is_running(), "it hangs, but it is there");
    process.signal(Signal::Continue).unwrap();
    until_state(pid, Some('S')).await;
    process.kill().await.unwrap();
    assert_eq!(state(pid), None);
    assert!(process.signal(Signal::Stop).is_err());
}

#[tokio::test]
async fn it_is_gone_when_it_is_dropped_also_when_it_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = shell(directory.path(), "exec sleep 600");
    process.start().unwrap();
    let pid = process.pid().unwrap();
    process.signal(Signal::Stop).unwrap();
    drop(process);
    let look = async || match state(pid) {
        None | Some('Z') => Ok(()),
        now => Err(LaunchError::new(format!("it is {now:?}"))),
    };
    crate::wait::until("the end", Duration::from_secs(20), look).await.unwrap();
}

#[tokio::test]
async fn one_that_does_not_end_when_it_is_asked_to_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = shell(directory.path(), "exit 3");
    process.start().unwrap();
    let status = process.wait(Duration::from_secs(20)).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(3));
    let mut deaf = shell(directory.path(), "trap '' TERM; echo deaf; while :; do sleep 1; done");
    deaf.start().unwrap();
    let look = async || match deaf.log_tail(1).as_str() {
        "deaf" => Ok(()),
        other => Err(LaunchError::new(other)),
    };
    crate::wait::until("the trap", Duration::from_secs(20), look).await.unwrap();
    assert_eq!(deaf.terminate(Duration::from_millis(100)).await.unwrap(), None);
    assert!(!deaf.is_running());
}

#[tokio::test]
async fn an_error_quotes_the_end_of_the_log_and_a_restart_adds_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = shell(directory.path(), "echo out; echo \"said $WORD\" >&2; exit 1");
    for word in ["first", "second"] {
        process.set_environment("WORD", Some(word));
        process.start().unwrap();
        process.child.as_mut().unwrap().wait().await.unwrap();
        let error = process.must_run().unwrap_err().to_string();
        assert!(error.contains("shell ended by itself"), "{error}");
        assert!(error.contains(&format!("said {word}")), "{error}");
    }
    assert_eq!(process.log_tail(9).lines().count(), 4);
    assert_eq!(process.log_tail(1), "said second");
}

#[tokio::test]
async fn what_it_holds_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = shell(directory.path(), "exec sleep 600");
    process.start().unwrap();
    let held = process.resources().unwrap();
    assert!(held.rss_kib > 0 && held.threads == 1 && held.descriptors >= 3, "{held:?}");
    assert_eq!(held.sockets, 0);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    for program in ["clarion-is-not-called-so", "/clarion/is/not/here"] {
        let mut process = Process::new("it", program, &directory.path().join("log"));
        let error = process.start().unwrap_err().to_string();
        assert!(error.contains(program), "{error}");
    }
}
