//! Processes end with the one that started them, also when that is killed and can end nobody.
//!
//! The kernel sends the signal when the *thread* that started a process ends, so all are started by one
//! thread that ends with the program.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;

/// util-linux; a program of this name elsewhere may know less.
const SETPRIV: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];

/// Our end may come between its start and its wish to hear of it: then it has another parent.
const UNLESS_ORPHANED: &str = "[ \"$PPID\" = \"$0\" ] || exit 1; exec \"$@\"";

/// Processes that wait to be started; each caller waits for its own.
const WAITING: usize = 16;

struct Order {
    command: Command,
    /// Looks after the process.
    runtime: Handle,
    reply: SyncSender<io::Result<Child>>,
}

/// The thread, once it runs.
static STARTER: Mutex<Option<SyncSender<Order>>> = Mutex::new(None);

/// Words before a command with which it is killed when this program ends. None where the system
/// cannot do that.
pub(super) fn bound() -> Vec<OsString> {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    let works = || {
        let mut command = std::process::Command::new(SETPRIV[0]);
        command.args(&SETPRIV[1..]).arg("true").stdin(Stdio::null());
        let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        ended.is_ok_and(|status| status.success())
    };
    if !*KNOWN.get_or_init(works) {
        return Vec::new();
    }
    let own = std::process::id().to_string();
    let shell = ["sh", "-c", UNLESS_ORPHANED, &own];
    SETPRIV.into_iter().chain(shell).map(OsString::from).collect()
}

/// Starts it; to be called within a runtime.
pub(super) fn start(command: Command) -> io::Result<Child> {
    let runtime = Handle::try_current().map_err(io::Error::other)?;
    let (reply, started) = sync_channel(1);
    let gone = |_| io::Error::other("the thread that starts processes has ended");
    starter()?.send(Order { command, runtime, reply }).map_err(|_| gone(()))?;
    started.recv().map_err(|_| gone(()))?
}

fn starter() -> io::Result<SyncSender<Order>> {
    let mut starter = STARTER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(orders) = &*starter {
        return Ok(orders.clone());
    }
    let (orders, waiting) = sync_channel::<Order>(WAITING);
    thread::Builder::new().name("starter".to_owned()).spawn(move || {
        for Order { mut command, runtime, reply } in waiting {
            let _within = runtime.enter();
            // Who asked may have gone; then the process goes, too.
            let _ = reply.send(command.spawn());
        }
    })?;
    *starter = Some(orders.clone());
    Ok(orders)
}
